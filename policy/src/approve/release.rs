//! A grant that was used up by a request mints that request's permit.

use std::sync::Arc;

use crds::AccessGrant;
use crds::access_grant::GrantType;

use super::{ReviewFacts, Standing, is_of, unconsumed};
use crate::decision::{Authority, Decision, Verdict};
use crate::permit::Permit;

/// Why a consumed grant releases nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReleased {
    /// The decision does not ask for an approval (any more): it is refused, or carries its own permit.
    #[error("the request is not held for approval")]
    NotHeld,
    /// The grant is another agent's, another request's, or no SingleRequest.
    #[error("the grant is not for this request")]
    AnotherRequest,
    /// The grant was not consumed by this request.
    #[error("the grant was not consumed by this request")]
    NotConsumed,
    /// The grant does not stand as approved.
    #[error("the grant is not approved now")]
    NotApproved(Standing),
}

/// Mints the permit of a held request.
///
/// Expected flow: the decision is a fresh one from the bundle in force (D22); the grant was read again after
/// `status.consumedBy` was set to this request's id by compare-and-swap (D03, D23). Guarantees: one request id, one
/// fingerprint, one permit; the deadline is checked at `now` (D18).
///
/// # Errors
/// [`NotReleased`]; nothing may be forwarded then, and the grant stays used.
pub fn release(
    decision: &mut Decision,
    grant: &AccessGrant,
    fingerprint: &str,
    request_id: &str,
    facts: &ReviewFacts<'_>,
) -> Result<Permit, NotReleased> {
    let Verdict::NeedsApproval(terms) = &decision.verdict else {
        return Err(NotReleased::NotHeld);
    };
    let stored = grant.spec.request.as_ref().map(|request| request.fingerprint.as_str());
    if grant.spec.r#type != GrantType::SingleRequest
        || stored != Some(fingerprint)
        || !is_of(&decision.agent, grant)
    {
        return Err(NotReleased::AnotherRequest);
    }
    let consumed_by = grant.status.as_ref().and_then(|status| status.consumed_by.as_deref());
    if request_id.is_empty() || consumed_by != Some(request_id) {
        return Err(NotReleased::NotConsumed);
    }
    let (by, until) = match unconsumed(grant, terms, facts) {
        Standing::Approved { by, until, .. } => (by, until),
        other @ (Standing::Waiting { .. }
        | Standing::Scheduled { .. }
        | Standing::Denied { .. }
        | Standing::Expired { .. }
        | Standing::Revoked { .. }
        | Standing::Used { .. }) => return Err(NotReleased::NotApproved(other)),
    };
    let name: Arc<str> = grant.metadata.name.as_deref().unwrap_or_default().into();
    let authority = Authority::Approval { grant: name, by, until };
    decision.verdict = Verdict::Allowed(authority.clone());
    Ok(Permit::mint(
        Arc::clone(&decision.agent),
        Arc::clone(&decision.action),
        authority,
        decision.obligations.clone(),
    ))
}
