//! What a rule for everything does not reach: acts that make a login to the cluster, or lead around the gate.

use super::shared::user_keyed;
use crate::action::{Action, ResourceAction, Verb};
use crate::agent::Agent;
use crate::matcher::Matcher;

const TOKENS: &str = "A token of a ServiceAccount is a login of its own: whoever holds it reaches the API server past the gate.";
const NODE_PROXY: &str =
    "The API of a node opens every container on it, by a plain GET too, past policy, masking and record.";

/// Why the gate refuses the act, whatever any policy says; `None` where it does not.
pub fn reserved(agent: &Agent, action: &Action) -> Option<&'static str> {
    let Action::Resource(action) = action else { return None };
    match (action.group.as_str(), action.resource.as_str(), action.subresource.as_deref()) {
        // B24, B82: a dry run of it mints a token all the same.
        ("", "serviceaccounts", Some("token")) => Some(TOKENS),
        // B68 to B70.
        ("", "nodes", Some("proxy")) => Some(NODE_PROXY),
        _ if agent.shares_credential() => user_keyed(action),
        _ => None,
    }
}

/// Whether an Allow reaches the act only where it names group and resource, without `*`: a certificate is a login to the
/// cluster, for whoever asks for it, approves it or signs it (B85).
pub(crate) fn must_be_named(action: &ResourceAction) -> bool {
    action.group == "certificates.k8s.io" && matches!(action.verb, Verb::Create | Verb::Update | Verb::Patch)
}

/// Whether the entry may allow the act as far as its wildcards go.
pub(super) fn names_enough(matcher: &Matcher, action: &Action) -> bool {
    match action {
        Action::Resource(action) => !must_be_named(action) || matcher.names_literally(action),
        Action::NonResource { .. } => true,
    }
}
