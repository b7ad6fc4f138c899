//! AgentIdentities as the API server has them now: the kill switch works while the operator is down.
use std::collections::HashMap;
use std::sync::Arc;

use crds::agent_identity::EksAccessEntry;
use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::Live;

/// `namespace/name` of an AgentIdentity.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl AgentKey {
    /// Of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for AgentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the gate itself watches of an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The object's uid: a re-created identity is another one.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `spec.suspend`; whatever is not plainly `false` or absent counts as `true`.
    pub suspended: bool,
    /// The condition `TargetReachable`, as stored.
    pub reachable: Option<serde_json::Value>,
    /// The IAM roles of its subjects, in the form of [`policy::aws::role`].
    pub roles: Vec<String>,
    /// `status.accessEntries`, as stored.
    pub access_entries: Vec<EksAccessEntry>,
}

/// Every identity of the cluster by key.
pub type Identities = HashMap<AgentKey, Identity>;

/// The kind, without its schema: one object that does not decode must not blind the kill switch for all.
pub fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(crds::names::GROUP, crds::names::VERSION, "AgentIdentity");
    ApiResource::from_gvk_with_plural(&kind, "agentidentities")
}

/// Follows the identities for ever and tells `live` about every change.
pub async fn follow(client: Client, live: Live) {
    let resource = resource();
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let writer = reflector::store::Writer::new(resource);
    let store = writer.as_reader();
    let events = watcher(api, watcher::Config::default().any_semantic()).backoff(super::Patience::default());
    let mut events = reflector::reflector(writer, events).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                live.identities_are(read(&store));
            }
            Err(error) => tracing::warn!(%error, "the agent identities cannot be watched"),
        }
    }
}

fn read(store: &Store<DynamicObject>) -> Identities {
    store.state().iter().filter_map(|object| Some((key(object)?, identity(object)))).collect()
}

fn key(object: &Arc<DynamicObject>) -> Option<AgentKey> {
    Some(AgentKey::new(object.namespace()?, object.name_any()))
}

fn identity(object: &Arc<DynamicObject>) -> Identity {
    let suspend = object.data.pointer("/spec/suspend");
    let conditions = object.data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    let subjects = object.data.pointer("/spec/subjects").and_then(serde_json::Value::as_array);
    let arns = subjects.into_iter().flatten().filter_map(|one| one.pointer("/awsIAMRole/arn")?.as_str());
    let found = object.data.pointer("/status/accessEntries").cloned().unwrap_or_default();
    let is_reachable = |one: &&serde_json::Value| one["type"] == "TargetReachable";
    Identity {
        uid: object.uid().unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        suspended: suspend.is_some_and(|value| *value != serde_json::Value::Bool(false)),
        reachable: conditions.and_then(|all| all.iter().find(is_reachable)).cloned(),
        roles: arns.filter_map(policy::aws::role).collect(),
        access_entries: serde_json::from_value(found).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_plainly_false_suspends() {
        for (spec, expected) in [
            (serde_json::json!({}), false),
            (serde_json::json!({"suspend": false}), false),
            (serde_json::json!({"suspend": true}), true),
            (serde_json::json!({"suspend": "false"}), true),
            (serde_json::json!({"suspend": null}), true),
        ] {
            let mut object = DynamicObject::new("a", &resource());
            object.data = serde_json::json!({"spec": spec});
            assert_eq!(identity(&Arc::new(object)).suspended, expected, "{spec}");
        }
    }
}
