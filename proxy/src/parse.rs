//! Bytes become an act, read against what the target serves.
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use parsing::body::{BodyError, MAX_BODY};
use parsing::discovery::Discovery;
use parsing::request::{Head, Request};
use parsing::{request, target};
use thiserror::Error;
use tokio::time::Instant;

use crate::accept::{Paced, TooSlow};
use crate::discovery::{DiscoveryCache, DiscoveryError};
use crate::refuse::{self, Reason, Refusal};

/// Why a request is not read.
#[derive(Debug, Error)]
pub enum ParseError {
    /// A rule of the reading spoke.
    #[error(transparent)]
    Refused(#[from] parsing::Refusal),
    /// The body came too slowly (F10).
    #[error("the body did not arrive in time")]
    Slow,
    /// The body broke off (F11).
    #[error("the body broke off")]
    Broken,
    /// Nobody knows what the target serves.
    #[error("the target's discovery is not known: {0}")]
    UnknownTarget(#[from] DiscoveryError),
}

impl ParseError {
    /// What the client reads.
    pub fn refusal(&self) -> Refusal {
        match self {
            ParseError::Refused(refusal) => refuse::unread(refusal.clone()),
            ParseError::Slow => Refusal::new(
                Reason::BadRequest,
                "sallyport/BadRequest: the body did not arrive in time (rule F10)",
            ),
            ParseError::Broken => {
                Refusal::new(Reason::BadRequest, "sallyport/BadRequest: the body broke off (rule F11)")
            }
            ParseError::UnknownTarget(error) => {
                tracing::warn!(%error, "the target's discovery is not known");
                Refusal::new(
                    Reason::ServiceUnavailable,
                    "sallyport/ServiceUnavailable: the gate does not know what the API server serves.",
                )
            }
        }
    }
}

/// Reads one request whole, and says by which discovery.
///
/// *Guarantees*: what goes upstream is made from the result alone (P10); a kind that is unknown is asked for once more
/// before it is refused; the body is bounded in size and time (F10, F11).
///
/// # Errors
/// [`ParseError`].
pub async fn parse(
    head: &Parts,
    body: Incoming,
    cache: &DiscoveryCache,
) -> Result<(Request, Arc<Discovery>), ParseError> {
    let raw = target::raw(&head.uri, head.version).map_err(parsing::Refusal::from)?;
    let asked_at = Instant::now();
    let mut discovery = cache.current().await?;
    let read = |discovery: &Discovery| -> Result<Head, parsing::Refusal> {
        request::read(head.version, head.method.as_str(), raw.as_bytes(), &head.headers, discovery)
    };
    let mut read_head = read(&discovery);
    if read_head.as_ref().is_err_and(|refusal| refusal.rule == "P11") {
        discovery = cache.newer_than(asked_at).await?;
        read_head = read(&discovery);
    }
    let bytes = whole(body).await?;
    Ok((read_head?.with_body(&bytes)?, discovery))
}

async fn whole(body: Incoming) -> Result<Bytes, ParseError> {
    match Limited::new(Paced::new(body), MAX_BODY + 1).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(error) if error.is::<TooSlow>() => Err(ParseError::Slow),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(parsing::Refusal::from(BodyError::TooLarge).into())
        }
        Err(_) => Err(ParseError::Broken),
    }
}
