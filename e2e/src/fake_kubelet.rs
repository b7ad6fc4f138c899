//! A kubelet's log endpoint that says what it is told to say, when it is told: a fake, because a real container cannot be asked
//! for timing. The API server in front of it is real.
//!
//! *Like a kubelet*: TLS, HTTP/1.1, chunked answers, and no head before the first byte of a followed log.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;

use crate::control_plane::ControlPlane;
use crate::pki::Authority;

/// What every open followed log is told.
#[derive(Clone, Debug)]
enum Said {
    Text(Vec<u8>),
    End,
}

/// A node without containers whose logs are made here. Lives as long as its process; its Node object stays in the cluster.
#[derive(Clone, Debug)]
pub struct FakeKubelet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: String,
    said: broadcast::Sender<Said>,
    asked: Mutex<Vec<String>>,
    log: Mutex<Vec<u8>>,
    following: AtomicUsize,
    written: AtomicU64,
}

impl FakeKubelet {
    /// Starts it on a free loopback port, on a thread of its own, and registers its Node.
    ///
    /// # Errors
    /// When no port is free or the API server refuses the Node.
    pub fn start(plane: &ControlPlane) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let node = format!("fake-kubelet-{}", plane.next());
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            },
        });
        plane.apply(&object.to_string())?;
        let status = json!({"status": object["status"]}).to_string();
        plane
            .kubectl(&["patch", "node", &node, "--subresource=status", "--type=merge", "-p", &status])?
            .success()?;
        let tls = acceptor()?;
        let inner = Inner {
            node,
            said: broadcast::channel(64).0,
            asked: Mutex::default(),
            log: Mutex::default(),
            following: AtomicUsize::new(0),
            written: AtomicU64::new(0),
        };
        let kubelet = Self(Arc::new(inner));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = kubelet.clone();
        std::thread::spawn(move || runtime.block_on(serving.serve(listener, tls)));
        Ok(kubelet)
    }

    /// Name of its Node: a pod's `spec.nodeName`.
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Writes to every log that is followed now.
    pub fn say(&self, text: &str) {
        let _nobody_follows = self.0.said.send(Said::Text(text.as_bytes().to_vec()));
    }

    /// Ends every log that is followed now: its container has ended.
    pub fn end(&self) {
        let _nobody_follows = self.0.said.send(Said::End);
    }

    /// What a log that is not followed is from now on.
    pub fn log_is(&self, text: Vec<u8>) {
        *self.0.log.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Path and query of every request so far.
    pub fn asked(&self) -> Vec<String> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many logs are followed now.
    pub fn following(&self) -> usize {
        self.0.following.load(Ordering::SeqCst)
    }

    /// Bytes of logs that the API server has taken so far.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::SeqCst)
    }

    async fn serve(self, listener: std::net::TcpListener, tls: TlsAcceptor) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            let (kubelet, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move { kubelet.connection(socket, tls).await });
        }
    }

    async fn connection(self, socket: TcpStream, tls: TlsAcceptor) -> anyhow::Result<()> {
        let mut stream = tls.accept(socket).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        let target = head.split(' ').nth(1).context("a request line")?.to_owned();
        let follows = target.contains("follow=true");
        // Before it can be waited for: what is said after that is heard.
        let said = self.0.said.subscribe();
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).push(target);
        if !follows {
            return self.whole(&mut stream).await;
        }
        self.0.following.fetch_add(1, Ordering::SeqCst);
        let followed = self.followed(stream, said).await;
        self.0.following.fetch_sub(1, Ordering::SeqCst);
        followed
    }

    async fn whole(&self, stream: &mut (impl AsyncWriteExt + Unpin)) -> anyhow::Result<()> {
        let log = self.0.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            log.len()
        );
        stream.write_all(head.as_bytes()).await?;
        for piece in log.chunks(64 * 1024) {
            stream.write_all(piece).await?;
            self.0.written.fetch_add(u64::try_from(piece.len())?, Ordering::SeqCst);
        }
        Ok(stream.shutdown().await?)
    }

    async fn followed(
        &self,
        stream: tokio_rustls::server::TlsStream<TcpStream>,
        mut said: broadcast::Receiver<Said>,
    ) -> anyhow::Result<()> {
        let (mut from, mut to) = tokio::io::split(stream);
        let mut is_first = true;
        loop {
            let mut rest = [0; 1];
            let word = tokio::select! {
                word = said.recv() => word?,
                // The API server has let go.
                _closed = from.read(&mut rest) => return Ok(()),
            };
            if std::mem::take(&mut is_first) {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
                to.write_all(head.as_bytes()).await?;
            }
            match word {
                Said::Text(text) => {
                    let chunk = [format!("{:x}\r\n", text.len()).as_bytes(), &text, b"\r\n"].concat();
                    to.write_all(&chunk).await?;
                    to.flush().await?;
                }
                Said::End => {
                    to.write_all(b"0\r\n\r\n").await?;
                    return Ok(to.shutdown().await?);
                }
            }
        }
    }
}

fn acceptor() -> anyhow::Result<TlsAcceptor> {
    crate::install_crypto();
    let pair = Authority::new("fake-kubelet-ca")?.server("fake-kubelet", &[])?;
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
