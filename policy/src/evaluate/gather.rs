//! Everything that the rules say about an act, before it is weighed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::reserved::names_enough;
use crate::action::{Action, ResourceAction, Scope};
use crate::agent::Agent;
use crate::matcher::Matcher;
use crate::rule::{CompiledPolicy, CompiledRule, Effect, Mode, RuleId};

/// The most namespaces that a cluster-wide request is narrowed by; a policy that names more refuses it.
const MAX_EXCLUDED_NAMESPACES: usize = 200;

#[derive(Clone, Copy)]
pub(super) struct Hit<'a> {
    pub(super) policy: &'a CompiledPolicy,
    pub(super) rule: &'a Arc<CompiledRule>,
}

/// The rules that matched, by effect, each sorted and without doubles.
#[derive(Clone, Default)]
pub(super) struct Hits<'a> {
    pub(super) deny: Vec<Hit<'a>>,
    pub(super) approval: Vec<Hit<'a>>,
    pub(super) allow: Vec<Hit<'a>>,
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

    pub(super) fn and(mut self, other: &Hits<'a>) -> Hits<'a> {
        for hit in other.iter() {
            self.push(hit);
        }
        self.settle();
        self
    }

    fn iter(&self) -> impl Iterator<Item = Hit<'a>> + '_ {
        self.deny.iter().chain(&self.approval).chain(&self.allow).copied()
    }

    pub(super) fn ids(&self) -> Vec<Arc<RuleId>> {
        self.iter().map(|hit| Arc::clone(&hit.rule.id)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deny.is_empty() && self.approval.is_empty() && self.allow.is_empty()
    }
}

/// Everything that the rules say about an act.
#[derive(Default)]
pub(super) struct Gathered<'a> {
    enforced: Hits<'a>,
    pub(super) audited: Hits<'a>,
    pub(super) excluded: BTreeSet<&'a str>,
    pub(super) narrowed_by: Vec<Arc<RuleId>>,
}

impl<'a> Gathered<'a> {
    pub(super) fn of(agent: &'a Agent, action: &Action) -> Gathered<'a> {
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

    /// What Enforce policies say.
    pub(super) fn enforced(&self) -> Cow<'_, Hits<'a>> {
        Cow::Borrowed(&self.enforced)
    }

    /// What all policies say.
    pub(super) fn together(&self) -> Cow<'_, Hits<'a>> {
        Cow::Owned(self.enforced.clone().and(&self.audited))
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
        let allowed = matcher.must(action)
            && names_enough(matcher, action)
            && !rule.exclude.iter().any(|exclude| exclude.may(action));
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
