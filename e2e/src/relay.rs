//! A TCP relay on loopback that can stall either direction, or cut: the network's ill will, on command.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the relay lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    All,
    NoRequests,
    NoAnswers,
    Nothing,
}

/// A relay to one address. Lives until it is dropped, with all its connections.
#[derive(Clone, Debug)]
pub struct Relay {
    port: u16,
    target: Arc<watch::Sender<SocketAddr>>,
    flow: Arc<watch::Sender<Flow>>,
    generation: Arc<watch::Sender<u64>>,
}

impl Relay {
    /// Starts a relay to `target` on a free loopback port, on a thread of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(target: SocketAddr) -> anyhow::Result<Self> {
        Self::on_thread(target, || Ok(()))
    }

    /// The same to an address in another network namespace, such as `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// When no port is free or the namespace cannot be entered.
    pub fn start_into(namespace: &Path, target: SocketAddr) -> anyhow::Result<Self> {
        let namespace = File::open(namespace).with_context(|| namespace.display().to_string())?;
        let enter = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .context("cannot enter the network namespace")
        };
        Self::on_thread(target, enter)
    }

    fn on_thread(
        target: SocketAddr,
        enter: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (target, targets) = watch::channel(target);
        let (flow, flows) = watch::channel(Flow::All);
        let (generation, generations) = watch::channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (entered, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let inside = enter();
            let serves = inside.is_ok();
            if entered.send(inside).is_ok() && serves {
                let _closed = runtime.block_on(accept(listener, targets, flows, generations));
            }
        });
        outcome.recv().context("the relay's thread ended")??;
        Ok(Self { port, target: Arc::new(target), flow: Arc::new(flow), generation: Arc::new(generation) })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets everything through again.
    pub fn flow(&self) {
        self.flow.send_replace(Flow::All);
    }

    /// Holds back what goes to the target; answers pass.
    pub fn stall_requests(&self) {
        self.flow.send_replace(Flow::NoRequests);
    }

    /// Holds back what comes from the target; requests pass.
    pub fn stall_answers(&self) {
        self.flow.send_replace(Flow::NoAnswers);
    }

    /// Holds back everything.
    pub fn stall(&self) {
        self.flow.send_replace(Flow::Nothing);
    }

    /// Carries connections that come from now on to another address; [`Relay::cut`] ends those to the old one.
    pub fn retarget(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Closes every connection that is open now.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

async fn accept(
    listener: std::net::TcpListener,
    targets: watch::Receiver<SocketAddr>,
    mut flows: watch::Receiver<Flow>,
    generations: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (near, _) = accepted?;
                let target = *targets.borrow();
                tokio::spawn(carry(near, target, flows.clone(), generations.clone()));
            }
            closed = flows.changed() => if closed.is_err() { return Ok(()) }
        }
    }
}

async fn carry(
    near: TcpStream,
    target: SocketAddr,
    flows: watch::Receiver<Flow>,
    mut generations: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    generations.mark_unchanged();
    let requests =
        pump(near_read, far_write, flows.clone(), |flow| matches!(flow, Flow::All | Flow::NoAnswers));
    let answers = pump(far_read, near_write, flows, |flow| matches!(flow, Flow::All | Flow::NoRequests));
    tokio::select! {
        // What is held back is not let out by a cut that the flow follows at once.
        biased;
        _cut_or_dropped = generations.changed() => Ok(()),
        both = async { tokio::try_join!(requests, answers) } => both.map(|_both| ()),
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut flows: watch::Receiver<Flow>,
    passes: fn(&Flow) -> bool,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        flows.wait_for(passes).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..length]).await?;
    }
}
