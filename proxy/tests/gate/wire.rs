//! The gate behind its real acceptor: TLS, then bytes by hand. And what hostile bytes may have done upstream.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::accept::{Acceptor, Places};
use proxy::drain::Drain;
use proxy::live::Certificate;
use proxy::serve::serve;
use proxy::telemetry::Telemetry;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::DuplexStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::Seen;
use crate::world::World;

/// In what of the hostile bytes may never be seen upstream.
pub const MARK: &str = "smuggled";
/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(15);

/// A gate that can be spoken to in bytes.
pub struct Wire {
    pub world: World,
    acceptor: Acceptor,
    ca: CertificateDer<'static>,
}

impl Wire {
    pub async fn new() -> Wire {
        let world = World::new().await;
        let pair = rcgen::generate_simple_self_signed(vec!["gate.test".to_owned()]).unwrap();
        let certificate = Arc::new(Certificate::default());
        let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        certificate.replace(chain.as_bytes(), key.as_bytes()).unwrap();
        let telemetry = Telemetry::new().unwrap();
        let places = Places::new(100, 100, telemetry.clone());
        let acceptor = Acceptor::new(certificate, places, telemetry, Drain::default()).unwrap();
        Wire { world, acceptor, ca: CertificateDer::from_pem_slice(chain.as_bytes()).unwrap() }
    }

    /// A TLS connection that speaks `alpn`.
    pub async fn connect(&self, alpn: &[u8]) -> TlsStream<DuplexStream> {
        let (near, far) = tokio::io::duplex(4 << 20);
        let (acceptor, gate) = (self.acceptor.clone(), Arc::clone(&self.world.gate));
        tokio::spawn(async move {
            let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
            let serve = move |session, request| serve(Arc::clone(&gate), session, request);
            acceptor.connection(far, peer, serve).await;
        });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let name = ServerName::try_from("gate.test").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, near).await.unwrap()
    }

    /// What reached the API server as the agent since this was asked last, each byte of it accounted for.
    pub fn upstream(&self) -> Vec<Rebuilt> {
        let (seen, raw) = (self.world.server.seen(), self.world.server.raw());
        self.world.server.forget();
        let text = String::from_utf8_lossy(&raw);
        assert!(!text.to_lowercase().contains(MARK), "bytes of the client went upstream: {text}");
        for one in &seen {
            let exact = bytes(one);
            assert!(text.contains(&exact), "not the bytes of a request: {exact}\n in {text}");
        }
        seen.iter().map(Rebuilt::of).collect()
    }
}

/// A request exactly as it must have been on the wire.
fn bytes(seen: &Seen) -> String {
    let fields = seen.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
    let body = String::from_utf8_lossy(&seen.body);
    format!("{} {} HTTP/1.1\r\n{fields}\r\n{body}", seen.method, seen.target)
}

/// A request that reached the API server, without what is new in each.
#[derive(Debug, PartialEq, Eq)]
pub struct Rebuilt {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Rebuilt {
    fn of(seen: &Seen) -> Self {
        let is_new = |name: &str| name == "audit-id" || name.contains("request-id");
        let mut headers: Vec<_> = seen.headers.iter().filter(|(name, _)| !is_new(name)).cloned().collect();
        headers.sort();
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Self { line: format!("{} {}", seen.method, seen.target), headers, body }
    }
}
