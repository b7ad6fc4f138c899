//! One identity with every policy that selects it, merged into an index that answers at once.

use std::sync::Arc;

use crds::agent_identity::{Limits, SessionSettings, Subject, TargetType};
use crds::names;

use crate::hash::short_hex;
use crate::index::EntryIndex;
use crate::oidc::Trust;
use crate::rule::{CompiledMask, CompiledPolicy, CompiledRule, Effect, Level, Mode};
use crate::shard::ShardIdentity;
use crate::terms::{PolicyTerms, Terms};
use crate::verdict::{BrokenPolicy, Verdict};

/// The longest role session name that AWS takes.
const ROLE_SESSION_NAME: usize = 64;
const HASH_DIGITS: usize = 16;

/// One identity, ready to be asked about. Immutable; a change of its policies makes a new one.
#[derive(Debug)]
pub struct Agent {
    identity: ShardIdentity,
    username: String,
    groups: Vec<String>,
    own: PolicySet,
    guardrails: Arc<PolicySet>,
    level: Level,
    window_terms: Option<Terms>,
    trusts: Vec<Arc<Trust>>,
}

impl PartialEq for Agent {
    /// The same identity object, whatever its policies.
    fn eq(&self, other: &Agent) -> bool {
        self.identity.uid == other.identity.uid
            && self.identity.namespace == other.identity.namespace
            && self.identity.name == other.identity.name
    }
}

impl Eq for Agent {}

impl Agent {
    pub(crate) fn new(identity: ShardIdentity, own: PolicySet, guardrails: Arc<PolicySet>) -> Agent {
        let username = username(&identity.namespace, &identity.name);
        let extra = identity.spec.target.in_cluster.iter().flat_map(|target| target.groups.iter().cloned());
        let groups = groups(&identity.namespace).into_iter().chain(extra).collect();
        let level = own.level.max(guardrails.level);
        let window_terms = window_terms([&own, &*guardrails]);
        // One that this program does not understand authenticates nobody.
        let trust = |entry: &Subject| Trust::new(&entry.name, entry.oidc.as_ref()?).map(Arc::new);
        let trusts = identity.spec.subjects.iter().filter_map(trust).collect();
        Agent { identity, username, groups, own, guardrails, level, window_terms, trusts }
    }

    /// Namespace of the AgentIdentity.
    pub fn namespace(&self) -> &str {
        &self.identity.namespace
    }

    /// Name of the AgentIdentity.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// `metadata.uid` of the AgentIdentity.
    pub fn uid(&self) -> &str {
        &self.identity.uid
    }

    /// `<namespace>/<name>`, as refusals write it.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.identity.namespace, self.identity.name)
    }

    /// The user that the target sees.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The groups that the target sees, besides `system:authenticated`, which the server adds.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The identity as published.
    pub fn identity(&self) -> &ShardIdentity {
        &self.identity
    }

    /// The OIDC entries of its subjects.
    pub fn trusts(&self) -> &[Arc<Trust>] {
        &self.trusts
    }

    /// Rate, pending and stream limits.
    pub fn limits(&self) -> &Limits {
        &self.identity.spec.limits
    }

    /// When a session ends.
    pub fn session(&self) -> &SessionSettings {
        &self.identity.spec.session
    }

    /// Whether the target sees one credential for all of its agents, and not this agent: everywhere but in the gate's own
    /// cluster, where agents are impersonated.
    pub fn shares_credential(&self) -> bool {
        self.identity.spec.target.r#type != TargetType::InCluster
    }

    /// Highest recording level of the policies.
    pub fn level(&self) -> Level {
        self.level
    }

    /// On which terms a Window opens; `None` where no policy with `jit.mode: Required` offers anything, so that there
    /// is nothing to ask for.
    pub fn window_terms(&self) -> Option<&Terms> {
        self.window_terms.as_ref()
    }

    /// Every policy of the identity, Audit ones included: the guardrails first.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        self.sets().into_iter().flat_map(|set| set.policies.iter())
    }

    /// The verdict that holds for every request, if there is one: suspended, or a broken policy.
    pub fn blocked(&self) -> Option<Verdict> {
        if self.identity.spec.suspend {
            return Some(Verdict::Suspended);
        }
        let broken = self.sets().into_iter().filter_map(|set| set.broken.as_ref()).min();
        broken.map(|broken| Verdict::Broken(broken.clone()))
    }

    pub(crate) fn sets(&self) -> [&PolicySet; 2] {
        [&self.guardrails, &self.own]
    }
}

/// `sallyport:agent:<namespace>:<name>`.
pub fn username(namespace: &str, name: &str) -> String {
    format!("{}{namespace}:{name}", names::USERNAME_PREFIX)
}

/// The groups of every agent of a namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![names::AGENTS_GROUP.to_owned(), format!("{}:{namespace}", names::AGENTS_GROUP)]
}

/// What the trust policy of a target role must demand: `sallyport/<hub>/<namespace>/<name>`. Nobody can set it, so that a
/// role that one agent may use is of no use to another (the confused deputy of AWS).
pub fn external_id(hub: &str, namespace: &str, name: &str) -> String {
    format!("sallyport/{hub}/{namespace}/{name}")
}

/// The session name of a target role: `<namespace>.<name>`, which neither of them can hold a dot in. AWS takes 64
/// characters; a longer one is cut, and told from others by a hash behind `_`, which no name holds either.
pub fn role_session_name(namespace: &str, name: &str) -> String {
    let whole = format!("{namespace}.{name}");
    if whole.len() <= ROLE_SESSION_NAME {
        return whole;
    }
    let kept: String = whole.chars().take(ROLE_SESSION_NAME - 1 - HASH_DIGITS).collect();
    format!("{kept}_{}", short_hex(whole.as_bytes(), HASH_DIGITS))
}

/// Policies merged into one index.
#[derive(Debug, Default)]
pub(crate) struct PolicySet {
    policies: Vec<Arc<CompiledPolicy>>,
    rules: Vec<(Arc<CompiledPolicy>, Arc<CompiledRule>)>,
    rule_index: EntryIndex,
    masks: Vec<Arc<CompiledMask>>,
    mask_index: EntryIndex,
    broken: Option<BrokenPolicy>,
    level: Level,
}

impl PolicySet {
    pub(crate) fn new(policies: Vec<Arc<CompiledPolicy>>, broken: Option<BrokenPolicy>) -> PolicySet {
        let mut set = PolicySet { broken, ..PolicySet::default() };
        for policy in &policies {
            set.add_rules(policy);
            if policy.mode == Mode::Enforce {
                set.add_masks(policy);
                set.level = set.level.max(policy.level);
            }
        }
        set.policies = policies;
        set
    }

    fn add_rules(&mut self, policy: &Arc<CompiledPolicy>) {
        for rule in &policy.rules {
            let owner = position(self.rules.len());
            for (at, matcher) in rule.matches.iter().enumerate() {
                let restrictive = rule.id.effect.is_restrictive();
                self.rule_index.add(owner, position(at), matcher, matcher.verbs, restrictive);
            }
            self.rules.push((Arc::clone(policy), Arc::clone(rule)));
        }
    }

    fn add_masks(&mut self, policy: &CompiledPolicy) {
        for mask in &policy.masks {
            let owner = position(self.masks.len());
            for (at, matcher) in mask.matches.iter().enumerate() {
                self.mask_index.add(owner, position(at), matcher, matcher.verbs.widened_for_answers(), true);
            }
            self.masks.push(Arc::clone(mask));
        }
    }

    /// Calls `visit` with every rule of which an entry can concern the act, once for each such entry.
    pub(crate) fn visit_rules<'a>(
        &'a self,
        action: &crate::action::Action,
        mut visit: impl FnMut(&'a CompiledPolicy, &'a Arc<CompiledRule>, &'a crate::matcher::Matcher),
    ) {
        self.rule_index.visit(action, |entry| {
            let rule = self.rules.get(entry.owner as usize);
            let found = rule
                .and_then(|(policy, rule)| Some((policy, rule, rule.matches.get(entry.matcher as usize)?)));
            if let Some((policy, rule, matcher)) = found {
                visit(policy, rule, matcher);
            }
        });
    }

    /// Calls `visit` with every mask that may concern the answer.
    pub(crate) fn visit_masks<'a>(
        &'a self,
        action: &crate::action::Action,
        mut visit: impl FnMut(&'a Arc<CompiledMask>),
    ) {
        self.mask_index.visit(action, |entry| {
            let mask = self.masks.get(entry.owner as usize);
            let found = mask.and_then(|mask| Some((mask, mask.matches.get(entry.matcher as usize)?)));
            if let Some((mask, _)) = found.filter(|(_, matcher)| matcher.answers(action)) {
                visit(mask);
            }
        });
    }

    /// Every masking rule that an author wrote, for lists of what an agent does not see.
    pub(crate) fn all_masks(&self) -> impl Iterator<Item = &CompiledMask> {
        self.masks.iter().map(|mask| &**mask).filter(|mask| !mask.implied)
    }

    /// Every rule, for lists of what an agent may do.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = (&CompiledPolicy, &CompiledRule)> {
        self.rules.iter().map(|(policy, rule)| (&**policy, &**rule))
    }
}

/// Rules and entries are counted far below 2^32: the schema bounds both.
fn position(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn window_terms(sets: [&PolicySet; 2]) -> Option<Terms> {
    let mut merged: Option<Terms> = None;
    for policy in sets.into_iter().flat_map(|set| &set.policies) {
        let offers = policy.rules.iter().any(|rule| rule.id.effect == Effect::Allow);
        let Some(jit) = policy.jit.filter(|_| offers && policy.mode == Mode::Enforce) else {
            continue;
        };
        let asked = PolicyTerms {
            policy: Arc::clone(&policy.name),
            generation: policy.generation,
            rules: Vec::new(),
            min_approvals: if jit.automatic { 0 } else { policy.approval.min_approvals },
            approvers: Arc::clone(&policy.approval.approvers),
        };
        let terms = Terms {
            policies: vec![asked],
            hold_seconds: policy.approval.hold_seconds,
            review_deadline_seconds: policy.approval.review_deadline_seconds,
            use_deadline_seconds: policy.approval.use_deadline_seconds,
            max_window_seconds: Some(jit.max_window_seconds),
        };
        merged = Some(match merged {
            None => terms,
            Some(merged) => merged.and(terms),
        });
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_session_name_is_what_aws_takes_and_nobody_elses() {
        assert_eq!(role_session_name("agents", "claude-code"), "agents.claude-code");
        let (namespace, name) = ("n".repeat(63), "a".repeat(40));
        let long = role_session_name(&namespace, &name);
        assert_eq!(long.len(), 64);
        assert!(long.starts_with(&format!("{}_", "n".repeat(47))), "{long}");
        assert_ne!(long, role_session_name(&namespace, &"b".repeat(40)));
        assert!(long.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)), "{long}");
    }

    #[test]
    fn an_external_id_names_hub_namespace_and_agent() {
        assert_eq!(external_id("hub-prod", "agents", "a"), "sallyport/hub-prod/agents/a");
    }
}
