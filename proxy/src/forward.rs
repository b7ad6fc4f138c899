//! A permit becomes an answer from upstream: sent once, as the agent, rebuilt from what was decided about.
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;
use parsing::request::Request;
use policy::agent::Agent;
use policy::permit::Permit;
use thiserror::Error;

use crate::refuse::{LATER, Reason, Refusal};
use crate::request_id::RequestId;
use crate::upstream::{Impersonation, Outgoing, Upstream, UpstreamError};

/// What the API server said. Only the mask stage makes something of it that a client may see.
#[derive(Debug)]
pub struct Answer {
    /// Status code: never a redirect, never a switch of protocols.
    pub status: StatusCode,
    /// Only the header fields that may matter to a client or to the mask.
    pub headers: HeaderMap,
    /// The body, unmasked.
    pub body: Said,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Said {
    /// As it comes.
    Coming(Incoming),
    /// A page of discovery that the gate has added to.
    Whole(Full<Bytes>),
}

impl HttpBody for Said {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Said::Coming(body) => Pin::new(body).poll_frame(cx),
            Said::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Said::Coming(body) => body.is_end_stream(),
            Said::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Said::Coming(body) => body.size_hint(),
            Said::Whole(body) => body.size_hint(),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The permit is for another act: a fault of the gate. Nothing was sent.
    #[error("the permit is not for this request")]
    AnotherAct,
    /// The permit ran out before the request was sent (D18). Nothing was sent.
    #[error("the permit ended before the request was sent")]
    Expired,
    /// The rebuilt target is no URI. Nothing was sent.
    #[error("the upstream target cannot be built: {0}")]
    Target(#[from] http::uri::InvalidUri),
    /// Nothing was sent.
    #[error("not sent: {0}")]
    NotSent(UpstreamError),
    /// A read that was not answered.
    #[error("not answered: {0}")]
    NotAnswered(UpstreamError),
    /// A write was sent and nobody knows what became of it (F04).
    #[error("the outcome is unknown: {0}")]
    Unknown(UpstreamError),
    /// A page of discovery that cannot be read.
    #[error("the API server's discovery cannot be read: {0}")]
    Unreadable(String),
    /// B127.
    #[error("the API server answered with the redirect {0}")]
    Redirect(StatusCode),
    /// B124.
    #[error("the API server switched protocols unasked")]
    Switched,
    /// The stream was ended by the gate before an answer came (E10).
    #[error("the stream was cut before an answer came")]
    Cut(Box<Refusal>),
}

impl ForwardError {
    /// What the client reads: never a cause, never `Retry-After`.
    pub fn refusal(&self) -> Refusal {
        match self {
            ForwardError::AnotherAct | ForwardError::Target(_) => Refusal::new(
                Reason::InternalError,
                "sallyport/InternalError: the gate failed. Nothing was sent to the API server.",
            ),
            ForwardError::Expired => Refusal::new(
                Reason::ApprovalExpired,
                "sallyport/ApprovalExpired: the approval or window ended before the request was sent. Nothing was done.",
            )
            .next("run the same command again; it asks anew"),
            ForwardError::NotSent(_) => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server cannot be reached. Nothing was sent.",
            )
            .next(LATER),
            ForwardError::NotAnswered(_) => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server did not answer. Nothing was changed by this read.",
            )
            .next(LATER),
            ForwardError::Unknown(_) => Refusal::new(
                Reason::OutcomeUnknown,
                "sallyport/OutcomeUnknown: outcome unknown: the write was sent and the API server did not answer.",
            )
            .next("look at the object before you do anything; do not repeat the write blindly"),
            ForwardError::Cut(refusal) => (**refusal).clone(),
            ForwardError::Redirect(_) | ForwardError::Switched | ForwardError::Unreadable(_) => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the API server's answer cannot be passed on.",
            ),
        }
    }

    /// Whether it is certain that the API server did nothing.
    pub fn nothing_was_done(&self) -> bool {
        match self {
            ForwardError::AnotherAct
            | ForwardError::Expired
            | ForwardError::Target(_)
            | ForwardError::NotSent(_)
            | ForwardError::NotAnswered(_)
            | ForwardError::Unreadable(_)
            | ForwardError::Cut(_) => true,
            ForwardError::Unknown(_) | ForwardError::Redirect(_) | ForwardError::Switched => false,
        }
    }
}

/// As whom an agent's requests run in one session.
pub fn impersonation(agent: &Agent, session: &str) -> Impersonation {
    Impersonation {
        username: agent.username().to_owned(),
        groups: agent.groups().to_vec(),
        session: session.to_owned(),
    }
}

/// Sends the one request that the permit is for. `accept` is what the mask stage can read.
///
/// *Guarantees*: the permit is used up; nothing is sent after its end (D18); a write is sent at most once.
///
/// # Errors
/// [`ForwardError`], which tells whether anything may have been done.
pub async fn forward(
    upstream: &Upstream,
    permit: Permit,
    request: &Request,
    accept: String,
    session: &str,
    id: &RequestId,
) -> Result<Answer, ForwardError> {
    check(&permit, request)?;
    let agent = impersonation(permit.agent(), session);
    let passed = request.headers.upstream();
    send(upstream, request, (accept, passed), Some(&agent), id).await
}

/// The same for a page of discovery that the gate adds to: it is always asked for whole.
///
/// # Errors
/// As [`forward`].
pub async fn forward_joined(
    upstream: &Upstream,
    permit: Permit,
    request: &Request,
    accept: String,
    id: &RequestId,
) -> Result<Answer, ForwardError> {
    check(&permit, request)?;
    let agent = impersonation(permit.agent(), "");
    send(upstream, request, (accept, HeaderMap::new()), Some(&agent), id).await
}

fn check(permit: &Permit, request: &Request) -> Result<(), ForwardError> {
    if **permit.action() != request.action {
        return Err(ForwardError::AnotherAct);
    }
    if !permit.is_live(Timestamp::now()) {
        return Err(ForwardError::Expired);
    }
    Ok(())
}

/// Sends a request about the agent's own grants, with the proxy's own credential. What may be asked was settled by
/// [`crate::hold::serve_own`], or is the schema of grants.
///
/// # Errors
/// As [`forward`].
pub async fn forward_own(
    upstream: &Upstream,
    request: &Request,
    accept: String,
    id: &RequestId,
) -> Result<Answer, ForwardError> {
    let passed = request.headers.upstream();
    send(upstream, request, (accept, passed), None, id).await
}

async fn send(
    upstream: &Upstream,
    request: &Request,
    (accept, passed): (String, HeaderMap),
    as_agent: Option<&Impersonation>,
    id: &RequestId,
) -> Result<Answer, ForwardError> {
    let body = request.body.to_bytes();
    let outgoing = Outgoing {
        method: request.method(),
        path_and_query: request.path_and_query()?,
        passed,
        content_type: body.is_some().then(|| request.body.content_type().map(str::to_owned)).flatten(),
        accept,
        user_agent: request.headers.user_agent.clone().unwrap_or_default(),
        body: body.unwrap_or_default().into(),
        patient: request.query.flag("follow"),
    };
    let may_be_unmodified = outgoing.passed.contains_key(header::IF_NONE_MATCH);
    let is_read = outgoing.method == Method::GET;
    match upstream.send(outgoing, as_agent, id).await {
        Ok(response) => answer(response, may_be_unmodified),
        Err(error) if error.nothing_was_sent() => Err(ForwardError::NotSent(error)),
        Err(error) if is_read => Err(ForwardError::NotAnswered(error)),
        Err(error) => Err(ForwardError::Unknown(error)),
    }
}

fn answer(response: Response<Incoming>, may_be_unmodified: bool) -> Result<Answer, ForwardError> {
    let (head, body) = response.into_parts();
    if head.status.is_informational() {
        return Err(ForwardError::Switched);
    }
    let unmodified = may_be_unmodified && head.status == StatusCode::NOT_MODIFIED;
    if head.status.is_redirection() && !unmodified {
        return Err(ForwardError::Redirect(head.status));
    }
    let body = Said::Coming(body);
    Ok(Answer { status: head.status, headers: kept(&head.headers, head.status), body })
}

/// The allow-list of answer fields. `Retry-After` only where the API server itself refused before doing anything (F05).
fn kept(all: &HeaderMap, status: StatusCode) -> HeaderMap {
    let names = [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::WARNING, header::ETAG, header::VARY];
    let retry = (status == StatusCode::TOO_MANY_REQUESTS).then_some(header::RETRY_AFTER);
    let mut kept = HeaderMap::new();
    for name in names.into_iter().chain(retry) {
        for value in all.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_listed_answer_fields_are_kept() {
        let mut all = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("retry-after", "1"),
            ("x-kubernetes-pf-flowschema-uid", "x"),
            ("set-cookie", "a=b"),
            ("location", "https://evil.example"),
            ("audit-id", "forged"),
        ] {
            all.insert(name, HeaderValue::from_static(value));
        }
        assert_eq!(kept(&all, StatusCode::OK).keys().collect::<Vec<_>>(), [header::CONTENT_TYPE]);
        assert!(kept(&all, StatusCode::TOO_MANY_REQUESTS).contains_key(header::RETRY_AFTER));
        assert!(!kept(&all, StatusCode::SERVICE_UNAVAILABLE).contains_key(header::RETRY_AFTER));
    }
}
