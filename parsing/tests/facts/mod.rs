//! What the tests share: a real server's discovery, and one line that says what a request became.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use parsing::Refusal;
use parsing::discovery::{Discovery, Kind, Resource, Subresource};
use parsing::query::Query;
use parsing::request::{self, Request};
use policy::action::{Action, Scope};

/// Discovery of kube-apiserver 1.36 and two custom kinds.
pub fn discovery() -> &'static Discovery {
    static DISCOVERY: OnceLock<Discovery> = OnceLock::new();
    DISCOVERY.get_or_init(build)
}

fn build() -> Discovery {
    let mut discovery = Discovery::new();
    discovery.add(include_bytes!("../fixtures/discovery-core.json")).expect("core");
    discovery.add(include_bytes!("../fixtures/discovery-groups.json")).expect("groups");
    let kind = |kind: &str| Kind { group: "example.com".into(), version: "v1".into(), kind: kind.into() };
    let verbs = |verbs: &str| verbs.split(' ').map(str::to_owned).collect();
    let all = "create delete deletecollection get list patch update watch";
    let status = Subresource { kind: kind("Widget"), verbs: verbs("get patch update") };
    let mut widgets = Resource {
        kind: kind("Widget"),
        namespaced: true,
        verbs: verbs(all),
        subresources: Default::default(),
    };
    widgets.subresources.insert("status".into(), status);
    discovery.insert("example.com", "v1", "widgets", widgets);
    let hubs = Resource {
        kind: kind("Hub"),
        namespaced: false,
        verbs: verbs(all),
        subresources: Default::default(),
    };
    discovery.insert("example.com", "v1", "hubs", hubs);
    discovery
}

/// Headers as kubectl sends them, with `content_type` if it is not empty.
pub fn headers(content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("gate:8443"));
    headers.insert("authorization", HeaderValue::from_static("Bearer abc.def"));
    if !content_type.is_empty() {
        headers.insert("content-type", HeaderValue::from_str(content_type).expect("a header value"));
    }
    headers
}

/// Adds one field, as often as it is called.
pub fn with(mut headers: HeaderMap, name: &str, value: &str) -> HeaderMap {
    let name: HeaderName = name.parse().expect("a header name");
    headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header value"));
    headers
}

/// Reads a whole request over HTTP/1.1.
pub fn read(method: &str, target: &str, headers: &HeaderMap, body: &[u8]) -> Result<Request, Refusal> {
    request::read(Version::HTTP_11, method, target.as_bytes(), headers, discovery())?.with_body(body)
}

/// `delete apps/v1 deployments payments/web ?a=b`, or `404 P11`.
pub fn summary(read: &Result<Request, Refusal>) -> String {
    match read {
        Ok(request) => act(request),
        Err(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.rule),
    }
}

/// What a request became, in one line.
pub fn act(request: &Request) -> String {
    line(&request.action, request.connect, &request.query)
}

/// An act in one line.
pub fn line(action: &Action, connect: bool, query: &Query) -> String {
    let resource = match action {
        Action::NonResource { verb, path } => return suffixed(format!("{verb} {path}"), query),
        Action::Resource(resource) => resource,
    };
    let api = if resource.group.is_empty() {
        resource.version.clone()
    } else {
        format!("{}/{}", resource.group, resource.version)
    };
    let scope = match &resource.scope {
        Scope::Cluster => "-".to_owned(),
        Scope::Namespace(namespace) => namespace.clone(),
        Scope::AllNamespaces => "*".to_owned(),
    };
    let name = resource.name.as_deref().unwrap_or_default();
    let dry = if resource.dry_run { " dry" } else { "" };
    let connect = if connect { " connect" } else { "" };
    let what = resource.qualified_resource();
    suffixed(format!("{} {api} {what} {scope}/{name}{dry}{connect}", resource.verb), query)
}

fn suffixed(text: String, query: &Query) -> String {
    let query = query.canonical();
    if query.is_empty() { text } else { format!("{text} ?{query}") }
}

/// Compares every case and reports all that differ, not only the first.
pub fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}
