//! Events: what `kubectl describe` tells of an object's history. Cheap, and never in the way: a lost one is only logged.

use crds::AccessGrant;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::status::Turn;

const LONGEST_NOTE: usize = 1000;

/// Tells of turns.
#[derive(Clone)]
pub struct Events(Recorder);

impl Events {
    /// In the name of the operator's replica.
    pub fn new(client: Client, replica: String) -> Self {
        let controller = format!("{}/operator", crds::names::GROUP);
        Self(Recorder::new(client, Reporter { controller, instance: Some(replica) }))
    }

    /// Tells of AgentIdentities.
    pub async fn of_identities(&self, turns: &[Turn]) {
        for turn in turns {
            if let Some((kind, reason, note)) = of_identity(turn) {
                self.tell("AgentIdentity", turn, kind, reason, note).await;
            }
        }
    }

    /// Tells of AccessGrants.
    pub async fn of_grants(&self, turns: &[Turn]) {
        for turn in turns {
            if let Some((kind, reason, note)) = of_grant(turn) {
                self.tell("AccessGrant", turn, kind, reason, note).await;
            }
        }
    }

    /// Tells of a review that the webhook refused, and why.
    pub async fn of_rejected_review(&self, grant: &AccessGrant, reason: &str) {
        let regarding = ObjectReference {
            namespace: grant.metadata.namespace.clone(),
            name: grant.metadata.name.clone(),
            uid: grant.metadata.uid.clone(),
            ..of_kind("AccessGrant")
        };
        self.record(&regarding, "Review", EventType::Warning, "ReviewRejected", reason.to_owned()).await;
    }

    async fn tell(&self, object: &str, turn: &Turn, type_: EventType, reason: &str, note: String) {
        let regarding = ObjectReference {
            namespace: turn.namespace.clone(),
            name: Some(turn.name.clone()),
            uid: Some(turn.uid.clone()),
            ..of_kind(object)
        };
        self.record(&regarding, "Reconcile", type_, reason, note).await;
    }

    async fn record(
        &self,
        regarding: &ObjectReference,
        action: &str,
        type_: EventType,
        reason: &str,
        note: String,
    ) {
        let note: String = note.chars().take(LONGEST_NOTE).collect();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: (!note.is_empty()).then_some(note),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, regarding).await {
            tracing::debug!(%error, reason, "event not recorded");
        }
    }
}

fn of_kind(kind: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", crds::names::GROUP, crds::names::VERSION)),
        kind: Some(kind.to_owned()),
        ..ObjectReference::default()
    }
}

fn of_identity(turn: &Turn) -> Option<(EventType, &'static str, String)> {
    let note = turn.now.message.clone();
    match (turn.now.r#type.as_str(), turn.now.reason.as_str()) {
        ("BypassDetected", _) => Some((EventType::Warning, "BypassDetected", note)),
        ("Accepted", "SubjectConflict") => Some((EventType::Warning, "SubjectConflict", note)),
        ("Ready", "TargetUnreachable") => Some((EventType::Warning, "TargetUnreachable", note)),
        ("Ready", "Suspended") => Some((EventType::Normal, "AgentSuspended", note)),
        ("Ready", _) if turn.before.as_deref() == Some("Suspended") => {
            Some((EventType::Normal, "AgentResumed", String::new()))
        }
        _ => None,
    }
}

fn of_grant(turn: &Turn) -> Option<(EventType, &'static str, String)> {
    let note = turn.now.message.clone();
    let normal = |reason, note| Some((EventType::Normal, reason, note));
    match (turn.now.r#type.as_str(), turn.now.reason.as_str()) {
        ("Approved", "WaitingForReview") if turn.before.is_none() => {
            normal("ApprovalRequested", how_to_review(turn))
        }
        ("Approved", "QuorumNotReached") => normal("ReviewRecorded", note),
        ("Approved", "Approved" | "AutoApproved") => normal("GrantApproved", note),
        ("Approved", "Denied") => normal("GrantDenied", note),
        ("Approved", "Expired") | ("Active", "WindowClosed") => normal("GrantExpired", note),
        ("Approved", "Revoked") => normal("GrantRevoked", note),
        ("Active", "Used") => normal("GrantUsed", note),
        ("Approved", "ReviewerUnauthenticated") => Some((EventType::Warning, "ReviewRejected", note)),
        _ => None,
    }
}

fn how_to_review(turn: &Turn) -> String {
    let line = |decision: &str| {
        format!(
            "kubectl patch accessgrant {} -n {} --type=merge -p '{{\"spec\":{{\"reviews\":[{{\"decision\":\"{decision}\"}}]}}}}'",
            turn.name,
            turn.namespace.as_deref().unwrap_or_default()
        )
    };
    format!("{}   or   {}", line("Approved"), line("Denied"))
}
