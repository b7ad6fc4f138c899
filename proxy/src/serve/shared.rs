//! What a body may not do where all agents have one credential upstream: Kubernetes asks who may delete an object before it
//! lets them say whose it is, and would ask about the gate (B91, B92).
use parsing::body::Body;
use parsing::request::Request as Asked;
use serde_json::Value;

use crate::hold::owned::{self, KEPT};
use crate::refuse::Refusal;
use crate::targets::Target;

/// Refuses a write that says owners and finalizers. An update says them always: it is compared with what is there.
pub fn refuse(asked: &Asked, target: &Target) -> Result<(), Refusal> {
    let is_compared = matches!(asked.body, Body::Object(_)) && owned::takes_away(asked);
    if !target.is_remote() || is_compared || !touches(&asked.body) {
        return Ok(());
    }
    Err(owned::refusal(&asked.action))
}

fn touches(body: &Body) -> bool {
    match body {
        Body::Object(value) => value.get("metadata").is_some_and(|metadata| {
            KEPT.iter().any(|key| metadata.get(key).is_some_and(|list| !is_empty(list)))
        }),
        Body::Merge(value) | Body::Strategic(value) | Body::Apply(value) => {
            value.get("$patch").is_some() || value.get("metadata").is_some_and(is_touched)
        }
        Body::JsonPatch(operations) => operations.iter().any(|operation| {
            let at = |key: &str| operation[key].as_str().is_some_and(is_above_or_below);
            at("path") || (operation["op"] == "move" && at("from"))
        }),
        Body::Empty | Body::Delete(_) | Body::Review(_) => false,
    }
}

fn is_empty(list: &Value) -> bool {
    list.is_null() || list.as_array().is_some_and(Vec::is_empty)
}

/// Also by a directive, such as `$deleteFromPrimitiveList/finalizers`.
fn is_touched(metadata: &Value) -> bool {
    let Some(fields) = metadata.as_object() else { return true };
    fields.keys().any(|key| {
        matches!(key.as_str(), "$patch" | "$retainKeys") || KEPT.iter().any(|kept| key.ends_with(kept))
    })
}

fn is_above_or_below(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    match (segments.next(), segments.next()) {
        (None | Some("metadata"), None) => true,
        (Some("metadata"), Some(key)) => KEPT.contains(&key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn b91_b92_owners_and_finalizers_are_touched_by_every_form_of_a_body() {
        let owners = json!({"metadata": {"name": "x", "ownerReferences": [{"uid": "1"}]}});
        let finalizers = json!({"metadata": {"finalizers": ["a/b"]}});
        let harmless = json!({"metadata": {"name": "x", "labels": {"finalizers": "a"}}, "spec": {"finalizers": ["kept"]}});
        for form in [Body::Merge, Body::Strategic, Body::Apply, Body::Object] {
            assert!(touches(&form(owners.clone())) && touches(&form(finalizers.clone())));
            assert!(!touches(&form(harmless.clone())));
        }
        for none in [json!(null), json!([])] {
            assert!(!touches(&Body::Object(json!({"metadata": {"finalizers": none}}))), "{none}");
        }
        for patch in [
            json!({"metadata": {"finalizers": null}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}}),
            json!({"metadata": {"$setElementOrder/ownerReferences": []}}),
            json!({"metadata": {"$patch": "replace"}}),
            json!({"metadata": {"$retainKeys": ["name"]}}),
            json!({"$patch": "replace"}),
            json!({"metadata": null}),
        ] {
            assert!(
                touches(&Body::Strategic(patch.clone())) && touches(&Body::Merge(patch.clone())),
                "{patch}"
            );
        }
        for (operation, is_touching) in [
            (json!({"op": "add", "path": "/metadata/finalizers/-", "value": "a/b"}), true),
            (json!({"op": "remove", "path": "/metadata/ownerReferences/0"}), true),
            (json!({"op": "replace", "path": "/metadata", "value": {}}), true),
            (json!({"op": "replace", "path": "", "value": {}}), true),
            (json!({"op": "move", "from": "/metadata/finalizers", "path": "/spec/x"}), true),
            (json!({"op": "copy", "from": "/metadata/finalizers", "path": "/spec/x"}), false),
            (json!({"op": "replace", "path": "/metadata/labels/a", "value": "b"}), false),
            (json!({"op": "replace", "path": "/spec/finalizers", "value": []}), false),
        ] {
            assert_eq!(touches(&Body::JsonPatch(vec![operation.clone()])), is_touching, "{operation}");
        }
    }
}
