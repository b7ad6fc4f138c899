//! Random documents and policies: the same result as the naive masker, however the input is cut.

#![allow(clippy::unwrap_used, reason = "a test may fail this way")]

mod common;

use common::{LAST_APPLIED, Printer, expect, mask, mask_in_chunks, reference, settled};
use masking::{Encoding, FieldPath, FieldRule, Form, Plans, Segment, Which};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const KEYS: [&str; 10] = [
    "data",
    "spec",
    "metadata",
    "annotations",
    "a",
    "b",
    "é",
    "managedFields",
    LAST_APPLIED,
    "kapp.k14s.io/original",
];

fn segment() -> impl Strategy<Value = Segment> {
    prop_oneof![
        6 => prop::sample::select(&KEYS[..]).prop_map(|k| Segment::Field(k.to_owned())),
        2 => Just(Segment::AnyKey),
        2 => Just(Segment::Items),
    ]
}

fn field_rule() -> impl Strategy<Value = FieldRule> {
    let which = |names: &'static [&'static str]| prop_oneof![3 => prop::sample::select(names).prop_map(Which::is), 1 => Just(Which::Any)];
    (
        prop::sample::select(vec!["r1", "r2", "r3"]),
        which(&["", "example.com"]),
        which(&["Secret", "Vault"]),
        prop::collection::vec(segment(), 1..5),
        prop_oneof![Just(Encoding::Text), Just(Encoding::Base64)],
    )
        .prop_map(|(name, group, kind, path, encoding)| FieldRule {
            name: name.into(),
            group,
            kind,
            path: FieldPath::new(path).unwrap(),
            encoding,
        })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i16>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
        ".{0,12}".prop_map(Value::from),
        "[a-z\"\\\\{}\\[\\],: ]{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(&KEYS[..]).prop_map(String::from), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// An object of a kind, maybe with its own copy in the annotation.
fn object(group: &'static str, kind: &'static str) -> impl Strategy<Value = Value> {
    let body =
        || prop::collection::btree_map(prop::sample::select(&KEYS[..]).prop_map(String::from), value(), 0..5);
    (body(), prop::option::of(body()), any::<u64>()).prop_map(move |(body, applied, seed)| {
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        let mut object = json!({"kind": kind, "apiVersion": api_version});
        let members = object.as_object_mut().unwrap();
        if let Some(applied) = applied {
            let mut inner = Value::Object(applied.into_iter().collect());
            inner["kind"] = kind.into();
            inner["apiVersion"] = api_version.into();
            let text = Printer::print(&inner, seed, true);
            members.insert("metadata".to_owned(), json!({"annotations": {LAST_APPLIED: text}, "a": 1}));
        }
        members.extend(body);
        object
    })
}

fn case() -> impl Strategy<Value = (Vec<FieldRule>, &'static str, &'static str, Vec<Value>, u64)> {
    let kinds = prop::sample::select(vec![("", "Secret"), ("example.com", "Vault"), ("", "Other")]);
    kinds.prop_flat_map(|(group, kind)| {
        let rules = prop::collection::vec(field_rule(), 0..6);
        let objects = prop::collection::vec(object(group, kind), 1..4);
        (rules, Just(group), Just(kind), objects, any::<u64>())
    })
}

fn parsed(bytes: &[u8]) -> Vec<Value> {
    serde_json::Deserializer::from_slice(bytes).into_iter().map(|v| settled(&v.unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn single_objects((rules, group, kind, objects, seed) in case(), size in 1usize..200) {
        let plans = Arc::new(Plans::compile(rules.clone()).unwrap());
        let text = Printer::print(&objects[0], seed, true);
        let expectation = expect(group, kind, Form::Object);
        let whole = mask(&plans, &expectation, text.as_bytes()).unwrap();
        let want = settled(&reference(&rules, group, kind, &objects[0]));
        prop_assert_eq!(&parsed(&whole), &[want]);
        for size in [1, 2, 3, 7, 63, 64, 65, size] {
            let cut = mask_in_chunks(&plans, &expectation, text.as_bytes(), size).unwrap();
            prop_assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole), "cut every {}", size);
        }
    }

    #[test]
    fn b01_lists_whose_items_carry_no_kind((rules, group, kind, objects, seed) in case(), size in 1usize..200) {
        let plans = Arc::new(Plans::compile(rules.clone()).unwrap());
        let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        let bare = |object: &Value| {
            let mut object = object.clone();
            object.as_object_mut().unwrap().retain(|key, _| key != "kind" && key != "apiVersion");
            object
        };
        let items: Vec<Value> = objects.iter().map(bare).collect();
        let want: Vec<Value> = items.iter().map(|item| settled(&reference(&rules, group, kind, item))).collect();
        let list = json!({"kind": format!("{kind}List"), "apiVersion": api_version, "items": items, "metadata": {}});
        let text = Printer::print(&list, seed, true);
        let expectation = expect(group, kind, Form::List);
        let whole = mask(&plans, &expectation, text.as_bytes()).unwrap();
        prop_assert_eq!(&parsed(&whole)[0]["items"], &Value::from(want));
        let cut = mask_in_chunks(&plans, &expectation, text.as_bytes(), size).unwrap();
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn b18_watch_events((rules, group, kind, objects, seed) in case(), size in 1usize..200) {
        let plans = Arc::new(Plans::compile(rules.clone()).unwrap());
        let event = |object: &Value| json!({"type": "MODIFIED", "object": object});
        let text: String =
            objects.iter().map(|object| Printer::print(&event(object), seed, true)).collect::<Vec<_>>().join("\n");
        let want: Vec<Value> =
            objects.iter().map(|object| settled(&event(&reference(&rules, group, kind, object)))).collect();
        let expectation = expect(group, kind, Form::Watch);
        let whole = mask(&plans, &expectation, text.as_bytes()).unwrap();
        prop_assert_eq!(parsed(&whole), want);
        let cut = mask_in_chunks(&plans, &expectation, text.as_bytes(), size).unwrap();
        prop_assert_eq!(cut, whole);
    }

    #[test]
    fn h4_one_changed_byte_is_refused_or_still_masked((rules, group, kind, objects, seed) in case(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let plans = Arc::new(Plans::compile(rules).unwrap());
        let mut text = Printer::print(&objects[0], seed, true).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let expectation = expect(group, kind, Form::Object);
        let json = serde_json::from_slice::<Value>(&text).is_ok();
        let masked = mask(&plans, &expectation, &text);
        if !json && let Ok(masked) = masked {
            // Only a lone surrogate is JSON to Kubernetes and to us, and not to serde.
            prop_assert!(String::from_utf8_lossy(&text).contains("\\u"), "{}", String::from_utf8_lossy(&masked));
        }
    }
}
