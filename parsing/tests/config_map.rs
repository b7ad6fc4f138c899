//! A ConfigMap in protobuf is the object that it is in JSON, or is refused (A3, B04).

mod facts;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use facts::{headers, read, summary};
use parsing::body::Body;
use serde_json::Value;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/flags";

/// One object with every field set, as the API's own Go types write it in both encodings.
fn fixture() -> (Vec<u8>, Value) {
    let text: Value = serde_json::from_str(include_str!("fixtures/config_map.json")).expect("JSON");
    let bytes = STANDARD.decode(text["protobuf"].as_str().expect("text")).expect("base64");
    (bytes, text["json"].clone())
}

/// An envelope around a message, written by hand.
fn envelope(kind: &str, message: &[u8]) -> Vec<u8> {
    let field = |tag: u8, bytes: &[u8]| [&[tag << 3 | 2, bytes.len() as u8], bytes].concat();
    let meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, message)].concat()
}

#[test]
fn every_field_becomes_what_it_is_in_json() {
    let (bytes, json) = fixture();
    let request = read("PUT", MAP, &headers(PROTOBUF), &bytes).expect("it is read");
    let Body::Object(object) = &request.body else { panic!("{:?}", request.body) };
    assert_eq!(object, &json);
    let as_json = read("PUT", MAP, &headers("application/json"), json.to_string().as_bytes()).expect("JSON");
    assert_eq!(request.body, as_json.body);
    assert_eq!(request.body.content_type(), as_json.body.content_type(), "it goes on as JSON");
}

#[test]
fn b04_what_is_not_known_is_refused() {
    let name = [0x0a, 3, 0x0a, 1, b'c'];
    let pair = [0x12, 6, 0x0a, 1, b'a', 0x12, 1, b'b'];
    let with = |more: &[u8]| envelope("ConfigMap", &[&name[..], more].concat());
    let post = |target: &str, body: &[u8]| summary(&read("POST", target, &headers(PROTOBUF), body));
    assert_eq!(post(MAPS, &with(&pair)), "create v1 configmaps default/c");
    for (what, body) in [
        ("an unknown field", with(&[0x7a, 1, b'x'])),
        ("a key twice", with(&[pair, pair].concat())),
        ("a field of another kind in an entry", with(&[0x12, 3, 0x1a, 1, b'x'])),
        ("immutable that is neither", with(&[0x20, 2])),
        ("immutable twice", with(&[0x20, 1, 0x20, 1])),
        ("text that is no UTF-8", with(&[0x12, 6, 0x0a, 1, b'a', 0x12, 1, 0xff])),
        ("metadata with an unknown field", envelope("ConfigMap", &[0x0a, 6, 0x0a, 1, b'c', 0x7a, 1, b'x'])),
        ("a cut message", with(&[0x12, 60])),
        ("another object in the URL", envelope("ConfigMap", &[0x0a, 6, 0x0a, 1, b'c', 0x1a, 1, b'x'])),
    ] {
        assert_eq!(post(MAPS, &body), "400 A3", "{what}");
    }
    // The kind is the envelope's: a Secret at a ConfigMap's address, and the other way round.
    assert_eq!(post(MAPS, &envelope("Secret", &name)), "415 A3");
    assert_eq!(post("/api/v1/namespaces/default/secrets", &with(&pair)), "400 A3");
}
