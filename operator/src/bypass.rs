//! Ways past the gate: what lets an agent's own subject into a cluster without Sallyport.
//!
//! *RBAC*: bindings of the gate's own cluster. *EKS*: access entries of the agent's own IAM role, which the proxies look for because
//! they have AWS credentials, and ConfigMap `aws-auth`.
//!
//! The user `sallyport:agent:...` is bound on purpose: it is the ceiling. A binding of the ServiceAccount behind it, by name or by
//! a group, is a way past: the agent's pod can have a token that the API server accepts. What cannot be seen: which user
//! name the API server gives to an OIDC token, and whatever is not RBAC.

mod aws_auth;
mod bindings;
mod harmless;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crds::AgentIdentity;
use crds::agent_identity::EksAccessEntry;
use k8s_openapi::api::rbac::v1::{ClusterRole, Role};
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use tokio::time::Instant;

pub use aws_auth::{AwsAuth, List, Mapping};
pub use bindings::{Binding, BindingKey, Bindings, Holder, RoleRef};
use harmless::is_harmless;
pub use words::message;

use crate::index::{Key, key_of};

/// A role may be changed under a binding; so it is read again after this time.
const READ_AGAIN: Duration = Duration::from_secs(600);
/// Roles that are read for one identity; what is beyond counts as a way without being read.
const MOST_READ: usize = 200;

/// A binding that is a way past the gate.
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

/// Every way past the gate of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Bindings of its ServiceAccounts.
    pub bindings: Vec<Route>,
    /// Access entries of its roles.
    pub entries: Vec<EksAccessEntry>,
    /// What lets its roles in by `aws-auth`.
    pub mappings: Vec<Mapping>,
}

impl Ways {
    /// How many.
    pub fn count(&self) -> usize {
        self.bindings.len() + self.entries.len() + self.mappings.len()
    }

    /// Reason of the condition: the first kind that there is; none where there is no way.
    pub fn reason(&self) -> Option<Reason> {
        if !self.bindings.is_empty() {
            Some(Reason::RbacBinding)
        } else if !self.entries.is_empty() {
            Some(Reason::EksAccessEntry)
        } else if !self.mappings.is_empty() {
            Some(Reason::AwsAuthConfigMap)
        } else {
            None
        }
    }
}

/// Reasons of `BypassDetected`, in the order in which one is chosen where several kinds are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A binding of the cluster's RBAC.
    RbacBinding,
    /// An access entry.
    EksAccessEntry,
    /// A mapping of `aws-auth`.
    AwsAuthConfigMap,
}

impl Reason {
    const ALL: [Self; 3] = [Self::RbacBinding, Self::EksAccessEntry, Self::AwsAuthConfigMap];

    /// The word of the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::RbacBinding => "RBACBinding",
            Reason::EksAccessEntry => "EKSAccessEntry",
            Reason::AwsAuthConfigMap => "AWSAuthConfigMap",
        }
    }

    /// Of that word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What is known of each identity that has a way past the gate.
pub type Routes = BTreeMap<Key, Ways>;

/// Looks for ways past the gate, and remembers what roles give.
pub struct Finder {
    client: Client,
    bindings: Bindings,
    aws_auth: Option<AwsAuth>,
    roles: HashMap<(Option<String>, String), (Instant, bool)>,
}

impl Finder {
    /// Among what is watched. Without `aws_auth` nothing of AWS is looked at.
    pub fn new(client: Client, bindings: Bindings, aws_auth: Option<AwsAuth>) -> Self {
        Self { client, bindings, aws_auth, roles: HashMap::new() }
    }

    /// The ways past of each identity that has any; `None` while bindings or `aws-auth` are not known.
    pub async fn find(&mut self, identities: &[Arc<DeserializeGuard<AgentIdentity>>]) -> Option<Routes> {
        let now = Instant::now();
        self.roles.retain(|_, (read, _)| now.duration_since(*read) < READ_AGAIN);
        let mut routes = Routes::new();
        for identity in identities {
            let Ok(object) = &identity.0 else { continue };
            let (entries, mappings) = self.by_role(object)?;
            let spec = &object.spec;
            let accounts = spec.subjects.iter().filter_map(|subject| subject.service_account.as_ref());
            let accounts = accounts.map(|account| (account.namespace.clone(), account.name.clone()));
            let mut bindings = Vec::new();
            for route in self.bindings.of(&holders(accounts.collect()))? {
                if bindings.len() >= MOST_READ || !self.gives_nothing(&route, now).await {
                    bindings.push(route);
                }
            }
            let ways = Ways { bindings, entries, mappings };
            if ways.count() > 0 {
                routes.insert(key_of(identity), ways);
            }
        }
        Some(routes)
    }

    // What lets the identity's IAM roles into a cluster.
    fn by_role(&self, identity: &AgentIdentity) -> Option<(Vec<EksAccessEntry>, Vec<Mapping>)> {
        let Some(aws_auth) = &self.aws_auth else { return Some((Vec::new(), Vec::new())) };
        let named = identity.spec.subjects.iter().filter_map(|subject| subject.aws_iam_role.as_ref());
        let roles: Vec<String> = named.filter_map(|role| policy::aws::role(&role.arn)).collect();
        // Found for a generation of the identity that may have named other roles.
        let is_of_one = |entry: &&EksAccessEntry| {
            policy::aws::role(&entry.principal_arn).is_some_and(|role| roles.contains(&role))
        };
        let found = identity.status.iter().flat_map(|status| &status.access_entries);
        Some((found.filter(is_of_one).cloned().collect(), aws_auth.of(&roles)?))
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
