//! Decides one act of one agent: deny beats approval beats allow, silence is no.

mod built_in;
mod gather;
mod reserved;
mod shared;

use std::borrow::Cow;
use std::sync::Arc;

use crds::AccessGrant;
use crds::access_grant::GrantType;
use jiff::Timestamp;

use crate::action::{Action, ResourceAction, Verb};
use crate::agent::Agent;
use crate::approve::{OpenWindow, is_of};
use crate::decision::Decision;
use crate::grant::action_of;
use crate::mask::MaskRule;
use crate::permit::Permit;
use crate::rule::CompiledPolicy;
use crate::terms::{PolicyTerms, Terms};
use crate::verdict::{Authority, Obligations, Verdict, WouldHave};

pub use built_in::{GrantAct, is_always_open, own_grants};
pub(crate) use reserved::must_be_named;
pub use reserved::reserved;

use gather::{Gathered, Hit, Hits};

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

/// Decides an act.
///
/// Expected flow: called once when the request is parsed, and again with the current bundle when a hold is released.
/// Guarantees: the order of policies, rules and entries never matters; a Deny that matches is never outvoted; the
/// permit inside exists only where the verdict is [`Verdict::Allowed`]. A dry run is decided as the write it is; only
/// `serverDryRun: Allow` lets it pass a RequireApproval rule, and only where the same object may be read (H6). An act
/// that may create must hold as a create too (B96).
pub fn evaluate(agent: &Arc<Agent>, action: &Arc<Action>, facts: &Facts<'_>) -> Decision {
    let (weighed, heard) = match built_in::verdict(agent, action, facts) {
        Some(verdict) => (Weighed { verdict, as_creation: false }, None),
        None => {
            let heard = Heard::of(agent, action);
            (weigh(agent, action, &heard, facts, Gathered::enforced), Some(heard))
        }
    };
    let Weighed { verdict, as_creation } = weighed;
    let would_have = heard.as_ref().and_then(|heard| would_have(agent, action, heard, facts, &verdict));
    let rules = heard.as_ref().map(|heard| heard.both(Gathered::enforced).ids()).unwrap_or_default();
    let (excluded, narrowed_by) = match (&verdict, heard) {
        (Verdict::Denied | Verdict::NotAllowed, _) | (_, None) => Default::default(),
        (_, Some(heard)) => (heard.act.excluded, heard.act.narrowed_by),
    };
    let obligations = Obligations {
        masks: masks(agent, action),
        level: agent.level(),
        excluded_namespaces: excluded.iter().map(|namespace| (*namespace).into()).collect(),
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
        as_creation,
        rules,
        narrowed_by,
        obligations,
        would_have,
        permit,
    }
}

/// The terms that hold for a grant under the bundle in force, for the operator's mirror and the webhook: those of the
/// agent's windows, or those on which the request is held now. `None` where nothing asks for an approval (any more).
pub fn terms_of(agent: &Arc<Agent>, grant: &AccessGrant, facts: &Facts<'_>) -> Option<Terms> {
    if !is_of(agent, grant) {
        return None;
    }
    match grant.spec.r#type {
        GrantType::Window => agent.window_terms().cloned(),
        GrantType::SingleRequest => {
            let action = Arc::new(action_of(grant.spec.request.as_ref()?)?);
            evaluate(agent, &action, facts).terms().cloned()
        }
    }
}

struct Weighed {
    verdict: Verdict,
    /// The verdict is about the create that the act may be.
    as_creation: bool,
}

/// What the rules say about an act, and about the create that it may be.
struct Heard<'a> {
    act: Gathered<'a>,
    creation: Option<(Action, Gathered<'a>)>,
}

impl<'a> Heard<'a> {
    fn of(agent: &'a Agent, action: &Action) -> Heard<'a> {
        let creation = match action {
            Action::Resource(action) => action.creation().map(Action::Resource),
            Action::NonResource { .. } => None,
        };
        let creation = creation.map(|creation| {
            let gathered = Gathered::of(agent, &creation);
            (creation, gathered)
        });
        Heard { act: Gathered::of(agent, action), creation }
    }

    fn both(&self, pick: impl for<'b> Fn(&'b Gathered<'a>) -> Cow<'b, Hits<'a>>) -> Cow<'_, Hits<'a>> {
        match &self.creation {
            None => pick(&self.act),
            Some((_, created)) => Cow::Owned(pick(&self.act).into_owned().and(&pick(created))),
        }
    }
}

fn weigh<'a>(
    agent: &'a Agent,
    action: &Action,
    heard: &Heard<'a>,
    facts: &Facts<'_>,
    pick: impl for<'b> Fn(&'b Gathered<'a>) -> Cow<'b, Hits<'a>>,
) -> Weighed {
    let verdict = judge(agent, action, &pick(&heard.act), facts);
    let Some((creation, created)) = &heard.creation else {
        return Weighed { verdict, as_creation: false };
    };
    let as_created = judge(agent, creation, &pick(created), facts);
    let as_creation = severity(&as_created) > severity(&verdict);
    let verdict = match (verdict, as_created) {
        (Verdict::NeedsApproval(_), Verdict::NeedsApproval(_)) => {
            Verdict::NeedsApproval(merged_terms(&heard.both(pick).approval))
        }
        (Verdict::Allowed(one), Verdict::Allowed(other)) => Verdict::Allowed(shorter(one, other)),
        (_, as_created) if as_creation => as_created,
        (verdict, _) => verdict,
    };
    Weighed { verdict, as_creation }
}

/// What enforcing the Audit policies too would change.
fn would_have(
    agent: &Agent,
    action: &Action,
    heard: &Heard<'_>,
    facts: &Facts<'_>,
    verdict: &Verdict,
) -> Option<WouldHave> {
    let audited = heard.both(|gathered| Cow::Borrowed(&gathered.audited));
    if audited.is_empty() {
        return None;
    }
    let would = weigh(agent, action, heard, facts, Gathered::together);
    (would.verdict != *verdict).then(|| WouldHave { verdict: would.verdict, rules: audited.ids() })
}

/// The harder to overcome, the higher.
fn severity(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Allowed(_) => 0,
        Verdict::NeedsApproval(_) => 1,
        Verdict::NeedsWindow { .. } => 2,
        Verdict::NotAllowed => 3,
        Verdict::Denied => 4,
        Verdict::Broken(_) => 5,
        Verdict::Suspended => 6,
    }
}

/// Of two authorities the one that ends, or ends first.
fn shorter(one: Authority, other: Authority) -> Authority {
    match (&one, &other) {
        (Authority::Window { until, .. }, Authority::Window { until: end, .. }) if end < until => other,
        (Authority::Window { .. }, _) => one,
        (_, Authority::Window { .. } | Authority::DryRun) => other,
        (_, _) => one,
    }
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
    matches!(judge(agent, &read, &gathered.enforced(), facts), Verdict::Allowed(_))
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
