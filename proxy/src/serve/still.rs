//! Whether an open stream may go on: the same questions as at its beginning, asked of what is in force now.
use std::sync::Arc;

use jiff::Timestamp;
use policy::decision::{Authority, Verdict};
use policy::evaluate::{Facts, own_grants};
use policy::explain;

use crate::decide::{DecideError, Decider};
use crate::grants::Grants;
use crate::live::Live;
use crate::refuse::{Reason, Refusal};
use crate::streams::{Open, Still};

use super::pass::shows_the_same;

/// Asks about open streams. Cloning shares everything.
#[derive(Clone)]
pub struct Asker {
    /// Decides anew.
    pub decider: Decider,
    /// Tells of revoked approvals.
    pub grants: Grants,
    /// Tells of suspended agents.
    pub live: Live,
}

impl Asker {
    /// Whether the stream may go on at `now`, and until when it need not be asked about.
    pub fn still(&self, open: &Open, now: Timestamp) -> Still {
        let token = open.caller.token_expires;
        if token.is_some_and(|end| end <= now) {
            let why = "the token that opened this stream has expired; next: read the token file again and reconnect";
            return cut(Refusal::new(Reason::Unauthorized, why));
        }
        match self.permitted(open, now) {
            Ok(until) => Still::Until([token, until].into_iter().flatten().min()),
            Err(refusal) => Still::Cut(refusal),
        }
    }

    fn permitted(&self, open: &Open, now: Timestamp) -> Result<Option<Timestamp>, Box<Refusal>> {
        if !self.decider.same_target(&open.caller).map_err(not_decided)? {
            let why = "sallyport/StreamDenied: this agent's target was changed.";
            return Err(Box::new(Refusal::new(Reason::StreamDenied, why).next("run the command again")));
        }
        let mut decision = self.decider.decide(&open.caller, &open.action, now).map_err(not_decided)?;
        if open.owes.as_ref().is_some_and(|owed| !shows_the_same(owed, decision.obligations()))
            && explain::refuse(&decision).is_none()
        {
            return Err(Box::new(hides_otherwise()));
        }
        if let Some(permit) = decision.take_permit() {
            return Ok(permit.expires());
        }
        if open.own_grants {
            let agent = self.decider.agent(&open.caller).map_err(not_decided)?;
            let suspended = matches!(decision.verdict(), Verdict::Suspended);
            let facts = Facts { now, suspended, windows: &[] };
            if own_grants(&agent, &open.action, &facts).is_some() {
                return Ok(None);
            }
        }
        match (&open.authority, decision.verdict()) {
            (Some(Authority::Approval { grant, .. }), Verdict::NeedsApproval(_)) => {
                self.approved(open, grant)
            }
            _ => Err(refused(&decision)),
        }
    }

    /// An approval bounds the start of its one request; a revoked or deleted grant ends what it started.
    fn approved(&self, open: &Open, grant: &Arc<str>) -> Result<Option<Timestamp>, Box<Refusal>> {
        let revoked = |one: &crds::AccessGrant| {
            one.spec
                .reviews
                .iter()
                .any(|review| review.decision == crds::access_grant::ReviewDecision::Revoked)
        };
        match self.grants.glimpse(&open.caller.key.namespace, grant) {
            Some(found) if !revoked(&found) => Ok(None),
            Some(_) | None => Err(Box::new(Refusal::new(
                Reason::ApprovalDenied,
                format!("sallyport/ApprovalDenied: grant {grant} was revoked or deleted."),
            ))),
        }
    }
}

/// What the stream shows is masked and narrowed as it was when it began.
fn hides_otherwise() -> Refusal {
    let why =
        "sallyport/StreamDenied: the policies in force now hide more or less of what this stream shows.";
    Refusal::new(Reason::StreamDenied, why).next("run the command again")
}

fn refused(decision: &policy::decision::Decision) -> Box<Refusal> {
    Box::new(match explain::refuse(decision) {
        Some(refusal) => refusal,
        None => Refusal::new(
            Reason::ApprovalPending,
            "sallyport/ApprovalPending: the policies in force now ask for an approval of this stream.",
        )
        .next("run the command again"),
    })
}

fn not_decided(error: DecideError) -> Box<Refusal> {
    Box::new(match error {
        DecideError::NotLive(not) => {
            Refusal::new(Reason::ServiceUnavailable, format!("sallyport/ServiceUnavailable: {not}."))
        }
        DecideError::Gone(agent) => Refusal::new(
            Reason::AgentSuspended,
            format!("sallyport/AgentSuspended: agent {agent} was deleted."),
        )
        .next("stop"),
    })
}

fn cut(refusal: Refusal) -> Still {
    Still::Cut(Box::new(refusal))
}
