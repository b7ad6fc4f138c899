//! `TargetReachable`: true only after one impersonated request of this very agent was accepted by the API server.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use policy::agent::Agent;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::identities::resource;
use super::{AgentKey, Identity, Live};
use crate::request_id::RequestId;
use crate::upstream::{Impersonation, Outgoing, Upstream, UpstreamError};

const TICK: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(300);
const RETRY_AT_MOST: u64 = 60;
const AT_ONCE: usize = 8;

/// What was tried for one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tried {
    uid: String,
    generation: i64,
    failures: u32,
    next: Instant,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    reachable: bool,
    reason: &'static str,
    message: String,
}

/// Probes every identity of the bundle when it appears or changes, then every five minutes; failures sooner.
pub async fn follow(client: Client, upstream: Arc<Upstream>, live: Live) {
    let mut tried = HashMap::<AgentKey, Tried>::new();
    let mut changes = live.changes();
    loop {
        let due = due(&live, &mut tried);
        let probes = due.into_iter().map(|(key, identity, agent)| {
            let (client, upstream) = (client.clone(), Arc::clone(&upstream));
            async move {
                let found = probe(&upstream, &agent).await;
                publish(client, &key, &identity, &found).await;
                (key, identity, found)
            }
        });
        let mut probes = futures::stream::iter(probes).buffer_unordered(AT_ONCE);
        while let Some((key, identity, found)) = probes.next().await {
            if found.reachable {
                live.api_server_seen();
            }
            note(&mut tried, key, &identity, found.reachable);
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            Ok(()) = changes.changed() => {}
        }
    }
}

fn due(live: &Live, tried: &mut HashMap<AgentKey, Tried>) -> Vec<(AgentKey, Identity, Arc<Agent>)> {
    let (Ok(bundle), Some(identities)) = (live.bundle(), live.identities()) else { return Vec::new() };
    tried.retain(|key, _| identities.contains_key(key));
    let mut due = Vec::new();
    for agent in bundle.agents() {
        let key = AgentKey::new(agent.namespace(), agent.name());
        let Some(identity) = identities.get(&key).filter(|identity| identity.uid == agent.uid()) else {
            continue;
        };
        let waits = tried.get(&key).is_some_and(|t| {
            t.uid == identity.uid && t.generation == identity.generation && t.next > Instant::now()
        });
        if !waits {
            due.push((key, identity.clone(), Arc::clone(agent)));
        }
    }
    due
}

fn note(tried: &mut HashMap<AgentKey, Tried>, key: AgentKey, identity: &Identity, reachable: bool) {
    let failures = match (reachable, tried.get(&key)) {
        (true, _) => 0,
        (false, before) => before.map_or(0, |t| t.failures).saturating_add(1),
    };
    let backoff = Duration::from_secs((1u64 << failures.min(6)).min(RETRY_AT_MOST));
    let next = Instant::now() + if reachable { AGAIN } else { backoff };
    let (uid, generation) = (identity.uid.clone(), identity.generation);
    tried.insert(key, Tried { uid, generation, failures, next });
}

async fn probe(upstream: &Upstream, agent: &Agent) -> Found {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let outgoing = Outgoing {
        method: Method::POST,
        path_and_query: PathAndQuery::from_static("/apis/authentication.k8s.io/v1/selfsubjectreviews"),
        passed: HeaderMap::new(),
        content_type: Some("application/json".to_owned()),
        accept: "application/json".to_owned(),
        user_agent: "sallyport-proxy probe".to_owned(),
        body: review.to_string().into(),
        patient: false,
    };
    let impersonation = Impersonation {
        username: agent.username().to_owned(),
        groups: agent.groups().to_vec(),
        session: String::new(),
    };
    match upstream.send(outgoing, Some(&impersonation), &RequestId::new()).await {
        Ok(answer) if answer.status() == StatusCode::CREATED => {
            Found { reachable: true, reason: "Reachable", message: String::new() }
        }
        Ok(answer) => {
            let message =
                format!("the API server answered {} to a request as {}", answer.status(), agent.username());
            Found { reachable: false, reason: "Unauthorized", message }
        }
        Err(error) => {
            tracing::warn!(%error, "the target was not reached");
            let reason = match &error {
                UpstreamError::Build(_) | UpstreamError::Token(_) => "Unauthorized",
                UpstreamError::Connect(_) | UpstreamError::Broken(_) => "ConnectionFailed",
            };
            Found { reachable: false, reason, message: "the API server did not answer".to_owned() }
        }
    }
}

async fn publish(client: Client, key: &AgentKey, identity: &Identity, found: &Found) {
    let Some(condition) = condition(identity, found) else { return };
    let api = Api::<DynamicObject>::namespaced_with(client, &key.namespace, &resource());
    let status = json!({
        "apiVersion": format!("{}/{}", crds::names::GROUP, crds::names::VERSION), "kind": "AgentIdentity",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": identity.uid},
        "status": {"conditions": [condition]},
    });
    let params = PatchParams::apply(crds::names::PROXY_SERVICE_ACCOUNT).force();
    if let Err(error) = api.patch_status(&key.name, &params, &Patch::Apply(&status)).await {
        tracing::warn!(agent = %key, %error, "the condition TargetReachable was not written");
    }
}

/// The condition to write; `None` when what is stored already says so.
fn condition(identity: &Identity, found: &Found) -> Option<Value> {
    let status = if found.reachable { "True" } else { "False" };
    let stored = identity.reachable.as_ref();
    let same = |field: &str, value: &Value| stored.is_some_and(|condition| condition[field] == *value);
    if same("status", &json!(status))
        && same("reason", &json!(found.reason))
        && same("observedGeneration", &json!(identity.generation))
    {
        return None;
    }
    let since = match stored {
        Some(condition) if condition["status"] == status => condition["lastTransitionTime"].clone(),
        Some(_) | None => json!(format!("{:.0}", jiff::Timestamp::now())),
    };
    Some(json!({
        "type": "TargetReachable", "status": status, "reason": found.reason, "message": found.message,
        "observedGeneration": identity.generation, "lastTransitionTime": since,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_only_when_it_says_something_new() {
        let found = Found { reachable: true, reason: "Reachable", message: String::new() };
        let mut identity = Identity { uid: "1".into(), generation: 3, suspended: false, reachable: None };
        let first = condition(&identity, &found).expect("new");
        assert_eq!(first["status"], "True");
        identity.reachable = Some(first.clone());
        assert_eq!(condition(&identity, &found), None);
        identity.generation = 4;
        let second = condition(&identity, &found).expect("new generation");
        assert_eq!(second["lastTransitionTime"], first["lastTransitionTime"]);
    }

    #[test]
    fn failures_are_tried_again_sooner_and_sooner_less() {
        let mut tried = HashMap::new();
        let identity = Identity { uid: "1".into(), generation: 3, suspended: false, reachable: None };
        let key = AgentKey::new("agents", "a");
        for _ in 0..40 {
            note(&mut tried, key.clone(), &identity, false);
        }
        assert!(tried[&key].next <= Instant::now() + Duration::from_secs(RETRY_AT_MOST));
        note(&mut tried, key.clone(), &identity, true);
        assert_eq!(tried[&key].failures, 0);
    }
}
