//! The kubeconfig that an agent mounts: where the gate is and whom to trust, and no credential.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crds::agent_identity::{Subject, SubjectType};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::config::Config;
use crate::index::Key;

const KEY: &str = "kubeconfig";
const REFUSED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Name of an agent's kubeconfig ConfigMap.
pub fn name_for(agent: &str) -> String {
    format!("{agent}-kubeconfig")
}

/// By what an agent may prove itself, as far as its kubeconfig differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proofs {
    /// A token in a file: a ServiceAccount's, or one of an OpenID Connect issuer.
    pub token_file: bool,
    /// An AWS IAM role.
    pub role: bool,
}

impl Proofs {
    /// Those of these subjects; a token in a file where there are none to be read.
    pub fn of(subjects: &[Subject]) -> Self {
        let role = subjects.iter().any(|subject| subject.r#type == SubjectType::AwsIamRole);
        let token_file = subjects.iter().any(|subject| subject.r#type != SubjectType::AwsIamRole);
        Self { token_file: token_file || !role, role }
    }
}

/// The kubeconfig: a user and a context for each proof, the first of which is the current one. The context of a token in a file
/// is called as the agent, that of a role `<agent>-aws`. Without `authority` the agent's system decides whom to trust.
pub fn text(config: &Config, authority: Option<&str>, (namespace, agent): &Key, proofs: Proofs) -> String {
    let mut cluster = json!({"server": config.proxy_url()});
    if let Some(authority) = authority {
        cluster["certificate-authority-data"] = json!(STANDARD.encode(authority));
    }
    let by_file = proofs.token_file.then(|| (agent.clone(), json!({"tokenFile": config.agent_token_file})));
    let by_role = proofs.role.then(|| (format!("{agent}-aws"), json!({"exec": get_token(&config.hub)})));
    let logins: Vec<(String, Value)> = by_file.into_iter().chain(by_role).collect();
    let user = |(name, user): &(String, Value)| json!({"name": name, "user": user});
    let context = |(name, _): &(String, Value)| json!({"name": name, "context": {"cluster": "sallyport", "user": name, "namespace": namespace}});
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sallyport", "cluster": cluster}],
        "users": logins.iter().map(user).collect::<Vec<_>>(),
        "contexts": logins.iter().map(context).collect::<Vec<_>>(),
        "current-context": logins.first().map(|(name, _)| name),
    });
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// The stock command as a credential plugin, as `aws eks update-kubeconfig` writes it. Role and region are those of the agent's
/// own AWS configuration.
fn get_token(hub: &str) -> Value {
    let cluster = format!("{}{hub}", crds::names::AWS_CLUSTER_PREFIX);
    json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "aws",
        "args": ["eks", "get-token", "--cluster-name", cluster, "--output", "json"],
        "interactiveMode": "Never",
        "installHint": "The AWS command line interface is missing: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    })
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
        proofs: Proofs,
    ) -> Result<bool, kube::Error> {
        let text = text(config, authority, key, proofs);
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn published(types: &[SubjectType]) -> Value {
        let subject = |(index, r#type): (usize, &SubjectType)| Subject {
            name: format!("s{index}"),
            r#type: *r#type,
            service_account: None,
            oidc: None,
            aws_iam_role: None,
        };
        let subjects: Vec<Subject> = types.iter().enumerate().map(subject).collect();
        let config = Config::try_parse_from(["operator", "--hub", "hub-prod"]).expect("flags");
        let key = ("agents".to_owned(), "claude-code".to_owned());
        let text = text(&config, Some("pem"), &key, Proofs::of(&subjects));
        serde_saphyr::from_str(&text).expect("YAML")
    }

    #[test]
    fn each_proof_has_a_context_and_a_token_in_a_file_comes_first() {
        use SubjectType::{AwsIamRole, Oidc, ServiceAccount};
        let both = ["claude-code", "claude-code-aws"];
        for (types, contexts) in [
            (&[ServiceAccount][..], &both[..1]),
            (&[Oidc], &both[..1]),
            (&[], &both[..1]),
            (&[AwsIamRole, AwsIamRole], &both[1..]),
            (&[AwsIamRole, ServiceAccount], &both[..]),
        ] {
            let config = published(types);
            let names = |list: &str| -> Vec<String> {
                let all = config[list].as_array().expect("a list");
                all.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
            };
            assert_eq!(names("contexts"), contexts, "{types:?}");
            assert_eq!(names("users"), contexts, "{types:?}");
            assert_eq!(config["current-context"], contexts[0], "{types:?}");
        }
        let config = published(&[AwsIamRole]);
        let exec = &config["users"][0]["user"]["exec"];
        assert_eq!(exec["command"], "aws");
        let args = json!(["eks", "get-token", "--cluster-name", "sallyport.hub-prod", "--output", "json"]);
        assert_eq!(exec["args"], args);
    }
}
