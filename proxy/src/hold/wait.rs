//! Waiting for a human: woken by every change, never asking in a loop.
use jiff::Timestamp;
use policy::approve::Standing;
use policy::terms::Terms;
use tokio::time::Instant;

use super::{Held, Hold, HoldError};

impl Hold {
    /// Waits until the grant of this name may have been decided, the policies changed, or `until`. `false` if time ran
    /// out, or this replica ends: the grant stays, and the same command finds it at another replica (F02). The followed copy only wakes: what follows is decided from a fresh read (D23).
    pub(super) async fn wait(
        &self,
        held: Held<'_>,
        name: &str,
        terms: &Terms,
        until: Instant,
    ) -> Result<bool, HoldError> {
        let mut changes = self.live.changes();
        let mut was_seen = false;
        loop {
            let glimpse = self.grants.glimpse(&held.caller.key.namespace, name);
            match self.standing(glimpse.as_deref(), terms)? {
                None if was_seen => return Ok(true),
                None => {}
                Some(Standing::Waiting { .. } | Standing::Scheduled { .. }) => was_seen = true,
                Some(_) => return Ok(true),
            }
            let decision = self.decider.decide(held.caller, held.action, Timestamp::now())?;
            if decision.terms() != Some(terms) {
                return Ok(true);
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(false);
                    }
                }
                () = tokio::time::sleep_until(until) => return Ok(false),
                () = self.drain.closed() => return Ok(false),
            }
        }
    }
}
