//! Why a request was refused, what to do next, and the same for machines.

use std::borrow::Cow;
use std::sync::Arc;

use super::reason::Reason;
use super::words::{deed, full_deed, namespace_flag, object, one_line, source};
use crate::action::Action;
use crate::agent::Agent;
use crate::decision::{Decision, Verdict};
use crate::evaluate::{must_be_named, reserved};
use crate::rule::{Effect, RuleId};

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `sallyport.dev/Grant`, `sallyport.dev/Rule`, `sallyport.dev/Final` and so on.
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
    /// A refusal that says one sentence.
    pub fn new(reason: Reason, sentence: impl Into<String>) -> Refusal {
        Refusal {
            reason,
            sentence: sentence.into(),
            lines: Vec::new(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            wait_seconds: None,
            causes: Vec::new(),
        }
    }

    pub(super) fn forbidden(action: &Action, reason: Reason, sentence: &str) -> Refusal {
        let sentence = format!("{} is forbidden: sallyport/{}: {sentence}", object(action), reason.as_str());
        Refusal::new(reason, sentence).about(action)
    }

    /// Says in `details` what was asked for.
    #[must_use]
    pub fn about(mut self, action: &Action) -> Refusal {
        if let Action::Resource(action) = action {
            self.group.clone_from(&action.group);
            self.kind.clone_from(&action.resource);
            self.name = action.name.clone().unwrap_or_default();
        }
        self
    }

    /// Adds a `key: value` line.
    #[must_use]
    pub fn line(mut self, key: &'static str, value: impl Into<String>) -> Refusal {
        self.lines.push((key, value.into()));
        self
    }

    /// Adds what is to be done next: a complete command or `stop`.
    #[must_use]
    pub fn next(self, value: impl Into<String>) -> Refusal {
        self.line("next", value)
    }

    pub(super) fn cause(
        mut self,
        reason: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Refusal {
        self.causes.push(Cause { reason, field: field.into(), message: message.into() });
        self
    }

    pub(super) fn rules<'a>(mut self, rules: impl IntoIterator<Item = &'a Arc<RuleId>>) -> Refusal {
        for rule in rules {
            self = self.cause("sallyport.dev/Rule", rule.to_string(), rule.effect.as_str());
        }
        self
    }

    pub(super) fn final_if(self, is_final: bool) -> Refusal {
        self.cause("sallyport.dev/Final", "", if is_final { "true" } else { "false" })
    }

    /// The lines, and what to do next where none of them says it.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let says_it = self.lines.iter().any(|(key, _)| matches!(*key, "next" | "instead" | "final"));
        let way_on = self.reason.way_on().filter(|_| !says_it).map(|way| ("next", way));
        self.lines.iter().map(|(key, value)| (*key, value.as_str())).chain(way_on)
    }

    /// The whole message as kubectl prints it after `Error from server (<Reason>): `.
    pub fn message(&self, request_id: &str) -> String {
        let mut text = self.sentence.clone();
        for (key, value) in self.lines().chain([("id", request_id)]) {
            for (at, line) in value.lines().enumerate() {
                let label = if at == 0 { format!("{key}:") } else { String::new() };
                text.push_str(&format!("\n  {label:<9}{line}"));
            }
        }
        text
    }
}

pub(super) const FINAL: &str = "yes. Retrying, waiting or asking for a grant cannot change this. Do not try another route to the same effect.";

const TO_BE_NAMED: &str = "A certificate is a login to the cluster, so only a rule that names group and resource reaches it; `*` does not.";

/// The refusal that a decision means by itself; `None` where it may run, or where a grant decides.
pub fn refuse(decision: &Decision) -> Option<Refusal> {
    let action = &*decision.judged();
    match decision.verdict() {
        Verdict::Allowed(_) | Verdict::NeedsApproval(_) => None,
        Verdict::Denied => Some(policy_denied(decision)),
        Verdict::NeedsWindow { max_window_seconds } => Some(window_required(decision, *max_window_seconds)),
        Verdict::NotAllowed => {
            let sentence =
                format!("no policy allows {} for {}.", full_deed(action), decision.agent().full_name());
            let refusal = about_creation(Refusal::forbidden(action, Reason::NotAllowed, &sentence), decision);
            let refusal = match action {
                Action::Resource(action) if must_be_named(action) => refusal.line("why", TO_BE_NAMED),
                Action::Resource(_) | Action::NonResource { .. } => refusal,
            };
            let refusal = refusal
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
            let refusal = Refusal::forbidden(action, Reason::PolicyBroken, &sentence)
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

/// Why an update or a patch is refused as a create (B96).
fn about_creation(refusal: Refusal, decision: &Decision) -> Refusal {
    match decision.judged() {
        Cow::Borrowed(_) => refusal,
        Cow::Owned(_) => refusal.line(
            "why",
            "A server-side apply, and for some kinds an update, creates the object where there is none, unless it names \
             metadata.uid; so it must be allowed to create too.",
        ),
    }
}

fn suspended(action: &Action, agent: &Agent) -> Refusal {
    Refusal::forbidden(action, Reason::AgentSuspended, &format!("{} is suspended.", agent.full_name()))
        .line("why", "An administrator has stopped this agent. Every request is refused.")
        .line("final", "yes, until an administrator resumes it. Retrying, waiting or asking for a grant cannot change this.")
        .line("next", "stop")
        .final_if(true)
}

fn policy_denied(decision: &Decision) -> Refusal {
    let action = &*decision.judged();
    let instead = format!("kubectl auth can-i --list{}", namespace_flag(action));
    let Some(rule) = decision.leading_rule() else {
        let sentence = format!("the gate itself denies {} here.", deed(action));
        let own_group = "An agent may read its own AccessGrants, create a Window for itself and delete its own; nothing else in \
                         this group, whatever any policy says.";
        let why = reserved(decision.agent(), action).unwrap_or(own_group);
        return Refusal::forbidden(action, Reason::PolicyDenied, &sentence)
            .line("why", why)
            .line("final", FINAL)
            .line("instead", instead)
            .cause("sallyport.dev/Rule", "built-in", Effect::Deny.as_str())
            .final_if(true);
    };
    let sentence = format!("{} denies {}.", source(&rule.policy, &rule.rule), deed(action));
    let mut refusal = Refusal::forbidden(action, Reason::PolicyDenied, &sentence);
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
    let (action, agent) = (&*decision.judged(), decision.agent());
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
    about_creation(Refusal::forbidden(action, Reason::WindowRequired, &sentence), decision)
        .line("next", next)
        .rules(offering)
        .final_if(false)
}
