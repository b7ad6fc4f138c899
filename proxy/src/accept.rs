//! A socket becomes a session: TCP, TLS, and HTTP with a limit on everything that a stranger can make us hold.
mod descriptors;
mod ear;
mod flood;
mod flow;
mod pace;
mod places;
mod session;
mod stall;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use crate::drain::Drain;
use crate::live::Certificate;
use crate::refuse::Body;
use crate::telemetry::Telemetry;
use ear::Ear;
use flow::StreamTasks;
use session::{Due, Why};
use stall::Stall;

pub use descriptors::connections_that_fit;
pub use pace::{Paced, TooSlow};
pub use places::{Crowded, Place, Places};
pub use session::Session;

const HANDSHAKE: Duration = Duration::from_secs(5);
/// Whoever reads next to nothing for so long is given up: a connection on HTTP/1.1, a stream on HTTP/2.
const STALLED_WRITE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const MAX_STREAMS: u32 = 100;
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// What a client may send ahead of us on one stream and on all of a connection, before anybody reads it.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What waits in a stream for a client that reads slowly.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that a client has reset before we looked at them, and streams that we reset for its errors.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 100;

/// Turns sockets into sessions and sessions into calls of `serve`.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    places: Places,
    telemetry: Telemetry,
    drain: Drain,
    tasks: TaskTracker,
}

impl Acceptor {
    /// An acceptor that presents `certificate` and holds as many connections as there are `places`.
    ///
    /// # Errors
    /// If the TLS provider lacks the protocol versions.
    pub fn new(
        certificate: Arc<Certificate>,
        places: Places,
        telemetry: Telemetry,
        drain: Drain,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        Ok(Self { tls, places, telemetry, drain, tasks: TaskTracker::new() })
    }

    /// Accepts until the drain closes the door, then waits until every connection has ended.
    ///
    /// *Guarantees*: whoever comes is taken, and the connection that has been a stranger's longest leaves for it where there is
    /// no place; a handshake takes five seconds at most; `serve` is called only after TLS.
    pub async fn run<S, F>(&self, listener: TcpListener, serve: S)
    where
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.drain.closed() => break,
            };
            match accepted {
                Ok((socket, peer)) => self.spawn(socket, peer, serve.clone()),
                Err(error) => {
                    // No descriptor is left: a stranger's comes free within seconds (F28).
                    tracing::warn!(%error, "a socket was not accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn spawn<S, F>(&self, socket: TcpStream, peer: SocketAddr, serve: S)
    where
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let acceptor = self.clone();
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        self.tasks.spawn(async move { acceptor.connection(socket, peer, serve).await });
    }

    /// One connection from its first byte to its last.
    pub async fn connection<T, S, F>(&self, socket: T, peer: SocketAddr, serve: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let session = Session::new(peer, self.places.stranger());
        let ended = tokio::select! {
            ended = self.secure_and_serve(socket, &session, serve) => ended,
            () = session.lost_place() => Some(Why::Crowded),
            () = self.drain.over() => return tracing::debug!(%peer, "a connection was cut"),
        };
        if let Some(why) = ended {
            tracing::debug!(%peer, ?why, "a connection was closed");
            if let Some(label) = why.label() {
                self.telemetry.connection_refused(label);
            }
        }
    }

    /// To its own end, or to where the gate closes it.
    async fn secure_and_serve<T, S, F>(&self, socket: T, session: &Session, serve: S) -> Option<Why>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let handshake = self.tls.accept(Stall::new(socket, STALLED_WRITE));
        match timeout(HANDSHAKE, handshake).await {
            Ok(Ok(stream)) => self.serve(stream, session, serve).await,
            Ok(Err(error)) => {
                tracing::debug!(peer = %session.peer, %error, "no TLS");
                Some(Why::NoTls)
            }
            Err(_) => Some(Why::SlowHandshake),
        }
    }

    async fn serve<T, S, F>(&self, stream: TlsStream<T>, session: &Session, serve: S) -> Option<Why>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Fn(Session, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (served, drain) = (session.clone(), self.drain.clone());
        let service = service_fn(move |request| {
            let in_flight = served.request();
            if is_h2 && drain.is_begun() {
                served.end_soon();
            }
            let (answer, drain) = (serve(served.clone(), request), drain.clone());
            async move {
                let mut answer = answer.await;
                if !is_h2 && drain.is_begun() {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, std::convert::Infallible>(flow::answering(answer, in_flight))
            }
        });
        let protocol = protocol(is_h2, StreamTasks::new(STALLED_WRITE, self.telemetry.clone()));
        let io = TokioIo::new(Ear::new(stream, session.clone(), is_h2));
        let connection = protocol.serve_connection(io, service);
        tokio::pin!(connection);
        let secured = Instant::now();
        let watch = sleep_until(secured);
        tokio::pin!(watch);
        let (mut ending, mut told) = (false, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    let error = ended.err()?;
                    tracing::debug!(peer = %session.peer, %error, "a connection ended early");
                    return (session.was_flooded() || is_calmed(&*error)).then_some(Why::Flood);
                }
                () = session.ending(), if !ending => ending = true,
                () = self.drain.closed(), if !ending => ending = true,
                // HTTP/2 tells its clients without losing a request (GOAWAY): an open connection at once, a later one with
                // its first request. HTTP/1.1 cannot: a request may be on its way into an idle connection that is closed, so
                // it is told with its next answer.
                () = self.drain.begun(), if is_h2 && !told => {
                    told = true;
                    ending |= session.was_asked();
                }
                () = &mut watch => match session.due(Instant::now(), secured, is_h2) {
                    Due::Wait(until) => {
                        watch.as_mut().reset(until);
                        continue;
                    }
                    Due::EndSoon => session.end_soon(),
                    Due::End(why) => return Some(why),
                },
            }
            if ending {
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Whether h2 itself had enough of the peer.
fn is_calmed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
        }
        cause = error.source();
    }
    false
}

/// The one that ALPN chose, so that no bytes are sniffed. How long a head may take is the session's business: hyper's own timer
/// would end an idle connection too.
fn protocol(is_h2: bool, tasks: StreamTasks) -> auto::Builder<StreamTasks> {
    let mut builder = auto::Builder::new(tasks);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    if is_h2 { builder.http2_only() } else { builder.http1_only() }
}
