//! Names and facts become an act: the target against what the cluster serves (P11, P12).

use http::StatusCode;
use policy::action::{Action, ResourceAction, Scope, Verb};

use crate::discovery::{Discovery, Kind, Resource};
use crate::query::Query;
use crate::refusal::Refused;
use crate::target::{Method, Path, ResourcePath, Target};

/// Why a target names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// P11.
    #[error("the server has no resource `{0}`")]
    UnknownResource(String),
    /// P11.
    #[error("the resource has no subresource `{0}`")]
    UnknownSubresource(String),
    /// P11.
    #[error("`{0}` is in namespaces; the path names none")]
    NamespaceMissing(String),
    /// P11.
    #[error("`{0}` is not in namespaces; the path names one")]
    NamespaceSurplus(String),
    /// P11: a namespaced kind takes this only in one namespace.
    #[error("`{0}` across all namespaces can only be listed or watched")]
    NeedsNamespace(String),
    /// P11.
    #[error("the server does not offer `{0}` here")]
    VerbNotServed(Verb),
}

impl Refused for ActError {
    fn rule(&self) -> &'static str {
        "P11"
    }

    fn code(&self) -> StatusCode {
        match self {
            Self::UnknownResource(_)
            | Self::UnknownSubresource(_)
            | Self::NamespaceMissing(_)
            | Self::NamespaceSurplus(_) => StatusCode::NOT_FOUND,
            Self::NeedsNamespace(_) | Self::VerbNotServed(_) => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// An act with the facts about its kind. The name of a create comes later, from the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// What the request would do.
    pub action: Action,
    /// A stream or tunnel: exec, attach, portforward or proxy (P12).
    pub connect: bool,
    /// What a body must be. None for a path outside the resource API.
    pub kind: Option<Kind>,
    /// The kind is only ever created, never stored: its objects need no name.
    pub transient: bool,
}

/// Resolves a target.
///
/// # Errors
/// If the cluster does not serve it (P11).
pub fn resolve(target: &Target, query: &Query, discovery: &Discovery) -> Result<Act, ActError> {
    let path = match &target.path {
        Path::NonResource(_) => {
            let verb = target.method.as_str().to_ascii_lowercase();
            let action = Action::NonResource { verb, path: target.path.canonical() };
            return Ok(Act { action, connect: false, kind: None, transient: false });
        }
        Path::Resource(path) => path,
    };
    let shown = group_resource(path);
    let facts = discovery
        .resource(&path.group, &path.version, &path.resource)
        .ok_or_else(|| ActError::UnknownResource(shown.clone()))?;
    let connect = path.is_connect();
    let verb = if connect { Verb::Create } else { verb(target.method, path, query) };
    let scope = scope(path, facts, verb, shown)?;
    let (kind, served) = match &path.subresource {
        None => (&facts.kind, &facts.verbs),
        Some(name) => {
            let sub =
                facts.subresources.get(name).ok_or_else(|| ActError::UnknownSubresource(name.clone()))?;
            (&sub.kind, &sub.verbs)
        }
    };
    if !connect && !served.contains(verb.as_str()) {
        return Err(ActError::VerbNotServed(verb));
    }
    let name = match verb {
        Verb::List | Verb::Watch => query.fields().and_then(|fields| fields.name()).map(str::to_owned),
        Verb::DeleteCollection => None,
        Verb::Get | Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => name(path),
    };
    let transient = path.subresource.is_none() && facts.verbs.iter().all(|verb| verb == "create");
    let action = ResourceAction {
        verb,
        group: path.group.clone(),
        version: path.version.clone(),
        resource: path.resource.clone(),
        subresource: path.subresource.clone(),
        scope,
        name,
        dry_run: query.is_dry_run() && !connect && !transient && path.subresource.as_deref() != Some("token"),
        may_create: false,
    };
    Ok(Act { action: Action::Resource(action), connect, kind: Some(kind.clone()), transient })
}

fn group_resource(path: &ResourcePath) -> String {
    if path.group.is_empty() { path.resource.clone() } else { format!("{}.{}", path.resource, path.group) }
}

fn verb(method: Method, path: &ResourcePath, query: &Query) -> Verb {
    match method {
        Method::Get if path.name.is_some() => Verb::Get,
        Method::Get if query.flag("watch") => Verb::Watch,
        Method::Get => Verb::List,
        Method::Post => Verb::Create,
        Method::Put => Verb::Update,
        Method::Patch => Verb::Patch,
        Method::Delete if path.name.is_some() => Verb::Delete,
        Method::Delete => Verb::DeleteCollection,
    }
}

fn scope(path: &ResourcePath, facts: &Resource, verb: Verb, shown: String) -> Result<Scope, ActError> {
    match (&path.namespace, &path.name) {
        (Some(namespace), _) if facts.namespaced => Ok(Scope::Namespace(namespace.clone())),
        (Some(_), _) => Err(ActError::NamespaceSurplus(shown)),
        (None, Some(name)) if path.is_namespace() => Ok(Scope::Namespace(name.clone())),
        (None, _) if !facts.namespaced => Ok(Scope::Cluster),
        (None, Some(_)) => Err(ActError::NamespaceMissing(shown)),
        (None, None) if matches!(verb, Verb::List | Verb::Watch) => Ok(Scope::AllNamespaces),
        (None, None) => Err(ActError::NeedsNamespace(shown)),
    }
}

/// The object's name; of `scheme:name:port` under `*/proxy` the middle (P12).
fn name(path: &ResourcePath) -> Option<String> {
    let name = path.name.as_deref()?;
    if path.subresource.as_deref() != Some("proxy") {
        return Some(name.to_owned());
    }
    let parts: Vec<&str> = name.split(':').collect();
    let inner = match parts.as_slice() {
        [_, inner, _] | [inner, _] => inner,
        _ => name,
    };
    Some(inner.to_owned())
}
