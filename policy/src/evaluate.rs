//! Decides one act of one agent: deny beats approval beats allow, silence is no.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::names;
use jiff::Timestamp;

use crate::action::{Action, ResourceAction, Scope, Verb};
use crate::agent::Agent;
use crate::approve::OpenWindow;
use crate::decision::{Authority, Decision, Obligations, Verdict, WouldHave};
use crate::mask::MaskRule;
use crate::matcher::Matcher;
use crate::permit::Permit;
use crate::rule::{CompiledPolicy, CompiledRule, Effect, Mode, RuleId};
use crate::terms::{PolicyTerms, Terms};

/// The most namespaces that a cluster-wide request is narrowed by; a policy that names more refuses it.
const MAX_EXCLUDED_NAMESPACES: usize = 200;

/// What the shell knows and the rules may need.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The time of the decision.
    pub now: Timestamp,
    /// The shell has seen `spec.suspend` itself (ruling on suspend); a suspended identity in the bundle counts too.
    pub suspended: bool,
    /// The open windows of this agent, from [`crate::approve::open_window`].
    pub windows: &'a [OpenWindow],
}

/// What an agent does with grants; the proxy serves it with its own ServiceAccount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAct {
    /// Get, list or watch: answers hold only its own.
    Read,
    /// Ask for a Window for itself.
    Create,
    /// Delete its own.
    Withdraw,
}

/// Decides an act.
///
/// Expected flow: called once when the request is parsed, and again with the current bundle when a hold is released.
/// Guarantees: the order of policies, rules and entries never matters; a Deny that matches is never outvoted; the
/// permit inside exists only where the verdict is [`Verdict::Allowed`]. A dry run is decided as the write it is; only
/// `serverDryRun: Allow` lets it pass a RequireApproval rule, and only where the same object may be read (H6).
pub fn evaluate(agent: &Arc<Agent>, action: &Arc<Action>, facts: &Facts<'_>) -> Decision {
    let mut gathered = Gathered::default();
    let verdict = match built_in(agent, action, facts) {
        Some(verdict) => verdict,
        None => {
            gathered = Gathered::of(agent, action);
            judge(agent, action, &gathered.enforced, facts)
        }
    };
    let would_have = gathered.would_have(agent, action, facts, &verdict);
    if matches!(verdict, Verdict::Denied | Verdict::NotAllowed) {
        gathered.excluded.clear();
        gathered.narrowed_by.clear();
    }
    let obligations = Obligations {
        masks: masks(agent, action),
        level: agent.level(),
        excluded_namespaces: gathered.excluded.iter().map(|namespace| (*namespace).into()).collect(),
    };
    let permit = match &verdict {
        Verdict::Allowed(authority) => {
            Some(Permit::mint(Arc::clone(agent), Arc::clone(action), authority.clone(), obligations.clone()))
        }
        Verdict::Suspended
        | Verdict::Broken(_)
        | Verdict::Denied
        | Verdict::NeedsApproval(_)
        | Verdict::NeedsWindow { .. }
        | Verdict::NotAllowed => None,
    };
    Decision {
        agent: Arc::clone(agent),
        action: Arc::clone(action),
        verdict,
        rules: gathered.enforced.ids(),
        narrowed_by: gathered.narrowed_by,
        obligations,
        would_have,
        permit,
    }
}

/// What the act means as an act on the agent's own grants; `None` for everything else, for a blocked agent, and for
/// every object of our group that is not the agent's to touch: those are refused by [`evaluate`].
///
/// The proxy still checks that a named grant is the agent's own and that a created one is a Window for itself.
pub fn own_grants(agent: &Agent, action: &Action, facts: &Facts<'_>) -> Option<GrantAct> {
    let Action::Resource(action) = action else {
        return None;
    };
    let is_grant =
        action.group == names::GROUP && action.resource == "accessgrants" && action.subresource.is_none();
    let is_home = matches!(&action.scope, Scope::Namespace(namespace) if namespace == agent.namespace());
    if !is_grant || !is_home || facts.suspended || agent.blocked().is_some() {
        return None;
    }
    match action.verb {
        Verb::Get | Verb::List | Verb::Watch => Some(GrantAct::Read),
        Verb::Create => Some(GrantAct::Create),
        Verb::Delete if action.name.is_some() => Some(GrantAct::Withdraw),
        Verb::Delete | Verb::Update | Verb::Patch | Verb::DeleteCollection => None,
    }
}

/// What no policy can change.
fn built_in(agent: &Agent, action: &Action, facts: &Facts<'_>) -> Option<Verdict> {
    let blocked = if facts.suspended { Some(Verdict::Suspended) } else { agent.blocked() };
    if blocked == Some(Verdict::Suspended) {
        return blocked;
    }
    match action {
        Action::NonResource { verb, path } if verb == "get" && is_always_open(path) => {
            Some(Verdict::Allowed(Authority::BuiltIn))
        }
        Action::Resource(_) | Action::NonResource { .. } if blocked.is_some() => blocked,
        Action::Resource(action) if action.group == names::GROUP => Some(Verdict::Denied),
        Action::Resource(_) | Action::NonResource { .. } => None,
    }
}

/// The paths that are always open (ruling on non-resource paths): version, discovery, OpenAPI, our own.
pub fn is_always_open(path: &str) -> bool {
    if matches!(path, "/version" | "/api" | "/apis" | "/api/v1" | "/openapi/v2" | "/openapi/v3") {
        return true;
    }
    if path.starts_with("/openapi/v3/") || path.starts_with("/sallyport/v1/") {
        return true;
    }
    path.strip_prefix("/apis/").is_some_and(|rest| {
        let parts: Vec<&str> = rest.split('/').collect();
        parts.len() <= 2 && parts.iter().all(|part| !part.is_empty())
    })
}

#[derive(Clone, Copy)]
struct Hit<'a> {
    policy: &'a CompiledPolicy,
    rule: &'a Arc<CompiledRule>,
}

/// The rules that matched, by effect, each sorted and without doubles.
#[derive(Clone, Default)]
struct Hits<'a> {
    deny: Vec<Hit<'a>>,
    approval: Vec<Hit<'a>>,
    allow: Vec<Hit<'a>>,
}

impl<'a> Hits<'a> {
    fn push(&mut self, hit: Hit<'a>) {
        match hit.rule.id.effect {
            Effect::Deny => self.deny.push(hit),
            Effect::RequireApproval => self.approval.push(hit),
            Effect::Allow => self.allow.push(hit),
        }
    }

    fn settle(&mut self) {
        for hits in [&mut self.deny, &mut self.approval, &mut self.allow] {
            hits.sort_by(|a, b| a.rule.id.cmp(&b.rule.id));
            hits.dedup_by(|a, b| Arc::ptr_eq(a.rule, b.rule));
        }
    }

    fn and(mut self, other: &Hits<'a>) -> Hits<'a> {
        for hit in other.iter() {
            self.push(hit);
        }
        self.settle();
        self
    }

    fn iter(&self) -> impl Iterator<Item = Hit<'a>> + '_ {
        self.deny.iter().chain(&self.approval).chain(&self.allow).copied()
    }

    fn ids(&self) -> Vec<Arc<RuleId>> {
        self.iter().map(|hit| Arc::clone(&hit.rule.id)).collect()
    }

    fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.approval.is_empty() && self.allow.is_empty()
    }
}

/// Everything that the rules say about an act, before it is weighed.
#[derive(Default)]
struct Gathered<'a> {
    enforced: Hits<'a>,
    audited: Hits<'a>,
    excluded: BTreeSet<&'a str>,
    narrowed_by: Vec<Arc<RuleId>>,
}

impl<'a> Gathered<'a> {
    fn of(agent: &'a Agent, action: &Action) -> Gathered<'a> {
        let mut gathered = Gathered::default();
        let mut narrowing: Vec<(Hit<'a>, Vec<&'a str>)> = Vec::new();
        for set in agent.sets() {
            set.visit_rules(action, |policy, rule, matcher| {
                let hit = Hit { policy, rule };
                match speaks(rule, matcher, action) {
                    Speech::Silent => {}
                    Speech::Matches => gathered.push(hit),
                    Speech::Narrows(namespaces) => narrowing.push((hit, namespaces)),
                }
            });
        }
        gathered.narrow(narrowing);
        gathered.enforced.settle();
        gathered.audited.settle();
        gathered
    }

    fn push(&mut self, hit: Hit<'a>) {
        match hit.policy.mode {
            Mode::Enforce => self.enforced.push(hit),
            Mode::Audit => self.audited.push(hit),
        }
    }

    /// Takes namespaces out of a cluster-wide request; where there are too many, the rules refuse it instead.
    fn narrow(&mut self, narrowing: Vec<(Hit<'a>, Vec<&'a str>)>) {
        let enforced = narrowing.iter().filter(|(hit, _)| hit.policy.mode == Mode::Enforce);
        let excluded: BTreeSet<&str> =
            enforced.clone().flat_map(|(_, namespaces)| namespaces).copied().collect();
        if excluded.len() > MAX_EXCLUDED_NAMESPACES {
            narrowing.into_iter().for_each(|(hit, _)| self.push(hit));
            return;
        }
        let mut ids: Vec<Arc<RuleId>> = enforced.map(|(hit, _)| Arc::clone(&hit.rule.id)).collect();
        ids.sort();
        ids.dedup();
        self.narrowed_by = ids;
        self.excluded = excluded;
    }

    fn would_have(
        &self,
        agent: &Agent,
        action: &Action,
        facts: &Facts<'_>,
        verdict: &Verdict,
    ) -> Option<WouldHave> {
        if self.audited.is_empty() {
            return None;
        }
        let together = self.enforced.clone().and(&self.audited);
        let would = judge(agent, action, &together, facts);
        (would != *verdict).then(|| WouldHave { verdict: would, rules: self.audited.ids() })
    }
}

enum Speech<'a> {
    Silent,
    Matches,
    Narrows(Vec<&'a str>),
}

/// One entry of one rule, by the may/must rule; `exclude` is read the other way round, so that it takes away from a
/// restrictive rule only what it names whole, and from a permissive one whatever it may touch.
fn speaks<'a>(rule: &'a CompiledRule, matcher: &'a Matcher, action: &Action) -> Speech<'a> {
    if !rule.id.effect.is_restrictive() {
        let allowed = matcher.must(action) && !rule.exclude.iter().any(|exclude| exclude.may(action));
        return if allowed { Speech::Matches } else { Speech::Silent };
    }
    if !matcher.may(action) || rule.exclude.iter().any(|exclude| exclude.must(action)) {
        return Speech::Silent;
    }
    let Some((resource_action, namespaces)) = narrowable(rule, matcher, action) else {
        return Speech::Matches;
    };
    let still_denied = |namespace: &&str| {
        let inside = in_namespace(resource_action, namespace);
        !rule.exclude.iter().any(|exclude| exclude.must(&inside))
    };
    let narrowed: Vec<&str> = namespaces.iter().map(|namespace| &**namespace).filter(still_denied).collect();
    if narrowed.is_empty() { Speech::Silent } else { Speech::Narrows(narrowed) }
}

fn narrowable<'a, 'b>(
    rule: &CompiledRule,
    matcher: &'a Matcher,
    action: &'b Action,
) -> Option<(&'b ResourceAction, &'a [Box<str>])> {
    let Action::Resource(action) = action else {
        return None;
    };
    if rule.id.effect != Effect::Deny {
        return None;
    }
    Some((action, matcher.narrows(action)?))
}

fn in_namespace(action: &ResourceAction, namespace: &str) -> Action {
    Action::Resource(ResourceAction { scope: Scope::Namespace(namespace.to_owned()), ..action.clone() })
}

/// Weighs what matched.
fn judge(agent: &Agent, action: &Action, hits: &Hits<'_>, facts: &Facts<'_>) -> Verdict {
    if !hits.deny.is_empty() {
        return Verdict::Denied;
    }
    if !hits.approval.is_empty() {
        let is_free = hits.approval.iter().all(|hit| hit.policy.approval.dry_run_is_free);
        return match is_free && is_harmless_dry_run(agent, action, facts) {
            true => Verdict::Allowed(Authority::DryRun),
            false => Verdict::NeedsApproval(merged_terms(&hits.approval)),
        };
    }
    if hits.allow.is_empty() {
        return Verdict::NotAllowed;
    }
    if hits.allow.iter().any(|hit| hit.policy.jit.is_none()) {
        return Verdict::Allowed(Authority::Rule);
    }
    let covering = facts.windows.iter().filter(|window| window.covers(agent, action, facts.now));
    match covering.max_by_key(|window| (window.until(), window.grant())) {
        Some(window) => {
            Verdict::Allowed(Authority::Window { grant: window.grant().into(), until: window.until() })
        }
        None => Verdict::NeedsWindow { max_window_seconds: longest_window(agent, &hits.allow) },
    }
}

fn longest_window(agent: &Agent, allow: &[Hit<'_>]) -> u32 {
    let merged = agent.window_terms().and_then(|terms| terms.max_window_seconds);
    let own = allow.iter().filter_map(|hit| hit.policy.jit).map(|jit| jit.max_window_seconds);
    merged.into_iter().chain(own).min().unwrap_or(0)
}

/// A dry run answers with the object, so it may pass only where a plain read of that object would run (H6).
fn is_harmless_dry_run(agent: &Agent, action: &Action, facts: &Facts<'_>) -> bool {
    let Action::Resource(action) = action else {
        return false;
    };
    if !action.dry_run {
        return false;
    }
    let read = Action::Resource(ResourceAction { verb: Verb::Get, dry_run: false, ..action.clone() });
    let gathered = Gathered::of(agent, &read);
    matches!(judge(agent, &read, &gathered.enforced, facts), Verdict::Allowed(_))
}

fn merged_terms(hits: &[Hit<'_>]) -> Terms {
    let mut policies: Vec<PolicyTerms> = Vec::new();
    for hit in hits {
        let rule = Arc::clone(&hit.rule.id.rule);
        match policies.last_mut() {
            Some(last) if last.policy == hit.policy.name && last.generation == hit.policy.generation => {
                last.rules.push(rule);
            }
            Some(_) | None => policies.push(PolicyTerms {
                policy: Arc::clone(&hit.policy.name),
                generation: hit.policy.generation,
                rules: vec![rule],
                min_approvals: hit.policy.approval.min_approvals,
                approvers: Arc::clone(&hit.policy.approval.approvers),
            }),
        }
    }
    let shortest =
        |seconds: fn(&CompiledPolicy) -> u32| hits.iter().map(|hit| seconds(hit.policy)).min().unwrap_or(0);
    Terms {
        policies,
        hold_seconds: shortest(|policy| policy.approval.hold_seconds),
        review_deadline_seconds: shortest(|policy| policy.approval.review_deadline_seconds),
        use_deadline_seconds: shortest(|policy| policy.approval.use_deadline_seconds),
        max_window_seconds: None,
    }
}

fn masks(agent: &Agent, action: &Action) -> Vec<Arc<MaskRule>> {
    let mut masks: Vec<Arc<MaskRule>> = Vec::new();
    for set in agent.sets() {
        set.visit_masks(action, |mask| masks.push(Arc::clone(&mask.rule)));
    }
    masks.sort();
    masks.dedup();
    masks
}
