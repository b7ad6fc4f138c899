//! What a Service is to its pods: a TCP balancer that learns of readiness late and picks a ready one for each new connection; where
//! none is, the one that was ready last, as kube-proxy picks those that terminate and still serve (KEP-1669). It never tries a
//! second one: what a program refuses, its client sees.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};

use crate::gate::Gate;
use crate::wire;

/// How late it learns: a kube-proxy takes about a second.
const LEARNS_EVERY: Duration = Duration::from_secs(1);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A balancer on loopback. Lives as long as its process.
#[derive(Clone, Debug)]
pub struct Balancer {
    port: u16,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    admin_port: u16,
    is_ready: AtomicBool,
    // Number of the look at which it was ready last.
    ready_at: AtomicUsize,
}

impl Balancer {
    /// Starts one in front of every proxy of `gate`, on a thread of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(gate: &Gate) -> anyhow::Result<Self> {
        Self::before(gate.proxies().iter().map(|proxy| (proxy.port(), proxy.program().admin_port())))
    }

    /// Starts one in front of any programs, each by the port that it serves and its admin port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn before(targets: impl IntoIterator<Item = (u16, u16)>) -> anyhow::Result<Self> {
        let target = |(port, admin_port)| Target {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            admin_port,
            is_ready: AtomicBool::new(true),
            ready_at: AtomicUsize::new(0),
        };
        let targets: Arc<[Target]> = targets.into_iter().map(target).collect();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(serve(listener, targets)));
        Ok(Self { port })
    }

    /// URL where clients reach them.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

async fn serve(listener: std::net::TcpListener, targets: Arc<[Target]>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let looks = Arc::new(AtomicUsize::new(0));
    for index in 0..targets.len() {
        let (targets, looks) = (Arc::clone(&targets), Arc::clone(&looks));
        tokio::spawn(async move {
            loop {
                let asked = wire::get_plain(targets[index].admin_port, "/readyz");
                let answer = tokio::time::timeout(ANSWERS_WITHIN, asked).await;
                let is_ready = matches!(answer, Ok(Ok(answer)) if answer.code == 200);
                targets[index].is_ready.store(is_ready, Ordering::Relaxed);
                let look = looks.fetch_add(1, Ordering::Relaxed);
                if is_ready {
                    targets[index].ready_at.store(look, Ordering::Relaxed);
                }
                tokio::time::sleep(LEARNS_EVERY).await;
            }
        });
    }
    let turn = AtomicUsize::new(0);
    loop {
        let (near, _) = listener.accept().await?;
        let ready: Vec<&Target> =
            targets.iter().filter(|target| target.is_ready.load(Ordering::Relaxed)).collect();
        let last = || targets.iter().max_by_key(|target| target.ready_at.load(Ordering::Relaxed));
        let turn = turn.fetch_add(1, Ordering::Relaxed).checked_rem(ready.len());
        let Some(to) = turn.map(|turn| ready[turn]).or_else(last).map(|target| target.address) else {
            continue;
        };
        tokio::spawn(carry(near, to));
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr) -> std::io::Result<()> {
    let mut far = TcpStream::connect(to).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_bytes| ())
}
