//! The mirror of `policy::approve` in a grant's status. Nobody decides by it; people and `kubectl wait` read it.

use crds::AccessGrant;
use crds::access_grant::{AccessGrantStatus, GrantType, ReviewDecision, UNAUTHENTICATED_REVIEWER};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use policy::approve::{Deadline, Progress, ReviewFacts, Standing, approve};
use policy::reviewers::Outsiders;
use policy::terms::Terms;
use serde_json::{Map, Value, json};

use crate::judge::{self, Judge};
use crate::status::{Owned, Said, Target, Wish, as_json};

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

    /// What the grant's status should say.
    pub fn wish(&self, grant: &AccessGrant, outsiders: &Outsiders) -> (Target, Wish) {
        let before = grant.status.clone().unwrap_or_default();
        let said_before = before.summary.is_some() && before.observed_generation == grant.metadata.generation;
        let is_over = self.next_change().is_none();
        let fields = if is_over && said_before { frozen(&before) } else { self.fields(grant) };
        let wish = Wish { fields, said: self.said(grant, outsiders) };
        (Target::of(grant, Some(as_json(&grant.status))), wish)
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
    fields.retain(|name, _| name != "observedGeneration" && GRANT.fields.contains(&name.as_str()));
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

#[cfg(test)]
mod tests {
    use policy::terms::PolicyTerms;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn grant(kind: &str) -> AccessGrant {
        let member = match kind {
            "Window" => json!({"durationSeconds": 60}),
            _ => {
                json!({"verb": "delete", "apiVersion": "v1", "resource": "pods", "namespace": "x", "name": "web",
                        "fingerprint": "sha256:e3"})
            }
        };
        let field = if kind == "Window" { "window" } else { "request" };
        let mut value = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": "g", "namespace": "agents", "generation": 2, "creationTimestamp": "1970-01-01T00:00:10Z"},
            "spec": {"agentRef": {"name": "a"}, "type": kind, "reviews": [
                {"reviewer": "alice", "decision": "Approved", "reviewTime": "1970-01-01T00:00:11Z"}]},
        });
        value["spec"][field] = member;
        serde_json::from_value(value).unwrap()
    }

    fn terms() -> Terms {
        let policy = PolicyTerms {
            policy: "p".into(),
            generation: 3,
            rules: vec!["ask".into()],
            min_approvals: 1,
            approvers: Vec::new().into(),
        };
        Terms { policies: vec![policy], review_deadline_seconds: 100, ..judge::nobody_asks() }
    }

    fn mirror(standing: Standing, suspended: bool) -> Mirror {
        Mirror { standing, terms: terms(), suspended }
    }

    fn conditions(kind: &str, standing: Standing, suspended: bool) -> String {
        let said = mirror(standing, suspended).said(&grant(kind), &Outsiders::default());
        let word = |said: &Said| format!("{}={:?}/{}", said.kind, said.status, said.reason);
        said.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_standing_has_its_three_conditions() {
        let by = || vec!["alice".to_owned()];
        let waiting = |have| Standing::Waiting {
            progress: vec![Progress { policy: "p".into(), needed: 2, have }],
            until: at(110),
        };
        let ready = || Standing::Approved { by: by(), from: at(11), until: at(50) };
        let denied = Standing::Denied { by: "alice".into(), note: None, until: at(110) };
        let revoked = Standing::Revoked { by: Some("alice".into()), note: None };
        let planned = Standing::Scheduled { by: by(), from: at(90), until: at(100) };
        let expired = |of| Standing::Expired { of, at: at(110) };
        let table = [
            (
                "SingleRequest",
                waiting(0),
                "Unknown/WaitingForReview",
                "False/WaitingForReview",
                "False/WaitingForReview",
            ),
            (
                "SingleRequest",
                waiting(1),
                "Unknown/QuorumNotReached",
                "False/WaitingForReview",
                "False/WaitingForReview",
            ),
            ("SingleRequest", ready(), "True/Approved", "True/Approved", "True/ReadyToUse"),
            ("Window", ready(), "True/Approved", "True/Approved", "True/WindowOpen"),
            ("Window", planned, "True/Approved", "True/Approved", "False/NotYetStarted"),
            ("SingleRequest", denied, "False/Denied", "True/Denied", "False/Denied"),
            ("SingleRequest", expired(Deadline::Review), "False/Expired", "True/Expired", "False/Expired"),
            ("SingleRequest", expired(Deadline::Use), "False/Expired", "True/Expired", "False/Expired"),
            ("Window", expired(Deadline::Window), "True/Approved", "True/Approved", "False/WindowClosed"),
            ("Window", revoked, "False/Revoked", "True/Approved", "False/Revoked"),
            (
                "SingleRequest",
                Standing::Used { request_id: "x".into() },
                "True/Approved",
                "True/Approved",
                "False/Used",
            ),
        ];
        for (kind, standing, approved, decided, active) in table {
            let expected = format!("Approved={approved} Decided={decided} Active={active}");
            assert_eq!(conditions(kind, standing.clone(), false), expected, "{standing:?}");
        }
        let expected = "Approved=True/Approved Decided=True/Approved Active=False/AgentSuspended";
        assert_eq!(conditions("Window", ready(), true), expected);
    }

    #[test]
    fn a_grant_that_is_over_keeps_what_was_said_about_it() {
        let mut grant = grant("SingleRequest");
        let ready = Standing::Approved { by: vec!["alice".into()], from: at(11), until: at(50) };
        let (_, live) = mirror(ready, false).wish(&grant, &Outsiders::default());
        let mut status = live.fields.clone();
        status.insert("consumedBy".to_owned(), json!("x"));
        status.insert("uses".to_owned(), json!(1));
        status.insert("observedGeneration".to_owned(), json!(2));
        grant.status = serde_json::from_value(Value::Object(status)).unwrap();
        let used = Mirror {
            terms: judge::nobody_asks(),
            ..mirror(Standing::Used { request_id: "x".into() }, false)
        };
        let (_, over) = used.wish(&grant, &Outsiders::default());
        assert_eq!(
            over.fields, live.fields,
            "although no policy asks any more, and without the proxies' fields"
        );
    }
}
