//! The index: one consistent look at identities, policies and the live config in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{AccessPolicy, AgentIdentity};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use kube::{Resource as _, ResourceExt as _};
use policy::shard::{Shard, ShardContent, ShardIdentity, ShardPolicy};

use crate::watch::Watched;

/// Namespace and name.
pub type Key = (String, String);

/// What a plan is made from.
pub struct World {
    /// Every AgentIdentity, the oldest first.
    pub identities: Vec<Arc<DeserializeGuard<AgentIdentity>>>,
    /// Every AccessPolicy, by name.
    pub policies: Vec<Arc<DeserializeGuard<AccessPolicy>>>,
    /// The live config in force.
    pub published: Published,
    /// The installation has a name of its own.
    pub is_named: bool,
}

impl World {
    /// Looks at the watched objects.
    pub fn look(watched: &Watched) -> Self {
        Self::of(watched.identities.state(), watched.policies.state(), &watched.shards.state())
    }

    /// The same in an installation that AWS is told this name of.
    pub fn of_hub(self, hub: &str) -> Self {
        Self { is_named: hub != crds::names::HUB, ..self }
    }

    /// Of these objects, in an installation with a name of its own.
    pub fn of(
        mut identities: Vec<Arc<DeserializeGuard<AgentIdentity>>>,
        mut policies: Vec<Arc<DeserializeGuard<AccessPolicy>>>,
        shards: &[Arc<ConfigMap>],
    ) -> Self {
        identities.sort_by_cached_key(|identity| (identity.creation_timestamp(), key_of(identity.as_ref())));
        policies.sort_by_cached_key(|policy| policy.name_any());
        Self { identities, policies, published: Published::read(shards), is_named: true }
    }
}

/// The shards in force, and the last good generations that they hold.
#[derive(Default)]
pub struct Published {
    /// ConfigMap name to the text in force; none where the ConfigMap holds none.
    pub texts: BTreeMap<String, Option<String>>,
    identities: BTreeMap<Key, ShardIdentity>,
    policies: BTreeMap<String, ShardPolicy>,
    entries: BTreeMap<String, BTreeMap<String, i64>>,
}

impl Published {
    /// Reads the ConfigMaps. A shard that does not decode holds no last good generation.
    pub fn read(shards: &[Arc<ConfigMap>]) -> Self {
        let mut published = Self::default();
        for map in shards {
            let name = map.name_any();
            let text = map.data.as_ref().and_then(|data| data.get(crds::names::SHARD_KEY)).cloned();
            match text.as_deref().map(|text| Shard::decode(&name, text)) {
                Some(Ok(shard)) => published.take(&name, shard),
                Some(Err(error)) => tracing::warn!(%error, "published shard is not understood"),
                None => tracing::warn!(shard = name, "published shard holds no text"),
            }
            published.texts.insert(name, text);
        }
        published
    }

    fn take(&mut self, shard_name: &str, shard: Shard) {
        if let Some(identity) = shard.identity {
            self.identities.insert((identity.namespace.clone(), identity.name.clone()), identity);
        }
        let entries = self.entries.entry(shard_name.to_owned()).or_default();
        for entry in shard.policies {
            let ShardContent::Spec(_) = &entry.content else { continue };
            entries.insert(entry.name.clone(), entry.generation);
            let newest =
                self.policies.get(&entry.name).is_none_or(|known| known.generation < entry.generation);
            if newest {
                self.policies.insert(entry.name.clone(), entry);
            }
        }
    }

    /// The generation of an identity that was published last, if it is still the same object.
    pub fn last_good_identity(&self, key: &Key, uid: &str) -> Option<&ShardIdentity> {
        self.identities.get(key).filter(|identity| identity.uid == uid)
    }

    /// The newest generation of a policy that compiled and was published.
    pub fn last_good_policy(&self, name: &str) -> Option<&ShardPolicy> {
        self.policies.get(name)
    }

    /// Whether the shard in force holds exactly this generation of the policy.
    pub fn holds(&self, shard: &str, policy: &str, generation: i64) -> bool {
        self.entries.get(shard).and_then(|entries| entries.get(policy)) == Some(&generation)
    }
}

/// Namespace and name of an object.
pub fn key_of(object: &DeserializeGuard<AgentIdentity>) -> Key {
    (object.meta().namespace.clone().unwrap_or_default(), object.name_any())
}
