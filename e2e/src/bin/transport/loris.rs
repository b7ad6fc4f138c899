//! A slow loris: connections that say a byte a second, in the handshake, in a request's head, or in its body; cut, they come again.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use e2e::load::Who;
use e2e::wire::Connection;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const EVERY: Duration = Duration::from_secs(1);
/// The beginning of a TLS record with a ClientHello of 512 bytes.
const HELLO: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];

/// Running until it is stopped.
pub struct Loris {
    tasks: JoinSet<()>,
    count: usize,
    opened: Arc<AtomicUsize>,
}

impl Loris {
    /// Starts so many; those that trickle a body are an agent's, the others nobody's.
    pub fn start(url: &str, who: &Who, count: usize) -> anyhow::Result<Self> {
        let address = url.strip_prefix("https://").context("an https URL")?.to_owned();
        let token = std::fs::read_to_string(&who.token_file)?;
        let (mut tasks, opened) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        for number in 0..count {
            let body = format!(
                "POST /api/v1/namespaces/{}/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{",
                who.namespace,
                token.trim()
            );
            let head = "GET / HTTP/1.1\r\nHost: x\r\nA: ".to_owned();
            let beginning = if number % 3 == 1 { head } else { body };
            let (address, url, ca) = (address.clone(), url.to_owned(), who.ca.clone());
            let opened = Arc::clone(&opened);
            tasks.spawn(async move {
                loop {
                    let _cut = match number % 3 {
                        0 => handshake(&address, &opened).await,
                        _ => trickle(&url, &ca, &beginning, &opened).await,
                    };
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        Ok(Self { tasks, count, opened })
    }

    /// Waits until each of them has been open once.
    pub async fn all_open(&self) -> anyhow::Result<()> {
        e2e::eventually("the lorises to hold on", Duration::from_secs(60), async || {
            Ok((self.opened.load(Ordering::Relaxed) >= self.count).then_some(()))
        })
        .await
    }

    /// Ends them all; how many connections they opened.
    pub async fn stop(mut self) -> usize {
        self.tasks.shutdown().await;
        self.opened.load(Ordering::Relaxed)
    }
}

async fn handshake(address: &str, opened: &AtomicUsize) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    opened.fetch_add(1, Ordering::Relaxed);
    for byte in HELLO.iter().chain(std::iter::repeat(&0)) {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

async fn trickle(url: &str, ca: &str, beginning: &str, opened: &AtomicUsize) -> anyhow::Result<()> {
    let mut connection = Connection::open(url, ca).await?;
    connection.send(beginning.as_bytes()).await?;
    opened.fetch_add(1, Ordering::Relaxed);
    loop {
        connection.send(b" ").await?;
        tokio::time::sleep(EVERY).await;
    }
}
