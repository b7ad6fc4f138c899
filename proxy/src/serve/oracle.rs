//! What would tell a masked value without showing it: copies, tests, guesses and selectors (B50 to B54).
use parsing::body::Body;
use parsing::request::Request as Asked;
use policy::action::{Action, Verb};
use policy::decision::Decision;
use policy::explain;
use policy::mask::Step;
use serde_json::Value;

use crate::mask::pointer::{LAST_APPLIED, is_copy, meets, tokens};
use crate::refuse::Refusal;

/// Refuses what would tell a masked value by its effect: a JSON patch that reads it, a selector on it, and a change of
/// it, which tells by what does not change whether it was the stored one. A human may let a change pass, nothing else.
pub fn refuse(asked: &Asked, decision: &Decision) -> Result<(), Refusal> {
    let masks = &decision.obligations().masks;
    let paths: Vec<&[Step]> = masks.iter().flat_map(|mask| &mask.paths).map(|path| path.steps()).collect();
    let Action::Resource(action) = &asked.action else { return Ok(()) };
    if paths.is_empty() {
        return Ok(());
    }
    let no = |what: &str, next: &str| Err(explain::tells_masked(&asked.action, what, next));
    if selects(asked, &paths) {
        return no("a selector on a field that is masked", "select by name, or by labels that you can read");
    }
    if let Body::JsonPatch(operations) = &asked.body
        && operations.iter().any(|operation| reads(operation, &paths))
    {
        return no(
            "a JSON patch that tests, copies or moves a field that is masked",
            "leave the masked field out of the patch",
        );
    }
    let is_change = matches!(action.verb, Verb::Update | Verb::Patch);
    if is_change && decision.terms().is_none() && writes(&asked.body, &paths) {
        return Err(explain::change_needs_approval(&asked.action));
    }
    Ok(())
}

fn selects(asked: &Asked, paths: &[&[Step]]) -> bool {
    let by_field = asked.query.fields().is_some_and(|selector| {
        selector.terms().any(|term| meets_any(&term.path.split('.').collect::<Vec<_>>(), paths))
    });
    by_field
        || asked.query.labels().is_some_and(|selector| {
            selector.terms().any(|term| meets_any(&["metadata", "labels", &term.key], paths))
        })
}

/// Whether the operation's outcome depends on a masked value, or carries it elsewhere.
fn reads(operation: &Value, paths: &[&[Step]]) -> bool {
    let read = match operation["op"].as_str() {
        Some("test") => &operation["path"],
        Some("copy" | "move") => &operation["from"],
        _ => return false,
    };
    let pointer = tokens(read);
    let pointer: Vec<&str> = pointer.iter().map(String::as_str).collect();
    meets_any(&pointer, paths) || is_copy(&pointer)
}

fn writes(body: &Body, paths: &[&[Step]]) -> bool {
    match body {
        Body::Object(value) | Body::Merge(value) | Body::Strategic(value) | Body::Apply(value) => {
            paths.iter().any(|path| holds(value, path)) || repeats(value, &LAST_APPLIED, paths)
        }
        Body::JsonPatch(operations) => operations.iter().any(|operation| {
            let pointer = tokens(&operation["path"]);
            let is_move = matches!(operation["op"].as_str(), Some("copy" | "move"));
            let puts = |path: &&[Step]| puts(&pointer, operation, is_move, path);
            operation["op"] != "remove"
                && (paths.iter().any(puts) || puts_copy(&pointer, operation, is_move, paths))
        }),
        Body::Empty | Body::Delete(_) | Body::Review(_) => false,
    }
}

/// Whether the last-applied annotation at this place of `value` holds a masked path's value once more: a guess of the
/// whole annotation tells as much as one of the field.
fn repeats(value: &Value, place: &[&str], paths: &[&[Step]]) -> bool {
    let Some(text) = place.iter().try_fold(value, |inner, key| inner.get(key)) else { return false };
    match text {
        Value::Null => false,
        Value::String(text) => match parsing::json::read(text.as_bytes()) {
            Ok(copy) => paths.iter().any(|path| holds(&copy, path)),
            Err(_) => true,
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => true,
    }
}

fn puts_copy(pointer: &[String], operation: &Value, is_move: bool, paths: &[&[Step]]) -> bool {
    let above = pointer.iter().zip(LAST_APPLIED).all(|(token, key)| token == key);
    let Some(rest) = LAST_APPLIED.get(pointer.len()..).filter(|_| above) else { return false };
    is_move || repeats(&operation["value"], rest, paths)
}

/// Whether a JSON patch's operation puts a value at, under or above the path; above it only one that holds the rest.
fn puts(pointer: &[String], operation: &Value, is_move: bool, path: &[Step]) -> bool {
    let pointer: Vec<&str> = pointer.iter().map(String::as_str).collect();
    meets(&pointer, path)
        && (is_move || path.get(pointer.len()..).is_none_or(|rest| holds(&operation["value"], rest)))
}

fn meets_any(pointer: &[&str], paths: &[&[Step]]) -> bool {
    paths.iter().any(|path| meets(pointer, path))
}

/// Whether there is a value other than null at the path.
fn holds(value: &Value, path: &[Step]) -> bool {
    let Some((step, rest)) = path.split_first() else { return !value.is_null() };
    match (step, value) {
        (Step::Key(key), Value::Object(map)) => map.get(&**key).is_some_and(|inner| holds(inner, rest)),
        (Step::AnyKey, Value::Object(map)) => map.values().any(|inner| holds(inner, rest)),
        (Step::AnyItem, Value::Array(items)) => items.iter().any(|inner| holds(inner, rest)),
        (Step::Key(_) | Step::AnyKey | Step::AnyItem, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn b52_a_guess_of_the_last_applied_copy_is_a_guess() {
        let path = [Step::Key("data".into()), Step::AnyKey];
        let paths: [&[Step]; 1] = [&path];
        let key = LAST_APPLIED[2];
        let with = |copy: Value| Body::Merge(json!({"metadata": {"annotations": {key: copy}}}));
        let guess = json!({"data": {"password": "eA=="}}).to_string();
        for copy in [json!(guess), json!("no JSON"), json!(7)] {
            assert!(writes(&with(copy.clone()), &paths), "{copy}");
        }
        for copy in [json!({"metadata": {"name": "x"}}).to_string().into(), Value::Null] {
            assert!(!writes(&with(copy.clone()), &paths), "{copy}");
        }
        let pointer = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
        for (operation, tells) in [
            (json!({"op": "replace", "path": pointer, "value": guess}), true),
            (json!({"op": "add", "path": "/metadata/annotations", "value": {key: guess}}), true),
            (json!({"op": "add", "path": "/metadata/annotations", "value": {"a": "b"}}), false),
            (json!({"op": "add", "path": "/metadata/annotations/a", "value": guess}), false),
            (json!({"op": "remove", "path": pointer}), false),
        ] {
            assert_eq!(writes(&Body::JsonPatch(vec![operation.clone()]), &paths), tells, "{operation}");
        }
    }
}
