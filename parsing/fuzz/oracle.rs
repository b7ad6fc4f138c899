//! What holds for every input: no panic; what is read is rebuilt, and the rebuilt text is read as the same (H1, H2).

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use parsing::discovery::{Discovery, Kind, Resource, Subresource};
use parsing::request::{self, Request};
use parsing::{digest, header, json, query, target};

/// Method, a blank, raw target.
pub fn target(input: &[u8]) {
    let (method, raw) = match input.iter().position(|byte| *byte == b' ') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (&b"GET"[..], input),
    };
    let Ok(method) = std::str::from_utf8(method) else { return };
    let Ok((read, raw_query)) = target::read(method, raw) else { return };
    let path = read.path.canonical();
    assert_safe(&path);
    let (again, rest) = target::read(method, path.as_bytes()).expect("a rebuilt path is read");
    assert_eq!((&again, rest), (&read, None), "the rebuilt path names something else");
    if let Ok(first) = query::read(raw_query, &read) {
        same_query(&first, &read);
    }
    let _ = request::read(Version::HTTP_11, method, raw, &sent(""), discovery());
}

/// One byte that chooses a target, raw query.
pub fn query(input: &[u8]) {
    let Some((choice, raw)) = input.split_first() else { return };
    let Ok(raw) = std::str::from_utf8(raw) else { return };
    let (method, path) = TARGETS[usize::from(*choice) % TARGETS.len()];
    let (target, _) = target::read(method, path.as_bytes()).expect("a target of ours");
    if let Ok(mut first) = query::read(Some(raw), &target) {
        same_query(&first, &target);
        if matches!(method, "GET") && path.ends_with("/pods") {
            first.exclude_namespaces(["a", "kube-system"]);
            same_query(&first, &target);
        }
    }
}

/// One byte that chooses target and content type, body.
pub fn body(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let (method, path, content_type) = WRITES[usize::from(*choice) % WRITES.len()];
    let Ok(first) = write(method, path, content_type, bytes) else { return };
    let rebuilt = first.body.to_bytes();
    if let Some(rebuilt) = &rebuilt {
        let value: serde_json::Value = serde_json::from_slice(rebuilt).expect("what is rebuilt is JSON");
        assert_eq!(&json::write(&value), rebuilt, "another reader sees another value");
        let strict = json::read(rebuilt).expect("what is rebuilt is read");
        assert_eq!(&json::write(&strict), rebuilt);
    }
    let content_type = first.body.content_type().unwrap_or_default();
    let target = first.canonical_target();
    let again =
        write(method, &target, content_type, &rebuilt.clone().unwrap_or_default()).expect("read again");
    assert_eq!(again.body, first.body, "the rebuilt body is another");
    assert_eq!(again.action, first.action, "the rebuilt body does something else");
    let print = |request: &Request| digest::fingerprint(request, "in-cluster", "agents/a", Some("uid"), None);
    assert_eq!(print(&first), print(&again));
    bound(first);
}

/// One byte that chooses a target and the protocol, then lines of `name: value`.
pub fn headers(input: &[u8]) {
    let Some((choice, lines)) = input.split_first() else { return };
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().skip(1).position(|byte| *byte == b':').map(|at| at + 1) else {
            continue;
        };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]));
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    if let Ok(token) = header::bearer(&map) {
        let text = token.expose();
        assert!(
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b','),
            "a token of {text:?}"
        );
        assert_eq!(map.get_all("authorization").iter().count(), 1);
    }
    let version = if choice & 0x80 == 0 { Version::HTTP_11 } else { Version::HTTP_2 };
    let (method, path) = TARGETS[usize::from(choice & 0x7f) % TARGETS.len()];
    let (target, _) = target::read(method, path.as_bytes()).expect("a target of ours");
    let Ok(kept) = header::read(version, &map, &target) else { return };
    let foreign =
        |name: &str| name.contains('_') || name.starts_with("impersonate-") || name.starts_with("x-remote");
    assert!(!map.keys().any(|name| foreign(name.as_str())), "an identity of the client's own: {map:?}");
    for name in ["authorization", "host", "content-type", "content-length", "transfer-encoding"] {
        assert!(map.get_all(name).iter().count() <= 1, "`{name}` twice: {map:?}");
    }
    let stream = ["exec", "portforward"].iter().any(|sub| path.ends_with(sub));
    assert!(kept.upgrade.is_none() || stream && version == Version::HTTP_11, "an upgrade of {path}");
    let token = "base64url.bearer.authorization.k8s.io.";
    assert!(!kept.subprotocols.iter().any(|one| one.to_ascii_lowercase().starts_with(token)));
    assert!(kept.content_length.is_none() || !map.contains_key("transfer-encoding"));
    let discovery = path.starts_with("/openapi");
    assert!(kept.upstream().keys().all(|name| discovery && name == "if-none-match"), "{:?}", kept.upstream());
}

fn bound(mut request: Request) {
    let before = request.action.clone();
    let _ = request.require("0f6d2f0e", "42");
    assert_eq!(request.action, before, "a precondition changed the act");
    if let Some(bytes) = request.body.to_bytes() {
        json::read(&bytes).expect("a bound body is JSON");
    }
}

fn same_query(first: &query::Query, target: &target::Target) {
    let text = first.canonical();
    assert_safe(&text);
    let again = query::read(Some(&text), target).expect("a rebuilt query is read");
    assert_eq!(again.canonical(), text);
    assert_eq!((again.fields(), again.labels()), (first.fields(), first.labels()));
}

/// Only what our own encoder writes (P10).
fn assert_safe(text: &str) {
    let ours = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%:?&=".contains(&b);
    assert!(text.bytes().all(ours), "a foreign byte in {text:?}");
}

fn write(method: &str, path: &str, content_type: &str, bytes: &[u8]) -> Result<Request, parsing::Refusal> {
    let head = request::read(Version::HTTP_11, method, path.as_bytes(), &sent(content_type), discovery())?;
    head.with_body(bytes)
}

fn sent(content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("gate"));
    if !content_type.is_empty() {
        headers.insert("content-type", HeaderValue::from_str(content_type).expect("a content type of ours"));
    }
    headers
}

const TARGETS: [(&str, &str); 12] = [
    ("GET", "/api/v1/namespaces/a/pods"),
    ("GET", "/api/v1/pods"),
    ("GET", "/api/v1/namespaces/a/pods/x"),
    ("GET", "/api/v1/namespaces/a/pods/x/log"),
    ("GET", "/api/v1/namespaces/a/pods/x/exec"),
    ("GET", "/api/v1/namespaces/a/pods/x/portforward"),
    ("POST", "/api/v1/namespaces/a/pods"),
    ("PATCH", "/api/v1/namespaces/a/pods/x"),
    ("DELETE", "/api/v1/namespaces/a/pods/x"),
    ("DELETE", "/api/v1/namespaces/a/pods"),
    ("GET", "/openapi/v3"),
    ("GET", "/livez"),
];

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The order is part of the corpus: only append.
pub const WRITES: [(&str, &str, &str); 17] = [
    ("POST", "/api/v1/namespaces/a/pods", "application/json"),
    ("PUT", "/api/v1/namespaces/a/pods/x", "application/json"),
    ("PATCH", "/api/v1/namespaces/a/pods/x", "application/merge-patch+json"),
    ("PATCH", "/api/v1/namespaces/a/pods/x", "application/strategic-merge-patch+json"),
    ("PATCH", "/api/v1/namespaces/a/pods/x", "application/json-patch+json"),
    ("PATCH", "/api/v1/namespaces/a/pods/x", "application/apply-patch+yaml"),
    ("DELETE", "/api/v1/namespaces/a/pods/x", ""),
    ("DELETE", "/api/v1/namespaces/a/pods/x", PROTOBUF),
    ("POST", "/api/v1/namespaces/a/pods/x/eviction", "application/json"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", PROTOBUF),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", PROTOBUF),
    ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", PROTOBUF),
    ("DELETE", "/api/v1/namespaces/a/pods?dryRun=All", ""),
    ("POST", "/api/v1/namespaces/a/pods", "application/yaml"),
    ("DELETE", "/api/v1/namespaces/a/pods/x", "application/yaml"),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/yaml"),
];

fn discovery() -> &'static Discovery {
    static DISCOVERY: OnceLock<Discovery> = OnceLock::new();
    DISCOVERY.get_or_init(|| {
        let kind =
            |group: &str, kind: &str| Kind { group: group.into(), version: "v1".into(), kind: kind.into() };
        let verbs = |verbs: &str| verbs.split(' ').map(str::to_owned).collect();
        let mut discovery = Discovery::new();
        let all = "create delete deletecollection get list patch update watch";
        let mut pods =
            Resource { kind: kind("", "Pod"), namespaced: true, verbs: verbs(all), ..Default::default() };
        for (name, of, offered) in [
            ("log", kind("", "Pod"), "get"),
            ("exec", kind("", "PodExecOptions"), "create get"),
            ("portforward", kind("", "PodPortForwardOptions"), "create get"),
            ("eviction", kind("policy", "Eviction"), "create"),
        ] {
            pods.subresources.insert(name.into(), Subresource { kind: of, verbs: verbs(offered) });
        }
        discovery.insert("", "v1", "pods", pods);
        for (group, resource, name) in [
            ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
            ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
        ] {
            let facts = Resource { kind: kind(group, name), verbs: verbs("create"), ..Default::default() };
            discovery.insert(group, "v1", resource, facts);
        }
        discovery
    })
}
