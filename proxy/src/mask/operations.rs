//! A JSON patch as the record may hold it: its values stand at no path of an object, so each is kept or hidden whole.

use std::sync::Arc;

use policy::mask::MaskRule;
use serde_json::Value;

use super::pointer::{is_copy, meets, tokens};

/// The operations with every value hidden that is put at, under or above a masked field, or into a copy of other fields
/// (B20, B21). More is hidden than an answer would hide, never less.
pub fn masked(operations: &[Value], masks: &[Arc<MaskRule>]) -> Value {
    Value::Array(operations.iter().map(|operation| hide(operation, masks)).collect())
}

fn hide(operation: &Value, masks: &[Arc<MaskRule>]) -> Value {
    let mut operation = operation.clone();
    let pointer = tokens(&operation["path"]);
    let pointer: Vec<&str> = pointer.iter().map(String::as_str).collect();
    let hides = |mask: &&Arc<MaskRule>| {
        is_copy(&pointer) || mask.paths.iter().any(|path| meets(&pointer, path.steps()))
    };
    if let (Some(mask), Some(value)) = (masks.iter().find(hides), operation.get_mut("value")) {
        *value = Value::String(masking::placeholder(&mask.name));
    }
    operation
}

#[cfg(test)]
mod tests {
    use policy::mask::{MaskPath, Replacement};
    use serde_json::json;

    use super::*;

    fn rule(paths: &[&str]) -> [Arc<MaskRule>; 1] {
        let paths = paths.iter().map(|path| MaskPath::parse(path).unwrap()).collect();
        let (policy, name) = ("p".into(), "m".into());
        [Arc::new(MaskRule { policy, name, paths, replacement: Replacement::Placeholder })]
    }

    #[test]
    fn b50_a_value_near_a_masked_field_is_hidden_and_others_stay() {
        let masks = rule(&[".data.*", ".spec.containers[*].env", ".spec['a~b']"]);
        let table = [
            ("/data/password", true),
            ("/data/password/deep", true),
            ("/data", true),
            ("", true),
            ("/spec/containers/0/env/-", true),
            ("/spec/containers", true),
            ("/spec/a~0b", true),
            ("/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration", true),
            ("/metadata/annotations", true),
            ("/metadata/annotations/kapp.k14s.io~1original", true),
            ("/metadata/managedFields/0", true),
            ("/spec/containers/0/image", false),
            ("/spec/replicas", false),
            ("/metadata/labels/data", false),
        ];
        for (path, hidden) in table {
            let operation = json!({"op": "add", "path": path, "value": "canary"});
            let shown = masked(std::slice::from_ref(&operation), &masks);
            let value = if hidden { json!("[MASKED:m]") } else { json!("canary") };
            assert_eq!(shown, json!([{"op": "add", "path": path, "value": value}]), "{path}");
            assert_eq!(
                masked(std::slice::from_ref(&operation), &[]),
                json!([operation]),
                "without masks: {path}"
            );
        }
    }

    #[test]
    fn an_operation_without_a_value_gets_none() {
        let operation = json!({"op": "remove", "path": "/data/a"});
        assert_eq!(masked(std::slice::from_ref(&operation), &rule(&[".data.*"])), json!([operation]));
    }
}
