//! The gate as an agent meets it: an address, the authority that it trusts, and a token or none.

use anyhow::Context;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Status;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Where the gate is and whom to trust.
pub struct Gate {
    url: http::Uri,
    authority: Option<Vec<Vec<u8>>>,
}

/// What it said.
pub struct Answer {
    /// HTTP status.
    pub code: u16,
    /// Reason of a Status; empty if the body is none.
    pub reason: String,
    /// Message of a Status; empty if the body is none.
    pub message: String,
}

impl Gate {
    /// A gate whose certificate must be signed by one of `pem`, or without it by an authority that the system knows.
    ///
    /// # Errors
    /// If `pem` holds no certificate.
    pub fn new(url: http::Uri, pem: Option<&[u8]>) -> anyhow::Result<Self> {
        let authority = pem.map(certificates).transpose()?;
        Ok(Self { url, authority })
    }

    /// Sends a GET, over a connection of its own.
    ///
    /// # Errors
    /// If no HTTP answer comes back: nobody listens, or the certificate is another's.
    pub async fn get(&self, path: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        let mut config = Config::new(self.url.clone());
        config.root_cert = self.authority.clone();
        config.auth_info.token = token.map(|token| token.to_owned().into());
        let request = http::Request::get(path).body(Body::empty())?;
        let response = Client::try_from(config)?.send(request).await.context("the gate cannot be reached")?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let status: Status = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Answer { code, reason: status.reason, message: status.message })
    }
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found: Vec<Vec<u8>> =
        parsed.context("--gate-ca is not PEM")?.iter().map(|one| one.to_vec()).collect();
    anyhow::ensure!(!found.is_empty(), "--gate-ca holds no certificate");
    Ok(found)
}
