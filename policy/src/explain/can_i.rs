//! `kubectl auth can-i` and `--list`: what a decision means before the deed.

use super::words::{deed, full_deed, one_line, source};
use crate::agent::Agent;
use crate::decision::{Decision, Verdict};
use crate::evaluate::{Facts, reserved};
use crate::matcher::{Matcher, Target};
use crate::rule::{CompiledPolicy, CompiledRule, Effect, Mode};

/// The API's own tri-state: allowed, denied for good, or neither, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessAnswer {
    /// It would run now.
    pub allowed: bool,
    /// Nothing can make it run.
    pub denied: bool,
    /// No rule offers it, so that nobody can be asked for it either.
    pub never: bool,
    /// kubectl prints it after `no - `.
    pub reason: String,
}

/// The answer to a SelfSubjectAccessReview for the act of the decision. The target's RBAC may still say no.
pub fn can_i(decision: &Decision) -> AccessAnswer {
    let (action, agent) = (&*decision.judged(), decision.agent());
    let rule = decision.leading_rule();
    let by_rule = rule.map(|rule| source(&rule.policy, &rule.rule)).unwrap_or_default();
    let (allowed, denied, reason) = match decision.verdict() {
        Verdict::Allowed(_) if decision.narrowed_by().is_empty() => (true, false, String::new()),
        Verdict::Allowed(_) => {
            let left_out: Vec<&str> =
                decision.obligations().excluded_namespaces.iter().map(|ns| &**ns).collect();
            (true, false, format!("without namespaces {}", left_out.join(", ")))
        }
        Verdict::NeedsApproval(_) => (
            false,
            false,
            format!("needs human approval ({by_rule}): run the command; it pauses until a human decides"),
        ),
        Verdict::NeedsWindow { .. } => (
            false,
            false,
            format!(
                "needs an open window ({by_rule}): how to ask for one: kubectl get --raw /sallyport/v1/access"
            ),
        ),
        Verdict::NotAllowed => {
            (false, false, format!("no policy allows {} for {}", full_deed(action), agent.full_name()))
        }
        Verdict::Suspended => (false, true, format!("{} is suspended", agent.full_name())),
        Verdict::Broken(broken) => (
            false,
            true,
            format!("policy \"{}\" cannot be understood: {}", broken.policy, one_line(&broken.message)),
        ),
        Verdict::Denied => {
            let why = match rule {
                Some(rule) => rule.message.as_deref().map(one_line),
                None => reserved(agent, action).map(str::to_owned),
            };
            let why = why.map(|why| format!(": {why}"));
            let who = if rule.is_some() { by_rule } else { "the gate itself".to_owned() };
            (false, true, format!("{who} denies {}{}", deed(action), why.unwrap_or_default()))
        }
    };
    let never = matches!(decision.verdict(), Verdict::NotAllowed);
    AccessAnswer { allowed, denied, never, reason }
}

/// Of a SelfSubjectRulesReview.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceRule {
    /// Request verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub api_groups: Vec<String>,
    /// Resources, as rules write them.
    pub resources: Vec<String>,
    /// Object names; empty is all.
    pub resource_names: Vec<String>,
}

/// Of a SelfSubjectRulesReview.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NonResourceRule {
    /// Lower-case HTTP methods, or `*`.
    pub verbs: Vec<String>,
    /// Paths, `*` only as the last character.
    pub non_resource_urls: Vec<String>,
}

/// The answer to a SelfSubjectRulesReview: what would run now in one namespace and in cluster scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesAnswer {
    /// Sorted, without doubles.
    pub resource_rules: Vec<ResourceRule>,
    /// Sorted, without doubles.
    pub non_resource_rules: Vec<NonResourceRule>,
    /// The list does not say everything.
    pub incomplete: bool,
    /// What it does not say; kubectl prints it as a warning.
    pub evaluation_error: String,
}

/// What the agent may do now in the namespace: its Allow rules, and how many rules such a list cannot express.
pub fn list_rules(agent: &Agent, namespace: &str, facts: &Facts<'_>) -> RulesAnswer {
    let mut answer = RulesAnswer::default();
    if let Some(blocked) = super::access::blocked(agent, facts) {
        answer.incomplete = true;
        answer.evaluation_error = blocked;
        return answer;
    }
    let mut counts = Counts::default();
    let window_is_open = facts.windows.iter().any(|window| window.opens_everything(agent, facts.now));
    for (policy, rule) in agent.sets().into_iter().flat_map(|set| set.all_rules()) {
        let matching: Vec<&Matcher> =
            rule.matches.iter().filter(|matcher| concerns(matcher, namespace)).collect();
        if policy.mode == Mode::Audit || matching.is_empty() {
            continue;
        }
        if counts.count(policy, rule, window_is_open) {
            matching.into_iter().for_each(|matcher| answer.add(matcher));
        }
    }
    answer.resource_rules.sort();
    answer.resource_rules.dedup();
    answer.non_resource_rules.extend([built_in()]);
    answer.non_resource_rules.sort();
    answer.non_resource_rules.dedup();
    if let Some(text) = counts.text() {
        answer.incomplete = true;
        answer.evaluation_error = text;
    }
    answer
}

impl RulesAnswer {
    fn add(&mut self, matcher: &Matcher) {
        let words = super::access::entry_words(matcher);
        match &matcher.target {
            Target::Resources { .. } => self.resource_rules.push(ResourceRule {
                verbs: words.verbs,
                api_groups: words.api_groups,
                resources: words.resources,
                resource_names: words.resource_names,
            }),
            Target::Paths { .. } => self
                .non_resource_rules
                .push(NonResourceRule { verbs: words.verbs, non_resource_urls: words.non_resource_urls }),
        }
    }
}

fn built_in() -> NonResourceRule {
    let urls = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/*",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/*",
        "/sallyport/v1/*",
    ];
    NonResourceRule {
        verbs: vec!["get".to_owned()],
        non_resource_urls: urls.into_iter().chain(["/version"]).map(str::to_owned).collect(),
    }
}

/// Whether an entry says something about the namespace or cluster scope.
fn concerns(matcher: &Matcher, namespace: &str) -> bool {
    match &matcher.target {
        Target::Paths { .. } => true,
        Target::Resources { namespaces, .. } => {
            namespaces.any || namespaces.cluster || namespaces.names(namespace)
        }
    }
}

#[derive(Default)]
struct Counts {
    approval: usize,
    deny: usize,
    window: usize,
    exceptions: usize,
}

impl Counts {
    /// Counts what a list cannot say; true where the rule's entries belong into it.
    fn count(&mut self, policy: &CompiledPolicy, rule: &CompiledRule, window_is_open: bool) -> bool {
        let counter = match rule.id.effect {
            Effect::Deny => &mut self.deny,
            Effect::RequireApproval => &mut self.approval,
            Effect::Allow if policy.jit.is_some() && !window_is_open => &mut self.window,
            Effect::Allow if !rule.exclude.is_empty() => &mut self.exceptions,
            Effect::Allow => return true,
        };
        *counter = counter.saturating_add(1);
        rule.id.effect == Effect::Allow && (policy.jit.is_none() || window_is_open)
    }

    /// `2 rules need human approval and 1 rule denies; full answer: ...`
    fn text(&self) -> Option<String> {
        let say = |count: usize, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 rule {one}")),
            count => Some(format!("{count} rules {many}")),
        };
        let parts: Vec<String> = [
            say(self.approval, "needs human approval", "need human approval"),
            say(self.window, "needs an open window", "need an open window"),
            say(self.deny, "denies", "deny"),
            say(self.exceptions, "has exceptions", "have exceptions"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let (last, first) = parts.split_last()?;
        let listed = if first.is_empty() { last.clone() } else { format!("{} and {last}", first.join(", ")) };
        Some(format!("{listed}; full answer: kubectl get --raw /sallyport/v1/access"))
    }
}
