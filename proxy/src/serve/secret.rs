//! Secrets that an agent may not write whatever policy says: logins to the cluster (B82, B23), and what it could not use.
use parsing::body::Body;
use parsing::request::Request as Asked;
use policy::action::{Action, Verb};
use policy::decision::Decision;
use policy::explain;
use serde_json::Value;

use crate::mask::pointer::{meets, tokens};
use crate::refuse::Refusal;

/// A controller fills the one with a ServiceAccount's token; the API server takes the other's content for a login.
const TYPES: [&str; 2] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];
/// `kubernetes.io/service-account.name` and `.uid` say whose token it is.
const WHOSE: &str = "kubernetes.io/service-account.";
/// What helm keeps a release in, and reads back before it does anything with it.
const RELEASE: &str = "helm.sh/release.v1";

/// Refuses a write that makes a Secret a login to the cluster, and a release that helm would lose behind the masks.
pub fn refuse(asked: &Asked, decision: &Decision) -> Result<(), Refusal> {
    let Action::Resource(action) = &asked.action else { return Ok(()) };
    let writes = matches!(action.verb, Verb::Create | Verb::Update | Verb::Patch);
    if !writes || !action.group.is_empty() || action.resource != "secrets" {
        return Ok(());
    }
    let mints = match &asked.body {
        Body::Object(value) | Body::Merge(value) | Body::Strategic(value) | Body::Apply(value) => {
            mints(value)
        }
        Body::JsonPatch(operations) => operations.iter().any(operation_mints),
        Body::Empty | Body::Delete(_) | Body::Review(_) => false,
    };
    if mints {
        return Err(explain::gate_denies(
            &asked.action,
            "writing a Secret that is a login to the cluster",
            "Whoever holds what such a Secret stands for reaches the API server past the gate.",
            "leave the type and the service-account annotations out, or ask a person",
        ));
    }
    let masked = decision.obligations().masks.iter().flat_map(|mask| &mask.paths);
    let release = matches!(&asked.body, Body::Object(secret) if secret["type"] == RELEASE);
    if release && masked.into_iter().any(|path| meets(&["data", "release"], path.steps())) {
        return Err(explain::not_supported(
            &asked.action,
            "keeping a Helm release in a Secret, which helm could not read back unmasked,",
            "set HELM_DRIVER=configmap",
        ));
    }
    Ok(())
}

fn mints(secret: &Value) -> bool {
    is_type(&secret["type"]) || says_whose(&secret["metadata"]["annotations"])
}

fn operation_mints(operation: &Value) -> bool {
    let pointer = tokens(&operation["path"]);
    let pointer: Vec<&str> = pointer.iter().map(String::as_str).collect();
    let value = &operation["value"];
    match *pointer.as_slice() {
        [] => mints(value),
        ["type"] => operation["op"] != "remove" && (is_type(value) || !value.is_string()),
        ["metadata"] => says_whose(&value["annotations"]),
        ["metadata", "annotations"] => says_whose(value) || operation.get("from").is_some(),
        ["metadata", "annotations", key] => key.starts_with(WHOSE),
        _ => false,
    }
}

fn is_type(value: &Value) -> bool {
    value.as_str().is_some_and(|text| TYPES.contains(&text))
}

fn says_whose(annotations: &Value) -> bool {
    annotations.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with(WHOSE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn b82_a_secret_that_is_a_login_is_known_in_every_form() {
        let whose = json!({"kubernetes.io/service-account.name": "robot"});
        for secret in [
            json!({"type": "kubernetes.io/service-account-token"}),
            json!({"type": "bootstrap.kubernetes.io/token"}),
            json!({"metadata": {"annotations": whose}}),
        ] {
            assert!(mints(&secret), "{secret}");
            let put = json!({"op": "replace", "path": "", "value": secret});
            assert!(operation_mints(&put), "{put}");
        }
        for operation in [
            json!({"op": "add", "path": "/type", "value": "kubernetes.io/service-account-token"}),
            json!({"op": "copy", "path": "/type", "from": "/metadata/name"}),
            json!({"op": "add", "path": "/metadata", "value": {"annotations": whose}}),
            json!({"op": "add", "path": "/metadata/annotations", "value": whose}),
            json!({"op": "copy", "path": "/metadata/annotations", "from": "/metadata/labels"}),
            json!({"op": "add", "path": "/metadata/annotations/kubernetes.io~1service-account.uid", "value": "x"}),
        ] {
            assert!(operation_mints(&operation), "{operation}");
        }
        for secret in [json!({"type": "Opaque"}), json!({"metadata": {"annotations": {"a": "b"}}}), json!({})]
        {
            assert!(!mints(&secret), "{secret}");
        }
        let label = json!({"op": "add", "path": "/metadata/labels/a", "value": "b"});
        assert!(!operation_mints(&label));
    }
}
