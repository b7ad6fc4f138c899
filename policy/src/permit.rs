//! The proof that one act of one agent was decided: without it nothing can be forwarded.

use std::sync::Arc;

use jiff::Timestamp;

use crate::action::Action;
use crate::agent::Agent;
use crate::verdict::{Authority, Obligations};

/// Leave to do one act once. Only [`crate::evaluate`] and [`crate::approve`] mint one; whoever forwards consumes it by
/// value. It cannot be cloned and has no public constructor.
///
/// ```compile_fail
/// let permit = policy::permit::Permit { };
/// ```
/// ```compile_fail
/// fn twice(permit: policy::permit::Permit) -> (policy::permit::Permit, policy::permit::Permit) {
///     (permit.clone(), permit)
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    agent: Arc<Agent>,
    action: Arc<Action>,
    authority: Authority,
    obligations: Obligations,
}

impl Permit {
    pub(crate) fn mint(
        agent: Arc<Agent>,
        action: Arc<Action>,
        authority: Authority,
        obligations: Obligations,
    ) -> Permit {
        Permit { agent, action, authority, obligations }
    }

    /// Whose act it is: user name, groups and target of the request that goes upstream.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// The act that may run; nothing else may.
    pub fn action(&self) -> &Arc<Action> {
        &self.action
    }

    /// Why it may run.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// What the answer owes.
    pub fn obligations(&self) -> &Obligations {
        &self.obligations
    }

    /// The absolute moment from which the permit is worth nothing: a stream that it opened is cut then, and a request
    /// that has not been sent is not sent (D18). `None` where only rules speak. An approval bounds the start of its
    /// one request, a window also the life of its streams.
    pub fn expires(&self) -> Option<Timestamp> {
        match &self.authority {
            Authority::Window { until, .. } | Authority::Approval { until, .. } => Some(*until),
            Authority::BuiltIn | Authority::Rule | Authority::DryRun => None,
        }
    }

    /// Whether the permit is still worth something at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires().is_none_or(|until| now < until)
    }
}
