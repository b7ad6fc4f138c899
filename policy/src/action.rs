//! An act: what a request would do, in Kubernetes' own words, with nothing of HTTP left in it.

/// The Kubernetes request verb (KEP-less; `RequestInfo.Verb` of kube-apiserver). Connect subresources are always
/// [`Verb::Create`], whatever HTTP method or protocol carried them (P12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// Read one named object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection.
    Watch,
    /// Create an object, or use a connect subresource.
    Create,
    /// Replace an object.
    Update,
    /// Change an object.
    Patch,
    /// Delete one named object.
    Delete,
    /// Delete a collection.
    DeleteCollection,
}

impl Verb {
    /// Every verb, for tables and property tests.
    pub const ALL: [Verb; 8] = [
        Verb::Get,
        Verb::List,
        Verb::Watch,
        Verb::Create,
        Verb::Update,
        Verb::Patch,
        Verb::Delete,
        Verb::DeleteCollection,
    ];

    /// The word RBAC and the audit log use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }

    /// Whether the verb only reads. A dry run of a write is not a read (H6).
    pub const fn is_read(self) -> bool {
        matches!(self, Verb::Get | Verb::List | Verb::Watch)
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far a request reaches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A cluster-scoped kind. Rules name it `""`.
    Cluster,
    /// One namespace. For the kind `namespaces` itself, a named request reaches the namespace of that name, as
    /// `RequestInfo` has it.
    Namespace(String),
    /// A namespaced kind across all namespaces (`-A`).
    AllNamespaces,
}

/// A request to a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceAction {
    /// What is done.
    pub verb: Verb,
    /// API group; empty for core.
    pub group: String,
    /// API version, such as `v1`.
    pub version: String,
    /// Plural resource name, lower case.
    pub resource: String,
    /// Subresource, if the request names one.
    pub subresource: Option<String>,
    /// How far it reaches.
    pub scope: Scope,
    /// Object name. For list and watch only where exactly one `metadata.name` equality selects it (P13); never for
    /// deletecollection; none for a create with `generateName`.
    pub name: Option<String>,
    /// The server will not persist the effect (B99: only where the server itself will read it so).
    pub dry_run: bool,
    /// An update or patch that makes the object where there is none: a server-side apply, or an update of a few kinds,
    /// unless it names a uid. It is decided as both (B96).
    pub may_create: bool,
}

impl ResourceAction {
    /// The create that this act may turn out to be (B96).
    pub fn creation(&self) -> Option<ResourceAction> {
        let is_creation = self.may_create && matches!(self.verb, Verb::Update | Verb::Patch);
        is_creation.then(|| ResourceAction { verb: Verb::Create, may_create: false, ..self.clone() })
    }

    /// `pods` or `pods/log`, as rules write it.
    pub fn qualified_resource(&self) -> String {
        match &self.subresource {
            Some(sub) => format!("{}/{}", self.resource, sub),
            None => self.resource.clone(),
        }
    }

    /// `deployments.apps` or `pods`, as kubectl prints it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// To a resource of the Kubernetes API.
    Resource(ResourceAction),
    /// To a path outside it, such as `/version`. `verb` is the lower-case HTTP method.
    NonResource {
        /// Lower-case HTTP method.
        verb: String,
        /// Canonical path, without query.
        path: String,
    },
}

/// A word that is no request verb.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a request verb")]
pub struct UnknownVerb(pub String);

impl std::str::FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(word: &str) -> Result<Verb, UnknownVerb> {
        Verb::ALL.into_iter().find(|verb| verb.as_str() == word).ok_or_else(|| UnknownVerb(word.to_owned()))
    }
}
