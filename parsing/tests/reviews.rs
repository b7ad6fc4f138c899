//! Reviews: what is decoded, what is refused, and how the answers are written (A3, B04, B31, B58).

mod facts;

use std::collections::BTreeMap;

use facts::{headers, read, summary};
use parsing::protobuf::Envelope;
use parsing::review::{
    AccessStatus, Asked, Encoding, ResourceAttributes, ResourceRule, Review, RulesStatus, UserInfo,
    write_access, write_rules, write_whoami,
};
use prost::Message;
use serde_json::{Value, json};

const ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const RULES: &str = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    meta: Option<Meta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
    #[prost(string, tag = "3")]
    encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

#[derive(Clone, PartialEq, Message)]
struct Meta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// Field `tag` holding `bytes`.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short field");
    [&[tag << 3 | 2, length][..], bytes].concat()
}

fn envelope(api_version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let meta = Some(Meta { api_version: api_version.into(), kind: kind.into() });
    let unknown = Unknown { meta, raw, ..Unknown::default() };
    [b"k8s\0".to_vec(), unknown.encode_to_vec()].concat()
}

fn access(spec: Vec<u8>) -> Vec<u8> {
    envelope("authorization.k8s.io/v1", "SelfSubjectAccessReview", field(2, &spec))
}

fn said(target: &str, content_type: &str, body: &[u8]) -> Result<Review, String> {
    let read = read("POST", target, &headers(content_type), body);
    match &read {
        Ok(request) => Ok(request.review().expect("a review").clone()),
        Err(_) => Err(summary(&read)),
    }
}

#[test]
fn b04_json_and_protobuf_mean_the_same() {
    let attributes = ResourceAttributes {
        namespace: "a".into(),
        verb: "delete".into(),
        group: "apps".into(),
        version: "v1".into(),
        resource: "deployments".into(),
        subresource: "scale".into(),
        name: "web".into(),
    };
    let texts = ["a", "delete", "apps", "v1", "deployments", "scale", "web"];
    let message: Vec<u8> = (1..).zip(texts).flat_map(|(tag, text)| field(tag, text.as_bytes())).collect();
    let want = Review::Access(Asked::Resource(attributes));
    assert_eq!(said(ACCESS, PROTOBUF, &access(field(1, &message))), Ok(want.clone()));
    let spec = json!({"resourceAttributes": {"namespace": "a", "verb": "delete", "group": "apps", "version": "v1",
                      "resource": "deployments", "subresource": "scale", "name": "web"}});
    let body = json!({"metadata": {"creationTimestamp": null}, "spec": spec, "status": {"allowed": false}});
    assert_eq!(said(ACCESS, "application/json", body.to_string().as_bytes()), Ok(want.clone()));
    assert_eq!(want.to_json()["spec"], spec);
}

#[test]
fn a3_what_a_review_does_not_have_is_refused() {
    let verb = field(2, b"get");
    for (what, body) in [
        ("a field selector", access(field(1, &[verb.clone(), field(8, b"")].concat()))),
        ("an unknown attribute", access(field(1, &[verb.clone(), field(10, b"x")].concat()))),
        ("both attributes", access([field(1, &verb), field(2, &verb)].concat())),
        ("no attributes", access(Vec::new())),
        ("attributes twice", access([field(1, &verb), field(1, &verb)].concat())),
        ("a verb twice", access(field(1, &[verb.clone(), verb.clone()].concat()))),
        ("a third part of the spec", access([field(1, &verb), field(3, b"")].concat())),
        ("a number for a text", access(field(1, &[0x10, 1]))),
        ("a text that is no UTF-8", access(field(1, &field(2, b"\xff")))),
        (
            "another kind",
            envelope("authorization.k8s.io/v1", "SubjectAccessReview", field(2, &field(1, &verb))),
        ),
        (
            "another version",
            envelope("authorization.k8s.io/v1beta1", "SelfSubjectAccessReview", field(2, &field(1, &verb))),
        ),
        ("a name in the metadata", {
            let raw = [field(1, &field(1, b"x")), field(2, &field(1, &verb))].concat();
            envelope("authorization.k8s.io/v1", "SelfSubjectAccessReview", raw)
        }),
        ("a cut message", access(field(1, &verb))[..40].to_vec()),
        ("no envelope", field(1, &verb)),
    ] {
        let unknown = ["an unknown attribute", "a third part of the spec"].contains(&what);
        let want = if unknown { "400 B103" } else { "400 A3" };
        assert_eq!(said(ACCESS, PROTOBUF, &body), Err(want.to_owned()), "{what}");
    }
    for body in [
        json!({"spec": {"resourceAttributes": {"verb": "get", "fieldSelector": {}}}}),
        json!({"spec": {"resourceAttributes": {"verb": "get", "Verb": "list"}}}),
        json!({"spec": {"resourceAttributes": {"verb": 7}}}),
        json!({"spec": {"resourceAttributes": {}, "nonResourceAttributes": {}}}),
        json!({"spec": {"user": "alice", "resourceAttributes": {}}}),
        json!({"spec": {}}),
        json!({"spec": {"resourceAttributes": {}}, "extra": 1}),
        json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": {}}}),
        json!({"kind": "SubjectAccessReview", "spec": {"resourceAttributes": {}}}),
    ] {
        let text = body.to_string();
        assert_eq!(said(ACCESS, "application/json", text.as_bytes()), Err("400 A3".to_owned()), "{text}");
    }
    let nested = Unknown {
        meta: Some(Meta { api_version: "authentication.k8s.io/v1".into(), kind: "SelfSubjectReview".into() }),
        content_type: "application/json".into(),
        ..Unknown::default()
    };
    let body = [b"k8s\0".to_vec(), nested.encode_to_vec()].concat();
    assert_eq!(said(WHOAMI, PROTOBUF, &body), Err("400 A3".to_owned()));
}

#[test]
fn whoami_and_rules_are_read() {
    for body in [
        "{}",
        r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"status":{}}"#,
    ] {
        assert_eq!(said(WHOAMI, "application/json", body.as_bytes()), Ok(Review::Whoami), "{body}");
    }
    let body = br#"{"spec":{"namespace":"a"}}"#;
    assert_eq!(said(RULES, "application/json", body), Ok(Review::Rules { namespace: "a".into() }));
    assert_eq!(said(WHOAMI, "application/json", br#"{"spec":{"x":1}}"#), Err("400 A3".to_owned()));
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "2")]
    second: Option<Part>,
    #[prost(message, optional, tag = "3")]
    third: Option<Part>,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(bytes = "vec", repeated, tag = "1")]
    first: Vec<Vec<u8>>,
}

fn opened(bytes: &[u8]) -> (String, String, Vec<u8>) {
    let envelope = Envelope::open(bytes).expect("an envelope");
    (envelope.api_version.to_owned(), envelope.kind.to_owned(), envelope.raw.to_vec())
}

#[test]
fn b31_whoami_is_written_in_both_encodings() {
    let user = UserInfo {
        username: "sallyport:agent:agents:a".into(),
        uid: String::new(),
        groups: vec!["sallyport:agents".into(), "system:authenticated".into()],
        extra: BTreeMap::from([("sallyport.dev/session".into(), vec!["a-1".into()])]),
    };
    let text: Value = serde_json::from_slice(&write_whoami(&user, Encoding::Json)).expect("JSON");
    assert_eq!(text["kind"], "SelfSubjectReview");
    let info = json!({"username": user.username, "groups": user.groups, "extra": user.extra});
    assert_eq!(text["status"]["userInfo"], info);
    let (api_version, kind, raw) = opened(&write_whoami(&user, Encoding::Protobuf));
    assert_eq!((api_version.as_str(), kind.as_str()), ("authentication.k8s.io/v1", "SelfSubjectReview"));
    let status = Answer::decode(&raw[..]).expect("a message").second.expect("a status");
    let info = [
        field(1, user.username.as_bytes()),
        field(3, b"sallyport:agents"),
        field(3, b"system:authenticated"),
        field(4, &[field(1, b"sallyport.dev/session"), field(2, &field(1, b"a-1"))].concat()),
    ];
    assert_eq!(status.first, [info.concat()]);
}

#[test]
fn b58_access_has_three_states_in_both_encodings() {
    let asked = Asked::NonResource { path: "/livez".into(), verb: "get".into() };
    for (allowed, denied) in [(true, false), (false, false), (false, true)] {
        let status =
            AccessStatus { allowed, denied, reason: "because".into(), evaluation_error: String::new() };
        let text: Value =
            serde_json::from_slice(&write_access(&asked, &status, Encoding::Json)).expect("JSON");
        assert_eq!(text["status"]["allowed"], allowed);
        assert_eq!(text["status"]["denied"].as_bool().unwrap_or_default(), denied);
        assert_eq!(text["spec"]["nonResourceAttributes"]["path"], "/livez");
        let (_, kind, raw) = opened(&write_access(&asked, &status, Encoding::Protobuf));
        assert_eq!(kind, "SelfSubjectAccessReview");
        let spec = field(2, &[field(1, b"/livez"), field(2, b"get")].concat());
        let yes = if allowed { vec![0x08, 1] } else { Vec::new() };
        let no = if denied { vec![0x20, 1] } else { Vec::new() };
        let status = [yes, field(2, b"because"), no].concat();
        assert_eq!(raw, [field(2, &spec), field(3, &status)].concat());
    }
}

#[test]
fn rules_are_written_in_both_encodings() {
    let rule = ResourceRule {
        verbs: vec!["get".into()],
        api_groups: vec![String::new()],
        resources: vec!["pods".into()],
        resource_names: Vec::new(),
    };
    let status = RulesStatus {
        resource_rules: vec![rule],
        non_resource_rules: Vec::new(),
        incomplete: true,
        evaluation_error: "more".into(),
    };
    let text: Value = serde_json::from_slice(&write_rules("a", &status, Encoding::Json)).expect("JSON");
    assert_eq!(
        text["status"]["resourceRules"],
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
    );
    assert_eq!((&text["status"]["incomplete"], &text["spec"]["namespace"]), (&json!(true), &json!("a")));
    let (_, kind, raw) = opened(&write_rules("a", &status, Encoding::Protobuf));
    assert_eq!(kind, "SelfSubjectRulesReview");
    let rule = [field(1, b"get"), field(2, b""), field(3, b"pods")].concat();
    let status = [field(1, &rule), vec![0x18, 1], field(4, b"more")].concat();
    assert_eq!(raw, [field(2, &field(1, b"a")), field(3, &status)].concat());
}

#[test]
fn b03_protobuf_is_answered_only_to_who_takes_nothing_else() {
    for (accept, want) in [
        (None, Encoding::Json),
        (Some("application/json"), Encoding::Json),
        (Some("application/vnd.kubernetes.protobuf,application/json"), Encoding::Json),
        (Some("application/vnd.kubernetes.protobuf, */*;q=0.1"), Encoding::Json),
        (Some("application/vnd.kubernetes.protobuf"), Encoding::Protobuf),
        (Some("text/html"), Encoding::Json),
        (Some(""), Encoding::Json),
    ] {
        assert_eq!(Encoding::accepted(accept), want, "{accept:?}");
    }
}
