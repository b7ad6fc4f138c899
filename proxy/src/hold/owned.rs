//! Owners and finalizers stay as they are where all agents have one credential upstream (B91, B92): what is sent is compared with
//! what is there, because leaving them out takes them away.
use http::Method;
use parsing::body::Body;
use parsing::request::Request;
use policy::action::{Action, Verb};
use policy::explain;
use serde_json::Value;

use super::bind::{BindError, fetch, object_path};
use crate::refuse::{Reason, Refusal};
use crate::request_id::RequestId;
use crate::targets::Target;
use crate::upstream::Impersonation;

/// The fields of `metadata` that stay.
pub const KEPT: [&str; 2] = ["ownerReferences", "finalizers"];

/// Whether what a request leaves out may be taken away: an update sends the whole object, and an apply gives up what its
/// manager owned and does not send again. A Scale is not the object that it is read from.
pub fn takes_away(request: &Request) -> bool {
    let Action::Resource(action) = &request.action else { return false };
    let is_scale = action.subresource.as_deref() == Some("scale");
    match &request.body {
        Body::Object(_) => action.verb == Verb::Update && !is_scale,
        Body::Apply(_) => !is_scale,
        Body::Empty
        | Body::Merge(_)
        | Body::Strategic(_)
        | Body::JsonPatch(_)
        | Body::Delete(_)
        | Body::Review(_) => false,
    }
}

/// Compares the request with the object that is there, and binds it to that version of it.
///
/// # Errors
/// What the client reads if owners or finalizers would change, or if nobody can tell.
pub async fn keep(
    request: &mut Request,
    target: &Target,
    as_agent: &Impersonation,
    id: &RequestId,
) -> Result<(), Refusal> {
    if !target.is_remote() || !takes_away(request) {
        return Ok(());
    }
    compare(request, target, as_agent, id).await.map_err(|error| {
        let refusal = if matches!(error, BindError::Unreadable) {
            Refusal::new(
                Reason::Forbidden,
                "sallyport/Forbidden: owners and finalizers must stay as they are, and RBAC on the target does not let the \
                 gate's account get the object to compare.",
            )
            .next("ask an administrator to let that account get it, or send a patch of what changes")
        } else {
            error.refusal(&request.action)
        };
        refusal.about(&request.action)
    })
}

async fn compare(
    request: &mut Request,
    target: &Target,
    as_agent: &Impersonation,
    id: &RequestId,
) -> Result<(), BindError> {
    let Some(path) = object_path(request)? else { return Ok(()) };
    let stored = match fetch(&target.upstream, path, as_agent, id).await {
        // An apply makes the object then; an update of nothing takes nothing away, but may do so a moment later.
        Err(BindError::NotFound) if request.method() == Method::PATCH => return Ok(()),
        stored => stored?,
    };
    if changes(request, &stored) {
        return Err(BindError::Owned);
    }
    // "0" means no version to the API server.
    let names_version =
        request.body.resource_version().is_some_and(|version| version.parse::<u64>() != Ok(0));
    if names_version {
        return Ok(());
    }
    let version = stored.pointer("/metadata/resourceVersion").filter(|version| version.is_string());
    let (Some(version), Body::Object(sent) | Body::Apply(sent)) = (version, &mut request.body) else {
        return Err(BindError::Unavailable("the answer is no object".to_owned()));
    };
    let metadata = sent.pointer_mut("/metadata").and_then(Value::as_object_mut).ok_or(BindError::NoObject)?;
    metadata.insert("resourceVersion".to_owned(), version.clone());
    Ok(())
}

/// Whether the request would leave other owners or finalizers than `stored` has.
pub fn changes(request: &Request, stored: &Value) -> bool {
    if !takes_away(request) {
        return false;
    }
    match &request.body {
        Body::Object(sent) => KEPT.iter().any(|key| list(sent, key) != list(stored, key)),
        Body::Apply(_) => is_owned_by(stored, request.query.get("fieldManager").unwrap_or_default()),
        Body::Empty
        | Body::Merge(_)
        | Body::Strategic(_)
        | Body::JsonPatch(_)
        | Body::Delete(_)
        | Body::Review(_) => false,
    }
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object["metadata"][key].as_array().map_or(&[], Vec::as_slice)
}

/// Whether owners or finalizers of the object are what this manager applied.
fn is_owned_by(stored: &Value, manager: &str) -> bool {
    let entries = stored["metadata"]["managedFields"].as_array().map_or(&[][..], Vec::as_slice);
    entries.iter().filter(|entry| entry["manager"] == manager && entry["operation"] == "Apply").any(|entry| {
        let metadata = &entry["fieldsV1"]["f:metadata"];
        KEPT.iter().any(|key| !metadata[format!("f:{key}")].is_null())
    })
}

/// What the client reads.
pub fn refusal(action: &Action) -> Refusal {
    explain::gate_denies(
        action,
        "changing owners or finalizers through a shared credential",
        "Kubernetes asks who may delete an object before it lets them change these, and would ask about the gate.",
        "send metadata.ownerReferences and metadata.finalizers as they are in an update, and leave them out of anything else",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn b92_what_a_manager_applied_is_its_own_to_give_up() {
        let owned = |manager: &str, operation: &str, fields: Value| json!({"metadata": {"managedFields": [{"manager": manager, "operation": operation, "fieldsV1": fields}]}});
        let finalizers = json!({"f:metadata": {"f:finalizers": {"v:\"a/b\"": {}}}});
        assert!(is_owned_by(&owned("argocd", "Apply", finalizers.clone()), "argocd"));
        let owners = json!({"f:metadata": {"f:ownerReferences": {"k:{\"uid\":\"1\"}": {}}}});
        assert!(is_owned_by(&owned("argocd", "Apply", owners), "argocd"));
        for (stored, manager) in [
            (owned("argocd", "Apply", finalizers.clone()), "kubectl"),
            (owned("argocd", "Update", finalizers), "argocd"),
            (owned("argocd", "Apply", json!({"f:metadata": {"f:labels": {"f:finalizers": {}}}})), "argocd"),
            (json!({"metadata": {}}), "argocd"),
        ] {
            assert!(!is_owned_by(&stored, manager), "{stored}");
        }
    }

    #[test]
    fn b91_b92_lists_are_one_only_if_they_are_the_same() {
        let with = |value: Value| json!({"metadata": {"finalizers": value}});
        assert_eq!(list(&with(Value::Null), "finalizers"), list(&json!({}), "finalizers"));
        assert_eq!(list(&with(json!([])), "finalizers"), list(&json!({}), "finalizers"));
        assert_ne!(list(&with(json!(["a"])), "finalizers"), list(&json!({}), "finalizers"));
        assert_ne!(list(&with(json!(["a"])), "finalizers"), list(&with(json!(["a", "b"])), "finalizers"));
    }
}
