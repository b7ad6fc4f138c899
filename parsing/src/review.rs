//! The three questions that an agent asks about itself, in JSON and protobuf, and their answers.
//!
//! kubectl sends them as JSON up to 1.31 and as protobuf since 1.32. The messages are those of `authorization.k8s.io/v1`
//! and `authentication.k8s.io/v1`; a field that is not theirs is refused.

use serde_json::{Map, Value, json};

mod answer;
mod message;

pub use answer::{
    AccessStatus, Encoding, NonResourceRule, ResourceRule, RulesStatus, UserInfo, write_access, write_rules,
    write_whoami,
};

/// A question of an agent about itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Review {
    /// `SelfSubjectReview`: who am I?
    Whoami,
    /// `SelfSubjectAccessReview`: may I?
    Access(Asked),
    /// `SelfSubjectRulesReview`: what may I, in one namespace?
    Rules {
        /// The namespace asked about.
        namespace: String,
    },
}

/// What an access review asks about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Something of the resource API.
    Resource(ResourceAttributes),
    /// A path outside it.
    NonResource {
        /// The path; may end with `*`.
        path: String,
        /// Lower-case HTTP method.
        verb: String,
    },
}

/// `ResourceAttributes` of `authorization.k8s.io/v1`. An empty text means what RBAC means by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceAttributes {
    /// Namespace; empty for all namespaces or a cluster-scoped kind.
    pub namespace: String,
    /// Verb, also one that is no request verb (`approve`, `*`).
    pub verb: String,
    /// API group; `*` for all.
    pub group: String,
    /// API version; `*` or empty for all.
    pub version: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource; empty for none.
    pub subresource: String,
    /// Object name; empty for all.
    pub name: String,
}

/// Why a review is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// A field that is not of this review, or a value of another type.
    #[error("the review has a field or value that this gate does not know")]
    Unknown,
    /// Neither or both of the two kinds of attributes.
    #[error("the review must set either `resourceAttributes` or `nonResourceAttributes`")]
    Attributes,
}

/// Which review a resource of the API is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewKind {
    /// `selfsubjectreviews.authentication.k8s.io`
    Whoami,
    /// `selfsubjectaccessreviews.authorization.k8s.io`
    Access,
    /// `selfsubjectrulesreviews.authorization.k8s.io`
    Rules,
}

impl ReviewKind {
    /// The review that is created under these names, if they are one's.
    pub fn of(group: &str, version: &str, resource: &str) -> Option<Self> {
        match (group, version, resource) {
            ("authentication.k8s.io", "v1", "selfsubjectreviews") => Some(Self::Whoami),
            ("authorization.k8s.io", "v1", "selfsubjectaccessreviews") => Some(Self::Access),
            ("authorization.k8s.io", "v1", "selfsubjectrulesreviews") => Some(Self::Rules),
            _ => None,
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::Whoami => "authentication.k8s.io/v1",
            Self::Access | Self::Rules => "authorization.k8s.io/v1",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Whoami => "SelfSubjectReview",
            Self::Access => "SelfSubjectAccessReview",
            Self::Rules => "SelfSubjectRulesReview",
        }
    }
}

impl Review {
    /// From a JSON object whose `kind` and `apiVersion` were checked already.
    ///
    /// # Errors
    /// If a field is unknown.
    pub fn from_json(kind: ReviewKind, object: &Value) -> Result<Self, ReviewError> {
        let mut object = fields(object)?;
        object.remove("kind");
        object.remove("apiVersion");
        object.remove("status");
        if let Some(metadata) = object.remove("metadata") {
            let mut metadata = fields(&metadata)?;
            metadata.remove("creationTimestamp");
            finish(&metadata)?;
        }
        let spec = object.remove("spec").unwrap_or(Value::Null);
        finish(&object)?;
        match kind {
            ReviewKind::Whoami if spec.is_null() => Ok(Self::Whoami),
            ReviewKind::Whoami => Err(ReviewError::Unknown),
            ReviewKind::Access => asked_from_json(&spec).map(Self::Access),
            ReviewKind::Rules => {
                let mut spec = fields(&spec)?;
                let namespace = text(&mut spec, "namespace")?;
                finish(&spec)?;
                Ok(Self::Rules { namespace })
            }
        }
    }

    /// Which of the three it is.
    pub const fn kind(&self) -> ReviewKind {
        match self {
            Self::Whoami => ReviewKind::Whoami,
            Self::Access(_) => ReviewKind::Access,
            Self::Rules { .. } => ReviewKind::Rules,
        }
    }

    /// The canonical JSON form, also fit to be sent to an API server.
    pub fn to_json(&self) -> Value {
        let kind = self.kind();
        let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind()});
        let spec = match self {
            Self::Whoami => return object,
            Self::Access(asked) => asked.to_json(),
            Self::Rules { namespace } => json!({"namespace": namespace}),
        };
        if let Value::Object(map) = &mut object {
            map.insert("spec".to_owned(), spec);
        }
        object
    }
}

fn fields(value: &Value) -> Result<Map<String, Value>, ReviewError> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map.clone()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(ReviewError::Unknown),
    }
}

fn finish(map: &Map<String, Value>) -> Result<(), ReviewError> {
    if map.is_empty() { Ok(()) } else { Err(ReviewError::Unknown) }
}

fn text(map: &mut Map<String, Value>, key: &str) -> Result<String, ReviewError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ReviewError::Unknown),
    }
}

fn asked_from_json(spec: &Value) -> Result<Asked, ReviewError> {
    let mut spec = fields(spec)?;
    let resource = spec.remove("resourceAttributes").filter(|value| !value.is_null());
    let path = spec.remove("nonResourceAttributes").filter(|value| !value.is_null());
    finish(&spec)?;
    let (mut map, is_resource) = match (resource, path) {
        (Some(resource), None) => (fields(&resource)?, true),
        (None, Some(path)) => (fields(&path)?, false),
        (Some(_), Some(_)) | (None, None) => return Err(ReviewError::Attributes),
    };
    let asked = if is_resource {
        Asked::Resource(ResourceAttributes {
            namespace: text(&mut map, "namespace")?,
            verb: text(&mut map, "verb")?,
            group: text(&mut map, "group")?,
            version: text(&mut map, "version")?,
            resource: text(&mut map, "resource")?,
            subresource: text(&mut map, "subresource")?,
            name: text(&mut map, "name")?,
        })
    } else {
        Asked::NonResource { path: text(&mut map, "path")?, verb: text(&mut map, "verb")? }
    };
    finish(&map)?;
    Ok(asked)
}

impl Asked {
    fn to_json(&self) -> Value {
        let asked = match self {
            Self::NonResource { path, verb } => {
                return json!({"nonResourceAttributes": {"path": path, "verb": verb}});
            }
            Self::Resource(asked) => asked,
        };
        let mut map = Map::new();
        for (key, text) in [
            ("namespace", &asked.namespace),
            ("verb", &asked.verb),
            ("group", &asked.group),
            ("version", &asked.version),
            ("resource", &asked.resource),
            ("subresource", &asked.subresource),
            ("name", &asked.name),
        ] {
            if !text.is_empty() {
                map.insert(key.to_owned(), text.as_str().into());
            }
        }
        json!({"resourceAttributes": map})
    }
}
