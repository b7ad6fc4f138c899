//! Targets: what each is read as, or the rule that refuses it (P1 to P8, P11, P12).

mod facts;

use facts::{headers, read, report, summary};

/// Method, target, what it becomes. Bodies are as the method needs them.
type Case = (&'static str, &'static str, &'static str);

fn check(cases: &[Case]) {
    let mut failures = Vec::new();
    for (method, target, want) in cases {
        let (content_type, body) = match *method {
            "PATCH" => ("application/merge-patch+json", "{}"),
            _ => ("", ""),
        };
        let got = summary(&read(method, target, &headers(content_type), body.as_bytes()));
        if got != *want {
            failures.push(format!("{method} {target}\n   want {want}\n    got {got}"));
        }
    }
    report(failures);
}

#[test]
fn p1_only_five_methods_are_read() {
    check(&[
        ("GET", "/api/v1/pods", "list v1 pods */"),
        ("HEAD", "/api/v1/pods", "405 P1"),
        ("OPTIONS", "/api/v1/pods", "405 P1"),
        ("TRACE", "/api/v1/pods", "405 P1"),
        ("CONNECT", "/api/v1/pods", "405 P1"),
        ("get", "/api/v1/pods", "405 P1"),
        ("Get", "/api/v1/pods", "405 P1"),
        ("PROPFIND", "/api/v1/pods", "405 P1"),
        ("", "/api/v1/pods", "405 P1"),
        ("HEAD", "/apis/example.com/v1/namespaces/a/widgets/x", "405 P1"),
        ("HEAD", "/api/v1/nodes/n/proxy/", "405 P1"),
        ("POST", "/version", "405 P1"),
        ("DELETE", "/healthz", "405 P1"),
        ("PUT", "/api", "405 P1"),
        ("PATCH", "/apis/apps/v1", "405 P1"),
    ]);
}

#[test]
fn p2_only_origin_form_is_read() {
    check(&[
        ("GET", "https://evil.example/api/v1/secrets", "400 P2"),
        ("GET", "*", "400 P2"),
        ("GET", "evil.example:443", "400 P2"),
        ("GET", "//evil.example/api/v1/secrets", "400 P2"),
        ("GET", "///api", "400 P2"),
        ("GET", "", "400 P2"),
        ("GET", "api/v1/pods", "400 P2"),
        ("GET", "?watch=true", "400 P2"),
        ("GET", "\\api", "400 P2"),
    ]);
}

#[test]
fn p3_bytes_that_need_an_escape_are_refused() {
    let mut cases = Vec::new();
    for c in [
        '"', '<', '>', '\\', '^', '`', '{', '|', '}', '#', ';', ' ', '\t', '\0', '\n', '\r', '\u{7f}', 'ä',
        '\u{2028}',
    ] {
        for target in [format!("/api/v1/po{c}ds"), format!("/api/v1/pods?limit={c}")] {
            cases.push((target, c));
        }
    }
    let failures = cases.iter().filter_map(|(target, c)| {
        let got = summary(&read("GET", target, &headers(""), b""));
        (got != "400 P3").then(|| format!("{c:?} in {target:?} gave {got}"))
    });
    report(failures.collect());
    let long = format!("/api/v1/namespaces/a/pods?labelSelector={}", "a,".repeat(9_000));
    assert_eq!(summary(&read("GET", &long, &headers(""), b"")), "400 P3");
    for raw in [&b"/api/v1/\xff"[..], b"/api/v1/pods?a=\xff", b"/\x80"] {
        let read = parsing::target::read("GET", raw);
        assert_eq!(read, Err(parsing::target::TargetError::Byte), "{raw:?}");
    }
}

#[test]
fn p4_empty_segments_are_refused() {
    check(&[
        ("GET", "/api//v1/pods", "400 P4"),
        ("GET", "/api/v1//pods", "400 P4"),
        ("GET", "/api/v1/namespaces//secrets", "400 P4"),
        ("GET", "/api/v1/namespaces/a//secrets", "400 P4"),
        ("GET", "/api/v1/pods/", "400 P4"),
        ("GET", "/api/v1/namespaces/a/pods/", "400 P4"),
        ("GET", "/api/v1/namespaces/a/pods/x/", "400 P4"),
        ("GET", "/apis//v1/pods", "400 P4"),
        ("GET", "/apis/apps//deployments", "400 P4"),
        ("GET", "/api/v1/pods//", "400 P4"),
        ("GET", "/healthz/", "400 P4"),
        ("GET", "/livez//api/v1/secrets", "400 P4"),
        ("GET", "/api//", "400 P4"),
        ("GET", "/version//", "400 P4"),
        ("GET", "/sallyport/v1/access/", "400 P4"),
        ("DELETE", "/api/v1/namespaces/a/pods/", "400 P4"),
    ]);
}

#[test]
fn p4_one_slash_behind_discovery_is_dropped() {
    check(&[
        ("GET", "/api/", "get /api"),
        ("GET", "/apis/", "get /apis"),
        ("GET", "/api/v1/", "get /api/v1"),
        ("GET", "/apis/apps/", "get /apis/apps"),
        ("GET", "/apis/apps/v1/", "get /apis/apps/v1"),
        ("GET", "/version/", "get /version"),
        ("GET", "/openapi/v2/", "get /openapi/v2"),
        ("GET", "/openapi/v3/", "get /openapi/v3"),
        ("GET", "/", "get /"),
    ]);
}

#[test]
fn p5_escapes_are_decoded_once_and_strictly() {
    check(&[
        ("GET", "/api/v1/namespaces/a/configmaps/system%3Anode", "get v1 configmaps a/system:node"),
        ("GET", "/api/v1/namespaces/a/configmaps/system:node", "get v1 configmaps a/system:node"),
        ("GET", "/api/v1/namespaces/a/configmaps/a%40b", "get v1 configmaps a/a@b"),
        ("GET", "/api/v1/namespaces/a/configmaps/a@b", "get v1 configmaps a/a@b"),
        ("GET", "/api/v1/%73ecrets", "400 P5"),
        ("GET", "/api/v1/secrets/%61", "400 P5"),
        ("GET", "/%61pi/v1/secrets", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/foo%2Fexec", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/foo%2fexec", "400 P5"),
        ("GET", "/api/v1/namespaces/a%2Fsecrets", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%5Cy", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%25y", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%252Fy", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%3Fy", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%23y", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%3By", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%20y", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%00", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%0a", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%7f", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%C3%A4", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%2", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%zz", "400 P5"),
        ("GET", "/api/v1/namespaces/a/pods/x%+1", "400 P5"),
        ("GET", "/healthz%2Fping", "400 P5"),
    ]);
}

#[test]
fn p6_dot_segments_are_refused_everywhere() {
    check(&[
        ("GET", "/api/v1/namespaces/a/../b/secrets", "400 P6"),
        ("GET", "/api/v1/./secrets", "400 P6"),
        ("GET", "/livez/../api/v1/secrets", "400 P6"),
        ("GET", "/..", "400 P6"),
        ("GET", "/.", "400 P6"),
        ("GET", "/api/v1/namespaces/..", "400 P6"),
        ("GET", "/api/v1/%2e%2e/secrets", "400 P6"),
        ("GET", "/api/v1/.%2E/secrets", "400 P6"),
        ("GET", "/api/v1/%2e/secrets", "400 P6"),
        ("GET", "/api/v1/nodes/n/proxy/../secrets", "400 P6"),
        ("GET", "/api/v1/nodes/n/proxy/%2e%2e/secrets", "400 P6"),
        ("GET", "/api/v1/nodes/n/proxy/a%2fb", "400 P5"),
        ("GET", "/api/v1/nodes/n/proxy/a%5cb", "400 P5"),
        ("GET", "/api/v1/nodes/n/proxy/a%00", "400 P5"),
        ("GET", "/api/v1/nodes/n/proxy/a;b", "400 P3"),
        ("GET", "/api/v1/namespaces/a/configmaps/...", "get v1 configmaps a/..."),
        ("GET", "/api/v1/namespaces/a/configmaps/..data", "get v1 configmaps a/..data"),
    ]);
}

#[test]
fn p7_names_obey_a_grammar() {
    check(&[
        ("GET", "/api/V1/pods", "400 P7"),
        ("GET", "/api/v/pods", "400 P7"),
        ("GET", "/api/1/pods", "400 P7"),
        ("GET", "/api/v1x/pods", "400 P7"),
        ("GET", "/api/v1alpha/pods", "400 P7"),
        ("GET", "/api/v1gamma1/pods", "400 P7"),
        ("GET", "/api/*/pods", "400 P7"),
        ("GET", "/api/V1", "400 P7"),
        ("GET", "/apis/Apps/v1/deployments", "400 P7"),
        ("GET", "/apis/apps_x/v1/deployments", "400 P7"),
        ("GET", "/apis/-apps/v1/deployments", "400 P7"),
        ("GET", "/apis/apps./v1/deployments", "400 P7"),
        ("GET", "/apis/*", "400 P7"),
        ("GET", "/apis/apps/latest", "400 P7"),
        ("GET", "/api/v1/Pods", "400 P7"),
        ("GET", "/api/v1/*", "400 P7"),
        ("GET", "/api/v1/pod.s", "400 P7"),
        ("GET", "/api/v1/pods%3Aexec", "400 P7"),
        ("GET", "/api/v1/namespaces/A/pods", "400 P7"),
        ("GET", "/api/v1/namespaces/a.b/pods", "400 P7"),
        ("GET", "/api/v1/namespaces/*/pods", "400 P7"),
        ("GET", "/api/v1/namespaces/-a/pods", "400 P7"),
        ("GET", "/api/v1/namespaces/A", "400 P7"),
        ("GET", "/api/v1/namespaces/a/pods/x/Log", "400 P7"),
        ("GET", "/api/v1/namespaces/a/pods/x/lo_g", "400 P7"),
        ("GET", "/he%22alth", "400 P7"),
        ("GET", "/health*", "400 P7"),
        (
            "GET",
            "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io",
            "get apiregistration.k8s.io/v1 apiservices -/v1beta1.metrics.k8s.io",
        ),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregate-to-admin",
            "get rbac.authorization.k8s.io/v1 clusterroles -/system:aggregate-to-admin",
        ),
        (
            "GET",
            "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers",
            "list autoscaling/v2 horizontalpodautoscalers a/",
        ),
    ]);
    let namespace = |n: usize| format!("/api/v1/namespaces/{}/pods", "a".repeat(n));
    let name = |n: usize| format!("/api/v1/namespaces/a/pods/{}", "a".repeat(n));
    for (target, want) in [(namespace(64), "400 P7"), (name(254), "400 P7")] {
        assert_eq!(summary(&read("GET", &target, &headers(""), b"")), want);
    }
    assert!(read("GET", &namespace(63), &headers(""), b"").is_ok());
    assert!(read("GET", &name(253), &headers(""), b"").is_ok());
}

#[test]
fn p8_legacy_prefixes_and_misplaced_names_are_refused() {
    check(&[
        ("GET", "/api/v1/watch/pods", "403 P8"),
        ("GET", "/api/v1/watch/namespaces/a/secrets", "403 P8"),
        ("GET", "/apis/apps/v1/watch/deployments", "403 P8"),
        ("GET", "/apis/example.com/v1/watch/widgets", "403 P8"),
        ("DELETE", "/api/v1/watch/pods", "403 P8"),
        ("GET", "/api/v1/proxy/nodes/n", "403 P8"),
        ("GET", "/api/v1/proxy/namespaces/a/pods/x", "403 P8"),
        ("GET", "/api/v1/watch", "403 P8"),
        ("GET", "/api/v1/proxy", "403 P8"),
        ("POST", "/api/v1/namespaces/a/pods/x", "405 P8"),
        ("POST", "/apis/example.com/v1/namespaces/a/widgets/foo", "405 P8"),
        ("POST", "/api/v1/namespaces/a", "405 P8"),
        ("PUT", "/api/v1/namespaces/a/pods", "405 P8"),
        ("PATCH", "/api/v1/namespaces/a/pods", "405 P8"),
        ("PATCH", "/api/v1/nodes", "405 P8"),
        ("GET", "/api/v1/namespaces/a/pods/x/log/more", "400 P8"),
        ("GET", "/apis/example.com/v1/namespaces/a/widgets/x/status/more", "400 P8"),
        ("PUT", "/api/v1/namespaces/a/finalize/more", "400 P8"),
        ("GET", "/api/v1/namespaces/a/status/more", "400 P8"),
        ("GET", "/apis/example.com/v1/namespaces/a/widgets/x/proxy/more", "400 P8"),
    ]);
}

#[test]
fn p11_what_the_server_does_not_serve_is_refused() {
    check(&[
        ("GET", "/api/v1/gizmos", "404 P11"),
        ("GET", "/api/v2/pods", "404 P11"),
        ("GET", "/apis/apps/v1beta1/deployments", "404 P11"),
        ("GET", "/apis/nothing.example/v1/things", "404 P11"),
        ("GET", "/apis/apps/v1/namespaces/a", "404 P11"),
        ("GET", "/apis/example.com/v1/namespaces/foo", "404 P11"),
        ("GET", "/api/v1/namespaces/a/pods/x/gizmo", "404 P11"),
        ("GET", "/api/v1/namespaces/a/secrets/x/status", "404 P11"),
        ("GET", "/api/v1/pods/x", "404 P11"),
        ("DELETE", "/api/v1/pods/x", "404 P11"),
        ("GET", "/api/v1/namespaces/a/nodes", "404 P11"),
        ("GET", "/api/v1/namespaces/a/nodes/n", "404 P11"),
        ("GET", "/apis/example.com/v1/namespaces/a/hubs/h", "404 P11"),
        ("GET", "/apis/example.com/v1/widgets/x", "404 P11"),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/a/clusterroles/x", "404 P11"),
        ("POST", "/api/v1/pods", "405 P11"),
        ("DELETE", "/api/v1/pods", "405 P11"),
        ("DELETE", "/apis/example.com/v1/widgets", "405 P11"),
        ("GET", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "405 P11"),
        ("DELETE", "/api/v1/namespaces", "405 P11"),
        ("GET", "/api/v1/namespaces/a/pods/x/eviction", "405 P11"),
        ("POST", "/api/v1/namespaces/a/pods/x/log", "405 P11"),
        ("GET", "/api/v1/namespaces/a/serviceaccounts/x/token", "405 P11"),
    ]);
}

#[test]
fn p12_streams_are_one_verb_whatever_the_method() {
    check(&[
        (
            "GET",
            "/api/v1/namespaces/a/pods/x/exec?command=sh&stdin=true",
            "create v1 pods/exec a/x connect ?command=sh&stdin=true",
        ),
        (
            "POST",
            "/api/v1/namespaces/a/pods/x/exec?command=sh&stdin=true",
            "create v1 pods/exec a/x connect ?command=sh&stdin=true",
        ),
        ("GET", "/api/v1/namespaces/a/pods/x/attach", "create v1 pods/attach a/x connect"),
        ("POST", "/api/v1/namespaces/a/pods/x/attach", "create v1 pods/attach a/x connect"),
        ("GET", "/api/v1/namespaces/a/pods/x/portforward", "create v1 pods/portforward a/x connect"),
        (
            "POST",
            "/api/v1/namespaces/a/pods/x/portforward?ports=80",
            "create v1 pods/portforward a/x connect ?ports=80",
        ),
        ("PUT", "/api/v1/namespaces/a/pods/x/exec", "405 P12"),
        ("DELETE", "/api/v1/namespaces/a/pods/x/attach", "405 P12"),
        ("GET", "/api/v1/namespaces/a/pods/x/proxy", "create v1 pods/proxy a/x connect"),
        ("PUT", "/api/v1/namespaces/a/pods/x/proxy", "create v1 pods/proxy a/x connect"),
        ("DELETE", "/api/v1/namespaces/a/services/x/proxy/a/b", "create v1 services/proxy a/x connect"),
        (
            "GET",
            "/api/v1/namespaces/a/services/https:web:443/proxy",
            "create v1 services/proxy a/web connect",
        ),
        ("GET", "/api/v1/namespaces/a/services/web:http/proxy", "create v1 services/proxy a/web connect"),
        ("GET", "/api/v1/nodes/n/proxy/pods", "create v1 nodes/proxy -/n connect"),
        ("GET", "/api/v1/nodes/n1:10255/proxy/pods", "create v1 nodes/proxy -/n1 connect"),
    ]);
}

#[test]
fn a1_paths_are_read_as_the_server_reads_them() {
    check(&[
        ("GET", "/api/v1/namespaces", "list v1 namespaces -/"),
        ("GET", "/api/v1/namespaces?watch=1", "watch v1 namespaces -/ ?watch=true"),
        ("GET", "/api/v1/namespaces/a", "get v1 namespaces a/a"),
        ("DELETE", "/api/v1/namespaces/a", "delete v1 namespaces a/a"),
        ("PATCH", "/api/v1/namespaces/a", "patch v1 namespaces a/a"),
        ("GET", "/api/v1/namespaces/a/status", "get v1 namespaces/status a/a"),
        ("GET", "/api/v1/namespaces/status", "get v1 namespaces status/status"),
        ("GET", "/api/v1/namespaces/status/pods", "list v1 pods status/"),
        ("GET", "/api/v1/namespaces/watch/pods/proxy", "get v1 pods watch/proxy"),
        ("GET", "/api/v1/namespaces/proxy/pods/watch/log", "get v1 pods/log proxy/watch"),
        ("GET", "/api/v1/pods", "list v1 pods */"),
        ("GET", "/api/v1/namespaces/a/pods", "list v1 pods a/"),
        ("GET", "/api/v1/namespaces/a/pods?watch=true", "watch v1 pods a/ ?watch=true"),
        ("GET", "/api/v1/namespaces/a/pods?watch=0", "list v1 pods a/ ?watch=false"),
        ("GET", "/api/v1/namespaces/a/pods/x", "get v1 pods a/x"),
        ("DELETE", "/api/v1/namespaces/a/pods/x", "delete v1 pods a/x"),
        ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection v1 pods a/"),
        ("DELETE", "/api/v1/nodes", "deletecollection v1 nodes -/"),
        (
            "PATCH",
            "/apis/apps/v1/namespaces/a/deployments/web/scale",
            "patch apps/v1 deployments/scale a/web",
        ),
        (
            "PATCH",
            "/apis/example.com/v1/namespaces/a/widgets/w/status",
            "patch example.com/v1 widgets/status a/w",
        ),
        ("GET", "/apis/example.com/v1/hubs/h", "get example.com/v1 hubs -/h"),
        ("GET", "/apis/metrics.k8s.io/v1beta1", "get /apis/metrics.k8s.io/v1beta1"),
        ("GET", "/openapi/v3/apis/apps/v1?hash=ABC", "get /openapi/v3/apis/apps/v1 ?hash=ABC"),
        (
            "GET",
            "/openapi/v3/.well-known/openid-configuration",
            "get /openapi/v3/.well-known/openid-configuration",
        ),
        (
            "GET",
            "/livez/poststarthook/start-apiextensions-informers?verbose",
            "get /livez/poststarthook/start-apiextensions-informers ?verbose=true",
        ),
        ("GET", "/metrics", "get /metrics"),
        ("GET", "/apiv1/secrets", "get /apiv1/secrets"),
        ("GET", "/sallyport/v1/access", "get /sallyport/v1/access"),
        (
            "GET",
            "/sallyport/v1/explain?verb=delete&resource=deployments.apps&namespace=a&name=web",
            "get /sallyport/v1/explain ?name=web&namespace=a&resource=deployments.apps&verb=delete",
        ),
    ]);
}

#[test]
fn p10_what_goes_upstream_is_rebuilt() {
    for (target, upstream) in [
        ("/api/v1/namespaces/a/configmaps/system:node", "/api/v1/namespaces/a/configmaps/system:node"),
        ("/api/v1/namespaces/a/configmaps/system%3anode", "/api/v1/namespaces/a/configmaps/system:node"),
        ("/api/v1/namespaces/a/configmaps/a!b", "/api/v1/namespaces/a/configmaps/a%21b"),
        ("/apis/apps/", "/apis/apps"),
        ("/api/v1/pods?watch=True&limit=0500&pretty=true", "/api/v1/pods?limit=500&watch=true"),
        ("/api/v1/pods?labelSelector=b%2Ca+in+(y,x)", "/api/v1/pods?labelSelector=a%20in%20%28x%2Cy%29%2Cb"),
        ("/api/v1/pods?", "/api/v1/pods"),
        ("/api/v1/pods?continue=", "/api/v1/pods"),
    ] {
        let request = read("GET", target, &headers(""), b"").expect(target);
        assert_eq!(request.path_and_query().expect("a URI").as_str(), upstream);
    }
}

#[test]
fn p15_the_authority_is_never_part_of_the_target() {
    use http::{Uri, Version};
    let absolute: Uri = "https://evil.example/api/v1/secrets".parse().expect("a URI");
    assert!(parsing::target::raw(&absolute, Version::HTTP_11).is_err());
    assert_eq!(parsing::target::raw(&absolute, Version::HTTP_2), Ok("/api/v1/secrets"));
    let authority: Uri = "evil.example:443".parse().expect("a URI");
    assert!(parsing::target::raw(&authority, Version::HTTP_11).is_err());
    let request = read("GET", "/api/v1/pods", &headers(""), b"").expect("read");
    let uri = Uri::builder()
        .scheme("https")
        .authority("upstream:6443")
        .path_and_query(request.path_and_query().expect("a path"))
        .build()
        .expect("a URI");
    assert_eq!(uri.to_string(), "https://upstream:6443/api/v1/pods");
}
