//! What the agent reads about a grant that its request waits for, or waited for in vain.

use std::sync::Arc;

use jiff::Timestamp;

use super::reason::Reason;
use super::refusal::Refusal;
use super::words::{deed, one_line, quoted, source, stamp};
use crate::approve::Deadline;
use crate::decision::Decision;
use crate::rule::{Effect, RuleId};

/// Which grant a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantWords<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl GrantWords<'_> {
    fn field(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The approval rule that is named first, and the number of people it asks for.
fn asking(decision: &Decision) -> (Option<&Arc<RuleId>>, u32) {
    let rule = decision.rules().iter().find(|rule| rule.effect == Effect::RequireApproval);
    let people =
        decision.terms().into_iter().flat_map(|terms| &terms.policies).map(|policy| policy.min_approvals);
    (rule, people.max().unwrap_or(1))
}

fn asking_rules(decision: &Decision) -> impl Iterator<Item = &Arc<RuleId>> {
    decision.rules().iter().filter(|rule| rule.effect == Effect::RequireApproval)
}

/// The hold ended undecided; the agent waits for the grant and runs the same command again.
pub fn approval_pending(decision: &Decision, grant: GrantWords<'_>, until: Timestamp) -> Refusal {
    let action = &*decision.judged();
    let (rule, people) = asking(decision);
    let who = if people > 1 { format!("{people} humans") } else { "a human".to_owned() };
    let named = rule.map(|rule| source(&rule.policy, &rule.rule)).unwrap_or_default();
    let sentence = format!("{named} needs {who} to approve this {}.", deed(action));
    let nothing = "Nothing has been changed yet.";
    let why = match rule.and_then(|rule| rule.message.as_ref()) {
        Some(message) => format!("{} {nothing}", one_line(message)),
        None => nothing.to_owned(),
    };
    let GrantWords { namespace, name } = grant;
    let next = format!(
        "kubectl wait --for=condition=Decided accessgrant/{name} -n {namespace} --timeout=100s\nthen run exactly the same \
         command again. A changed command needs a new approval.\nIf the wait times out, wait again or report to the user \
         that approval is pending."
    );
    let mut refusal = Refusal::forbidden(action, Reason::ApprovalPending, &sentence)
        .line("why", why)
        .line("grant", format!("{name} (namespace {namespace}), waits for review until {}", stamp(until)))
        .line("next", next)
        .cause("sallyport.dev/Grant", grant.field(), "WaitingForReview")
        .rules(asking_rules(decision))
        .final_if(false);
    refusal.wait_seconds = Some(30);
    refusal
}

/// A reviewer said no; the same request is answered so until the review deadline.
pub fn approval_denied(decision: &Decision, grant: GrantWords<'_>, by: &str, note: Option<&str>) -> Refusal {
    let action = &*decision.judged();
    let sentence = format!("{by} denied this {} (grant {}).", deed(action), grant.name);
    let mut refusal = Refusal::forbidden(action, Reason::ApprovalDenied, &sentence);
    let note = note.filter(|note| !note.trim().is_empty());
    if let Some(note) = note {
        refusal = refusal.line("why", format!("reviewer note: {}", quoted(note)));
    }
    let next = match note {
        Some(_) => "follow the reviewer's note, or report it to the user.",
        None => "report it to the user.",
    };
    refusal
        .line("final", "yes, for this request. Do not repeat it. A different request may be approved.")
        .line("next", next)
        .cause("sallyport.dev/Grant", grant.field(), "Denied")
        .rules(asking_rules(decision))
        .final_if(true)
}

/// The grant that was waited for ended; the same command asks anew.
pub fn approval_expired(decision: &Decision, grant: GrantWords<'_>, of: Deadline, at: Timestamp) -> Refusal {
    let action = &*decision.judged();
    let how = match of {
        Deadline::Review => "nobody reviewed it in time",
        Deadline::Use => "it was approved, but not used in time",
        Deadline::Window => "its window is over",
    };
    let sentence = format!("grant {} for this {} expired at {}: {how}.", grant.name, deed(action), stamp(at));
    Refusal::forbidden(action, Reason::ApprovalExpired, &sentence)
        .line("why", "An approval holds for a short time only. Nothing has been changed.")
        .line("next", "run exactly the same command again; it asks for a new approval.")
        .cause("sallyport.dev/Grant", grant.field(), "Expired")
        .rules(asking_rules(decision))
        .final_if(false)
}

/// The agent already waits for as many reviews as it may; `waiting` are the names of those grants.
pub fn too_many_pending(decision: &Decision, waiting: &[&str]) -> Refusal {
    let (action, agent) = (&*decision.judged(), decision.agent());
    let counted = match waiting.len() {
        1 => "1 grant".to_owned(),
        count => format!("{count} grants"),
    };
    let sentence = format!(
        "{} already has {counted} waiting for review, and may have {}.",
        agent.full_name(),
        agent.limits().max_pending_grants
    );
    let first = waiting.first().copied().unwrap_or("<name>");
    let next = format!(
        "wait for a decision, or withdraw one: kubectl delete accessgrant {first} -n {}\nthen run the command again.",
        agent.namespace()
    );
    Refusal::forbidden(action, Reason::TooManyPendingApprovals, &sentence)
        .line("why", "Every grant asks a human for attention. Nothing has been changed.")
        .line("next", next)
        .rules(asking_rules(decision))
        .final_if(false)
}

/// The grant that was joined holds no longer: withdrawn, revoked, or the object is another one by now. `why` is a
/// sentence of ours.
pub fn approval_void(decision: &Decision, grant: GrantWords<'_>, why: &str) -> Refusal {
    let action = &*decision.judged();
    let sentence = format!("grant {} for this {} holds no longer.", grant.name, deed(action));
    Refusal::forbidden(action, Reason::ApprovalExpired, &sentence)
        .line("why", format!("{why} Nothing has been changed."))
        .line("next", "run exactly the same command again; it asks for a new approval.")
        .cause("sallyport.dev/Grant", grant.field(), "Void")
        .rules(asking_rules(decision))
        .final_if(false)
}
