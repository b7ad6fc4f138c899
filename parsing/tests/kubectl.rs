//! What kubectl 1.36 and 1.32 really sent, request by request, is read; what is refused is refused by name.

mod facts;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use facts::{headers, read, summary};
use parsing::discovery::{Discovery, Kind, Resource};
use parsing::review::{Asked, Review};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sent {
    kubectl: String,
    command: String,
    method: String,
    target: String,
    content_type: Option<String>,
    accept: Option<String>,
    upgrade: Option<String>,
    text: Option<String>,
    base64: Option<String>,
}

impl Sent {
    fn body(&self) -> Vec<u8> {
        match (&self.text, &self.base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).expect("base64"),
            (None, None) => Vec::new(),
        }
    }

    fn headers(&self) -> http::HeaderMap {
        let mut map = headers(self.content_type.as_deref().unwrap_or_default());
        for (name, value) in [("accept", &self.accept), ("upgrade", &self.upgrade)] {
            if let Some(value) = value {
                map = facts::with(map, name, value);
            }
        }
        if self.upgrade.is_some() { facts::with(map, "connection", "Upgrade") } else { map }
    }
}

fn corpus() -> Vec<Sent> {
    let text = include_str!("fixtures/kubectl.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("a request")).collect()
}

#[test]
fn everything_that_kubectl_sends_is_read_or_named() {
    let mut read_ones = 0;
    for sent in corpus() {
        let got = read(&sent.method, &sent.target, &sent.headers(), &sent.body());
        let request = got.unwrap_or_else(|e| {
            panic!("{} {}: {} {}: {e}", sent.kubectl, sent.command, sent.method, sent.target)
        });
        read_ones += 1;
        // Read again, what goes upstream is the same.
        let body = request.body.to_bytes().unwrap_or_default();
        let again = headers(request.body.content_type().unwrap_or_default());
        let twice = read(&sent.method, &request.canonical_target(), &again, &body).expect("read again");
        assert_eq!((twice.action, twice.body), (request.action, request.body), "{}", sent.command);
    }
    assert!(read_ones > 80, "{read_ones}");
}

#[test]
fn protobuf_reviews_of_a_real_kubectl_are_decoded() {
    let reviews: Vec<Review> = corpus()
        .iter()
        .filter(|sent| sent.target.contains("selfsubject"))
        .map(|sent| {
            let request = read(&sent.method, &sent.target, &sent.headers(), &sent.body()).expect("read");
            request.review().expect("a review").clone()
        })
        .collect();
    assert!(reviews.contains(&Review::Whoami));
    assert!(reviews.contains(&Review::Rules { namespace: "default".into() }));
    let path = Asked::NonResource { path: "/livez".into(), verb: "get".into() };
    assert!(reviews.contains(&Review::Access(path)));
    let web = |review: &Review| {
        matches!(review, Review::Access(Asked::Resource(asked))
        if asked.verb == "delete" && asked.group == "apps" && asked.resource == "deployments"
            && asked.name == "web" && asked.namespace == "default")
    };
    assert!(reviews.iter().any(web), "{reviews:?}");
}

#[test]
fn drain_by_delete_is_protobuf_delete_options() {
    let sent = corpus()
        .into_iter()
        .find(|sent| sent.command.contains("--disable-eviction") && sent.method == "DELETE");
    let sent = sent.expect("in the corpus");
    let request = read("DELETE", &sent.target, &sent.headers(), &sent.body()).expect("read");
    assert_eq!(summary(&Ok(request.clone())), "delete v1 pods default/q");
    assert_eq!(request.body.content_type(), Some("application/json"));
}

#[test]
fn aggregated_discovery_is_read() {
    let discovery = facts::discovery();
    let deployments = discovery.resource("apps", "v1", "deployments").expect("served");
    assert!(deployments.namespaced);
    let scale = &deployments.subresources["scale"].kind;
    assert_eq!((scale.api_version().as_str(), scale.kind.as_str()), ("autoscaling/v1", "Scale"));
    let pods = discovery.resource("", "v1", "pods").expect("served");
    assert_eq!(pods.subresources["eviction"].kind.api_version(), "policy/v1");
    assert_eq!(
        discovery.resource("", "v1", "secrets").expect("served").kind,
        Kind { group: String::new(), version: "v1".into(), kind: "Secret".into() }
    );
    assert!(discovery.iter().count() > 60);
    let mut other = Discovery::new();
    for bad in ["", "{}", r#"{"kind":"Status"}"#, r#"{"kind":"APIGroupDiscoveryList","items":7}"#] {
        assert!(other.add(bad.as_bytes()).is_err(), "{bad}");
        assert!(other.is_empty());
    }
    other.insert("", "v1", "pods", Resource::default());
    assert!(!other.is_empty());
}
