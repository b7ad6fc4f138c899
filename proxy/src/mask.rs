//! An answer becomes a masked answer; what cannot be read does not leave.
//!
//! **Expected flow.** [`Masks::prepare`] before the request is forwarded, so that what cannot be masked is not asked
//! for; its [`Prepared::accept`] goes upstream; [`Prepared::mask`] turns the answer into [`Masked`], the only thing that
//! the record and the client's connection take.
//!
//! **Guarantees.** Masking follows the kinds that the answer names. No byte leaves of an answer in an encoding, media
//! type or kind that is not understood (502). A body that breaks off never ends cleanly (E13). Errors and warnings of
//! the API server are rebuilt, capped, and for writes to masked kinds stripped of what may quote a value (B44, B45,
//! B47).

mod accept;
mod body;
mod failure;
mod operations;
mod plan;
pub(crate) mod pointer;
mod warning;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use masking::{Expectation, MaskError, Masker, PathError, PlanError, Plans};
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

use crate::forward::Answer;
use crate::refuse::{self, Body, BodyError, LATER, Reason, Refusal};
use crate::request_id::RequestId;

pub use plan::Masks;

/// A body up to this size is held whole, so that its warning can count and its fault can still be an error.
const HELD: usize = 64 * 1024;
/// A body that takes longer than this to come is not held.
const HELD_FOR: Duration = Duration::from_secs(1);

/// Why an answer is not passed on. The cause goes to the log; the client reads [`NotMasked::refusal`].
#[derive(Debug, Error)]
pub enum NotMasked {
    /// Discovery does not know what was asked for.
    #[error("the kind of the resource is not known")]
    UnknownKind,
    /// A mask that cannot be compiled: nothing may leave.
    #[error("the masking rules cannot be used: {0}")]
    Plan(#[from] PlanError),
    /// A path that cannot be compiled.
    #[error("a masked path cannot be used: {0}")]
    Path(#[from] PathError),
    /// A status code that has no place here (B13).
    #[error("the API server answered {0}")]
    Status(StatusCode),
    /// The gate's own credential was not accepted.
    #[error("the API server does not accept the gate's credential")]
    Unauthorized,
    /// The gate may not act as the agent.
    #[error("the API server does not let the gate act for the agent")]
    Impersonation,
    /// Compressed, though `identity` was asked for (B12).
    #[error("the answer has a Content-Encoding")]
    Encoded,
    /// Not JSON by its own word, or by no word at all.
    #[error("the answer's media type is not readable")]
    MediaType,
    /// The body is not what it should be.
    #[error("the answer cannot be read: {0}")]
    Body(#[from] MaskError),
    /// The body broke off.
    #[error("the answer broke off: {0}")]
    Broken(BodyError),
}

impl NotMasked {
    /// Whether it is certain that the API server did nothing.
    pub fn nothing_was_done(&self) -> bool {
        matches!(self, NotMasked::Unauthorized | NotMasked::Impersonation)
    }

    /// What the client reads. `was_write`: the request was a write that the API server may have carried out.
    pub fn refusal(&self, was_write: bool) -> Refusal {
        match self {
            NotMasked::UnknownKind | NotMasked::Plan(_) | NotMasked::Path(_) => Refusal::new(
                Reason::InternalError,
                "sallyport/InternalError: the gate cannot mask this answer. Nothing was sent to the API server.",
            ),
            NotMasked::Impersonation => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server does not let the gate act for the agent. Nothing was done.",
            )
            .next(LATER),
            NotMasked::Unauthorized => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server does not accept the gate's credential. Nothing was done.",
            )
            .next(LATER),
            NotMasked::Status(_)
            | NotMasked::Encoded
            | NotMasked::MediaType
            | NotMasked::Body(_)
            | NotMasked::Broken(_)
                if was_write =>
            {
                Refusal::new(
                    Reason::OutcomeUnknown,
                    "sallyport/OutcomeUnknown: the write was sent, and the API server's answer cannot be passed on.",
                )
                .next("look at the object before you do anything; do not repeat the write blindly")
            }
            NotMasked::Status(_)
            | NotMasked::Encoded
            | NotMasked::MediaType
            | NotMasked::Body(_)
            | NotMasked::Broken(_) => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server's answer cannot be masked, so it is not passed on.",
            )
            .next(LATER),
        }
    }
}

/// What leaves the gate: masked, or made by the gate itself. Only this module makes one.
#[derive(Debug)]
pub struct Masked<T> {
    inner: T,
    tally: Arc<Tally>,
}

impl Masked<Response<Body>> {
    /// The gate's own answer, in which nothing is the API server's.
    pub fn made_here(
        status: StatusCode,
        media_type: &'static str,
        body: impl Into<Bytes>,
        id: &RequestId,
    ) -> Self {
        let mut response = Response::new(refuse::whole(body));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        refuse::common(response.headers_mut(), id);
        Self::whole(response)
    }

    fn whole(response: Response<Body>) -> Self {
        let tally = Tally::default();
        tally.end(End::Whole);
        Self { inner: response, tally: Arc::new(tally) }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.inner.status()
    }

    /// Adds a warning of the gate's own, which kubectl prints before the result.
    pub fn warn(&mut self, text: &str) {
        warning::add(self.inner.headers_mut(), text);
    }

    /// For the record and the client's connection, which come last.
    pub fn into_parts(self) -> (Response<Body>, Arc<Tally>) {
        (self.inner, self.tally)
    }
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has not, or nobody waited for it.
    Open,
    /// To its end.
    Whole,
    /// Broken off, upstream or because it was not understood.
    Broken,
}

/// What happened to a body so far; shared with the one who records it.
#[derive(Debug, Default)]
pub struct Tally {
    masked: AtomicU64,
    end: AtomicU8,
}

impl Tally {
    /// How many values were replaced.
    pub fn masked_values(&self) -> u64 {
        self.masked.load(Ordering::Relaxed)
    }

    /// How it ended.
    pub fn ended(&self) -> End {
        match self.end.load(Ordering::Relaxed) {
            0 => End::Open,
            1 => End::Whole,
            _ => End::Broken,
        }
    }

    fn count(&self, masked: u64) {
        self.masked.store(masked, Ordering::Relaxed);
    }

    fn end(&self, end: End) {
        self.end.store(if end == End::Whole { 1 } else { 2 }, Ordering::Relaxed);
    }
}

/// How an answer is read.
#[derive(Clone, Debug)]
enum Reading {
    /// Discovery, OpenAPI and other paths outside the resource API: nothing in them is masked.
    Open,
    /// A log: text that streams.
    Log,
    /// Objects.
    Objects { plans: Arc<Plans>, expectation: Expectation },
}

/// A request whose answer can be masked.
#[derive(Clone, Debug)]
pub struct Prepared {
    accept: String,
    reading: Reading,
    is_watch: bool,
    is_write: bool,
}

impl Prepared {
    /// What goes upstream as `Accept`.
    pub fn accept(&self) -> String {
        self.accept.clone()
    }

    /// Whether the request was a write, for [`NotMasked::refusal`].
    pub fn is_write(&self) -> bool {
        self.is_write
    }

    /// Turns the answer into what may leave. `username` is the agent's name upstream.
    ///
    /// # Errors
    /// If nothing of the answer may leave. A fault after the first [`HELD`] bytes breaks the body off instead.
    pub async fn mask(
        &self,
        answer: Answer,
        username: &str,
        id: &RequestId,
    ) -> Result<Masked<Response<Body>>, NotMasked> {
        self.mask_parts(answer.status, &answer.headers, answer.body, username, id).await
    }

    async fn mask_parts<B>(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: B,
        username: &str,
        id: &RequestId,
    ) -> Result<Masked<Response<Body>>, NotMasked>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        if headers.get_all(header::CONTENT_ENCODING).iter().any(|encoding| encoding != "identity") {
            return Err(NotMasked::Encoded);
        }
        let (mut response, denied_by_rbac) = if status.is_client_error() || status.is_server_error() {
            let said = failure::read(status, headers, body, self.hides_text(status), username).await?;
            (Masked::made_here(status, "application/json", said.body.to_string(), id), said.denied_by_rbac)
        } else {
            (self.success(status, headers, body).await?, false)
        };
        *response.inner.status_mut() = status;
        let fields = response.inner.headers_mut();
        refuse::common(fields, id);
        warning::pass(headers, fields, self.hides_text(status));
        if let Some(seconds) = headers.get(header::RETRY_AFTER) {
            fields.insert(header::RETRY_AFTER, seconds.clone());
        }
        if denied_by_rbac {
            response.warn(&format!(
                "Sallyport allowed this request; Kubernetes RBAC on the target denied it for user {username}. An \
                 administrator must add a RoleBinding."
            ));
        }
        Ok(response)
    }

    /// Whether words of the API server may quote a masked value (B44). Its own name no values when it answers a read;
    /// those of whoever converts or serves a custom kind may, when that fails.
    fn hides_text(&self, status: StatusCode) -> bool {
        match &self.reading {
            Reading::Open | Reading::Log => false,
            Reading::Objects { plans, expectation } => {
                let foreign = status.is_server_error() && !plan::is_built_in(&expectation.kind.group);
                !plans.is_empty() && (self.is_write || foreign)
            }
        }
    }

    async fn success<B>(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Masked<Response<Body>>, NotMasked>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        match &self.reading {
            Reading::Open => self.open(status, headers, body),
            Reading::Log if status != StatusCode::OK => Err(NotMasked::Status(status)),
            Reading::Log if media_type(headers)? != "text/plain" => Err(NotMasked::MediaType),
            Reading::Log => Ok(body::passing(body, "text/plain")),
            Reading::Objects { plans, expectation } => {
                if !matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED) {
                    return Err(NotMasked::Status(status));
                }
                if media_type(headers)? != "application/json" {
                    return Err(NotMasked::MediaType);
                }
                let masker = Masker::new(Arc::clone(plans), expectation.clone())?;
                self.objects(body::Masking::new(body, masker), plans, expectation).await
            }
        }
    }

    fn open<B>(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Masked<Response<Body>>, NotMasked>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        if !matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED) {
            return Err(NotMasked::Status(status));
        }
        let mut masked = body::passing(body, "application/json");
        let fields = masked.inner.headers_mut();
        fields.remove(header::CONTENT_TYPE);
        for name in [header::CONTENT_TYPE, header::ETAG, header::VARY] {
            if let Some(value) = headers.get(&name) {
                fields.insert(name, value.clone());
            }
        }
        Ok(masked)
    }

    async fn objects<B>(
        &self,
        mut body: body::Masking<B>,
        plans: &Plans,
        expectation: &Expectation,
    ) -> Result<Masked<Response<Body>>, NotMasked>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        let held = if self.is_watch { None } else { timeout(HELD_FOR, body.fill(HELD)).await.ok() };
        let ended = held.transpose()?.unwrap_or(false);
        let tally = body.tally();
        let warning = if ended {
            warning::counted(&body.counts())
        } else {
            warning::streamed(&plans.rules_for(&expectation.kind))
        };
        let mut response = if ended {
            Response::new(refuse::whole(body.into_held()))
        } else {
            Response::new(body.boxed_unsync())
        };
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut masked = Masked { inner: response, tally };
        if let Some(text) = warning {
            masked.warn(&text);
        }
        Ok(masked)
    }
}

/// The one media type of an answer, without parameters.
fn media_type(headers: &HeaderMap) -> Result<String, NotMasked> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return Err(NotMasked::MediaType) };
    let text = only.to_str().map_err(|_| NotMasked::MediaType)?;
    let essence = text.split_once(';').map_or(text, |(essence, _)| essence);
    Ok(essence.trim().to_ascii_lowercase())
}

/// A Status of the API server's, rebuilt.
fn status_object(code: StatusCode, reason: &str, message: &str) -> Value {
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    })
}

#[cfg(test)]
mod tests;
