//! Asks an issuer for its keys: its discovery document, then the JWK set that this names. Bounded in size and time; https
//! only; no redirect is followed.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use policy::oidc::Issuer;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use super::keys::Keys;

const WHOLE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
const LARGEST: usize = 512 * 1024;
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FetchError {
    /// No trust in any certificate.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// An address that is none, or not https.
    #[error("`{0}` is no https URL")]
    Url(String),
    /// Not there, or its certificate is not trusted.
    #[error("`{0}` cannot be reached: {1}")]
    Unreachable(String, String),
    /// Something else than 200; a redirect too.
    #[error("`{0}` answered {1}")]
    Status(String, StatusCode),
    /// Too large, or broken off.
    #[error("the answer of `{0}` is too large or incomplete")]
    Body(String),
    /// Not what it should be.
    #[error("the answer of `{0}` is no {1}")]
    Meaning(String, &'static str),
    /// It speaks for somebody else.
    #[error("the discovery document names another issuer")]
    OtherIssuer,
    /// Too slow.
    #[error("no answer within {} seconds", WHOLE.as_secs())]
    Slow,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The way to one issuer.
pub struct Fetcher {
    issuer: Arc<str>,
    client: Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, FetchError>,
}

impl Fetcher {
    /// Trusts the issuer's own authorities if it has any, else the system's.
    pub fn new(issuer: &Issuer) -> Self {
        let client = tls(issuer).map(|tls| {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_connect_timeout(Some(CONNECT));
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_only()
                .enable_http1()
                .wrap_connector(tcp);
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        });
        Self { issuer: Arc::clone(&issuer.url), client }
    }

    /// The keys as the issuer publishes them now.
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn keys(&self) -> Result<Keys, FetchError> {
        timeout(WHOLE, self.ask()).await.map_err(|_| FetchError::Slow)?
    }

    async fn ask(&self) -> Result<Keys, FetchError> {
        let address = format!("{}{DISCOVERY}", self.issuer.trim_end_matches('/'));
        let body = self.get(&address).await?;
        let discovery: Discovery =
            serde_json::from_slice(&body).map_err(|_| FetchError::Meaning(address, "discovery document"))?;
        if discovery.issuer != *self.issuer {
            return Err(FetchError::OtherIssuer);
        }
        let body = self.get(&discovery.jwks_uri).await?;
        Keys::read(&body).ok_or_else(|| FetchError::Meaning(clean(&discovery.jwks_uri), "JWK set"))
    }

    async fn get(&self, address: &str) -> Result<Bytes, FetchError> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let shown = clean(address);
        let uri: Uri = address.parse().map_err(|_| FetchError::Url(shown.clone()))?;
        if uri.scheme_str() != Some("https") {
            return Err(FetchError::Url(shown));
        }
        let request = Request::get(uri)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, concat!("sallyport-proxy/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| FetchError::Url(shown.clone()))?;
        let answer = client.request(request).await.map_err(|error| {
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            FetchError::Unreachable(shown.clone(), cause)
        })?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(shown, answer.status()));
        }
        let whole = Limited::new(answer.into_body(), LARGEST).collect().await;
        whole.map(|body| body.to_bytes()).map_err(|_| FetchError::Body(shown))
    }
}

fn clean(address: &str) -> String {
    address.chars().filter(char::is_ascii_graphic).take(256).collect()
}

fn tls(issuer: &Issuer) -> Result<ClientConfig, FetchError> {
    let refused = |error: &dyn ToString| FetchError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| refused(&e))?;
    let Some(pem) = &issuer.certificate_authority else {
        return Ok(builder.with_native_roots().map_err(|e| refused(&e))?.with_no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|e| refused(&e))?).map_err(|e| refused(&e))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
