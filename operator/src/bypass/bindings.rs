//! Bindings in memory: of each that may mean an agent, its name, its role and those of its subjects; nothing of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::Route;
use crate::watch::{Pace, lock};

/// A RoleBinding, or a ClusterRoleBinding, which has no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BindingKey {
    /// Namespace of a RoleBinding.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// What a binding gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// A ClusterRole, not a Role of the binding's namespace.
    pub of_cluster: bool,
    /// Its name.
    pub name: String,
}

/// Whom a subject of a binding means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A ServiceAccount.
    Account {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A user.
    User(String),
    /// A group.
    Group(String),
}

impl Holder {
    /// Of a subject that can mean a ServiceAccount, or nobody; none for all others, which are not kept.
    fn of(subject: &Subject) -> Option<Self> {
        let name = subject.name.clone();
        let of_service_accounts =
            |name: &str| name == "system:serviceaccounts" || name.starts_with("system:serviceaccounts:");
        match subject.kind.as_str() {
            "ServiceAccount" => {
                Some(Self::Account { namespace: subject.namespace.clone().unwrap_or_default(), name })
            }
            "User" if name.starts_with("system:serviceaccount:") || name == "system:anonymous" => {
                Some(Self::User(name))
            }
            "Group" if matches!(&*name, "system:authenticated" | "system:unauthenticated") => {
                Some(Self::Group(name))
            }
            "Group" if of_service_accounts(&name) => Some(Self::Group(name)),
            _ => None,
        }
    }
}

/// What is kept of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    role: RoleRef,
    holders: Vec<(usize, Holder)>,
    subjects: usize,
}

impl Binding {
    fn of(role: RoleRef, subjects: &[Subject]) -> Option<Self> {
        let of = |(at, subject): (usize, &Subject)| Some((at, Holder::of(subject)?));
        let holders: Vec<_> = subjects.iter().enumerate().filter_map(of).collect();
        (!holders.is_empty()).then_some(Self { role, holders, subjects: subjects.len() })
    }
}

/// The bindings that may mean an agent. Cloning shares them.
#[derive(Clone, Default)]
pub struct Bindings(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    bindings: BTreeMap<BindingKey, Binding>,
    by_holder: BTreeMap<Holder, BTreeSet<BindingKey>>,
    cluster_listed: bool,
    namespaces_listed: bool,
}

impl Known {
    /// Whether anything changed.
    fn put(&mut self, key: BindingKey, binding: Option<Binding>) -> bool {
        if self.bindings.get(&key) == binding.as_ref() {
            return false;
        }
        for (_, holder) in self.bindings.remove(&key).into_iter().flat_map(|before| before.holders) {
            if let Some(keys) = self.by_holder.get_mut(&holder) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.by_holder.remove(&holder);
                }
            }
        }
        if let Some(binding) = binding {
            for (_, holder) in &binding.holders {
                self.by_holder.entry(holder.clone()).or_default().insert(key.clone());
            }
            self.bindings.insert(key, binding);
        }
        true
    }
}

impl Bindings {
    /// The bindings that mean one of `holders`, by name; `None` before both kinds were listed once.
    pub fn of(&self, holders: &BTreeSet<Holder>) -> Option<Vec<Route>> {
        let known = lock(&self.0);
        if !(known.cluster_listed && known.namespaces_listed) {
            return None;
        }
        let keys: BTreeSet<&BindingKey> =
            holders.iter().filter_map(|holder| known.by_holder.get(holder)).flatten().collect();
        let route = |key: &BindingKey| {
            let binding = known.bindings.get(key)?;
            let meant = binding.holders.iter().filter(|(_, holder)| holders.contains(holder)).cloned();
            Some(Route {
                binding: key.clone(),
                role: binding.role.clone(),
                holders: meant.collect(),
                subjects: binding.subjects,
            })
        };
        Some(keys.into_iter().filter_map(route).collect())
    }

    /// Follows both kinds for ever, and rings where something changed that may matter.
    pub async fn follow(self, client: Client, bell: Arc<Notify>) {
        let cluster = self.clone().follow_kind(
            Api::<ClusterRoleBinding>::all(client.clone()),
            bell.clone(),
            |binding| {
                (
                    binding.role_ref.kind == "ClusterRole",
                    binding.role_ref.name.clone(),
                    binding.subjects.clone(),
                )
            },
            |known| &mut known.cluster_listed,
        );
        let namespaced = self.follow_kind(
            Api::<RoleBinding>::all(client),
            bell,
            |binding| {
                (
                    binding.role_ref.kind == "ClusterRole",
                    binding.role_ref.name.clone(),
                    binding.subjects.clone(),
                )
            },
            |known| &mut known.namespaces_listed,
        );
        tokio::join!(cluster, namespaced);
    }

    async fn follow_kind<K>(
        self,
        api: Api<K>,
        bell: Arc<Notify>,
        parts: impl Fn(&K) -> (bool, String, Option<Vec<Subject>>),
        listed: impl Fn(&mut Known) -> &mut bool,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let read = |object: &K| {
            let key = BindingKey { namespace: object.namespace(), name: object.name_any() };
            let (of_cluster, name, subjects) = parts(object);
            (key, Binding::of(RoleRef { of_cluster, name }, &subjects.unwrap_or_default()))
        };
        let mut arriving = BTreeSet::new();
        let mut events = pin!(watcher(api, watcher::Config::default()).backoff(Pace::default()));
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    tracing::warn!(%error, kind = %K::kind(&Default::default()), "watch interrupted");
                    continue;
                }
            };
            let mut known = lock(&self.0);
            let changed = match event {
                watcher::Event::Init => {
                    arriving.clear();
                    false
                }
                watcher::Event::InitApply(object) => {
                    let (key, binding) = read(&object);
                    if binding.is_some() {
                        arriving.insert(key.clone());
                    }
                    known.put(key, binding);
                    false
                }
                watcher::Event::InitDone => {
                    let kind = K::kind(&Default::default()).into_owned();
                    let is_gone = |key: &BindingKey| kind_of(key) == kind && !arriving.contains(key);
                    let gone: Vec<BindingKey> =
                        known.bindings.keys().filter(|&key| is_gone(key)).cloned().collect();
                    for key in gone {
                        known.put(key, None);
                    }
                    arriving.clear();
                    *listed(&mut known) = true;
                    true
                }
                watcher::Event::Apply(object) => {
                    let (key, binding) = read(&object);
                    known.put(key, binding)
                }
                watcher::Event::Delete(object) => known.put(read(&object).0, None),
            };
            drop(known);
            if changed {
                bell.notify_one();
            }
        }
    }
}

/// The kind of a binding.
pub fn kind_of(key: &BindingKey) -> &'static str {
    if key.namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(kind: &str, namespace: Option<&str>, name: &str) -> Subject {
        let namespace = namespace.map(str::to_owned);
        Subject { api_group: None, kind: kind.to_owned(), name: name.to_owned(), namespace }
    }

    fn binding(subjects: &[Subject]) -> Option<Binding> {
        Binding::of(RoleRef { of_cluster: true, name: "edit".to_owned() }, subjects)
    }

    fn key(namespace: Option<&str>, name: &str) -> BindingKey {
        BindingKey { namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn only_what_may_mean_an_agent_is_kept() {
        for (subject, kept) in [
            (subject("ServiceAccount", Some("agents"), "a"), true),
            (subject("User", None, "system:serviceaccount:agents:a"), true),
            (subject("User", None, "system:anonymous"), true),
            (subject("Group", None, "system:serviceaccounts"), true),
            (subject("Group", None, "system:serviceaccounts:agents"), true),
            (subject("Group", None, "system:authenticated"), true),
            (subject("Group", None, "system:unauthenticated"), true),
            (subject("User", None, "sallyport:agent:agents:a"), false),
            (subject("Group", None, "sallyport:agents"), false),
            (subject("User", None, "alice@example.com"), false),
            (subject("Group", None, "system:masters"), false),
        ] {
            assert_eq!(binding(std::slice::from_ref(&subject)).is_some(), kept, "{subject:?}");
        }
    }

    #[test]
    fn each_name_that_the_api_server_knows_an_account_by_finds_its_bindings() {
        let all = Bindings::default();
        {
            let mut known = lock(&all.0);
            let account = |name| subject("ServiceAccount", Some("agents"), name);
            known.put(key(Some("x"), "one"), binding(&[subject("User", None, "bob"), account("a")]));
            known.put(key(None, "two"), binding(&[subject("Group", None, "system:serviceaccounts:agents")]));
            known.put(key(None, "other"), binding(&[account("b")]));
            known.put(key(None, "gone"), binding(&[account("a")]));
            assert!(known.put(key(None, "gone"), None) && !known.put(key(None, "gone"), None));
        }
        let of = |name: &str| {
            let routes = all.of(&super::super::holders([("agents".to_owned(), name.to_owned())].into()));
            routes.map(|routes| routes.iter().map(|route| route.binding.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(of("a"), None, "nothing is concluded from a part of the world");
        lock(&all.0).cluster_listed = true;
        lock(&all.0).namespaces_listed = true;
        assert_eq!(of("a").unwrap_or_default(), ["two", "one"]);
        assert_eq!(of("b").unwrap_or_default(), ["other", "two"]);
        assert_eq!(lock(&all.0).by_holder.len(), 3, "nothing of the deleted one is left");
    }
}
