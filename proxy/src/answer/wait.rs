//! Waiting for the decision about one of the agent's own grants, without a watch: the end of the time is an answer too.
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parsing::query::Query;
use policy::approve::{ReviewFacts, Standing, approve, is_of};
use policy::decision::Verdict;
use policy::evaluate::{Facts, terms_of};
use policy::explain::{self, GrantDocument};
use tokio::time::Instant;

use super::Asking;
use crate::hold::OwnError;
use crate::refuse::{Reason, Refusal};

/// Fits under the time-outs of agents' shells and of load balancers.
const USUAL: u64 = 50;
const LONGEST: u64 = 300;

impl Asking<'_> {
    /// Where the grant stands once it is decided, or when the time is over: the agent's token ends, or this replica does.
    ///
    /// *Guarantees*: only a grant of this agent is told of; what is told was read from the API server (D23); nothing is
    /// asked in a loop.
    ///
    /// # Errors
    /// If the agent has no such grant, or may ask nothing any more.
    pub(super) async fn wait(&self, name: &str, query: &Query) -> Result<GrantDocument, Refusal> {
        let mut changes = self.live.changes();
        let until = Instant::now() + self.patience(query);
        let mut document = self.look(name).await?;
        while !document.decided {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = tokio::time::sleep_until(until) => break,
                () = self.drain.closed() => break,
            }
            self.may_still_ask()?;
            if self.glimpse(name)? {
                document = match self.look(name).await {
                    Err(refusal) if refusal.reason == Reason::NotFound => {
                        explain::gone_grant(&self.caller.key.namespace, name)
                    }
                    seen => seen?,
                };
            }
        }
        Ok(document)
    }

    fn patience(&self, query: &Query) -> Duration {
        let asked = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(USUAL);
        let asked = Duration::from_secs(asked.min(LONGEST));
        let token = self.caller.token_expires.map(|end| end.duration_since(Timestamp::now()));
        token.map_or(asked, |left| asked.min(Duration::try_from(left).unwrap_or_default()))
    }

    /// The kill switch, and policies that nobody understands, end the wait.
    fn may_still_ask(&self) -> Result<(), Refusal> {
        let decision = self.decide(&Arc::new(self.request.action.clone()))?;
        match decision.verdict() {
            Verdict::Suspended => explain::refuse(&decision).map_or(Ok(()), Err),
            Verdict::Broken(_)
            | Verdict::Denied
            | Verdict::NeedsApproval(_)
            | Verdict::Allowed(_)
            | Verdict::NeedsWindow { .. }
            | Verdict::NotAllowed => Ok(()),
        }
    }

    /// Whether the followed copy says that something was decided, or is gone: worth a fresh read.
    fn glimpse(&self, name: &str) -> Result<bool, Refusal> {
        let Some(grant) = self.grants.glimpse(&self.caller.key.namespace, name) else { return Ok(true) };
        Ok(!matches!(self.standing(&grant)?, Some(Standing::Waiting { .. })))
    }

    async fn look(&self, name: &str) -> Result<GrantDocument, Refusal> {
        let not_found = || OwnError::NotFound(name.to_owned()).refusal();
        // It becomes part of a path.
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !name.chars().all(is_name) || name.starts_with('.') {
            return Err(not_found());
        }
        let read = self.grants.read(&self.caller.key.namespace, name).await;
        let found = read.map_err(|error| OwnError::Unavailable(error.to_string()).refusal())?;
        let grant = found.filter(|grant| is_of(&self.caller.agent, grant)).ok_or_else(not_found)?;
        Ok(explain::grant(&grant, self.standing(&grant)?.as_ref()))
    }

    /// `None`: no policy asks for it any more.
    fn standing(&self, grant: &crds::AccessGrant) -> Result<Option<Standing>, Refusal> {
        if let Some(request_id) = grant.status.as_ref().and_then(|status| status.consumed_by.clone()) {
            return Ok(Some(Standing::Used { request_id }));
        }
        let now = Timestamp::now();
        let agent = self.decider.agent(self.caller).map_err(|error| error.refusal())?;
        let outsiders = self.decider.outsiders().map_err(|error| error.refusal())?;
        let windows = self.decider.windows(self.caller, &agent, now).map_err(|error| error.refusal())?;
        let terms = terms_of(&agent, grant, &Facts { now, suspended: false, windows: &windows });
        Ok(terms.map(|terms| approve(grant, &terms, &ReviewFacts { now, outsiders: &outsiders })))
    }
}
