//! Grants: the mirror of `policy::approve` in their conditions. Nobody decides by it; people and `kubectl wait` read it.

use std::sync::Arc;
use std::time::Duration;

use crds::access_grant::{AccessGrantStatus, GrantType, ReviewDecision, UNAUTHENTICATED_REVIEWER};
use crds::{AccessGrant, AgentIdentity};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::{Client, ResourceExt as _};
use policy::approve::{Deadline, Progress, ReviewFacts, Standing, approve};
use policy::reviewers::Outsiders;
use policy::terms::Terms;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::judge::{self, Judge};
use crate::reconcile::{json as status_json, target};
use crate::retention;
use crate::status::{Owned, Said, StatusWriter, Target, Wish};
use crate::telemetry::Metrics;
use crate::watch::Watched;

const GATHER: Duration = Duration::from_millis(10);
const RETRY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(300);

/// The operator's part of an AccessGrant's status. `consumedBy`, `consumedTime`, `uses` and `preview` are the proxies'.
pub const GRANT: Owned = Owned {
    kind: "AccessGrant",
    plural: "accessgrants",
    fields: &[
        "observedGeneration",
        "summary",
        "policies",
        "reviewDeadlineTime",
        "useDeadlineTime",
        "windowStartTime",
        "expirationTime",
    ],
    conditions: &["Approved", "Decided", "Active"],
};

/// Keeps the grants' conditions, and deletes grants that were finished long ago.
pub struct GrantKeeper {
    client: Client,
    namespace: String,
    time_to_live: Option<Duration>,
    watched: Watched,
    judge: Option<Judge>,
    statuses: StatusWriter,
    events: Events,
}

impl GrantKeeper {
    /// Over what `watched` sees; without `time_to_live` finished grants stay.
    pub fn new(
        client: Client,
        namespace: &str,
        time_to_live: Option<Duration>,
        watched: Watched,
        metrics: Arc<Metrics>,
        events: Events,
    ) -> Self {
        let statuses = StatusWriter::new(client.clone(), GRANT, metrics);
        Self { client, namespace: namespace.to_owned(), time_to_live, watched, judge: None, statuses, events }
    }

    /// Keeps them until `stop`: after every change, and when the next deadline comes.
    pub async fn run(mut self, stop: CancellationToken) {
        let complete = stop.run_until_cancelled(self.watched.wait_until_complete()).await;
        if complete != Some(true) {
            return;
        }
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watched.grants_changed.notified() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
            }
            let Some(outcome) = stop.run_until_cancelled(self.pass()).await else { return };
            wait = match outcome {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "grants not kept");
                    RETRY
                }
            };
        }
    }

    // How long until something changes by itself.
    async fn pass(&mut self) -> Result<Duration, kube::Error> {
        let now = Timestamp::now();
        match Judge::of(&judge::texts(&self.watched.shards.state()), self.judge.as_ref()) {
            Ok(judge) => self.judge = Some(judge),
            Err(error) => {
                tracing::warn!(%error, "live config does not read; grants are judged by the last that did")
            }
        }
        let Some(judge) = &self.judge else { return Ok(RETRY) };
        let identities = self.watched.identities.state();
        let outsiders = judge::outsiders(&self.namespace, identities.iter().map(Arc::as_ref));
        let facts = ReviewFacts { now, outsiders: &outsiders };
        let mut wishes = Vec::new();
        let mut finished = Vec::new();
        let mut next = None;
        for guarded in self.watched.grants.state() {
            let Ok(grant) = &guarded.0 else { continue };
            let mirror = Mirror::of(grant, judge, &facts, is_suspended(&identities, grant));
            next = next.into_iter().chain(mirror.next_change()).min();
            if let Some(at) = retention::due(grant, &mirror.standing, self.time_to_live) {
                next = next.into_iter().chain([at]).min();
                if at <= now {
                    finished.push(guarded.clone());
                }
            }
            wishes.push(mirror.wish(grant, &outsiders));
        }
        let turns = self.statuses.write(wishes, now).await?;
        self.events.of_grants(&turns).await;
        for guarded in finished {
            retention::delete(&self.client, guarded.as_ref()).await?;
        }
        Ok(next.map_or(IDLE, |next| until(next, now)).min(IDLE))
    }
}

fn until(next: Timestamp, now: Timestamp) -> Duration {
    // A little late, so that the deadline is over when we look.
    Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + Duration::from_millis(20)
}

fn is_suspended(identities: &[Arc<DeserializeGuard<AgentIdentity>>], grant: &AccessGrant) -> bool {
    identities.iter().any(|identity| {
        identity.namespace() == grant.namespace()
            && identity.name_any() == grant.spec.agent_ref.name
            && identity.0.as_ref().is_ok_and(|identity| identity.spec.suspend)
    })
}

/// Where one grant stands, and on which terms.
pub struct Mirror {
    /// The answer of `policy::approve`.
    pub standing: Standing,
    terms: Terms,
    suspended: bool,
}

impl Mirror {
    /// Of a grant under the live config in force.
    pub fn of(grant: &AccessGrant, judge: &Judge, facts: &ReviewFacts<'_>, suspended: bool) -> Self {
        let terms = judge.terms(grant, facts.now).unwrap_or_else(judge::nobody_asks);
        Self { standing: approve(grant, &terms, facts), terms, suspended }
    }

    /// When the standing changes by itself.
    pub fn next_change(&self) -> Option<Timestamp> {
        match &self.standing {
            Standing::Waiting { until, .. } | Standing::Approved { until, .. } => Some(*until),
            Standing::Scheduled { from, .. } => Some(*from),
            Standing::Denied { .. }
            | Standing::Expired { .. }
            | Standing::Revoked { .. }
            | Standing::Used { .. } => None,
        }
    }

    fn wish(&self, grant: &AccessGrant, outsiders: &Outsiders) -> (Target, Wish) {
        let before = grant.status.clone().unwrap_or_default();
        let is_over = self.next_change().is_none();
        let fields = if is_over && before.summary.is_some() { frozen(&before) } else { self.fields(grant) };
        let wish = Wish { fields, said: self.said(grant, outsiders) };
        (target(grant, Some(status_json(&grant.status))), wish)
    }

    fn fields(&self, grant: &AccessGrant) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        put("summary", json!(summary(grant)));
        if !self.terms.policies.is_empty() {
            put("policies", self.policies());
        }
        let created = grant.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let deadline = created.and_then(|created| {
            created
                .checked_add(jiff::SignedDuration::from_secs(i64::from(self.terms.review_deadline_seconds)))
                .ok()
        });
        if let Some(deadline) = deadline {
            put("reviewDeadlineTime", json!(Time(deadline)));
        }
        let is_window = grant.spec.r#type == GrantType::Window;
        match &self.standing {
            Standing::Waiting { until, .. } => put("expirationTime", json!(Time(*until))),
            Standing::Scheduled { from, until, .. } | Standing::Approved { from, until, .. } => {
                put("expirationTime", json!(Time(*until)));
                if is_window {
                    put("windowStartTime", json!(Time(*from)));
                } else {
                    put("useDeadlineTime", json!(Time(*until)));
                }
            }
            Standing::Expired { at, .. } => put("expirationTime", json!(Time(*at))),
            Standing::Denied { .. } | Standing::Revoked { .. } | Standing::Used { .. } => {}
        }
        fields
    }

    fn policies(&self) -> Value {
        let approvals = |name: &str, needed: u32| match &self.standing {
            Standing::Waiting { progress, .. } => {
                progress.iter().find(|policy| &*policy.policy == name).map_or(0, |policy| policy.have)
            }
            Standing::Scheduled { .. } | Standing::Approved { .. } | Standing::Used { .. } => needed,
            Standing::Denied { .. } | Standing::Expired { .. } | Standing::Revoked { .. } => 0,
        };
        let policies = self.terms.policies.iter().map(|policy| {
            json!({
                "name": policy.policy,
                "generation": policy.generation,
                "rules": policy.rules,
                "minApprovals": policy.min_approvals,
                "approvals": approvals(&policy.policy, policy.min_approvals),
            })
        });
        Value::Array(policies.map(without_empty_rules).collect())
    }

    fn said(&self, grant: &AccessGrant, outsiders: &Outsiders) -> Vec<Said> {
        let is_window = grant.spec.r#type == GrantType::Window;
        let mut said = match &self.standing {
            Standing::Waiting { progress, .. } => waiting(grant, progress, &self.terms),
            Standing::Scheduled { by, from, .. } => {
                decided(by, &self.terms, Said::no("Active", "NotYetStarted", format!("opens {from}")))
            }
            Standing::Approved { by, until, .. } => {
                let active = if is_window {
                    Said::yes("Active", "WindowOpen", format!("until {}", clock(*until)))
                } else {
                    Said::yes("Active", "ReadyToUse", format!("one use before {}", clock(*until)))
                };
                decided(by, &self.terms, active)
            }
            Standing::Denied { by, note, .. } => over("Denied", &word(Some(by), note.as_ref())),
            Standing::Expired { of: Deadline::Window, at } => {
                let by = approvers(grant, outsiders);
                decided(
                    &by,
                    &self.terms,
                    Said::no("Active", "WindowClosed", format!("closed {}", clock(*at))),
                )
            }
            Standing::Expired { of: Deadline::Review, .. } => over("Expired", "nobody decided in time"),
            Standing::Expired { of: Deadline::Use, .. } => over("Expired", "approved, but not used in time"),
            Standing::Revoked { by, note } => {
                let message = word(by.as_ref(), note.as_ref());
                vec![
                    Said::no("Approved", "Revoked", message.clone()),
                    Said::yes("Decided", "Approved", ""),
                    Said::no("Active", "Revoked", message),
                ]
            }
            Standing::Used { request_id } => {
                let by = approvers(grant, outsiders);
                decided(&by, &self.terms, Said::no("Active", "Used", format!("by request {request_id}")))
            }
        };
        if let Some(active) = said.iter_mut().find(|said| said.kind == "Active" && self.suspended)
            && active.status == crds::ConditionStatus::True
        {
            *active = Said::no("Active", "AgentSuspended", "the agent is suspended");
        }
        said
    }
}

fn waiting(grant: &AccessGrant, progress: &[Progress], terms: &Terms) -> Vec<Said> {
    let unstamped = grant.spec.reviews.iter().any(|review| review.reviewer == UNAUTHENTICATED_REVIEWER);
    let (reason, message) = if unstamped {
        ("ReviewerUnauthenticated", "a review that nobody stamped does not count".to_owned())
    } else if terms.policies.is_empty() {
        ("WaitingForReview", "no policy in force asks for this approval (any more)".to_owned())
    } else if progress.iter().any(|policy| policy.have > 0) {
        let line = |policy: &Progress| {
            format!("{} of {} for policy `{}`", policy.have, policy.needed, policy.policy)
        };
        ("QuorumNotReached", progress.iter().map(line).collect::<Vec<_>>().join(", "))
    } else {
        ("WaitingForReview", String::new())
    };
    vec![
        Said::unknown("Approved", reason, message),
        Said::no("Decided", "WaitingForReview", ""),
        Said::no("Active", "WaitingForReview", ""),
    ]
}

fn decided(by: &[String], terms: &Terms, active: Said) -> Vec<Said> {
    let needed = terms.policies.iter().map(|policy| policy.min_approvals).max().unwrap_or(0);
    let approved = if by.is_empty() {
        Said::yes("Approved", "AutoApproved", "no policy asks for a human")
    } else {
        Said::yes("Approved", "Approved", format!("{} of {needed} by {}", by.len(), by.join(", ")))
    };
    vec![approved, Said::yes("Decided", "Approved", ""), active]
}

fn over(reason: &'static str, message: &str) -> Vec<Said> {
    vec![
        Said::no("Approved", reason, message),
        Said::yes("Decided", reason, message),
        Said::no("Active", reason, message),
    ]
}

fn approvers(grant: &AccessGrant, outsiders: &Outsiders) -> Vec<String> {
    let requester = grant.spec.requested_by.as_ref().map(|by| by.username.as_str());
    let mut names: Vec<String> = Vec::new();
    for review in &grant.spec.reviews {
        let counts = review.decision == ReviewDecision::Approved
            && outsiders.check(&review.reviewer, requester).is_ok();
        if counts && !names.contains(&review.reviewer) {
            names.push(review.reviewer.clone());
        }
    }
    names
}

fn word(by: Option<&String>, note: Option<&String>) -> String {
    match (by, note) {
        (Some(by), Some(note)) => format!("{by}: {note:?}"),
        (Some(by), None) => by.clone(),
        (None, _) => "the grant is being deleted".to_owned(),
    }
}

fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%H:%M:%SZ").to_string()
}

fn summary(grant: &AccessGrant) -> String {
    let request = grant.spec.request.as_ref().and_then(policy::grant::action_of);
    match (&request, &grant.spec.window) {
        (Some(action), _) => policy::grant::summary(action),
        (None, Some(window)) => policy::grant::window_summary(window),
        (None, None) => "a request that this version does not understand".to_owned(),
    }
}

// What was said about a grant that is over stays as it was said.
fn frozen(before: &AccessGrantStatus) -> Map<String, Value> {
    let Value::Object(mut fields) = serde_json::to_value(before).unwrap_or_default() else {
        return Map::new();
    };
    fields.retain(|name, _| GRANT.fields.contains(&name.as_str()));
    fields
}

// The stored form leaves an empty list out; so do we, or we would write for ever.
fn without_empty_rules(mut policy: Value) -> Value {
    if let Some(policy) = policy.as_object_mut()
        && policy.get("rules").and_then(Value::as_array).is_some_and(Vec::is_empty)
    {
        policy.remove("rules");
    }
    policy
}
