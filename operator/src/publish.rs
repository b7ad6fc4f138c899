//! Publishing: the planned shards become ConfigMaps, and ConfigMaps that nobody planned go.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use policy::shard::{GUARDRAILS_NAME, Shard};

use crate::telemetry::Metrics;

const AT_ONCE: usize = 8;

/// What stops a shard from being published.
#[derive(Debug, thiserror::Error)]
#[error("live config `{shard}`: {source}")]
pub struct PublishError {
    shard: String,
    source: Box<kube::Error>,
}

/// Publishes `planned`: deletes first, so that a subject that moved from one identity to another is never in two
/// shards for longer than it must; then the guardrails, then the agents, where they differ, each against the version
/// that was seen.
///
/// # Errors
/// The first write that failed. One that fails stops no other; the next pass goes on.
pub async fn publish(
    client: &Client,
    namespace: &str,
    in_force: &[Arc<ConfigMap>],
    planned: &BTreeMap<String, String>,
    metrics: &Metrics,
) -> Result<(), PublishError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let mut outcome = Ok(());
    for map in in_force.iter().filter(|map| !planned.contains_key(&map.name_any())) {
        metrics.shard_writes.with_label_values(&["delete"]).inc();
        outcome = outcome.and(delete(&api, map).await);
    }
    let by_name: BTreeMap<String, &Arc<ConfigMap>> =
        in_force.iter().map(|map| (map.name_any(), map)).collect();
    let changed = |name: &str, text: &str| replacement(config_map(name, text), by_name.get(name).copied());
    if let Some(guardrails) = planned.get(GUARDRAILS_NAME).and_then(|text| changed(GUARDRAILS_NAME, text)) {
        outcome = outcome.and(write(&api, guardrails, metrics).await);
    }
    let agents: Vec<ConfigMap> = planned
        .iter()
        .filter(|(name, _)| *name != GUARDRAILS_NAME)
        .filter_map(|(name, text)| changed(name, text))
        .collect();
    let writes = agents.into_iter().map(|wanted| write(&api, wanted, metrics));
    let written: Vec<_> = stream::iter(writes).buffer_unordered(AT_ONCE).collect().await;
    written.into_iter().fold(outcome, Result::and)
}

async fn write(api: &Api<ConfigMap>, wanted: ConfigMap, metrics: &Metrics) -> Result<(), PublishError> {
    let (name, params) = (wanted.name_any(), PostParams::default());
    metrics.shard_writes.with_label_values(&["write"]).inc();
    let written = match wanted.metadata.resource_version {
        None => api.create(&params, &wanted).await,
        Some(_) => api.replace(&name, &params, &wanted).await,
    };
    written.map_err(|source| error(&name, source))?;
    tracing::info!(shard = name, hash = hash_of(&wanted), "live config published");
    Ok(())
}

async fn delete(api: &Api<ConfigMap>, map: &ConfigMap) -> Result<(), PublishError> {
    let name = map.name_any();
    let seen = Preconditions { uid: map.uid(), resource_version: map.resource_version() };
    let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
    match api.delete(&name, &params).await {
        Ok(_) => tracing::info!(shard = name, "live config withdrawn"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(error(&name, source)),
    }
    Ok(())
}

fn config_map(name: &str, text: &str) -> ConfigMap {
    let label =
        if name == GUARDRAILS_NAME { crds::names::SHARD_GUARDRAILS } else { crds::names::SHARD_AGENT };
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([
                (crds::names::LABEL_SHARD.to_owned(), label.to_owned()),
                (crds::names::LABEL_MANAGED_BY.to_owned(), crds::names::MANAGED_BY.to_owned()),
            ])),
            annotations: Some(BTreeMap::from([(crds::names::ANNOTATION_HASH.to_owned(), Shard::hash(text))])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(crds::names::SHARD_KEY.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    }
}

// None where what is in force says the same already.
fn replacement(mut wanted: ConfigMap, in_force: Option<&Arc<ConfigMap>>) -> Option<ConfigMap> {
    let Some(found) = in_force else { return Some(wanted) };
    let same = found.data == wanted.data
        && found.binary_data.is_none()
        && wanted.labels().iter().all(|(key, value)| found.labels().get(key) == Some(value))
        && hash_of(found) == hash_of(&wanted);
    if same {
        return None;
    }
    wanted.metadata.resource_version = found.resource_version();
    Some(wanted)
}

fn hash_of(map: &ConfigMap) -> Option<&str> {
    map.annotations().get(crds::names::ANNOTATION_HASH).map(String::as_str)
}

fn error(shard: &str, source: kube::Error) -> PublishError {
    PublishError { shard: shard.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(text: &str) -> Arc<ConfigMap> {
        let mut map = config_map("sallyport-shard-x", text);
        map.metadata.resource_version = Some("7".into());
        Arc::new(map)
    }

    #[test]
    fn the_same_text_is_not_written_twice() {
        assert_eq!(replacement(config_map("sallyport-shard-x", "{}"), Some(&in_force("{}"))), None);
    }

    #[test]
    fn a_text_that_somebody_edited_is_written_again_over_what_was_seen() {
        let mut edited = (*in_force("{}")).clone();
        edited.data = Some(BTreeMap::from([(crds::names::SHARD_KEY.to_owned(), "{ }".to_owned())]));
        let again = replacement(config_map("sallyport-shard-x", "{}"), Some(&Arc::new(edited))).unwrap();
        assert_eq!(again.metadata.resource_version.as_deref(), Some("7"));
        let mut mislabelled = (*in_force("{}")).clone();
        mislabelled.metadata.annotations = None;
        assert!(replacement(config_map("sallyport-shard-x", "{}"), Some(&Arc::new(mislabelled))).is_some());
    }
}
