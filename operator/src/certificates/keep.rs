//! Keeping: the certificates in their Secrets, made when missing and renewed ahead of their end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};

use super::mint::{Authority, Facts, MintError, Pair};
use crate::config::Config;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
const ATTEMPTS: usize = 5;

/// What stops the certificates from being kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server refused or could not be reached.
    #[error("secret `{name}`: {source}")]
    Kube {
        /// Object that was read or written.
        name: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// A certificate could not be made, or the stored one not be read.
    #[error("secret `{name}`: {source}")]
    Mint {
        /// Object that was read or written.
        name: String,
        /// Cause.
        source: MintError,
    },
    /// Other writers won every attempt.
    #[error("secret `{0}`: changed by others {ATTEMPTS} times in a row")]
    Contended(String),
}

/// The certificates in force.
#[derive(Clone)]
pub struct Kept {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// What the webhook serves.
    pub webhook: Pair,
    /// Ends of the terms, by metric label.
    pub ends: [(&'static str, Timestamp); 3],
}

/// Makes sure that every certificate exists, carries the right names and is not about to end.
///
/// Several operators may do so at once: objects are created or replaced against the version that was read, and whoever
/// loses reads again. A Secret `sallyport-ca` that is there but cannot be read is an error and stays as it is: a new
/// authority would silently cut off every published kubeconfig.
///
/// # Errors
/// [`KeepError`]; nothing is half done, the next call goes on.
pub async fn keep(client: &Client, config: &Config, now: Timestamp) -> Result<Kept, KeepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &config.namespace);
    let authority = keep_authority(&secrets, now).await?;
    publish_authority(client, &config.namespace, authority.certificate()).await?;
    keep_binding_key(&secrets).await?;
    let proxy_names = config.serving_names(crds::names::PROXY_SERVICE);
    let proxy = keep_serving(&secrets, crds::names::PROXY_TLS_SECRET, &authority, &proxy_names, now).await?;
    let webhook_names = config.serving_names(crds::names::WEBHOOK_SERVICE);
    let webhook =
        keep_serving(&secrets, crds::names::WEBHOOK_TLS_SECRET, &authority, &webhook_names, now).await?;
    let end = |name: &str, pem: &str| {
        Facts::read(pem).map(|facts| facts.not_after).map_err(|source| mint_error(name, source))
    };
    Ok(Kept {
        ends: [
            ("authority", end(crds::names::CA_SECRET, authority.certificate())?),
            ("proxy", end(crds::names::PROXY_TLS_SECRET, &proxy.certificate)?),
            ("webhook", end(crds::names::WEBHOOK_TLS_SECRET, &webhook.certificate)?),
        ],
        authority: authority.certificate().to_owned(),
        webhook,
    })
}

async fn keep_authority(secrets: &Api<Secret>, now: Timestamp) -> Result<Authority, KeepError> {
    let name = crds::names::CA_SECRET;
    for _ in 0..ATTEMPTS {
        let found = secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
        let (authority, mut secret) = match found {
            None => (Authority::create(now), secret_named(name)),
            Some(secret) => {
                let authority = read_pair(&secret)
                    .and_then(|pair| Authority::read(&pair))
                    .map_err(|source| mint_error(name, source))?;
                let facts =
                    Facts::read(authority.certificate()).map_err(|source| mint_error(name, source))?;
                if !facts.is_due(now) {
                    return Ok(authority);
                }
                (authority.renewed(now), secret)
            }
        };
        let authority = authority.map_err(|source| mint_error(name, source))?;
        fill(&mut secret, &authority.pair(), authority.certificate());
        if write(secrets, name, &secret).await? {
            tracing::info!(secret = name, "certificate authority written");
            return Ok(authority);
        }
    }
    Err(KeepError::Contended(name.to_owned()))
}

async fn keep_serving(
    secrets: &Api<Secret>,
    name: &str,
    authority: &Authority,
    names: &[String],
    now: Timestamp,
) -> Result<Pair, KeepError> {
    for _ in 0..ATTEMPTS {
        let found = secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
        if let Some(pair) = found.as_ref().and_then(|secret| usable(secret, authority, names, now)) {
            return Ok(pair);
        }
        let pair = authority.issue(names, now).map_err(|source| mint_error(name, source))?;
        let mut secret = found.unwrap_or_else(|| secret_named(name));
        fill(&mut secret, &pair, authority.certificate());
        if write(secrets, name, &secret).await? {
            tracing::info!(secret = name, "serving certificate written");
            return Ok(pair);
        }
    }
    Err(KeepError::Contended(name.to_owned()))
}

/// The random key that the proxies bind approvals with. One that is there is never replaced: that would void every
/// approval that waits.
async fn keep_binding_key(secrets: &Api<Secret>) -> Result<(), KeepError> {
    let name = crds::names::BINDING_KEY_SECRET;
    for _ in 0..ATTEMPTS {
        if secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?.is_some() {
            return Ok(());
        }
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key)
            .map_err(|_| mint_error(name, MintError::Read("no random bytes".to_owned())))?;
        let data = BTreeMap::from([(crds::names::BINDING_KEY.to_owned(), ByteString(key.to_vec()))]);
        let secret = Secret { metadata: metadata(name), data: Some(data), ..Secret::default() };
        if write(secrets, name, &secret).await? {
            tracing::info!(secret = name, "binding key written");
            return Ok(());
        }
    }
    Err(KeepError::Contended(name.to_owned()))
}

// A serving certificate that is broken, foreign, due or named wrongly is simply made anew: nothing hangs on its key.
fn usable(secret: &Secret, authority: &Authority, names: &[String], now: Timestamp) -> Option<Pair> {
    let pair = read_pair(secret).ok()?;
    let facts = Facts::read(&pair.certificate).ok()?;
    let signed_by = text(secret, AUTHORITY)?;
    let right_names = facts.names == names.iter().cloned().collect();
    (signed_by == authority.certificate() && right_names && !facts.is_due(now)).then_some(pair)
}

async fn publish_authority(client: &Client, namespace: &str, certificate: &str) -> Result<(), KeepError> {
    let name = crds::names::CA_CONFIG_MAP;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    for _ in 0..ATTEMPTS {
        let found = api.get_opt(name).await.map_err(|source| kube_error(name, source))?;
        let published = found.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(AUTHORITY));
        if published.is_some_and(|published| published == certificate) {
            return Ok(());
        }
        let mut map = found.unwrap_or_else(|| ConfigMap { metadata: metadata(name), ..ConfigMap::default() });
        map.data = Some(BTreeMap::from([(AUTHORITY.to_owned(), certificate.to_owned())]));
        if write(&api, name, &map).await? {
            return Ok(());
        }
    }
    Err(KeepError::Contended(name.to_owned()))
}

/// Creates an object that has no resourceVersion, else replaces exactly that version. False: somebody was faster.
async fn write<K>(api: &Api<K>, name: &str, object: &K) -> Result<bool, KeepError>
where
    K: Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let params = PostParams::default();
    let written = match object.resource_version() {
        None => api.create(&params, object).await,
        Some(_) => api.replace(name, &params, object).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(false),
        Err(source) => Err(kube_error(name, source)),
    }
}

fn read_pair(secret: &Secret) -> Result<Pair, MintError> {
    let part = |key: &str| text(secret, key).ok_or_else(|| MintError::Read(format!("no text under `{key}`")));
    Ok(Pair { certificate: part(CERTIFICATE)?, key: part(KEY)? })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

fn fill(secret: &mut Secret, pair: &Pair, authority: &str) {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    secret.data = Some(BTreeMap::from([
        (CERTIFICATE.to_owned(), bytes(&pair.certificate)),
        (KEY.to_owned(), bytes(&pair.key)),
        (AUTHORITY.to_owned(), bytes(authority)),
    ]));
}

fn secret_named(name: &str) -> Secret {
    Secret { metadata: metadata(name), type_: Some("kubernetes.io/tls".to_owned()), ..Secret::default() }
}

fn metadata(name: &str) -> ObjectMeta {
    let labels =
        BTreeMap::from([(crds::names::LABEL_MANAGED_BY.to_owned(), crds::names::MANAGED_BY.to_owned())]);
    ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
}

fn kube_error(name: &str, source: kube::Error) -> KeepError {
    KeepError::Kube { name: name.to_owned(), source: Box::new(source) }
}

fn mint_error(name: &str, source: MintError) -> KeepError {
    KeepError::Mint { name: name.to_owned(), source }
}
