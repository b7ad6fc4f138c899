//! Serving TLS with a certificate that changes under way.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::mint::Pair;

/// A stored pair that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not PEM.
    #[error("serving certificate is not readable: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Key and certificate do not fit each other, or the key's kind is unknown.
    #[error("serving certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate in force. Every new handshake sees the newest; without one, handshakes fail.
#[derive(Debug, Default)]
pub struct Serving(ArcSwapOption<CertifiedKey>);

impl Serving {
    /// Puts a certificate in force.
    ///
    /// # Errors
    /// [`ServeError`]; the one before stays in force.
    pub fn set(&self, pair: &Pair) -> Result<(), ServeError> {
        let chain =
            CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// The server side of TLS for HTTP/1.1.
    ///
    /// # Errors
    /// The TLS library has no protocol version in common with itself; a build error in truth.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, ServeError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
