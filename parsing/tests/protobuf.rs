//! Protobuf bodies of Kubernetes' own kinds are the objects that they are in JSON, or are refused (A3, B04, B103). The
//! counterpart is Kubernetes itself: its Go types write the objects, and say whether what we made of them is the same.

mod facts;
#[path = "../fuzz/protobuf.rs"]
mod oracle;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use facts::{headers, read, summary};
use parsing::body::Body;
use parsing::protobuf::{Envelope, ProtobufError, normalise};
use parsing::{digest, json};
use serde_json::{Value, json};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// Runs `parsing/schema`, the program that holds Kubernetes' own types.
fn kubernetes(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut program = Command::new("go")
        .args(["run", "."])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schema"))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Go is needed to run Kubernetes' own types");
    let mut stdin = program.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = program.wait_with_output().expect("it ends");
    assert!(output.status.success(), "parsing/schema {args:?}");
    writer.join().expect("no panic").expect("it reads all");
    output.stdout
}

#[test]
fn b103_the_table_is_what_kubernetes_types_say() {
    let ours = include_str!("../src/protobuf/schema.txt");
    let theirs = String::from_utf8(kubernetes(&["schema"], b"")).expect("text");
    assert!(ours == theirs, "renew it: cd parsing/schema && go run . schema > ../src/protobuf/schema.txt");
}

#[test]
fn a3_every_kind_is_what_kubernetes_reads() {
    let lines = String::from_utf8(kubernetes(&["objects", "1", "6"], b"")).expect("text");
    let (mut ours, mut kinds, mut failures) = (Vec::new(), BTreeSet::new(), Vec::new());
    for line in lines.lines() {
        let mut line: Value = serde_json::from_str(line).expect("a line");
        let bytes = STANDARD.decode(line["protobuf"].as_str().expect("text")).expect("base64");
        let kind = format!("{} {}", line["apiVersion"], line["kind"]);
        let object = match Envelope::open(&bytes).and_then(|envelope| envelope.object()) {
            Ok(object) => object,
            Err(error) => {
                failures.push(format!("{kind}: {error}"));
                continue;
            }
        };
        // Kubernetes' JSON, less what says nothing: null, and zero where absent and zero are one.
        let mut theirs = json::read(line["json"].to_string().as_bytes()).expect("strict JSON");
        normalise(&mut theirs);
        if object != theirs {
            failures.push(format!("{kind}: ours {object:#}\n   theirs {theirs:#}"));
        }
        line["json"] = object;
        ours.extend_from_slice(&json::write(&line));
        ours.push(b'\n');
        kinds.insert(kind);
    }
    failures.truncate(5);
    facts::report(failures);
    assert!(kinds.len() >= 140, "{}", kinds.len());
    // The other way round: Kubernetes reads our JSON, strictly, and writes the same protobuf.
    let differences = String::from_utf8(kubernetes(&["check"], &ours)).expect("text");
    assert_eq!(differences, "");
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/protobuf");
    let files = std::fs::read_dir(folder).expect("a corpus");
    let mut paths: Vec<_> = files.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).expect("a readable file")).collect()
}

#[test]
fn h1_the_corpus_of_messages_holds() {
    let corpus = corpus();
    assert!(corpus.len() >= 16, "{}", corpus.len());
    for input in corpus {
        oracle::message(&input);
        oracle::envelope(&input);
    }
}

/// Messages that are nearly right: bytes changed, doubled, dropped, and parts of others put in.
#[test]
fn h1_spoilt_messages_hold() {
    let (corpus, mut dice) = (corpus(), 0x2545_f491_4f6c_dd1d_u64);
    let mut roll = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice >> 33).unwrap_or(0) % below.max(1)
    };
    for _ in 0..ROUNDS {
        let mut input = corpus[roll(corpus.len())].clone();
        for _ in 0..=roll(3) {
            let (from, to) = (roll(input.len()), roll(input.len()));
            let part = input[from.min(to)..from.max(to)].to_vec();
            match roll(5) {
                0 => input[to] ^= 1 << roll(8),
                1 => input[to] = [0, 1, 2, 0x7f, 0x80, 0xff][roll(6)],
                2 => drop(input.splice(to..to, part.into_iter().take(64))),
                3 => drop(input.drain(to..(to + 1 + roll(8)).min(input.len()))),
                _ => {
                    let other = &corpus[roll(corpus.len())];
                    let start = roll(other.len());
                    let piece = other[start..(start + roll(48)).min(other.len())].to_vec();
                    drop(input.splice(to..to, piece));
                }
            }
            if input.is_empty() {
                break;
            }
        }
        oracle::message(&input);
    }
}

const ROUNDS: usize = 20_000;

/// One field of a message.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    [out, bytes.to_vec()].concat()
}

fn number(number: u32, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3), &mut out);
    prost::encoding::encode_varint(value.cast_unsigned(), &mut out);
    out
}

fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, message)].concat()
}

/// A Secret named `s`, and the given fields.
fn secret(more: &[u8]) -> Vec<u8> {
    envelope("v1", "Secret", &[field(1, &field(1, b"s")), more.to_vec()].concat())
}

/// A Pod named `p` whose spec has these fields.
fn pod(spec: &[u8]) -> Vec<u8> {
    envelope("v1", "Pod", &[field(1, &field(1, b"p")), field(2, spec)].concat())
}

#[test]
fn d02_protobuf_and_json_are_one_act() {
    let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
    let body = secret(
        &[
            field(2, &entry(b"a", b"\xff")),
            field(2, &entry(b"empty", b"")),
            field(3, b"Opaque"),
            number(5, 0),
        ]
        .concat(),
    );
    let in_protobuf = read("POST", SECRETS, &headers(PROTOBUF), &body).expect("read");
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque",
        "data": {"a": "/w==", "empty": ""}, "immutable": false});
    assert_eq!(in_protobuf.body, Body::Object(object.clone()), "what is in the message and no more");
    assert_eq!(in_protobuf.body.content_type(), Some("application/json"));
    assert_eq!(summary(&Ok(in_protobuf.clone())), "create v1 secrets default/s");
    let print = |text: &Value| {
        let request = read("POST", SECRETS, &headers("application/json"), text.to_string().as_bytes());
        digest::fingerprint(&request.expect("read"), "in-cluster", "agents/a", None, None)
    };
    let want = digest::fingerprint(&in_protobuf, "in-cluster", "agents/a", None, None);
    assert_eq!(print(&object), want);
    // As an older kubectl writes the same.
    let mut noisy = object.clone();
    noisy["metadata"]["creationTimestamp"] = Value::Null;
    noisy["metadata"]["generation"] = json!(0);
    noisy["stringData"] = Value::Null;
    assert_eq!(print(&noisy), want);
    for (pointer, value) in
        [("/data/a", json!("")), ("/data", json!({})), ("/immutable", json!(true)), ("/type", json!(""))]
    {
        let mut other = object.clone();
        *other.pointer_mut(pointer).expect("there") = value;
        assert_ne!(print(&other), want, "{pointer}");
    }
    let mut absent = object.clone();
    absent.as_object_mut().expect("an object").remove("immutable");
    assert_ne!(print(&absent), want, "a pointer that is set is not one that is absent");
}

#[test]
fn b04_what_is_not_known_is_refused() {
    let entry = |key: &[u8], value: &[u8]| [field(1, key), field(2, value)].concat();
    let pair = field(2, &entry(b"a", b"b"));
    let name = field(1, &field(1, b"s"));
    let port = |message: &[u8]| pod(&field(2, &field(6, message)));
    let post = |target: &str, body: &[u8]| summary(&read("POST", target, &headers(PROTOBUF), body));
    assert_eq!(post(SECRETS, &secret(&pair)), "create v1 secrets default/s");
    for (what, body, want) in [
        ("an unknown field", secret(&field(15, b"x")), "400 B103"),
        ("one far away", secret(&number(100_000, 1)), "400 B103"),
        (
            "one in the metadata",
            envelope("v1", "Secret", &field(1, &[field(1, b"s"), field(99, b"")].concat())),
            "400 B103",
        ),
        ("the metadata twice", secret(&name), "400 A3"),
        ("the type twice", secret(&[field(3, b"a"), field(3, b"a")].concat()), "400 A3"),
        ("a flag twice", secret(&[number(5, 0), number(5, 1)].concat()), "400 A3"),
        ("a key twice", secret(&[pair.clone(), pair.clone()].concat()), "400 A3"),
        ("an entry's key twice", secret(&field(2, &[field(1, b"a"), field(1, b"b")].concat())), "400 A3"),
        (
            "another field in an entry",
            secret(&field(2, &[field(1, b"a"), field(3, b"b")].concat())),
            "400 B103",
        ),
        ("a flag that is neither", secret(&number(5, 2)), "400 A3"),
        ("a text for a flag", secret(&field(5, b"\x01")), "400 A3"),
        ("a number for a text", secret(&number(3, 1)), "400 A3"),
        ("text that is no UTF-8", secret(&field(3, b"\xff")), "400 A3"),
        ("a key that is no UTF-8", secret(&field(2, &entry(b"\xff", b"a"))), "400 A3"),
        ("a cut message", secret(b"\x12\x60"), "400 A3"),
        ("a group", secret(b"\x13\x14"), "400 A3"),
        ("32 bits", secret(b"\x15\0\0\0\0"), "400 A3"),
        ("field 0", secret(b"\x02\0"), "400 A3"),
        ("no kind", envelope("v1", "", &name), "415 A3"),
        ("no version", envelope("", "Secret", &name), "415 A3"),
        ("a kind of no API", envelope("v1", "Widget", &name), "415 A3"),
        ("a list", envelope("v1", "SecretList", &name), "415 A3"),
        ("another kind", envelope("v1", "ConfigMap", &name), "400 A3"),
        (
            "another name in the URL",
            envelope("v1", "Secret", &field(1, &[field(1, b"s"), field(3, b"other")].concat())),
            "400 A3",
        ),
    ] {
        assert_eq!(post(SECRETS, &body), want, "{what}");
    }
    for (what, body, want) in [
        ("plain", port(&number(3, 80)), "create v1 pods default/p"),
        ("a number of 33 bits", port(&number(3, 1 << 32)), "400 A3"),
        ("an unknown field deep down", port(&number(9, 1)), "400 B103"),
        ("the spec's security twice", pod(&[field(14, &[]), field(14, &number(4, 1))].concat()), "400 A3"),
        (
            "a source of a volume twice",
            pod(&field(1, &[field(1, b"v"), field(2, &[]), field(2, &[])].concat())),
            "400 A3",
        ),
    ] {
        assert_eq!(post(PODS, &body), want, "{what}");
    }
}

#[test]
fn a3_values_with_a_form_of_their_own() {
    let spec = |api_version: &str, kind: &str, message: Vec<u8>| {
        let bytes = envelope(api_version, kind, &message);
        Envelope::open(&bytes).and_then(|envelope| envelope.object())
    };
    let made = |time: &[u8]| spec("v1", "Secret", field(1, &field(8, time)));
    let stamp = |object: Result<Value, ProtobufError>| {
        object
            .map(|object| object["metadata"]["creationTimestamp"].clone())
            .map_err(|error| error.to_string())
    };
    let bad = || Err("the protobuf body has a bad value in field 8 of `meta/v1.ObjectMeta`".to_owned());
    assert_eq!(stamp(made(b"")), Ok(Value::Null), "no time");
    assert_eq!(stamp(made(&[number(1, 0), number(2, 0)].concat())), Ok(json!("1970-01-01T00:00:00Z")));
    assert_eq!(stamp(made(&[number(1, 5), number(2, 999)].concat())), Ok(json!("1970-01-01T00:00:05Z")));
    assert_eq!(stamp(made(&number(1, -62_135_596_800))), Ok(Value::Null), "Go's zero time");
    assert_eq!(stamp(made(&number(1, -62_135_596_801))), bad());
    assert_eq!(stamp(made(&number(1, i64::MAX))), bad());
    assert_eq!(stamp(made(&[number(1, 5), number(2, -1)].concat())), bad());

    let probe = |port: &[u8]| {
        let probe = field(1, &field(2, &field(2, port)));
        spec("v1", "Pod", field(2, &field(2, &field(10, &probe))))
            .map(|object| object.pointer("/spec/containers/0/livenessProbe/httpGet/port").cloned())
    };
    assert_eq!(probe(&[number(1, 0), number(2, 80)].concat()), Ok(Some(json!(80))));
    assert_eq!(probe(&[number(1, 1), number(2, 0), field(3, b"web")].concat()), Ok(Some(json!("web"))));
    for both in [
        [number(1, 0), number(2, 80), field(3, b"web")].concat(),
        [number(1, 1), number(2, 80), field(3, b"web")].concat(),
        number(1, 2),
        number(2, 1 << 31),
        field(4, b""),
    ] {
        assert!(probe(&both).is_err(), "{both:?}");
    }
    let data = |raw: &[u8]| {
        spec("apps/v1", "ControllerRevision", field(2, &field(1, raw))).map(|object| object["data"].clone())
    };
    assert_eq!(data(br#"{"b":1,"a":[null]}"#), Ok(json!({"a": [null], "b": 1})));
    assert_eq!(data(b""), Ok(Value::Null));
    for other in [&b"k8s\0\x0a\x00"[..], b"\xd9\xd9\xf7\xa0", br#"{"a":1,"a":2}"#, b"{} {}", b"a: b"] {
        assert!(
            matches!(data(other), Err(ProtobufError::Json("apps/v1.ControllerRevision", 2, _))),
            "{other:?}"
        );
    }
}

#[test]
fn a3_limits_hold_in_protobuf() {
    let toleration = field(22, b"");
    let tolerations = pod(&toleration.repeat(250_001));
    assert_eq!(
        Envelope::open(&tolerations).and_then(|envelope| envelope.object()),
        Err(ProtobufError::TooMany)
    );
    let mut schema = Vec::new();
    for _ in 0..150 {
        schema = field(26, &schema);
    }
    let version = field(7, &field(4, &field(1, &schema)));
    let crd = envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &field(2, &version));
    assert_eq!(Envelope::open(&crd).and_then(|envelope| envelope.object()), Err(ProtobufError::TooDeep));
}
