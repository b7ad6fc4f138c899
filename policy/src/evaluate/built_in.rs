//! What no policy can change: the paths that are always open, and the objects of our own group.

use crds::names;

use super::{Facts, reserved};
use crate::action::{Action, Scope, Verb};
use crate::agent::Agent;
use crate::verdict::{Authority, Verdict};

/// What an agent does with grants; the proxy serves it with its own ServiceAccount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAct {
    /// Get, list or watch: answers hold only its own.
    Read,
    /// Ask for a Window for itself.
    Create,
    /// Delete its own.
    Withdraw,
}

/// What the act means as an act on the agent's own grants; `None` for everything else, for a blocked agent, and for
/// every object of our group that is not the agent's to touch: those are refused by [`super::evaluate`].
///
/// The proxy still checks that a named grant is the agent's own and that a created one is a Window for itself.
pub fn own_grants(agent: &Agent, action: &Action, facts: &Facts<'_>) -> Option<GrantAct> {
    let Action::Resource(action) = action else {
        return None;
    };
    let is_grant =
        action.group == names::GROUP && action.resource == "accessgrants" && action.subresource.is_none();
    let is_home = matches!(&action.scope, Scope::Namespace(namespace) if namespace == agent.namespace());
    if !is_grant || !is_home || facts.suspended || agent.blocked().is_some() {
        return None;
    }
    match action.verb {
        Verb::Get | Verb::List | Verb::Watch => Some(GrantAct::Read),
        Verb::Create => Some(GrantAct::Create),
        Verb::Delete if action.name.is_some() => Some(GrantAct::Withdraw),
        Verb::Delete | Verb::Update | Verb::Patch | Verb::DeleteCollection => None,
    }
}

/// What no policy can change.
pub(super) fn verdict(agent: &Agent, action: &Action, facts: &Facts<'_>) -> Option<Verdict> {
    let blocked = if facts.suspended { Some(Verdict::Suspended) } else { agent.blocked() };
    if blocked == Some(Verdict::Suspended) {
        return blocked;
    }
    match action {
        Action::NonResource { verb, path } if verb == "get" && is_always_open(path) => {
            Some(Verdict::Allowed(Authority::BuiltIn))
        }
        Action::Resource(_) | Action::NonResource { .. } if blocked.is_some() => blocked,
        Action::Resource(action) if action.group == names::GROUP => Some(Verdict::Denied),
        Action::Resource(_) if reserved(agent, action).is_some() => Some(Verdict::Denied),
        Action::Resource(_) | Action::NonResource { .. } => None,
    }
}

/// The paths that are always open (ruling on non-resource paths): version, discovery, OpenAPI, our own.
pub fn is_always_open(path: &str) -> bool {
    if matches!(
        path,
        "/version" | "/api" | "/apis" | "/api/v1" | "/openapi/v2" | "/openapi/v3" | "/sallyport/v1"
    ) {
        return true;
    }
    if path.starts_with("/openapi/v3/") || path.starts_with("/sallyport/v1/") {
        return true;
    }
    path.strip_prefix("/apis/").is_some_and(|rest| {
        let parts: Vec<&str> = rest.split('/').collect();
        parts.len() <= 2 && parts.iter().all(|part| !part.is_empty())
    })
}
