//! Trust: the authorities' certificates where clients and the API server read them, and word of how far they got.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(2);

/// What to trust, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundles {
    /// For the API server, calling the webhook.
    pub webhook: String,
    /// For agents, calling the proxy; none where their system's authorities vouch for it.
    pub agents: Option<String>,
}

/// The trust that should be published, and how far it got. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    wanted: watch::Sender<Option<Arc<Bundles>>>,
    webhooks: watch::Sender<Option<Arc<Bundles>>>,
    kubeconfigs: watch::Sender<Option<Arc<Bundles>>>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            wanted: watch::Sender::new(None),
            webhooks: watch::Sender::new(None),
            kubeconfigs: watch::Sender::new(None),
        }
    }
}

impl Trust {
    /// Says what should be published from now on.
    pub fn want(&self, bundles: Bundles) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_deref() != Some(&bundles);
            if changed {
                *wanted = Some(Arc::new(bundles));
            }
            changed
        });
    }

    /// Sees what should be published.
    pub fn wanted(&self) -> watch::Receiver<Option<Arc<Bundles>>> {
        self.wanted.subscribe()
    }

    /// Every webhook configuration holds these.
    pub fn in_webhooks(&self, bundles: Arc<Bundles>) {
        self.webhooks.send_replace(Some(bundles));
    }

    /// Every agent's kubeconfig holds these.
    pub fn in_kubeconfigs(&self, bundles: Arc<Bundles>) {
        self.kubeconfigs.send_replace(Some(bundles));
    }

    /// Whether these are what should be published, and are published everywhere.
    pub fn is_everywhere(&self, bundles: &Bundles) -> bool {
        [&self.wanted, &self.webhooks, &self.kubeconfigs]
            .iter()
            .all(|stage| stage.borrow().as_deref() == Some(bundles))
    }
}

/// A kind of webhook configuration.
pub trait Webhooks:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Where its webhooks are and whom to trust there.
    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig>;
}

impl Webhooks for MutatingWebhookConfiguration {
    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config)
    }
}

impl Webhooks for ValidatingWebhookConfiguration {
    fn clients(&mut self) -> impl Iterator<Item = &mut WebhookClientConfig> {
        self.webhooks.iter_mut().flatten().map(|webhook| &mut webhook.client_config)
    }
}

/// Keeps `caBundle` (and `url`, where the operator runs outside the cluster) in both webhook configurations, whatever others
/// write, until it is dropped. A configuration that does not exist is waited for.
pub async fn keep_trusted(client: Client, url: Option<String>, trust: Trust) {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut changes = changes(&mutating, &validating);
    let mut wanted = trust.wanted();
    let mut retry = false;
    loop {
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            event = changes.next() => if event.is_none() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
        let Some(bundles) = wanted.borrow_and_update().clone() else { continue };
        let assertion = Assertion { bundle: &bundles.webhook, url: url.as_deref() };
        let outcome = async {
            assertion.make(&mutating).await?;
            assertion.make(&validating).await
        };
        let outcome: Result<(), kube::Error> = outcome.await;
        retry = outcome.is_err();
        match outcome {
            Ok(()) => trust.in_webhooks(bundles),
            Err(error) => tracing::warn!(%error, "webhook configuration not updated"),
        }
    }
}

/// Rings for every change of the two webhook configurations.
pub fn changes(
    mutating: &Api<MutatingWebhookConfiguration>,
    validating: &Api<ValidatingWebhookConfiguration>,
) -> BoxStream<'static, ()> {
    let only =
        watcher::Config::default().fields(&format!("metadata.name={}", crds::names::WEBHOOK_CONFIGURATION));
    let first = watcher(mutating.clone(), only.clone()).default_backoff().map_ok(|_| ());
    let second = watcher(validating.clone(), only).default_backoff().map_ok(|_| ());
    futures::stream::select(first, second)
        .map(|event| {
            if let Err(error) = event {
                tracing::warn!(%error, "webhook configurations cannot be watched");
            }
        })
        .boxed()
}

struct Assertion<'a> {
    bundle: &'a str,
    url: Option<&'a str>,
}

impl Assertion<'_> {
    // Where there is no such configuration, nobody calls the webhook.
    async fn make<K: Webhooks>(&self, api: &Api<K>) -> Result<(), kube::Error> {
        let Some(mut found) = api.get_opt(crds::names::WEBHOOK_CONFIGURATION).await? else { return Ok(()) };
        let changed = found.clients().filter_map(|client| self.correct(client)).count() > 0;
        if changed {
            api.replace(&found.name_any(), &PostParams::default(), &found).await?;
            tracing::info!(kind = %K::kind(&()), "webhook configuration updated");
        }
        Ok(())
    }

    // Some when something had to change.
    fn correct(&self, client: &mut WebhookClientConfig) -> Option<()> {
        let bundle = Some(ByteString(self.bundle.as_bytes().to_vec()));
        let (service, url) = match &self.url {
            Some(base) => (None, Some(format!("{}{}", base.trim_end_matches('/'), path(client)))),
            None => (client.service.clone(), client.url.clone()),
        };
        let right = client.ca_bundle == bundle && client.service == service && client.url == url;
        if right {
            return None;
        }
        *client = WebhookClientConfig { ca_bundle: bundle, service, url };
        Some(())
    }
}

// The path which the chart gave, whether still in the Service reference or already in the URL.
fn path(client: &WebhookClientConfig) -> String {
    if let Some(service) = &client.service {
        return service.path.clone().unwrap_or_else(|| "/".to_owned());
    }
    let url = client.url.as_deref().unwrap_or_default();
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    after_scheme.find('/').map_or_else(|| "/".to_owned(), |at| after_scheme[at..].to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::ServiceReference;

    use super::*;

    fn from_chart() -> WebhookClientConfig {
        let service = ServiceReference {
            name: "sallyport-webhook".into(),
            namespace: "sallyport-system".into(),
            path: Some("/validate/accessgrants".into()),
            port: None,
        };
        WebhookClientConfig { service: Some(service), ..WebhookClientConfig::default() }
    }

    #[test]
    fn outside_the_cluster_the_service_becomes_a_url_once() {
        let wanted = Assertion { bundle: "PEM", url: Some("https://127.0.0.1:9443/") };
        let mut client = from_chart();
        assert!(wanted.correct(&mut client).is_some());
        assert_eq!(client.url.as_deref(), Some("https://127.0.0.1:9443/validate/accessgrants"));
        assert!(client.service.is_none());
        assert!(wanted.correct(&mut client).is_none(), "nothing is written when nothing changed");
        let moved = Assertion { bundle: "PEM", url: Some("https://127.0.0.1:9555") };
        assert!(moved.correct(&mut client).is_some());
        assert_eq!(client.url.as_deref(), Some("https://127.0.0.1:9555/validate/accessgrants"));
    }

    #[test]
    fn inside_the_cluster_the_service_stays() {
        let wanted = Assertion { bundle: "PEM", url: None };
        let mut client = from_chart();
        assert!(wanted.correct(&mut client).is_some());
        assert_eq!(client.service, from_chart().service);
        assert_eq!(client.ca_bundle, Some(ByteString(b"PEM".to_vec())));
    }

    #[test]
    fn published_means_wanted_and_seen_in_both_places() {
        let bundles = |webhook: &str| Bundles { webhook: webhook.to_owned(), agents: None };
        let trust = Trust::default();
        trust.want(bundles("both"));
        assert!(!trust.is_everywhere(&bundles("both")));
        trust.in_webhooks(Arc::new(bundles("both")));
        trust.in_kubeconfigs(Arc::new(bundles("old")));
        assert!(!trust.is_everywhere(&bundles("both")), "an agent still trusts the old one only");
        trust.in_kubeconfigs(Arc::new(bundles("both")));
        assert!(trust.is_everywhere(&bundles("both")));
        trust.want(bundles("newer"));
        assert!(!trust.is_everywhere(&bundles("newer")) && !trust.is_everywhere(&bundles("both")));
    }
}
