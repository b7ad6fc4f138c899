//! An act becomes a decision of the bundle in force.
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use policy::action::Action;
use policy::agent::Agent;
use policy::approve::{OpenWindow, ReviewFacts, open_window};
use policy::decision::Decision;
use policy::evaluate::{Facts, evaluate};
use policy::reviewers::Outsiders;
use thiserror::Error;

use crate::authenticate::Caller;
use crate::grants::Grants;
use crate::live::{AgentKey, Live, NotLive, Standing};
use crate::refuse::{Reason, Refusal};

/// Why nothing could be decided.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecideError {
    /// No bundle to decide from.
    #[error(transparent)]
    NotLive(#[from] NotLive),
    /// The identity was deleted, or is another object by now.
    #[error("the agent identity {0} is gone")]
    Gone(String),
}

impl DecideError {
    /// What the client reads.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(Reason::ServiceUnavailable, format!("sallyport/ServiceUnavailable: {self}."))
    }
}

/// Decides from what is in force at the moment of asking. Cloning shares everything.
#[derive(Clone)]
pub struct Decider {
    live: Live,
    grants: Grants,
    namespace: Arc<str>,
    outsiders: Arc<ArcSwapOption<(String, Arc<Outsiders>)>>,
}

impl Decider {
    /// `namespace` is the one that operator and proxy run in.
    pub fn new(live: Live, grants: Grants, namespace: &str) -> Self {
        Self { live, grants, namespace: namespace.into(), outsiders: Arc::default() }
    }

    /// Decides one act of the caller.
    ///
    /// *Guarantees*: bundle, kill switch and windows are those of now, not those of the caller's authentication (D22).
    ///
    /// # Errors
    /// If there is no bundle, or no such identity any more.
    pub fn decide(
        &self,
        caller: &Caller,
        action: &Arc<Action>,
        now: Timestamp,
    ) -> Result<Decision, DecideError> {
        let agent = self.agent(caller)?;
        let suspended = self.live.standing(&caller.key, agent.uid()) != Standing::Good;
        let windows = self.windows(caller, &agent, now)?;
        Ok(evaluate(&agent, action, &Facts { now, suspended, windows: &windows }))
    }

    /// The caller's agent in the bundle in force.
    ///
    /// # Errors
    /// As [`Decider::decide`].
    pub fn agent(&self, caller: &Caller) -> Result<Arc<Agent>, DecideError> {
        let bundle = self.live.bundle()?;
        let agent = bundle.agent(&caller.key.namespace, &caller.key.name);
        match agent.filter(|agent| agent.uid() == caller.agent.uid()) {
            Some(agent) => Ok(Arc::clone(agent)),
            None => Err(DecideError::Gone(caller.key.to_string())),
        }
    }

    /// Whether the caller's requests still go to the cluster, by the credential, that they went to when it came.
    ///
    /// # Errors
    /// As [`Decider::decide`].
    pub fn same_target(&self, caller: &Caller) -> Result<bool, DecideError> {
        Ok(self.agent(caller)?.identity().spec.target == caller.agent.identity().spec.target)
    }

    /// The windows of the caller that are open now: none while the admission policies do not stand (F19).
    ///
    /// # Errors
    /// As [`Decider::decide`].
    pub fn windows(
        &self,
        caller: &Caller,
        agent: &Agent,
        now: Timestamp,
    ) -> Result<Vec<OpenWindow>, DecideError> {
        if self.live.breach().is_some() {
            return Ok(Vec::new());
        }
        let outsiders = self.outsiders()?;
        let facts = ReviewFacts { now, outsiders: &outsiders };
        let grants = self.grants.of(&caller.key);
        Ok(grants.iter().filter_map(|grant| open_window(agent, grant, &facts)).collect())
    }

    /// Whether this grant opens a window for the agent now. Where that cannot be told, it counts as open: this ends
    /// sessions, it decides nothing.
    pub fn is_open(&self, key: &AgentKey, grant: &str, now: Timestamp) -> bool {
        let (Ok(bundle), Ok(outsiders)) = (self.live.bundle(), self.outsiders()) else { return true };
        let Some(agent) = bundle.agent(&key.namespace, &key.name) else { return true };
        let facts = ReviewFacts { now, outsiders: &outsiders };
        let grant = self.grants.glimpse(&key.namespace, grant);
        grant.is_some_and(|grant| open_window(agent, &grant, &facts).is_some())
    }

    /// Who may review nothing: gathered once for each bundle.
    ///
    /// # Errors
    /// If there is no bundle.
    pub fn outsiders(&self) -> Result<Arc<Outsiders>, DecideError> {
        let bundle = self.live.bundle()?;
        if let Some(kept) = self.outsiders.load().as_ref().filter(|kept| kept.0 == bundle.hash()) {
            return Ok(Arc::clone(&kept.1));
        }
        let outsiders = Arc::new(Outsiders::new(&self.namespace, bundle.subjects()));
        self.outsiders.store(Some(Arc::new((bundle.hash().to_owned(), Arc::clone(&outsiders)))));
        Ok(outsiders)
    }
}
