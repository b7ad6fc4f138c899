//! What was decided about one act, by which rules, and what the answer owes.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;

use crate::action::Action;
use crate::agent::Agent;
use crate::mask::MaskRule;
use crate::permit::Permit;
use crate::rule::{Level, RuleId};
use crate::terms::Terms;

/// Why an act may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Discovery and the other paths that are always open (ruling on non-resource paths).
    BuiltIn,
    /// An Allow rule.
    Rule,
    /// A RequireApproval rule whose policy lets a server-side dry run pass, where the object may be read (H6).
    DryRun,
    /// An Allow rule of a policy with `jit.mode: Required`, inside this window.
    Window {
        /// Name of the AccessGrant.
        grant: Arc<str>,
        /// Absolute end of the window.
        until: Timestamp,
    },
    /// A RequireApproval rule and this approved grant.
    Approval {
        /// Name of the AccessGrant.
        grant: Arc<str>,
        /// Who approved, in order of review.
        by: Vec<String>,
        /// The approval must be used before this.
        until: Timestamp,
    },
}

/// A policy that never compiled and therefore denies everything for the identities it selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokenPolicy {
    /// Name of the AccessPolicy.
    pub policy: Arc<str>,
    /// What is wrong with it: field path, position, reason.
    pub message: Arc<str>,
}

/// The outcome, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The identity is suspended.
    Suspended,
    /// A policy that selects the identity cannot be understood.
    Broken(BrokenPolicy),
    /// A Deny rule, or a built-in.
    Denied,
    /// A RequireApproval rule; the terms are those of every policy whose rule matched.
    NeedsApproval(Terms),
    /// It may run.
    Allowed(Authority),
    /// Only Allow rules of policies with `jit.mode: Required`, and no open window covers the act.
    NeedsWindow {
        /// Longest window that may be asked for, in seconds.
        max_window_seconds: u32,
    },
    /// Nothing matched.
    NotAllowed,
}

/// What the answer owes, whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obligations {
    /// Union of the masking rules that may concern the answer, sorted, without doubles.
    pub masks: Vec<Arc<MaskRule>>,
    /// Highest recording level among the identity's policies.
    pub level: Level,
    /// Namespaces to take out of a cluster-wide list or watch, each as `metadata.namespace!=<ns>` in the
    /// fieldSelector (ruling on `-A`); sorted, without doubles.
    pub excluded_namespaces: Vec<Box<str>>,
}

/// What the policies in Audit mode would have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldHave {
    /// The verdict with every Audit policy enforced.
    pub verdict: Verdict,
    /// The Audit rules that matched, sorted.
    pub rules: Vec<Arc<RuleId>>,
}

/// A decision about one act of one agent. Not cloneable: it holds at most one [`Permit`], which is taken once.
#[derive(Debug)]
pub struct Decision {
    pub(crate) agent: Arc<Agent>,
    pub(crate) action: Arc<Action>,
    pub(crate) verdict: Verdict,
    pub(crate) as_creation: bool,
    pub(crate) rules: Vec<Arc<RuleId>>,
    pub(crate) narrowed_by: Vec<Arc<RuleId>>,
    pub(crate) obligations: Obligations,
    pub(crate) would_have: Option<WouldHave>,
    pub(crate) permit: Option<Permit>,
}

impl Decision {
    /// Whose act it is.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// The act.
    pub fn action(&self) -> &Arc<Action> {
        &self.action
    }

    /// The outcome.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The act that the verdict is about: the act itself, or the create that an update or a patch may be (B96).
    pub fn judged(&self) -> Cow<'_, Action> {
        match &*self.action {
            Action::Resource(action) if self.as_creation => action
                .creation()
                .map_or(Cow::Borrowed(&*self.action), |creation| Cow::Owned(Action::Resource(creation))),
            Action::Resource(_) | Action::NonResource { .. } => Cow::Borrowed(&*self.action),
        }
    }

    /// Every Enforce rule that matched, of whatever effect: sorted by effect (Deny first), policy, rule. A Deny that
    /// only narrowed a cluster-wide list stands in [`Decision::narrowed_by`] instead.
    pub fn rules(&self) -> &[Arc<RuleId>] {
        &self.rules
    }

    /// The rule that a refusal or a record names first: the first of the strongest effect. `None` where no rule
    /// matched or a built-in spoke.
    pub fn leading_rule(&self) -> Option<&Arc<RuleId>> {
        self.rules.first()
    }

    /// The Deny rules that took namespaces out of the request.
    pub fn narrowed_by(&self) -> &[Arc<RuleId>] {
        &self.narrowed_by
    }

    /// What the answer owes.
    pub fn obligations(&self) -> &Obligations {
        &self.obligations
    }

    /// What Audit policies would have changed; `None` where the verdict would have been the same.
    pub fn would_have(&self) -> Option<&WouldHave> {
        self.would_have.as_ref()
    }

    /// The terms on which a human may let it run, if that is the verdict.
    pub fn terms(&self) -> Option<&Terms> {
        match &self.verdict {
            Verdict::NeedsApproval(terms) => Some(terms),
            Verdict::Suspended
            | Verdict::Broken(_)
            | Verdict::Denied
            | Verdict::Allowed(_)
            | Verdict::NeedsWindow { .. }
            | Verdict::NotAllowed => None,
        }
    }

    /// Takes the permit: `Some` once, and only where the verdict is [`Verdict::Allowed`].
    pub fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }
}
