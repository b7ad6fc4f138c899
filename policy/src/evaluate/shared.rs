//! What the gate refuses where every agent has the same credential upstream: protections of Kubernetes that look at who asks
//! see only the gate there (security B6, B82 to B92).

use crate::action::{ResourceAction, Scope};

const RBAC: &str = "RBAC stops people from granting more than they have; through a shared credential it would weigh the gate's rights \
                    and not this agent's.";
const CERTIFICATES: &str = "Certificates are approved and signed by who asks, and through a shared credential the gate would be asking.";
const ADMISSION: &str = "Admission policies decide by who asks, and are exempt from admission themselves.";
const DEFINITIONS: &str = "Definitions of the API see or end every object of a kind, whoever asks.";
const NODES: &str = "Only a node may speak for itself; through a shared credential nobody could tell.";
const NAMESPACES: &str =
    "The labels of a namespace say which protections hold in it, and people are exempt from them by name.";
const IDENTITIES: &str =
    "ConfigMaps and Secrets of kube-system say who is who on this cluster (aws-auth, bootstrap tokens).";
const REVIEWS: &str = "It would be answered for the gate's credential and not for this agent.";
const SHARES: &str = "How much of the API server somebody gets hangs on who asks.";

/// Why the act is refused through a shared credential, by a closed list; `None` where it is not. Reads are free, but for
/// reviews.
pub(super) fn user_keyed(action: &ResourceAction) -> Option<&'static str> {
    let (resource, subresource) = (action.resource.as_str(), action.subresource.as_deref());
    match (action.group.as_str(), resource, subresource) {
        ("authentication.k8s.io" | "authorization.k8s.io", _, _) if !resource.starts_with("selfsubject") => {
            return Some(REVIEWS);
        }
        _ if action.verb.is_read() => return None,
        _ => {}
    }
    match (action.group.as_str(), resource, subresource) {
        ("rbac.authorization.k8s.io" | "iamauthenticator.k8s.aws", _, _) => Some(RBAC),
        ("certificates.k8s.io", _, _) => Some(CERTIFICATES),
        ("admissionregistration.k8s.io", _, _) | ("policy", "podsecuritypolicies", _) => Some(ADMISSION),
        ("apiregistration.k8s.io" | "apiextensions.k8s.io", _, _) => Some(DEFINITIONS),
        ("flowcontrol.apiserver.k8s.io", _, _) => Some(SHARES),
        ("", "nodes" | "bindings", _) | ("", "pods", Some("binding")) => Some(NODES),
        ("storage.k8s.io", "csinodes" | "volumeattachments", _)
        | ("resource.k8s.io", "resourceslices", _) => Some(NODES),
        ("coordination.k8s.io", "leases", _) if is_in(action, "kube-node-lease") => Some(NODES),
        ("", "namespaces", _) => Some(NAMESPACES),
        ("", "configmaps" | "secrets", _) if is_in(action, "kube-system") => Some(IDENTITIES),
        _ => None,
    }
}

fn is_in(action: &ResourceAction, namespace: &str) -> bool {
    match &action.scope {
        Scope::Namespace(found) => found == namespace,
        Scope::AllNamespaces => true,
        Scope::Cluster => false,
    }
}
