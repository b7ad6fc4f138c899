//! HTTP/1.1 by hand: the raw bytes of a request, and the raw bytes of its answer. For what no client library would send.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, its body decoded from chunks but from nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub code: u16,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

const LIMIT: Duration = Duration::from_secs(120);

/// A connection that bytes can be written to and answers read from.
pub struct Connection {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Connection {
    /// Connects to `https://host:port` or `http://host:port`; TLS is verified against `ca` (PEM).
    ///
    /// # Errors
    /// When the server cannot be reached or its certificate is not of `ca`.
    pub async fn open(url: &str, ca: &str) -> anyhow::Result<Self> {
        let (scheme, authority) = url.split_once("://").context("a URL with a scheme")?;
        let authority = authority.trim_end_matches('/');
        let tcp = TcpStream::connect(authority)
            .await
            .with_context(|| format!("cannot connect to `{authority}`"))?;
        tcp.set_nodelay(true)?;
        if scheme == "http" {
            return Ok(Self { stream: Box::new(tcp), read: Vec::new() });
        }
        crate::install_crypto();
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
            roots.add(cert?)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (host, _port) = authority.rsplit_once(':').context("a URL with a port")?;
        let name = ServerName::try_from(host.to_owned())?;
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Ok(Self { stream: Box::new(tls), read: Vec::new() })
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads one answer to its end. 120 s at most.
    ///
    /// # Errors
    /// When the connection ends before the answer does, or what comes is no HTTP.
    pub async fn answer(&mut self) -> anyhow::Result<Answer> {
        tokio::time::timeout(LIMIT, self.whole_answer()).await.context("no whole answer in time")?
    }

    /// Reads the head of an answer, leaving its body to [`Connection::chunk`]. 120 s at most.
    ///
    /// # Errors
    /// As [`Connection::answer`].
    pub async fn head(&mut self) -> anyhow::Result<Answer> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            self.more().await?.context("the connection ended before the answer's head")?;
        };
        let head: Vec<u8> = self.read.drain(..end + 4).collect();
        let head = String::from_utf8(head).context("an answer's head is ASCII")?;
        let mut lines = head.split("\r\n");
        let code =
            lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status line")?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Ok(Answer { code, headers, body: Vec::new() })
    }

    /// Reads the next chunk of a chunked body; none at its clean end.
    ///
    /// # Errors
    /// When the connection ends before the body does: a cut stream.
    pub async fn chunk(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n") {
                break end;
            }
            self.more().await?.context("the connection ended within a chunked body")?;
        };
        let size: Vec<u8> = self.read.drain(..end + 2).take(end).collect();
        let size = String::from_utf8(size)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        while self.read.len() < size + 2 {
            self.more().await?.context("the connection ended within a chunk")?;
        }
        let chunk: Vec<u8> = self.read.drain(..size + 2).take(size).collect();
        Ok((size > 0).then_some(chunk))
    }

    async fn whole_answer(&mut self) -> anyhow::Result<Answer> {
        let mut answer = self.head().await?;
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse()?;
            while self.read.len() < length {
                self.more().await?.context("the connection ended within a body")?;
            }
            answer.body = self.read.drain(..length).collect();
        } else if !matches!(answer.code, 100..=199 | 204 | 304) {
            while self.more().await?.is_some() {}
            answer.body = std::mem::take(&mut self.read);
        }
        Ok(answer)
    }

    async fn more(&mut self) -> anyhow::Result<Option<()>> {
        let before = self.read.len();
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Ok(None),
            Ok(_) if self.read.len() > 2 << 30 => bail!("an answer of more than 2 GB"),
            Ok(_) => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && before == self.read.len() => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends `request` as it is and reads one answer.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::answer`].
pub async fn exchange(url: &str, ca: &str, request: &[u8]) -> anyhow::Result<Answer> {
    let mut connection = Connection::open(url, ca).await?;
    connection.send(request).await?;
    connection.answer().await
}

/// `GET path` over plain HTTP on loopback, for admin ports.
///
/// # Errors
/// When nothing answers there.
pub async fn get_plain(port: u16, path: &str) -> anyhow::Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    exchange(&format!("http://127.0.0.1:{port}"), "", request.as_bytes()).await
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
