//! One client of the gate: one kept connection, and client-go's rules for what is sent again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Who;

const LIMIT: Duration = Duration::from_secs(30);
/// As often as client-go waits for a 429.
const MOST_TRIES: u32 = 10;

/// What is spoken after TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// How a request came to nothing.
#[derive(Clone, Debug)]
pub enum Lost {
    /// No connection, with the words of the one who failed.
    Unreached(String),
    /// The connection ended or broke before the answer did.
    Broken(String),
    /// Neither answer nor end.
    Silent,
    /// An answer that is no good.
    Said(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Unreached(why) => write!(f, "no connection: {why}"),
            Lost::Broken(why) => write!(f, "broken: {why}"),
            Lost::Silent => f.write_str("no answer in time"),
            Lost::Said(what) => f.write_str(what),
        }
    }
}

/// An answer, whole.
pub struct Whole {
    /// Status code.
    pub code: u16,
    /// `Audit-ID`.
    pub id: Option<String>,
    /// Body.
    pub body: Bytes,
}

/// An answer that is read as it comes.
pub struct Stream {
    /// Status code.
    pub code: u16,
    /// `Audit-ID`.
    pub id: Option<String>,
    body: Incoming,
}

impl Stream {
    /// The next piece; none at the clean end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Lost::Broken(chain(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Whether a request can be sent on it; waits until the one before has ended.
    async fn ready(&mut self) -> bool {
        match self {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// A client with one connection.
pub struct Client {
    url: String,
    who: Who,
    protocol: Protocol,
    keeps: bool,
    sender: Option<Sender>,
    again: u32,
}

impl Client {
    /// Connects with its first request; `keeps` the connection for the next one.
    pub fn new(url: &str, who: &Who, protocol: Protocol, keeps: bool) -> Self {
        Self { url: url.to_owned(), who: who.clone(), protocol, keeps, sender: None, again: 0 }
    }

    /// How often the last request was sent again.
    pub fn again(&self) -> u32 {
        self.again
    }

    /// Whether it asks as this agent.
    pub fn is_of(&self, who: &Who) -> bool {
        self.who.username == who.username
    }

    /// Whether its connection is kept, and open.
    pub async fn is_connected(&mut self) -> bool {
        match &mut self.sender {
            Some(sender) => sender.ready().await,
            None => false,
        }
    }

    /// Sends and reads the whole answer; a code other than 2xx is an error with its body.
    ///
    /// # Errors
    /// How it came to nothing.
    pub async fn whole(&mut self, method: &str, target: &str, body: &str) -> Result<Whole, Lost> {
        let answer = tokio::time::timeout(LIMIT, async {
            let stream = self.open(method, target, body).await?;
            let body = stream.body.collect().await.map_err(|error| Lost::Broken(chain(&error)))?;
            Ok(Whole { code: stream.code, id: stream.id, body: body.to_bytes() })
        });
        let answer = answer.await.unwrap_or(Err(Lost::Silent));
        if answer.is_err() || !self.keeps {
            self.sender = None;
        }
        let answer = answer?;
        if (200..300).contains(&answer.code) {
            return Ok(answer);
        }
        let id = answer.id.unwrap_or_default();
        Err(Lost::Said(format!("{} ({id}): {}", answer.code, String::from_utf8_lossy(&answer.body))))
    }

    /// Sends and waits for the head of the answer.
    ///
    /// # Errors
    /// How it came to nothing.
    pub async fn open(&mut self, method: &str, target: &str, body: &str) -> Result<Stream, Lost> {
        self.again = 0;
        loop {
            let was_kept = self.connected().await?;
            let request =
                self.request(method, target, body).map_err(|error| Lost::Said(format!("{error:#}")))?;
            let Some(sender) = self.sender.as_mut() else { return Err(Lost::Silent) };
            match sender.send(request).await {
                Ok(answer) if answer.status() == 429 && self.again < MOST_TRIES => {
                    let after = answer
                        .headers()
                        .get("retry-after")
                        .and_then(|value| value.to_str().ok()?.parse().ok());
                    let Some(seconds) = after else { return Ok(stream(answer)) };
                    self.sender = None;
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                }
                Ok(answer) => return Ok(stream(answer)),
                Err(error) => {
                    self.sender = None;
                    // Cancelled: nothing of it was sent.
                    let may_repeat = error.is_canceled() || (was_kept && method == "GET");
                    if !may_repeat || self.again >= MOST_TRIES {
                        return Err(Lost::Broken(chain(&error)));
                    }
                }
            }
            self.again += 1;
        }
    }

    /// Makes a connection unless one is kept; whether one was.
    async fn connected(&mut self) -> Result<bool, Lost> {
        if let Some(sender) = &mut self.sender
            && sender.ready().await
        {
            return Ok(true);
        }
        let sender = self.connect().await.map_err(|error| Lost::Unreached(format!("{error:#}")))?;
        self.sender = Some(sender);
        Ok(false)
    }

    async fn connect(&self) -> anyhow::Result<Sender> {
        crate::install_crypto();
        let authority = self.url.strip_prefix("https://").context("an https URL")?.trim_end_matches('/');
        let (host, _port) = authority.rsplit_once(':').context("a URL with a port")?;
        let tcp = TcpStream::connect(authority).await.context("TCP")?;
        tcp.set_nodelay(true)?;
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.who.ca.as_bytes()) {
            roots.add(certificate?)?;
        }
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![match self.protocol {
            Protocol::Http1 => b"http/1.1".to_vec(),
            Protocol::Http2 => b"h2".to_vec(),
        }];
        let name = ServerName::try_from(host.to_owned())?;
        let io = TokioIo::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS")?);
        Ok(match self.protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        })
    }

    fn request(&self, method: &str, target: &str, body: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let token = std::fs::read_to_string(&self.who.token_file)?;
        let uri = match self.protocol {
            Protocol::Http1 => target.to_owned(),
            Protocol::Http2 => format!("{}{target}", self.url.trim_end_matches('/')),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("accept", "application/json")
            .header("user-agent", "e2e-load");
        if self.protocol == Protocol::Http1 {
            request = request.header("host", "sallyport");
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/merge-patch+json");
        }
        Ok(request.body(Full::new(Bytes::from(body.to_owned())))?)
    }
}

fn stream(answer: Response<Incoming>) -> Stream {
    let id = answer.headers().get("audit-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    Stream { code: answer.status().as_u16(), id, body: answer.into_body() }
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
