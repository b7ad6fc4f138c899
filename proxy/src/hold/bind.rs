//! What an approval binds: the target object as it is now, read as the agent.
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use parsing::digest::{BindingKey, fingerprint, object_hash};
use parsing::request::Request;
use parsing::target::Path;
use policy::action::{Action, Verb};
use serde_json::Value;
use thiserror::Error;

use super::{Held, owned};
use crate::refuse::{BodyError, LATER, Reason, Refusal};
use crate::request_id::RequestId;
use crate::upstream::{Impersonation, Outgoing, Upstream, UpstreamError};

const LARGEST: usize = 8 << 20;

/// Why a request cannot be bound to an object.
#[derive(Debug, Error)]
pub enum BindError {
    /// The act names no single object, so that no approval could say what exactly runs (D17).
    #[error("an approval needs one named object")]
    NoObject,
    /// There is none of this name.
    #[error("the object does not exist")]
    NotFound,
    /// The cluster does not let the agent read what it wants to change.
    #[error("the agent may not read the object")]
    Unreadable,
    /// Owners or finalizers would change through a credential that is not the agent's (B91, B92).
    #[error("owners or finalizers would change")]
    Owned,
    /// The API server did not answer, or with something else.
    #[error("the object cannot be read: {0}")]
    Unavailable(String),
}

impl BindError {
    /// What the client reads.
    pub fn refusal(&self, action: &Action) -> Refusal {
        match self {
            BindError::NoObject => policy::explain::not_supported(
                action,
                "approval of a request that names no single object",
                "name one object per command, so that a human can see what exactly will run",
            ),
            BindError::NotFound => {
                let (what, name) = match action {
                    Action::Resource(action) => (action.group_resource(), action.name.clone().unwrap_or_default()),
                    Action::NonResource { path, .. } => (path.clone(), String::new()),
                };
                Refusal::new(Reason::NotFound, format!("{what} \"{name}\" not found"))
            }
            BindError::Unreadable => Refusal::new(
                Reason::Forbidden,
                "sallyport/Forbidden: an approval binds the object as it is, and RBAC on the target does not let this agent \
                 get it.",
            )
            .next("ask an administrator for a RoleBinding with verb get on it"),
            BindError::Owned => owned::refusal(action),
            BindError::Unavailable(_) => Refusal::new(
                Reason::BadGateway,
                "sallyport/BadGateway: the object cannot be read from the API server. Nothing was done.",
            )
            .next(LATER),
        }
    }
}

impl From<UpstreamError> for BindError {
    fn from(error: UpstreamError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A request bound to the object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The fingerprint of the whole.
    pub fingerprint: String,
    /// The object; none for a request that creates one.
    pub object: Option<Object>,
}

/// The object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion` of this read.
    pub resource_version: String,
    /// See [`object_hash`].
    pub hash: String,
}

/// Reads the target object and makes the fingerprint.
///
/// # Errors
/// If there is no one object, or it cannot be read. Never with part of the binding missing.
pub async fn bind(
    held: Held<'_>,
    agent: &str,
    as_agent: &Impersonation,
    key: &BindingKey,
) -> Result<Bound, BindError> {
    let Held { target, request, id, .. } = held;
    let object = match object_path(request)? {
        None => None,
        Some(path) => {
            let stored = fetch(&target.upstream, path, as_agent, id).await?;
            if target.is_remote() && owned::changes(request, &stored) {
                return Err(BindError::Owned);
            }
            Some(Object::of(&stored, key)?)
        }
    };
    let cluster = target.upstream.access().cluster();
    let uid = object.as_ref().map(|object| object.uid.as_str());
    let hash = object.as_ref().map(|object| object.hash.as_str());
    Ok(Bound { fingerprint: fingerprint(request, &cluster, agent, uid, hash), object })
}

/// The path of the object itself, without subresource; none where the request creates the object.
pub(super) fn object_path(request: &Request) -> Result<Option<String>, BindError> {
    let (Path::Resource(path), Action::Resource(action)) = (&request.target.path, &request.action) else {
        return Err(BindError::NoObject);
    };
    if action.verb == Verb::Create && path.name.is_none() {
        return Ok(None);
    }
    if path.name.is_none() || request.connect {
        return Err(BindError::NoObject);
    }
    let mut parent = path.clone();
    parent.subresource = None;
    Ok(Some(Path::Resource(parent).canonical()))
}

/// The object at a path, read as the agent.
pub(super) async fn fetch(
    upstream: &Upstream,
    path: String,
    as_agent: &Impersonation,
    id: &RequestId,
) -> Result<Value, BindError> {
    let path_and_query =
        PathAndQuery::try_from(path).map_err(|error| BindError::Unavailable(error.to_string()))?;
    let outgoing = Outgoing {
        method: Method::GET,
        path_and_query,
        passed: http::HeaderMap::new(),
        content_type: None,
        accept: "application/json".to_owned(),
        user_agent: "sallyport-proxy/comparison".to_owned(),
        body: bytes::Bytes::new(),
        patient: false,
    };
    let answer = upstream.send(outgoing, Some(as_agent), id).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(BindError::NotFound),
        StatusCode::FORBIDDEN => return Err(BindError::Unreadable),
        other => return Err(BindError::Unavailable(format!("the API server answered {other}"))),
    }
    let whole = Limited::new(answer.into_body(), LARGEST).collect().await;
    let bytes = whole.map_err(|error: BodyError| BindError::Unavailable(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| BindError::Unavailable(error.to_string()))
}

impl Object {
    fn of(object: &Value, key: &BindingKey) -> Result<Object, BindError> {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        match (text("/metadata/uid"), text("/metadata/resourceVersion")) {
            (Some(uid), Some(version)) => Ok(Object {
                uid: uid.to_owned(),
                resource_version: version.to_owned(),
                hash: object_hash(object, key),
            }),
            _ => Err(BindError::Unavailable("the answer is no object".to_owned())),
        }
    }
}
