//! What an approval binds, as one digest (D01, D02, ruling "what an approval binds").

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use policy::action::{Action, Scope};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::json;
use crate::protobuf;
use crate::request::Request;

/// `sha256:<hex>` over everything that an approval binds: cluster, agent, act, query, content type, normalised body, and the
/// target object by uid and [`object_hash`]. `agent` is `namespace/name`. Method and protocol are no part of it (D05).
///
/// Two runs of one command give one fingerprint: `kubectl.kubernetes.io/restartedAt`, `metadata.managedFields` and
/// `metadata.resourceVersion` of the body are left out. So is, in a whole object of a kind of Kubernetes' own, what the
/// API server reads as if it were not there, so that one object is one fingerprint in protobuf and in JSON.
pub fn fingerprint(
    request: &Request,
    cluster: &str,
    agent: &str,
    uid: Option<&str>,
    object_hash: Option<&str>,
) -> String {
    let body = request.body.to_json().map(|mut body| {
        normalise(&mut body);
        if let Body::Object(_) = request.body {
            protobuf::normalise(&mut body);
        }
        body
    });
    let query: Vec<Value> =
        request.query.pairs().into_iter().map(|(key, value)| json!([key, value])).collect();
    let bound = json!({
        "format": 1,
        "cluster": cluster,
        "agent": agent,
        "action": action(&request.action),
        "generateName": request.body.generate_name(),
        "uid": uid,
        "object": object_hash,
        "query": query,
        "contentType": request.body.content_type(),
        "body": body,
    });
    hash(&bound)
}

fn action(action: &Action) -> Value {
    let resource = match action {
        Action::NonResource { verb, path } => return json!({"verb": verb, "path": path}),
        Action::Resource(resource) => resource,
    };
    let (scope, namespace) = match &resource.scope {
        Scope::Cluster => ("Cluster", None),
        Scope::Namespace(namespace) => ("Namespace", Some(namespace)),
        Scope::AllNamespaces => ("AllNamespaces", None),
    };
    json!({
        "verb": resource.verb.as_str(),
        "group": resource.group,
        "version": resource.version,
        "resource": resource.resource,
        "subresource": resource.subresource,
        "scope": scope,
        "namespace": namespace,
        "name": resource.name,
    })
}

/// The secret key of [`object_hash`].
#[derive(Clone, Debug)]
pub struct BindingKey(hmac::Key);

impl BindingKey {
    /// Shortest key, in bytes.
    pub const SHORTEST: usize = 32;

    /// A key of these random bytes; `None` if they are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= Self::SHORTEST).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }
}

/// `sha256:<hex>`, keyed (HMAC), of an object without `status`, `metadata.managedFields`, `metadata.resourceVersion` and
/// `metadata.generation`: a status tick changes nothing, a changed spec does. Without the key nobody can try values of
/// masked fields against the hash, which the agent reads in its grant.
pub fn object_hash(object: &Value, key: &BindingKey) -> String {
    let mut object = object.clone();
    if let Value::Object(map) = &mut object {
        map.remove("status");
    }
    remove_metadata(&mut object, &["managedFields", "resourceVersion", "generation"]);
    text(hmac::sign(&key.0, &json::write(&object)).as_ref())
}

fn hash(value: &Value) -> String {
    text(digest(&SHA256, &json::write(value)).as_ref())
}

fn text(hash: &[u8]) -> String {
    let mut out = String::from("sha256:");
    for byte in hash {
        out.push(hex(byte >> 4));
        out.push(hex(byte & 15));
    }
    out
}

fn hex(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

fn remove_metadata(object: &mut Value, keys: &[&str]) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for key in keys {
            metadata.remove(*key);
        }
    }
}

const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

/// Leaves out what changes on every run of one command.
fn normalise(body: &mut Value) {
    remove_metadata(body, &["managedFields", "resourceVersion"]);
    let annotations = body.pointer_mut("/spec/template/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations
        && annotations.get(RESTARTED_AT).and_then(Value::as_str).is_some_and(is_time)
    {
        annotations.insert(RESTARTED_AT.to_owned(), Value::Object(Map::new()));
    }
}

/// Only a time is left out: other text there would be a way to say something unapproved.
fn is_time(text: &str) -> bool {
    (20..=35).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b"-:TZ.+".contains(&b))
}
