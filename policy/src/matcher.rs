//! One compiled match entry: does an act, or part of it, fall under it?

use crate::action::{Action, ResourceAction, Scope, Verb};

/// The request verbs that an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VerbSet(u8);

impl VerbSet {
    pub(crate) const ALL: VerbSet = VerbSet(u8::MAX);
    pub(crate) const NONE: VerbSet = VerbSet(0);

    const fn bit(verb: Verb) -> u8 {
        match verb {
            Verb::Get => 1,
            Verb::List => 1 << 1,
            Verb::Watch => 1 << 2,
            Verb::Create => 1 << 3,
            Verb::Update => 1 << 4,
            Verb::Patch => 1 << 5,
            Verb::Delete => 1 << 6,
            Verb::DeleteCollection => 1 << 7,
        }
    }

    pub(crate) const fn with(self, verb: Verb) -> VerbSet {
        VerbSet(self.0 | Self::bit(verb))
    }

    pub(crate) const fn contains(self, verb: Verb) -> bool {
        self.0 & Self::bit(verb) != 0
    }

    /// The verbs as rules write them.
    pub(crate) fn to_words(self) -> Vec<String> {
        if self == Self::ALL {
            return vec!["*".to_owned()];
        }
        Verb::ALL.into_iter().filter(|verb| self.contains(*verb)).map(|verb| verb.to_string()).collect()
    }

    const READS: u8 = Self::bit(Verb::Get) | Self::bit(Verb::List) | Self::bit(Verb::Watch);

    /// For masking: what one read shows every read shows, and every write answers with the object (B3).
    pub(crate) const fn widened_for_answers(self) -> VerbSet {
        if self.0 & Self::READS != 0 { VerbSet::ALL } else { self }
    }
}

/// Which scopes an entry names. `any` is an omitted field: every namespace and cluster scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    pub(crate) any: bool,
    pub(crate) cluster: bool,
    pub(crate) literals: Vec<Box<str>>,
    /// Trailing globs without their star; `*` alone is the empty prefix: every namespace, but not cluster scope.
    pub(crate) prefixes: Vec<Box<str>>,
}

impl Namespaces {
    /// The namespaces as rules write them; none for an omitted field.
    pub(crate) fn to_words(&self) -> Vec<String> {
        let literals = self.literals.iter().map(|literal| literal.to_string());
        let prefixes = self.prefixes.iter().map(|prefix| format!("{prefix}*"));
        self.cluster.then(String::new).into_iter().chain(literals).chain(prefixes).collect()
    }

    pub(crate) fn names(&self, namespace: &str) -> bool {
        self.literals.iter().any(|literal| &**literal == namespace)
            || self.prefixes.iter().any(|prefix| namespace.starts_with(&**prefix))
    }

    fn names_some(&self) -> bool {
        !self.literals.is_empty() || !self.prefixes.is_empty()
    }

    fn may(&self, reach: Reach<'_>) -> bool {
        self.any
            || (reach.cluster && self.cluster)
            || reach.namespace.is_some_and(|namespace| self.names(namespace))
            || (reach.all && self.names_some())
    }

    fn must(&self, reach: Reach<'_>) -> bool {
        if self.any {
            return true;
        }
        if reach.cluster {
            return self.cluster;
        }
        if reach.all {
            return self.prefixes.iter().any(|prefix| prefix.is_empty());
        }
        reach.namespace.is_some_and(|namespace| self.names(namespace))
    }
}

/// The scopes that a request touches. The object `namespaces/payments` is of a cluster-scoped kind *and* stands for
/// the namespace `payments`: a restrictive rule reaches it by either word, a permissive one only by `""`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    pub(crate) cluster: bool,
    pub(crate) namespace: Option<&'a str>,
    pub(crate) all: bool,
}

impl<'a> Reach<'a> {
    pub(crate) fn of(action: &'a ResourceAction) -> Reach<'a> {
        let is_namespace_object = action.group.is_empty() && action.resource == "namespaces";
        let mut reach = match &action.scope {
            Scope::Cluster => Reach { cluster: true, namespace: None, all: false },
            Scope::Namespace(name) => {
                Reach { cluster: is_namespace_object, namespace: Some(name), all: false }
            }
            Scope::AllNamespaces => Reach { cluster: is_namespace_object, namespace: None, all: true },
        };
        if is_namespace_object && reach.namespace.is_none() {
            reach.namespace = action.name.as_deref();
            // Listing namespaces touches no namespace's contents; an unnamed write may touch any.
            reach.all |= action.name.is_none() && !action.verb.is_read();
        }
        reach
    }
}

/// One word of `resources`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResourcePattern {
    /// `*`: everything, subresources included (as RBAC).
    Any,
    /// `pods` or `pods/log`.
    Exact { resource: Box<str>, subresource: Option<Box<str>> },
    /// `pods/*`: every subresource, not the resource itself.
    SubresourcesOf(Box<str>),
    /// `*/scale`: this subresource of every resource.
    SubresourceOfAny(Box<str>),
}

impl ResourcePattern {
    fn matches(&self, action: &ResourceAction) -> bool {
        match self {
            ResourcePattern::Any => true,
            ResourcePattern::Exact { resource, subresource } => {
                **resource == *action.resource && subresource.as_deref() == action.subresource.as_deref()
            }
            ResourcePattern::SubresourcesOf(resource) => {
                **resource == *action.resource && action.subresource.is_some()
            }
            ResourcePattern::SubresourceOfAny(subresource) => {
                action.subresource.as_deref() == Some(&**subresource)
            }
        }
    }

    /// The resource that every match has, if there is one.
    pub(crate) fn resource(&self) -> Option<&str> {
        match self {
            ResourcePattern::Exact { resource, .. } | ResourcePattern::SubresourcesOf(resource) => {
                Some(resource)
            }
            ResourcePattern::Any | ResourcePattern::SubresourceOfAny(_) => None,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        match self {
            ResourcePattern::Any => "*".to_owned(),
            ResourcePattern::Exact { resource, subresource: None } => resource.to_string(),
            ResourcePattern::Exact { resource, subresource: Some(subresource) } => {
                format!("{resource}/{subresource}")
            }
            ResourcePattern::SubresourcesOf(resource) => format!("{resource}/*"),
            ResourcePattern::SubresourceOfAny(subresource) => format!("*/{subresource}"),
        }
    }
}

/// What an entry is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resources {
        namespaces: Namespaces,
        /// `None` is `*`.
        groups: Option<Vec<Box<str>>>,
        resources: Vec<ResourcePattern>,
        /// `None` is every name.
        names: Option<Vec<Box<str>>>,
    },
    Paths {
        /// Lower-case HTTP methods; `None` is `*`.
        methods: Option<Vec<Box<str>>>,
        urls: Vec<UrlPattern>,
    },
}

/// One word of `nonResourceURLs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UrlPattern {
    Exact(Box<str>),
    /// Without the trailing star.
    Prefix(Box<str>),
}

impl UrlPattern {
    fn matches(&self, path: &str) -> bool {
        match self {
            UrlPattern::Exact(exact) => **exact == *path,
            UrlPattern::Prefix(prefix) => path.starts_with(&**prefix),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        match self {
            UrlPattern::Exact(exact) => exact.to_string(),
            UrlPattern::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

/// One compiled entry of `match`, `exclude` or a window's `rules`.
///
/// A request can touch more than one object, so an entry has two readings (the may/must rule): a restrictive rule
/// asks [`Matcher::may`], a permissive one [`Matcher::must`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    pub(crate) verbs: VerbSet,
    pub(crate) target: Target,
}

impl Matcher {
    /// Whether the act may touch something that this entry names.
    pub fn may(&self, action: &Action) -> bool {
        self.reads(action, Reading::May)
    }

    /// Whether everything that the act may touch is named by this entry.
    pub fn must(&self, action: &Action) -> bool {
        self.reads(action, Reading::Must)
    }

    /// Whether the answer to the act may hold an object that this entry names. Wider than [`Matcher::may`]: an entry
    /// for `pods` covers the answers of every subresource of `pods`, many of which answer with the pod itself.
    pub fn answers(&self, action: &Action) -> bool {
        self.reads(action, Reading::Answer)
    }

    /// Whether the entry names the act's group and resource in full, without `*`.
    pub(crate) fn names_literally(&self, action: &ResourceAction) -> bool {
        let Target::Resources { groups: Some(groups), resources, .. } = &self.target else { return false };
        groups.iter().any(|group| **group == *action.group)
            && resources
                .iter()
                .any(|pattern| matches!(pattern, ResourcePattern::Exact { .. }) && pattern.matches(action))
    }

    fn reads(&self, action: &Action, reading: Reading) -> bool {
        match (action, &self.target) {
            (Action::Resource(action), Target::Resources { namespaces, groups, resources, names }) => {
                self.verb(action.verb, reading)
                    && groups
                        .as_ref()
                        .is_none_or(|groups| groups.iter().any(|group| **group == *action.group))
                    && resources.iter().any(|pattern| Self::resource(pattern, action, reading))
                    && names.as_ref().is_none_or(|names| Self::name(names, action, reading))
                    && Self::scope(namespaces, action, reading)
            }
            (Action::NonResource { verb, path }, Target::Paths { methods, urls }) => {
                methods.as_ref().is_none_or(|methods| methods.iter().any(|method| **method == **verb))
                    && urls.iter().any(|url| url.matches(path))
            }
            (Action::Resource(_), Target::Paths { .. })
            | (Action::NonResource { .. }, Target::Resources { .. }) => false,
        }
    }

    fn verb(&self, verb: Verb, reading: Reading) -> bool {
        match reading {
            Reading::May | Reading::Must => self.verbs.contains(verb),
            Reading::Answer => self.verbs.widened_for_answers().contains(verb),
        }
    }

    fn resource(pattern: &ResourcePattern, action: &ResourceAction, reading: Reading) -> bool {
        pattern.matches(action)
            || (reading == Reading::Answer
                && pattern.resource().is_some_and(|resource| resource == action.resource))
    }

    /// A deletecollection never matches by a name, and a name that is not known may be any (P13, B97).
    fn name(names: &[Box<str>], action: &ResourceAction, reading: Reading) -> bool {
        let known = match action.verb {
            Verb::DeleteCollection => None,
            Verb::Get
            | Verb::List
            | Verb::Watch
            | Verb::Create
            | Verb::Update
            | Verb::Patch
            | Verb::Delete => action.name.as_deref(),
        };
        match known {
            Some(known) => names.iter().any(|name| **name == *known),
            None => reading != Reading::Must,
        }
    }

    fn scope(namespaces: &Namespaces, action: &ResourceAction, reading: Reading) -> bool {
        let reach = Reach::of(action);
        match reading {
            Reading::May | Reading::Answer => namespaces.may(reach),
            Reading::Must => namespaces.must(reach),
        }
    }

    /// The namespaces that a Deny takes out of a cluster-wide list or watch instead of refusing it (ruling on `-A`):
    /// only where the entry names namespaces literally and no object names.
    pub(crate) fn narrows(&self, action: &ResourceAction) -> Option<&[Box<str>]> {
        if action.scope != Scope::AllNamespaces || !matches!(action.verb, Verb::List | Verb::Watch) {
            return None;
        }
        match &self.target {
            Target::Resources { namespaces, names: None, .. }
                if !namespaces.any && namespaces.prefixes.is_empty() =>
            {
                Some(&namespaces.literals)
            }
            Target::Resources { .. } | Target::Paths { .. } => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    May,
    Must,
    Answer,
}
