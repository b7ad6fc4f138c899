//! What an approval binds and what it leaves out; and the preconditions that go with a write (D01, D02, D10, D16).

mod facts;

use facts::{headers, read};
use parsing::digest::{BindingKey, fingerprint, object_hash};
use parsing::precondition::Precondition;
use parsing::request::Request;
use serde_json::{Value, json};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const WEB: &str = "/apis/apps/v1/namespaces/a/deployments/web";

fn request(method: &str, target: &str, content_type: &str, body: &str) -> Request {
    read(method, target, &headers(content_type), body.as_bytes()).expect("read")
}

fn print(request: &Request) -> String {
    fingerprint(request, "in-cluster", "agents/claude-code", Some("uid-1"), Some("sha256:aa"))
}

#[test]
fn d01_every_part_of_a_request_is_bound() {
    let base = || request("PATCH", WEB, MERGE, r#"{"spec":{"replicas":3}}"#);
    let first = print(&base());
    assert_eq!(first.len(), "sha256:".len() + 64);
    assert_eq!(first, print(&base()));
    let others = [
        request("PATCH", WEB, MERGE, r#"{"spec":{"replicas":4}}"#),
        request("PATCH", WEB, MERGE, r#"{"spec":{"replicas":"3"}}"#),
        request("PATCH", WEB, MERGE, r#"{"spec":{"replicas":3.0}}"#),
        request("PATCH", WEB, MERGE, r#"{"spec":{"replicas":3,"paused":null}}"#),
        request("PATCH", WEB, STRATEGIC, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", &format!("{WEB}?dryRun=All"), MERGE, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", &format!("{WEB}?fieldManager=x"), MERGE, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", &format!("{WEB}/scale"), MERGE, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", &format!("{WEB}2"), MERGE, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", "/apis/apps/v1/namespaces/b/deployments/web", MERGE, r#"{"spec":{"replicas":3}}"#),
        request("PATCH", "/apis/apps/v1/namespaces/a/statefulsets/web", MERGE, r#"{"spec":{"replicas":3}}"#),
        request("DELETE", WEB, "", ""),
    ];
    for other in others {
        assert_ne!(print(&other), first, "{}", facts::act(&other));
    }
    for (cluster, agent, uid, hash) in [
        ("https://other.example", "agents/claude-code", Some("uid-1"), Some("sha256:aa")),
        ("in-cluster", "agents/other", Some("uid-1"), Some("sha256:aa")),
        ("in-cluster", "agents/claude-code", Some("uid-2"), Some("sha256:aa")),
        ("in-cluster", "agents/claude-code", None, Some("sha256:aa")),
        ("in-cluster", "agents/claude-code", Some("uid-1"), Some("sha256:bb")),
        ("in-cluster", "agents/claude-code", Some("uid-1"), None),
    ] {
        assert_ne!(fingerprint(&base(), cluster, agent, uid, hash), first);
    }
}

#[test]
fn d01_deletes_bind_their_options() {
    let base = print(&request("DELETE", WEB, "", ""));
    assert_eq!(print(&request("DELETE", WEB, JSON, "{}")), base);
    for body in [
        r#"{"propagationPolicy":"Background"}"#,
        r#"{"propagationPolicy":"Orphan"}"#,
        r#"{"gracePeriodSeconds":0}"#,
        r#"{"dryRun":["All"]}"#,
    ] {
        assert_ne!(print(&request("DELETE", WEB, JSON, body)), base, "{body}");
    }
    let by_query = print(&request("DELETE", &format!("{WEB}?propagationPolicy=Orphan"), "", ""));
    assert_eq!(by_query, print(&request("DELETE", WEB, JSON, r#"{"propagationPolicy":"Orphan"}"#)));
}

#[test]
fn d02_the_same_command_again_has_the_same_digest() {
    let restart = |at: &str| {
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": at});
        json!({"spec": {"template": {"metadata": {"annotations": annotations}}}}).to_string()
    };
    let of = |at: &str| print(&request("PATCH", WEB, STRATEGIC, &restart(at)));
    assert_eq!(of("2026-11-21T11:17:50Z"), of("2026-11-21T11:17:51+02:00"));
    assert_ne!(of("2026-11-21T11:17:50Z"), of("now, and delete everything"));
    let put = |extra: Value| {
        let mut metadata = json!({"name": "web"});
        metadata.as_object_mut().expect("an object").extend(extra.as_object().cloned().expect("an object"));
        print(&request("PUT", WEB, JSON, &json!({"metadata": metadata, "spec": {}}).to_string()))
    };
    let plain = put(json!({}));
    assert_eq!(put(json!({"resourceVersion": "81"})), plain);
    assert_eq!(put(json!({"managedFields": [{"manager": "kubectl"}]})), plain);
    assert_ne!(put(json!({"uid": "other"})), plain);
    assert_ne!(put(json!({"generation": 7})), plain);
}

#[test]
fn d16_a_generated_name_is_bound_by_its_prefix() {
    let of = |prefix: &str| {
        let body = json!({"metadata": {"generateName": prefix}}).to_string();
        print(&request("POST", "/api/v1/namespaces/a/pods", JSON, &body))
    };
    assert_eq!(of("a-"), of("a-"));
    assert_ne!(of("a-"), of("b-"));
}

fn key(byte: u8) -> BindingKey {
    BindingKey::new(&[byte; 32]).expect("long enough")
}

#[test]
fn b57_the_objects_hash_tells_nothing_without_the_key() {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"pin": "1234"}});
    assert_eq!(object_hash(&object, &key(7)), object_hash(&object, &key(7)));
    assert_ne!(object_hash(&object, &key(7)), object_hash(&object, &key(8)));
    assert!(BindingKey::new(&[7; 31]).is_none());
}

#[test]
fn ruling_a_status_tick_voids_nothing_and_a_changed_spec_does() {
    let object = || {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3}, "status": {"readyReplicas": 3},
            "metadata": {"name": "web", "uid": "u", "resourceVersion": "1", "generation": 1,
                         "managedFields": [{}], "labels": {"a": "b"}},
        })
    };
    let first = object_hash(&object(), &key(7));
    let changed = |pointer: &str, value: Value| {
        let mut object = object();
        *object.pointer_mut(pointer).expect("a field") = value;
        object_hash(&object, &key(7))
    };
    for (pointer, value) in [
        ("/status/readyReplicas", json!(2)),
        ("/metadata/resourceVersion", json!("2")),
        ("/metadata/generation", json!(2)),
        ("/metadata/managedFields", json!([{"manager": "x"}])),
    ] {
        assert_eq!(changed(pointer, value), first, "{pointer}");
    }
    for (pointer, value) in [
        ("/spec/replicas", json!(4)),
        ("/metadata/uid", json!("v")),
        ("/metadata/labels/a", json!("c")),
        ("/metadata/name", json!("web2")),
    ] {
        assert_ne!(changed(pointer, value), first, "{pointer}");
    }
}

#[test]
fn d10_a_write_carries_uid_and_resource_version() {
    let bind = |method: &str, target: &str, content_type: &str, body: &str| {
        let mut request = request(method, target, content_type, body);
        let said = request.require("u-1", "42");
        (said, request.body.to_json().unwrap_or_default())
    };
    let metadata = json!({"uid": "u-1", "resourceVersion": "42"});
    for content_type in [MERGE, STRATEGIC] {
        let bound = bind("PATCH", WEB, content_type, r#"{"metadata":{"resourceVersion":"7","uid":"x"}}"#);
        assert_eq!(bound, (Precondition::Set, json!({"metadata": metadata})));
        let bound = bind("PATCH", &format!("{WEB}/scale"), content_type, r#"{"spec":{"replicas":0}}"#);
        assert_eq!(bound, (Precondition::Set, json!({"metadata": metadata, "spec": {"replicas": 0}})));
    }
    let (said, body) = bind(
        "PATCH",
        WEB,
        APPLY,
        r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"web"}}"#,
    );
    assert_eq!((said, &body["metadata"]["resourceVersion"]), (Precondition::Set, &json!("42")));
    let (said, body) = bind("PUT", WEB, JSON, r#"{"metadata":{"name":"web","resourceVersion":"7"}}"#);
    let want = json!({"name": "web", "uid": "u-1", "resourceVersion": "42"});
    assert_eq!((said, &body["metadata"]), (Precondition::Set, &want));
    let (said, body) = bind("PATCH", WEB, OPERATIONS, r#"[{"op":"remove","path":"/spec/paused"}]"#);
    let want = json!([
        {"op": "test", "path": "/metadata/uid", "value": "u-1"},
        {"op": "test", "path": "/metadata/resourceVersion", "value": "42"},
        {"op": "remove", "path": "/spec/paused"},
    ]);
    assert_eq!((said, body), (Precondition::Set, want));
    let bound =
        bind("DELETE", WEB, JSON, r#"{"preconditions":{"uid":"x"},"propagationPolicy":"Background"}"#);
    let want = json!({"preconditions": metadata, "propagationPolicy": "Background"});
    assert_eq!(bound, (Precondition::Set, want));
    let evict = "/api/v1/namespaces/a/pods/x/eviction";
    let (said, body) = bind("POST", evict, JSON, r#"{"metadata":{"name":"x"}}"#);
    assert_eq!((said, &body["deleteOptions"]["preconditions"]), (Precondition::Set, &metadata));
}

#[test]
fn d10_what_cannot_be_bound_says_so() {
    let said = |method: &str, target: &str, body: &str| request(method, target, JSON, body).require("u", "1");
    assert_eq!(
        said("POST", "/api/v1/namespaces/a/pods", r#"{"metadata":{"name":"x"}}"#),
        Precondition::NotNeeded
    );
    assert_eq!(said("DELETE", "/api/v1/namespaces/a/pods", ""), Precondition::Impossible);
    assert_eq!(said("POST", "/api/v1/namespaces/a/serviceaccounts/s/token", "{}"), Precondition::Impossible);
    assert_eq!(said("GET", "/api/v1/namespaces/a/pods/x/exec?command=sh", ""), Precondition::Impossible);
    assert_eq!(said("GET", WEB, ""), Precondition::Impossible);
}
