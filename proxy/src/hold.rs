//! A decision becomes a permit: at once, or after a human's approval that is used exactly once.
mod bind;
mod own;
pub mod owned;
mod wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use crds::access_grant::{
    AccessGrant, AccessGrantSpec, AgentRef, GrantRequest, GrantType, RequestedBy, SubjectRef,
};
use crds::names;
use jiff::Timestamp;
use kube::api::ObjectMeta;
use parsing::request::Request;
use policy::action::Action;
use policy::approve::{ReviewFacts, Standing, approve, release};
use policy::decision::Decision;
use policy::explain::{
    GrantWords, Refusal, approval_denied, approval_expired, approval_pending, approval_void, too_many_pending,
};
use policy::grant::{self, Join, join};
use policy::permit::Permit;
use policy::terms::Terms;
use recording::event::Review;
use thiserror::Error;
use tokio::time::Instant;

use crate::authenticate::Caller;
use crate::decide::{DecideError, Decider};
use crate::drain::Drain;
use crate::forward::impersonation;
use crate::grants::{ConsumeError, CreateError, Grants};
use crate::live::Live;
use crate::record::{Durability, Session, Unavailable};
use crate::refuse::{self, Reason};
use crate::request_id::RequestId;
use crate::targets::Target;
use crate::upstream::Upstream;

pub use bind::BindError;
pub use own::{OwnError, serve_own};

use bind::Bound;

/// kubectl asks twice for some requests: after a hold has run out the same one is answered at once for this long.
const NOT_AGAIN: Duration = Duration::from_secs(10);
/// The most grants of one fingerprint that are looked at.
const MOST_NAMES: u32 = 256;
/// The most comparisons after the API server has seen another version (ruling on what an approval binds).
pub const MOST_COMPARISONS: u32 = 5;

/// A request that asks for a human.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    /// Who asks.
    pub caller: &'a Caller,
    /// Where it would run.
    pub target: &'a Target,
    /// What for, as it was read.
    pub request: &'a Request,
    /// The same as an act.
    pub action: &'a Arc<Action>,
    /// Its session.
    pub session: &'a Session,
    /// How durable its record must be before it is sent.
    pub durability: Durability,
    /// Its id.
    pub id: &'a RequestId,
}

/// A request that may run once.
#[derive(Debug)]
pub struct Released {
    /// Why.
    pub decision: Decision,
    permit: Option<Permit>,
    /// What runs: the request with its preconditions.
    pub request: Request,
    /// The grant that was used up; none where the policies changed meanwhile and no longer ask.
    pub grant: Option<String>,
    fingerprint: String,
}

impl Released {
    /// Takes the leave to run: `Some` once. What is left is what [`Hold::compare_again`] compares with.
    pub fn take_permit(&mut self) -> Option<Permit> {
        self.permit.take()
    }
}

/// Why a held request does not run.
#[derive(Debug, Error)]
pub enum HoldError {
    /// Refused in words.
    #[error("{}", .0.sentence)]
    Refused(Box<Refusal>),
    /// Nothing can be decided.
    #[error(transparent)]
    Decide(#[from] DecideError),
    /// It cannot be bound to an object.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admission policies around approvals do not stand (F19).
    #[error("approvals count for nothing: {0}")]
    Breached(Arc<str>),
    /// Grants cannot be read or written.
    #[error("the grants cannot be reached: {0}")]
    Unavailable(String),
    /// What would be sent cannot be recorded; the grant was not used (F07).
    #[error("an approved request cannot be recorded: {0}")]
    Unrecorded(#[from] Unavailable),
}

impl HoldError {
    /// What the client reads about the act that was held.
    pub fn refusal(&self, action: &Action) -> refuse::Refusal {
        let said = match self {
            HoldError::Refused(refusal) => return (**refusal).clone(),
            HoldError::Decide(error) => error.refusal(),
            HoldError::Unavailable(_) => refuse::Refusal::new(
                Reason::ServiceUnavailable,
                "sallyport/ServiceUnavailable: approvals cannot be read or written at the moment. Nothing was done.",
            ),
            HoldError::Breached(breach) => refuse::Refusal::new(
                Reason::ServiceUnavailable,
                format!("sallyport/ServiceUnavailable: approvals are switched off: {breach}. Nothing was done; the grant was not used."),
            )
            .next("ask an administrator to put Sallyport's admission policies back, then run the same command again"),
            HoldError::Unrecorded(_) => refuse::Refusal::new(
                Reason::RecordingUnavailable,
                "sallyport/RecordingUnavailable: this is approved, but it cannot be recorded at the moment, so it was not sent and the \
                 approval was not used up. Nothing was done.",
            )
            .next("run exactly the same command again later; the approval stays good until its deadline"),
            HoldError::Bind(error) => error.refusal(action),
        };
        said.about(action)
    }
}

impl From<kube::Error> for HoldError {
    fn from(error: kube::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<Refusal> for HoldError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// Holds requests until a human has decided.
pub struct Hold {
    decider: Decider,
    grants: Grants,
    hub: Arc<Upstream>,
    live: Live,
    drain: Drain,
    ran_out: Mutex<HashMap<String, Instant>>,
}

impl Hold {
    /// With the grants that `decider` decides from, which `hub` has. When `drain` closes the door, nobody is held any longer.
    pub fn new(decider: Decider, grants: Grants, hub: Arc<Upstream>, live: Live, drain: Drain) -> Self {
        Self { decider, grants, hub, live, drain, ran_out: Mutex::default() }
    }

    /// Waits for the approval of a request and uses it up.
    ///
    /// Expected flow: the request's decision asks for an approval; afterwards the intent is recorded, then the released
    /// request is forwarded. Guarantees: what was approved is what is released (D01); of all replicas one releases it
    /// (D03); policy is asked again with the bundle in force (D22); a grant that was used up is never used again, whatever
    /// happens afterwards (D04).
    ///
    /// # Errors
    /// [`HoldError`]: nothing was forwarded.
    pub async fn release(&self, held: Held<'_>, decision: Decision) -> Result<Released, HoldError> {
        let mut bound = self.bind(held).await?;
        let mut asking = Asking { n: 0, joined: None, until: self.hold_until(&decision, &bound) };
        let mut decision = decision;
        while asking.n < MOST_NAMES {
            let Some(terms) = decision.terms() else { return unasked(decision, held, &bound) };
            let name = grant::name(&held.caller.key.name, &bound.fingerprint, asking.n);
            let words = GrantWords { namespace: &held.caller.key.namespace, name: &name };
            let found = self.grants.read(&held.caller.key.namespace, &name).await?;
            let standing = self.standing(found.as_ref(), terms)?;
            let stored = found.as_ref().and_then(|grant| grant.spec.request.as_ref());
            let pair = stored.map(|request| request.fingerprint.as_str()).zip(standing.as_ref());
            let was_joined = asking.joined.as_deref() == Some(name.as_str());
            match join(pair, &bound.fingerprint, Timestamp::now()) {
                Join::Create if was_joined => {
                    return Err(approval_void(&decision, words, "It was withdrawn or deleted.").into());
                }
                Join::Create if found.is_some() => asking.n += 1,
                Join::Create => self.ask(held, &bound, &name, &decision).await?,
                Join::Wait => {
                    asking.joined = Some(name.clone());
                    if !self.wait(held, &name, terms, asking.until).await? {
                        self.note_run_out(&bound.fingerprint);
                        let until = review_deadline(standing.as_ref());
                        return Err(approval_pending(&decision, words, until).into());
                    }
                }
                Join::AnswerDenied => return Err(denied(&decision, words, standing.as_ref())),
                Join::TryNext if was_joined && !is_used(standing.as_ref()) => {
                    return Err(ended(&decision, words, standing.as_ref()));
                }
                Join::TryNext => asking.n += 1,
                Join::Use => {
                    asking.joined = Some(name.clone());
                    let now = self.bind(held).await?;
                    if now.fingerprint != bound.fingerprint {
                        (bound, asking.n, asking.joined) = (now, 0, None);
                    } else if let Some(grant) = found
                        && let Some(released) = self.consume(held, now, &grant).await?
                    {
                        return Ok(released);
                    }
                }
            }
            decision = self.decider.decide(held.caller, held.action, Timestamp::now())?;
        }
        Err(HoldError::Unavailable(format!("{MOST_NAMES} grants of this request are used up")))
    }

    /// Compares again after the API server answered 409: the version moved on between read and write, and nothing was
    /// done. At most [`MOST_COMPARISONS`] times.
    ///
    /// # Errors
    /// If the object is not the approved one any more. The grant stays used.
    pub async fn compare_again(&self, held: Held<'_>, before: &Released) -> Result<Released, HoldError> {
        let decision = self.decider.decide(held.caller, held.action, Timestamp::now())?;
        let bound = self.bind(held).await?;
        let Some(name) = &before.grant else { return unasked(decision, held, &bound) };
        let words = GrantWords { namespace: &held.caller.key.namespace, name };
        if bound.fingerprint != before.fingerprint {
            return Err(
                approval_void(&decision, words, "The object has changed since it was approved.").into()
            );
        }
        match self.grants.read(&held.caller.key.namespace, name).await? {
            Some(grant) => self.mint(held, bound, &grant, decision),
            None => Err(approval_void(&decision, words, "It was withdrawn or deleted.").into()),
        }
    }

    async fn bind(&self, held: Held<'_>) -> Result<Bound, HoldError> {
        let key = self.live.binding_key();
        let key = key.ok_or_else(|| HoldError::Unavailable("no binding key was received yet".to_owned()))?;
        let as_agent = impersonation(&held.caller.agent, held.session.name());
        let agent = held.caller.key.to_string();
        Ok(bind::bind(held, &agent, &as_agent, &key).await?)
    }

    fn standing(&self, found: Option<&AccessGrant>, terms: &Terms) -> Result<Option<Standing>, DecideError> {
        let outsiders = self.decider.outsiders()?;
        let facts = ReviewFacts { now: Timestamp::now(), outsiders: &outsiders };
        Ok(found.map(|grant| approve(grant, terms, &facts)))
    }

    /// Creates the grant; one that another replica has just created is as good.
    async fn ask(
        &self,
        held: Held<'_>,
        bound: &Bound,
        name: &str,
        decision: &Decision,
    ) -> Result<(), HoldError> {
        let Some(terms) = decision.terms() else { return Ok(()) };
        let waiting = self.waiting(held.caller, terms)?;
        let most = usize::try_from(held.caller.agent.limits().max_pending_grants).unwrap_or(0);
        if waiting.len() >= most {
            let names: Vec<&str> = waiting.iter().map(String::as_str).collect();
            return Err(too_many_pending(decision, &names).into());
        }
        let grant = grant_of(held, bound, name);
        match self.grants.create(&held.caller.key.namespace, &grant).await {
            Ok(_) | Err(CreateError::Exists) => Ok(()),
            Err(error @ CreateError::Unavailable(_)) => Err(HoldError::Unavailable(error.to_string())),
        }
    }

    /// The agent's grants that wait for a review, judged on these terms: whether a human has said anything is all that
    /// the count needs.
    fn waiting(&self, caller: &Caller, terms: &Terms) -> Result<Vec<String>, DecideError> {
        let outsiders = self.decider.outsiders()?;
        let facts = ReviewFacts { now: Timestamp::now(), outsiders: &outsiders };
        let all = self.grants.of(&caller.key);
        let waits =
            all.iter().filter(|grant| matches!(approve(grant, terms, &facts), Standing::Waiting { .. }));
        Ok(waits.filter_map(|grant| grant.metadata.name.clone()).collect())
    }

    /// Uses the grant up. `None`: somebody wrote it meanwhile, look again.
    async fn consume(
        &self,
        held: Held<'_>,
        bound: Bound,
        grant: &AccessGrant,
    ) -> Result<Option<Released>, HoldError> {
        let name = grant.metadata.name.clone().unwrap_or_default();
        let Some((_, by)) = self.usable(held, grant)? else { return Ok(None) };
        // Who approved is where the intent must be, before anything is used up: a store that is down burns no approval.
        held.session.review(reviews(&name, by), held.durability).await.inspect_err(|error| {
            tracing::warn!(id = %held.id, grant = name, %error, "an approved request cannot be recorded; its grant stays");
        })?;
        // That took its time: rules and walls must stand now.
        let Some((decision, _)) = self.usable(held, grant)? else { return Ok(None) };
        let swapped = self.grants.consume(grant, held.id, Timestamp::now()).await;
        let Some(read) = self.grants.read(&held.caller.key.namespace, &name).await? else { return Ok(None) };
        let by = read.status.as_ref().and_then(|status| status.consumed_by.as_deref());
        match swapped {
            _ if by == Some(held.id.as_str()) => self.mint(held, bound, &read, decision).map(Some),
            Ok(()) | Err(ConsumeError::Changed) => Ok(None),
            Err(error @ ConsumeError::Unavailable(_)) => Err(HoldError::Unavailable(error.to_string())),
        }
    }

    /// The decision that the grant is usable for, and who approved it; `None` if it is not.
    fn usable(
        &self,
        held: Held<'_>,
        grant: &AccessGrant,
    ) -> Result<Option<(Decision, Vec<String>)>, HoldError> {
        if let Some(breach) = self.live.breach() {
            return Err(HoldError::Breached(breach));
        }
        let decision = self.decider.decide(held.caller, held.action, Timestamp::now())?;
        let Some(terms) = decision.terms() else { return Ok(None) };
        match self.standing(Some(grant), terms)? {
            Some(Standing::Approved { by, .. }) => Ok(Some((decision, by))),
            Some(_) | None => Ok(None),
        }
    }

    fn mint(
        &self,
        held: Held<'_>,
        bound: Bound,
        grant: &AccessGrant,
        mut decision: Decision,
    ) -> Result<Released, HoldError> {
        let outsiders = self.decider.outsiders()?;
        let facts = ReviewFacts { now: Timestamp::now(), outsiders: &outsiders };
        let name = grant.metadata.name.clone().unwrap_or_default();
        match release(&mut decision, grant, &bound.fingerprint, held.id.as_str(), &facts) {
            Ok(permit) => {
                let request = with_preconditions(held.request, &bound)?;
                let fingerprint = bound.fingerprint;
                Ok(Released { decision, permit: Some(permit), request, grant: Some(name), fingerprint })
            }
            Err(error) => {
                tracing::info!(id = %held.id, grant = name, %error, "a used grant releases nothing");
                let words = GrantWords { namespace: &held.caller.key.namespace, name: &name };
                let why = "It was decided anew while it was being used; it stays used up.";
                Err(policy::explain::refuse(&decision)
                    .unwrap_or_else(|| approval_void(&decision, words, why))
                    .into())
            }
        }
    }

    /// How long to wait: once for each run of a command, not once for each protocol that kubectl tries.
    fn hold_until(&self, decision: &Decision, bound: &Bound) -> Instant {
        let now = Instant::now();
        let mut ran_out = self.ran_out.lock().unwrap_or_else(PoisonError::into_inner);
        ran_out.retain(|_, at| now.duration_since(*at) < NOT_AGAIN);
        let seconds = decision.terms().map_or(0, |terms| terms.hold_seconds);
        if ran_out.contains_key(&bound.fingerprint) {
            now
        } else {
            now + Duration::from_secs(u64::from(seconds))
        }
    }

    fn note_run_out(&self, fingerprint: &str) {
        let mut ran_out = self.ran_out.lock().unwrap_or_else(PoisonError::into_inner);
        ran_out.insert(fingerprint.to_owned(), Instant::now());
    }
}

/// Where a request stands in the row of its grants.
struct Asking {
    n: u32,
    joined: Option<String>,
    until: Instant,
}

fn reviews(grant: &str, by: Vec<String>) -> Vec<Review> {
    let review = |reviewer| Review {
        grant: grant.to_owned(),
        decision: "Approved".to_owned(),
        reviewer,
        note: String::new(),
    };
    by.into_iter().map(review).collect()
}

/// The policies in force do not ask any more: they allow, or they refuse.
fn unasked(mut decision: Decision, held: Held<'_>, bound: &Bound) -> Result<Released, HoldError> {
    if let Some(refusal) = policy::explain::refuse(&decision) {
        return Err(refusal.into());
    }
    let Some(permit) = decision.take_permit() else {
        return Err(HoldError::Unavailable("the decision carries no permit".to_owned()));
    };
    let request = with_preconditions(held.request, bound)?;
    Ok(Released {
        decision,
        permit: Some(permit),
        request,
        grant: None,
        fingerprint: bound.fingerprint.clone(),
    })
}

fn with_preconditions(request: &Request, bound: &Bound) -> Result<Request, BindError> {
    let mut request = request.clone();
    if let Some(object) = &bound.object
        && request.require(&object.uid, &object.resource_version)
            == parsing::precondition::Precondition::Impossible
    {
        return Err(BindError::NoObject);
    }
    Ok(request)
}

fn review_deadline(standing: Option<&Standing>) -> Timestamp {
    if let Some(Standing::Waiting { until, .. } | Standing::Scheduled { until, .. }) = standing {
        return *until;
    }
    Timestamp::now()
}

fn is_used(standing: Option<&Standing>) -> bool {
    matches!(standing, Some(Standing::Used { .. }))
}

fn denied(decision: &Decision, words: GrantWords<'_>, standing: Option<&Standing>) -> HoldError {
    match standing {
        Some(Standing::Denied { by, note, .. }) => {
            approval_denied(decision, words, by, note.as_deref()).into()
        }
        _ => ended(decision, words, standing),
    }
}

fn ended(decision: &Decision, words: GrantWords<'_>, standing: Option<&Standing>) -> HoldError {
    if let Some(Standing::Expired { of, at }) = standing {
        return approval_expired(decision, words, *of, *at).into();
    }
    let revoked = matches!(standing, Some(Standing::Revoked { .. }));
    let why = if revoked { "It was revoked." } else { "It was decided otherwise." };
    approval_void(decision, words, why).into()
}

fn grant_of(held: Held<'_>, bound: &Bound, name: &str) -> AccessGrant {
    let Held { caller, request, action, session, .. } = held;
    let labels = [
        (names::LABEL_AGENT, caller.key.name.as_str()),
        (names::LABEL_TYPE, "SingleRequest"),
        (names::LABEL_SESSION, session.name()),
        (names::LABEL_MANAGED_BY, names::MANAGED_BY),
    ];
    let query = request.query.canonical();
    let object = bound.object.as_ref();
    let asked = GrantRequest {
        generate_name: request.body.generate_name().map(str::to_owned),
        uid: object.map(|object| object.uid.clone()),
        object_hash: object.map(|object| object.hash.clone()),
        query: Some(query).filter(|query| !query.is_empty()),
        content_type: request.body.content_type().map(str::to_owned),
        body_digest: request.body.to_bytes().map(|bytes| sha256(&bytes)),
        fingerprint: bound.fingerprint.clone(),
        user_agent: request.headers.user_agent.clone(),
        ..grant::request_of(action)
    };
    let spec = AccessGrantSpec {
        agent_ref: AgentRef { name: caller.key.name.clone() },
        r#type: GrantType::SingleRequest,
        reason: String::new(),
        requested_by: Some(requested_by(caller)),
        window: None,
        request: Some(asked),
        reviews: Vec::new(),
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(caller.key.namespace.clone()),
        labels: Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        ..ObjectMeta::default()
    };
    AccessGrant { metadata, spec, status: None }
}

fn requested_by(caller: &Caller) -> RequestedBy {
    let subject = SubjectRef { name: caller.subject_name.to_string(), r#type: caller.subject.subject_type() };
    RequestedBy { username: caller.agent.username().to_owned(), subject: Some(subject) }
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
