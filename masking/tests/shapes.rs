//! Every shape an answer can have, one case each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail this way")]

mod common;

use common::{LAST_APPLIED, expect, mask, mask_in_chunks, plans, rule};
use masking::{Cells, Expectation, Form, GroupKind, MaskError, Masker, PlanError, Plans};
use serde_json::{Value, json};

const SECRET: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnk=";
const MASKED: &str = "W01BU0tFRDpzZWNyZXQtZGF0YV0=";

fn run(expectation: &Expectation, text: &str) -> String {
    let whole = mask(&plans(), expectation, text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
    for size in [1, 3, 64] {
        assert_eq!(mask_in_chunks(&plans(), expectation, text.as_bytes(), size).unwrap(), whole);
    }
    String::from_utf8(whole).unwrap()
}

fn refused(expectation: &Expectation, text: &str) -> MaskError {
    mask(&plans(), expectation, text.as_bytes()).expect_err(text)
}

fn secrets(form: Form) -> Expectation {
    expect("", "Secret", form)
}

fn vaults(form: Form) -> Expectation {
    expect("example.com", "Vault", form)
}

#[test]
fn what_no_plan_names_passes_byte_for_byte() {
    let text = "{ \"kind\":\"ConfigMap\",\"apiVersion\":\"v1\", \"data\":{\"a\":\"\\u0041\\n\"},\"n\":[1.10,-0e5,true,null,{}] }\n";
    assert_eq!(run(&expect("", "ConfigMap", Form::Object), text), text);
}

#[test]
fn c10_base64_fields_stay_base64_and_text_stays_text() {
    let text = format!(
        r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{SECRET}"}},"stringData":{{"p":"canary"}},"type":"Opaque"}}"#
    );
    let want = format!(
        r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{MASKED}"}},"stringData":{{"p":"[MASKED:secret-data]"}},"type":"Opaque"}}"#
    );
    assert_eq!(run(&secrets(Form::Object), &text), want);
    let plans = ["data", "binaryData"].map(|field| rule("secret-data", "*", "*", &format!(".{field}.*")));
    let plans = std::sync::Arc::new(Plans::compile(plans.into()).unwrap());
    let text = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","binaryData":{{"p":"{SECRET}"}},"data":{{"p":"canary"}}}}"#
    );
    let want = format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","binaryData":{{"p":"{MASKED}"}},"data":{{"p":"[MASKED:secret-data]"}}}}"#
    );
    let masked = mask(&plans, &expect("", "ConfigMap", Form::Object), text.as_bytes()).unwrap();
    assert_eq!(String::from_utf8(masked).unwrap(), want);
}

#[test]
fn doubled_and_escaped_keys_are_all_masked() {
    let text = format!(
        r#"{{"kind":"Secret","apiVersion":"v1","\u0064at\u0061":{{"p":"{SECRET}","p":"{SECRET}"}},"data":{{"q":"{SECRET}"}}}}"#
    );
    let masked = run(&secrets(Form::Object), &text);
    assert!(!masked.contains(SECRET), "{masked}");
    assert_eq!(masked.matches(MASKED).count(), 3);
}

#[test]
fn c10_numbers_stay_numbers_and_words_words_in_a_masked_subtree() {
    let text = r#"{"apiVersion":"example.com/v1","data":{"a":-1.5e3,"b":true,"c":null,"d":["x",{"e":"y"}]},"kind":"Vault","spec":{"password":17}}"#;
    let want = r#"{"apiVersion":"example.com/v1","data":{"a":0,"b":false,"c":null,"d":["[MASKED:vault]",{"e":"[MASKED:vault]"}]},"kind":"Vault","spec":{"password":0}}"#;
    assert_eq!(run(&vaults(Form::Object), text), want);
}

#[test]
fn the_mask_does_not_depend_on_the_order_of_env_entries() {
    let text = r#"{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"env":[{"value":"canary","name":"A"},{"name":"B","value":"canary"}],"name":"c"}]}}"#;
    let masked = run(&expect("", "Pod", Form::Object), text);
    assert_eq!(masked, text.replace("canary", "[MASKED:pod-env]"));
}

#[test]
fn b01_a_list_of_a_custom_kind_may_say_its_kind_last() {
    let item = r#"{"apiVersion":"example.com/v1","kind":"Vault","spec":{"password":"canary"}}"#;
    let text = format!(
        r#"{{"apiVersion":"example.com/v1","items":[{item},{item}],"kind":"VaultList","metadata":{{}}}}"#
    );
    let masked = run(&vaults(Form::List), &text);
    assert_eq!(masked, text.replace("canary", "[MASKED:vault]"));
    let custom_name = text.replace("VaultList", "VaultCollection");
    assert_eq!(run(&vaults(Form::List), &custom_name), masked.replace("VaultList", "VaultCollection"));
}

#[test]
fn b41_the_kind_of_the_answer_decides() {
    let text = format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{SECRET}"}}}}"#);
    assert_eq!(run(&expect("", "Pod", Form::Object), &text), text.replace(SECRET, MASKED));
    let list =
        format!(r#"{{"kind":"SecretList","apiVersion":"v1","items":[{{"data":{{"p":"{SECRET}"}}}}]}}"#);
    assert_eq!(run(&expect("", "Pod", Form::List), &list), list.replace(SECRET, MASKED));
    let generic = format!(r#"{{"kind":"List","apiVersion":"v1","items":[{text}]}}"#);
    assert_eq!(run(&expect("", "Pod", Form::List), &generic), generic.replace(SECRET, MASKED));
}

#[test]
fn b09_a_kind_nobody_expects_is_refused() {
    let text = r#"{"kind":"Other","apiVersion":"v1","data":{}}"#;
    assert_eq!(refused(&secrets(Form::Object), text), MaskError::Kind("Other".into()));
    let foreign = r#"{"kind":"OtherList","apiVersion":"acme.example/v1","items":[{"data":{"a":"b"}}]}"#;
    assert_eq!(refused(&secrets(Form::List), foreign), MaskError::Kind("OtherList".into()));
    let also = Expectation { also: vec![GroupKind::new("", "Other")], ..secrets(Form::Object) };
    assert_eq!(run(&also, text), text);
    for list in [
        r#"{"kind":"Other","apiVersion":"v1","data":{}}"#,
        r#"{"kind":"SecretList","apiVersion":"v1","data":{}}"#,
        r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","data":{}}"#,
        r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"data":{}}]}"#,
    ] {
        assert!(matches!(refused(&secrets(Form::List), list), MaskError::Unexpected { .. }), "{list}");
    }
    let in_table = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"cells":[],"object":{"kind":"Other","apiVersion":"v1","a":1}}]}"#;
    assert_eq!(refused(&secrets(Form::List), in_table), MaskError::Kind("Other".into()));
}

#[test]
fn b09_a_kind_that_comes_late_and_contradicts_is_refused() {
    for text in [
        r#"{"apiVersion":"v1","data":{"a":"b"},"kind":"Secret"}"#,
        r#"{"apiVersion":"example.com/v1","items":[],"kind":"VaultList"}"#,
        r#"{"apiVersion":"meta.k8s.io/v1","data":{},"kind":"Table"}"#,
    ] {
        assert!(matches!(refused(&vaults(Form::Object), text), MaskError::Contradiction(_)), "{text}");
    }
    let late = r#"{"apiVersion":"v1","data":{"a":"b"},"kind":"Secret"}"#;
    let unmasked = expect("", "ConfigMap", Form::Object);
    assert!(matches!(refused(&unmasked, late), MaskError::Contradiction(_)), "one of them has no plan");
    assert!(matches!(
        refused(&secrets(Form::Object), r#"{"kind":"Secret","kind":"Secret","apiVersion":"v1"}"#),
        MaskError::Unexpected { .. }
    ));
    assert!(matches!(refused(&secrets(Form::Object), r#"{"data":{}}"#), MaskError::Unexpected { .. }));
}

#[test]
fn a_kind_whose_name_ends_in_list_is_not_taken_for_a_list() {
    let block = r#"{"apiVersion":"example.com/v1","kind":"BlockList","spec":{"secret":"canary"}}"#;
    let expectation = |form| expect("example.com", "BlockList", form);
    assert_eq!(run(&expectation(Form::Object), block), block.replace("canary", "[MASKED:block]"));
    let list = format!(r#"{{"apiVersion":"example.com/v1","items":[{block}],"kind":"BlockListList"}}"#);
    assert_eq!(run(&expectation(Form::List), &list), list.replace("canary", "[MASKED:block]"));
}

#[test]
fn b06_b07_rows_of_a_table_hold_objects_or_their_metadata() {
    let applied = json!({"apiVersion": "v1", "data": {"p": SECRET}, "kind": "Secret"}).to_string();
    let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"annotations": {LAST_APPLIED: applied}, "name": "x"}});
    let full = json!({"kind": "Secret", "apiVersion": "v1", "data": {"p": SECRET}});
    let table = |object: &Value| {
        let row = format!(r#"{{"cells":["x","Opaque",1,"2d"],"object":{object}}}"#);
        format!(
            r#"{{"kind":"Table","apiVersion":"meta.k8s.io/v1","columnDefinitions":[{{"name":"Name"}}],"rows":[{row},{row}]}}"#
        )
    };
    for object in [full, partial] {
        let masked = run(&secrets(Form::List), &table(&object));
        assert!(!masked.contains(SECRET), "{masked}");
        assert_eq!(masked.matches(MASKED).count(), 2);
        assert!(masked.contains(r#"["x","Opaque",1,"2d"]"#));
    }
    assert_eq!(run(&secrets(Form::List), &table(&Value::Null)), table(&Value::Null));
}

#[test]
fn b10_the_cells_of_a_custom_kind_are_masked_after_the_name() {
    let text = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"cells":["x","canary",7,true,null,["canary"]],"object":null}]}"#;
    let want = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"cells":["x","[MASKED:vault]",0,false,null,["[MASKED:vault]"]],"object":null}]}"#;
    let expectation = Expectation { cells: Cells::MaskAfterFirst, ..vaults(Form::List) };
    assert_eq!(run(&expectation, text), want);
    assert_eq!(run(&vaults(Form::List), text), text);
}

#[test]
fn b08_partial_metadata_lists_have_annotations() {
    let applied = json!({"apiVersion": "v1", "stringData": {"p": "canary"}, "kind": "Secret"}).to_string();
    let list = json!({"metadata": {"annotations": {LAST_APPLIED: applied}}});
    let text = format!(
        r#"{{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{{}},"items":[{list}]}}"#
    );
    let masked = run(&secrets(Form::List), &text);
    assert!(!masked.contains("canary") && masked.contains("[MASKED:secret-data]"), "{masked}");
}

#[test]
fn b18_every_watch_event_is_masked_and_bookmarks_keep_their_annotation() {
    let object = format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{SECRET}"}}}}"#);
    let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"Secret","apiVersion":"v1","metadata":{"resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
    let error = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Expired","code":410}}"#;
    let events: Vec<String> = ["ADDED", "MODIFIED", "DELETED"]
        .iter()
        .map(|t| format!(r#"{{"type":"{t}","object":{object}}}"#))
        .collect();
    let text = format!("{}\n{bookmark}\n{error}\n", events.join("\n"));
    assert_eq!(run(&secrets(Form::Watch), &text), text.replace(SECRET, MASKED));
    assert_eq!(run(&secrets(Form::Watch), ""), "");
    for text in [r#"{"type":"ADDED","thing":{}}"#, r#"{"type":"ADDED","object":null}"#, r#"[]"#] {
        assert!(matches!(refused(&secrets(Form::Watch), text), MaskError::Unexpected { .. }), "{text}");
    }
}

#[test]
fn a_part_of_an_object_need_not_name_its_kind() {
    let text = format!(r#"{{"data":{{"p":"{SECRET}","q":null}},"metadata":{{"labels":{{"a":"b"}}}}}}"#);
    assert_eq!(run(&secrets(Form::Part), &text), text.replace(SECRET, MASKED));
    assert_eq!(run(&secrets(Form::Part), "{}"), "{}");
    assert!(matches!(refused(&secrets(Form::Part), r#"{"data":{},"kind":"Vault"}"#), MaskError::Kind(_)));
}

#[test]
fn b11_a_watch_that_is_printed_pretty_is_read_alike() {
    let event =
        json!({"type": "ADDED", "object": {"apiVersion": "v1", "data": {"p": SECRET}, "kind": "Secret"}});
    let text = format!("{0}\n{0}", serde_json::to_string_pretty(&event).unwrap());
    assert_eq!(run(&secrets(Form::Watch), &text), text.replace(SECRET, MASKED));
}

#[test]
fn watch_events_leave_before_the_next_arrives() {
    let mut masker = Masker::new(plans(), secrets(Form::Watch)).unwrap();
    let event = r#"{"type":"DELETED","object":{"kind":"Secret","apiVersion":"v1","data":{}}}"#;
    let mut out = Vec::new();
    masker.push(event.as_bytes(), &mut out).unwrap();
    assert_eq!(out, event.as_bytes());
    masker.finish().unwrap();
}

fn annotated(value: &Value) -> String {
    format!(
        r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"annotations":{{"{LAST_APPLIED}":{value},"other":"x"}}}}}}"#
    )
}

fn annotation(masked: &str) -> Value {
    serde_json::from_str::<Value>(masked).unwrap()["metadata"]["annotations"][LAST_APPLIED].clone()
}

#[test]
fn b20_the_copy_in_last_applied_is_masked_with_the_same_plan() {
    let inner =
        json!({"apiVersion": "v1", "data": {"p": SECRET}, "kind": "Secret", "metadata": {"annotations": {}}});
    let masked = run(&secrets(Form::Object), &annotated(&format!("{inner}\n").into()));
    let inner_masked: Value = serde_json::from_str(annotation(&masked).as_str().unwrap()).unwrap();
    assert_eq!(inner_masked["data"]["p"], MASKED);
    assert_eq!(inner_masked["kind"], "Secret");
}

#[test]
fn b20_what_is_not_this_object_as_json_is_replaced_whole() {
    let valid = json!({"apiVersion": "v1", "data": {"p": SECRET}, "kind": "Secret"}).to_string();
    for text in [
        "canary",
        "",
        "{\"data\":",
        "{\"data\":{\"a\":\"canary\"}}",
        "[\"canary\"]",
        "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"canary\"},\"kind\":\"ConfigMap\"}",
        "{\"apiVersion\":\"v1\",\"kind\":\"Secret\"} canary",
    ] {
        let masked = run(&secrets(Form::Object), &annotated(&text.into()));
        assert_eq!(annotation(&masked), "[MASKED:secret-data]", "{text}");
    }
    let nested = run(&secrets(Form::Object), &annotated(&annotated(&valid.into()).into()));
    let copy = annotation(&nested);
    assert_eq!(
        annotation(copy.as_str().unwrap()),
        "[MASKED:secret-data]",
        "a copy in a copy is not looked into"
    );
    for value in [json!({"a": "canary"}), json!(["canary"])] {
        assert!(!run(&secrets(Form::Object), &annotated(&value)).contains("canary"));
    }
}

#[test]
fn f11_what_is_nested_without_end_or_closed_by_another_bracket_is_refused_in_masked_fields_too() {
    let with = |data: &str| format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{data}"#);
    let deep = with(&format!(r#"{{"p":{}"#, "[".repeat(100_000)));
    assert!(matches!(refused(&secrets(Form::Object), &deep), MaskError::Depth(_)));
    for crossed in [r#"{"p":"x"]}"#, r#"{"p":["x"}}}"#] {
        assert!(matches!(refused(&secrets(Form::Object), &with(crossed)), MaskError::Syntax(_)), "{crossed}");
    }
}

#[test]
fn f28_no_more_rules_are_compiled_than_can_be_told_apart() {
    let rules = |count| Plans::compile(vec![rule("r", "", "Secret", ".data"); count]);
    assert!(rules(Plans::MAX_RULES).is_ok());
    assert_eq!(rules(Plans::MAX_RULES + 1).err(), Some(PlanError::TooManyRules));
}

#[test]
fn b20_an_annotation_too_long_to_hold_is_replaced_whole() {
    let inner = json!({"apiVersion": "v1", "data": {"p": "x".repeat(1_600_000)}, "kind": "Secret"});
    let text = annotated(&inner.to_string().into());
    let masked = mask_in_chunks(&plans(), &secrets(Form::Object), text.as_bytes(), 10_000).unwrap();
    assert_eq!(annotation(&String::from_utf8(masked).unwrap()), "[MASKED:secret-data]");
}

#[test]
fn b21_managed_fields_of_masked_kinds_are_emptied() {
    for value in [r#"[{"fieldsV1":{"v:\"canary\"":{}}}]"#, r#"{"a":"canary"}"#, r#""canary""#, "12", "[]"] {
        let object = |kind: &str, fields: &str| {
            format!(
                r#"{{"kind":"{kind}","apiVersion":"v1","metadata":{{"managedFields":{fields},"name":"x"}}}}"#
            )
        };
        assert_eq!(run(&secrets(Form::Object), &object("Secret", value)), object("Secret", "[]"));
        let other = object("ConfigMap", value);
        assert_eq!(run(&expect("", "ConfigMap", Form::Object), &other), other);
    }
}

#[test]
fn values_are_counted_by_rule() {
    let mut masker = Masker::new(plans(), secrets(Form::Object)).unwrap();
    let text =
        r#"{"kind":"Secret","apiVersion":"v1","data":{"a":"x","b":"y","c":null},"stringData":{"d":"z"}}"#;
    masker.push(text.as_bytes(), &mut Vec::new()).unwrap();
    masker.finish().unwrap();
    assert_eq!(masker.counts(), [("secret-data".into(), 3)]);
    assert_eq!(masker.total(), 3);
}

#[test]
fn h4_what_is_not_understood_is_refused_and_what_left_before_was_masked() {
    let good =
        format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{SECRET}"}},"x":{{"y":[1,"é"]}}}}"#);
    let masked = run(&secrets(Form::Object), &good);
    for end in 0..good.len() {
        let Some(cut) = good.as_bytes().get(..end) else { continue };
        let mut masker = Masker::new(plans(), secrets(Form::Object)).unwrap();
        let mut out = Vec::new();
        let pushed = masker.push(cut, &mut out);
        assert!(pushed.is_err() || masker.finish() == Err(MaskError::Truncated), "{end}");
        assert!(masked.as_bytes().starts_with(&out), "{}", String::from_utf8_lossy(&out));
    }
    for bad in [
        "",
        " ",
        "null",
        "[]",
        "\"x\"",
        "12",
        "{",
        "{}x",
        "{} {}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{'a':1}",
        "{\"kind\":\"Secret\",}",
        "{\"kind\":1}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\"}}",
        "\u{feff}{}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\":\"\u{1}\"}}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\":01}}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\":tru}}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\":\"\\x\"}}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\" \"b\"}}",
        "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"data\":{\"a\":1 2}}",
        "{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"items\":{\"a\":{}}}",
        "{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"items\":[\"canary\"]}",
    ] {
        refused(&secrets(Form::Object), bad);
    }
    let deep =
        format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{}{}}}"#, "[".repeat(600), "]".repeat(600));
    assert!(matches!(refused(&secrets(Form::Object), &deep), MaskError::Depth(_)));
    let deep = format!(r#"{{"kind":"Secret","apiVersion":"v1","x":{}{}}}"#, "[".repeat(600), "]".repeat(600));
    assert!(matches!(refused(&secrets(Form::Object), &deep), MaskError::Depth(_)));
}

#[test]
fn h4_bytes_that_are_not_utf8_are_refused() {
    for (at, byte) in [(10, 0xff), (30, 0xc3), (45, 0x80)] {
        let mut text = br#"{"kind":"Secret","apiVersion":"v1","data":{"password":"xxxxxxxx"}}"#.to_vec();
        text[at] = byte;
        assert!(matches!(
            mask(&plans(), &secrets(Form::Object), &text),
            Err(MaskError::Utf8(_) | MaskError::Syntax(_))
        ));
    }
}

#[test]
fn once_failed_always_failed() {
    let mut masker = Masker::new(plans(), secrets(Form::Watch)).unwrap();
    let mut out = Vec::new();
    masker.push(b"x", &mut out).unwrap_err();
    assert_eq!(masker.push(b"{}", &mut out), Err(MaskError::Failed));
    assert_eq!(masker.finish(), Err(MaskError::Failed));
    assert!(out.is_empty());
}

#[test]
fn b20_copies_that_other_programs_keep_are_replaced_whole() {
    for annotation in masking::COPIES {
        for copy in [json!("canary"), json!(json!({"data": {"p": "canary"}}).to_string()), json!(["canary"])]
        {
            let object = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"annotations": {annotation: copy}}});
            let masked = run(&secrets(Form::Object), &object.to_string());
            assert!(
                !masked.contains("canary") && masked.contains("[MASKED:secret-data]"),
                "{annotation}: {masked}"
            );
        }
    }
}

#[test]
fn b26_a_revision_is_masked_in_its_patch_and_in_the_copy_of_its_owners_annotation() {
    let spec = json!({"containers": [{"name": "c", "env": [{"name": "A", "value": "canary"}]}]});
    let owner = json!({"kind": "StatefulSet", "apiVersion": "apps/v1", "spec": {"template": {"spec": spec}}});
    let revision = json!({"kind": "ControllerRevision", "apiVersion": "apps/v1",
        "metadata": {"annotations": {LAST_APPLIED: owner.to_string()}},
        "data": {"spec": {"template": {"$patch": "replace", "spec": spec}}}, "revision": 1});
    let expectation = expect("apps", "ControllerRevision", Form::Object);
    let masked = run(&expectation, &revision.to_string());
    assert!(!masked.contains("canary"), "{masked}");
    assert_eq!(
        masked.matches("[MASKED:pod-env]").count(),
        2,
        "the annotation is another kind's, so it is whole: {masked}"
    );
    assert!(masked.contains(r#""$patch":"replace""#), "{masked}");
}

#[test]
fn b55_the_answer_has_the_same_length_whatever_the_value() {
    let answer = |value: &str| {
        let object =
            json!({"kind": "Secret", "apiVersion": "v1", "data": {"p": value}, "stringData": {"q": value}});
        run(&secrets(Form::Object), &object.to_string())
    };
    assert_eq!(answer(""), answer(&"YWJj".repeat(10_000)));
}

#[test]
fn b19_an_event_of_many_mebibytes_in_single_bytes_is_masked() {
    let value = "Y2FuYXJ5".repeat(1 << 17);
    let event = json!({"type": "MODIFIED", "object": {"kind": "Secret", "apiVersion": "v1", "data": {"a": value, "b": value},
        "metadata": {"annotations": {LAST_APPLIED: value}}}});
    let masked = mask_in_chunks(&plans(), &secrets(Form::Watch), event.to_string().as_bytes(), 1).unwrap();
    assert!(masked.len() < 500 && !String::from_utf8_lossy(&masked).contains("Y2FuYXJ5"));
}
