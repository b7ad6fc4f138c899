//! Status: what the operator says about an object, written only when it says something new.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crds::{Condition, ConditionStatus};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Map, Value, json};

use crate::telemetry::Metrics;

const FIELD_MANAGER: &str = crds::names::OPERATOR_SERVICE_ACCOUNT;
const AT_ONCE: usize = 8;

/// One condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Type of the condition.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

impl Said {
    /// It holds.
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: ConditionStatus::True, reason, message: message.into() }
    }

    /// It does not hold.
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: ConditionStatus::False, reason, message: message.into() }
    }

    /// Nobody knows yet.
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: ConditionStatus::Unknown, reason, message: message.into() }
    }
}

/// The part of a kind's status that the operator owns.
pub struct Owned {
    /// Kind, such as `AgentIdentity`.
    pub kind: &'static str,
    /// Plural, such as `agentidentities`.
    pub plural: &'static str,
    /// Fields of `status`, without `conditions`.
    pub fields: &'static [&'static str],
    /// Types of conditions.
    pub conditions: &'static [&'static str],
}

/// An object whose status may change.
pub struct Target {
    /// Namespace; none for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// Status as it is; null where it cannot be read.
    pub status: Value,
}

impl Target {
    /// An object with its status as JSON, where that can be read.
    pub fn of<K: kube::Resource>(object: &K, status: Option<Value>) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or(0),
            status: status.unwrap_or(Value::Null),
        }
    }
}

/// A status as JSON; an empty object where there is none yet.
pub fn as_json(status: &Option<impl serde::Serialize>) -> Value {
    let value = serde_json::to_value(status).unwrap_or_default();
    if value.is_null() { Value::Object(Map::new()) } else { value }
}

/// A status as it should be: the owned fields, and the conditions.
pub struct Wish {
    /// Owned fields but `conditions` and `observedGeneration`.
    pub fields: Map<String, Value>,
    /// Owned conditions.
    pub said: Vec<Said>,
}

/// Writes the statuses of one kind.
pub struct StatusWriter {
    client: Client,
    owned: Owned,
    resource: ApiResource,
    metrics: Arc<Metrics>,
    // What was written last, by uid: the watch may be behind.
    written: HashMap<String, Written>,
}

struct Written {
    version: u64,
    status: Value,
}

struct Change {
    target: Target,
    status: Value,
    turns: Vec<Turn>,
}

/// A condition that was written with another status or reason than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Namespace of the object; none for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Reason before; none where there was no such condition.
    pub before: Option<String>,
    /// The condition as it is now.
    pub now: Condition,
}

impl StatusWriter {
    /// For the kind that `owned` names.
    pub fn new(client: Client, owned: Owned, metrics: Arc<Metrics>) -> Self {
        let kind = GroupVersionKind::gvk(crds::names::GROUP, crds::names::VERSION, owned.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, owned.plural);
        Self { client, owned, resource, metrics, written: HashMap::new() }
    }

    /// Writes every status that differs, by server-side apply: fields and conditions of other writers stay. Returns
    /// what turned.
    ///
    /// # Errors
    /// The last write that failed; the others are done.
    pub async fn write(
        &mut self,
        wishes: Vec<(Target, Wish)>,
        now: Timestamp,
    ) -> Result<Vec<Turn>, kube::Error> {
        let uids: std::collections::HashSet<&str> =
            wishes.iter().map(|(target, _)| target.uid.as_str()).collect();
        self.written.retain(|uid, _| uids.contains(uid.as_str()));
        let changes: Vec<Change> =
            wishes.into_iter().filter_map(|(target, wish)| self.change(target, wish, now)).collect();
        let results: Vec<_> = stream::iter(changes.into_iter().map(|change| self.apply(change)))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut outcome = Ok(Vec::new());
        for result in results {
            match result {
                Ok(Some((uid, written, turned))) => {
                    self.metrics.status_writes.with_label_values(&[self.owned.plural]).inc();
                    self.written.insert(uid, written);
                    if let Ok(turns) = &mut outcome {
                        turns.extend(turned);
                    }
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    fn change(&self, mut target: Target, wish: Wish, now: Timestamp) -> Option<Change> {
        let newer = self.written.get(&target.uid).filter(|written| {
            target.status.is_null() || target.version.parse().is_ok_and(|seen: u64| seen < written.version)
        });
        if let Some(written) = newer {
            target.status = written.status.clone();
        }
        let before = own_conditions(&target.status, &self.owned);
        let conditions = settle(&before, wish.said, target.generation, now);
        let mut status = wish.fields;
        status.insert("observedGeneration".to_owned(), json!(target.generation));
        let fields_stand = status.iter().all(|(field, value)| target.status.get(field) == Some(value));
        let none_left_over = self
            .owned
            .fields
            .iter()
            .all(|field| status.contains_key(*field) || target.status.get(*field).is_none());
        if fields_stand && none_left_over && before == by_type(&conditions) {
            return None;
        }
        status.insert("conditions".to_owned(), json!(conditions));
        let turns = turns(&target, &before, conditions);
        Some(Change { target, status: Value::Object(status), turns })
    }

    // None where the object is gone.
    async fn apply(&self, change: Change) -> Result<Option<(String, Written, Vec<Turn>)>, kube::Error> {
        let Change { target, status, turns } = change;
        let api: Api<DynamicObject> = match &target.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &self.resource),
            None => Api::all_with(self.client.clone(), &self.resource),
        };
        let patch = json!({
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            // The uid makes the write fail where the object was made anew under the same name.
            "metadata": {"name": target.name, "uid": target.uid},
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&target.name, &params, &Patch::Apply(&patch)).await {
            Ok(object) => {
                let version = object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
                let status = object.data.get("status").cloned().unwrap_or_default();
                Ok(Some((target.uid, Written { version, status }, turns)))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn turns(target: &Target, before: &BTreeMap<String, Condition>, now: Vec<Condition>) -> Vec<Turn> {
    let turned = |condition: &Condition| {
        before
            .get(&condition.r#type)
            .is_none_or(|before| (before.status, &before.reason) != (condition.status, &condition.reason))
    };
    now.into_iter()
        .filter(turned)
        .map(|now| Turn {
            namespace: target.namespace.clone(),
            name: target.name.clone(),
            uid: target.uid.clone(),
            before: before.get(&now.r#type).map(|before| before.reason.clone()),
            now,
        })
        .collect()
}

fn own_conditions(status: &Value, owned: &Owned) -> BTreeMap<String, Condition> {
    let conditions = status.get("conditions").cloned().unwrap_or_default();
    let conditions: Vec<Condition> = serde_json::from_value(conditions).unwrap_or_default();
    let mut own = by_type(&conditions);
    own.retain(|kind, _| owned.conditions.contains(&kind.as_str()));
    own
}

fn by_type(conditions: &[Condition]) -> BTreeMap<String, Condition> {
    conditions.iter().map(|condition| (condition.r#type.clone(), condition.clone())).collect()
}

/// The conditions that `said` becomes: the transition time moves only where the status does.
pub fn settle(
    before: &BTreeMap<String, Condition>,
    said: Vec<Said>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let settle = |said: Said| {
        let since = before.get(said.kind).filter(|condition| condition.status == said.status);
        Condition {
            r#type: said.kind.to_owned(),
            status: said.status,
            observed_generation: Some(generation),
            last_transition_time: since
                .map_or(now.clone(), |condition| condition.last_transition_time.clone()),
            reason: said.reason.to_owned(),
            message: said.message,
        }
    };
    said.into_iter().map(settle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let (first, later) = (Timestamp::from_second(1_000).unwrap(), Timestamp::from_second(2_000).unwrap());
        let before =
            by_type(&settle(&BTreeMap::new(), vec![Said::no("Ready", "NotProgrammed", "")], 1, first));
        let same = settle(&before, vec![Said::no("Ready", "Suspended", "by hand")], 2, later);
        assert_eq!((same[0].last_transition_time.0, same[0].observed_generation), (first, Some(2)));
        assert_eq!(same[0].reason, "Suspended");
        let turned = settle(&before, vec![Said::yes("Ready", "Ready", "")], 2, later);
        assert_eq!(turned[0].last_transition_time.0, later);
    }
}
