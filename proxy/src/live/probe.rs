//! `TargetReachable`: true only after one impersonated request of this very agent was accepted by the API server.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Incoming;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use policy::agent::Agent;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::identities::resource;
use super::{AgentKey, Identity, Live};
use crate::request_id::RequestId;
use crate::targets::{Fault, Target, Targets};
use crate::upstream::{Impersonation, Outgoing};

const TICK: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(300);
const RETRY_AT_MOST: u64 = 60;
const AT_ONCE: usize = 32;
/// A target that takes longer to answer is not there.
const PROBE_TIME: Duration = Duration::from_secs(20);
const ANSWER_TIME: Duration = Duration::from_secs(10);
const LARGEST_VERSION: usize = 64 << 10;
const MOST_OF_A_VERSION: usize = 64;

/// What was tried for one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tried {
    uid: String,
    generation: i64,
    revision: u64,
    failures: u32,
    next: Instant,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Found {
    fn reachable(&self) -> bool {
        self.status == "True"
    }
}

/// One identity to be probed now.
struct Due {
    key: AgentKey,
    identity: Identity,
    agent: Arc<Agent>,
    target: Arc<Target>,
    revision: u64,
}

/// Probes every identity of the bundle when it, or its target's credential, appears or changes, then every five minutes;
/// failures sooner. A target that is slow holds up no other.
pub async fn follow(client: Client, targets: Arc<Targets>, live: Live) {
    let mut tried = HashMap::<AgentKey, Tried>::new();
    let mut changes = live.changes();
    let mut probes = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        for due in due(&live, &targets, &mut tried) {
            let next = Instant::now() + PROBE_TIME * 2;
            let Due { identity, revision, .. } = &due;
            let (uid, generation, revision) = (identity.uid.clone(), identity.generation, *revision);
            let failures = tried.get(&due.key).map_or(0, |before| before.failures);
            tried.insert(due.key.clone(), Tried { uid, generation, revision, failures, next });
            let (client, places) = (client.clone(), Arc::clone(&places));
            probes.spawn(async move {
                let _place = places.acquire_owned().await;
                let found = due.probed(client).await;
                (due, found)
            });
        }
        tokio::select! {
            Some(Ok((due, found))) = probes.join_next() => {
                if found.reachable() && Arc::ptr_eq(&due.target, targets.hub()) {
                    live.api_server_seen();
                }
                note(&mut tried, &due, found.reachable());
            }
            () = tokio::time::sleep(TICK) => {}
            Ok(()) = changes.changed() => {}
        }
    }
}

fn due(live: &Live, targets: &Targets, tried: &mut HashMap<AgentKey, Tried>) -> Vec<Due> {
    let (Ok(bundle), Some(identities)) = (live.bundle(), live.identities()) else { return Vec::new() };
    tried.retain(|key, _| identities.contains_key(key));
    let mut due = Vec::new();
    for agent in bundle.agents() {
        let key = AgentKey::new(agent.namespace(), agent.name());
        let Some(identity) = identities.get(&key).filter(|identity| identity.uid == agent.uid()) else {
            continue;
        };
        let target = targets.of(agent);
        let revision = target.upstream.access().revision();
        let waits = tried.get(&key).is_some_and(|t| {
            (&t.uid, t.generation, t.revision) == (&identity.uid, identity.generation, revision)
                && t.next > Instant::now()
        });
        if !waits {
            due.push(Due { key, identity: identity.clone(), agent: Arc::clone(agent), target, revision });
        }
    }
    due
}

fn note(tried: &mut HashMap<AgentKey, Tried>, due: &Due, reachable: bool) {
    let failures = match (reachable, tried.get(&due.key)) {
        (true, _) => 0,
        (false, before) => before.map_or(0, |t| t.failures).saturating_add(1),
    };
    let backoff = Duration::from_secs((1u64 << failures.min(6)).min(RETRY_AT_MOST));
    let next = Instant::now() + if reachable { AGAIN } else { backoff };
    let (uid, generation, revision) = (due.identity.uid.clone(), due.identity.generation, due.revision);
    tried.insert(due.key.clone(), Tried { uid, generation, revision, failures, next });
}

impl Due {
    async fn probed(&self, client: Client) -> Found {
        let is_new = self
            .identity
            .reachable
            .as_ref()
            .is_none_or(|stored| stored["observedGeneration"] != json!(self.identity.generation));
        if is_new && self.target.is_remote() {
            let message = "the first request to the target is on its way".to_owned();
            let probing = Found { status: "Unknown", reason: "Probing", message };
            publish(client.clone(), &self.key, &self.identity, &probing).await;
        }
        let found = match timeout(PROBE_TIME, probe(&self.target, &self.agent)).await {
            Ok(found) => found,
            Err(_) => {
                let message = format!("no answer in {} s", PROBE_TIME.as_secs());
                Found { status: "False", reason: Fault::ConnectionFailed.as_str(), message }
            }
        };
        publish(client, &self.key, &self.identity, &found).await;
        found
    }
}

async fn probe(target: &Target, agent: &Agent) -> Found {
    match ask(target, agent).await {
        Ok(version) => Found { status: "True", reason: "Reachable", message: version },
        Err((fault, message)) => {
            tracing::warn!(
                agent = agent.full_name(),
                reason = fault.as_str(),
                message,
                "the target was not reached"
            );
            Found { status: "False", reason: fault.as_str(), message }
        }
    }
}

/// One request that needs nothing but an accepted credential; then the server's version, which the gate reads for itself: what runs as the
/// agent is the agent's own, but for that one request.
async fn ask(target: &Target, agent: &Agent) -> Result<String, (Fault, String)> {
    let impersonation = Impersonation {
        username: agent.username().to_owned(),
        groups: agent.groups().to_vec(),
        session: String::new(),
    };
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let path = PathAndQuery::from_static("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let said = send(target, Some(&impersonation), Method::POST, path, review).await?;
    if said.status() != StatusCode::CREATED {
        return Err((Fault::Unauthorized, target.upstream.access().refused(said.status(), agent.username())));
    }
    let path = PathAndQuery::from_static("/version");
    let said = send(target, None, Method::GET, path, String::new()).await?;
    let body = timeout(ANSWER_TIME, Limited::new(said.into_body(), LARGEST_VERSION).collect()).await;
    let bytes = body.ok().and_then(Result::ok).map(Collected::to_bytes).unwrap_or_default();
    let version: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(version["gitVersion"].as_str().unwrap_or_default().chars().take(MOST_OF_A_VERSION).collect())
}

async fn send(
    target: &Target,
    as_agent: Option<&Impersonation>,
    method: Method,
    path_and_query: PathAndQuery,
    body: String,
) -> Result<Response<Incoming>, (Fault, String)> {
    let outgoing = Outgoing {
        content_type: (!body.is_empty()).then(|| "application/json".to_owned()),
        method,
        path_and_query,
        passed: HeaderMap::new(),
        accept: "application/json".to_owned(),
        user_agent: "sallyport-proxy probe".to_owned(),
        body: body.into(),
        patient: false,
    };
    let said = target.upstream.send(outgoing, as_agent, &RequestId::new()).await;
    said.map_err(|error| (error.fault(), error.sentence()))
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
    let status = found.status;
    let stored = identity.reachable.as_ref();
    let same = |field: &str, value: &Value| stored.is_some_and(|condition| condition[field] == *value);
    if same("status", &json!(status))
        && same("reason", &json!(found.reason))
        && same("message", &json!(found.message))
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
    use crate::targets::Own;

    #[test]
    fn a_condition_is_written_only_when_it_says_something_new() {
        let found = Found { status: "True", reason: "Reachable", message: "v1.36.3".into() };
        let mut identity = Identity { uid: "1".into(), generation: 3, ..Identity::default() };
        let first = condition(&identity, &found).expect("new");
        assert_eq!(first["status"], "True");
        identity.reachable = Some(first.clone());
        assert_eq!(condition(&identity, &found), None);
        identity.generation = 4;
        let second = condition(&identity, &found).expect("new generation");
        assert_eq!(second["lastTransitionTime"], first["lastTransitionTime"]);
    }

    #[tokio::test]
    async fn failures_are_tried_again_sooner_and_sooner_less() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = kube::Config::new("https://gate.test".parse().expect("a url"));
        let client = Client::try_from(config.clone()).expect("a client");
        let targets = Targets::new(Own::new(&config).expect("an address"), "hub", client);
        let mut tried = HashMap::new();
        let identity = Identity { uid: "1".into(), generation: 3, ..Identity::default() };
        let key = AgentKey::new("agents", "a");
        let agent = crate::live::tests::agent();
        let due = Due { key: key.clone(), identity, agent, target: Arc::clone(targets.hub()), revision: 0 };
        for _ in 0..40 {
            note(&mut tried, &due, false);
        }
        assert!(tried[&key].next <= Instant::now() + Duration::from_secs(RETRY_AT_MOST));
        note(&mut tried, &due, true);
        assert_eq!(tried[&key].failures, 0);
    }
}
