//! The live config: one ConfigMap per agent and one for the guardrails become one bundle, or nothing changes.
use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use policy::bundle::Bundle;
use policy::shard::{GUARDRAILS_NAME, Shard};

use super::Live;
use crate::telemetry::Telemetry;

/// Follows the shards for ever.
///
/// *Guarantees*: a shard that does not decode keeps its last good state; the guardrails, once read, stay in force
/// until others replace them, also when their ConfigMap is deleted; there is no bundle without guardrails.
pub async fn follow(client: Client, namespace: String, live: Live, telemetry: Telemetry) {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().labels(crds::names::LABEL_SHARD);
    let mut events =
        reflector::reflector(writer, watcher(api, config).backoff(super::Patience::default())).boxed();
    let mut shards = Shards::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                live.api_server_seen();
                shards.read(&texts(&store), &live, &telemetry);
            }
            Err(error) => tracing::warn!(%error, "the live configuration cannot be watched"),
        }
    }
}

fn texts(store: &Store<ConfigMap>) -> BTreeMap<String, Arc<ConfigMap>> {
    store.state().into_iter().map(|map| (map.name_any(), map)).collect()
}

/// The last good text of every shard.
#[derive(Default)]
struct Shards {
    good: BTreeMap<String, String>,
}

impl Shards {
    fn read(&mut self, maps: &BTreeMap<String, Arc<ConfigMap>>, live: &Live, telemetry: &Telemetry) {
        let mut broken = 0;
        for (name, map) in maps {
            if let Err(error) = self.take(name, map) {
                broken += 1;
                tracing::error!(
                    shard = name,
                    error,
                    "a shard does not decode; its last good state stays in force"
                );
            }
        }
        self.good.retain(|name, _| maps.contains_key(name) || name == GUARDRAILS_NAME);
        telemetry.broken_shards(broken);
        let before = live.latest_bundle();
        match Bundle::load(&self.good, before.as_deref()) {
            Ok(bundle) if before.is_some_and(|before| before.hash() == bundle.hash()) => {}
            Ok(bundle) => {
                tracing::info!(hash = bundle.hash(), shards = self.good.len(), "a bundle is in force");
                telemetry.bundle_in_force(broken);
                live.bundle_is(bundle);
            }
            Err(error) => tracing::error!(%error, "no bundle can be made of the shards"),
        }
    }

    fn take(&mut self, name: &str, map: &ConfigMap) -> Result<(), String> {
        let text = map.data.as_ref().and_then(|data| data.get(crds::names::SHARD_KEY));
        let text = text.ok_or_else(|| format!("key `{}` is missing", crds::names::SHARD_KEY))?;
        if self.good.get(name) == Some(text) {
            return Ok(());
        }
        if map.annotations().get(crds::names::ANNOTATION_HASH) != Some(&Shard::hash(text)) {
            return Err("the text does not have the hash of its annotation".to_owned());
        }
        Shard::decode(name, text).map_err(|error| error.to_string())?;
        self.good.insert(name.to_owned(), text.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Arc<ConfigMap> {
        let data = Some([(crds::names::SHARD_KEY.to_owned(), text.to_owned())].into());
        let mut map = ConfigMap { data, ..ConfigMap::default() };
        map.metadata.annotations =
            Some([(crds::names::ANNOTATION_HASH.to_owned(), Shard::hash(text))].into());
        Arc::new(map)
    }

    fn guardrails() -> String {
        Shard { format_version: 1, identity: None, policies: Vec::new() }.encode().expect("encodes")
    }

    #[test]
    fn f21_a_shard_that_does_not_decode_replaces_nothing() {
        let (live, telemetry) = (Live::new(), Telemetry::new().expect("metrics"));
        let mut shards = Shards::default();
        let name = GUARDRAILS_NAME.to_owned();
        shards.read(&BTreeMap::from([(name.clone(), map("{}"))]), &live, &telemetry);
        assert!(live.latest_bundle().is_none(), "nothing good was ever there");
        shards.read(&BTreeMap::from([(name.clone(), map(&guardrails()))]), &live, &telemetry);
        let good = live.latest_bundle().expect("in force").hash().to_owned();
        for broken in ["{}", "", "{\"formatVersion\":2}", &guardrails().replace('}', ",\"x\":1}")] {
            shards.read(&BTreeMap::from([(name.clone(), map(broken))]), &live, &telemetry);
            assert_eq!(live.latest_bundle().expect("still in force").hash(), good, "{broken}");
        }
        shards.read(&BTreeMap::new(), &live, &telemetry);
        assert_eq!(live.latest_bundle().expect("guardrails stay").hash(), good);
    }
}
