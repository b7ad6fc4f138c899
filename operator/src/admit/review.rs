//! Reviewing a grant: whether this author may add this review now.

use crds::AccessGrant;
use crds::access_grant::{Review, ReviewDecision, UNAUTHENTICATED_REVIEWER};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::UserInfo;
use policy::approve::{ReviewFacts, Standing, approve};
use policy::reviewers::{Outsiders, Unfit};
use policy::terms::Terms;

use crate::judge;

const STAMP_AGE: SignedDuration = SignedDuration::from_secs(60);

/// What was read, freshly, about a grant under review.
pub struct Bench {
    /// The terms in force; none where nothing asks for the grant (any more).
    pub terms: Option<Terms>,
    /// Who may review nothing.
    pub outsiders: Outsiders,
    /// The author holds RBAC verb `approve` in the namespace.
    pub may_approve: bool,
}

/// The one new review of a request, if there is one.
///
/// # Errors
/// Words for whoever sent it: a review in another's name, or more than one at a time.
pub fn added<'a>(before: &[Review], after: &'a [Review], author: &str) -> Result<Option<&'a Review>, String> {
    let new: Vec<&Review> = after.iter().filter(|review| !before.contains(review)).collect();
    if let Some(forged) = new.iter().find(|review| review.reviewer != author) {
        let whose = &forged.reviewer;
        return Err(if whose == UNAUTHENTICATED_REVIEWER {
            "the review was not stamped with your name; send `decision` (and `note`) only".to_owned()
        } else {
            format!(
                "a review in the name of `{whose}` can only come from `{whose}`: `reviewer` is stamped and cannot be chosen"
            )
        });
    }
    match new.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err("one decision at a time: send one review in one request".to_owned()),
    }
}

/// Whether the author may add the review, and what to tell them if so.
///
/// *Assumptions*: `bench` was read for this request; `grant` is the object as it will be stored, `before` as it was.
///
/// # Errors
/// Words for the author.
pub fn admit(
    before: &AccessGrant,
    grant: &AccessGrant,
    review: &Review,
    author: &UserInfo,
    bench: &Bench,
    now: Timestamp,
) -> Result<String, String> {
    let name = author.username.as_deref().unwrap_or_default();
    let requester = grant.spec.requested_by.as_ref().map(|by| by.username.as_str());
    if is_agent(author) {
        return Err(Unfit::Agent.to_string());
    }
    bench.outsiders.check(name, requester).map_err(|unfit| unfit.to_string())?;
    if !bench.may_approve {
        let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
        return Err(format!(
            "user `{name}` needs the RBAC verb `approve` on accessgrants.sallyport.dev in namespace `{namespace}`"
        ));
    }
    let groups = author.groups.clone().unwrap_or_default();
    let stamp = match (&bench.terms, review.decision) {
        (Some(terms), _) => {
            bench.outsiders.admit(name, &groups, requester, terms).map_err(|unfit| unfit.to_string())?
        }
        (None, ReviewDecision::Approved) => {
            return Err(
                "no policy in force asks for this approval (any more), so nothing can be approved".to_owned()
            );
        }
        (None, ReviewDecision::Denied | ReviewDecision::Revoked) => Vec::new(),
    };
    check_stamp(review, &stamp, now)?;
    let terms = bench.terms.clone().unwrap_or_else(judge::nobody_asks);
    let facts = ReviewFacts { now, outsiders: &bench.outsiders };
    check_open(&approve(before, &terms, &facts))?;
    Ok(word(review, name, &terms, &approve(grant, &terms, &facts)))
}

/// Whether the user carries a group that only agents have.
pub fn is_agent(author: &UserInfo) -> bool {
    let of_namespace = format!("{}:", crds::names::AGENTS_GROUP);
    let groups = author.groups.iter().flatten();
    groups.into_iter().any(|group| group == crds::names::AGENTS_GROUP || group.starts_with(&of_namespace))
}

fn check_stamp(review: &Review, groups: &[String], now: Timestamp) -> Result<(), String> {
    let fresh = review.review_time.as_ref().is_some_and(|at| now.duration_since(at.0).abs() <= STAMP_AGE);
    if fresh && review.groups == groups {
        return Ok(());
    }
    Err("the review was not stamped as it should be; send `decision` (and `note`) only, and try again"
        .to_owned())
}

// What is over cannot be reviewed: a decision that changes nothing must not look as if it did.
fn check_open(standing: &Standing) -> Result<(), String> {
    match standing {
        Standing::Waiting { .. } | Standing::Scheduled { .. } | Standing::Approved { .. } => Ok(()),
        Standing::Denied { by, .. } => {
            Err(format!("the grant was denied by `{by}`; the agent has to ask again"))
        }
        Standing::Expired { at, .. } => Err(format!("the grant expired at {at}; the agent has to ask again")),
        Standing::Revoked { by: Some(by), .. } => {
            Err(format!("the grant was revoked by `{by}`; the agent has to ask again"))
        }
        Standing::Revoked { by: None, .. } => Err("the grant is being deleted".to_owned()),
        Standing::Used { request_id } => {
            Err(format!("the grant was used by request `{request_id}`; the agent has to ask again"))
        }
    }
}

fn word(review: &Review, author: &str, terms: &Terms, standing: &Standing) -> String {
    match (review.decision, standing) {
        (ReviewDecision::Denied, _) => format!("denial recorded for {author}; the grant cannot be used"),
        (ReviewDecision::Revoked, _) => {
            format!("revocation recorded for {author}; the grant can no longer be used")
        }
        (ReviewDecision::Approved, Standing::Waiting { progress, .. }) => {
            let furthest = progress.iter().max_by_key(|policy| policy.needed.saturating_sub(policy.have));
            let (have, needed, name) =
                furthest.map_or((0, 0, ""), |policy| (policy.have, policy.needed, &*policy.policy));
            format!("approval recorded for {author}; {have} of {needed} required by policy `{name}`")
        }
        (ReviewDecision::Approved, _) => {
            let needed = terms.policies.iter().map(|policy| policy.min_approvals).max().unwrap_or(0);
            format!("approval recorded for {author}; {needed} of {needed} required")
        }
    }
}
