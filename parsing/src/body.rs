//! Request bodies: read strictly, checked against the target, written back in one form (A3, appendix 4).

use serde_json::{Map, Value};

use policy::action::{ResourceAction, Verb};

use crate::discovery::Kind;
use crate::json;
use crate::options::{DeleteOptions, OptionsError};
use crate::protobuf::{self, Envelope};
use crate::query::Query;
use crate::review::{Review, ReviewKind};
use crate::target::{Method, ResourcePath};
use crate::yaml;

mod error;

pub use error::BodyError;

/// Largest body that is read: what kube-apiserver reads.
pub const MAX_BODY: usize = 3 * 1024 * 1024;
/// Most operations in one JSON patch: what kube-apiserver takes.
pub const MAX_PATCH_OPERATIONS: usize = 10_000;
/// The kinds that kube-apiserver creates by PUT: seen by trying all built-in kinds of 1.36; custom resources never are.
const CREATED_BY_UPDATE: [(&str, &str); 11] = [
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("events.k8s.io", "events"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
];

/// What a request carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A whole object: create and update.
    Object(Value),
    /// `application/merge-patch+json`
    Merge(Value),
    /// `application/strategic-merge-patch+json`
    Strategic(Value),
    /// `application/json-patch+json`
    JsonPatch(Vec<Value>),
    /// `application/apply-patch+yaml`, always as JSON text.
    Apply(Value),
    /// The options of a delete (B99).
    Delete(DeleteOptions),
    /// A question that the gate answers itself.
    Review(Review),
}

/// What a body is read against.
pub(crate) struct Context<'a> {
    pub method: Method,
    pub path: &'a ResourcePath,
    pub kind: &'a Kind,
    pub connect: bool,
    /// See [`crate::act::Act::transient`].
    pub transient: bool,
}

/// Reads the body of a resource request. Delete options move from `query` into the body (B99).
pub(crate) fn read(
    context: &Context<'_>,
    query: &mut Query,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<Body, BodyError> {
    if bytes.len() > MAX_BODY {
        return Err(BodyError::TooLarge);
    }
    if context.connect {
        return if bytes.is_empty() { Ok(Body::Empty) } else { Err(BodyError::Surplus) };
    }
    match context.method {
        Method::Get if bytes.is_empty() => Ok(Body::Empty),
        Method::Get => Err(BodyError::Surplus),
        Method::Delete => read_options(context, query, content_type, bytes).map(Body::Delete),
        Method::Post | Method::Put | Method::Patch if bytes.is_empty() => Err(BodyError::Missing),
        Method::Post | Method::Put => read_object(context, content_type, bytes),
        Method::Patch => read_patch(context, content_type, bytes),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Media {
    Json,
    Yaml,
    JsonPatch,
    MergePatch,
    StrategicPatch,
    ApplyPatch,
    Protobuf,
}

fn media(content_type: Option<&str>) -> Result<Media, BodyError> {
    let Some(text) = content_type else { return Ok(Media::Json) };
    let (name, parameters) = text.split_once(';').unwrap_or((text, ""));
    let charset = parameters.trim();
    if !charset.is_empty() && !charset.eq_ignore_ascii_case("charset=utf-8") {
        return Err(BodyError::MediaType);
    }
    match name.trim() {
        "application/json" => Ok(Media::Json),
        "application/json-patch+json" => Ok(Media::JsonPatch),
        "application/merge-patch+json" => Ok(Media::MergePatch),
        "application/strategic-merge-patch+json" => Ok(Media::StrategicPatch),
        "application/apply-patch+yaml" => Ok(Media::ApplyPatch),
        protobuf::MEDIA_TYPE => Ok(Media::Protobuf),
        "application/cbor" | "application/cbor-seq" | "application/apply-patch+cbor" => Err(BodyError::Cbor),
        "application/yaml" => Ok(Media::Yaml),
        _ => Err(BodyError::MediaType),
    }
}

fn read_options(
    context: &Context<'_>,
    query: &mut Query,
    content_type: Option<&str>,
    bytes: &[u8],
) -> Result<DeleteOptions, BodyError> {
    if bytes.is_empty() {
        return Ok(DeleteOptions::from_query(&query.take_delete_options()));
    }
    if query.has_delete_options() {
        return Err(OptionsError::BothPlaces.into());
    }
    let own = group_version(context.path);
    match media(content_type)? {
        Media::Json => Ok(DeleteOptions::from_json(json::read(bytes)?, &own)?),
        Media::Yaml => Ok(DeleteOptions::from_json(yaml::read(bytes)?, &own)?),
        Media::Protobuf => {
            let envelope = Envelope::open(bytes)?;
            if envelope.kind != "DeleteOptions" {
                return Err(OptionsError::Kind.into());
            }
            Ok(DeleteOptions::from_json(envelope.object_as("v1")?, &own)?)
        }
        Media::JsonPatch | Media::MergePatch | Media::StrategicPatch | Media::ApplyPatch => {
            Err(BodyError::MediaType)
        }
    }
}

fn group_version(path: &ResourcePath) -> String {
    Kind { group: path.group.clone(), version: path.version.clone(), kind: String::new() }.api_version()
}

fn read_object(context: &Context<'_>, content_type: Option<&str>, bytes: &[u8]) -> Result<Body, BodyError> {
    let review = match &context.path.subresource {
        None => ReviewKind::of(&context.path.group, &context.path.version, &context.path.resource),
        Some(_) => None,
    };
    let object = match media(content_type)? {
        Media::Json => json::read(bytes)?,
        Media::Yaml => yaml::read(bytes)?,
        Media::Protobuf => Envelope::open(bytes)?.object()?,
        Media::JsonPatch | Media::MergePatch | Media::StrategicPatch | Media::ApplyPatch => {
            return Err(BodyError::MediaType);
        }
    };
    let mut map = object_map(object)?;
    check_kind(&mut map, context.kind, Presence::Filled)?;
    check_metadata(&map, context)?;
    if context.path.subresource.as_deref() == Some("eviction") {
        check_eviction(&mut map, &group_version(context.path))?;
    }
    let object = Value::Object(map);
    if let Some(kind) = review {
        return Ok(Body::Review(Review::from_json(kind, &object)?));
    }
    check_fields(context.kind, &object, false)?;
    Ok(Body::Object(object))
}

/// The options inside an eviction are read as strictly as those of a delete.
fn check_eviction(map: &mut Map<String, Value>, api_version: &str) -> Result<(), OptionsError> {
    match map.remove("deleteOptions") {
        None | Some(Value::Null) => {}
        Some(options) => {
            let options = DeleteOptions::from_json(options, api_version)?;
            map.insert("deleteOptions".to_owned(), options.to_json());
        }
    }
    Ok(())
}

fn read_patch(context: &Context<'_>, content_type: Option<&str>, bytes: &[u8]) -> Result<Body, BodyError> {
    let media = media(content_type)?;
    let patch = match media {
        Media::Json | Media::Yaml | Media::Protobuf => return Err(BodyError::MediaType),
        Media::JsonPatch | Media::MergePatch | Media::StrategicPatch => json::read(bytes)?,
        Media::ApplyPatch => yaml::read(bytes)?,
    };
    if media == Media::JsonPatch {
        let operations = read_operations(patch)?;
        for operation in &operations {
            protobuf::check_pointer(&context.kind.api_version(), &context.kind.kind, operation)
                .map_err(unknown_field)?;
        }
        return Ok(Body::JsonPatch(operations));
    }
    let mut map = object_map(patch)?;
    let presence = if media == Media::ApplyPatch { Presence::Required } else { Presence::Optional };
    check_kind(&mut map, context.kind, presence)?;
    check_metadata(&map, context)?;
    let patch = Value::Object(map);
    check_fields(context.kind, &patch, media == Media::StrategicPatch)?;
    Ok(match media {
        Media::MergePatch => Body::Merge(patch),
        Media::ApplyPatch => Body::Apply(patch),
        Media::Json | Media::Yaml | Media::JsonPatch | Media::StrategicPatch | Media::Protobuf => {
            Body::Strategic(patch)
        }
    })
}

fn check_fields(kind: &Kind, value: &Value, strategic: bool) -> Result<(), BodyError> {
    protobuf::check_patch(&kind.api_version(), &kind.kind, value, strategic).map_err(unknown_field)
}

fn unknown_field(protobuf::Unknown(path): protobuf::Unknown) -> BodyError {
    BodyError::UnknownField(path)
}

fn object_map(value: Value) -> Result<Map<String, Value>, BodyError> {
    let Value::Object(map) = value else { return Err(BodyError::NotAnObject) };
    let mut seen = std::collections::BTreeSet::new();
    for key in map.keys() {
        let folded = fold(key);
        let variant = KNOWN_KEYS.iter().any(|known| known != key && fold(known) == folded);
        if variant || !seen.insert(folded) {
            return Err(BodyError::KeyCase);
        }
    }
    Ok(map)
}

const KNOWN_KEYS: [&str; 9] =
    ["kind", "apiVersion", "metadata", "spec", "status", "data", "stringData", "binaryData", "items"];

/// As Go's JSON decoder folds: the Kelvin sign is a `k`, the long s an `s`.
fn fold(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// May be absent, and stays so: merge patches.
    Optional,
    /// Must be there: apply patches.
    Required,
    /// Set where absent, as the server would: whole objects.
    Filled,
}

fn check_kind(map: &mut Map<String, Value>, kind: &Kind, presence: Presence) -> Result<(), BodyError> {
    let api_version = kind.api_version();
    for (key, want, error) in [
        ("kind", &kind.kind, BodyError::Kind(kind.kind.clone())),
        ("apiVersion", &api_version, BodyError::ApiVersion(api_version.clone())),
    ] {
        match map.get(key) {
            Some(Value::String(text)) if text == want && !want.is_empty() => {}
            None if presence == Presence::Optional => {}
            None if presence == Presence::Filled && !want.is_empty() => {
                map.insert(key.to_owned(), want.as_str().into());
            }
            Some(_) | None => return Err(error),
        }
    }
    Ok(())
}

fn check_metadata(map: &Map<String, Value>, context: &Context<'_>) -> Result<(), BodyError> {
    let empty = Map::new();
    let metadata = match map.get("metadata") {
        None => &empty,
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err(BodyError::Metadata),
    };
    let text = |key: &str| match metadata.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(BodyError::Metadata),
    };
    let (name, generated, namespace) = (text("name")?, text("generateName")?, text("namespace")?);
    text("uid")?;
    text("resourceVersion")?;
    if !namespace.is_empty() && Some(namespace) != context.path.namespace.as_deref() {
        return Err(BodyError::Namespace);
    }
    match (context.method, context.path.name.as_deref()) {
        (_, Some(own)) if !name.is_empty() && name != own => Err(BodyError::Name),
        (Method::Put, _) if name.is_empty() => Err(BodyError::Nameless),
        (Method::Post, None) if name.is_empty() && generated.is_empty() && !context.transient => {
            Err(BodyError::Nameless)
        }
        (Method::Get | Method::Post | Method::Put | Method::Patch | Method::Delete, _) => Ok(()),
    }
}

fn read_operations(patch: Value) -> Result<Vec<Value>, BodyError> {
    let Value::Array(items) = patch else { return Err(BodyError::PatchSize) };
    if items.len() > MAX_PATCH_OPERATIONS {
        return Err(BodyError::PatchSize);
    }
    let read = |(i, item)| read_operation(item).ok_or(BodyError::PatchOperation(i));
    items.into_iter().enumerate().map(read).collect()
}

/// One operation of RFC 6902, with the members that it uses and no others.
fn read_operation(item: Value) -> Option<Value> {
    let Value::Object(mut map) = item else { return None };
    let pointer = |value: Option<Value>| match value {
        Some(Value::String(text)) if text.is_empty() || text.starts_with('/') => Some(text),
        _ => None,
    };
    let Some(Value::String(op)) = map.remove("op") else { return None };
    let path = pointer(map.remove("path"))?;
    let (value, from) = (map.remove("value"), map.remove("from"));
    if !map.is_empty() {
        return None;
    }
    match op.as_str() {
        "add" | "replace" | "test" => Some(serde_json::json!({"op": op, "path": path, "value": value?})),
        "move" | "copy" => Some(serde_json::json!({"op": op, "path": path, "from": pointer(from)?})),
        "remove" => Some(serde_json::json!({"op": op, "path": path})),
        _ => None,
    }
}

impl Body {
    /// The Content-Type that goes upstream.
    pub const fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::Empty => None,
            Self::Object(_) | Self::Delete(_) | Self::Review(_) => Some("application/json"),
            Self::Merge(_) => Some("application/merge-patch+json"),
            Self::Strategic(_) => Some("application/strategic-merge-patch+json"),
            Self::JsonPatch(_) => Some("application/json-patch+json"),
            Self::Apply(_) => Some("application/apply-patch+yaml"),
        }
    }

    /// The body as one JSON value; none if there is nothing to send.
    pub fn to_json(&self) -> Option<Value> {
        match self {
            Self::Empty => None,
            Self::Object(value) | Self::Merge(value) | Self::Strategic(value) | Self::Apply(value) => {
                Some(value.clone())
            }
            Self::JsonPatch(operations) => Some(Value::Array(operations.clone())),
            Self::Delete(options) if *options == DeleteOptions::default() => None,
            Self::Delete(options) => Some(options.to_json()),
            Self::Review(review) => Some(review.to_json()),
        }
    }

    /// The canonical bytes that go upstream; none if there is no body.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        self.to_json().map(|value| json::write(&value))
    }

    /// Metadata of the object or patch in the body.
    fn metadata(&self, key: &str) -> Option<&str> {
        let value = match self {
            Self::Object(value) | Self::Merge(value) | Self::Strategic(value) | Self::Apply(value) => value,
            Self::Empty | Self::JsonPatch(_) | Self::Delete(_) | Self::Review(_) => return None,
        };
        value.get("metadata")?.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// `metadata.name`
    pub fn name(&self) -> Option<&str> {
        self.metadata("name")
    }

    /// `metadata.generateName`, where no name is given: with a name the server ignores it.
    pub fn generate_name(&self) -> Option<&str> {
        if self.name().is_some() { None } else { self.metadata("generateName") }
    }

    /// Whether the options inside an eviction ask for a dry run: the server reads them beside the query.
    pub(crate) fn evicts_dry(&self) -> bool {
        match self {
            Self::Object(value) => value.pointer("/deleteOptions/dryRun").is_some(),
            Self::Empty
            | Self::Merge(_)
            | Self::Strategic(_)
            | Self::JsonPatch(_)
            | Self::Apply(_)
            | Self::Delete(_)
            | Self::Review(_) => false,
        }
    }

    /// Whether the server makes the object where there is none: a server-side apply, or an update of one of a few kinds
    /// (B96). Only a uid forbids it; a resourceVersion does not.
    pub(crate) fn may_create(&self, action: &ResourceAction) -> bool {
        let creates = match self {
            Self::Apply(_) => true,
            Self::Object(_) if action.verb == Verb::Update => {
                CREATED_BY_UPDATE.contains(&(action.group.as_str(), action.resource.as_str()))
            }
            Self::Empty
            | Self::Object(_)
            | Self::Merge(_)
            | Self::Strategic(_)
            | Self::JsonPatch(_)
            | Self::Delete(_)
            | Self::Review(_) => false,
        };
        creates && action.subresource.is_none() && self.metadata("uid").is_none()
    }

    /// The `metadata.resourceVersion` that the client sent.
    pub fn resource_version(&self) -> Option<&str> {
        self.metadata("resourceVersion")
    }
}
