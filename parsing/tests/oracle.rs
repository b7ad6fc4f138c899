//! What is accepted is what the API server reads (H1): its own resolver of k8s.io/apiserver is asked about tens of thousands
//! of generated targets and a table of named ones, and about every target that would be forwarded for them.

#[path = "oracle/corpus.rs"]
mod corpus;
#[path = "oracle/dice.rs"]
mod dice;
mod facts;
#[path = "oracle/server.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use corpus::Line;
use facts::{discovery, headers, report};
use http::Version;
use parsing::Refusal;
use parsing::request::{self, Head};
use parsing::target::{self, Path, Target};
use policy::action::{Action, ResourceAction, Scope};
use server::Reading;

const SEED: u64 = 5;
const GENERATED: usize = 24_000;
const CONNECT: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

fn read((method, target): &Line) -> Result<Head, Refusal> {
    request::read(Version::HTTP_11, method, target.as_bytes(), &headers(""), discovery())
}

/// The target that would be sent. A delete's options are in its body by then (B99).
fn forwarded(head: &Head) -> String {
    if let Ok(request) = head.clone().with_body(b"") {
        return request.canonical_target();
    }
    let (path, query) = (head.target.path.canonical(), head.query.canonical());
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// Names, decoded, as the API server has them.
fn decoded(path: &Path) -> String {
    let joined = |segments: &[&str]| segments.iter().map(|segment| format!("/{segment}")).collect::<String>();
    match path {
        Path::NonResource(segments) if segments.is_empty() => "/".to_owned(),
        Path::NonResource(segments) => joined(&segments.iter().map(String::as_str).collect::<Vec<_>>()),
        Path::Resource(p) => {
            let mut out = if p.group.is_empty() { vec!["api"] } else { vec!["apis", &p.group] };
            out.push(&p.version);
            out.extend(p.namespace.iter().flat_map(|namespace| ["namespaces", namespace.as_str()]));
            out.push(&p.resource);
            out.extend(p.name.iter().chain(&p.subresource).chain(&p.proxied).map(String::as_str));
            joined(&out)
        }
    }
}

/// Our reading in the API server's words: everything but verb and query.
fn names(target: &Target) -> Reading {
    let mut reading = Reading { path: decoded(&target.path), ..Reading::default() };
    if let Path::Resource(path) = &target.path {
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let own_namespace = path.resource == "namespaces" && path.namespace.is_none();
        reading.resource = true;
        reading.group.clone_from(&path.group);
        reading.version.clone_from(&path.version);
        reading.kind.clone_from(&path.resource);
        reading.sub = of(&path.subresource);
        reading.namespace = if own_namespace { of(&path.name) } else { of(&path.namespace) };
        reading.name = of(&path.name);
    }
    reading
}

/// What policy will be asked, in the API server's words. Streams are `create` whatever the method, and of
/// `scheme:name:port` the middle counts (P12).
fn act(head: &Head) -> Reading {
    let mut reading = names(&head.target);
    match &head.act.action {
        Action::NonResource { verb, path } => {
            assert_eq!(*path, head.target.path.canonical());
            reading.verb.clone_from(verb);
        }
        Action::Resource(a) => {
            let ResourceAction { group, version, resource, .. } = a;
            assert_eq!((group, version, resource), (&reading.group, &reading.version, &reading.kind));
            assert_eq!(a.subresource.as_deref().unwrap_or_default(), reading.sub);
            let namespace = match &a.scope {
                Scope::Namespace(namespace) => namespace.as_str(),
                Scope::Cluster | Scope::AllNamespaces => "",
            };
            assert_eq!(namespace, reading.namespace, "policy is asked about the namespace of the path");
            reading.verb = a.verb.to_string();
            if reading.sub != "proxy" {
                reading.name = a.name.clone().unwrap_or_default();
            }
        }
    }
    reading
}

/// Theirs, but for where we differ on purpose (P12).
fn expected(theirs: &Reading) -> Reading {
    let verb = if CONNECT.contains(&theirs.sub.as_str()) { "create".to_owned() } else { theirs.verb.clone() };
    Reading { verb, query: None, fields: None, labels: None, ..theirs.clone() }
}

/// Differences between what is forwarded and what was meant, by the API server's own reading of both.
fn disagreement(line: &Line, head: &Head, client: &Reading, sent: &Reading) -> Option<String> {
    let ours = act(head);
    let mut of_client = expected(client);
    if !ours.resource && of_client.path.len() > 1 {
        of_client.path = of_client.path.trim_end_matches('/').to_owned(); // P4
    }
    let target = forwarded(head);
    let said = |what: &str| {
        Some(format!(
            "{} {}\n  as {target}\n  {what}\n  ours   {ours:?}\n  client {client:?}\n  sent   {sent:?}",
            line.0, line.1
        ))
    };
    if ours != of_client {
        return said("the client's target is another act");
    }
    if ours != expected(sent) {
        return said("the forwarded target is another act");
    }
    let again = match read(&(line.0.clone(), target.clone())) {
        Ok(again) => again,
        Err(refusal) => return said(&format!("the forwarded target is refused: {refusal}")),
    };
    if again.target != head.target || forwarded(&again) != target {
        return said("the forwarded target is read as another");
    }
    if again.act.action != head.act.action && line.0 != "DELETE" {
        return said("the forwarded target is another act to us");
    }
    let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    again
        .query
        .pairs()
        .into_iter()
        .for_each(|(key, value)| pairs.entry(key.to_owned()).or_default().push(value));
    if sent.query.as_ref() != Some(&pairs) {
        return said("the forwarded query is decoded to other pairs");
    }
    let selects = |reading: &Reading| (reading.fields.clone(), reading.labels.clone());
    if !head.act.connect
        && (selects(client) != selects(sent) || sent.fields.is_none() || sent.labels.is_none())
    {
        return said("the selectors mean something else");
    }
    None
}

/// What the path names is read alike even where the cluster, the query or policy refuses it later.
fn misread(line: &Line, theirs: &Reading) -> Option<String> {
    let (target, _) = target::read(&line.0, line.1.as_bytes()).ok()?;
    let mut ours = names(&target);
    ours.verb.clone_from(&theirs.verb);
    if ours.name.is_empty() && matches!(theirs.verb.as_str(), "list" | "watch") {
        ours.name.clone_from(&theirs.name); // P13: from a selector
    }
    let mut theirs = Reading { query: None, fields: None, labels: None, ..theirs.clone() };
    if !ours.resource && theirs.path.len() > 1 {
        theirs.path = theirs.path.trim_end_matches('/').to_owned(); // P4
    }
    (ours != theirs).then(|| format!("{} {}\n  ours   {ours:?}\n  theirs {theirs:?}", line.0, line.1))
}

/// How many of the lines were accepted by verb, and refused by rule; fails on any disagreement.
fn agree(lines: &[Line]) -> (BTreeMap<String, usize>, BTreeMap<&'static str, usize>) {
    let heads: Vec<_> = lines.iter().map(read).collect();
    let rebuilt = heads.iter().zip(lines).map(|(head, line)| match head {
        Ok(head) => (line.0.clone(), forwarded(head)),
        Err(_) => line.clone(),
    });
    let asked: Vec<Line> = lines.iter().cloned().chain(rebuilt).collect();
    let asked: Vec<String> = asked.iter().map(|(method, target)| format!("{method} {target}")).collect();
    let answers: Vec<Reading> = server::ask("targets", &asked);
    let (client, sent) = answers.split_at(lines.len());
    let (mut accepted, mut refused, mut failures) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (((line, head), client), sent) in lines.iter().zip(&heads).zip(client).zip(sent) {
        failures.extend(misread(line, client));
        match head {
            Ok(head) => {
                *accepted.entry(act(head).verb).or_default() += 1;
                failures.extend(disagreement(line, head, client, sent));
            }
            Err(refusal) => *refused.entry(refusal.rule).or_default() += 1,
        }
    }
    report(failures);
    (accepted, refused)
}

#[test]
fn h1_every_accepted_target_of_a_generated_corpus_is_what_the_api_server_reads() {
    let lines = corpus::generate(discovery(), SEED, GENERATED);
    let (accepted, refused) = agree(&lines);
    let (yes, no): (usize, usize) = (accepted.values().sum(), refused.values().sum());
    let _ = writeln!(
        std::io::stderr(),
        "FIGURE oracle: {} generated: {yes} accepted {accepted:?}, {no} refused {refused:?}, 0 disagreements",
        lines.len()
    );
    assert!(lines.len() >= 20_000 && yes + no == lines.len());
    assert!(
        yes * 10 >= lines.len() * 3,
        "only {yes} of {} were accepted: the test would be vacuous",
        lines.len()
    );
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        assert!(accepted.get(verb).is_some_and(|count| *count >= 100), "`{verb}`: {accepted:?}");
    }
    for rule in ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "P9", "P11", "P12", "P13"] {
        assert!(refused.get(rule).is_some_and(|count| *count >= 5), "{rule}: {refused:?}");
    }
}

#[test]
fn h1_every_named_target_is_what_the_table_says_and_what_the_api_server_reads() {
    let table = include_str!("fixtures/targets.tsv");
    let rows = table.lines().filter(|row| !row.starts_with('#') && !row.is_empty());
    let rows: Vec<Vec<&str>> =
        rows.map(|row| row.split('\t').filter(|cell| !cell.is_empty()).collect()).collect();
    let (mut lines, mut failures, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for row in &rows {
        let [name, method, target, want] = row.as_slice() else { panic!("{row:?} has not four cells") };
        assert!(seen.insert(*name), "`{name}` occurs twice");
        let line = ((*method).to_owned(), (*target).to_owned());
        let got = match read(&line) {
            Ok(head) => facts::line(&head.act.action, head.act.connect, &head.query),
            Err(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.rule),
        };
        if got != *want {
            failures.push(format!("{name}\t{method}\t{target}\t{want}\n  got {got}"));
        }
        lines.push(line);
    }
    report(failures);
    let (accepted, refused) = agree(&lines);
    let _ = writeln!(
        std::io::stderr(),
        "FIGURE oracle: {} named: {} accepted, {} refused",
        lines.len(),
        accepted.values().sum::<usize>(),
        refused.values().sum::<usize>()
    );
    assert!(lines.len() >= 200, "only {} named cases", lines.len());
}
