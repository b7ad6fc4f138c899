//! The same tuple as kube-apiserver's own `RequestInfo` (H1). The table was written by `oracle/`, with the resolver of
//! k8s.io/apiserver 0.36.3: `cd parsing/oracle && go run . < lines > ../tests/fixtures/request_info.jsonl`.

mod facts;

use facts::{discovery, headers, report};
use http::Version;
use parsing::request;
use policy::action::{Action, ResourceAction, Scope, Verb};
use serde::Deserialize;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct Info {
    method: String,
    target: String,
    error: bool,
    resource: bool,
    verb: String,
    path: String,
    group: String,
    version: String,
    kind: String,
    sub: String,
    namespace: String,
    name: String,
}

/// Our reading, in the API server's words.
fn ours(action: &Action, line: &Info) -> Info {
    let Info { method, target, .. } = line.clone();
    match action {
        Action::NonResource { verb, path } => {
            Info { method, target, verb: verb.clone(), path: path.clone(), ..Info::default() }
        }
        Action::Resource(a) => Info {
            method,
            target,
            resource: true,
            verb: a.verb.to_string(),
            path: line.path.clone(),
            group: a.group.clone(),
            version: a.version.clone(),
            kind: a.resource.clone(),
            sub: a.subresource.clone().unwrap_or_default(),
            namespace: match &a.scope {
                Scope::Namespace(namespace) => namespace.clone(),
                Scope::Cluster | Scope::AllNamespaces => String::new(),
            },
            name: a.name.clone().unwrap_or_default(),
            error: false,
        },
    }
}

/// Where we differ on purpose: streams are `create` whatever the method (P12), `scheme:name:port` is split (P12), and one
/// trailing `/` behind discovery is dropped (P4).
fn expected(mut line: Info, action: &Action) -> Info {
    if let Action::Resource(ResourceAction { verb: Verb::Create, subresource: Some(sub), name, .. }) = action
        && ["exec", "attach", "portforward", "proxy"].contains(&sub.as_str())
    {
        line.verb = "create".to_owned();
        line.name = name.clone().unwrap_or_default();
    }
    if !line.resource && line.path.len() > 1 {
        line.path = line.path.trim_end_matches('/').to_owned();
    }
    line
}

#[test]
fn h1_every_accepted_target_is_what_the_api_server_reads() {
    let (mut failures, mut accepted) = (Vec::new(), 0);
    for line in include_str!("fixtures/request_info.jsonl").lines() {
        let line: Info = serde_json::from_str(line).expect("a row");
        let read =
            request::read(Version::HTTP_11, &line.method, line.target.as_bytes(), &headers(""), discovery());
        let Ok(head) = read else { continue };
        accepted += 1;
        let (ours, theirs) = (ours(&head.act.action, &line), expected(line.clone(), &head.act.action));
        if ours != theirs {
            failures.push(format!("{} {}\n  ours   {ours:?}\n  theirs {theirs:?}", line.method, line.target));
        }
    }
    report(failures);
    assert!(accepted > 900, "only {accepted} rows were accepted");
}
