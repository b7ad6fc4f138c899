//! Serving TLS with a certificate that changes under way: every replica follows the one Secret that the leader writes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::keep;
use super::mint::{Facts, Pair};
use crate::telemetry::Metrics;

/// A stored pair that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not PEM.
    #[error("serving certificate is not readable: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Key and certificate do not fit each other, or the key's kind is unknown.
    #[error("serving certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The authority of client certificates cannot be used.
    #[error("the authority of client certificates cannot be used: {0}")]
    ClientAuthority(String),
}

/// The certificate in force. Every new handshake sees the newest; without one, handshakes fail.
#[derive(Debug)]
pub struct Serving {
    key: ArcSwapOption<CertifiedKey>,
    // PEM, for whoever wants to know what is served; replaced together with the key.
    certificate: watch::Sender<Option<String>>,
    replacing: Mutex<()>,
}

impl Default for Serving {
    fn default() -> Self {
        let certificate = watch::Sender::new(None);
        Self { key: ArcSwapOption::default(), certificate, replacing: Mutex::default() }
    }
}

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
        let _replacing = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.key.store(Some(Arc::new(certified)));
        self.certificate.send_replace(Some(pair.certificate.clone()));
        Ok(())
    }

    /// The certificate in force, PEM.
    pub fn certificate(&self) -> Option<String> {
        self.certificate.borrow().clone()
    }

    /// Sees every change of [`Serving::certificate`].
    pub fn changes(&self) -> watch::Receiver<Option<String>> {
        self.certificate.subscribe()
    }

    /// The server side of TLS for HTTP/1.1. With `clients`, authorities as PEM, only clients with a certificate of one of
    /// them get through the handshake.
    ///
    /// # Errors
    /// `clients` holds no authority that can be used; or the TLS library has no protocol version in common with itself.
    pub fn server_config(self: &Arc<Self>, clients: Option<&str>) -> Result<Arc<ServerConfig>, ServeError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authorities) => builder.with_client_cert_verifier(client_verifier(authorities)?),
        };
        let mut config = builder.with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn client_verifier(
    authorities: &str,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, ServeError> {
    let unusable = |error: &dyn std::fmt::Display| ServeError::ClientAuthority(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(certificate.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
    verifier.map_err(|error| unusable(&error))
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

/// Follows the webhook's Secret for ever. One that is deleted or unfit leaves the last good certificate in force (F24).
pub async fn follow(client: Client, namespace: String, serving: Arc<Serving>, metrics: Arc<Metrics>) {
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let only =
        watcher::Config::default().fields(&format!("metadata.name={}", crds::names::WEBHOOK_TLS_SECRET));
    let mut events = watcher(secrets, only).default_backoff().applied_objects().boxed();
    while let Some(event) = events.next().await {
        let secret = match event {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(%error, "the webhook's secret cannot be watched");
                continue;
            }
        };
        let Ok(pair) = keep::read_pair(&secret) else {
            tracing::error!(
                "the webhook's secret holds no certificate and key; the one before stays in force"
            );
            continue;
        };
        if serving.certificate().as_ref() == Some(&pair.certificate) {
            continue;
        }
        match serving.set(&pair) {
            Ok(()) => {
                tracing::info!("a webhook certificate is in force");
                if let Ok(facts) = Facts::read(&pair.certificate) {
                    metrics.certificate_end("webhook", facts.not_after);
                }
            }
            Err(error) => tracing::error!(%error, "the webhook's certificate was not replaced"),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::super::mint::Authority;
    use super::*;

    #[test]
    fn f24_a_half_written_pair_replaces_nothing() {
        let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
        let authority = Authority::create(now, hour).unwrap();
        let issue = || authority.issue(&["127.0.0.1".to_owned()], now, hour).unwrap();
        let (one, other) = (issue(), issue());
        let serving = Serving::default();
        serving.set(&one).unwrap();
        let half = other.certificate[..other.certificate.len() / 2].to_owned();
        for (certificate, key) in [(&other.certificate, &one.key), (&half, &other.key), (&one.key, &one.key)]
        {
            let unfit = Pair { certificate: certificate.clone(), key: key.clone() };
            assert!(serving.set(&unfit).is_err());
        }
        assert_eq!(serving.certificate().as_ref(), Some(&one.certificate));
        serving.set(&other).unwrap();
        assert_eq!(serving.certificate().as_ref(), Some(&other.certificate));
    }

    #[test]
    fn an_authority_of_clients_that_holds_nothing_is_an_error() {
        let serving = Arc::new(Serving::default());
        assert!(serving.server_config(Some("")).is_err());
        assert!(serving.server_config(Some("not PEM")).is_err());
        let authority = Authority::create(Timestamp::now(), SignedDuration::from_hours(1)).unwrap();
        assert!(serving.server_config(Some(authority.certificate())).is_ok());
    }
}
