//! The boundary: whom the proxy may impersonate, as Kubernetes itself enforces it.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::PostParams;
use kube::{Api, Client};

const ATTEMPTS: usize = 5;

/// Users and groups that the proxy may become. The extra keys that go along stand in a ClusterRole of the chart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonable {
    /// User names of identities.
    pub users: BTreeSet<String>,
    /// Groups of identities.
    pub groups: BTreeSet<String>,
}

impl Impersonable {
    /// Both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { users: &self.users | &other.users, groups: &self.groups | &other.groups }
    }

    /// The ClusterRole's rules. Without identities there is no rule for users and groups at all: a rule with an empty
    /// `resourceNames` would allow every name.
    pub fn rules(&self) -> Vec<PolicyRule> {
        let impersonate = |(resource, names): (&str, &BTreeSet<String>)| PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec![resource.to_owned()]),
            resource_names: Some(names.iter().cloned().collect()),
            verbs: vec!["impersonate".to_owned()],
            ..PolicyRule::default()
        };
        let named = [("users", &self.users), ("groups", &self.groups)];
        named.into_iter().filter(|(_, names)| !names.is_empty()).map(impersonate).collect()
    }

    // What the rules say now; anything that we did not write so is not worth keeping.
    fn read(rules: &[PolicyRule]) -> Self {
        let names = |resource: &str| {
            rules
                .iter()
                .filter(|rule| rule.resources.as_deref() == Some(&[resource.to_owned()]))
                .flat_map(|rule| rule.resource_names.iter().flatten())
                .filter(|name| name.starts_with("sallyport:"))
                .cloned()
                .collect()
        };
        Self { users: names("users"), groups: names("groups") }
    }
}

/// What stops the boundary from being drawn.
#[derive(Debug, thiserror::Error)]
pub enum BoundaryError {
    /// The API server refused or could not be reached.
    #[error("cluster role `{name}`: {0}", name = crds::names::IMPERSONATOR_CLUSTER_ROLE)]
    Kube(#[from] kube::Error),
    /// The chart did not create it.
    #[error("cluster role `{}` does not exist", crds::names::IMPERSONATOR_CLUSTER_ROLE)]
    Missing,
    /// Other writers won every attempt.
    #[error(
        "cluster role `{}`: changed by others {ATTEMPTS} times in a row",
        crds::names::IMPERSONATOR_CLUSTER_ROLE
    )]
    Contended,
}

/// Lets the proxy become whom it may already become, and `wanted`: what must stand before new shards are published.
///
/// # Errors
/// [`BoundaryError`]; nothing may be published then.
pub async fn widen(client: &Client, seen: &[PolicyRule], wanted: &Impersonable) -> Result<(), BoundaryError> {
    draw(client, seen, |current| current.union(wanted)).await
}

/// Lets the proxy become `wanted` and nobody else: what must stand after old shards are gone.
///
/// # Errors
/// [`BoundaryError`]; the proxy may still become somebody who is gone.
pub async fn narrow(
    client: &Client,
    seen: &[PolicyRule],
    wanted: &Impersonable,
) -> Result<(), BoundaryError> {
    draw(client, seen, |_| wanted.clone()).await
}

// `seen` is what the watch last saw: where it is right already, nobody is asked.
async fn draw(
    client: &Client,
    seen: &[PolicyRule],
    choose: impl Fn(&Impersonable) -> Impersonable,
) -> Result<(), BoundaryError> {
    if choose(&Impersonable::read(seen)).rules() == seen {
        return Ok(());
    }
    let api: Api<ClusterRole> = Api::all(client.clone());
    let name = crds::names::IMPERSONATOR_CLUSTER_ROLE;
    for _ in 0..ATTEMPTS {
        let mut role = api.get_opt(name).await?.ok_or(BoundaryError::Missing)?;
        let current = role.rules.unwrap_or_default();
        let rules = choose(&Impersonable::read(&current)).rules();
        if rules == current {
            return Ok(());
        }
        role.rules = Some(rules);
        match api.replace(name, &PostParams::default(), &role).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(BoundaryError::Contended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(users: &[&str], groups: &[&str]) -> Impersonable {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Impersonable { users: set(users), groups: set(groups) }
    }

    #[test]
    fn rules_read_back_as_what_was_written() {
        let impersonable = of(&["sallyport:agent:a:x"], &["sallyport:agents", "sallyport:agents:a"]);
        assert_eq!(Impersonable::read(&impersonable.rules()), impersonable);
    }

    #[test]
    fn nobody_means_no_rule_rather_than_a_rule_for_everybody() {
        assert_eq!(of(&[], &[]).rules(), []);
        assert_eq!(of(&["sallyport:agent:a:x"], &[]).rules().len(), 1);
    }

    #[test]
    fn a_rule_that_somebody_widened_is_not_read_as_ours() {
        let widened = PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec!["users".into(), "groups".into()]),
            resource_names: Some(vec!["system:masters".into()]),
            verbs: vec!["impersonate".into()],
            ..PolicyRule::default()
        };
        assert_eq!(Impersonable::read(&[widened]), Impersonable::default());
    }
}
