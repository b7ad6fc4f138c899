//! A cluster by URL, certificate authority and token: entered as whoever the token is, the same for every agent.
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::agent_identity::StaticTarget;
use futures::StreamExt;
use http::Uri;
use http::header::HeaderValue;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::{Fault, NoAccess, Way};
use crate::live::Patience;
use crate::upstream::{Road, bearer};

/// The Secret of a target that is new is waited for so long.
const FIRST_READ: Duration = Duration::from_secs(5);

/// Address, and the token as its Secret has it now (F22).
pub struct Fixed {
    server: String,
    secret: String,
    road: Result<Arc<Road>, NoAccess>,
    token: watch::Receiver<Seen>,
    watching: AbortHandle,
}

/// What was seen of the Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// `None` before the first look.
    token: Option<Result<HeaderValue, NoAccess>>,
    /// How often the token changed.
    revision: u64,
}

impl Fixed {
    /// Begins to follow the Secret in `namespace`; ends with the value. To be called inside the async runtime.
    pub fn new(client: Client, namespace: &str, spec: &StaticTarget) -> Self {
        let (sender, token) = watch::channel(Seen::default());
        let reference = spec.token_secret_ref.clone();
        let secret = format!("key `{}` of Secret `{namespace}/{}`", reference.key, reference.name);
        let api = Api::<Secret>::namespaced(client, namespace);
        let (what, server) = (secret.clone(), spec.server.clone());
        let following = async move {
            let mut events = watcher::watch_object(api, &reference.name).backoff(Patience::default()).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(found) => {
                        let token = read(found.as_ref(), &reference.key, &what);
                        see(&sender, token);
                    }
                    Err(error) => tracing::warn!(%error, server, "a target's token cannot be watched"),
                }
            }
        };
        Self {
            server: spec.server.clone(),
            secret,
            road: road(spec).map(Arc::new),
            token,
            watching: tokio::spawn(following).abort_handle(),
        }
    }

    /// The URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Where the token is, in words.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Grows whenever the token changes.
    pub fn revision(&self) -> u64 {
        self.token.borrow().revision
    }

    pub(super) async fn way(&self) -> Result<Way, NoAccess> {
        let road = self.road.clone()?;
        let mut token = self.token.clone();
        let seen = timeout(FIRST_READ, token.wait_for(|seen| seen.token.is_some())).await;
        let seen = seen.ok().and_then(Result::ok).and_then(|seen| seen.token.clone());
        match seen {
            Some(token) => Ok(Way { road, authorization: Some(token?) }),
            None => Err(unauthorized(format!("{} cannot be read", self.secret))),
        }
    }
}

impl Drop for Fixed {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn see(sender: &watch::Sender<Seen>, token: Result<HeaderValue, NoAccess>) {
    sender.send_if_modified(|seen| {
        let is_new = seen.token.as_ref() != Some(&token);
        if is_new {
            seen.token = Some(token);
            seen.revision += 1;
        }
        is_new
    });
}

fn read(secret: Option<&Secret>, key: &str, what: &str) -> Result<HeaderValue, NoAccess> {
    let bytes = secret.and_then(|secret| secret.data.as_ref()).and_then(|data| data.get(key));
    let bytes = bytes.ok_or_else(|| unauthorized(format!("{what} does not exist")))?;
    let token = std::str::from_utf8(&bytes.0).ok().and_then(|text| bearer(text.trim()));
    token.ok_or_else(|| unauthorized(format!("{what} holds no token")))
}

fn unauthorized(message: String) -> NoAccess {
    NoAccess { fault: Fault::Unauthorized, message }
}

/// Only these authorities are trusted, and the URL's host must be in the certificate (F24).
fn road(spec: &StaticTarget) -> Result<Road, NoAccess> {
    let invalid = |message: &str| NoAccess { fault: Fault::CertificateInvalid, message: message.to_owned() };
    let pem = STANDARD.decode(&spec.ca_bundle).map_err(|_| invalid("`caBundle` is not base64"))?;
    let authorities: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|one| one.map(|one| one.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("`caBundle` is not PEM"))?;
    if authorities.is_empty() {
        return Err(invalid("`caBundle` holds no certificate"));
    }
    to(&spec.server, authorities)
}

/// Connections to `server`, if one of `authorities` (DER) vouches for it. Never anything but TLS.
pub(super) fn to(server: &str, authorities: Vec<Vec<u8>>) -> Result<Road, NoAccess> {
    let unusable = || NoAccess {
        fault: Fault::ConnectionFailed,
        message: format!("`{server}` is not the URL of an API server"),
    };
    let url: Uri = server.parse().map_err(|_| unusable())?;
    if url.scheme_str() != Some("https") || url.query().is_some() {
        return Err(unusable());
    }
    let mut config = kube::Config::new(url);
    config.root_cert = Some(authorities);
    Road::new(&config).map_err(|error| NoAccess {
        fault: Fault::CertificateInvalid,
        message: format!("the certificate authority cannot be used: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::agent_identity::SecretKeyRef;
    use k8s_openapi::ByteString;

    fn spec(server: &str, ca: &str) -> StaticTarget {
        StaticTarget {
            server: server.to_owned(),
            ca_bundle: ca.to_owned(),
            token_secret_ref: SecretKeyRef { name: "edge".into(), key: "token".into() },
        }
    }

    #[test]
    fn f24_a_target_is_trusted_by_its_own_authority_or_not_at_all() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pem = rcgen::generate_simple_self_signed(vec!["edge".to_owned()]).expect("made").cert.pem();
        let good = STANDARD.encode(&pem);
        assert!(road(&spec("https://edge.example:6443/prefix", &good)).is_ok());
        for bad in ["", "%%%", &STANDARD.encode("hello"), &STANDARD.encode(&pem[..pem.len() / 2])] {
            let error = road(&spec("https://edge.example", bad)).err().expect("refused");
            assert_eq!(error.fault, Fault::CertificateInvalid, "{bad}");
        }
        for bad in ["http://edge.example", "edge.example:6443", "https://", "https://edge/?a=b"] {
            let error = road(&spec(bad, &good)).err().expect("refused");
            assert_eq!(error.fault, Fault::ConnectionFailed, "{bad}");
        }
    }

    #[test]
    fn f22_a_secret_that_changes_is_a_new_revision_and_one_without_a_token_is_no_access() {
        let secret = |key: &str, token: &str| Secret {
            data: Some([(key.to_owned(), ByteString(token.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        let (sender, seen) = watch::channel(Seen::default());
        for (found, revision) in [
            (Some(secret("token", "one\n")), 1),
            (Some(secret("token", "one")), 1),
            (Some(secret("token", "two")), 2),
            (None, 3),
        ] {
            see(&sender, read(found.as_ref(), "token", "the key"));
            assert_eq!(seen.borrow().revision, revision);
        }
        for bad in
            [None, Some(secret("other", "one")), Some(secret("token", " \n")), Some(secret("token", "a\nb"))]
        {
            assert_eq!(
                read(bad.as_ref(), "token", "it").err().map(|error| error.fault),
                Some(Fault::Unauthorized)
            );
        }
    }
}
