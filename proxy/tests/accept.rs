//! What a stranger can make the gate hold: over in-memory pipes, with paused time.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy::accept::{Acceptor, Session};
use proxy::drain::Drain;
use proxy::live::Certificate;
use proxy::refuse::{Body, whole};
use proxy::telemetry::Telemetry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Server {
    acceptor: Acceptor,
    drain: Drain,
    ca: CertificateDer<'static>,
}

impl Server {
    fn new() -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["gate.test".to_owned()]).expect("a certificate");
        let certificate = Arc::new(Certificate::default());
        let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        certificate.replace(chain.as_bytes(), key.as_bytes()).expect("fits");
        let drain = Drain::default();
        let telemetry = Telemetry::new().expect("metrics");
        let acceptor = Acceptor::new(certificate, 10, telemetry, drain.clone()).expect("TLS");
        let ca = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
        Self { acceptor, drain, ca }
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
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from("gate.test").expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, pipe).await.expect("TLS");
        (stream, task)
    }
}

async fn answer(session: Session, request: Request<hyper::body::Incoming>) -> Response<Body> {
    if request.uri().path() == "/stranger" {
        session.end_soon();
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
    let request = Request::get("https://gate.test/").body(Empty::<bytes::Bytes>::new()).expect("a request");
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
    let request =
        Request::get("https://gate.test/stranger").body(Empty::<bytes::Bytes>::new()).expect("a request");
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
    let get = || Request::get("https://gate.test/").body(Empty::<bytes::Bytes>::new()).expect("a request");
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
