//! What the gate answers to a review, and how it is written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Asked, Review, message};
use crate::protobuf::MEDIA_TYPE;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    Json,
    /// Kubernetes protobuf.
    Protobuf,
}

impl Encoding {
    /// JSON wherever the client takes it; protobuf only for one that takes nothing else.
    pub fn accepted(accept: Option<&str>) -> Self {
        let Some(accept) = accept else { return Self::Json };
        let types = || accept.split(',').map(|entry| entry.split(';').next().unwrap_or_default().trim());
        let json = types().any(|name| matches!(name, "application/json" | "*/*" | "application/*" | ""));
        if !json && types().any(|name| name == MEDIA_TYPE) { Self::Protobuf } else { Self::Json }
    }

    /// The Content-Type of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => MEDIA_TYPE,
        }
    }
}

/// `UserInfo` of `authentication.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub username: String,
    /// Unique id; empty for none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// `SubjectAccessReviewStatus`: the API's own three states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessStatus {
    /// Yes.
    pub allowed: bool,
    /// A final no.
    pub denied: bool,
    /// Why.
    pub reason: String,
    /// What could not be found out.
    pub evaluation_error: String,
}

/// One rule of a `SubjectRulesReviewStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub api_groups: Vec<String>,
    /// Resources and subresources.
    pub resources: Vec<String>,
    /// Object names; empty for all.
    pub resource_names: Vec<String>,
}

/// One rule on paths of a `SubjectRulesReviewStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NonResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// Paths.
    pub non_resource_urls: Vec<String>,
}

/// `SubjectRulesReviewStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesStatus {
    /// What is allowed now.
    pub resource_rules: Vec<ResourceRule>,
    /// Which paths are allowed now.
    pub non_resource_rules: Vec<NonResourceRule>,
    /// There is more than the rules say.
    pub incomplete: bool,
    /// What more; kubectl prints it as a warning.
    pub evaluation_error: String,
}

/// Writes the answer to a `SelfSubjectReview`.
pub fn write_whoami(user: &UserInfo, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => message::whoami(user),
        Encoding::Json => {
            let mut info = json!({"username": user.username, "groups": user.groups});
            put(&mut info, "uid", (!user.uid.is_empty()).then(|| json!(user.uid)));
            put(&mut info, "extra", (!user.extra.is_empty()).then(|| json!(user.extra)));
            answer(&Review::Whoami, json!({"userInfo": info}))
        }
    }
}

/// Writes the answer to a `SelfSubjectAccessReview`.
pub fn write_access(asked: &Asked, status: &AccessStatus, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => message::access(asked, status),
        Encoding::Json => {
            let mut value = json!({"allowed": status.allowed});
            put(&mut value, "denied", status.denied.then_some(Value::Bool(true)));
            put(&mut value, "reason", some(&status.reason));
            put(&mut value, "evaluationError", some(&status.evaluation_error));
            answer(&Review::Access(asked.clone()), value)
        }
    }
}

/// Writes the answer to a `SelfSubjectRulesReview` about `namespace`.
pub fn write_rules(namespace: &str, status: &RulesStatus, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => message::rules(namespace, status),
        Encoding::Json => {
            let resource = |rule: &ResourceRule| {
                let mut value =
                    json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                let names = (!rule.resource_names.is_empty()).then(|| json!(rule.resource_names));
                put(&mut value, "resourceNames", names);
                value
            };
            let path = |rule: &NonResourceRule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls});
            let mut value = json!({
                "resourceRules": status.resource_rules.iter().map(resource).collect::<Vec<_>>(),
                "nonResourceRules": status.non_resource_rules.iter().map(path).collect::<Vec<_>>(),
                "incomplete": status.incomplete,
            });
            put(&mut value, "evaluationError", some(&status.evaluation_error));
            answer(&Review::Rules { namespace: namespace.to_owned() }, value)
        }
    }
}

fn some(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| text.into())
}

fn put(object: &mut Value, key: &str, value: Option<Value>) {
    if let (Value::Object(map), Some(value)) = (object, value) {
        map.insert(key.to_owned(), value);
    }
}

fn answer(review: &Review, status: Value) -> Vec<u8> {
    let mut object = review.to_json();
    put(&mut object, "metadata", Some(json!({"creationTimestamp": null})));
    put(&mut object, "status", Some(status));
    crate::json::write(&object)
}
