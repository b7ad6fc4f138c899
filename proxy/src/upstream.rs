//! The way to an API server: a pool of TLS connections, and the credential of the moment.
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::ConfigExt;
use thiserror::Error;

use crate::request_id::RequestId;
use crate::targets::{Access, Fault, NoAccess};

const CONNECT: Duration = Duration::from_secs(5);
/// The API server gives up after 60 s; beyond that nobody answers.
const ANSWER_HEAD: Duration = Duration::from_secs(75);
/// A kubelet sends the head of a followed log with the first line; until then only the gate's own limits end it.
const FOLLOWED_HEAD: Duration = Duration::from_secs(24 * 3600);
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
    /// Address or credential are not to be had: nothing was sent.
    #[error(transparent)]
    Access(#[from] NoAccess),
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
            UpstreamError::Build(_) | UpstreamError::Access(_) | UpstreamError::Connect(_) => true,
            UpstreamError::Broken(_) => false,
        }
    }

    /// What is wrong, in the one word of condition `TargetReachable`.
    pub fn fault(&self) -> Fault {
        match self {
            UpstreamError::Build(_) => Fault::Unauthorized,
            UpstreamError::Access(error) => error.fault,
            UpstreamError::Connect(error) if is_certificate_fault(error) => Fault::CertificateInvalid,
            UpstreamError::Connect(_) | UpstreamError::Broken(_) => Fault::ConnectionFailed,
        }
    }
}

impl UpstreamError {
    /// The same for administrators: the cause, and nothing of a credential.
    pub fn sentence(&self) -> String {
        match self {
            UpstreamError::Connect(error) => chain(error),
            UpstreamError::Build(_) | UpstreamError::Access(_) | UpstreamError::Broken(_) => self.to_string(),
        }
    }
}

/// Why the way to an API server cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The configuration names no host.
    #[error("the cluster URL `{0}` is not usable")]
    Url(Uri),
    /// TLS or CA.
    #[error("the client cannot be built: {0}")]
    Client(#[from] kube::Error),
    /// An inline token cannot be rotated.
    #[error("a `token` in the Kubernetes configuration is not supported; use `tokenFile`")]
    Token,
}

/// Connections to one address. Requests that only read may be repeated on a connection that died before it was used;
/// writes never are.
pub struct Road {
    reads: Pool,
    writes: Pool,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
}

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

impl Road {
    /// To the URL of the configuration, with its CA and client certificate.
    ///
    /// # Errors
    /// If the configuration names no usable host or CA.
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
        })
    }

    /// The address as a URL.
    pub fn server(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

/// An API server, and how the gate proves itself there.
pub struct Upstream {
    access: Access,
}

impl Upstream {
    /// Through this access.
    pub fn new(access: Access) -> Self {
        Self { access }
    }

    /// Where it is and how it is entered.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Sends one request and waits for the head of its answer.
    ///
    /// *Guarantees*: exactly one identity, one credential and our own `Audit-ID`; scheme and authority never come
    /// from the request (P15); a write is sent at most once (F04). `as_agent` is `None` for the gate's own reads; it is sent
    /// only where the gate impersonates, which it does nowhere but in its own cluster.
    ///
    /// # Errors
    /// If no answer came; [`UpstreamError::nothing_was_sent`] tells whether the effect is known.
    pub async fn send(
        &self,
        outgoing: Outgoing,
        as_agent: Option<&Impersonation>,
        id: &RequestId,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let is_read = outgoing.method == Method::GET;
        let patience = if outgoing.patient { FOLLOWED_HEAD } else { ANSWER_HEAD };
        let as_agent = as_agent.filter(|_| self.access.impersonates());
        let mut is_second = false;
        loop {
            let way = self.access.way().await?;
            let mut request = build(&way.road, outgoing.clone(), as_agent, id)?;
            if let Some(value) = way.authorization {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let pool = if is_read { &way.road.reads } else { &way.road.writes };
            match tokio::time::timeout(patience, pool.request(request)).await {
                Ok(Ok(response)) => {
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.access.forget_credential().await;
                    }
                    return Ok(response);
                }
                // Nothing was sent: where the cluster turns out to be elsewhere, once more (F31).
                Ok(Err(error)) if error.is_connect() => {
                    if is_second || !self.access.look_again().await {
                        return Err(UpstreamError::Connect(error));
                    }
                    is_second = true;
                }
                Ok(Err(error)) => return Err(UpstreamError::Broken(chain(&error))),
                Err(_) => return Err(UpstreamError::Broken("no answer in time".to_owned())),
            }
        }
    }
}

fn build(
    road: &Road,
    outgoing: Outgoing,
    as_agent: Option<&Impersonation>,
    id: &RequestId,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = match road.prefix.as_str() {
        "" => outgoing.path_and_query,
        prefix => PathAndQuery::try_from(format!("{prefix}{}", outgoing.path_and_query))?,
    };
    let uri = Uri::builder()
        .scheme(road.scheme.clone())
        .authority(road.authority.clone())
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

/// The header field of a bearer token; `None` for text that cannot be one.
pub fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a connection failed because of the other side's certificate.
fn is_certificate_fault(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // An I/O error does not name what it wraps as its source.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn f24_a_bad_certificate_is_found_however_deep_it_is_wrapped() {
        let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(is_certificate_fault(&bad()));
        assert!(is_certificate_fault(&Error::new(ErrorKind::InvalidData, bad())));
        assert!(is_certificate_fault(&Error::other(Error::new(ErrorKind::InvalidData, bad()))));
        assert!(!is_certificate_fault(&Error::other(rustls::Error::HandshakeNotComplete)));
        assert!(!is_certificate_fault(&Error::from(ErrorKind::ConnectionRefused)));
    }
}
