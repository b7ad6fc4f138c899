//! What must hold for every answer; shared by the fuzz target and the replay of its corpus.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{expect, plans, reference, rule, settled};
use masking::{FieldRule, Form, MaskError, Masker};
use serde_json::Value;

const KINDS: [(&str, &str); 6] = [
    ("", "Secret"),
    ("", "Pod"),
    ("example.com", "Vault"),
    ("", "ConfigMap"),
    ("apps", "ControllerRevision"),
    ("batch", "CronJob"),
];

/// The first byte chooses what is expected, the second how the answer is cut, the rest is the answer.
pub fn check(input: &[u8]) {
    let [choice, size, answer @ ..] = input else { return };
    let (group, kind) = KINDS[usize::from(choice % 6)];
    let form = [Form::Object, Form::List, Form::Watch][usize::from(choice / 6 % 3)];
    let expectation = expect(group, kind, form);
    let run = |size: usize| {
        let mut masker = Masker::new(plans(), expectation.clone()).unwrap();
        let mut out = Vec::new();
        let pushed = answer.chunks(size).try_for_each(|chunk| masker.push(chunk, &mut out));
        (pushed.and_then(|()| masker.finish()), out)
    };
    let (whole, masked) = run(usize::MAX);
    let (cut, masked_in_pieces) = run(usize::from(*size).max(1));
    assert_eq!(whole.is_ok(), cut.is_ok(), "the cut decides: {whole:?} or {cut:?}");
    let shorter = masked.len().min(masked_in_pieces.len());
    assert_eq!(masked[..shorter], masked_in_pieces[..shorter], "the cut changes the result");
    assert!(whole.is_err() || masked.len() == masked_in_pieces.len(), "the cut changes the length");
    against_reference(&whole, answer, &masked, form);
}

/// A single object without doubled keys, accepted by both: the same as the naive masker says.
fn against_reference(result: &Result<(), MaskError>, answer: &[u8], masked: &[u8], form: Form) {
    let object = match serde_json::from_slice::<Value>(answer) {
        Ok(object @ Value::Object(_)) => object,
        // JSON bounds no number; serde_json takes those of an f64, and the masker copies them unread.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Ok(_) | Err(_) => {
            return assert!(
                result.is_err() || form == Form::Watch || has_lone_surrogate(answer),
                "not JSON, but masked"
            );
        }
    };
    if result.is_err() || form != Form::Object {
        return;
    }
    let Ok(masked) = serde_json::from_slice::<Value>(masked) else { panic!("masked, and no longer JSON") };
    let Some(api_version) = object["apiVersion"].as_str() else { return };
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let kind = object["kind"].as_str().unwrap_or_default();
    let plain = KINDS.contains(&(group, kind))
        && serde_json::to_vec(&object).is_ok_and(|text| keys(&text) == keys(answer));
    if plain {
        assert_eq!(settled(&masked), settled(&reference(&rules(), group, kind, &object)));
    }
}

fn rules() -> Vec<FieldRule> {
    vec![
        rule("secret-data", "", "Secret", ".data.*"),
        rule("secret-data", "", "Secret", ".stringData.*"),
        rule("pod-env", "", "Pod", ".spec.containers[*].env[*].value"),
        rule("vault", "example.com", "Vault", ".spec.password"),
        rule("vault", "example.com", "Vault", ".data"),
        rule("pod-env", "apps", "ControllerRevision", ".data.spec.template.spec.containers[*].env[*].value"),
        rule(
            "pod-env",
            "apps",
            "ControllerRevision",
            ".data.spec.template.spec.initContainers[*].env[*].value",
        ),
        rule("pod-env", "apps", "ControllerRevision", ".data.spec.template.metadata.annotations.*"),
        rule(
            "pod-env",
            "batch",
            "CronJob",
            ".spec.jobTemplate.spec.template.spec.containers[*].env[*].value",
        ),
    ]
}

/// Colons outside and inside of strings: equal where no key was doubled.
fn keys(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b':').count()
}

fn has_lone_surrogate(text: &[u8]) -> bool {
    text.windows(3).any(|w| w[0] == b'\\' && w[1] == b'u' && matches!(w[2], b'd' | b'D'))
}
