//! What the target serves, remembered: the fact that turns a path into a kind (P11).
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use parsing::discovery::{Discovery, DiscoveryError as DecodeError};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use crate::refuse::BodyError;
use crate::request_id::RequestId;
use crate::upstream::{Outgoing, Upstream, UpstreamError};

const LARGEST: usize = 32 << 20;
const READ: Duration = Duration::from_secs(20);
const NOT_SOONER: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(120);

/// Why the target's discovery is not known.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// No answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// An answer that is none.
    #[error("the API server answered {0} to `{1}`")]
    Status(StatusCode, &'static str),
    /// The document broke off, or is too long.
    #[error("the discovery document was not read: {0}")]
    Body(BodyError),
    /// The document came too slowly.
    #[error("the discovery document took too long")]
    Slow,
    /// The document means nothing.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// The last good discovery. It survives an API server that does not answer (F26).
pub struct DiscoveryCache {
    upstream: Arc<Upstream>,
    current: ArcSwapOption<Discovery>,
    fetched: Mutex<Option<Instant>>,
}

impl DiscoveryCache {
    /// Knows nothing yet.
    pub fn new(upstream: Arc<Upstream>) -> Self {
        Self { upstream, current: ArcSwapOption::empty(), fetched: Mutex::new(None) }
    }

    /// What is known; asks the first time.
    ///
    /// # Errors
    /// If nothing is known and the API server does not say.
    pub async fn current(&self) -> Result<Arc<Discovery>, DiscoveryError> {
        match self.current.load_full() {
            Some(known) => Ok(known),
            None => self.newer_than(Instant::now()).await,
        }
    }

    /// What the API server said after `moment`: asked for when a kind is unknown. At most one question a second,
    /// whoever asks.
    ///
    /// # Errors
    /// If the API server does not say; what was known before stays known to [`DiscoveryCache::current`].
    pub async fn newer_than(&self, moment: Instant) -> Result<Arc<Discovery>, DiscoveryError> {
        let mut fetched = self.fetched.lock().await;
        if let (Some(last), Some(known)) = (*fetched, self.current.load_full()) {
            if last > moment {
                return Ok(known);
            }
            sleep_until(last + NOT_SOONER).await;
        }
        let answer = self.fetch().await;
        *fetched = Some(Instant::now());
        let mut discovery = answer?;
        if let Some(before) = self.current.load_full() {
            keep_stale(&mut discovery, &before);
        }
        let discovery = Arc::new(discovery);
        self.current.store(Some(Arc::clone(&discovery)));
        Ok(discovery)
    }

    /// Asks again every two minutes, for ever.
    pub async fn keep_fresh(&self) {
        loop {
            if let Err(error) = self.newer_than(Instant::now()).await {
                tracing::warn!(%error, "the discovery was not refreshed");
            }
            tokio::time::sleep(REFRESH).await;
        }
    }

    async fn fetch(&self) -> Result<Discovery, DiscoveryError> {
        let mut discovery = Discovery::new();
        for path in ["/api", "/apis"] {
            discovery.add(&self.document(path).await?)?;
        }
        if !self.upstream.access().impersonates() {
            crate::targets::joined::join(&mut discovery);
        }
        Ok(discovery)
    }

    async fn document(&self, path: &'static str) -> Result<Bytes, DiscoveryError> {
        let outgoing = Outgoing {
            method: Method::GET,
            path_and_query: PathAndQuery::from_static(path),
            passed: HeaderMap::new(),
            content_type: None,
            accept: Discovery::ACCEPT.to_owned(),
            user_agent: "sallyport-proxy discovery".to_owned(),
            body: Bytes::new(),
            patient: false,
        };
        let answer = self.upstream.send(outgoing, None, &RequestId::new()).await?;
        if answer.status() != StatusCode::OK {
            return Err(DiscoveryError::Status(answer.status(), path));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect();
        let body = timeout(READ, body).await.map_err(|_| DiscoveryError::Slow)?;
        Ok(body.map_err(DiscoveryError::Body)?.to_bytes())
    }
}

/// A group whose server does not answer keeps the kinds that it had.
fn keep_stale(discovery: &mut Discovery, before: &Discovery) {
    for (group, version, resource, facts) in before.iter() {
        if discovery.is_stale(group, version) && discovery.resource(group, version, resource).is_none() {
            discovery.insert(group, version, resource, facts.clone());
        }
    }
}
