//! Queries: what each becomes, or the rule that refuses it (P9, P13, B11).

mod facts;

use facts::{headers, read, report, summary};

/// Method, path, query, canonical query or the refusal.
type Case = (&'static str, &'static str, &'static str, &'static str);

const LIST: &str = "/api/v1/namespaces/a/pods";
const POD: &str = "/api/v1/namespaces/a/pods/x";
const LOG: &str = "/api/v1/namespaces/a/pods/x/log";
const EXEC: &str = "/api/v1/namespaces/a/pods/x/exec";
const FORWARD: &str = "/api/v1/namespaces/a/pods/x/portforward";

fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    for (method, path, query, want) in cases {
        let (content_type, body) = match *method {
            "PATCH" => ("application/merge-patch+json", "{}"),
            "POST" if path.ends_with("/pods") => ("application/json", r#"{"metadata":{"name":"x"}}"#),
            "PUT" => ("application/json", r#"{"metadata":{"name":"x"}}"#),
            _ => ("", ""),
        };
        let read = read(method, &format!("{path}?{query}"), &headers(content_type), body.as_bytes());
        let got = match &read {
            Ok(request) => request.query.canonical(),
            Err(_) => summary(&read),
        };
        if got != *want {
            failures.push(format!("{method} {path}?{query}\n   want {want}\n    got {got}"));
        }
    }
    report(failures);
}

#[test]
fn p9_pairs_are_read_strictly() {
    check(&[
        ("GET", LIST, "a=1", "400 P9"),
        ("GET", LIST, "Watch=true", "400 P9"),
        ("GET", LIST, "WATCH=true", "400 P9"),
        ("GET", LIST, "wat%63h=true", "400 P9"),
        ("GET", LIST, "%77atch=true", "400 P9"),
        ("GET", LIST, "watch=true&watch=true", "400 P9"),
        ("GET", LIST, "watch=true&watch=false", "400 P9"),
        ("GET", LIST, "labelSelector=a&labelSelector=b", "400 P9"),
        ("GET", LIST, "fieldSelector=&fieldSelector=metadata.name%3Dx", "400 P9"),
        ("GET", LIST, "limit=1&&continue=x", "400 P9"),
        ("GET", LIST, "&limit=1", "limit=1"),
        ("GET", LIST, "&", ""),
        ("GET", LIST, "&&limit=1", "400 P9"),
        ("GET", LIST, "&watch=true&watch=false", "400 P9"),
        ("GET", LIST, "limit=1&", "400 P9"),
        ("GET", LIST, "=1", "400 P9"),
        ("GET", LIST, "continue=%zz", "400 P9"),
        ("GET", LIST, "continue=%2", "400 P9"),
        ("GET", LIST, "continue=%ff", "400 P9"),
        ("GET", LIST, "continue=%0a", "400 P9"),
        ("GET", LIST, "continue=a%20b", "400 P9"),
        ("GET", LIST, "continue=a+b", "400 P9"),
        ("GET", LIST, "pretty=true&pretty=true", "400 P9"),
        ("POST", LIST, "dryrun=All", "400 P9"),
        ("POST", LIST, "DryRun=All", "400 P9"),
        ("POST", LIST, "dryRun=all", "400 P9"),
        ("POST", LIST, "dryRun=", "400 P9"),
        ("POST", LIST, "dryRun=All&dryRun=All", "400 P9"),
        ("POST", LIST, "dryRun=All", "dryRun=All"),
        ("POST", LIST, "fieldValidation=strict", "400 P9"),
        (
            "POST",
            LIST,
            "fieldValidation=Strict&fieldManager=kubectl-create",
            "fieldManager=kubectl-create&fieldValidation=Strict",
        ),
        ("GET", LIST, "includeObject=Object", "includeObject=Object"),
        ("GET", LIST, "includeObject=object", "400 P9"),
        ("GET", LIST, "resourceVersionMatch=Newest", "400 P9"),
        (
            "GET",
            LIST,
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&watch=1&allowWatchBookmarks=true",
            "allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&watch=true",
        ),
    ]);
}

#[test]
fn p9_numbers_booleans_and_durations_are_checked() {
    check(&[
        ("GET", LIST, "limit=500", "limit=500"),
        ("GET", LIST, "limit=007", "limit=7"),
        ("GET", LIST, "limit=abc", "400 P9"),
        ("GET", LIST, "limit=", "400 P9"),
        ("GET", LIST, "limit=-1", "400 P9"),
        ("GET", LIST, "limit=%2B1", "400 P9"),
        ("GET", LIST, "limit=1.0", "400 P9"),
        ("GET", LIST, "limit=0x10", "400 P9"),
        ("GET", LIST, "limit=9223372036854775807", "limit=9223372036854775807"),
        ("GET", LIST, "limit=9223372036854775808", "400 P9"),
        ("GET", LIST, "timeoutSeconds=30", "timeoutSeconds=30"),
        ("GET", LIST, "timeoutSeconds=30s", "400 P9"),
        ("GET", LIST, "timeout=2s", "timeout=2s"),
        ("GET", LIST, "timeout=1h2m3s", "timeout=1h2m3s"),
        ("GET", LIST, "timeout=0", "timeout=0"),
        ("GET", LIST, "timeout=2", "400 P9"),
        ("GET", LIST, "timeout=-2s", "400 P9"),
        ("GET", LIST, "timeout=s", "400 P9"),
        ("GET", LIST, "watch=true", "watch=true"),
        ("GET", LIST, "watch=True", "watch=true"),
        ("GET", LIST, "watch=TRUE", "watch=true"),
        ("GET", LIST, "watch=1", "watch=true"),
        ("GET", LIST, "watch=t", "watch=true"),
        ("GET", LIST, "watch=T", "watch=true"),
        ("GET", LIST, "watch=false", "watch=false"),
        ("GET", LIST, "watch=False", "watch=false"),
        ("GET", LIST, "watch=0", "watch=false"),
        ("GET", LIST, "watch=f", "400 P9"),
        ("GET", LIST, "watch=F", "400 P9"),
        ("GET", LIST, "watch=", "400 P9"),
        ("GET", LIST, "watch", "400 P9"),
        ("GET", LIST, "watch=no", "400 P9"),
        ("GET", LIST, "watch=00", "400 P9"),
        ("GET", LIST, "watch=yes", "400 P9"),
    ]);
}

#[test]
fn p9_a_key_belongs_to_its_verb() {
    check(&[
        ("GET", POD, "watch=true", "400 P9"),
        ("GET", POD, "limit=1", "400 P9"),
        ("GET", POD, "labelSelector=a", "400 P9"),
        ("GET", POD, "dryRun=All", "400 P9"),
        ("GET", LIST, "dryRun=All", "400 P9"),
        ("GET", LIST, "force=true", "400 P9"),
        ("GET", LIST, "container=c", "400 P9"),
        ("GET", POD, "resourceVersion=0", "resourceVersion=0"),
        ("POST", LIST, "watch=true", "400 P9"),
        ("POST", LIST, "force=true", "400 P9"),
        ("PUT", POD, "force=true", "400 P9"),
        ("PUT", POD, "dryRun=All", "dryRun=All"),
        ("PATCH", POD, "force=true&fieldManager=kubectl", "fieldManager=kubectl&force=true"),
        ("PATCH", POD, "propagationPolicy=Orphan", "400 P9"),
        ("DELETE", POD, "fieldManager=x", "400 P9"),
        ("DELETE", POD, "labelSelector=a", "400 P9"),
        ("DELETE", POD, "gracePeriodSeconds=-1", "400 P9"),
        ("DELETE", POD, "propagationPolicy=orphan", "400 P9"),
        ("DELETE", LIST, "labelSelector=a&watch=true", "400 P9"),
        ("DELETE", LIST, "labelSelector=a%3Db", "labelSelector=a%3Db"),
        ("GET", "/version", "limit=1", "400 P9"),
        ("GET", "/version", "timeout=32s", "timeout=32s"),
        ("GET", "/openapi/v3", "hash=x", "hash=x"),
        ("GET", "/api", "hash=x", "400 P9"),
        ("GET", "/readyz", "exclude=etcd&exclude=log&verbose", "exclude=etcd&exclude=log&verbose=true"),
        ("GET", "/metrics", "watch=true", "400 P9"),
    ]);
}

#[test]
fn p9_logs_and_streams_have_keys_of_their_own() {
    check(&[
        ("GET", LOG, "container=c&follow=true&tailLines=10", "container=c&follow=true&tailLines=10"),
        (
            "GET",
            LOG,
            "limitBytes=1&previous=1&timestamps=true&sinceSeconds=3",
            "limitBytes=1&previous=true&sinceSeconds=3&timestamps=true",
        ),
        ("GET", LOG, "sinceTime=2026-11-20T14:00:00Z", "sinceTime=2026-11-20T14:00:00Z"),
        ("GET", LOG, "sinceTime=yesterday", "400 P9"),
        ("GET", LOG, "container=C", "400 P9"),
        ("GET", LOG, "tailLines=-1", "400 P9"),
        ("GET", LOG, "watch=true", "400 P9"),
        ("GET", LOG, "stream=Stdout", "stream=Stdout"),
        ("GET", LOG, "stream=stdout", "400 P9"),
        ("GET", LOG, "insecureSkipTLSVerifyBackend=true", "400 P9"),
        ("GET", LOG, "insecureSkipTLSVerifyBackend=false", "insecureSkipTLSVerifyBackend=false"),
        ("GET", LOG, "follow=true&follow=false", "400 P9"),
        ("GET", LOG, "Follow=true", "400 P9"),
        ("GET", LOG, "limitBytes=1&previous=1&timestamps=true", "limitBytes=1&previous=true&timestamps=true"),
        (
            "GET",
            EXEC,
            "command=sh&command=-c&command=a+b&container=c",
            "command=sh&command=-c&command=a%20b&container=c",
        ),
        ("GET", EXEC, "command=b&command=a", "command=b&command=a"),
        ("GET", EXEC, "command=a%00b", "400 P9"),
        ("GET", EXEC, "container=c&container=d", "400 P9"),
        ("GET", EXEC, "ports=80", "400 P9"),
        ("GET", FORWARD, "ports=80&ports=443", "ports=80&ports=443"),
        ("GET", FORWARD, "ports=0", "400 P9"),
        ("GET", FORWARD, "ports=65536", "400 P9"),
        ("GET", FORWARD, "ports=80,443", "400 P9"),
        ("GET", FORWARD, "command=sh", "400 P9"),
    ]);
}

#[test]
fn p13_selectors_are_parsed() {
    check(&[
        ("GET", LIST, "labelSelector=a", "labelSelector=a"),
        ("GET", LIST, "labelSelector=%21a", "labelSelector=%21a"),
        ("GET", LIST, "labelSelector=a%3D%3Db", "labelSelector=a%3Db"),
        ("GET", LIST, "labelSelector=a%3D", "labelSelector=a%3D"),
        ("GET", LIST, "labelSelector=a%21%3Db,a.b/c%3Dd", "labelSelector=a%21%3Db%2Ca.b%2Fc%3Dd"),
        ("GET", LIST, "labelSelector=a+notin+(b,b,a)", "labelSelector=a%20notin%20%28a%2Cb%29"),
        ("GET", LIST, "labelSelector=a%3E5,b%3C7", "labelSelector=a%3E5%2Cb%3C7"),
        ("GET", LIST, "labelSelector=", ""),
        ("GET", LIST, "labelSelector=,", "400 P13"),
        ("GET", LIST, "labelSelector=a,", "400 P13"),
        ("GET", LIST, "labelSelector=a+in+b", "400 P13"),
        ("GET", LIST, "labelSelector=a+in+(b", "400 P13"),
        ("GET", LIST, "labelSelector=a+in+((b))", "400 P13"),
        ("GET", LIST, "labelSelector=a+of+(b)", "400 P13"),
        ("GET", LIST, "labelSelector=-a", "400 P13"),
        ("GET", LIST, "labelSelector=a/b/c", "400 P13"),
        ("GET", LIST, "labelSelector=a%3Db%3Dc", "400 P13"),
        ("GET", LIST, "labelSelector=a%3E%3D5", "400 P13"),
        ("GET", LIST, "labelSelector=a%3E+b", "400 P13"),
        ("GET", LIST, "labelSelector=%C3%A4", "400 P13"),
        ("GET", LIST, "fieldSelector=status.phase%3DRunning", "fieldSelector=status.phase%3DRunning"),
        (
            "GET",
            LIST,
            "fieldSelector=spec.nodeName%3Dn,status.phase%21%3DFailed",
            "fieldSelector=spec.nodeName%3Dn%2Cstatus.phase%21%3DFailed",
        ),
        ("GET", LIST, "fieldSelector=", ""),
        ("GET", LIST, "fieldSelector=metadata.name", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3Dx,metadata.name%3Dy", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3Dx,metadata.name%3Dx", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3Dx,metadata.name%21%3Dy", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3D..", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3D", "400 P13"),
        ("GET", LIST, "fieldSelector=metadata.name%3Da%2Fb", "400 P13"),
        ("GET", LIST, "fieldSelector=a%3Db%3Dc", "400 P13"),
        ("GET", LIST, "fieldSelector=a%3Db%5C", "400 P13"),
        ("GET", LIST, "fieldSelector=a%3Db%5Cn", "400 P13"),
        ("GET", LIST, "fieldSelector=a%3Db%5C%2Cc", "fieldSelector=a%3Db%5C%2Cc"),
        ("GET", LIST, "fieldSelector=,", "400 P13"),
        ("GET", LIST, "fieldSelector=a+b%3Dc", "400 P13"),
    ]);
}

#[test]
fn p13_only_one_equality_is_a_name() {
    for (target, want) in [
        (
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx",
            "list v1 pods a/x ?fieldSelector=metadata.name%3Dx",
        ),
        (
            "/api/v1/namespaces/a/pods?watch=1&fieldSelector=metadata.name%3Dx",
            "watch v1 pods a/x ?fieldSelector=metadata.name%3Dx&watch=true",
        ),
        (
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%21%3Dx",
            "list v1 pods a/ ?fieldSelector=metadata.name%21%3Dx",
        ),
        ("/api/v1/pods?fieldSelector=metadata.name%3Dx", "list v1 pods */x ?fieldSelector=metadata.name%3Dx"),
    ] {
        assert_eq!(summary(&read("GET", target, &headers(""), b"")), want);
    }
    let target = "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Dfoo";
    let want = "deletecollection v1 secrets a/ ?fieldSelector=metadata.name%3Dfoo";
    assert_eq!(summary(&read("DELETE", target, &headers(""), b"")), want);
}

#[test]
fn p13_a_stream_has_no_dry_run() {
    for path in [EXEC, FORWARD, "/api/v1/nodes/n/proxy/pods", "/api/v1/namespaces/a/services/s/proxy"] {
        for method in ["GET", "POST"] {
            for query in ["dryRun=All", "dryRun", "dryRun="] {
                let got = summary(&read(method, &format!("{path}?{query}"), &headers(""), b""));
                assert_eq!(got, "400 P13", "{method} {path}?{query}");
            }
        }
    }
}

#[test]
fn ruling_a_excluded_namespaces_join_the_field_selector() {
    let target = "/api/v1/pods?fieldSelector=status.phase%3DRunning&limit=500";
    let mut request = read("GET", target, &headers(""), b"").expect("read");
    request.query.exclude_namespaces(["prod", "kube-system", "prod"]);
    let want = "/api/v1/pods?fieldSelector=metadata.namespace%21%3Dkube-system%2Cmetadata.namespace%21%3Dprod%2C\
                status.phase%3DRunning&limit=500";
    assert_eq!(request.canonical_target(), want);
    let mut request = read("GET", "/api/v1/pods?watch=true", &headers(""), b"").expect("read");
    request.query.exclude_namespaces(["prod"]);
    assert_eq!(
        request.canonical_target(),
        "/api/v1/pods?fieldSelector=metadata.namespace%21%3Dprod&watch=true"
    );
}
