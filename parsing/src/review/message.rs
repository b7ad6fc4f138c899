//! The reviews' answers as protobuf messages; numbers as in the API's generated.proto.

use std::collections::BTreeMap;

use prost::Message;

use super::{AccessStatus, Asked, ReviewKind, RulesStatus, UserInfo};
use crate::protobuf::Envelope;

#[derive(Clone, PartialEq, Message)]
struct Whoami {
    #[prost(message, optional, tag = "2")]
    status: Option<WhoamiStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct WhoamiStatus {
    #[prost(message, optional, tag = "1")]
    user_info: Option<User>,
}

#[derive(Clone, PartialEq, Message)]
struct User {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, repeated, tag = "3")]
    groups: Vec<String>,
    #[prost(btree_map = "string, message", tag = "4")]
    extra: BTreeMap<String, ExtraValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ExtraValue {
    #[prost(string, repeated, tag = "1")]
    items: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Access {
    #[prost(message, optional, tag = "2")]
    spec: Option<AccessSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct AccessSpec {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    non_resource: Option<NonResource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    verb: String,
    #[prost(string, tag = "3")]
    group: String,
    #[prost(string, tag = "4")]
    version: String,
    #[prost(string, tag = "5")]
    resource: String,
    #[prost(string, tag = "6")]
    subresource: String,
    #[prost(string, tag = "7")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct NonResource {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    verb: String,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(bool, tag = "1")]
    allowed: bool,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(string, tag = "3")]
    evaluation_error: String,
    #[prost(bool, tag = "4")]
    denied: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Rules {
    #[prost(message, optional, tag = "2")]
    spec: Option<RulesSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<RulesStatusMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct RulesSpec {
    #[prost(string, tag = "1")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct RulesStatusMessage {
    #[prost(message, repeated, tag = "1")]
    resource_rules: Vec<ResourceRule>,
    #[prost(message, repeated, tag = "2")]
    non_resource_rules: Vec<NonResourceRule>,
    #[prost(bool, tag = "3")]
    incomplete: bool,
    #[prost(string, tag = "4")]
    evaluation_error: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceRule {
    #[prost(string, repeated, tag = "1")]
    verbs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    api_groups: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    resources: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    resource_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NonResourceRule {
    #[prost(string, repeated, tag = "1")]
    verbs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    non_resource_urls: Vec<String>,
}

fn close(kind: ReviewKind, message: &impl Message) -> Vec<u8> {
    Envelope::close(kind.api_version(), kind.kind(), message)
}

pub(super) fn whoami(user: &UserInfo) -> Vec<u8> {
    let extra =
        user.extra.iter().map(|(key, items)| (key.clone(), ExtraValue { items: items.clone() })).collect();
    let user_info =
        User { username: user.username.clone(), uid: user.uid.clone(), groups: user.groups.clone(), extra };
    close(ReviewKind::Whoami, &Whoami { status: Some(WhoamiStatus { user_info: Some(user_info) }) })
}

pub(super) fn access(asked: &Asked, status: &AccessStatus) -> Vec<u8> {
    let spec = match asked {
        Asked::Resource(asked) => AccessSpec {
            resource: Some(Resource {
                namespace: asked.namespace.clone(),
                verb: asked.verb.clone(),
                group: asked.group.clone(),
                version: asked.version.clone(),
                resource: asked.resource.clone(),
                subresource: asked.subresource.clone(),
                name: asked.name.clone(),
            }),
            non_resource: None,
        },
        Asked::NonResource { path, verb } => AccessSpec {
            resource: None,
            non_resource: Some(NonResource { path: path.clone(), verb: verb.clone() }),
        },
    };
    let status = Status {
        allowed: status.allowed,
        reason: status.reason.clone(),
        evaluation_error: status.evaluation_error.clone(),
        denied: status.denied,
    };
    close(ReviewKind::Access, &Access { spec: Some(spec), status: Some(status) })
}

pub(super) fn rules(namespace: &str, status: &RulesStatus) -> Vec<u8> {
    let resource_rules = status.resource_rules.iter().map(|rule| ResourceRule {
        verbs: rule.verbs.clone(),
        api_groups: rule.api_groups.clone(),
        resources: rule.resources.clone(),
        resource_names: rule.resource_names.clone(),
    });
    let non_resource_rules = status.non_resource_rules.iter().map(|rule| NonResourceRule {
        verbs: rule.verbs.clone(),
        non_resource_urls: rule.non_resource_urls.clone(),
    });
    let message = RulesStatusMessage {
        resource_rules: resource_rules.collect(),
        non_resource_rules: non_resource_rules.collect(),
        incomplete: status.incomplete,
        evaluation_error: status.evaluation_error.clone(),
    };
    let spec = RulesSpec { namespace: namespace.to_owned() };
    close(ReviewKind::Rules, &Rules { spec: Some(spec), status: Some(message) })
}
