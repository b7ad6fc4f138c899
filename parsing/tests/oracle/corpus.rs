//! Targets by the tens of thousands: each begins as one that a client could send, half are then broken. Seeded, so that
//! every run asks the same.

use std::collections::BTreeSet;

use parsing::discovery::Discovery;

use crate::dice::Dice;

/// One request line.
pub type Line = (String, String);

const METHODS: [&str; 10] = ["GET", "GET", "GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "DELETE"];
const ODD_METHODS: [&str; 6] = ["HEAD", "OPTIONS", "TRACE", "get", "Delete", "QUERY"];
/// Names that the path's grammar uses itself stand beside plain ones.
const NAMESPACES: [&str; 9] =
    ["a", "payments", "kube-system", "namespaces", "watch", "proxy", "status", "finalize", "pods"];
const NAMES: [&str; 20] = [
    "x",
    "web-7f3kq",
    "db.primary",
    "system:node:n1",
    "system%3Anode",
    "a@b",
    "a%40b",
    "watch",
    "proxy",
    "status",
    "finalize",
    "namespaces",
    "...",
    "..data",
    "X",
    "_",
    "a+b",
    "a=b",
    "v1beta1.metrics.k8s.io",
    "0",
];
const PROXY_NAMES: [&str; 5] = ["web", "web:8080", "https:web:443", "http:web:", "system%3Aweb"];
const ELSEWHERE: [&str; 22] = [
    "/",
    "/api",
    "/api/",
    "/apis",
    "/apis/",
    "/api/v1",
    "/api/v1/",
    "/apis/apps",
    "/apis/apps/v1",
    "/apis/apps/v1/",
    "/version",
    "/version/",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/apis/apps/v1",
    "/livez",
    "/livez/ping",
    "/metrics",
    "/logs/kube-apiserver.log",
    "/sallyport/v1/access",
    "/.well-known/openid-configuration",
    "/apiv1/pods",
];
const FIELDS: [&str; 14] = [
    "metadata.name%3Dx",
    "metadata.name=x",
    "metadata.name==x",
    "metadata.name!=x",
    "status.phase%3DRunning",
    "metadata.name=x,metadata.name=y",
    "metadata.namespace=a,metadata.name=x",
    "metadata.name=a%5C%2Cb",
    "metadata.name=",
    "spec.nodeName%3Dn1%2Cmetadata.name%3Dx",
    "",
    "metadata.name=..",
    "metadata.name=a%2Fb",
    "type!%3DOpaque",
];
const LABELS: [&str; 13] = [
    "app=web",
    "app%3Dweb",
    "a+in+(b,c)",
    "a%20notin%20(b)",
    "!a",
    "a",
    "a!=b",
    "a==b,c",
    "",
    "a>1",
    "a<2",
    "example.com/a=b",
    "a%20in%20(c,b),d",
];
const READS: [&str; 24] = [
    "watch=true",
    "watch=True",
    "watch=1",
    "watch=t",
    "watch=false",
    "watch=0",
    "watch=FALSE",
    "watch=",
    "watch=f",
    "watch=yes",
    "limit=500",
    "limit=0",
    "limit=abc",
    "limit=-1",
    "resourceVersion=0",
    "resourceVersion=42",
    "resourceVersionMatch=NotOlderThan",
    "allowWatchBookmarks=true",
    "timeoutSeconds=30",
    "sendInitialEvents=true",
    "continue=abc",
    "pretty=true",
    "timeout=32s",
    "includeObject=Object",
];
const WRITES: [&str; 16] = [
    "dryRun=All",
    "dryRun=all",
    "dryrun=All",
    "dryRun=",
    "fieldManager=kubectl",
    "fieldManager=a%20b",
    "force=true",
    "fieldValidation=Strict",
    "fieldValidation=strict",
    "gracePeriodSeconds=0",
    "propagationPolicy=Background",
    "propagationPolicy=background",
    "orphanDependents=true",
    "timeout=2s",
    "pretty=1",
    "resourceVersion=1",
];
const STREAMS: [&str; 16] = [
    "command=sh",
    "command=-c",
    "command=rm%20-rf%20%2F",
    "command=",
    "stdin=true",
    "stdout=1",
    "stderr=True",
    "tty=false",
    "container=c",
    "container=C",
    "ports=80",
    "ports=0",
    "follow=true",
    "tailLines=5",
    "sinceSeconds=1",
    "previous=true",
];
const ODD_PAIRS: [&str; 12] = [
    "",
    "=",
    "a=b",
    "Watch=true",
    "wat%63h=true",
    "watch",
    "watch=true;limit=1",
    "%zz=1",
    "limit=%zz",
    "a=%ff",
    "limit=1%00",
    "fieldSelector=%2C",
];
const SEGMENTS: [&str; 18] = [
    "",
    ".",
    "..",
    "%2e",
    "%2e%2e",
    "watch",
    "proxy",
    "namespaces",
    "status",
    "api",
    "apis",
    "v1",
    "*",
    "secrets",
    "%2f",
    "a%2fb",
    "a%00",
    "%C3%A4",
];
const BYTES: [&str; 22] = [
    "%", "%2F", "%3A", "%41", "%20", "%25", "+", ";", "#", "\\", "\"", "?", "&", "=", "/", "//", "{", "A",
    "\u{7f}", " ", "é", "~",
];

/// `count` different lines.
pub fn generate(discovery: &Discovery, seed: u64, count: usize) -> Vec<Line> {
    let mut dice = Dice::new(seed);
    let (mut seen, mut lines) = (BTreeSet::new(), Vec::with_capacity(count));
    while lines.len() < count {
        let line = line(discovery, &mut dice);
        if !line.1.contains(['\n', '\r']) && seen.insert(line.clone()) {
            lines.push(line);
        }
    }
    lines
}

fn line(discovery: &Discovery, dice: &mut Dice) -> Line {
    let method = if dice.percent(2) { dice.one(&ODD_METHODS) } else { dice.one(&METHODS) };
    let (method, mut target) =
        if dice.percent(4) { ("GET", elsewhere(dice)) } else { resource(discovery, method, dice) };
    if dice.percent(40) {
        for _ in 0..=dice.roll(2) {
            target = broken(&target, dice);
        }
    }
    (method.to_owned(), target)
}

fn elsewhere(dice: &mut Dice) -> String {
    let path = dice.one(&ELSEWHERE).to_owned();
    if dice.percent(70) {
        path
    } else {
        format!("{path}?{}", dice.one(&["timeout=32s", "hash=AB", "verbose", "watch=1"]))
    }
}

/// A path to something that the server has, for the most part where it has it and with a verb that it offers.
fn resource<'a>(discovery: &Discovery, method: &'a str, dice: &mut Dice) -> (&'a str, String) {
    let all: Vec<_> = discovery.iter().collect();
    let (group, version, plural, facts) = all[dice.roll(all.len())];
    let mut path =
        if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut method = method;
    let mut named = match method {
        "POST" => dice.percent(3),
        "PUT" | "PATCH" => dice.percent(96),
        _ => dice.percent(50),
    };
    let subs: Vec<&str> = facts.subresources.keys().map(String::as_str).collect();
    let sub = (!subs.is_empty() && dice.percent(35)).then(|| subs[dice.roll(subs.len())]);
    if let Some(sub) = sub.filter(|_| dice.percent(85)) {
        named = true;
        let offers = |verb: &str| facts.subresources.get(sub).is_some_and(|facts| facts.verbs.contains(verb));
        let streams = ["exec", "attach", "portforward"].contains(&sub);
        method = match method {
            _ if streams => method,
            "GET" | "POST" | "PUT" | "PATCH" if offers("create") && !offers("get") => "POST",
            "POST" | "DELETE" if !offers("create") => "GET",
            _ => method,
        };
    }
    let everywhere = method == "GET" && !named && dice.percent(30);
    if (facts.namespaced && !everywhere) != dice.percent(2) {
        path = format!("{path}/namespaces/{}", dice.one(&NAMESPACES));
    }
    path = format!("{path}/{plural}");
    let mut pairs: Vec<&str> = match method {
        "GET" => pick(&READS, dice),
        _ => pick(&WRITES, dice),
    };
    if named {
        let name = if sub == Some("proxy") { dice.one(&PROXY_NAMES) } else { dice.one(&NAMES) };
        path = format!("{path}/{name}");
        pairs.retain(|_| dice.percent(if method == "GET" { 15 } else { 60 }));
        if let Some(sub) = sub {
            path = format!("{path}/{sub}");
            pairs = if dice.percent(70) && ["exec", "attach", "portforward", "log"].contains(&sub) {
                pick(&STREAMS, dice)
            } else {
                Vec::new()
            };
            if sub == "proxy" && dice.percent(50) {
                path = format!("{path}/{}", dice.one(&["api/v1/secrets", "a", "a:b", "..", "x%2Fy", "-/~"]));
            }
        }
    }
    let mut query: Vec<String> = pairs.into_iter().map(str::to_owned).collect();
    if !named && matches!(method, "GET" | "DELETE") {
        if dice.percent(35) {
            query.push(format!("fieldSelector={}", dice.one(&FIELDS)));
        }
        if dice.percent(25) {
            query.push(format!("labelSelector={}", dice.one(&LABELS)));
        }
    }
    if dice.percent(4) {
        query.push(dice.one(&ODD_PAIRS).to_owned());
    }
    (method, if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) })
}

/// Mostly none or one; now and then several.
fn pick<'a>(of: &[&'a str], dice: &mut Dice) -> Vec<&'a str> {
    let count = [0, 0, 0, 1, 1, 1, 2, 3][dice.roll(8)];
    (0..count).map(|_| dice.one(of)).collect()
}

fn broken(target: &str, dice: &mut Dice) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    let at = dice.roll(segments.len());
    match dice.roll(9) {
        0 => segments.insert(at, dice.one(&SEGMENTS).to_owned()),
        1 => segments[at] = dice.one(&SEGMENTS).to_owned(),
        2 => drop(segments.remove(at)),
        3 => segments.insert(at, segments[at].clone()),
        4 => segments.push(String::new()),
        5 => segments[at] = segments[at].to_uppercase(),
        6 => {
            let other = dice.roll(segments.len());
            segments.swap(at, other);
        }
        7 => return spliced(target, dice),
        _ => {
            let pairs = query.unwrap_or_default();
            let pair = match pairs.split('&').next_back() {
                Some(last) if dice.percent(40) => last.to_owned(),
                _ => dice.one(&[&ODD_PAIRS[..], &READS[..], &WRITES[..]].concat()).to_owned(),
            };
            return format!("{path}?{pairs}&{pair}");
        }
    }
    let path = segments.join("/");
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

/// One character goes, comes or is written as an escape.
fn spliced(target: &str, dice: &mut Dice) -> String {
    let at: Vec<usize> = target.char_indices().map(|(at, _)| at).collect();
    if at.is_empty() {
        return dice.one(&BYTES).to_owned();
    }
    let at = at[dice.roll(at.len())];
    let (head, tail) = target.split_at(at);
    let mut rest = tail.chars();
    let first = rest.next().unwrap_or('/');
    match dice.roll(3) {
        0 => format!("{head}{}", rest.as_str()),
        1 => format!("{head}{}{tail}", dice.one(&BYTES)),
        _ => format!("{head}%{:02X}{}", u32::from(first) & 0xff, rest.as_str()),
    }
}
