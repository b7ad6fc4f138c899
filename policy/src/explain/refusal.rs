//! Why a request was refused, what to do next, and the same for machines.

use std::sync::Arc;

use jiff::Timestamp;

use super::words::{deed, full_deed, namespace_flag, object, one_line, quoted, source, stamp};
use crate::action::Action;
use crate::agent::Agent;
use crate::approve::Deadline;
use crate::decision::{Decision, Verdict};
use crate::rule::{Effect, RuleId};

/// The reasons that the meaning gives; kubectl prints the token. All of them go out as 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A Deny rule spoke.
    PolicyDenied,
    /// Nothing allows it.
    NotAllowed,
    /// A policy that selects the agent cannot be understood.
    PolicyBroken,
    /// A human has not decided yet.
    ApprovalPending,
    /// A human said no.
    ApprovalDenied,
    /// The approval was not given or not used in time.
    ApprovalExpired,
    /// Allowed only inside a window.
    WindowRequired,
    /// The body holds a placeholder.
    MaskedValueInWrite,
    /// The kill switch.
    AgentSuspended,
    /// Too many grants wait for review.
    TooManyPendingApprovals,
    /// A stream that the gate does not open.
    StreamDenied,
    /// A feature that is not built yet.
    NotSupportedYet,
}

impl Reason {
    /// The token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::PolicyDenied => "PolicyDenied",
            Reason::NotAllowed => "NotAllowed",
            Reason::PolicyBroken => "PolicyBroken",
            Reason::ApprovalPending => "ApprovalPending",
            Reason::ApprovalDenied => "ApprovalDenied",
            Reason::ApprovalExpired => "ApprovalExpired",
            Reason::WindowRequired => "WindowRequired",
            Reason::MaskedValueInWrite => "MaskedValueInWrite",
            Reason::AgentSuspended => "AgentSuspended",
            Reason::TooManyPendingApprovals => "TooManyPendingApprovals",
            Reason::StreamDenied => "StreamDenied",
            Reason::NotSupportedYet => "NotSupportedYet",
        }
    }
}

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `sallyport.dev/Grant`, `sallyport.dev/Rule`, `sallyport.dev/Final`.
    pub reason: &'static str,
    /// What it is about: `namespace/grant`, `policy/rule`; empty for the rest.
    pub field: String,
    /// What it says.
    pub message: String,
}

/// A refusal in words and for machines. The request id, which ends the lines and the causes, is the proxy's to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason token.
    pub reason: Reason,
    /// The first line.
    pub sentence: String,
    /// The indented `key: value` lines in order; keys are why, final, grant, next, instead. A value may have several
    /// lines.
    pub lines: Vec<(&'static str, String)>,
    /// `details.group`.
    pub group: String,
    /// `details.kind`: the plural resource.
    pub kind: String,
    /// `details.name`.
    pub name: String,
    /// `details.retryAfterSeconds`, where waiting helps.
    pub wait_seconds: Option<u32>,
    /// `details.causes`.
    pub causes: Vec<Cause>,
}

impl Refusal {
    fn new(action: &Action, reason: Reason, sentence: &str) -> Refusal {
        let (group, kind, name) = match action {
            Action::NonResource { .. } => (String::new(), String::new(), String::new()),
            Action::Resource(action) => {
                (action.group.clone(), action.resource.clone(), action.name.clone().unwrap_or_default())
            }
        };
        Refusal {
            reason,
            sentence: format!("{} is forbidden: sallyport/{}: {sentence}", object(action), reason.as_str()),
            lines: Vec::new(),
            group,
            kind,
            name,
            wait_seconds: None,
            causes: Vec::new(),
        }
    }

    fn line(mut self, key: &'static str, value: impl Into<String>) -> Refusal {
        self.lines.push((key, value.into()));
        self
    }

    fn cause(
        mut self,
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Refusal {
        self.causes.push(Cause { reason, field: field.into(), message: message.into() });
        self
    }

    fn rules<'a>(mut self, rules: impl IntoIterator<Item = &'a Arc<RuleId>>) -> Refusal {
        for rule in rules {
            self = self.cause("sallyport.dev/Rule", rule.to_string(), rule.effect.as_str());
        }
        self
    }

    fn final_if(self, is_final: bool) -> Refusal {
        self.cause("sallyport.dev/Final", "", if is_final { "true" } else { "false" })
    }

    /// The whole message as kubectl prints it after `Error from server (<Reason>): `.
    pub fn message(&self, request_id: &str) -> String {
        let mut text = self.sentence.clone();
        let lines = self.lines.iter().map(|(key, value)| (*key, value.as_str()));
        for (key, value) in lines.chain([("id", request_id)]) {
            for (at, line) in value.lines().enumerate() {
                let label = if at == 0 { format!("{key}:") } else { String::new() };
                text.push_str(&format!("\n  {label:<9}{line}"));
            }
        }
        text
    }
}

const FINAL: &str = "yes. Retrying, waiting or asking for a grant cannot change this. Do not try another route to the same effect.";

/// The refusal that a decision means by itself; `None` where it may run, or where a grant decides.
pub fn refuse(decision: &Decision) -> Option<Refusal> {
    let action = decision.action();
    match decision.verdict() {
        Verdict::Allowed(_) | Verdict::NeedsApproval(_) => None,
        Verdict::Denied => Some(policy_denied(decision)),
        Verdict::NeedsWindow { max_window_seconds } => Some(window_required(decision, *max_window_seconds)),
        Verdict::NotAllowed => {
            let sentence =
                format!("no policy allows {} for {}.", full_deed(action), decision.agent().full_name());
            let refusal = Refusal::new(action, Reason::NotAllowed, &sentence)
                .line("final", "yes, until an administrator adds a rule. There is nothing to request.")
                .line("instead", "kubectl get --raw /sallyport/v1/access");
            Some(refusal.final_if(true))
        }
        Verdict::Suspended => Some(suspended(action, decision.agent())),
        Verdict::Broken(broken) => {
            let sentence = format!(
                "policy \"{}\" cannot be understood, so everything is denied for {}.",
                broken.policy,
                decision.agent().full_name()
            );
            let refusal = Refusal::new(action, Reason::PolicyBroken, &sentence)
                .line("why", one_line(&broken.message))
                .line(
                    "final",
                    "yes, until an administrator repairs the policy. There is nothing to request.",
                );
            Some(
                refusal
                    .cause("sallyport.dev/Policy", &*broken.policy, one_line(&broken.message))
                    .final_if(true),
            )
        }
    }
}

fn suspended(action: &Action, agent: &Agent) -> Refusal {
    Refusal::new(action, Reason::AgentSuspended, &format!("{} is suspended.", agent.full_name()))
        .line("why", "An administrator has stopped this agent. Every request is refused.")
        .line("final", "yes, until an administrator resumes it. Retrying, waiting or asking for a grant cannot change this.")
        .line("next", "stop")
        .final_if(true)
}

fn policy_denied(decision: &Decision) -> Refusal {
    let action = decision.action();
    let instead = format!("kubectl auth can-i --list{}", namespace_flag(action));
    let Some(rule) = decision.leading_rule() else {
        let sentence = format!("the gate itself denies {} here.", deed(action));
        return Refusal::new(action, Reason::PolicyDenied, &sentence)
            .line(
                "why",
                "An agent may read its own AccessGrants, create a Window for itself and delete its own; nothing else in \
                 this group, whatever any policy says.",
            )
            .line("final", FINAL)
            .line("instead", instead)
            .cause("sallyport.dev/Rule", "built-in", Effect::Deny.as_str())
            .final_if(true);
    };
    let sentence = format!("{} denies {}.", source(&rule.policy, &rule.rule), deed(action));
    let mut refusal = Refusal::new(action, Reason::PolicyDenied, &sentence);
    if let Some(message) = &rule.message {
        refusal = refusal.line("why", one_line(message));
    }
    let denying = decision.rules().iter().filter(|rule| rule.effect == Effect::Deny);
    refusal.line("final", FINAL).line("instead", instead).rules(denying).final_if(true)
}

/// The command by which an agent asks for a window, with kubectl alone.
pub(super) fn ask_for_window(agent: &Agent, max_window_seconds: u32) -> String {
    let grant = format!(
        "{{\"apiVersion\":\"sallyport.dev/v1alpha1\",\"kind\":\"AccessGrant\",\"metadata\":{{\"generateName\":\"{name}-\",\
         \"namespace\":\"{namespace}\"}},\"spec\":{{\"agentRef\":{{\"name\":\"{name}\"}},\"type\":\"Window\",\
         \"reason\":\"<one sentence: what and why>\",\"window\":{{\"durationSeconds\":{seconds}}}}}}}",
        name = agent.name(),
        namespace = agent.namespace(),
        seconds = max_window_seconds.min(1800),
    );
    format!("echo '{grant}' | kubectl create -f -")
}

fn window_required(decision: &Decision, max_window_seconds: u32) -> Refusal {
    let (action, agent) = (decision.action(), decision.agent());
    let offering = decision.rules().iter().filter(|rule| rule.effect == Effect::Allow);
    let policy = offering.clone().map(|rule| &*rule.policy).next().unwrap_or_default();
    let sentence = format!(
        "policy \"{policy}\" allows this {} only inside a just-in-time window, and none is open for {}.",
        deed(action),
        agent.full_name()
    );
    let next = format!(
        "{}\nthen kubectl wait --for=condition=Decided accessgrant/<name printed above> -n {} --timeout=100s, then run \
         the command again.\nLongest window allowed: {max_window_seconds} seconds.",
        ask_for_window(agent, max_window_seconds),
        agent.namespace(),
    );
    Refusal::new(action, Reason::WindowRequired, &sentence).line("next", next).rules(offering).final_if(false)
}

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
    let action = decision.action();
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
    let mut refusal = Refusal::new(action, Reason::ApprovalPending, &sentence)
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
    let action = decision.action();
    let sentence = format!("{by} denied this {} (grant {}).", deed(action), grant.name);
    let mut refusal = Refusal::new(action, Reason::ApprovalDenied, &sentence);
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
    let action = decision.action();
    let how = match of {
        Deadline::Review => "nobody reviewed it in time",
        Deadline::Use => "it was approved, but not used in time",
        Deadline::Window => "its window is over",
    };
    let sentence = format!("grant {} for this {} expired at {}: {how}.", grant.name, deed(action), stamp(at));
    Refusal::new(action, Reason::ApprovalExpired, &sentence)
        .line("why", "An approval holds for a short time only. Nothing has been changed.")
        .line("next", "run exactly the same command again; it asks for a new approval.")
        .cause("sallyport.dev/Grant", grant.field(), "Expired")
        .rules(asking_rules(decision))
        .final_if(false)
}

/// The agent already waits for as many reviews as it may; `waiting` are the names of those grants.
pub fn too_many_pending(decision: &Decision, waiting: &[&str]) -> Refusal {
    let (action, agent) = (decision.action(), decision.agent());
    let sentence = format!(
        "{} already has {} grants waiting for review, and may have {}.",
        agent.full_name(),
        waiting.len(),
        agent.limits().max_pending_grants
    );
    let first = waiting.first().copied().unwrap_or("<name>");
    let next = format!(
        "wait for a decision, or withdraw one: kubectl delete accessgrant {first} -n {}\nthen run the command again.",
        agent.namespace()
    );
    Refusal::new(action, Reason::TooManyPendingApprovals, &sentence)
        .line("why", "Every grant asks a human for attention. Nothing has been changed.")
        .line("next", next)
        .rules(asking_rules(decision))
        .final_if(false)
}

/// A write whose body holds placeholders at `paths`.
pub fn masked_value_in_write(action: &Action, paths: &[&str]) -> Refusal {
    let paths: Vec<String> = paths.iter().map(|path| one_line(path)).collect();
    let at = if paths.is_empty() { String::new() } else { format!(" at {}", paths.join(", ")) };
    let sentence =
        format!("the body contains masked placeholders{at}; writing it would destroy the real value.");
    let mut refusal = Refusal::new(action, Reason::MaskedValueInWrite, &sentence).line(
        "next",
        "remove the masked fields and send only what you change, e.g. kubectl patch ... --type=merge -p \
         '{\"metadata\":{...}}'",
    );
    for path in paths {
        refusal = refusal.cause("sallyport.dev/MaskedField", path, "placeholder");
    }
    refusal.final_if(false)
}

/// A stream (exec, attach, port-forward or another upgrade) that the gate does not open.
pub fn stream_denied(action: &Action) -> Refusal {
    Refusal::new(
        action,
        Reason::StreamDenied,
        &format!("the gate does not open {} streams yet.", full_deed(action)),
    )
    .line("final", "yes, in this version. Retrying, waiting or asking for a grant cannot change this.")
    .line("instead", "kubectl logs, kubectl describe and kubectl get -o yaml, where policy allows them")
    .final_if(true)
}

/// A feature that is not built yet: `what` is a noun phrase, `next` a way out.
pub fn not_supported(action: &Action, what: &str, next: &str) -> Refusal {
    Refusal::new(action, Reason::NotSupportedYet, &format!("{what} is not supported yet."))
        .line("final", "yes, in this version. Retrying, waiting or asking for a grant cannot change this.")
        .line("next", next)
        .final_if(true)
}

/// The grant that was joined holds no longer: withdrawn, revoked, or the object is another one by now. `why` is a
/// sentence of ours.
pub fn approval_void(decision: &Decision, grant: GrantWords<'_>, why: &str) -> Refusal {
    let action = decision.action();
    let sentence = format!("grant {} for this {} holds no longer.", grant.name, deed(action));
    Refusal::new(action, Reason::ApprovalExpired, &sentence)
        .line("why", format!("{why} Nothing has been changed."))
        .line("next", "run exactly the same command again; it asks for a new approval.")
        .cause("sallyport.dev/Grant", grant.field(), "Void")
        .rules(asking_rules(decision))
        .final_if(false)
}
