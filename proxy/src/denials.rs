//! Refusals as Events on the AgentIdentity: what a person sees who looks at the agent, few however often it tries.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use policy::agent::Agent;
use tokio::time::Instant;

use crate::authenticate::Caller;
use crate::live::AgentKey;
use crate::refuse::Reason;

/// Time for what belongs together to come together, before the first Event of an agent.
const GATHER: Duration = Duration::from_secs(5);
/// One Event of a sort, an agent and a replica in this time at most.
const EVERY: Duration = Duration::from_secs(300);

/// As many other agents are named in one Event.
const MOST_OTHERS: usize = 4;

/// What was refused and not told yet. Cloning shares it.
#[derive(Clone)]
pub struct Denials {
    client: Client,
    replica: String,
    agents: Arc<Mutex<HashMap<(AgentKey, Sort), Counted>>>,
}

/// What is told of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Sort {
    /// It was refused something.
    Denied,
    /// A token was its own and another agent's, and therefore nobody's.
    Ambiguous,
}

#[derive(Debug)]
struct Counted {
    uid: String,
    /// By reason, or by the other agent.
    reasons: BTreeMap<String, u32>,
    times: u32,
    due: Instant,
    quiet_since: Instant,
}

/// One Event to be written.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    agent: AgentKey,
    sort: Sort,
    uid: String,
    count: u32,
    note: String,
}

impl Denials {
    /// Written by this replica with its own client.
    pub fn new(client: Client, replica: &str) -> Self {
        Self { client, replica: replica.to_owned(), agents: Arc::default() }
    }

    /// Counts a refusal, if it is a no to the agent: what waits for a human, what is limited and what fails is none.
    pub fn note(&self, caller: &Caller, reason: Reason) {
        if is_denial(reason) {
            let what = (caller.key.clone(), Sort::Denied);
            self.count(what, caller.agent.uid(), [reason.as_str()], Instant::now());
        }
    }

    /// Counts a token that fits several agents, for each of them: its bearer is not told who they are.
    pub fn note_ambiguous(&self, agents: &[Arc<Agent>]) {
        let mut distinct: Vec<&Arc<Agent>> = Vec::new();
        for agent in agents {
            if !distinct.contains(&agent) {
                distinct.push(agent);
            }
        }
        for agent in &distinct {
            let others: Vec<String> =
                distinct.iter().filter(|other| *other != agent).map(|other| other.full_name()).collect();
            let what = (AgentKey::new(agent.namespace(), agent.name()), Sort::Ambiguous);
            self.count(
                what,
                agent.uid(),
                others.iter().take(MOST_OTHERS).map(String::as_str),
                Instant::now(),
            );
        }
    }

    fn count<'a>(
        &self,
        what: (AgentKey, Sort),
        uid: &str,
        reasons: impl IntoIterator<Item = &'a str>,
        now: Instant,
    ) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = agents.entry(what).or_insert_with(|| Counted {
            uid: uid.to_owned(),
            reasons: BTreeMap::new(),
            times: 0,
            due: now + GATHER,
            quiet_since: now,
        });
        if counted.uid != uid {
            uid.clone_into(&mut counted.uid);
            counted.reasons.clear();
            counted.times = 0;
        }
        counted.quiet_since = now;
        counted.times = counted.times.saturating_add(1);
        for reason in reasons {
            let count = counted.reasons.entry(reason.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn take(&self, now: Instant) -> Vec<Told> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|_, counted| {
            !counted.reasons.is_empty() || now.duration_since(counted.quiet_since) < EVERY
        });
        let due = agents.iter_mut().filter(|(_, counted)| !counted.reasons.is_empty() && counted.due <= now);
        due.map(|((agent, sort), counted)| {
            counted.due = now + EVERY;
            let (count, reasons) = (std::mem::take(&mut counted.times), std::mem::take(&mut counted.reasons));
            let note = match sort {
                Sort::Denied => denied(count, &reasons, &self.replica),
                Sort::Ambiguous => ambiguous(count, &reasons, &self.replica),
            };
            Told { agent: agent.clone(), sort: *sort, uid: counted.uid.clone(), count, note }
        })
        .collect()
    }

    /// Tells for ever. An Event that cannot be written is only logged: metrics and recording have it all.
    pub async fn tell(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for told in self.take(Instant::now()) {
                let events: Api<Event> = Api::namespaced(self.client.clone(), &told.agent.namespace);
                let event = event(&told, &self.replica, Timestamp::now());
                if let Err(error) = events.create(&PostParams::default(), &event).await {
                    tracing::debug!(agent = %told.agent, %error, "event not recorded");
                }
            }
        }
    }
}

fn is_denial(reason: Reason) -> bool {
    match reason {
        Reason::PolicyDenied
        | Reason::NotAllowed
        | Reason::PolicyBroken
        | Reason::ApprovalDenied
        | Reason::MaskedValueInWrite
        | Reason::AgentSuspended
        | Reason::StreamDenied
        | Reason::NotSupportedYet
        | Reason::Forbidden => true,
        Reason::ApprovalPending
        | Reason::ApprovalExpired
        | Reason::WindowRequired
        | Reason::TooManyPendingApprovals
        | Reason::Unauthorized
        | Reason::BadRequest
        | Reason::NotFound
        | Reason::MethodNotAllowed
        | Reason::RequestEntityTooLarge
        | Reason::UnsupportedMediaType
        | Reason::TooManyRequests
        | Reason::RecordingUnavailable
        | Reason::ServiceUnavailable
        | Reason::BadGateway
        | Reason::OutcomeUnknown
        | Reason::InternalError => false,
    }
}

fn denied(count: u32, reasons: &BTreeMap<String, u32>, replica: &str) -> String {
    let named: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let requests = if count == 1 { "request" } else { "requests" };
    format!(
        "{count} {requests} refused by proxy {replica}: {}; each is in the agent's session records",
        named.join(", ")
    )
}

fn ambiguous(count: u32, others: &BTreeMap<String, u32>, replica: &str) -> String {
    let mut named: Vec<&str> = others.keys().take(MOST_OTHERS).map(String::as_str).collect();
    if others.len() > MOST_OTHERS {
        named.push("more");
    }
    let requests = if count == 1 { "request" } else { "requests" };
    format!(
        "{count} {requests} refused by proxy {replica}: the token fits the subjects of {} too, so it is nobody's; narrow the \
         `claimValidationRules` of all but one",
        named.join(", ")
    )
}

fn event(told: &Told, replica: &str, now: Timestamp) -> Event {
    let Told { agent, sort, uid, count, note } = told;
    let (action, reason) = match sort {
        Sort::Denied => ("Refuse", "RequestsDenied"),
        Sort::Ambiguous => ("Authenticate", "SubjectConflict"),
    };
    let series = |count| EventSeries { count, last_observed_time: MicroTime(now) };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", agent.name, now.as_nanosecond())),
            namespace: Some(agent.namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(format!("{}/proxy", crds::names::GROUP)),
        reporting_instance: Some(replica.to_owned()),
        action: Some(action.to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some("Warning".to_owned()),
        note: Some(note.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(format!("{}/{}", crds::names::GROUP, crds::names::VERSION)),
            kind: Some("AgentIdentity".to_owned()),
            namespace: Some(agent.namespace.clone()),
            name: Some(agent.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        // One occurrence is no series to the API server.
        series: (*count > 1).then(|| series(i32::try_from(*count).unwrap_or(i32::MAX))),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denials() -> Denials {
        let config = kube::Config::new(http::Uri::from_static("http://localhost"));
        let client = Client::try_from(config).expect("is a config");
        Denials::new(client, "p-0")
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_of_refusals_is_one_event_in_five_minutes_with_a_count() {
        let (denials, agent) = (denials(), AgentKey::new("agents", "a"));
        let refuse = |reason: Reason| {
            denials.count((agent.clone(), Sort::Denied), "1", [reason.as_str()], Instant::now());
        };
        refuse(Reason::NotAllowed);
        assert!(denials.take(Instant::now()).is_empty(), "the rest of the burst is waited for");
        (0..8).for_each(|_| refuse(Reason::PolicyDenied));
        tokio::time::advance(GATHER).await;
        let told = denials.take(Instant::now());
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].count, 9);
        assert!(told[0].note.starts_with("9 requests refused by proxy p-0: 1 NotAllowed, 8 PolicyDenied;"));
        refuse(Reason::PolicyDenied);
        tokio::time::advance(EVERY - Duration::from_secs(1)).await;
        assert!(denials.take(Instant::now()).is_empty(), "not twice in five minutes");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(denials.take(Instant::now()).iter().map(|told| told.count).collect::<Vec<_>>(), [1]);
        tokio::time::advance(EVERY).await;
        denials.take(Instant::now());
        assert!(denials.agents.lock().expect("unpoisoned").is_empty(), "an agent that is quiet is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_of_two_agents_is_told_at_both() {
        use policy::bundle::Bundle;
        use policy::shard::{GUARDRAILS_NAME, Shard, ShardIdentity, agent_shard_name};
        let text =
            |identity| Shard { format_version: 1, identity, policies: Vec::new() }.encode().expect("encodes");
        let mut shards = BTreeMap::from([(GUARDRAILS_NAME.to_owned(), text(None))]);
        for name in ["one", "two"] {
            let spec = serde_json::json!({"target": {"type": "InCluster"}, "subjects": [
                {"name": "a", "type": "ServiceAccount", "serviceAccount": {"namespace": "agents", "name": name}}]});
            let spec = serde_json::from_value(spec).expect("a spec");
            let identity = ShardIdentity::new("agents", name, name, 1, BTreeMap::new(), spec).expect("fits");
            shards.insert(agent_shard_name("agents", name), text(Some(identity)));
        }
        let bundle = Bundle::load(&shards, None).expect("loads");
        let agents: Vec<Arc<Agent>> = bundle.agents().cloned().collect();
        let denials = denials();
        for _ in 0..3 {
            denials.note_ambiguous(&[&agents[..], &agents[..1]].concat());
        }
        tokio::time::advance(GATHER).await;
        let mut told = denials.take(Instant::now());
        told.sort_by(|a, b| a.agent.cmp(&b.agent));
        let notes: Vec<&str> = told.iter().map(|one| one.note.as_str()).collect();
        assert!(
            notes[0].starts_with(
                "3 requests refused by proxy p-0: the token fits the subjects of agents/two too,"
            ),
            "{notes:?}"
        );
        assert!(notes[1].contains(" agents/one too") && told.len() == 2, "{notes:?}");
        let event = event(&told[0], "p-0", Timestamp::now());
        assert_eq!(event.reason.as_deref(), Some("SubjectConflict"));
    }

    #[test]
    fn waiting_limits_and_faults_are_no_denials() {
        assert!(is_denial(Reason::PolicyDenied) && is_denial(Reason::MaskedValueInWrite));
        for reason in
            [Reason::ApprovalPending, Reason::WindowRequired, Reason::TooManyRequests, Reason::BadGateway]
        {
            assert!(!is_denial(reason), "{reason:?}");
        }
    }
}
