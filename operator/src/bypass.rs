//! Ways past the gate: bindings of the cluster's own RBAC that give an agent's subject something without Sallyport.
//!
//! The user `sallyport:agent:...` is bound on purpose: it is the ceiling. A binding of the ServiceAccount behind it, by name or by
//! a group, is a way past: the agent's pod can have a token that the API server accepts. What cannot be seen: which user
//! name the API server gives to an OIDC token, and whatever is not RBAC.

mod bindings;
mod harmless;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crds::AgentIdentity;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use tokio::time::Instant;

pub use bindings::{Binding, BindingKey, Bindings, Holder, RoleRef};
use harmless::is_harmless;
pub use words::message;

use crate::index::{Key, key_of};

/// A role may be changed under a binding; so it is read again after this time.
const READ_AGAIN: Duration = Duration::from_secs(600);
/// Roles that are read for one identity; what is beyond counts as a way without being read.
const MOST_READ: usize = 200;

/// One way past the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The binding.
    pub binding: BindingKey,
    /// What it gives.
    pub role: RoleRef,
    /// Where in its subjects the agent is meant, and how.
    pub holders: Vec<(usize, Holder)>,
    /// How many subjects it has.
    pub subjects: usize,
}

/// What is known of an identity.
pub type Routes = BTreeMap<Key, Vec<Route>>;

/// Looks for ways past the gate, and remembers what roles give.
pub struct Finder {
    client: Client,
    bindings: Bindings,
    roles: HashMap<(Option<String>, String), (Instant, bool)>,
}

impl Finder {
    /// Among what is watched.
    pub fn new(client: Client, bindings: Bindings) -> Self {
        Self { client, bindings, roles: HashMap::new() }
    }

    /// The ways past of each identity that has any; `None` while the bindings are not known.
    pub async fn find(&mut self, identities: &[Arc<DeserializeGuard<AgentIdentity>>]) -> Option<Routes> {
        let now = Instant::now();
        self.roles.retain(|_, (read, _)| now.duration_since(*read) < READ_AGAIN);
        let mut routes = Routes::new();
        for identity in identities {
            let Ok(spec) = identity.0.as_ref().map(|identity| &identity.spec) else { continue };
            let accounts = spec.subjects.iter().filter_map(|subject| subject.service_account.as_ref());
            let accounts = accounts.map(|account| (account.namespace.clone(), account.name.clone()));
            let mut found = Vec::new();
            for route in self.bindings.of(&holders(accounts.collect()))? {
                if found.len() >= MOST_READ || !self.gives_nothing(&route, now).await {
                    found.push(route);
                }
            }
            if !found.is_empty() {
                routes.insert(key_of(identity), found);
            }
        }
        Some(routes)
    }

    // A role that cannot be read may give anything; one that does not exist gives nothing.
    async fn gives_nothing(&mut self, route: &Route, now: Instant) -> bool {
        let namespace = if route.role.of_cluster { None } else { route.binding.namespace.clone() };
        let key = (namespace, route.role.name.clone());
        if let Some((_, harmless)) = self.roles.get(&key) {
            return *harmless;
        }
        let rules = match &key.0 {
            None => {
                let role = Api::<ClusterRole>::all(self.client.clone()).get_opt(&key.1).await;
                role.map(|role| role.and_then(|role| role.rules))
            }
            Some(namespace) => {
                let role = Api::<Role>::namespaced(self.client.clone(), namespace).get_opt(&key.1).await;
                role.map(|role| role.and_then(|role| role.rules))
            }
        };
        match rules {
            Ok(rules) => {
                let harmless = is_harmless(&rules.unwrap_or_default());
                self.roles.insert(key, (now, harmless));
                harmless
            }
            Err(error) => {
                tracing::warn!(%error, role = key.1, "a role cannot be read");
                false
            }
        }
    }
}

/// As whom the API server knows the bearer of a token of one of these ServiceAccounts; and nobody, who needs no token.
fn holders(accounts: BTreeSet<Key>) -> BTreeSet<Holder> {
    let group = |name: &str| Holder::Group(name.to_owned());
    let mut holders =
        BTreeSet::from([group("system:unauthenticated"), Holder::User("system:anonymous".to_owned())]);
    if !accounts.is_empty() {
        holders.extend([group("system:authenticated"), group("system:serviceaccounts")]);
    }
    for (namespace, name) in accounts {
        holders.insert(Holder::Group(format!("system:serviceaccounts:{namespace}")));
        holders.insert(Holder::User(format!("system:serviceaccount:{namespace}:{name}")));
        holders.insert(Holder::Account { namespace, name });
    }
    holders
}
