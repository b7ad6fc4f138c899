//! A socket becomes a session: TCP, TLS, and HTTP with a limit on everything that a stranger can make us hold.
mod stall;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::drain::Drain;
use crate::live::Certificate;
use crate::refuse::Body;
use crate::telemetry::Telemetry;
use stall::Stall;

const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(10);
const STALLED_WRITE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const MAX_STREAMS: u32 = 100;
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// One TLS connection: who is at the other end, and a way to end it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The peer's address, from the socket and nothing else (B128).
    pub peer: SocketAddr,
    ending: CancellationToken,
}

impl Session {
    /// Of this peer.
    pub fn new(peer: SocketAddr) -> Self {
        Self { peer, ending: CancellationToken::new() }
    }

    /// Lets the requests in flight finish and takes no more on this connection: what a stranger gets (F14).
    pub fn end_soon(&self) {
        self.ending.cancel();
    }
}

/// Turns sockets into sessions and sessions into calls of `serve`.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    telemetry: Telemetry,
    drain: Drain,
    tasks: TaskTracker,
}

impl Acceptor {
    /// An acceptor that presents `certificate` and holds `max_connections` at most.
    ///
    /// # Errors
    /// If the TLS provider lacks the protocol versions.
    pub fn new(
        certificate: Arc<Certificate>,
        max_connections: u32,
        telemetry: Telemetry,
        drain: Drain,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let slots = usize::try_from(max_connections).unwrap_or(Semaphore::MAX_PERMITS);
        Ok(Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            slots: Arc::new(Semaphore::new(slots)),
            telemetry,
            drain,
            tasks: TaskTracker::new(),
        })
    }

    /// Accepts until the drain closes the door, then waits until every connection has ended.
    ///
    /// *Guarantees*: no socket is accepted beyond the limit; a handshake takes five seconds at most; `serve` is
    /// called only after TLS.
    pub async fn run<S, F>(&self, listener: TcpListener, serve: S)
    where
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&self.slots).acquire_owned() => slot,
                () = self.drain.closed() => break,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.closed() => break,
            };
            match accepted {
                Ok((socket, peer)) => self.spawn(socket, peer, slot.ok(), serve.clone()),
                Err(error) => {
                    tracing::warn!(%error, "a socket was not accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn spawn<S, F, P>(&self, socket: TcpStream, peer: SocketAddr, slot: P, serve: S)
    where
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
        P: Send + 'static,
    {
        let acceptor = self.clone();
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        self.tasks.spawn(async move {
            acceptor.connection(socket, peer, serve).await;
            drop(slot);
        });
    }

    /// One connection from its first byte to its last.
    pub async fn connection<T, S, F>(&self, socket: T, peer: SocketAddr, serve: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let _counted = self.telemetry.connection();
        let handshake = self.tls.accept(Stall::new(socket, STALLED_WRITE));
        let stream = match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS"),
            Err(_) => return tracing::debug!(%peer, "the TLS handshake took too long"),
        };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let session = Session::new(peer);
        let spoke = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let (session, spoke, drain) = (session.clone(), Arc::clone(&spoke), self.drain.clone());
            move |request| {
                spoke.store(true, Ordering::Relaxed);
                if is_h2 && drain.is_begun() {
                    session.end_soon();
                }
                let (answer, drain) = (serve(session.clone(), request), drain.clone());
                async move {
                    let mut answer = answer.await;
                    if !is_h2 && drain.is_begun() {
                        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Ok::<_, std::convert::Infallible>(answer)
                }
            }
        });
        let protocol = protocol(is_h2);
        let connection = protocol.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let silence = sleep(HEADERS);
        tokio::pin!(silence);
        let (mut ending, mut told, mut silent) = (false, false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "a connection ended early");
                    }
                    return;
                }
                () = self.drain.over() => return tracing::debug!(%peer, "a connection was cut"),
                () = session.ending.cancelled(), if !ending => ending = true,
                () = self.drain.closed(), if !ending => ending = true,
                // HTTP/2 tells its clients without losing a request (GOAWAY): an open connection at once, a later one with
                // its first request. HTTP/1.1 cannot: a request may be on its way into an idle connection that is closed, so
                // it is told with its next answer.
                () = self.drain.begun(), if is_h2 && !told => {
                    told = true;
                    ending |= spoke.load(Ordering::Relaxed);
                }
                () = &mut silence, if !silent => {
                    silent = true;
                    if spoke.load(Ordering::Relaxed) {
                        continue;
                    }
                    return tracing::debug!(%peer, "no request after the handshake");
                }
            }
            if ending {
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The one that ALPN chose, so that no bytes are sniffed.
fn protocol(is_h2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if is_h2 { builder.http2_only() } else { builder.http1_only() }
}
