//! One request, from accept to record.
mod note;
mod oracle;
mod outcome;
mod pass;
mod secret;
mod shared;
mod still;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use jiff::Timestamp;
use parsing::header;
use parsing::request::Request as Asked;
use policy::action::Action;
use policy::decision::Verdict;
use policy::evaluate::{Facts, GrantAct, own_grants};
use policy::explain;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{Crowded, Session as Connection};
use crate::answer::Question;
use crate::authenticate::{AuthenticateError, Authenticator, Caller};
use crate::decide::Decider;
use crate::denials::Denials;
use crate::drain::Drain;
use crate::grants::Grants;
use crate::hold::Hold;
use crate::limits::{Limits, RequestPlace};
use crate::live::Live;
use crate::mask::Masks;
use crate::parse::parse;
use crate::record::{Ended, Recorder, Session, Unavailable};
use crate::refuse::{self, Body, Reason, Refusal};
use crate::request_id::RequestId;
use crate::streams::Streams;
use crate::targets::{Target, Targets};
use crate::telemetry::{Stage, Telemetry};
use note::Known;
use pass::Pass;

pub use still::Asker;

/// Everything that a request needs on its way.
pub struct Gate {
    /// What the API server says now.
    pub live: Live,
    /// Step 2.
    pub authenticator: Authenticator,
    /// How much an agent may do at once.
    pub limits: Limits,
    /// Step 4.
    pub decider: Decider,
    /// Step 5.
    pub hold: Hold,
    /// What humans have granted.
    pub grants: Grants,
    /// Where requests go.
    pub targets: Arc<Targets>,
    /// Step 7.
    pub masks: Masks,
    /// Step 8.
    pub recorder: Recorder,
    /// Open watches and followed logs.
    pub streams: Streams,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Whom the gate refused, for Events.
    pub denials: Denials,
    /// How far the replica's end has come.
    pub drain: Drain,
    /// Requests that go on when their client leaves (F30).
    pub writes: TaskTracker,
}

/// Serves one request.
///
/// *Guarantees*: an answer, whatever happens; a write goes on when its client leaves, once it was sent (F30); a panic
/// ends the request and nothing else (F29).
pub async fn serve(gate: Arc<Gate>, connection: Connection, request: Request<Incoming>) -> Response<Body> {
    let id = RequestId::new();
    let gone = CancellationToken::new();
    let _gone_when_dropped = gone.clone().drop_guard();
    let is_read = request.method() == Method::GET;
    let path = request.uri().path().to_owned();
    let (drain, writes) = (gate.drain.clone(), gate.writes.clone());
    let climb = Climb { gate, connection, id: id.clone(), gone, arrived: Instant::now() }.run(request);
    let climbed = if is_read {
        AssertUnwindSafe(climb).catch_unwind().await.ok()
    } else {
        let until_cut = async move {
            tokio::select! {
                answer = climb => Some(answer),
                () = drain.over() => None,
            }
        };
        match writes.spawn(until_cut).await {
            Ok(Some(answer)) => Some(answer),
            Ok(None) => return refuse::answer(&refuse::cut_off(), &id),
            Err(_) => None,
        }
    };
    let answer = climbed.unwrap_or_else(|| {
        tracing::error!(%id, "a request panicked");
        refuse::answer(&Refusal::new(Reason::InternalError, "sallyport/InternalError: the gate failed."), &id)
    });
    refuse::readable(answer, &path)
}

/// One request on its way up.
struct Climb {
    gate: Arc<Gate>,
    connection: Connection,
    id: RequestId,
    /// The client has left.
    gone: CancellationToken,
    arrived: Instant,
}

/// Who climbs, once that is known.
struct Climber {
    caller: Caller,
    session: Session,
    /// Its connection is one too many.
    crowded: Option<Crowded>,
    target: Arc<Target>,
}

impl Climb {
    async fn run(self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut known = Known::of(&head);
        let climber = match self.enter(&head).await {
            Ok(climber) => climber,
            Err(refusal) => {
                self.gate.telemetry.request("", "Refused", refusal.reason.as_str());
                if refusal.reason == Reason::Unauthorized {
                    self.connection.end_soon();
                }
                return refuse::answer(&refusal, &self.id);
            }
        };
        let mut place = None;
        match self.climb(&climber, &head, body, &mut known, &mut place).await {
            Ok(mut response) => {
                if let Some(place) = place {
                    response.extensions_mut().insert(Arc::new(place));
                }
                response
            }
            Err(refusal) => {
                let mut answer = self.refused(&climber, &known, &refusal).await;
                let is_unreadable = refusal.reason == Reason::BadRequest
                    || head.headers.contains_key(http::header::UPGRADE)
                    || header::check(head.version, &head.headers).is_err();
                if is_unreadable && head.version != Version::HTTP_2 {
                    // Bytes that follow such a request are nobody's (B126): of another framing, or of another protocol.
                    answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        }
    }

    /// Steps 1 and 2, and the session that the rest is recorded in.
    async fn enter(&self, head: &http::request::Parts) -> Result<Climber, Refusal> {
        let alone = self.connection.one_at_a_time().await;
        let caller = self.authenticate(&head.headers).await?;
        let crowded = self.connection.belongs_to(&caller.key).err();
        drop(alone);
        let user_agent = head.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        let target = self.gate.targets.of(&caller.agent);
        let facts = note::facts(&caller, &self.connection, user_agent.unwrap_or_default(), &target);
        let session = self.gate.recorder.session(&facts).await.map_err(|error| unrecorded(&error))?;
        Ok(Climber { caller, session, target, crowded })
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let started = Instant::now();
        let bundle = self.gate.live.bundle().map_err(|not| {
            Refusal::new(Reason::ServiceUnavailable, format!("sallyport/ServiceUnavailable: {not}."))
        })?;
        let token = header::bearer(headers).map_err(|error| refuse::unread(error.into()))?;
        let caller = self.gate.authenticator.caller(&token, &bundle, &self.gate.live).await;
        self.gate.telemetry.stage(Stage::Authenticate, started.elapsed());
        caller.map_err(|error| {
            tracing::info!(id = %self.id, peer = %self.connection.peer, %error, "not authenticated");
            if let AuthenticateError::Ambiguous(agents) = &error {
                self.gate.denials.note_ambiguous(agents);
            }
            error.refusal()
        })
    }

    /// Steps 3 to 8.
    async fn climb(
        &self,
        climber: &Climber,
        head: &http::request::Parts,
        body: Incoming,
        known: &mut Known,
        place: &mut Option<RequestPlace>,
    ) -> Result<Response<Body>, Refusal> {
        let gate = &*self.gate;
        gate.authenticator.admit(&climber.caller, &gate.live).map_err(|error| error.refusal())?;
        *place = Some(self.place(climber)?);
        header::check(head.version, &head.headers).map_err(|error| refuse::unread(error.into()))?;
        let started = Instant::now();
        let parsed = parse(head, body, &climber.target.discovery).await;
        let (asked, discovery) = parsed.map_err(|error| error.refusal())?;
        gate.telemetry.stage(Stage::Parse, started.elapsed());
        if asked.is_stream() {
            *place = None;
        }
        let action = Arc::new(asked.action.clone());
        known.action = Some(Arc::clone(&action));
        if let Some(act) = self.own_grants(&climber.caller, &action)? {
            let pass = Pass { climb: self, climber, known, action: &action, discovery: &discovery };
            return pass.own(&asked, act).await;
        }
        let started = Instant::now();
        let decided = gate.decider.decide(&climber.caller, &action, Timestamp::now());
        gate.telemetry.stage(Stage::Decide, started.elapsed());
        let decision = decided.map_err(|error| error.refusal())?;
        if let Some(question) = Question::of(&asked).filter(|_| *decision.verdict() != Verdict::Suspended) {
            let pass = Pass { climb: self, climber, known, action: &action, discovery: &discovery };
            return pass.question(&asked, question).await;
        }
        known.decided(&decision, &gate.live);
        if let Some(refusal) = explain::refuse(&decision) {
            return Err(refusal);
        }
        if asked.connect || asked.headers.upgrade.is_some() {
            return Err(explain::stream_denied(&action));
        }
        refuse_damage(&asked)?;
        secret::refuse(&asked, &decision)?;
        oracle::refuse(&asked, &decision)?;
        shared::refuse(&asked, &climber.target)?;
        let pass = Pass { climb: self, climber, known, action: &action, discovery: &discovery };
        match decision.terms() {
            Some(_) => pass.held(&asked, decision).await,
            None => pass.at_once(asked, decision).await,
        }
    }

    /// A place for the request among the agent's others, on a connection that has one.
    fn place(&self, climber: &Climber) -> Result<RequestPlace, Refusal> {
        if let Some(crowded) = &climber.crowded {
            self.connection.end_soon();
            return Err(crowded.refusal());
        }
        self.gate.limits.request(&climber.caller.key).map_err(|most| {
            let agent = &climber.caller.key;
            let why = format!(
                "sallyport/TooManyRequests: agent {agent} already has {most} requests in flight, those that wait for a human \
                 among them."
            );
            Refusal::new(Reason::TooManyRequests, why)
        })
    }

    fn own_grants(&self, caller: &Caller, action: &Action) -> Result<Option<GrantAct>, Refusal> {
        let agent = self.gate.decider.agent(caller).map_err(|error| error.refusal())?;
        let facts = Facts { now: Timestamp::now(), suspended: false, windows: &[] };
        Ok(own_grants(&agent, action, &facts))
    }

    async fn refused(&self, climber: &Climber, known: &Known, refusal: &Refusal) -> Response<Body> {
        let (reason, agent) = (refusal.reason.as_str(), climber.caller.key.to_string());
        self.gate.telemetry.request(&agent, "Refused", reason);
        self.gate.denials.note(&climber.caller, refusal.reason);
        tracing::info!(id = %self.id, agent, reason, "refused");
        if refusal.reason == Reason::TooManyRequests {
            climber.session.count_refusal();
            return refuse::answer(refusal, &self.id);
        }
        let ended = Ended::refused(refuse::code(refusal.reason).as_u16(), reason);
        let recorded = climber.session.refuse(known.refusal(&self.id, refusal), ended, self.arrived).await;
        if let Err(error) = recorded {
            tracing::error!(id = %self.id, %error, "a refusal was not recorded");
        }
        refuse::answer(refusal, &self.id)
    }
}

/// What would destroy a value that the client has only seen masked (C).
fn refuse_damage(asked: &Asked) -> Result<(), Refusal> {
    let placeholders =
        asked.body.to_json().map(|body| masking::detect::placeholders(&body)).unwrap_or_default();
    if !placeholders.is_empty() {
        let paths: Vec<&str> = placeholders.iter().map(String::as_str).collect();
        return Err(explain::masked_value_in_write(&asked.action, &paths));
    }
    Ok(())
}

fn unrecorded(error: &Unavailable) -> Refusal {
    tracing::error!(%error, "nothing can be recorded");
    Refusal::new(
        Reason::RecordingUnavailable,
        "sallyport/RecordingUnavailable: the request cannot be recorded, so it was not sent. Nothing was done.",
    )
}
