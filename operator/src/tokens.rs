//! Which Secrets the proxy may read: the tokens that Static targets name, one by one, as Kubernetes itself enforces it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

const NAME: &str = crds::names::TOKENS_ROLE;
const FIELD_MANAGER: &str = crds::names::OPERATOR_SERVICE_ACCOUNT;

/// Namespace to the names of Secrets.
pub type Tokens = BTreeMap<String, BTreeSet<String>>;

/// A namespace in which the proxy's rights could not be written. The others are as they should be.
#[derive(Debug, thiserror::Error)]
#[error("the proxy's access to tokens in namespace `{namespace}`: {error}")]
pub struct TokensError {
    /// Where.
    pub namespace: String,
    /// What the API server said.
    #[source]
    pub error: kube::Error,
}

/// Keeps one Role and one RoleBinding in each namespace whose identities name a token.
pub struct Keeper {
    client: Client,
    /// Namespace of the proxy.
    proxies: String,
    /// Where this process has made sure of the RoleBinding.
    bound: BTreeSet<String>,
}

impl Keeper {
    /// For the proxy in the namespace `proxies`.
    pub fn new(client: Client, proxies: &str) -> Self {
        Self { client, proxies: proxies.to_owned(), bound: BTreeSet::new() }
    }

    /// Lets the proxy read what it may already read, and `wanted`: what must stand before new shards are published.
    ///
    /// # Errors
    /// The last namespace that failed.
    pub async fn widen(&mut self, seen: &[Arc<Role>], wanted: &Tokens) -> Result<(), TokensError> {
        let known = known(seen);
        let mut outcome = Ok(());
        for (namespace, secrets) in wanted {
            let held = known.get(namespace);
            let both = held.map_or_else(|| secrets.clone(), |held| held | secrets);
            let stands = held == Some(&both) && self.bound.contains(namespace);
            if !stands && let Err(error) = self.write(namespace, &both).await {
                outcome = Err(TokensError { namespace: namespace.clone(), error });
            }
        }
        outcome
    }

    /// Lets the proxy read `wanted` and no other Secret: what must stand after old shards are gone.
    ///
    /// # Errors
    /// The last namespace that failed.
    pub async fn narrow(&mut self, seen: &[Arc<Role>], wanted: &Tokens) -> Result<(), TokensError> {
        let mut outcome = Ok(());
        for (namespace, held) in &known(seen) {
            let done = match wanted.get(namespace) {
                Some(secrets) if secrets == held => Ok(()),
                Some(secrets) => self.write(namespace, secrets).await,
                None => self.remove(namespace).await,
            };
            if let Err(error) = done {
                outcome = Err(TokensError { namespace: namespace.clone(), error });
            }
        }
        outcome
    }

    async fn write(&mut self, namespace: &str, secrets: &BTreeSet<String>) -> Result<(), kube::Error> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let role = Api::<Role>::namespaced(self.client.clone(), namespace);
        role.patch(NAME, &params, &Patch::Apply(role_of(secrets))).await?;
        let binding = Api::<RoleBinding>::namespaced(self.client.clone(), namespace);
        binding.patch(NAME, &params, &Patch::Apply(binding_of(&self.proxies))).await?;
        self.bound.insert(namespace.to_owned());
        Ok(())
    }

    async fn remove(&mut self, namespace: &str) -> Result<(), kube::Error> {
        self.bound.remove(namespace);
        let params = DeleteParams::default();
        let binding = Api::<RoleBinding>::namespaced(self.client.clone(), namespace);
        let role = Api::<Role>::namespaced(self.client.clone(), namespace);
        gone(binding.delete(NAME, &params).await.map(drop))?;
        gone(role.delete(NAME, &params).await.map(drop))
    }
}

fn gone(deleted: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

fn labels() -> Value {
    json!({crds::names::LABEL_MANAGED_BY: crds::names::MANAGED_BY})
}

fn role_of(secrets: &BTreeSet<String>) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": NAME, "labels": labels()},
        "rules": [rule(secrets)],
    })
}

fn rule(secrets: &BTreeSet<String>) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["secrets".to_owned()]),
        resource_names: Some(secrets.iter().cloned().collect()),
        verbs: ["get", "list", "watch"].map(str::to_owned).to_vec(),
        ..PolicyRule::default()
    }
}

fn binding_of(proxies: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": NAME, "labels": labels()},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": crds::names::PROXY_SERVICE_ACCOUNT, "namespace": proxies}],
    })
}

/// What the Roles say. One that is not exactly ours holds nothing that is worth keeping, and is written anew.
fn known(seen: &[Arc<Role>]) -> Tokens {
    let secrets = |role: &Role| -> BTreeSet<String> {
        let rules = role.rules.as_deref().unwrap_or_default();
        let [only] = rules else { return BTreeSet::new() };
        let named: BTreeSet<String> = only.resource_names.iter().flatten().cloned().collect();
        if *only == rule(&named) { named } else { BTreeSet::new() }
    };
    seen.iter().map(|role| (role.namespace().unwrap_or_default(), secrets(role))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Vec<PolicyRule>) -> Arc<Role> {
        let mut role = Role { rules: Some(rules), ..Role::default() };
        role.metadata.namespace = Some("agents".to_owned());
        Arc::new(role)
    }

    #[test]
    fn a_role_reads_back_as_what_was_written_and_a_widened_one_as_nothing() {
        let secrets = BTreeSet::from(["edge-token".to_owned(), "other".to_owned()]);
        assert_eq!(known(&[role(vec![rule(&secrets)])])["agents"], secrets);
        let mut every = rule(&secrets);
        every.resource_names = None;
        let mut writes = rule(&secrets);
        writes.verbs.push("update".to_owned());
        for widened in [vec![rule(&secrets), every.clone()], vec![every], vec![writes], vec![]] {
            assert!(known(&[role(widened)])["agents"].is_empty());
        }
    }
}
