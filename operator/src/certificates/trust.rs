//! Trust: the authority's certificate in the webhook configurations, kept there whatever others write.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;

const RETRY: Duration = Duration::from_secs(2);

/// Keeps `caBundle` (and `url`, where the operator runs outside the cluster) in both webhook configurations until the
/// sender of `authority` is gone. A configuration that does not exist is waited for.
pub async fn keep_trusted(
    client: Client,
    url: Option<String>,
    mut authority: watch::Receiver<Option<String>>,
) {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let mut changes = changes(&mutating, &validating);
    let mut retry = false;
    loop {
        tokio::select! {
            changed = authority.changed() => if changed.is_err() { return },
            event = changes.next() => if event.is_none() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
        let Some(certificate) = authority.borrow_and_update().clone() else { continue };
        let wanted = Wanted { certificate, url: url.clone() };
        let result = async {
            assert_mutating(&mutating, &wanted).await?;
            assert_validating(&validating, &wanted).await
        };
        let outcome: Result<(), kube::Error> = result.await;
        retry = outcome.is_err();
        if let Err(error) = outcome {
            tracing::warn!(%error, "webhook configuration not updated");
        }
    }
}

struct Wanted {
    certificate: String,
    url: Option<String>,
}

fn changes(
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

async fn assert_mutating(
    api: &Api<MutatingWebhookConfiguration>,
    wanted: &Wanted,
) -> Result<(), kube::Error> {
    let Some(mut found) = api.get_opt(crds::names::WEBHOOK_CONFIGURATION).await? else { return Ok(()) };
    let webhooks = found.webhooks.iter_mut().flatten();
    let changed = webhooks.filter_map(|webhook| wanted.assert(&mut webhook.client_config)).count() > 0;
    if changed {
        api.replace(&found.name_any(), &PostParams::default(), &found).await?;
        tracing::info!("mutating webhook configuration updated");
    }
    Ok(())
}

async fn assert_validating(
    api: &Api<ValidatingWebhookConfiguration>,
    wanted: &Wanted,
) -> Result<(), kube::Error> {
    let Some(mut found) = api.get_opt(crds::names::WEBHOOK_CONFIGURATION).await? else { return Ok(()) };
    let webhooks = found.webhooks.iter_mut().flatten();
    let changed = webhooks.filter_map(|webhook| wanted.assert(&mut webhook.client_config)).count() > 0;
    if changed {
        api.replace(&found.name_any(), &PostParams::default(), &found).await?;
        tracing::info!("validating webhook configuration updated");
    }
    Ok(())
}

impl Wanted {
    // Some when something had to change.
    fn assert(&self, client: &mut WebhookClientConfig) -> Option<()> {
        let bundle = Some(ByteString(self.certificate.as_bytes().to_vec()));
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
        let wanted = Wanted { certificate: "PEM".into(), url: Some("https://127.0.0.1:9443/".into()) };
        let mut client = from_chart();
        assert!(wanted.assert(&mut client).is_some());
        assert_eq!(client.url.as_deref(), Some("https://127.0.0.1:9443/validate/accessgrants"));
        assert!(client.service.is_none());
        assert!(wanted.assert(&mut client).is_none(), "nothing is written when nothing changed");
        let moved = Wanted { certificate: "PEM".into(), url: Some("https://127.0.0.1:9555".into()) };
        assert!(moved.assert(&mut client).is_some());
        assert_eq!(client.url.as_deref(), Some("https://127.0.0.1:9555/validate/accessgrants"));
    }

    #[test]
    fn inside_the_cluster_the_service_stays() {
        let wanted = Wanted { certificate: "PEM".into(), url: None };
        let mut client = from_chart();
        assert!(wanted.assert(&mut client).is_some());
        assert_eq!(client.service, from_chart().service);
        assert_eq!(client.ca_bundle, Some(ByteString(b"PEM".to_vec())));
    }
}
