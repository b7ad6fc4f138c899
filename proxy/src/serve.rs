//! One request, from accept to record.
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parsing::request::{Head, Request as Asked};
use parsing::{body::MAX_BODY, header, request, target};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::accept::Session;
use crate::authenticate::{Authenticator, Caller};
use crate::discovery::DiscoveryCache;
use crate::limits::Limits;
use crate::live::Live;
use crate::refuse::{Body, Reason, Refusal};
use crate::request_id::RequestId;
use crate::telemetry::Telemetry;
use crate::upstream::Upstream;

const READ_BODY: Duration = Duration::from_secs(30);

/// Everything that a request needs on its way.
pub struct Gate {
    /// What the API server says now.
    pub live: Live,
    /// Step 2.
    pub authenticator: Authenticator,
    /// How much an agent may do at once.
    pub limits: Limits,
    /// What the target serves.
    pub discovery: DiscoveryCache,
    /// The way to the target.
    pub upstream: Arc<Upstream>,
    /// Metrics.
    pub telemetry: Telemetry,
    /// The replica is about to end.
    pub draining: CancellationToken,
}

/// Serves one request.
///
/// *Guarantees*: an answer, whatever happens; a write goes on when its client leaves, once it was sent (F30); a panic
/// ends the request and nothing else (F29).
pub async fn serve(gate: Arc<Gate>, session: Session, request: Request<Incoming>) -> Response<Body> {
    let id = RequestId::new();
    let here = CancellationToken::new();
    let _gone_when_dropped = here.clone().drop_guard();
    let is_read = request.method() == Method::GET;
    let climb = climb(gate, session, request, id.clone(), here);
    let climbed = if is_read {
        AssertUnwindSafe(climb).catch_unwind().await.ok()
    } else {
        tokio::spawn(climb).await.ok()
    };
    climbed.unwrap_or_else(|| {
        tracing::error!(%id, "a request panicked");
        Refusal::new(Reason::InternalError, "sallyport/InternalError: the gate failed.").answer(&id)
    })
}

async fn climb(
    gate: Arc<Gate>,
    session: Session,
    request: Request<Incoming>,
    id: RequestId,
    _gone: CancellationToken,
) -> Response<Body> {
    let mut agent = String::new();
    match steps(&gate, &session, request, &mut agent).await {
        Ok(response) => response,
        Err(refusal) => {
            gate.telemetry.request(&agent, "Refused", refusal.reason.as_str());
            tracing::info!(%id, agent, reason = refusal.reason.as_str(), "refused");
            refusal.answer(&id)
        }
    }
}

async fn steps(
    gate: &Gate,
    session: &Session,
    request: Request<Incoming>,
    agent: &mut String,
) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let bundle = gate.live.bundle().map_err(|not| {
        Refusal::new(Reason::ServiceUnavailable, format!("sallyport/ServiceUnavailable: {not}."))
    })?;
    let caller = match authenticate(gate, head.version, &head.headers, &bundle).await {
        Ok(caller) => caller,
        Err(refusal) => {
            if refusal.reason == Reason::Unauthorized {
                session.end_soon();
            }
            return Err(refusal);
        }
    };
    *agent = caller.key.to_string();
    let asked = parse(gate, &head, body).await?;
    Err(Refusal::new(
        Reason::NotSupportedYet,
        format!("sallyport/NotSupportedYet: `{}` cannot be answered yet.", asked.canonical_target()),
    ))
}

async fn authenticate(
    gate: &Gate,
    version: Version,
    headers: &HeaderMap,
    bundle: &policy::bundle::Bundle,
) -> Result<Caller, Refusal> {
    header::check(version, headers).map_err(parsing::Refusal::from)?;
    let token = header::bearer(headers).map_err(parsing::Refusal::from)?;
    let caller = gate.authenticator.caller(token.expose(), bundle, &gate.live).await;
    caller.map_err(|error| {
        tracing::info!(%error, "not authenticated");
        error.refusal()
    })
}

async fn parse(gate: &Gate, head: &http::request::Parts, body: Incoming) -> Result<Asked, Refusal> {
    let raw = target::raw(&head.uri, head.version).map_err(parsing::Refusal::from)?;
    let asked_at = Instant::now();
    let known = gate.discovery.current().await.map_err(unknown_target)?;
    let read = |discovery: &parsing::discovery::Discovery| -> Result<Head, parsing::Refusal> {
        request::read(head.version, head.method.as_str(), raw.as_bytes(), &head.headers, discovery)
    };
    let read = match read(&known) {
        Err(refusal) if refusal.rule == "P11" => {
            let newer = gate.discovery.newer_than(asked_at).await.map_err(unknown_target)?;
            read(&newer)
        }
        known => known,
    };
    let bytes = whole(body).await?;
    Ok(read?.with_body(&bytes)?)
}

fn unknown_target(error: crate::discovery::DiscoveryError) -> Refusal {
    tracing::warn!(%error, "the target's discovery is not known");
    Refusal::new(
        Reason::ServiceUnavailable,
        "sallyport/ServiceUnavailable: the gate does not know what the API server serves.",
    )
}

/// The whole body, within a size and a time (F10, F11).
async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let slow = |_| {
        Refusal::new(Reason::BadRequest, "sallyport/BadRequest: the body did not arrive in time (rule F10)")
    };
    match timeout(READ_BODY, Limited::new(body, MAX_BODY + 1).collect()).await.map_err(slow)? {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(parsing::Refusal::from(parsing::body::BodyError::TooLarge).into())
        }
        Err(_) => {
            Err(Refusal::new(Reason::BadRequest, "sallyport/BadRequest: the body broke off (rule F11)"))
        }
    }
}
