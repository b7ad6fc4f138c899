//! What a stranger can make the gate hold: over in-memory pipes, with paused time.
mod attack;
mod floods;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::accept::{Acceptor, Places, Session};
use proxy::drain::Drain;
use proxy::live::{AgentKey, Certificate};
use proxy::refuse::{Body, whole};
use proxy::telemetry::Telemetry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Pieces of 16 KiB that were made for `/endless/counted`.
static PRODUCED: AtomicUsize = AtomicUsize::new(0);

struct Server {
    acceptor: Acceptor,
    certificate: Arc<Certificate>,
    telemetry: Telemetry,
    drain: Drain,
    ca: CertificateDer<'static>,
}

impl Server {
    fn new() -> Self {
        Self::holding(40)
    }

    /// A gate that holds so many connections; a quarter of them strangers'.
    fn holding(most: u32) -> Self {
        let certificate = Arc::new(Certificate::default());
        let ca = renew(&certificate);
        let drain = Drain::default();
        let telemetry = Telemetry::new().expect("metrics");
        let places = Places::new(most, most, telemetry.clone());
        let acceptor =
            Acceptor::new(Arc::clone(&certificate), places, telemetry.clone(), drain.clone()).expect("TLS");
        Self { acceptor, certificate, telemetry, drain, ca }
    }

    /// How many connections were refused for this reason.
    fn refused(&self, reason: &str) -> u64 {
        let text = String::from_utf8(self.telemetry.render().expect("encodes")).expect("text");
        let name = format!("sallyport_connections_refused_total{{reason=\"{reason}\"}} ");
        text.lines()
            .find_map(|line| line.strip_prefix(&name))
            .map_or(0, |count| count.parse().expect("a count"))
    }

    /// A pipe into the gate, and the task at its other end.
    fn pipe(&self) -> (DuplexStream, JoinHandle<()>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = self.acceptor.clone();
        let task = tokio::spawn(async move {
            acceptor.connection(far, SocketAddr::from(([127, 0, 0, 1], 1)), answer).await;
        });
        (near, task)
    }

    async fn tls(&self, alpn: &[u8]) -> (TlsStream<DuplexStream>, JoinHandle<()>) {
        let (pipe, task) = self.pipe();
        let stream = connect(client(&self.ca, rustls::ALL_VERSIONS, alpn), pipe).await.expect("TLS");
        (stream, task)
    }

    /// One request on a connection of its own, as any agent would send it.
    async fn still_serves(&self) {
        let (mut stream, _task) = self.tls(b"http/1.1").await;
        h1_request(&mut stream).await;
    }
}

/// Puts a new self-signed certificate in force.
fn renew(certificate: &Certificate) -> CertificateDer<'static> {
    let pair = rcgen::generate_simple_self_signed(vec!["gate.test".to_owned()]).expect("a certificate");
    let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    certificate.replace(chain.as_bytes(), key.as_bytes()).expect("fits");
    CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM")
}

fn client(
    ca: &CertificateDer<'static>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[u8],
) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
    config
}

async fn connect(
    config: rustls::ClientConfig,
    pipe: DuplexStream,
) -> std::io::Result<TlsStream<DuplexStream>> {
    let name = ServerName::try_from("gate.test").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, pipe).await
}

/// An agent's requests, but for `/stranger...`; `/endless` and `/stranger/silent` say for themselves what they are.
async fn answer(session: Session, request: Request<hyper::body::Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/stranger" => session.end_soon(),
        "/stranger/silent" => std::future::pending().await,
        _ => session.belongs_to(&AgentKey::new("agents", "a")).expect("a place"),
    }
    if request.uri().path().starts_with("/endless") {
        let is_counted = request.uri().path() == "/endless/counted";
        let pieces = futures::stream::repeat_with(move || {
            PRODUCED.fetch_add(usize::from(is_counted), Ordering::Relaxed);
            Ok(Frame::data(Bytes::from(vec![b'x'; 16 * 1024])))
        });
        return Response::new(StreamBody::new(pieces).boxed_unsync());
    }
    Response::new(whole("here"))
}

async fn ends_after(task: JoinHandle<()>) -> u64 {
    let started = Instant::now();
    task.await.expect("no panic");
    started.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn f10_a_handshake_takes_five_seconds_at_most() {
    let server = Server::new();
    let (mut pipe, task) = server.pipe();
    pipe.write_all(&[0x16, 0x03, 0x01]).await.expect("written");
    assert_eq!(ends_after(task).await, 5);
}

#[tokio::test(start_paused = true)]
async fn f10_a_client_without_a_request_is_let_go() {
    let server = Server::new();
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let (_stream, task) = server.tls(alpn).await;
        assert!(ends_after(task).await <= 10);
    }
}

#[tokio::test(start_paused = true)]
async fn f10_a_slow_head_is_let_go() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nA: ").await.expect("written");
    assert!(ends_after(task).await <= 10);
}

#[tokio::test(start_paused = true)]
async fn f10_a_later_head_that_trickles_is_let_go_too() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    h1_request(&mut stream).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let trickle = tokio::spawn(async move {
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nA: aaaaaaaaaaaaaaaaaaaaaaaa".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let seconds = ends_after(task).await;
    assert!((10..=15).contains(&seconds), "{seconds}");
    trickle.abort();
    assert_eq!(server.refused("SlowHead"), 1);
}

#[tokio::test(start_paused = true)]
async fn f33_a_kept_connection_may_be_idle_for_five_minutes() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    for _ in 0..3 {
        h1_request(&mut stream).await;
        tokio::time::sleep(Duration::from_secs(290)).await;
    }
    h1_request(&mut stream).await;
    let seconds = ends_after(task).await;
    assert!((300..=310).contains(&seconds), "{seconds}");

    let (stream, task) = server.tls(b"h2").await;
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
    tokio::spawn(connection);
    let request = Request::get("https://gate.test/").body(Empty::<Bytes>::new()).expect("a request");
    client.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    let seconds = ends_after(task).await;
    assert!((300..=310).contains(&seconds), "{seconds}");
    assert!(client.ready().await.is_err(), "it was told, and goes elsewhere");
}

#[tokio::test(start_paused = true)]
async fn f14_nobody_stays_a_stranger_for_more_than_half_a_minute() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    stream.write_all(b"GET /stranger/silent HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    stream.flush().await.expect("sent");
    assert_eq!(ends_after(task).await, 30);
    assert_eq!(server.refused("Stranger"), 1);
}

#[tokio::test]
async fn f10_fifty_that_hold_on_before_they_speak_leave_room_for_an_agent() {
    let server = Server::holding(80);
    let (mut open, _task) = server.tls(b"http/1.1").await;
    h1_request(&mut open).await;
    let mut held = Vec::new();
    for number in 0..50 {
        if number % 2 == 0 {
            let (mut pipe, task) = server.pipe();
            pipe.write_all(&[0x16, 0x03, 0x01]).await.expect("half a record");
            held.push((None, Some(pipe), task));
        } else {
            let (mut stream, task) = server.tls(b"http/1.1").await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nA: ").await.expect("half a head");
            held.push((Some(stream), None, task));
        }
    }
    server.still_serves().await;
    h1_request(&mut open).await;
    let ended = async {
        while held.iter().filter(|(_, _, task)| task.is_finished()).count() < 31 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("twenty places are strangers'");
    assert!(held[..31].iter().all(|(_, _, task)| task.is_finished()), "the oldest leave first");
    assert_eq!(server.refused("TooManyStrangers"), 31);
}

#[tokio::test]
async fn f13_a_head_that_is_too_large_is_431() {
    let server = Server::new();
    for head in [format!("A: {}\r\n", "a".repeat(1_100_000)), "A: a\r\n".repeat(101)] {
        let (mut stream, _task) = server.tls(b"http/1.1").await;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{head}\r\n");
        if stream.write_all(request.as_bytes()).await.is_ok() {
            stream.flush().await.expect("sent");
        }
        let mut bytes = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut bytes).await {}
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 431 "), "`{text}`");
    }
}

#[tokio::test]
async fn both_protocols_are_served() {
    let server = Server::new();
    let (mut stream, _task) = server.tls(b"http/1.1").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("an answer");
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("here"), "{text}");

    let (stream, _task) = server.tls(b"h2").await;
    let io = TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("h2");
    tokio::spawn(connection);
    let request = Request::get("https://gate.test/").body(Empty::<Bytes>::new()).expect("a request");
    let answer = client.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "here");
}

#[tokio::test]
async fn f14_a_stranger_gets_one_request_on_h2() {
    let server = Server::new();
    let (stream, task) = server.tls(b"h2").await;
    let io = TokioIo::new(stream);
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("h2");
    tokio::spawn(connection);
    let request = Request::get("https://gate.test/stranger").body(Empty::<Bytes>::new()).expect("a request");
    let answer = client.send_request(request).await.expect("an answer");
    answer.into_body().collect().await.expect("a body");
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("the connection ends").expect("no panic");
    assert!(client.ready().await.is_err(), "no second request");
}

async fn h1_request(stream: &mut TlsStream<DuplexStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    let mut text = String::new();
    while !text.ends_with("here") {
        let mut some = [0; 1024];
        let length = stream.read(&mut some).await.expect("an answer");
        assert!(length > 0, "the connection ended after `{text}`");
        text.push_str(&String::from_utf8_lossy(&some[..length]));
    }
    text
}

#[tokio::test]
async fn f02_a_drain_leaves_an_idle_http1_connection_until_its_next_answer_or_the_door_closes() {
    let server = Server::new();
    let ((mut busy, task), (mut idle, idle_task)) =
        (server.tls(b"http/1.1").await, server.tls(b"http/1.1").await);
    for stream in [&mut busy, &mut idle] {
        assert!(!h1_request(stream).await.contains("connection: close"));
    }
    server.drain.begin(Duration::from_secs(60));
    assert!(h1_request(&mut busy).await.contains("connection: close"));
    ended(task).await;
    assert!(!idle_task.is_finished(), "a request may be on its way");
    server.drain.close();
    ended(idle_task).await;
}

async fn ended(task: JoinHandle<()>) {
    tokio::time::timeout(Duration::from_secs(5), task).await.expect("the connection ends").expect("no panic");
}

#[tokio::test]
async fn f02_a_drain_tells_http2_at_once_and_serves_whoever_still_comes() {
    let server = Server::new();
    let connect = async || {
        let (stream, task) = server.tls(b"h2").await;
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("h2");
        tokio::spawn(connection);
        (client, task)
    };
    let get = || Request::get("https://gate.test/").body(Empty::<Bytes>::new()).expect("a request");
    let (mut open, open_task) = connect().await;
    open.send_request(get()).await.expect("an answer").into_body().collect().await.expect("a body");
    server.drain.begin(Duration::from_secs(60));
    ended(open_task).await;
    let (mut late, late_task) = connect().await;
    let answer = late.send_request(get()).await.expect("it is served");
    assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "here");
    ended(late_task).await;
    assert!(late.ready().await.is_err(), "and told to go elsewhere");
}

#[tokio::test]
async fn f02_what_is_cut_breaks_off() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    h1_request(&mut stream).await;
    server.drain.cut();
    ended(task).await;
}
