//! Checking: whether the API server will accept what this replica's webhook serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{Api, Client};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::serve::Serving;
use super::trust::{self, Webhooks};
use crate::admin::Readiness;

// Time passes too: a certificate ends without an event.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a served certificate is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is none yet.
    #[error("no serving certificate yet")]
    NoCertificate,
    /// A webhook of the configurations has no `caBundle` yet, or there is no configuration.
    #[error("no caBundle yet")]
    NoBundle,
    /// The certificate is not of an authority in the bundle, has ended, or is for other names.
    #[error("{0}")]
    Refused(String),
}

/// Keeps `readiness.certificates`: the certificate in force is accepted by every webhook configuration's `caBundle`.
pub async fn keep_checked(client: Client, serving: Arc<Serving>, name: String, readiness: Arc<Readiness>) {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut changes = trust::changes(&mutating, &validating);
    let mut served = serving.changes();
    let mut before = false;
    loop {
        tokio::select! {
            _ = served.changed() => {}
            event = changes.next() => if event.is_none() { return },
            () = tokio::time::sleep(AGAIN) => {}
        }
        let bundles =
            async { Ok::<_, kube::Error>((bundles(&mutating).await?, bundles(&validating).await?)) };
        let outcome = match bundles.await {
            Ok((mut all, more)) => {
                all.extend(more);
                accepted(&serving, &all, &name)
            }
            // Nobody calls a webhook while the API server is away.
            Err(_) => continue,
        };
        readiness.certificates.store(outcome.is_ok(), Ordering::Release);
        if let (true, Err(error)) = (before, &outcome) {
            tracing::warn!(%error, "the API server would not accept the webhook's certificate");
        }
        before = outcome.is_ok();
    }
}

async fn bundles<K: Webhooks>(api: &Api<K>) -> Result<Vec<Option<String>>, kube::Error> {
    let Some(mut found) = api.get_opt(crds::names::WEBHOOK_CONFIGURATION).await? else {
        return Ok(vec![None]);
    };
    let text = |bytes: &k8s_openapi::ByteString| String::from_utf8_lossy(&bytes.0).into_owned();
    Ok(found.clients().map(|client| client.ca_bundle.as_ref().map(text)).collect())
}

fn accepted(serving: &Serving, bundles: &[Option<String>], name: &str) -> Result<(), CheckError> {
    let served = serving.certificate().ok_or(CheckError::NoCertificate)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    for bundle in bundles {
        let bundle = bundle.as_ref().ok_or(CheckError::NoBundle)?;
        verify(bundle, &served, name, now)?;
    }
    Ok(())
}

/// Verifies `leaf` (PEM) for `name` against the authorities in `bundle` (PEM), `now` after 1970.
///
/// # Errors
/// [`CheckError::Refused`].
pub fn verify(bundle: &str, leaf: &str, name: &str, now: Duration) -> Result<(), CheckError> {
    let refused = |error: &dyn std::fmt::Display| CheckError::Refused(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .map_err(|error| refused(&error))?;
    let leaf = CertificateDer::from_pem_slice(leaf.as_bytes()).map_err(|error| refused(&error))?;
    let name = ServerName::try_from(name.to_owned()).map_err(|error| refused(&error))?;
    let now = UnixTime::since_unix_epoch(now);
    verifier.verify_server_cert(&leaf, &[], &name, &[], now).map_err(|error| refused(&error))?;
    Ok(())
}
