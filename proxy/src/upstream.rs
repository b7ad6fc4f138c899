//! The way to the API server: one pool of TLS connections with the proxy's own credential.
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use thiserror::Error;

use crate::request_id::RequestId;

const CONNECT: Duration = Duration::from_secs(5);
/// The API server gives up after 60 s; beyond that nobody answers.
const ANSWER_HEAD: Duration = Duration::from_secs(75);
/// A kubelet sends the head of a followed log with the first line; until then only the gate's own limits end it.
const FOLLOWED_HEAD: Duration = Duration::from_secs(24 * 3600);
const TOKEN_LIFE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(60);

/// As whom a request runs: decided by the gate, never by the client (H11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impersonation {
    /// `sallyport:agent:<namespace>:<name>`.
    pub username: String,
    /// Without `system:authenticated`: the API server adds it.
    pub groups: Vec<String>,
    /// Name of the session; empty where there is none (the reachability probe).
    pub session: String,
}

/// A request as it goes upstream. Nothing in it is the client's text (P10).
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// One of the five.
    pub method: Method,
    /// Rebuilt by the parser.
    pub path_and_query: PathAndQuery,
    /// Client fields that may go upstream as they are (`If-None-Match` on discovery).
    pub passed: HeaderMap,
    /// Content type, where there is a body.
    pub content_type: Option<String>,
    /// What the answer may be.
    pub accept: String,
    /// For the API server's audit log; control bytes are removed.
    pub user_agent: String,
    /// The body, re-encoded.
    pub body: Bytes,
    /// The answer's head comes with its first byte, whenever that is: a followed log of a container that is silent.
    pub patient: bool,
}

/// Why no answer came.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// The rebuilt request is no HTTP request: a fault of ours, nothing was sent.
    #[error("the upstream request cannot be built: {0}")]
    Build(#[from] http::Error),
    /// Our own credential cannot be read: nothing was sent.
    #[error("the proxy's token cannot be read: {0}")]
    Token(std::io::Error),
    /// No connection: nothing was sent.
    #[error("the API server cannot be reached: {0}")]
    Connect(hyper_util::client::legacy::Error),
    /// The connection broke, or no answer came in time, after the request may have been sent.
    #[error("the API server did not answer: {0}")]
    Broken(String),
}

impl UpstreamError {
    /// Whether it is certain that the API server saw nothing.
    pub fn nothing_was_sent(&self) -> bool {
        match self {
            UpstreamError::Build(_) | UpstreamError::Token(_) | UpstreamError::Connect(_) => true,
            UpstreamError::Broken(_) => false,
        }
    }
}

/// Why the way to the API server cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The Kubernetes configuration names no host.
    #[error("the cluster URL `{0}` is not usable")]
    Url(Uri),
    /// TLS or CA.
    #[error("the client cannot be built: {0}")]
    Client(#[from] kube::Error),
    /// An inline token cannot be rotated.
    #[error("a `token` in the Kubernetes configuration is not supported; use `tokenFile`")]
    Token,
}

/// The pool. Requests that only read may be repeated on a connection that died before it was used; writes never are.
pub struct Upstream {
    reads: Pool,
    writes: Pool,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    credential: Credential,
}

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl Upstream {
    /// With CA, client certificate and token of the Kubernetes configuration.
    ///
    /// # Errors
    /// If the configuration names no usable host, CA or token.
    pub fn new(config: &kube::Config) -> Result<Self, SetupError> {
        let url = &config.cluster_url;
        let (Some(scheme), Some(authority)) = (url.scheme().cloned(), url.authority().cloned()) else {
            return Err(SetupError::Url(url.clone()));
        };
        Ok(Self {
            reads: pool(config, true)?,
            writes: pool(config, false)?,
            scheme,
            authority,
            prefix: url.path().trim_end_matches('/').to_owned(),
            credential: Credential::new(config)?,
        })
    }

    /// The address of the API server, for records.
    pub fn server(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// *Guarantees*: exactly one identity, one credential and our own `Audit-ID`; scheme and authority never come
    /// from the request (P15); a write is sent at most once (F04). `as_agent` is `None` for the gate's own reads.
    ///
    /// # Errors
    /// If no answer came; [`UpstreamError::nothing_was_sent`] tells whether the effect is known.
    pub async fn send(
        &self,
        outgoing: Outgoing,
        as_agent: Option<&Impersonation>,
        id: &RequestId,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let pool = if outgoing.method == Method::GET { &self.reads } else { &self.writes };
        let patience = if outgoing.patient { FOLLOWED_HEAD } else { ANSWER_HEAD };
        let mut request = self.build(outgoing, as_agent, id)?;
        if let Some(value) = self.credential.header().map_err(UpstreamError::Token)? {
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        match tokio::time::timeout(patience, pool.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(UpstreamError::Connect(error)),
            Ok(Err(error)) => Err(UpstreamError::Broken(chain(&error))),
            Err(_) => Err(UpstreamError::Broken("no answer in time".to_owned())),
        }
    }

    fn build(
        &self,
        outgoing: Outgoing,
        as_agent: Option<&Impersonation>,
        id: &RequestId,
    ) -> Result<Request<Full<Bytes>>, http::Error> {
        let path = match self.prefix.as_str() {
            "" => outgoing.path_and_query,
            prefix => PathAndQuery::try_from(format!("{prefix}{}", outgoing.path_and_query))?,
        };
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()?;
        let mut headers = outgoing.passed;
        headers.insert(header::ACCEPT, HeaderValue::try_from(outgoing.accept)?);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(header::USER_AGENT, HeaderValue::try_from(printable(&outgoing.user_agent))?);
        headers.insert(crate::refuse::AUDIT_ID, HeaderValue::try_from(id.as_str())?);
        if let Some(content_type) = outgoing.content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::try_from(content_type)?);
        }
        if let Some(agent) = as_agent {
            impersonate(&mut headers, agent, id)?;
        }
        let mut request = Request::new(Full::new(outgoing.body));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn impersonate(headers: &mut HeaderMap, agent: &Impersonation, id: &RequestId) -> Result<(), http::Error> {
    headers.insert("impersonate-user", HeaderValue::try_from(agent.username.as_str())?);
    for group in &agent.groups {
        headers.append("impersonate-group", HeaderValue::try_from(group.as_str())?);
    }
    if !agent.session.is_empty() {
        headers.insert(extra(crds::names::EXTRA_SESSION)?, HeaderValue::try_from(agent.session.as_str())?);
    }
    headers.insert(extra(crds::names::EXTRA_REQUEST_ID)?, HeaderValue::try_from(id.as_str())?);
    Ok(())
}

fn extra(key: &str) -> Result<HeaderName, http::Error> {
    Ok(HeaderName::try_from(format!("impersonate-extra-{}", key.replace('/', "%2f")))?)
}

fn printable(text: &str) -> String {
    let kept: String = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(256).collect();
    if kept.is_empty() { "sallyport-proxy".to_owned() } else { kept }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(cause) = inner {
        text.push_str(&format!(": {cause}"));
        inner = cause.source();
    }
    text
}

fn pool(config: &kube::Config, retry: bool) -> Result<Pool, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(256)
        .retry_canceled_requests(retry);
    Ok(builder.build(connector))
}

/// The proxy's own credential, read again as its file is rotated (F22).
enum Credential {
    Certificate,
    File { path: PathBuf, cached: Mutex<Option<(Instant, HeaderValue)>> },
}

impl Credential {
    fn new(config: &kube::Config) -> Result<Self, SetupError> {
        if let Some(path) = &config.auth_info.token_file {
            return Ok(Credential::File { path: PathBuf::from(path), cached: Mutex::new(None) });
        }
        match &config.auth_info.token {
            Some(_) => Err(SetupError::Token),
            None => Ok(Credential::Certificate),
        }
    }

    fn header(&self) -> std::io::Result<Option<HeaderValue>> {
        match self {
            Credential::Certificate => Ok(None),
            Credential::File { path, cached } => {
                let mut cached = cached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let Some((read, value)) = cached.as_ref()
                    && read.elapsed() < TOKEN_LIFE
                {
                    return Ok(Some(value.clone()));
                }
                let text = std::fs::read_to_string(path)?;
                let value = bearer(text.trim()).ok_or(std::io::ErrorKind::InvalidData)?;
                *cached = Some((Instant::now(), value.clone()));
                Ok(Some(value))
            }
        }
    }
}

fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}
