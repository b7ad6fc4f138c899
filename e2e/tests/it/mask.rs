//! The canary: a secret in every place that the baseline or a policy masks never appears in the bytes an agent gets.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::{Agent, ControlPlane, Gate, Setup, Version};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

/// 24 bytes that occur nowhere else.
const CANARY: &str = "canary-7f3c9a51e0b84d26";
const VERSIONS: [(Version, usize); 2] = [(Version::New, 0), (Version::Old, 1)];

/// Every form in which the canary would give itself away.
fn forms() -> Vec<String> {
    let base64 = |before: &str| {
        let encoded = encode(format!("{before}{CANARY}").as_bytes());
        // The first and last characters also depend on what stands beside it.
        encoded[(before.len() * 8).div_ceil(6)..encoded.len() - 4].to_owned()
    };
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = CANARY.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    vec![CANARY.to_owned(), base64(""), base64("x"), base64("xx"), hex, escaped]
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn assert_clean(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for form in forms() {
        assert!(!text.contains(&form), "{what} leaks {form}:\n{text}");
    }
    assert!(!bytes.starts_with(&[0x1f, 0x8b]), "{what} is compressed");
}

/// A namespace with the canary in a Secret (data, and stringData in last-applied), a Deployment, a Pod and a ConfigMap.
async fn vault(name: &str) -> anyhow::Result<(Gate, Agent, String)> {
    let gate = super::gate()?;
    let plane = gate.plane();
    let namespace = plane.namespace("mask").await?;
    let agent = gate.agent(&namespace, name, &[]).await?;
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()});
    let env = json!([{"name": "TOKEN", "value": CANARY}]);
    let template = json!({"containers": [{"name": "c", "image": "x", "env": env}]});
    let mut job = template.clone();
    job["restartPolicy"] = json!("Never");
    let labels = json!({"app": "web"});
    let objects = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": namespace},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}, "subjects": [user]},
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace}, "spec": {
            "agents": [{"namespace": namespace}],
            "rules": [{"name": "all", "effect": "Allow", "match": [
                {"apiGroups": ["", "apps", "batch"], "verbs": ["*"],
                 "resources": ["secrets", "configmaps", "pods", "pods/status", "events", "deployments", "deployments/status", "deployments/scale", "replicasets", "jobs"]}]}],
            "masking": [
                {"name": "pod-env", "type": "Fields", "fields": {"paths": [
                    ".spec.containers[*].env[*].value", ".spec.template.spec.containers[*].env[*].value"]},
                 "match": [{"apiGroups": ["", "apps", "batch"], "resources": ["pods", "deployments", "replicasets", "jobs"], "verbs": ["*"]}]},
                {"name": "config", "type": "Fields", "fields": {"paths": [".data.*", ".binaryData.*"]},
                 "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]},
            ]}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": namespace},
         "stringData": {"password": CANARY}, "data": {"url": encode(format!("postgres://x:{CANARY}@db").as_bytes())}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags", "namespace": namespace},
         "data": {"token": CANARY}, "binaryData": {"blob": encode(CANARY.as_bytes())}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": namespace, "labels": labels}, "spec": template},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": namespace},
         "spec": {"suspend": true, "template": {"spec": job}}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace}, "spec": {
            "replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": template}}},
    ]);
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let object = format!("accesspolicy/{namespace}");
    plane.kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
    let seen = plane.kubectl(&["get", "secret", "db", "-n", &namespace, "-o", "yaml"])?.success()?;
    assert!(forms().iter().filter(|form| seen.contains(*form)).count() >= 2, "the canary is there: {seen}");
    Ok((gate, agent, namespace))
}

const COMMANDS: [&[&str]; 29] = [
    &["get", "secret", "db"],
    &["get", "secret", "db", "-o", "json"],
    &["get", "secret", "db", "-o", "yaml", "--show-managed-fields"],
    &["get", "secret", "db", "-o", "wide"],
    &["get", "secret", "db", "-o", "jsonpath={.data.password}{.metadata.annotations}"],
    &["get", "secret", "db", "-o", "go-template={{.data}}"],
    &["get", "secret", "db", "-v=9"],
    &["get", "secrets", "-o", "json"],
    &["get", "secrets", "-o", "yaml"],
    &["get", "secrets", "--sort-by=.metadata.name"],
    &["get", "secrets", "--sort-by=.metadata.name", "-o", "wide", "-v=9"],
    &["get", "secrets", "-o", "custom-columns=D:.data,A:.metadata.annotations"],
    &["get", "secrets", "-A"],
    &["get", "secrets", "-A", "-o", "json"],
    &["get", "secrets", "-A", "--sort-by=.metadata.name"],
    &["describe", "secret", "db"],
    &["describe", "secrets"],
    &["get", "configmap", "flags", "-o", "yaml"],
    &["describe", "configmap", "flags"],
    &["get", "pod", "one", "-o", "yaml"],
    &["get", "pod", "one", "--subresource=status", "-o", "yaml"],
    &["get", "pods", "--sort-by=.metadata.name", "-v=9"],
    &["describe", "pod", "one"],
    &["get", "deployment", "web", "-o", "yaml"],
    &["get", "deployment", "web", "--subresource=scale", "-o", "yaml"],
    &["describe", "deployment", "web"],
    &["get", "jobs", "-o", "json"],
    &["set", "env", "deployment/web", "--list"],
    &["get", "secrets,configmaps,pods,deployments", "-o", "yaml"],
];

#[tokio::test]
async fn b01_b20_no_kubectl_command_shows_the_canary() -> anyhow::Result<()> {
    let (_, agent, namespace) = vault("reader").await?;
    for (version, proxy) in VERSIONS {
        for command in COMMANDS {
            let everywhere = command.contains(&"-A");
            let flags: &[&str] = if everywhere { &[] } else { &["-n", &namespace] };
            let out = agent.kubectl_with(version, proxy, &[command, flags].concat(), "")?;
            assert_eq!(out.code, 0, "{version:?} {command:?}: {out:?}");
            assert_clean(
                &format!("{version:?} {command:?}"),
                format!("{}{}", out.stdout, out.stderr).as_bytes(),
            );
        }
        let password = ["get", "secret", "db", "-n", &namespace, "-o", "jsonpath={.data.password}"];
        let out = agent.kubectl_with(version, proxy, &password, "")?;
        assert_eq!(out.stdout, encode(b"[MASKED:secret-data]"), "{out:?}");
        assert!(
            out.stderr.contains("Warning: sallyport: ") && out.stderr.contains("masked (secret-data)"),
            "{out:?}"
        );
        let env =
            ["get", "pod", "one", "-n", &namespace, "-o", "jsonpath={.spec.containers[0].env[0].value}"];
        assert_eq!(agent.kubectl_with(version, proxy, &env, "")?.stdout, "[MASKED:pod-env]");
    }
    Ok(())
}

#[tokio::test]
async fn b18_watches_show_changes_at_once_and_never_the_canary() -> anyhow::Result<()> {
    let (gate, agent, namespace) = vault("watcher").await?;
    for (version, proxy) in VERSIONS {
        for command in [
            &["get", "secrets", "-w", "-o", "json"][..],
            &["get", "secrets", "-w"],
            &["get", "pods", "-w", "-o", "yaml"],
        ] {
            let kind = command[1].trim_end_matches('s');
            let mut child = agent.kubectl_spawn(version, proxy, &[command, &["-n", &namespace]].concat())?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let label = format!("turn={}", gate.plane().next());
            let name = if kind == "secret" { "db" } else { "one" };
            gate.plane()
                .kubectl(&["label", kind, name, "-n", &namespace, "--overwrite", &label])?
                .success()?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            child.kill()?;
            let mut out = Vec::new();
            child.stdout.take().map(|mut stdout| stdout.read_to_end(&mut out)).transpose()?;
            child.wait()?;
            let text = String::from_utf8_lossy(&out);
            let times = text.matches(name).count();
            assert!(times >= 2, "{version:?} {command:?} shows the change: {text}");
            assert_clean(&format!("{version:?} {command:?}"), &out);
        }
    }
    Ok(())
}

#[tokio::test]
async fn b02_to_b12_no_accept_header_gets_the_canary() -> anyhow::Result<()> {
    let (_, agent, namespace) = vault("raw").await?;
    let accepts = [
        "application/json",
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/vnd.kubernetes.protobuf,application/json",
        "application/cbor",
        "application/cbor-seq",
        "*/*",
        "application/*",
        "text/html, application/yaml;q=0.9, application/json;q=0.1",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ];
    let paths = ["secrets/db", "secrets", "secrets?limit=1", "configmaps/flags", "pods", "pods/one/status"];
    let queries = ["", "includeObject=Object", "pretty=true"];
    let mut connection = agent.connect(0).await?;
    for accept in accepts {
        for path in paths {
            for query in queries {
                let joint = if path.contains('?') { "&" } else { "?" };
                let more = if query.is_empty() { String::new() } else { format!("{joint}{query}") };
                let target = format!("/api/v1/namespaces/{namespace}/{path}{more}");
                let headers = [("Accept", accept), ("Accept-Encoding", "gzip, br"), ("User-Agent", "curl/8")];
                let request = agent.request("GET", &target, &headers, b"")?;
                let answer = loop {
                    connection.send(&request).await?;
                    let answer = connection.answer().await?;
                    if answer.code != 429 {
                        break answer;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                };
                let what = format!("{accept} {target}");
                assert_clean(&what, &answer.body);
                assert_eq!(answer.header("content-encoding"), None, "{what}");
                assert_eq!(answer.header("content-type"), Some("application/json"), "{what}");
                // A form that does not fit the request is the API server's 406.
                assert!(matches!(answer.code, 200 | 406), "{what}: {}", answer.text());
                let fits = !accept.contains("as=Partial");
                assert!(answer.code == 200 || !fits, "{what}: {}", answer.text());
            }
        }
    }
    let none = agent.send(1, "GET", &format!("/api/v1/namespaces/{namespace}/secrets"), &[], b"").await?;
    assert_clean("no Accept", &none.body);
    assert_eq!(none.json()?["items"][0]["metadata"]["name"], "db", "{}", none.text());
    Ok(())
}

#[tokio::test]
async fn b18_raw_watches_of_every_form_are_masked() -> anyhow::Result<()> {
    let (_, agent, namespace) = vault("raw-watch").await?;
    for accept in [
        "application/json",
        "application/vnd.kubernetes.protobuf",
        "application/cbor-seq",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ] {
        let query = "watch=1&timeoutSeconds=1&includeObject=Object&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let target = format!("/api/v1/namespaces/{namespace}/secrets?{query}");
        let answer = agent.send(0, "GET", &target, &[("Accept", accept)], b"").await?;
        assert_eq!(answer.code, 200, "{accept}: {}", answer.text());
        assert_clean(&format!("watch {accept}"), &answer.body);
        let text = answer.text();
        let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        assert!(events.iter().any(|event| event["type"] == "ADDED"), "{accept}: {text}");
        assert!(text.contains("k8s.io/initial-events-end"), "the bookmark's annotation is intact: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn b40_b43_writes_answer_masked_or_not_at_all() -> anyhow::Result<()> {
    let (_, agent, namespace) = vault("writer").await?;
    let merge = [("Content-Type", "application/merge-patch+json")];
    let strategic = [("Content-Type", "application/strategic-merge-patch+json")];
    for query in ["", "?dryRun=All"] {
        for target in [
            format!("/api/v1/namespaces/{namespace}/secrets/db{query}"),
            format!("/api/v1/namespaces/{namespace}/configmaps/flags{query}"),
            format!("/api/v1/namespaces/{namespace}/pods/one{query}"),
            format!("/apis/apps/v1/namespaces/{namespace}/deployments/web{query}"),
        ] {
            for headers in [merge, strategic] {
                let answer = agent.send(1, "PATCH", &target, &headers, b"{}").await?;
                assert_eq!(answer.code, 200, "{target}: {}", answer.text());
                assert_clean(&target, &answer.body);
                let masked = ["[MASKED:", "W01BU0tFRDp"].iter().any(|mark| answer.text().contains(mark));
                assert!(masked, "{target}: {}", answer.text());
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn b44_a_rejected_change_quotes_no_stored_value() -> anyhow::Result<()> {
    let (gate, agent, namespace) = vault("rejected").await?;
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "command": ["y"]}]}}}})
        .to_string();
    let direct = gate.plane().kubectl(&["patch", "job", "once", "-n", &namespace, "-p", &patch])?;
    assert!(direct.stderr.contains(CANARY), "without the gate the error quotes it: {direct:?}");
    let strategic = [("Content-Type", "application/strategic-merge-patch+json")];
    let job = format!("/apis/batch/v1/namespaces/{namespace}/jobs/once");
    for query in ["", "?dryRun=All"] {
        let answer = agent.send(0, "PATCH", &format!("{job}{query}"), &strategic, patch.as_bytes()).await?;
        assert_eq!(answer.code, 422, "{}", answer.text());
        assert_clean("an immutable field", &answer.body);
        let said = answer.json()?;
        assert_eq!(said["reason"], "Invalid", "{said}");
        let field = said["details"]["causes"][0]["field"].as_str().unwrap_or_default();
        assert!(field.starts_with("spec.template"), "{said}");
    }
    for (version, proxy) in VERSIONS {
        let out = agent.kubectl_with(
            version,
            proxy,
            &["patch", "job", "once", "-n", &namespace, "-p", &patch],
            "",
        )?;
        assert_clean("kubectl patch", format!("{}{}", out.stdout, out.stderr).as_bytes());
        assert!(
            out.stderr.contains("withheld by sallyport") && out.stderr.contains("spec.template"),
            "{out:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn c_what_was_read_masked_cannot_be_written_back() -> anyhow::Result<()> {
    let (gate, agent, namespace) = vault("editor").await?;
    for (version, proxy) in VERSIONS {
        for object in ["secret/db", "configmap/flags", "deployment/web"] {
            let get = ["get", object, "-n", &namespace, "-o", "yaml"];
            let before = gate.plane().kubectl(&get)?.success()?;
            let read = agent.kubectl_with(version, proxy, &get, "")?.success()?;
            for write in [
                &["apply", "-f", "-"][..],
                &["apply", "--server-side", "--force-conflicts", "-f", "-"],
                &["replace", "-f", "-"],
            ] {
                let out =
                    agent.kubectl_with(version, proxy, &[write, &["-n", &namespace]].concat(), &read)?;
                let said = out.stderr.contains("MaskedValueInWrite");
                // Client-side apply sends only what differs from what it reads, which may be nothing.
                let nothing_sent = write == ["apply", "-f", "-"] && out.code == 0;
                assert!(said || nothing_sent, "{version:?} {object} {write:?}: {out:?}");
            }
            assert_eq!(gate.plane().kubectl(&get)?.success()?, before, "{object} is byte-identical");
        }
    }
    Ok(())
}

/// A custom kind with the canary in its spec and in a printer column, for agents of a namespace of their own.
async fn custom(name: &str) -> anyhow::Result<(Gate, Agent, String)> {
    let gate = super::gate()?;
    let plane = gate.plane();
    let namespace = plane.namespace("mask-custom").await?;
    let agent = gate.agent(&namespace, name, &[]).await?;
    let group = format!("{namespace}.example.com");
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("vaults.{group}")},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"kind": "Vault", "plural": "vaults", "singular": "vault", "listKind": "VaultCollection"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"data": open, "spec": open, "status": open}}},
                "additionalPrinterColumns": [{"name": "Password", "type": "string", "jsonPath": ".spec.password"}]}]},
    });
    plane.apply(&definition.to_string())?;
    let established = format!("crd/vaults.{group}");
    plane.kubectl(&["wait", "--for=condition=Established", &established, "--timeout=30s"])?.success()?;
    let vault = |name: &str| {
        json!({"apiVersion": format!("{group}/v1"), "kind": "Vault", "metadata": {"name": name, "namespace": namespace},
               "data": {"a": CANARY}, "spec": {"password": CANARY, "more": [{"deep": CANARY}]}})
    };
    let everything =
        json!([{"apiGroups": [group], "resources": ["vaults", "vaults/status"], "verbs": ["*"]}]);
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": namespace});
    let objects = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": namespace}, "rules": everything},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": namespace},
         "roleRef": role, "subjects": [user]},
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace}, "spec": {
            "agents": [{"namespace": namespace}],
            "rules": [{"name": "all", "effect": "Allow", "match": everything}],
            "masking": [{"name": "vault", "type": "Fields", "match": everything,
                         "fields": {"paths": [".data", ".spec.password", ".spec.more[*].*"]}}]}},
        vault("one"), vault("two"),
    ]);
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let object = format!("accesspolicy/{namespace}");
    plane.kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
    Ok((gate, agent, namespace))
}

#[tokio::test]
async fn b10_b28_custom_kinds_are_masked_also_in_columns_and_when_the_kind_comes_late() -> anyhow::Result<()>
{
    let (_, agent, namespace) = custom("custom").await?;
    let target = format!("/apis/{namespace}.example.com/v1/namespaces/{namespace}/vaults");
    for (version, proxy) in VERSIONS {
        let (plural, singular) =
            (format!("vaults.{namespace}.example.com"), format!("vault.{namespace}.example.com"));
        for command in [
            &["get", &plural][..],
            &["get", &plural, "-A"],
            &["get", &plural, "-o", "yaml"],
            &["get", &plural, "--sort-by=.metadata.name", "-v=9"],
            &["get", &singular, "one", "-o", "json"],
            &["get", &singular, "one", "--subresource=status", "-o", "yaml"],
            &["describe", &singular, "one"],
        ] {
            let flags: &[&str] = if command.contains(&"-A") { &[] } else { &["-n", &namespace] };
            let out = agent.kubectl_with(version, proxy, &[command, flags].concat(), "")?;
            assert_eq!(out.code, 0, "{version:?} {command:?}: {out:?}");
            assert!(out.stdout.contains("one"), "{out:?}");
            assert_clean(
                &format!("{version:?} {command:?}"),
                format!("{}{}", out.stdout, out.stderr).as_bytes(),
            );
        }
    }
    for (method, path, accept) in [
        ("GET", "", "application/json"),
        ("GET", "?watch=1&timeoutSeconds=1", "application/json"),
        ("GET", "?watch=1&timeoutSeconds=1", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("GET", "", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("GET", "?includeObject=Object", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("GET", "", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
        ("GET", "/one", "application/cbor"),
        ("PATCH", "/one", "application/json"),
        ("PATCH", "/one/status", "application/json"),
        ("DELETE", "/two", "application/json"),
    ] {
        let mut headers = vec![("Accept", accept)];
        let body: &[u8] = if method == "PATCH" { b"{}" } else { b"" };
        if method == "PATCH" {
            headers.push(("Content-Type", "application/merge-patch+json"));
        }
        let answer = agent.send(0, method, &format!("{target}{path}"), &headers, body).await?;
        let what = format!("{method} {path} {accept}");
        assert_eq!(answer.code, 200, "{what}: {}", answer.text());
        assert_clean(&what, &answer.body);
    }
    Ok(())
}

#[tokio::test]
async fn e13_a_list_cut_on_the_way_is_never_a_whole_list() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, relayed: true, ..Setup::default() })?;
    let relay = gate.proxies()[0].relay().context("a relayed gate")?;
    let namespace = plane.namespace("cut").await?;
    let agent = gate.agent(&namespace, "cut", &[]).await?;
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()});
    let view = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let rules = json!([{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]}]);
    let objects = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "cut", "namespace": namespace},
         "roleRef": view, "subjects": [user]},
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
         "spec": {"agents": [{"namespace": namespace}], "rules": rules}},
    ]);
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    let object = format!("accesspolicy/{namespace}");
    plane.kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
    let maps: Api<ConfigMap> = Api::namespaced(plane.admin().await?, &namespace);
    for n in 0..24 {
        let data = BTreeMap::from([("pad".to_owned(), "x".repeat(900_000))]);
        let name = Some(format!("m{n}"));
        let map = ConfigMap {
            metadata: ObjectMeta { name, ..Default::default() },
            data: Some(data),
            ..Default::default()
        };
        maps.create(&Default::default(), &map).await?;
    }
    let target = format!("/api/v1/namespaces/{namespace}/configmaps");
    for _ in 0..5 {
        let mut connection = agent.connect(0).await?;
        connection.send(&agent.request("GET", &target, &[], b"")?).await?;
        assert_eq!(connection.head().await?.code, 200);
        relay.stall_answers();
        connection.chunk().await?;
        relay.cut();
        let end = loop {
            match connection.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => break "clean",
                Err(_) => break "broken",
            }
        };
        relay.flow();
        if end == "broken" {
            return Ok(());
        }
    }
    anyhow::bail!("a list of 21 MB was never cut, or its cut looked like an end")
}
