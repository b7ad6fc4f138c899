//! Keeping: authorities, serving certificates and the binding key in their Secrets, the trust in its ConfigMap.
//!
//! *Assumptions*: the leader calls this. Where there are two for a moment, every object is created or replaced against the
//! version that was read, and whoever loses reads again.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};

use super::authorities::{Authorities, Next, Step};
use super::mint::{Authority, Facts, MintError, Pair};
use super::trust::{Bundles, Trust};
use crate::config::Config;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const NEXT_PUBLISHED: &str = "next.published";
const PREVIOUS: &str = "previous.crt";
const END_OF_CERTIFICATE: &str = "-----END CERTIFICATE-----\n";
const ATTEMPTS: usize = 5;

/// What stops the certificates from being kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server refused or could not be reached.
    #[error("`{name}`: {source}")]
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
    #[error("`{0}`: changed by others {ATTEMPTS} times in a row")]
    Contended(String),
    /// The Secret that somebody else keeps is not there.
    #[error("secret `{0}` of `--proxy-tls-secret` is not there")]
    NotProvided(String),
}

/// Keeps certificates and the trust in them.
pub struct Keeper {
    secrets: Api<Secret>,
    maps: Api<ConfigMap>,
    config: Arc<Config>,
}

impl Keeper {
    /// In the namespace of `config`.
    pub fn new(client: &Client, config: Arc<Config>) -> Self {
        let secrets = Api::namespaced(client.clone(), &config.namespace);
        let maps = Api::namespaced(client.clone(), &config.namespace);
        Self { secrets, maps, config }
    }

    /// One look at everything: a step of the authorities where one is due, trust published, every certificate there, with the
    /// right names, and not about to end. Returns the ends of the terms by metric label.
    ///
    /// # Errors
    /// [`KeepError`]; nothing is half done, the next call goes on.
    pub async fn keep(
        &self,
        trust: &Trust,
        now: Timestamp,
    ) -> Result<Vec<(&'static str, Timestamp)>, KeepError> {
        let provided = self.provided().await?;
        let bundles = |authorities: &Authorities| {
            let webhook = authorities.bundle();
            let agents = match &provided {
                Some(secret) => text(secret, AUTHORITY),
                None => Some(webhook.clone()),
            };
            Bundles { webhook, agents }
        };
        let is_published = |authorities: &Authorities| trust.is_everywhere(&bundles(authorities));
        let authorities = self.authorities(is_published, now).await?;
        let bundles = bundles(&authorities);
        self.publish(bundles.agents.as_deref()).await?;
        trust.want(bundles);
        self.binding_key().await?;
        let mut ends = vec![("authority", authorities.signing.facts().not_after)];
        let webhook =
            self.serving(crds::names::WEBHOOK_TLS_SECRET, crds::names::WEBHOOK_SERVICE, &authorities, now);
        ends.push(("webhook", webhook.await?));
        let proxy = match &provided {
            Some(secret) => text(secret, CERTIFICATE).and_then(|pem| Some(Facts::read(&pem).ok()?.not_after)),
            None => {
                let name = crds::names::PROXY_TLS_SECRET;
                Some(self.serving(name, crds::names::PROXY_SERVICE, &authorities, now).await?)
            }
        };
        ends.extend(proxy.map(|end| ("proxy", end)));
        Ok(ends)
    }

    // The proxy's Secret, where somebody else keeps it.
    async fn provided(&self) -> Result<Option<Secret>, KeepError> {
        let Some(name) = &self.config.proxy_tls_secret else { return Ok(None) };
        let found = self.secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
        found.map(Some).ok_or_else(|| KeepError::NotProvided(name.clone()))
    }

    // A Secret that is there but cannot be read is an error and stays as it is: a new authority would silently cut off every
    // published kubeconfig.
    async fn authorities(
        &self,
        is_published: impl Fn(&Authorities) -> bool,
        now: Timestamp,
    ) -> Result<Authorities, KeepError> {
        let name = crds::names::CA_SECRET;
        let lifetime = self.config.ca_lifetime();
        for _ in 0..ATTEMPTS {
            let found = self.secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
            let (authorities, mut secret, step) = match found {
                None => {
                    let first =
                        Authorities::first(now, lifetime).map_err(|source| mint_error(name, source))?;
                    (first, secret_named(name), Step::Switched)
                }
                Some(secret) => {
                    let mut read = read_authorities(&secret).map_err(|source| mint_error(name, source))?;
                    let published = is_published(&read);
                    let step =
                        read.step(now, lifetime, published).map_err(|source| mint_error(name, source))?;
                    (read, secret, step)
                }
            };
            if step == Step::None {
                return Ok(authorities);
            }
            secret.data = Some(stored(&authorities));
            if write(&self.secrets, name, &secret).await? {
                tracing::info!(secret = name, ?step, "certificate authorities written");
                return Ok(authorities);
            }
        }
        Err(KeepError::Contended(name.to_owned()))
    }

    async fn serving(
        &self,
        name: &str,
        service: &str,
        authorities: &Authorities,
        now: Timestamp,
    ) -> Result<Timestamp, KeepError> {
        let names = self.config.serving_names(service);
        for _ in 0..ATTEMPTS {
            let found = self.secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
            let kept = found.as_ref().and_then(|secret| usable(secret, &authorities.signing, &names, now));
            if let Some(facts) = kept {
                return Ok(facts.not_after);
            }
            let lifetime = self.config.certificate_lifetime();
            let issued = authorities.signing.issue(&names, now, lifetime);
            let pair = issued.map_err(|source| mint_error(name, source))?;
            let mut secret = found.unwrap_or_else(|| secret_named(name));
            let authority = authorities.signing.certificate();
            secret.data =
                Some(data(&[(CERTIFICATE, &pair.certificate), (KEY, &pair.key), (AUTHORITY, authority)]));
            if write(&self.secrets, name, &secret).await? {
                tracing::info!(secret = name, "serving certificate written");
                let facts = Facts::read(&pair.certificate).map_err(|source| mint_error(name, source))?;
                return Ok(facts.not_after);
            }
        }
        Err(KeepError::Contended(name.to_owned()))
    }

    // The random key that the proxies bind approvals with. One that is there is never replaced: that would void every approval
    // that waits.
    async fn binding_key(&self) -> Result<(), KeepError> {
        let name = crds::names::BINDING_KEY_SECRET;
        for _ in 0..ATTEMPTS {
            let found = self.secrets.get_opt(name).await.map_err(|source| kube_error(name, source))?;
            if found.is_some() {
                return Ok(());
            }
            let mut key = [0; 32];
            aws_lc_rs::rand::fill(&mut key)
                .map_err(|_| mint_error(name, MintError::Read("no random bytes".to_owned())))?;
            let data = BTreeMap::from([(crds::names::BINDING_KEY.to_owned(), ByteString(key.to_vec()))]);
            let secret = Secret { metadata: metadata(name), data: Some(data), ..Secret::default() };
            if write(&self.secrets, name, &secret).await? {
                tracing::info!(secret = name, "binding key written");
                return Ok(());
            }
        }
        Err(KeepError::Contended(name.to_owned()))
    }

    async fn publish(&self, bundle: Option<&str>) -> Result<(), KeepError> {
        let name = crds::names::CA_CONFIG_MAP;
        let wanted = bundle.map(|bundle| BTreeMap::from([(AUTHORITY.to_owned(), bundle.to_owned())]));
        for _ in 0..ATTEMPTS {
            let found = self.maps.get_opt(name).await.map_err(|source| kube_error(name, source))?;
            if found.as_ref().is_some_and(|map| map.data == wanted) {
                return Ok(());
            }
            let mut map =
                found.unwrap_or_else(|| ConfigMap { metadata: metadata(name), ..ConfigMap::default() });
            map.data.clone_from(&wanted);
            if write(&self.maps, name, &map).await? {
                return Ok(());
            }
        }
        Err(KeepError::Contended(name.to_owned()))
    }
}

// A serving certificate that is broken, foreign, due or named wrongly is simply made anew: nothing hangs on its key.
fn usable(secret: &Secret, signing: &Authority, names: &[String], now: Timestamp) -> Option<Facts> {
    let pair = read_pair(secret).ok()?;
    let facts = Facts::read(&pair.certificate).ok()?;
    let signed_by = text(secret, AUTHORITY)?;
    let right_names = facts.names == names.iter().cloned().collect();
    (signed_by == signing.certificate() && right_names && !facts.is_due(now)).then_some(facts)
}

fn read_authorities(secret: &Secret) -> Result<Authorities, MintError> {
    let signing = Authority::read(&read_pair(secret)?)?;
    let next = match (text(secret, NEXT_CERTIFICATE), text(secret, NEXT_KEY)) {
        (Some(certificate), Some(key)) => {
            let published = text(secret, NEXT_PUBLISHED).map(|text| text.parse());
            let published = published.transpose().map_err(|error| MintError::Read(format!("{error}")))?;
            Some(Next { authority: Authority::read(&Pair { certificate, key })?, published })
        }
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(MintError::Read(format!("`{NEXT_CERTIFICATE}` and `{NEXT_KEY}` come together")));
        }
    };
    let previous = text(secret, PREVIOUS).unwrap_or_default();
    let previous = previous.split_inclusive(END_OF_CERTIFICATE).map(str::to_owned).collect();
    Ok(Authorities { signing, next, previous })
}

fn stored(authorities: &Authorities) -> BTreeMap<String, ByteString> {
    let (signing, bundle) = (authorities.signing.pair(), authorities.bundle());
    let mut all =
        data(&[(CERTIFICATE, &signing.certificate), (KEY, &signing.key), (AUTHORITY, bundle.as_str())]);
    if let Some(next) = &authorities.next {
        let pair = next.authority.pair();
        all.extend(data(&[(NEXT_CERTIFICATE, &pair.certificate), (NEXT_KEY, &pair.key)]));
        all.extend(next.published.iter().flat_map(|at| data(&[(NEXT_PUBLISHED, &at.to_string())])));
    }
    if !authorities.previous.is_empty() {
        all.extend(data(&[(PREVIOUS, &authorities.previous.concat())]));
    }
    all
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

/// Certificate and key of a TLS Secret.
///
/// # Errors
/// One of them is missing or no text.
pub fn read_pair(secret: &Secret) -> Result<Pair, MintError> {
    let part = |key: &str| text(secret, key).ok_or_else(|| MintError::Read(format!("no text under `{key}`")));
    Ok(Pair { certificate: part(CERTIFICATE)?, key: part(KEY)? })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

fn data(parts: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
    parts.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()))).collect()
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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::mint::later;
    use super::*;

    #[test]
    fn what_is_stored_reads_back_at_every_step() {
        let (start, lifetime) =
            (Timestamp::from_second(1_795_000_000).unwrap(), SignedDuration::from_secs(600));
        let mut all = Authorities::first(start, lifetime).unwrap();
        let mut seen = Vec::new();
        for second in 0..1500 {
            let now = later(start, SignedDuration::from_secs(second));
            let step = all.step(now, lifetime, true).unwrap();
            if step != Step::None {
                seen.push(step);
            }
            let secret = Secret { data: Some(stored(&all)), ..Secret::default() };
            let read = read_authorities(&secret).unwrap();
            assert_eq!(stored(&read), stored(&all), "{step:?}");
            assert_eq!(read.bundle(), all.bundle());
        }
        let round = [Step::Announced, Step::Published, Step::Switched, Step::Retired];
        assert!(seen.starts_with(&[round, round].concat()), "{seen:?}");
    }
}
