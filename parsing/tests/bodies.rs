//! Bodies: what is read and rebuilt, and the rule that refuses the rest (A3, appendix 4, B97, B99).

mod facts;

use facts::{headers, read, report, summary};
use parsing::body::{Body, MAX_BODY};
use policy::action::Action;

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const OPERATIONS: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PODS: &str = "/api/v1/namespaces/a/pods";
const POD: &str = "/api/v1/namespaces/a/pods/x";
const WEB: &str = "/apis/apps/v1/namespaces/a/deployments/web";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/a/widgets";
const WIDGET: &str = "/apis/example.com/v1/namespaces/a/widgets/x";
const SCALE: &str = "/apis/apps/v1/namespaces/a/deployments/web/scale";

/// Method, target, content type, body, what goes upstream or the refusal.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], &'a str);

fn check(cases: &[Case<'_>]) {
    let mut failures = Vec::new();
    for (method, target, content_type, body, want) in cases {
        let read = read(method, target, &headers(content_type), body);
        let got = match &read {
            Ok(request) => String::from_utf8(request.body.to_bytes().unwrap_or_default()).expect("text"),
            Err(_) => summary(&read),
        };
        if got != *want {
            let body = String::from_utf8_lossy(body);
            failures
                .push(format!("{method} {target} {content_type} {body:.200}\n   want {want}\n    got {got}"));
        }
    }
    report(failures);
}

fn post(body: &'static str, want: &'static str) -> Case<'static> {
    ("POST", PODS, JSON, body.as_bytes(), want)
}

/// As [`post`], of a custom resource: its fields are its own.
fn widget(body: &'static str, want: &'static str) -> Case<'static> {
    ("POST", WIDGETS, JSON, body.as_bytes(), want)
}

#[test]
fn appendix_4_json_that_readers_read_differently_is_refused() {
    check(&[
        post(r#"{"metadata":{"name":"a"},"metadata":{"labels":{}}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","name":"b"}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"hostNetwork":true},"spec":{}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"a":[{"b":1,"b":1}]}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"\u006bind":"Pod","kind":"Pod"}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"}} {}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"}},"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"}}x"#, "400 A3"),
        post("\u{feff}{}", "400 A3"),
        post(r#"{"metadata":{"name":"a","labels":{"x":"\ud800"}}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","labels":{"x":"\udc00\ud800"}}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","labels":{"x":"\ud800A"}}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":9223372036854775808}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":-9223372036854775809}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":99999999999999999999999}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":1e400}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":1e-400}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":0.1000000000000000055511151231257827}}"#, "400 A3"),
        post("null", "400 A3"),
        post("[]", "400 A3"),
        post("true", "400 A3"),
        post("\"text\"", "400 A3"),
        post("1", "400 A3"),
        post(" ", "400 A3"),
        post("{'metadata':{'name':'a'}}", "400 A3"),
        post(r#"{"metadata":{"name":"a",}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"}/* c */}"#, "400 A3"),
        post("{\"metadata\":{\"name\":\"a\"}} // c", "400 A3"),
        post(r#"{"metadata":{"name":yes}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":NaN}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":+1}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":-0}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":01}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":.5}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":5.}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a"},"spec":{"x":1e}}"#, "400 A3"),
        post("{\"metadata\":{\"name\":\"a\tb\"}}", "400 A3"),
        post(r#"{"metadata":{"name":"\x41"}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"\u00g1"}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a""#, "400 A3"),
        post("{", "400 A3"),
        ("POST", PODS, JSON, b"{\"metadata\":{\"name\":\"\xff\"}}", "400 A3"),
    ]);
}

#[test]
fn appendix_4_top_level_keys_have_one_case() {
    for key in [
        "Kind",
        "KIND",
        "kinD",
        "\u{212a}ind",
        "APIVersion",
        "apiversion",
        "apiVer\u{17f}ion",
        "Metadata",
        "METADATA",
        "Spec",
        "Status",
        "Data",
        "stringdata",
    ] {
        let body = format!(r#"{{"metadata":{{"name":"a"}},"{key}":"x"}}"#);
        assert_eq!(summary(&read("POST", PODS, &headers(JSON), body.as_bytes())), "400 A3", "{key}");
    }
    let twins = br#"{"metadata":{"name":"a"},"extra":1,"Extra":2}"#;
    assert_eq!(summary(&read("POST", PODS, &headers(JSON), twins)), "400 A3");
    check(&[
        ("POST", PODS, JSON, br#"{"metadata":{"name":"a","Name":"b"}}"#, "400 B103"),
        (
            "POST",
            WIDGETS,
            JSON,
            br#"{"metadata":{"name":"a","Name":"b"}}"#,
            r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"Name":"b","name":"a"}}"#,
        ),
    ]);
}

#[test]
fn a3_what_goes_upstream_is_re_encoded() {
    check(&[
        widget(
            " { \"spec\" : { \"b\" : 1 , \"a\" : [ 1.0 , 0 , 1e2, 0.5 , 1.10 ] } , \"metadata\" : { \"name\" : \"x\" } }\n",
            r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"a":[1.0,0,100.0,0.5,1.1],"b":1}}"#,
        ),
        widget(
            r#"{"\u006bind":"Widget","metadata":{"name":"x","annotations":{"a":"\u0041\ud83d\ude00\/\u0001\n<"}}}"#,
            "{\"apiVersion\":\"example.com/v1\",\"kind\":\"Widget\",\"metadata\":{\"annotations\":{\"a\":\"A😀/\\u0001\\n<\"},\"name\":\"x\"}}",
        ),
        widget(
            r#"{"metadata":{"name":"x"},"spec":{"big":9223372036854775807,"small":-9223372036854775808}}"#,
            r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"x"},"spec":{"big":9223372036854775807,"small":-9223372036854775808}}"#,
        ),
        ("PATCH", POD, MERGE, b"{}", "{}"),
        (
            "PATCH",
            POD,
            MERGE,
            br#"{"metadata":{"labels":{"a":null}}}"#,
            r#"{"metadata":{"labels":{"a":null}}}"#,
        ),
        ("PATCH", SCALE, MERGE, br#"{"spec":{"replicas":3}}"#, r#"{"spec":{"replicas":3}}"#),
    ]);
}

#[test]
fn a3_limits_hold() {
    let nested = |depth: usize| {
        format!(r#"{{"metadata":{{"name":"a"}},"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    assert_eq!(summary(&read("POST", WIDGETS, &headers(JSON), nested(150).as_bytes())), "400 A3");
    assert!(read("POST", WIDGETS, &headers(JSON), nested(90).as_bytes()).is_ok());
    let many = format!(r#"{{"metadata":{{"name":"a"}},"x":[{}1]}}"#, "1,".repeat(250_000));
    assert_eq!(summary(&read("POST", WIDGETS, &headers(JSON), many.as_bytes())), "400 A3");
    let fill = |size: usize| {
        let frame = br#"{"metadata":{"name":"a"},"x":""}"#.len();
        format!(r#"{{"metadata":{{"name":"a"}},"x":"{}"}}"#, "a".repeat(size - frame))
    };
    assert!(read("POST", WIDGETS, &headers(JSON), fill(MAX_BODY).as_bytes()).is_ok());
    assert_eq!(summary(&read("POST", WIDGETS, &headers(JSON), fill(MAX_BODY + 1).as_bytes())), "413 A3");
    let declared = facts::with(headers(JSON), "content-length", "3145729");
    assert_eq!(summary(&read("POST", WIDGETS, &declared, b"{}")), "413 A3");
    let operation = r#"{"op":"remove","path":"/a"}"#;
    let operations = |n: usize| format!("[{}]", vec![operation; n].join(","));
    assert!(read("PATCH", WIDGET, &headers(OPERATIONS), operations(10_000).as_bytes()).is_ok());
    assert_eq!(
        summary(&read("PATCH", WIDGET, &headers(OPERATIONS), operations(10_001).as_bytes())),
        "400 A3"
    );
}

#[test]
fn a3_content_types_are_an_allow_list() {
    let named = br#"{"metadata":{"name":"x"}}"#;
    let read_as = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}"#;
    check(&[
        ("POST", PODS, "", named, read_as),
        ("POST", PODS, JSON, named, read_as),
        ("POST", PODS, "application/json; charset=utf-8", named, read_as),
        ("POST", PODS, "application/json;charset=UTF-8", named, read_as),
        ("POST", PODS, "application/json; charset=utf-16", named, "415 A3"),
        ("POST", PODS, "application/json; q=1", named, "415 A3"),
        ("POST", PODS, "Application/JSON", named, "415 A3"),
        ("POST", PODS, "text/json", named, "415 A3"),
        ("POST", PODS, "text/plain", named, "415 A3"),
        ("POST", PODS, "*/*", named, "415 A3"),
        ("POST", PODS, "application/json, application/yaml", named, "415 A3"),
        ("POST", PODS, "application/yaml", named, read_as),
        ("PUT", POD, "application/yaml", b"metadata: {name: x}", read_as),
        ("POST", PODS, "application/cbor", named, "415 A3"),
        ("POST", PODS, "application/cbor-seq", named, "415 A3"),
        ("POST", PODS, MERGE, named, "415 A3"),
        ("POST", PODS, APPLY, named, "415 A3"),
        ("PUT", POD, STRATEGIC, named, "415 A3"),
        ("PATCH", POD, "", b"{}", "415 A3"),
        ("PATCH", POD, JSON, b"{}", "415 A3"),
        ("PATCH", POD, "application/apply-patch+cbor", b"{}", "415 A3"),
        ("PATCH", POD, APPLY, b"apiVersion: v1\nkind: Pod\n", r#"{"apiVersion":"v1","kind":"Pod"}"#),
        ("PATCH", POD, "application/yaml", b"{}", "415 A3"),
        ("PATCH", POD, "application/vnd.kubernetes.protobuf", b"k8s\0", "415 A3"),
        ("DELETE", POD, MERGE, b"{}", "415 A3"),
        ("DELETE", POD, "application/yaml", b"dryRun: [All]", r#"{"dryRun":["All"]}"#),
    ]);
}

#[test]
fn a3_only_writes_carry_a_body() {
    check(&[
        ("GET", POD, JSON, b"{}", "400 A3"),
        ("GET", PODS, "", b" ", "400 A3"),
        ("GET", "/version", "", b"x", "400 A3"),
        ("GET", "/api/v1/namespaces/a/pods/x/exec?command=sh", "", b"x", "400 A3"),
        ("POST", "/api/v1/namespaces/a/pods/x/exec?command=sh", "", b"x", "400 A3"),
        ("POST", "/api/v1/namespaces/a/services/x/proxy", "", b"x", "400 A3"),
        ("POST", PODS, JSON, b"", "400 A3"),
        ("PUT", POD, JSON, b"", "400 A3"),
        ("PATCH", POD, MERGE, b"", "400 A3"),
    ]);
}

#[test]
fn a3_the_body_agrees_with_the_target() {
    let web = br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"a"}}"#;
    let same = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"a"}}"#;
    check(&[
        ("PUT", WEB, JSON, web, same),
        ("PATCH", WEB, APPLY, web, same),
        post(r#"{"kind":"Secret","metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"kind":"pod","metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"kind":"","metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"kind":7,"metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"kind":null,"metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"kind":"List","apiVersion":"v1","items":[]}"#, "400 A3"),
        post(r#"{"apiVersion":"v2","metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"apiVersion":"apps/v1","metadata":{"name":"a"}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","namespace":"b"}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","namespace":7}}"#, "400 A3"),
        post(r#"{"metadata":{"name":["a"]}}"#, "400 A3"),
        post(r#"{"metadata":[]}"#, "400 A3"),
        post(r#"{"metadata":null}"#, "400 A3"),
        post(r#"{"metadata":{}}"#, "400 A3"),
        post(r#"{"spec":{}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"","generateName":""}}"#, "400 A3"),
        post(r#"{"metadata":{"name":"a","uid":7}}"#, "400 A3"),
        ("PUT", POD, JSON, br#"{"metadata":{}}"#, "400 A3"),
        ("PUT", POD, JSON, br#"{"metadata":{"name":"y"}}"#, "400 A3"),
        ("PUT", POD, JSON, br#"{"metadata":{"generateName":"x"}}"#, "400 A3"),
        ("PATCH", POD, MERGE, br#"{"metadata":{"name":"y"}}"#, "400 A3"),
        ("PATCH", POD, MERGE, br#"{"metadata":{"namespace":"b"}}"#, "400 A3"),
        ("PATCH", POD, MERGE, br#"{"metadata":null}"#, "400 A3"),
        ("PATCH", POD, MERGE, br#"{"kind":"Secret"}"#, "400 A3"),
        ("PATCH", POD, STRATEGIC, br#"{"apiVersion":"v2"}"#, "400 A3"),
        ("PATCH", POD, MERGE, b"[]", "400 A3"),
        ("PATCH", POD, MERGE, b"null", "400 A3"),
        ("PATCH", WEB, APPLY, b"{}", "400 A3"),
        ("PATCH", WEB, APPLY, br#"{"kind":"Deployment"}"#, "400 A3"),
        ("PATCH", SCALE, MERGE, br#"{"kind":"Deployment"}"#, "400 A3"),
        ("PUT", SCALE, JSON, br#"{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"web"},"spec":{"replicas":0}}"#,
            r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":0}}"#),
        ("POST", "/api/v1/namespaces", JSON, br#"{"metadata":{"name":"n","namespace":"a"}}"#, "400 A3"),
        ("POST", "/apis/example.com/v1/hubs", JSON, br#"{"metadata":{"name":"h"}}"#, r#"{"apiVersion":"example.com/v1","kind":"Hub","metadata":{"name":"h"}}"#),
    ]);
}

#[test]
fn b97_the_name_of_a_create_comes_from_the_body() {
    let name = |body: &str| match read("POST", PODS, &headers(JSON), body.as_bytes()).expect("read") {
        request if request.body.generate_name().is_some() => {
            let Action::Resource(resource) = &request.action else { panic!("a resource") };
            assert_eq!(resource.name, None);
            format!("{}*", request.body.generate_name().unwrap_or_default())
        }
        request => match request.action {
            Action::Resource(resource) => resource.name.unwrap_or_default(),
            Action::NonResource { .. } => panic!("a resource"),
        },
    };
    assert_eq!(name(r#"{"metadata":{"name":"x"}}"#), "x");
    assert_eq!(name(r#"{"metadata":{"generateName":"x-"}}"#), "x-*");
    assert_eq!(name(r#"{"metadata":{"generateName":"x-","name":"x-1"}}"#), "x-1");
}

#[test]
fn b96_an_apply_and_an_update_of_some_kinds_may_create_unless_a_uid_forbids_it() {
    let may_create = |method: &str, target: &str, content_type: &str, body: &str| {
        let request = read(method, target, &headers(content_type), body.as_bytes()).expect("read");
        let Action::Resource(resource) = request.action else { panic!("a resource") };
        resource.may_create
    };
    let (maps, leases) =
        ("/api/v1/namespaces/default/configmaps", "/apis/coordination.k8s.io/v1/namespaces/default/leases");
    let (map, lease) = (format!("{maps}/x"), format!("{leases}/x"));
    let apply = "application/apply-patch+yaml";
    let applied = format!("{map}?fieldManager=kubectl");
    for (metadata, creates) in [
        (r#"{"name":"x"}"#, true),
        (r#"{"name":"x","resourceVersion":"7"}"#, true),
        (r#"{"name":"x","uid":"0f6d2f0e-6f0a-4c1e-9f60-7f0d5f1f9a11"}"#, false),
    ] {
        let of = |api: &str, kind: &str| {
            format!(r#"{{"apiVersion":"{api}","kind":"{kind}","metadata":{metadata}}}"#)
        };
        assert_eq!(may_create("PATCH", &applied, apply, &of("v1", "ConfigMap")), creates, "{metadata}");
        assert_eq!(
            may_create("PUT", &lease, JSON, &of("coordination.k8s.io/v1", "Lease")),
            creates,
            "{metadata}"
        );
        assert!(!may_create("PUT", &map, JSON, &of("v1", "ConfigMap")));
        assert!(!may_create("POST", maps, JSON, &of("v1", "ConfigMap")));
    }
    assert!(!may_create("PATCH", &lease, "application/merge-patch+json", "{}"));
}

#[test]
fn a3_json_patches_keep_only_what_they_use() {
    check(&[
        ("PATCH", WIDGET, OPERATIONS, b"[]", "[]"),
        (
            "PATCH",
            WIDGET,
            OPERATIONS,
            br#"[{"path":"/a","op":"remove","value":1}]"#,
            r#"[{"op":"remove","path":"/a"}]"#,
        ),
        (
            "PATCH",
            WIDGET,
            OPERATIONS,
            br#"[{"op":"add","path":"/a","value":null}]"#,
            r#"[{"op":"add","path":"/a","value":null}]"#,
        ),
        (
            "PATCH",
            WIDGET,
            OPERATIONS,
            br#"[{"op":"copy","from":"/a","path":"/b"}]"#,
            r#"[{"from":"/a","op":"copy","path":"/b"}]"#,
        ),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"add","path":"/a"}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"Add","path":"/a","value":1}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"merge","path":"/a","value":1}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"move","path":"/a"}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"add","path":"a","value":1}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"add","path":"/a","value":1,"Path":"/b"}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"add","path":["a"],"value":1}]"#, "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, b"[1]", "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, b"{}", "400 A3"),
        ("PATCH", WIDGET, OPERATIONS, br#"[{"op":"add","op":"remove","path":"/a"}]"#, "400 A3"),
    ]);
}

#[test]
fn b99_delete_options_have_one_place() {
    let dry = |target: &str, content_type: &str, body: &[u8]| {
        let read = read("DELETE", target, &headers(content_type), body);
        match &read {
            Ok(request) => {
                let body = String::from_utf8(request.body.to_bytes().unwrap_or_default()).expect("text");
                format!("{} {body}", facts::act(request))
            }
            Err(_) => summary(&read),
        }
    };
    let query = |query: &str| format!("{POD}?{query}");
    for (target, body, want) in [
        (POD.to_owned(), "", "delete v1 pods a/x "),
        (POD.to_owned(), "{}", "delete v1 pods a/x "),
        (query("dryRun=All"), "", r#"delete v1 pods a/x dry {"dryRun":["All"]}"#),
        (query("dryRun=All"), "{}", "400 B99"),
        (query("dryRun=All"), "null", "400 B99"),
        (query("gracePeriodSeconds=0"), r#"{"gracePeriodSeconds":0}"#, "400 B99"),
        (POD.to_owned(), r#"{"dryRun":["All"]}"#, r#"delete v1 pods a/x dry {"dryRun":["All"]}"#),
        (POD.to_owned(), r#"{"dryRun":[]}"#, "delete v1 pods a/x "),
        (POD.to_owned(), r#"{"DryRun":["All"]}"#, "400 B99"),
        (POD.to_owned(), r#"{"dryRun":"All"}"#, "400 B99"),
        (POD.to_owned(), r#"{"dryRun":["all"]}"#, "400 B99"),
        (POD.to_owned(), r#"{"dryRun":["All","All"]}"#, "400 B99"),
        (POD.to_owned(), "null", "400 B99"),
        (POD.to_owned(), "[]", "400 B99"),
        (POD.to_owned(), r#"{"kind":"Pod"}"#, "400 B99"),
        (POD.to_owned(), r#"{"kind":"DeleteOptions","apiVersion":"apps/v1"}"#, "400 B99"),
        (POD.to_owned(), r#"{"kind":"DeleteOptions","apiVersion":"v1"}"#, "delete v1 pods a/x "),
        (POD.to_owned(), r#"{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1"}"#, "delete v1 pods a/x "),
        (POD.to_owned(), r#"{"gracePeriodSeconds":-1}"#, "400 B99"),
        (POD.to_owned(), r#"{"gracePeriodSeconds":"0"}"#, "400 B99"),
        (POD.to_owned(), r#"{"propagationPolicy":"background"}"#, "400 B99"),
        (POD.to_owned(), r#"{"preconditions":{"uid":"u","name":"x"}}"#, "400 B99"),
        (
            query("propagationPolicy=Foreground&gracePeriodSeconds=5"),
            "",
            r#"delete v1 pods a/x {"gracePeriodSeconds":5,"propagationPolicy":"Foreground"}"#,
        ),
        (
            POD.to_owned(),
            r#"{"preconditions":{"resourceVersion":"7","uid":"u"},"orphanDependents":false}"#,
            r#"delete v1 pods a/x {"orphanDependents":false,"preconditions":{"resourceVersion":"7","uid":"u"}}"#,
        ),
        (
            format!("{PODS}?labelSelector=a&dryRun=All"),
            "",
            r#"deletecollection v1 pods a/ dry ?labelSelector=a {"dryRun":["All"]}"#,
        ),
    ] {
        assert_eq!(dry(&target, "", body.as_bytes()), want, "{target} {body}");
    }
}

#[test]
fn b99_an_eviction_carries_delete_options() {
    let target = "/api/v1/namespaces/a/pods/x/eviction";
    let summary = |query: &str, body: &str| {
        summary(&read("POST", &format!("{target}{query}"), &headers(JSON), body.as_bytes()))
    };
    let plain = r#"{"metadata":{"name":"x"}}"#;
    let dry = r#"{"metadata":{"name":"x"},"deleteOptions":{"dryRun":["All"]}}"#;
    assert_eq!(summary("", plain), "create v1 pods/eviction a/x");
    assert_eq!(summary("", dry), "create v1 pods/eviction a/x dry");
    assert_eq!(summary("?dryRun=All", plain), "create v1 pods/eviction a/x dry ?dryRun=All");
    assert_eq!(summary("", r#"{"metadata":{"name":"x"},"deleteOptions":{"DryRun":["All"]}}"#), "400 B99");
    assert_eq!(summary("", r#"{"metadata":{"name":"y"}}"#), "400 A3");
}

#[test]
fn a1_a_token_request_is_never_a_dry_run() {
    let target = "/api/v1/namespaces/a/serviceaccounts/s/token?dryRun=All";
    let got = summary(&read("POST", target, &headers(JSON), b"{}"));
    assert_eq!(got, "create v1 serviceaccounts/token a/s ?dryRun=All");
}

#[test]
fn a3_refused_protobuf_says_the_way_out() {
    let body = b"k8s\0\n\x0c\n\x02v1\x12\x06Gadget\x12\x00\x1a\x00\"\x00";
    let protobuf = headers("application/vnd.kubernetes.protobuf");
    let refusal = read("POST", "/api/v1/namespaces/a/secrets", &protobuf, body).expect_err("refused");
    assert_eq!(refusal.code.as_u16(), 415);
    assert!(refusal.message.contains("`Gadget`"), "{refusal}");
    assert!(refusal.next.expect("a way out").contains("send the object as JSON"));
    for broken in [&b""[..], b"k8s", b"k9s\0", b"k8s\0\xff\xff", b"k8s\0\x0a\x7f"] {
        let read = read("POST", "/api/v1/namespaces/a/secrets", &protobuf, broken);
        assert_eq!(summary(&read), "400 A3", "{broken:?}");
    }
}

#[test]
fn b103_a_field_that_is_not_known_is_refused_by_its_path() {
    let refused = |method: &str, target: &str, content_type: &str, body: &str| match read(
        method,
        target,
        &headers(content_type),
        body.as_bytes(),
    ) {
        Ok(_) => "read".to_owned(),
        Err(refusal) if refusal.rule == "B103" => {
            assert_eq!(refusal.code.as_u16(), 400);
            assert!(refusal.next.is_some_and(|next| next.contains("newer gate")), "{refusal}");
            refusal.message.split('`').nth(1).unwrap_or_default().to_owned()
        }
        Err(refusal) => refusal.to_string(),
    };
    let named = |rest: &str| format!(r#"{{"metadata":{{"name":"x"}},{rest}}}"#);
    for (rest, path) in [
        (r#""spec":{"hostNetwork":true}"#, "read"),
        (r#""spec":{"newThing":true}"#, ".spec.newThing"),
        (r#""spec":{"HostNetwork":true}"#, ".spec.HostNetwork"),
        (
            r#""spec":{"containers":[{"name":"a"},{"name":"b","privileged":true}]}"#,
            ".spec.containers[1].privileged",
        ),
        (r#""spec":{"volumes":[{"name":"a","hostPath":{"path":"/"}}]}"#, "read"),
        (r#""spec":{"volumes":[{"name":"a","volumeSource":{}}]}"#, ".spec.volumes[0].volumeSource"),
        (r#""spec":{"containers":[{"resources":{"limits":{"any/thing":"1"}}}]}"#, "read"),
        (r#""spec":{"nodeSelector":{"any":"thing"}}"#, "read"),
        (r#""spec":{"containers":{"privileged":true}}"#, ".spec.containers.privileged"),
        (r#""data":{"a":"b"}"#, ".data"),
        (r#""spec":{"a b`\n":1}"#, ".spec['a b"),
        (r#""extra":null"#, ".extra"),
        (r#""spec":{"$patch":"replace"}"#, ".spec.$patch"),
    ] {
        assert_eq!(refused("POST", PODS, JSON, &named(rest)), path, "{rest}");
        assert_eq!(refused("PUT", POD, JSON, &named(rest)), path, "{rest}");
        assert_eq!(refused("PATCH", POD, MERGE, &named(rest)), path, "{rest}");
        if !rest.contains("$patch") {
            assert_eq!(refused("PATCH", POD, STRATEGIC, &named(rest)), path, "{rest}");
        }
    }
    let applied = |rest: &str| format!(r#"{{"apiVersion":"v1","kind":"Pod",{rest}}}"#);
    assert_eq!(refused("PATCH", POD, APPLY, &applied(r#""spec":{"newThing":1}"#)), ".spec.newThing");
    assert_eq!(refused("PATCH", SCALE, MERGE, r#"{"spec":{"replicas":1}}"#), "read");
    assert_eq!(refused("PATCH", SCALE, MERGE, r#"{"spec":{"paused":true}}"#), ".spec.paused");
    assert_eq!(refused("PATCH", WIDGET, MERGE, r#"{"spec":{"anything":{"at":"all"}}}"#), "read");
    for (body, path) in [
        (r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#, "read"),
        (r#"{"spec":{"$setElementOrder/containers":[{"name":"a"}],"$retainKeys":["containers"]}}"#, "read"),
        (r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#, "read"),
        (r#"{"spec":{"$setElementOrder/newThings":[]}}"#, ".spec['$setElementOrder/newThings']"),
        (r#"{"spec":{"$other/containers":[]}}"#, ".spec['$other/containers']"),
    ] {
        assert_eq!(refused("PATCH", POD, STRATEGIC, body), path, "{body}");
    }
}

#[test]
fn b103_a_json_patch_is_read_along_the_fields() {
    let refused = |body: &str| {
        let read = read("PATCH", POD, &headers(OPERATIONS), format!("[{body}]").as_bytes());
        match read {
            Ok(_) => "read".to_owned(),
            Err(refusal) if refusal.rule == "B103" => {
                refusal.message.split('`').nth(1).unwrap_or_default().to_owned()
            }
            Err(refusal) => refusal.to_string(),
        }
    };
    for (body, path) in [
        (r#"{"op":"replace","path":"/spec/containers/0/image","value":"a"}"#, "read"),
        (r#"{"op":"add","path":"/metadata/labels/a~1b","value":"c"}"#, "read"),
        (r#"{"op":"add","path":"/spec/containers/-","value":{"name":"a"}}"#, "read"),
        (
            r#"{"op":"add","path":"/spec/containers/-","value":{"name":"a","newThing":1}}"#,
            "/spec/containers/-.newThing",
        ),
        (r#"{"op":"add","path":"/spec/newThing","value":1}"#, "/spec/newThing"),
        (r#"{"op":"remove","path":"/spec/newThing"}"#, "/spec/newThing"),
        (r#"{"op":"test","path":"/spec/newThing","value":1}"#, "/spec/newThing"),
        (r#"{"op":"add","path":"/spec","value":{"newThing":1}}"#, "/spec.newThing"),
        (r#"{"op":"replace","path":"","value":{"newThing":1}}"#, ".newThing"),
        (r#"{"op":"add","path":"/spec/containers/0/image/x","value":1}"#, "/spec/containers/0/image/x"),
        (r#"{"op":"copy","from":"/metadata/labels/a","path":"/metadata/annotations/b"}"#, "read"),
        (r#"{"op":"move","from":"/spec/containers/0","path":"/spec/initContainers/0"}"#, "read"),
        (r#"{"op":"move","from":"/spec/containers/0","path":"/spec/containers/1"}"#, "read"),
        (
            r#"{"op":"copy","from":"/metadata/annotations","path":"/spec/securityContext"}"#,
            "/spec/securityContext",
        ),
        (r#"{"op":"copy","from":"/metadata/labels","path":"/metadata/labels/a"}"#, "/metadata/labels/a"),
        (r#"{"op":"copy","from":"/spec/newThing","path":"/metadata/annotations/b"}"#, "/spec/newThing"),
    ] {
        assert_eq!(refused(body), path, "{body}");
    }
}

#[test]
fn patches_keep_their_type() {
    for (content_type, body) in [(MERGE, "{}"), (STRATEGIC, "{}"), (OPERATIONS, "[]")] {
        let request = read("PATCH", POD, &headers(content_type), body.as_bytes()).expect("read");
        assert_eq!(request.body.content_type(), Some(content_type));
    }
    let options = read("DELETE", POD, &headers(""), b"").expect("read");
    assert!(matches!(options.body, Body::Delete(_)));
}
