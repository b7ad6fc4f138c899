//! What the cluster serves: the fact that turns a path into a kind (P11).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Group, version and kind of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Kind, such as `Deployment`.
    pub kind: String,
}

impl Kind {
    /// `v1` or `apps/v1`, as `apiVersion` has it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// One subresource of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subresource {
    /// What its bodies are: `autoscaling/v1 Scale` for `deployments/scale`.
    pub kind: Kind,
    /// Verbs that the server offers.
    pub verbs: BTreeSet<String>,
}

/// One resource that the server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// What its objects are.
    pub kind: Kind,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Verbs that the server offers.
    pub verbs: BTreeSet<String>,
    /// Subresources by name.
    pub subresources: BTreeMap<String, Subresource>,
}

/// Everything that a cluster serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    resources: BTreeMap<(String, String, String), Resource>,
    stale: BTreeSet<(String, String)>,
}

/// Why a discovery document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Not an `APIGroupDiscoveryList`.
    #[error("the discovery document does not decode: {0}")]
    Decode(#[from] serde_json::Error),
    /// Another kind of document: the server does not speak aggregated discovery.
    #[error("the discovery document is a `{0}`, not an `APIGroupDiscoveryList`")]
    Kind(String),
}

impl Discovery {
    /// The `Accept` header that makes `/api` and `/apis` answer with an aggregated document.
    pub const ACCEPT: &'static str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

    /// Nothing is served.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what an aggregated discovery document (the answer of `/api` or `/apis`) says.
    ///
    /// # Errors
    /// If it is not such a document; nothing is added then.
    pub fn add(&mut self, document: &[u8]) -> Result<(), DiscoveryError> {
        let list: wire::GroupList = serde_json::from_slice(document)?;
        if list.kind != "APIGroupDiscoveryList" {
            return Err(DiscoveryError::Kind(list.kind));
        }
        for group in list.items {
            for version in group.versions {
                if version.freshness.as_deref() == Some("Stale") {
                    self.stale.insert((group.metadata.name.clone(), version.version.clone()));
                }
                for resource in version.resources {
                    let name = resource.resource.clone();
                    let read = resource.read(&group.metadata.name, &version.version);
                    self.insert(&group.metadata.name, &version.version, &name, read);
                }
            }
        }
        Ok(())
    }

    /// Adds or replaces one resource.
    pub fn insert(&mut self, group: &str, version: &str, resource: &str, facts: Resource) {
        self.resources.insert((group.to_owned(), version.to_owned(), resource.to_owned()), facts);
    }

    /// What the server offers under these names.
    pub fn resource(&self, group: &str, version: &str, resource: &str) -> Option<&Resource> {
        self.resources.get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
    }

    /// Every resource, with group, version and plural name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str, &Resource)> {
        self.resources.iter().map(|((g, v, r), facts)| (g.as_str(), v.as_str(), r.as_str(), facts))
    }

    /// Whether the server could not say what this version offers (an aggregated API that does not answer).
    pub fn is_stale(&self, group: &str, version: &str) -> bool {
        self.stale.contains(&(group.to_owned(), version.to_owned()))
    }

    /// Whether nothing is known at all.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

mod wire {
    use super::{BTreeMap, Deserialize, Kind};

    #[derive(Deserialize)]
    pub struct GroupList {
        pub kind: String,
        #[serde(default)]
        pub items: Vec<Group>,
    }

    #[derive(Deserialize)]
    pub struct Group {
        #[serde(default)]
        pub metadata: Metadata,
        #[serde(default)]
        pub versions: Vec<Version>,
    }

    #[derive(Default, Deserialize)]
    pub struct Metadata {
        #[serde(default)]
        pub name: String,
    }

    #[derive(Deserialize)]
    pub struct Version {
        pub version: String,
        #[serde(default)]
        pub resources: Vec<Resource>,
        #[serde(default)]
        pub freshness: Option<String>,
    }

    #[derive(Deserialize)]
    pub struct Resource {
        pub resource: String,
        #[serde(default, rename = "responseKind")]
        pub response_kind: Option<Named>,
        pub scope: String,
        #[serde(default)]
        pub verbs: Vec<String>,
        #[serde(default)]
        pub subresources: Vec<Subresource>,
    }

    #[derive(Deserialize)]
    pub struct Subresource {
        pub subresource: String,
        #[serde(default, rename = "responseKind")]
        pub response_kind: Option<Named>,
        #[serde(default)]
        pub verbs: Vec<String>,
    }

    #[derive(Deserialize)]
    pub struct Named {
        #[serde(default)]
        pub group: String,
        #[serde(default)]
        pub version: String,
        #[serde(default)]
        pub kind: String,
    }

    /// An empty group or version means that of the list.
    fn kind(named: Option<Named>, group: &str, version: &str) -> Kind {
        let or = |own: String, list: &str| if own.is_empty() { list.to_owned() } else { own };
        match named {
            None => Kind { group: group.to_owned(), version: version.to_owned(), kind: String::new() },
            Some(n) if n.version.is_empty() => {
                Kind { group: or(n.group, group), version: version.to_owned(), kind: n.kind }
            }
            Some(n) => Kind { group: n.group, version: n.version, kind: n.kind },
        }
    }

    impl Resource {
        pub fn read(self, group: &str, version: &str) -> super::Resource {
            let subresources = self.subresources.into_iter().map(|sub| {
                let facts = super::Subresource {
                    kind: kind(sub.response_kind, group, version),
                    verbs: sub.verbs.into_iter().collect(),
                };
                (sub.subresource, facts)
            });
            super::Resource {
                subresources: subresources.collect::<BTreeMap<_, _>>(),
                kind: kind(self.response_kind, group, version),
                namespaced: self.scope == "Namespaced",
                verbs: self.verbs.into_iter().collect(),
            }
        }
    }
}
