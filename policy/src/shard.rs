//! The live config as it is published: one shard per AgentIdentity, one for the cluster-wide guardrails.

use std::collections::BTreeMap;

use crds::access_policy::{AgentSelector, PolicyMode};
use crds::selector::{LabelSelector, LabelSelectorOperator, LabelSelectorRequirement};
use crds::{AccessPolicySpec, AgentIdentitySpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compile;
use crate::hash::{sha256_text, short_hex};
use crate::issues::Issues;
use crate::validate;

/// The version this code reads and writes; another one does not decode.
pub const FORMAT_VERSION: u32 = 1;
/// A shard's JSON may not be larger, in bytes (900 KiB): a ConfigMap holds at most 1 MiB.
pub const MAX_SHARD_BYTES: usize = 900 * 1024;
/// ConfigMap of the guardrails shard.
pub const GUARDRAILS_NAME: &str = "sallyport-shard-guardrails";
/// The word of `agents[].namespace` that selects every namespace and moves a policy into the guardrails shard.
pub const EVERY_NAMESPACE: &str = "*";

/// The ConfigMap name of an AgentIdentity's shard.
pub fn agent_shard_name(namespace: &str, name: &str) -> String {
    format!("sallyport-shard-{}", short_hex(format!("{namespace}/{name}").as_bytes(), 16))
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Shard {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The identity; `None` in the guardrails shard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ShardIdentity>,
    /// The policies, sorted by name so that one state has one text.
    pub policies: Vec<ShardPolicy>,
}

/// The identity of an agent shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShardIdentity {
    /// Namespace of the AgentIdentity.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Its labels, on which policies select.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its spec. Subjects lost to an older identity are left out by the operator.
    pub spec: AgentIdentitySpec,
}

/// One policy in a shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ShardPolicy {
    /// Name of the AccessPolicy.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The generation that is in force (or broken).
    pub generation: i64,
    /// The entries by which it selects identities.
    pub agents: Vec<AgentSelector>,
    /// What it means.
    pub content: ShardContent,
}

/// A policy that compiled, or one that never did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum ShardContent {
    /// The spec, whole.
    Spec(Box<AccessPolicySpec>),
    /// Never good: everything is denied for the identities it selects.
    Broken {
        /// What is wrong, for people.
        message: String,
    },
}

/// Why a shard does not decode. Then the last good bundle stays in force.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// Not JSON, or not of this shape.
    #[error("the shard `{name}` does not decode: {source}")]
    Decode {
        /// ConfigMap name.
        name: String,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// Written by another version of this software.
    #[error("the shard `{name}` has format version {found}, this program reads {FORMAT_VERSION}")]
    Version {
        /// ConfigMap name.
        name: String,
        /// What it has.
        found: Value,
    },
    /// A field that this version does not know: skipping it could widen a policy.
    #[error("the shard `{name}` holds the unknown field `{path}`")]
    UnknownField {
        /// ConfigMap name.
        name: String,
        /// Where.
        path: String,
    },
    /// The content does not belong under this name.
    #[error("the shard `{name}` holds what belongs into `{expected}`")]
    Misplaced {
        /// ConfigMap name.
        name: String,
        /// The name that its content asks for.
        expected: String,
    },
}

impl Shard {
    /// The JSON that the ConfigMap holds; the same content always gives the same text.
    ///
    /// # Errors
    /// Only if a value has no JSON form, which these types do not have.
    pub fn encode(&self) -> Result<String, serde_json::Error> {
        let mut sorted = self.clone();
        sorted.policies.sort_by(|a, b| a.name.cmp(&b.name));
        serde_json::to_string(&sorted)
    }

    /// The hash of a shard's text, for [`crds::names::ANNOTATION_HASH`].
    pub fn hash(text: &str) -> String {
        sha256_text(text.as_bytes())
    }

    /// Reads a shard strictly: another version, an unknown field at any depth or a wrong name is an error.
    ///
    /// # Errors
    /// [`ShardError`], which names the ConfigMap.
    pub fn decode(name: &str, text: &str) -> Result<Shard, ShardError> {
        let decode = |source| ShardError::Decode { name: name.to_owned(), source };
        let value: Value = serde_json::from_str(text).map_err(decode)?;
        let version = value.get("formatVersion").cloned().unwrap_or(Value::Null);
        if version != FORMAT_VERSION {
            return Err(ShardError::Version { name: name.to_owned(), found: version });
        }
        let shard: Shard = serde_json::from_str(text).map_err(decode)?;
        let understood = serde_json::to_value(&shard).map_err(decode)?;
        if let Some(path) = first_lost(&value, &understood, String::new()) {
            return Err(ShardError::UnknownField { name: name.to_owned(), path });
        }
        let expected = shard.expected_name();
        if expected != name {
            return Err(ShardError::Misplaced { name: name.to_owned(), expected });
        }
        Ok(shard)
    }

    /// The ConfigMap name that this content belongs under.
    pub fn expected_name(&self) -> String {
        match &self.identity {
            Some(identity) => agent_shard_name(&identity.namespace, &identity.name),
            None => GUARDRAILS_NAME.to_owned(),
        }
    }
}

impl ShardIdentity {
    /// An identity for a shard, if everything it uses is built.
    ///
    /// # Errors
    /// The issues, each with its field path.
    pub fn new(
        namespace: &str,
        name: &str,
        uid: &str,
        generation: i64,
        labels: BTreeMap<String, String>,
        spec: AgentIdentitySpec,
    ) -> Result<ShardIdentity, Issues> {
        validate::identity(&spec)?;
        Ok(ShardIdentity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            generation,
            labels,
            spec,
        })
    }
}

impl ShardPolicy {
    /// The entry to publish for a policy, and what is wrong with the generation that was applied, if anything is.
    ///
    /// A generation that compiles is published. Otherwise the `last_good` entry stays (an entry that is itself broken is
    /// no last good one), and without one the policy is published as broken, so that it denies everything for the
    /// identities it selects. A policy in mode Audit contributes to no decision, so a broken one is left out: `None`.
    pub fn publish(
        name: &str,
        uid: &str,
        generation: i64,
        spec: &AccessPolicySpec,
        last_good: Option<&ShardPolicy>,
    ) -> (Option<ShardPolicy>, Result<(), Issues>) {
        let entry = |content| ShardPolicy {
            name: name.to_owned(),
            uid: uid.to_owned(),
            generation,
            agents: spec.agents.clone(),
            content,
        };
        let issues = match compile::policy(name, generation, spec) {
            Ok(_) => return (Some(entry(ShardContent::Spec(Box::new(spec.clone())))), Ok(())),
            Err(issues) => issues,
        };
        let kept = last_good.filter(|kept| kept.uid == uid && matches!(kept.content, ShardContent::Spec(_)));
        let published = match (kept, spec.mode) {
            (Some(kept), _) => Some(kept.clone()),
            (None, PolicyMode::Audit) => None,
            (None, PolicyMode::Enforce) => Some(entry(ShardContent::Broken { message: issues.to_string() })),
        };
        (published, Err(issues))
    }

    /// Whether the policy belongs into the guardrails shard: one of its entries selects every namespace.
    pub fn is_guardrail(&self) -> bool {
        self.agents.iter().any(|entry| entry.namespace == EVERY_NAMESPACE)
    }

    /// Whether the policy selects the identity.
    pub fn selects(&self, namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> bool {
        selects(&self.agents, namespace, name, labels)
    }
}

/// Whether one of the entries selects the identity.
pub fn selects(
    agents: &[AgentSelector],
    namespace: &str,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    agents.iter().any(|entry| {
        (entry.namespace == EVERY_NAMESPACE || entry.namespace == namespace)
            && entry.name.as_ref().is_none_or(|wanted| wanted == name)
            && entry.selector.as_ref().is_none_or(|selector| labels_match(selector, labels))
    })
}

fn labels_match(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| requirement_holds(requirement, labels))
}

fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let in_set = value.is_some_and(|value| requirement.values.contains(value));
    match requirement.operator {
        LabelSelectorOperator::In => in_set,
        LabelSelectorOperator::NotIn => !in_set,
        LabelSelectorOperator::Exists => value.is_some(),
        LabelSelectorOperator::DoesNotExist => value.is_none(),
    }
}

/// The path of the first thing in `written` that did not survive being read.
fn first_lost(written: &Value, understood: &Value, path: String) -> Option<String> {
    match (written, understood) {
        (Value::Object(written), Value::Object(understood)) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match understood.get(key) {
                Some(other) => first_lost(value, other, path),
                None => Some(path),
            }
        }),
        (Value::Array(written), Value::Array(understood)) if written.len() == understood.len() => written
            .iter()
            .zip(understood)
            .enumerate()
            .find_map(|(at, (value, other))| first_lost(value, other, format!("{path}[{at}]"))),
        (written, understood) if written == understood => None,
        (_, _) => Some(path),
    }
}
