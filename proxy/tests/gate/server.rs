//! An API server that says what it is told to say, and remembers exactly what reached it.
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What is answered to a request that is not the gate's own.
#[derive(Clone, Debug)]
pub enum Reply {
    Json(u16, Value),
    /// Any head and body.
    Raw(u16, Vec<(&'static str, String)>, Bytes),
    /// The connection ends without an answer.
    Cut,
    /// An answer of JSON, or a log, that begins so and never ends.
    Endless(Bytes),
    /// An answer after this many milliseconds.
    Late(u64, Value),
}

type Script = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A socket whose incoming bytes are kept as they came.
struct Kept {
    socket: TcpStream,
    inner: Arc<Inner>,
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.inner.raw.lock().unwrap().extend_from_slice(&buf.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

struct Inner {
    seen: Mutex<Vec<Seen>>,
    raw: Mutex<Vec<u8>>,
    script: Mutex<Script>,
    reviews_fail: Mutex<bool>,
    groups: Mutex<Option<Reply>>,
}

/// The server. Cloning shares it.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let script: Script = Box::new(|_| Reply::Json(200, json!({})));
        let inner = Inner {
            seen: Mutex::default(),
            raw: Mutex::default(),
            script: Mutex::new(script),
            reviews_fail: Mutex::new(false),
            groups: Mutex::default(),
        };
        let server = Server { address: listener.local_addr().unwrap(), inner: Arc::new(inner) };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move {
                    let io = TokioIo::new(Kept { socket, inner: Arc::clone(&server.inner) });
                    let service = service_fn(move |request| server.clone().serve(request));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        server
    }

    /// What to answer from now on.
    pub fn answers(&self, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.inner.script.lock().unwrap() = Box::new(script);
    }

    /// Token reviews fail from now on.
    pub fn reviews_fail(&self) {
        *self.inner.reviews_fail.lock().unwrap() = true;
    }

    /// What `/apis` answers from now on: the discovery of everything but the core group.
    pub fn groups_are(&self, reply: Reply) {
        *self.inner.groups.lock().unwrap() = Some(reply);
    }

    /// How often the gate itself asked for what is served.
    pub fn discoveries(&self) -> usize {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter().filter(|one| one.target == "/apis" && one.header("impersonate-user").is_empty()).count()
    }

    /// What came on an agent's behalf.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.inner.seen.lock().unwrap();
        seen.iter().filter(|one| !one.header("impersonate-user").is_empty()).cloned().collect()
    }

    /// The reviews of tokens that were asked for.
    pub fn reviews(&self) -> Vec<Value> {
        let seen = self.inner.seen.lock().unwrap();
        let reviews = seen.iter().filter(|one| one.target.starts_with(REVIEWS));
        reviews.map(|one| serde_json::from_slice(&one.body).unwrap()).collect()
    }

    /// Every byte that came, on whichever connection and on whosever behalf.
    pub fn raw(&self) -> Vec<u8> {
        self.inner.raw.lock().unwrap().clone()
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        self.inner.seen.lock().unwrap().clear();
        self.inner.raw.lock().unwrap().clear();
    }

    async fn serve(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<BoxBody<Bytes, Infallible>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let seen = Seen { method: head.method.to_string(), target: head.uri.to_string(), headers, body };
        self.inner.seen.lock().unwrap().push(seen.clone());
        let reply = match self.own(&seen) {
            Some(reply) => reply,
            None => (self.inner.script.lock().unwrap())(&seen),
        };
        let made: Result<_, Infallible> = Ok(match reply {
            Reply::Cut => return Err(std::io::ErrorKind::ConnectionReset.into()),
            Reply::Json(code, value) => json_answer(code, &value),
            Reply::Late(millis, value) => {
                tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
                json_answer(200, &value)
            }
            Reply::Raw(code, fields, body) => {
                let mut response = Response::builder().status(code);
                for (name, value) in fields {
                    response = response.header(name, value);
                }
                response.body(Full::new(body).boxed()).unwrap()
            }
            Reply::Endless(first) => {
                let first = futures::stream::once(async { Ok(Frame::data(first)) });
                let endless = StreamBody::new(first.chain(futures::stream::pending()));
                let is_log = seen.target.contains("/log?");
                let media_type = if is_log { "text/plain" } else { "application/json" };
                Response::builder().header("content-type", media_type).body(BoxBody::new(endless)).unwrap()
            }
        });
        made.map_err(|never| match never {})
    }

    /// What the gate itself asks.
    fn own(&self, seen: &Seen) -> Option<Reply> {
        if seen.target.starts_with(REVIEWS) {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap();
            return Some(if *self.inner.reviews_fail.lock().unwrap() {
                Reply::Json(500, json!({"kind": "Status", "code": 500}))
            } else {
                Reply::Json(201, review(&asked))
            });
        }
        let is_own = seen.header("impersonate-user").is_empty();
        if let (true, "/apis", Some(reply)) = (is_own, &*seen.target, &*self.inner.groups.lock().unwrap()) {
            return Some(reply.clone());
        }
        let fixture = match (is_own, seen.target.as_str()) {
            (true, "/api") => include_str!("../../../parsing/tests/fixtures/discovery-core.json"),
            (true, "/apis") => include_str!("../../../parsing/tests/fixtures/discovery-groups.json"),
            _ => return None,
        };
        Some(Reply::Json(200, serde_json::from_str(fixture).unwrap()))
    }
}

fn json_answer(code: u16, value: &Value) -> Response<BoxBody<Bytes, Infallible>> {
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Full::new(Bytes::from(value.to_string())).boxed()).unwrap()
}

/// By the third part of the token: `good` is the agent's, `stranger` somebody's; `kubernetes` has another audience.
fn review(asked: &Value) -> Value {
    let user = |name: &str| json!({"username": format!("system:serviceaccount:agents:{name}")});
    let token = asked["spec"]["token"].as_str().unwrap_or_default();
    let status = match token.rsplit('.').next().unwrap_or_default() {
        "good" => json!({"authenticated": true, "audiences": ["sallyport"], "user": user("claude-code")}),
        "stranger" => json!({"authenticated": true, "audiences": ["sallyport"], "user": user("stranger")}),
        "kubernetes" => {
            json!({"authenticated": true, "audiences": ["kubernetes"], "user": user("claude-code")})
        }
        _ => json!({"authenticated": false}),
    };
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": asked["spec"], "status": status})
}
