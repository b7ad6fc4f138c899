//! What was decided about one act, by which rules, and what the answer owes.

use std::borrow::Cow;
use std::sync::Arc;

use crate::action::Action;
use crate::agent::Agent;
use crate::permit::Permit;
use crate::rule::RuleId;
use crate::terms::Terms;

pub use crate::verdict::{Authority, BrokenPolicy, Obligations, Verdict, WouldHave};

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
