//! A client of HTTP/2 that is written by hand, frame by frame, because no library would misbehave like this.
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::Server;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `GET https://x<path>`, without any compression but the static table's.
pub fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    [&[0x82, 0x87, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What the gate said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Heard {
    /// The error code of a GOAWAY or RST_STREAM.
    pub fn code(&self) -> u32 {
        let from = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[from..from + 4].try_into().expect("four bytes"))
    }
}

/// One connection to the gate.
pub struct Attacker {
    writer: Arc<tokio::sync::Mutex<WriteHalf<TlsStream<DuplexStream>>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// The gate's end of the connection.
    pub task: JoinHandle<()>,
    /// Our own reading.
    reading: JoinHandle<()>,
}

impl Attacker {
    /// Connects, with `settings` (identifier and value), and answers PINGs from then on.
    pub async fn connect(server: &Server, settings: &[(u16, u32)]) -> Self {
        let (stream, task) = server.tls(b"h2").await;
        let (reader, writer) = tokio::io::split(stream);
        let (writer, heard) = (Arc::new(tokio::sync::Mutex::new(writer)), Arc::default());
        let reading = tokio::spawn(read(reader, Arc::clone(&writer), Arc::clone(&heard)));
        let attacker = Self { writer, heard, task, reading };
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let opening = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &*frame(SETTINGS, 0, 0, &payload)].concat();
        assert!(attacker.send(&opening).await, "a connection opens");
        attacker
    }

    /// Writes bytes; whether the gate still took them.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        send(&self.writer, bytes).await
    }

    /// Sends `bytes` made by `make` until the connection ends or `most` were sent; how many were.
    pub async fn flood(&self, most: u32, make: impl Fn(u32) -> Vec<u8>) -> u32 {
        for number in 0..most {
            if self.task.is_finished() || !self.send(&make(number)).await {
                return number;
            }
        }
        most
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("not poisoned").clone()
    }

    /// Waits until something is heard.
    pub async fn hears(&self, wanted: impl Fn(&Heard) -> bool) -> Heard {
        let found = async {
            loop {
                if let Some(found) = self.heard().into_iter().find(&wanted) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(200), found).await.expect("heard in time")
    }

    /// Waits until the gate has closed the connection; what it said before.
    pub async fn ended(self) -> Vec<Heard> {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it ends").expect("no panic");
        let _closed = tokio::time::timeout(Duration::from_secs(5), self.reading).await;
        let heard = self.heard.lock().expect("not poisoned");
        heard.clone()
    }
}

async fn send(writer: &tokio::sync::Mutex<WriteHalf<TlsStream<DuplexStream>>>, bytes: &[u8]) -> bool {
    let mut writer = writer.lock().await;
    writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok()
}

async fn read(
    mut reader: ReadHalf<TlsStream<DuplexStream>>,
    writer: Arc<tokio::sync::Mutex<WriteHalf<TlsStream<DuplexStream>>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
) {
    let mut header = [0; 9];
    while reader.read_exact(&mut header).await.is_ok() {
        let [a, b, c, kind, flags, rest @ ..] = header;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        if reader.read_exact(&mut payload).await.is_err() {
            return;
        }
        if kind == PING && flags & ACK == 0 {
            let (writer, pong) = (Arc::clone(&writer), frame(PING, ACK, 0, &payload));
            tokio::spawn(async move { send(&writer, &pong).await });
        }
        if kind == DATA {
            payload.truncate(64);
        }
        heard.lock().expect("not poisoned").push(Heard { kind, stream: u32::from_be_bytes(rest), payload });
    }
}
