//! A request that may pass: its intent is recorded, it is sent once, its answer is masked and followed to its end.
use std::sync::Arc;

use futures::FutureExt;
use http::{Response, StatusCode};
use jiff::Timestamp;
use parsing::body::Body as AskedBody;
use parsing::discovery::Discovery;
use parsing::request::Request as Asked;
use policy::action::{Action, Verb};
use policy::decision::{Authority, Decision, Obligations, Verdict};
use policy::evaluate::GrantAct;
use policy::explain;
use policy::mask::MaskRule;
use policy::permit::Permit;
use policy::rule::Level;
use recording::event::{Disposition, GrantChange, GrantEvent, MaskedBody};

use super::outcome::{self, Sort};
use super::{Climb, Climber, Known, note};
use crate::answer::{self, Asking, Question};
use crate::forward::{self, Answer, ForwardError};
use crate::hold::{Held, MOST_COMPARISONS, Released, owned, serve_own};
use crate::limits::StreamPlace;
use crate::mask::{Masked, Prepared};
use crate::record::{Durability, Ended, Pending};
use crate::refuse::{self, Body, Reason, Refusal};
use crate::streams::{Open, StreamEnd};
use crate::targets::joined::{self, Page};
use crate::telemetry::Stage;

/// What every step needs.
pub struct Pass<'a> {
    pub climb: &'a Climb,
    pub climber: &'a Climber,
    pub known: &'a Known,
    pub action: &'a Arc<Action>,
    pub discovery: &'a Discovery,
}

/// A request on the last stretch: whatever happens now ends in its outcome.
struct Sent {
    asked: Asked,
    prepared: Prepared,
    pending: Pending,
    stream: Option<StreamEnd>,
    authority: Option<Authority>,
    warnings: Vec<String>,
}

impl Pass<'_> {
    /// Sends what rules or a window allow.
    pub async fn at_once(&self, mut asked: Asked, mut decision: Decision) -> Result<Response<Body>, Refusal> {
        let as_agent = forward::impersonation(&self.climber.caller.agent, self.climber.session.name());
        owned::keep(&mut asked, &self.climber.target, &as_agent, &self.climb.id).await?;
        let permit = decision.take_permit().ok_or_else(no_permit)?;
        let excluded = &decision.obligations().excluded_namespaces;
        asked.query.exclude_namespaces(excluded.iter().map(|namespace| &**namespace));
        let prepared = self.prepare(&asked, &decision.obligations().masks)?;
        let place = self.place(&asked)?;
        let authority = permit.authority().clone();
        let pending = self.intent(&asked, Some(&decision), note::grant(&authority)).await?;
        if let Err(refusal) = self.still_stands(&decision) {
            return Ok(self.failed(pending, Disposition::Refused, refusal));
        }
        let owes = Some(decision.obligations().clone());
        let warnings = [explain::narrowed(&decision), explain::window_closes(&authority, Timestamp::now())];
        let warnings = warnings.into_iter().flatten().collect();
        let stream = self.stream(place, Some(&authority), owes);
        let sent = Sent { asked, prepared, pending, stream, authority: Some(authority), warnings };
        let answer = self.forward(permit, &sent.asked, &sent).await;
        Ok(self.finish(sent, answer).await)
    }

    /// Waits for a human, and sends what was approved.
    pub async fn held(&self, asked: &Asked, decision: Decision) -> Result<Response<Body>, Refusal> {
        let gate = &*self.climb.gate;
        self.prepare(asked, &decision.obligations().masks)?;
        let place = self.place(asked)?;
        let held = self.asking(asked);
        let started = std::time::Instant::now();
        let mut released = tokio::select! {
            released = gate.hold.release(held, decision) => {
                released.map_err(|error| self.not_released(&error.refusal(self.action)))?
            }
            () = self.climb.gone.cancelled() => return Err(client_left()),
        };
        gate.telemetry.stage(Stage::Hold, started.elapsed());
        gate.telemetry.approval_wait(started.elapsed());
        self.note_approval(&released);
        let permit = released.take_permit().ok_or_else(no_permit)?;
        let prepared = self.prepare(&released.request, &released.decision.obligations().masks)?;
        let authority = permit.authority().clone();
        let pending = self.intent(&released.request, Some(&released.decision), released.grant.clone()).await;
        let pending = pending.map_err(|refusal| match &released.grant {
            Some(grant) => refusal
                .line("grant", format!("{grant} was used up by this attempt, so a new approval is needed")),
            None => refusal,
        })?;
        if let Err(refusal) = self.still_stands(&released.decision) {
            return Ok(self.failed(pending, Disposition::Refused, refusal));
        }
        let owes = Some(released.decision.obligations().clone());
        let warnings = explain::approved(&authority).into_iter().collect();
        let asked = released.request.clone();
        let stream = self.stream(place, Some(&authority), owes);
        let sent = Sent { asked, prepared, pending, stream, authority: Some(authority), warnings };
        let answer = self.forward(permit, &sent.asked, &sent).await;
        match self.until_unmoved(held, released, answer, &sent).await {
            Ok(answer) => Ok(self.finish(sent, answer).await),
            Err(refusal) => Ok(self.failed(sent.pending, Disposition::Refused, refusal)),
        }
    }

    /// Serves the agent's own grants.
    pub async fn own(&self, asked: &Asked, act: GrantAct) -> Result<Response<Body>, Refusal> {
        let prepared = self.prepare(asked, &[])?;
        let place = self.place(asked)?;
        let pending = self.intent(asked, None, None).await?;
        let accept = prepared.accept();
        let answer = match serve_own(&self.climb.gate.hold, self.asking(asked), act, accept).await {
            Ok(answer) => Ok(answer),
            Err(crate::hold::OwnError::Forward(error)) => Err(error),
            Err(error) => {
                tracing::info!(id = %self.climb.id, %error, "own grants refused");
                return Ok(self.failed(pending, Disposition::Refused, error.refusal()));
            }
        };
        let (asked, stream) = (asked.clone(), self.stream(place, None, None));
        let sent = Sent { asked, prepared, pending, stream, authority: None, warnings: Vec::new() };
        Ok(self.finish(sent, answer).await)
    }

    /// Answers what is asked of the gate itself.
    pub async fn question(&self, asked: &Asked, question: Question<'_>) -> Result<Response<Body>, Refusal> {
        let gate = &*self.climb.gate;
        let _place = match question {
            Question::Wait(..) => Some(self.take_place()?),
            Question::Whoami
            | Question::Access(_)
            | Question::Rules(_)
            | Question::AccessDocument
            | Question::Explain(_)
            | Question::Instructions
            | Question::Index
            | Question::Unknown => None,
        };
        let pending = self.intent(asked, None, None).await?;
        let asking = Asking {
            caller: &self.climber.caller,
            session: self.climber.session.name(),
            id: &self.climb.id,
            request: asked,
            discovery: self.discovery,
            decider: &gate.decider,
            upstream: &self.climber.target.upstream,
            grants: &gate.grants,
            live: &gate.live,
            drain: &gate.drain,
        };
        match answer::answer(asking, question).await {
            Ok(masked) => Ok(self.followed(pending, masked, "Allowed")),
            Err(refusal) => Ok(self.failed(pending, Disposition::Refused, refusal)),
        }
    }

    fn followed(&self, pending: Pending, masked: Masked<Response<Body>>, decision: &str) -> Response<Body> {
        let telemetry = &self.climb.gate.telemetry;
        telemetry.request(&self.climber.caller.key.to_string(), decision, "");
        let status = masked.status();
        let (response, tally) = masked.into_parts();
        response
            .map(|body| outcome::followed(body, pending, status, tally, telemetry.clone(), Sort::default()))
    }

    fn asking<'b>(&'b self, asked: &'b Asked) -> Held<'b> {
        Held {
            caller: &self.climber.caller,
            target: &self.climber.target,
            request: asked,
            action: self.action,
            session: &self.climber.session,
            durability: self.durability(asked),
            id: &self.climb.id,
        }
    }

    /// What only reads is recorded on this replica's disk first, everything else in the store.
    fn durability(&self, asked: &Asked) -> Durability {
        let is_read = match &**self.action {
            Action::Resource(action) => action.verb.is_read() || asked.review().is_some(),
            Action::NonResource { verb, .. } => verb == "get",
        };
        if is_read { Durability::Spool } else { Durability::Store }
    }

    fn prepare(&self, asked: &Asked, masks: &[Arc<MaskRule>]) -> Result<Prepared, Refusal> {
        self.climb.gate.masks.prepare(asked, self.discovery, masks).map_err(|error| {
            tracing::error!(id = %self.climb.id, %error, "an answer could not be masked");
            error.refusal(false)
        })
    }

    /// One of the agent's places for open streams, if the request opens one.
    fn place(&self, asked: &Asked) -> Result<Option<StreamPlace>, Refusal> {
        if !asked.is_stream() {
            return Ok(None);
        }
        self.take_place().map(Some)
    }

    fn take_place(&self) -> Result<StreamPlace, Refusal> {
        let caller = &self.climber.caller;
        let most = u32::try_from(caller.agent.limits().max_concurrent_streams).unwrap_or(0);
        let place = self.climb.gate.limits.stream(&caller.key, most);
        place.ok_or_else(|| {
            let why =
                format!("sallyport/StreamDenied: agent {} already holds {most} open streams.", caller.key);
            Refusal::new(Reason::StreamDenied, why).next("end one of them, then run the command again")
        })
    }

    /// Registers what may go on for long: a watch, and every log, because a client that reads slowly makes it long.
    fn stream(
        &self,
        place: Option<StreamPlace>,
        authority: Option<&Authority>,
        owes: Option<Obligations>,
    ) -> Option<StreamEnd> {
        if place.is_none() && !is_log(self.action) {
            return None;
        }
        let open = Open {
            caller: self.climber.caller.clone(),
            action: Arc::clone(self.action),
            own_grants: authority.is_none(),
            authority: authority.cloned(),
            owes,
            id: self.climb.id.clone(),
        };
        Some(self.climb.gate.streams.open(open, place))
    }

    /// Makes the intent durable: nothing goes upstream before.
    async fn intent(
        &self,
        asked: &Asked,
        decision: Option<&Decision>,
        grant: Option<String>,
    ) -> Result<Pending, Refusal> {
        let started = std::time::Instant::now();
        let durability = self.durability(asked);
        let mut intent = self.known.intent(&self.climb.id, asked.canonical_target(), decision, grant);
        intent.role_session = self.climber.caller.session.as_deref().map(str::to_owned);
        if let Some(owed) = decision.map(Decision::obligations).filter(|owed| owed.level == Level::Request) {
            let body = self.climb.gate.masks.body(asked, self.discovery, &owed.masks);
            intent.body = body.map(MaskedBody::from_masked);
        }
        let pending = self.climber.session.intent(intent, durability, self.climb.arrived).await;
        self.climb.gate.telemetry.stage(Stage::Record, started.elapsed());
        pending.map_err(|error| super::unrecorded(&error))
    }

    /// The rules may have changed while the intent was written (F20): what is sent must be right at this moment.
    fn still_stands(&self, decision: &Decision) -> Result<(), Refusal> {
        let decider = &self.climb.gate.decider;
        let now = decider.decide(&self.climber.caller, self.action, Timestamp::now());
        let mut now = now.map_err(|error| error.refusal())?;
        if let Some(refusal) = explain::refuse(&now) {
            return Err(refusal);
        }
        let is_approved = matches!(decision.verdict(), Verdict::Allowed(Authority::Approval { .. }));
        let same_target = decider.same_target(&self.climber.caller).map_err(|error| error.refusal())?;
        let may_run = now.take_permit().is_some() || (is_approved && now.terms().is_some());
        if same_target && may_run && shows_the_same(now.obligations(), decision.obligations()) {
            return Ok(());
        }
        let why = "sallyport/ServiceUnavailable: the policies changed in this moment. Nothing was sent to the API server.";
        Err(Refusal::new(Reason::ServiceUnavailable, why).next("run the same command again"))
    }

    async fn forward(&self, permit: Permit, asked: &Asked, sent: &Sent) -> Result<Answer, ForwardError> {
        let (gate, session) = (&self.climb.gate, self.climber.session.name());
        let started = std::time::Instant::now();
        let accept = sent.prepared.accept();
        let (target, id) = (&self.climber.target, &self.climb.id);
        let page = Page::of(asked).filter(|_| target.is_remote());
        let answer = match page {
            Some(page) => {
                joined::answer(page, (target, gate.targets.hub()), permit, asked, accept, id).boxed()
            }
            None => forward::forward(&target.upstream, permit, asked, accept, session, id).boxed(),
        };
        let answer = match &sent.stream {
            // A followed log has no head before its first line.
            Some(stream) => tokio::select! {
                answer = answer => answer,
                refusal = stream.cut() => Err(ForwardError::Cut(refusal)),
            },
            None => answer.await,
        };
        gate.telemetry.stage(Stage::Forward, started.elapsed());
        answer
    }

    /// While the API server answers that the object moved on, compares it with the approved one and sends again.
    async fn until_unmoved(
        &self,
        held: Held<'_>,
        mut released: Released,
        mut answer: Result<Answer, ForwardError>,
        sent: &Sent,
    ) -> Result<Result<Answer, ForwardError>, Refusal> {
        for _ in 0..MOST_COMPARISONS {
            if !answer.as_ref().is_ok_and(|answer| moved_on(self.action, &sent.asked, answer.status)) {
                break;
            }
            let again = self.climb.gate.hold.compare_again(held, &released).await;
            released = again.map_err(|error| error.refusal(self.action))?;
            let permit = released.take_permit().ok_or_else(no_permit)?;
            answer = self.forward(permit, &released.request, sent).await;
        }
        Ok(answer)
    }

    /// Masks what came, and follows it to its end.
    async fn finish(&self, sent: Sent, answer: Result<Answer, ForwardError>) -> Response<Body> {
        let gate = &*self.climb.gate;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(id = %self.climb.id, %error, "no answer");
                return self.failed(sent.pending, disposition(&error), error.refusal());
            }
        };
        let started = std::time::Instant::now();
        let username = self.climber.caller.agent.username();
        let masked = sent.prepared.mask(answer, username, &self.climb.id).await;
        gate.telemetry.stage(Stage::Mask, started.elapsed());
        match masked {
            Ok(masked) => self.answered(sent, masked),
            Err(error) => {
                tracing::warn!(id = %self.climb.id, %error, "an answer is not passed on");
                let refusal = error.refusal(sent.prepared.is_write());
                let disposition =
                    if error.nothing_was_done() { Disposition::Failed } else { Disposition::Executed };
                self.failed(sent.pending, disposition, refusal)
            }
        }
    }

    fn answered(&self, sent: Sent, mut masked: Masked<Response<Body>>) -> Response<Body> {
        let gate = &*self.climb.gate;
        sent.warnings.iter().for_each(|text| masked.warn(text));
        let approved = matches!(&sent.authority, Some(Authority::Approval { .. }));
        let decision = if approved { "Approved" } else { "Allowed" };
        gate.telemetry.request(&self.climber.caller.key.to_string(), decision, "");
        let status = masked.status();
        let (response, tally) = masked.into_parts();
        let (head, mut body) = response.into_parts();
        let ending = sent.stream.as_ref().map(StreamEnd::ending);
        if let Some(stream) = sent.stream {
            body = stream.guard(body);
        }
        let sort = Sort { is_log: is_log(self.action), ending };
        let body = outcome::followed(body, sent.pending, status, tally, gate.telemetry.clone(), sort);
        Response::from_parts(head, body)
    }

    /// The end of a request whose intent is recorded and whose answer the gate makes.
    fn failed(&self, pending: Pending, disposition: Disposition, refusal: Refusal) -> Response<Body> {
        let reason = refusal.reason;
        self.climb.gate.telemetry.request(&self.climber.caller.key.to_string(), "Failed", reason.as_str());
        pending
            .finish(Ended { disposition, ..Ended::refused(refuse::code(reason).as_u16(), reason.as_str()) });
        refuse::answer(&refusal, &self.climb.id)
    }

    /// Which grant was used up, for the record; who approved is written before.
    fn note_approval(&self, released: &Released) {
        let session = &self.climber.session;
        if let (Verdict::Allowed(Authority::Approval { .. }), Some(grant)) =
            (released.decision.verdict(), &released.grant)
        {
            let (grant, request_id) = (grant.clone(), Some(self.climb.id.to_string()));
            session.grant(GrantEvent { grant, change: GrantChange::Consumed, request_id });
        }
    }

    /// Which grant is waited for, for the record.
    fn not_released(&self, refusal: &Refusal) -> Refusal {
        let cause = refusal.causes.iter().find(|cause| cause.reason == "sallyport.dev/Grant");
        if let (Reason::ApprovalPending, Some(cause)) = (refusal.reason, cause)
            && let Some(grant) = cause.field.rsplit('/').next()
        {
            let (grant, request_id) = (grant.to_owned(), Some(self.climb.id.to_string()));
            self.climber.session.grant(GrantEvent { grant, change: GrantChange::Requested, request_id });
        }
        refusal.clone()
    }
}

/// Whether two answers hide the same.
pub fn shows_the_same(one: &Obligations, other: &Obligations) -> bool {
    one.masks == other.masks && one.excluded_namespaces == other.excluded_namespaces
}

/// Whether the answer says that the bound object is another version by now: nothing was done then.
fn moved_on(action: &Action, asked: &Asked, status: StatusCode) -> bool {
    let Action::Resource(action) = action else { return false };
    let bound = action.name.is_some() && (action.verb != Verb::Create || action.subresource.is_some());
    let tested = matches!(asked.body, AskedBody::JsonPatch(_)) && status == StatusCode::UNPROCESSABLE_ENTITY;
    bound && (tested || status == StatusCode::CONFLICT)
}

/// Whether the answer is a container's log.
fn is_log(action: &Action) -> bool {
    matches!(action, Action::Resource(action) if action.subresource.as_deref() == Some("log"))
}

fn disposition(error: &ForwardError) -> Disposition {
    match error {
        ForwardError::Cut(_) => Disposition::Cut,
        ForwardError::AnotherAct
        | ForwardError::Expired
        | ForwardError::Target(_)
        | ForwardError::NotSent(_)
        | ForwardError::NotAnswered(_)
        | ForwardError::Unreadable(_) => Disposition::Failed,
        ForwardError::Unknown(_) => Disposition::Unknown,
        ForwardError::Redirect(_) | ForwardError::Switched => Disposition::Executed,
    }
}

fn no_permit() -> Refusal {
    Refusal::new(
        Reason::InternalError,
        "sallyport/InternalError: the gate failed. Nothing was sent to the API server.",
    )
}

fn client_left() -> Refusal {
    Refusal::new(
        Reason::ApprovalPending,
        "sallyport/ApprovalPending: the client left before a human decided.",
    )
}
