//! The kubeconfig that an agent mounts: where the gate is and whom to trust, and no credential.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use crate::config::Config;
use crate::index::Key;

const KEY: &str = "kubeconfig";
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Name of an agent's kubeconfig ConfigMap.
pub fn name_for(agent: &str) -> String {
    format!("{agent}-kubeconfig")
}

/// The kubeconfig. Without `authority` the agent's system decides whom to trust.
pub fn text(config: &Config, authority: Option<&str>, (namespace, agent): &Key) -> String {
    let mut cluster = json!({"server": config.proxy_url()});
    if let Some(authority) = authority {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(authority));
    }
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sallyport", "cluster": cluster}],
        "users": [{"name": agent, "user": {"tokenFile": config.agent_token_file}}],
        "contexts": [{"name": agent, "context": {"cluster": "sallyport", "user": agent, "namespace": namespace}}],
        "current-context": agent,
    });
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// Publishes kubeconfigs, each once for each content.
#[derive(Default)]
pub struct Publisher {
    published: HashMap<String, String>,
    refused: HashMap<String, Instant>,
}

impl Publisher {
    /// Makes sure that the agent's ConfigMap holds this kubeconfig. It goes with its AgentIdentity. False: a ConfigMap of
    /// that name belongs to somebody else and stays as it is.
    ///
    /// # Errors
    /// The API server refused or could not be reached.
    pub async fn publish(
        &mut self,
        client: &Client,
        config: &Config,
        authority: Option<&str>,
        key: &Key,
        uid: &str,
    ) -> Result<bool, kube::Error> {
        let text = text(config, authority, key);
        if self.published.get(uid) == Some(&text) {
            return Ok(true);
        }
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &key.0);
        let name = name_for(&key.1);
        let refused = self.refused.get(uid).is_some_and(|at| at.elapsed() < REFUSED_AGAIN_AFTER);
        if refused {
            return Ok(false);
        }
        let map = config_map(&name, key, uid, &text);
        let params = PatchParams::apply(crds::names::OPERATOR_SERVICE_ACCOUNT).force();
        match api.patch(&name, &params, &Patch::Apply(&map)).await {
            Ok(_) => {
                self.published.insert(uid.to_owned(), text);
                Ok(true)
            }
            // Admission lets nobody take over what another made, and a namespace that ends takes nothing new.
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!(namespace = key.0, name, reason = status.message, "kubeconfig not published");
                self.refused.insert(uid.to_owned(), Instant::now());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets identities that are gone.
    pub fn retain(&mut self, alive: impl Fn(&str) -> bool) {
        self.published.retain(|uid, _| alive(uid));
        self.refused.retain(|uid, _| alive(uid));
    }
}

fn config_map(name: &str, (namespace, agent): &Key, uid: &str, text: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.clone()),
            labels: Some(BTreeMap::from([
                (crds::names::LABEL_MANAGED_BY.to_owned(), crds::names::MANAGED_BY.to_owned()),
                (crds::names::LABEL_AGENT.to_owned(), agent.clone()),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crds::names::GROUP, crds::names::VERSION),
                kind: "AgentIdentity".to_owned(),
                name: agent.clone(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), text.to_owned())])),
        ..ConfigMap::default()
    }
}
