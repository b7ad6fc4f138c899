//! The serving certificate: read from its Secret through the API, replaced while connections go on (F24).
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;

/// The certificate in force; new handshakes see a new one at once.
#[derive(Debug, Default)]
pub struct Certificate {
    current: ArcSwapOption<CertifiedKey>,
}

/// Why a Secret does not replace the certificate in force.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The Secret lacks a key.
    #[error("key `{0}` is missing")]
    Missing(&'static str),
    /// The text is no PEM, or holds nothing of the kind.
    #[error("`{0}` is not PEM: {1}")]
    Pem(&'static str, rustls::pki_types::pem::Error),
    /// The chain is empty, or key and certificate do not belong together (a half-written Secret).
    #[error("certificate and key do not fit: {0}")]
    Unfit(rustls::Error),
}

impl Certificate {
    /// Whether there is one.
    pub fn is_present(&self) -> bool {
        self.current.load().is_some()
    }

    /// Puts a chain and its key in force; what does not fit together changes nothing.
    ///
    /// # Errors
    /// If the PEM cannot be read or the key is not the certificate's.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CertificateError::Pem("tls.crt", error))?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|error| CertificateError::Pem("tls.key", error))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        self.current.store(Some(Arc::new(certified.map_err(CertificateError::Unfit)?)));
        Ok(())
    }

    fn replace_from(&self, secret: &Secret) -> Result<(), CertificateError> {
        let data = |key: &'static str| {
            let found = secret.data.as_ref().and_then(|data| data.get(key));
            found.map(|bytes| bytes.0.as_slice()).ok_or(CertificateError::Missing(key))
        };
        self.replace(data("tls.crt")?, data("tls.key")?)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

/// Follows the Secret `secret` for ever. A Secret that is deleted or unfit leaves the last good certificate in force.
pub async fn follow(client: Client, namespace: String, secret: String, certificate: Arc<Certificate>) {
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={secret}"));
    let mut events = watcher(secrets, only).backoff(super::Patience::default()).applied_objects().boxed();
    while let Some(event) = events.next().await {
        match event.map(|secret| certificate.replace_from(&secret)) {
            Ok(Ok(())) => tracing::info!("a serving certificate is in force"),
            Ok(Err(error)) => tracing::error!(%error, "the serving certificate was not replaced"),
            Err(error) => tracing::warn!(%error, "the certificate's secret cannot be watched"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn pair() -> (String, String) {
        let pair = rcgen::generate_simple_self_signed(vec!["gate.test".to_owned()]).expect("a certificate");
        (pair.cert.pem(), pair.signing_key.serialize_pem())
    }

    fn secret(chain: &str, key: &str) -> Secret {
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let data = [("tls.crt".to_owned(), bytes(chain)), ("tls.key".to_owned(), bytes(key))].into();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn f24_a_half_written_secret_replaces_nothing() {
        let certificate = Certificate::default();
        let ((chain, key), (other, other_key)) = (pair(), pair());
        certificate.replace_from(&secret(&chain, &key)).expect("fits");
        let before = certificate.current.load_full().expect("in force");
        let half = &other[..other.len() / 2];
        for (chain, key) in
            [(&*other, &*key), (&*chain, &*other_key), (half, &*other_key), ("", ""), (&*other, "x")]
        {
            assert!(certificate.replace_from(&secret(chain, key)).is_err());
        }
        assert!(certificate.replace_from(&Secret::default()).is_err());
        assert!(Arc::ptr_eq(&before, &certificate.current.load_full().expect("still in force")));
        certificate.replace_from(&secret(&other, &other_key)).expect("fits");
        assert!(!Arc::ptr_eq(&before, &certificate.current.load_full().expect("another")));
    }
}
