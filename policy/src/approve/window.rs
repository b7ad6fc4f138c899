//! A window that is open: the only key to the Allow rules of a policy with `jit.mode: Required`.

use std::sync::Arc;

use crds::AccessGrant;
use crds::access_grant::GrantType;
use jiff::Timestamp;

use super::{ReviewFacts, Standing, approve, is_of};
use crate::action::Action;
use crate::agent::Agent;
use crate::matcher::Matcher;
use crate::validate;

/// A window that is open now. Only [`open_window`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenWindow {
    grant: Arc<str>,
    agent_uid: String,
    from: Timestamp,
    until: Timestamp,
    rules: Option<Vec<Matcher>>,
}

impl OpenWindow {
    /// Name of the AccessGrant.
    pub fn grant(&self) -> &str {
        &self.grant
    }

    /// When it opened.
    pub fn from(&self) -> Timestamp {
        self.from
    }

    /// Its absolute end.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// Whether it is this agent's and not over.
    pub(crate) fn is_open(&self, agent: &Agent, now: Timestamp) -> bool {
        self.agent_uid == agent.uid() && now < self.until
    }

    /// Whether it opens everything that the policies offer.
    pub(crate) fn opens_everything(&self, agent: &Agent, now: Timestamp) -> bool {
        self.is_open(agent, now) && self.rules.is_none()
    }

    /// What it is narrowed to; empty is everything.
    pub(crate) fn rules(&self) -> &[Matcher] {
        self.rules.as_deref().unwrap_or_default()
    }

    /// Whether the act falls inside: this agent's, not over, and everything that it touches is opened.
    pub(crate) fn covers(&self, agent: &Agent, action: &Action, now: Timestamp) -> bool {
        let opened = self.rules.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.must(action)));
        self.is_open(agent, now) && opened
    }
}

/// The window that a grant opens for the agent now, if it does: a Window of this agent, approved on the agent's
/// current terms, begun and not over, of a mode that is built.
pub fn open_window(agent: &Agent, grant: &AccessGrant, facts: &ReviewFacts<'_>) -> Option<OpenWindow> {
    let window = grant.spec.window.as_ref().filter(|_| grant.spec.r#type == GrantType::Window)?;
    if !is_of(agent, grant) {
        return None;
    }
    let rules = validate::window(window).ok()?;
    match approve(grant, agent.window_terms()?, facts) {
        Standing::Approved { from, until, .. } => Some(OpenWindow {
            grant: grant.metadata.name.as_deref()?.into(),
            agent_uid: agent.uid().to_owned(),
            from,
            until,
            rules,
        }),
        Standing::Waiting { .. }
        | Standing::Scheduled { .. }
        | Standing::Denied { .. }
        | Standing::Expired { .. }
        | Standing::Revoked { .. }
        | Standing::Used { .. } => None,
    }
}
