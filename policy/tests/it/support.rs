//! Agents, bundles, acts and grants for tests, written as people write them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{AccessGrant, AccessPolicySpec, AgentIdentitySpec};
use jiff::Timestamp;
use policy::action::{Action, ResourceAction, Scope};
use policy::agent::Agent;
use policy::approve::{OpenWindow, ReviewFacts, open_window};
use policy::bundle::Bundle;
use policy::decision::Decision;
use policy::evaluate::{Facts, evaluate};
use policy::reviewers::Outsiders;
use policy::shard::{GUARDRAILS_NAME, Shard, ShardIdentity, ShardPolicy, agent_shard_name};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub const NAMESPACE: &str = "agents";
pub const NAME: &str = "claude-code";

pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    let value: Value = serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    from(value)
}

pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}\n{value}"))
}

/// A policy in a test file: a name and a spec; `agents` may be left out.
#[derive(Clone, Debug, Deserialize)]
pub struct PolicyText {
    pub name: String,
    #[serde(default = "one")]
    pub generation: i64,
    pub spec: Value,
}

fn one() -> i64 {
    1
}

impl PolicyText {
    pub fn spec(&self) -> AccessPolicySpec {
        let mut spec = self.spec.clone();
        if spec.get("agents").is_none() {
            spec["agents"] = json!([{"namespace": NAMESPACE}]);
        }
        from(spec)
    }

    pub fn publish(&self) -> ShardPolicy {
        let (entry, _) = ShardPolicy::publish(&self.name, "uid", self.generation, &self.spec(), None);
        entry.expect("a policy in mode Enforce is always published")
    }
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn now() -> Timestamp {
    time("2026-11-20T14:30:00Z")
}

pub fn identity_spec() -> AgentIdentitySpec {
    from(json!({
        "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                      "serviceAccount": {"namespace": NAMESPACE, "name": NAME}}],
        "target": {"type": "InCluster"},
    }))
}

pub fn identity(name: &str, spec: AgentIdentitySpec) -> ShardIdentity {
    let labels = BTreeMap::from([("team".to_owned(), "payments".to_owned())]);
    ShardIdentity::new(NAMESPACE, name, &format!("uid-{name}"), 1, labels, spec).unwrap()
}

pub fn shard(identity: Option<ShardIdentity>, policies: Vec<ShardPolicy>) -> String {
    Shard { format_version: 1, identity, policies }.encode().unwrap()
}

/// Shards of one agent, the policies sorted into them as the operator does it.
pub fn shards(identity: ShardIdentity, policies: Vec<ShardPolicy>) -> BTreeMap<String, String> {
    let (guardrails, own): (Vec<_>, Vec<_>) = policies.into_iter().partition(ShardPolicy::is_guardrail);
    let selected =
        own.into_iter().filter(|p| p.selects(&identity.namespace, &identity.name, &identity.labels));
    BTreeMap::from([
        (
            agent_shard_name(&identity.namespace, &identity.name),
            shard(Some(identity.clone()), selected.collect()),
        ),
        (GUARDRAILS_NAME.to_owned(), shard(None, guardrails)),
    ])
}

pub fn agent_with(policies: Vec<ShardPolicy>) -> Arc<Agent> {
    agent_of(identity(NAME, identity_spec()), policies)
}

pub fn agent_of(identity: ShardIdentity, policies: Vec<ShardPolicy>) -> Arc<Agent> {
    let name = identity.name.clone();
    let bundle = Bundle::load(&shards(identity, policies), None).unwrap();
    Arc::clone(bundle.agent(NAMESPACE, &name).unwrap())
}

pub fn agent(policies: &[PolicyText]) -> Arc<Agent> {
    agent_with(policies.iter().map(PolicyText::publish).collect())
}

pub fn agent_from_yaml(policies: &str) -> Arc<Agent> {
    agent(&yaml::<Vec<PolicyText>>(policies))
}

pub fn decide(agent: &Arc<Agent>, act: &str) -> Decision {
    decide_with(agent, &action(act), &[])
}

pub fn decide_with(agent: &Arc<Agent>, action: &Action, windows: &[OpenWindow]) -> Decision {
    evaluate(agent, &Arc::new(action.clone()), &facts(windows))
}

pub fn facts(windows: &[OpenWindow]) -> Facts<'_> {
    Facts { now: now(), suspended: false, windows }
}

/// Reads an act as `policy::grant::summary` writes it: `delete deployments.apps/web/scale -n payments`. A name `*` is
/// none; a resource may be followed by ` --dry-run=server`.
pub fn action(text: &str) -> Action {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (verb, object) = (words[0], words[1]);
    if object.starts_with('/') {
        return Action::NonResource { verb: verb.to_owned(), path: object.to_owned() };
    }
    let mut parts = object.split('/');
    let kind = parts.next().unwrap();
    let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
    let name = parts.next().filter(|name| *name != "*").map(str::to_owned);
    let namespaced = words.iter().position(|word| *word == "-n").map(|at| words[at + 1].to_owned());
    let scope = match namespaced {
        Some(namespace) => Scope::Namespace(namespace),
        None if words.contains(&"-A") => Scope::AllNamespaces,
        None if (kind, verb) != ("namespaces", "create") && kind == "namespaces" && name.is_some() => {
            Scope::Namespace(name.clone().unwrap())
        }
        None => Scope::Cluster,
    };
    Action::Resource(ResourceAction {
        verb: verb.parse().unwrap(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: parts.next().map(str::to_owned),
        scope,
        name,
        dry_run: words.contains(&"--dry-run=server"),
        may_create: words.contains(&"--server-side"),
    })
}

/// A Window grant, approved half an hour ago by alice for an hour unless `patch` says otherwise.
pub fn window_grant(name: &str, patch: Value) -> AccessGrant {
    let mut grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": name, "namespace": NAMESPACE, "creationTimestamp": "2026-11-20T14:00:00Z"},
        "spec": {
            "agentRef": {"name": NAME}, "type": "Window", "reason": "roll back",
            "window": {"durationSeconds": 3600},
            "reviews": [{"reviewer": "alice", "decision": "Approved", "reviewTime": "2026-11-20T14:00:00Z"}],
        },
    });
    merge(&mut grant, &patch);
    from(grant)
}

pub fn merge(into: &mut Value, patch: &Value) {
    match patch {
        Value::Object(members) if into.is_object() => {
            for (key, value) in members {
                merge(&mut into[key.as_str()], value);
            }
        }
        other => *into = other.clone(),
    }
}

pub fn windows(agent: &Agent, grants: &[AccessGrant]) -> Vec<OpenWindow> {
    let outsiders = Outsiders::default();
    let facts = ReviewFacts { now: now(), outsiders: &outsiders };
    grants.iter().filter_map(|grant| open_window(agent, grant, &facts)).collect()
}
