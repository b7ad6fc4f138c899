//! The shell of the gate against a real API server: who is let in, what is known, how it ends.

use std::time::Duration;

use e2e::{ControlPlane, Filter, Gate, Setup, Version, eventually, kubectl, wire};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use super::estate::Estate;

fn work() -> serde_json::Value {
    json!({"rules": [{"name": "work", "effect": "Allow", "match": [
        {"apiGroups": ["", "gate.example"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["/livez"], "verbs": ["get"]},
    ]}]})
}

#[tokio::test]
async fn b122_a_token_for_somebody_else_is_told_what_to_mount() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "gate", work()).await?;
    let gate = &estate.gate;
    let (ca, url) = (gate.ca().await?, gate.urls().remove(0));
    for (audience, says) in [
        (
            gate.plane().server(),
            "but must be \"sallyport\"; next: mount a projected token with audience sallyport",
        ),
        ("sallyport", "no AgentIdentity names the subject"),
    ] {
        let account = if audience == "sallyport" { "default" } else { "agent" };
        gate.plane().service_account(&estate.namespace, account).await?;
        let token = gate.plane().token(&estate.namespace, account, &[audience], 600).await?;
        let login = e2e::kubeconfig::Login::Token(token);
        let config = e2e::kubeconfig::Kubeconfig::new(&url, &ca, login);
        let config = config.write(gate.plane().scratch(), &format!("foreign-{}", gate.plane().next()))?;
        for version in [Version::New, Version::Old] {
            // kubectl drops the words of a 401 to discovery: it shows those of every request that decodes its answer.
            let out = kubectl(version, &config, &["auth", "whoami"])?;
            assert_eq!(out.code, 1, "{out:?}");
            assert!(out.stderr.contains("You must be logged in to the server"), "{out:?}");
            assert!(out.stderr.contains(says), "{out:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn streams_are_refused_by_name_with_stock_kubectl() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "gate", work()).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": estate.namespace},
        "spec": {"containers": [{"name": "web", "image": "web"}]},
    });
    estate.gate.plane().apply(&pod.to_string())?;
    for version in [Version::New, Version::Old] {
        for args in [&["exec", "web", "--", "id"][..], &["attach", "web"], &["port-forward", "web", ":80"]] {
            let args = [args, &["-n", &estate.namespace]].concat();
            let out = estate.agent.kubectl_with(version, 0, &args, "")?;
            assert_ne!(out.code, 0, "{out:?}");
            let said = ["sallyport/StreamDenied", "sallyport/PolicyDenied", "not running"];
            assert!(said.iter().any(|said| out.stderr.contains(said)), "{out:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn p11_a_new_kind_is_served_as_soon_as_it_exists() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "gate", work()).await?;
    assert!(estate.agent(&["get", "--raw", &things(&estate.namespace)])?.stderr.contains("NotFound"));
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let kind = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.gate.example"},
        "spec": {
            "group": "gate.example", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    estate.gate.plane().apply(&kind.to_string())?;
    estate.admin(&["wait", "--for=condition=Established", "crd/things.gate.example"])?.success()?;
    let role = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "things"},
         "rules": [{"apiGroups": ["gate.example"], "resources": ["things"], "verbs": ["*"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "things", "namespace": estate.namespace},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "things"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": estate.agent.username()}]},
    ]);
    estate.gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": role}).to_string())?;
    eventually("the new kind", Duration::from_secs(20), async || {
        let out = estate.agent(&["get", "--raw", &things(&estate.namespace)])?;
        Ok(out.stdout.contains("ThingList").then_some(()))
    })
    .await
}

fn things(namespace: &str) -> String {
    format!("/apis/gate.example/v1/namespaces/{namespace}/things")
}

#[tokio::test]
async fn the_kill_switch_works_while_the_operator_is_down() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup::default())?;
    let estate = Estate::new(&gate, "gate", work()).await?;
    estate.agent(&["get", "configmaps"])?.success()?;
    gate.operator().kill()?;
    for (suspend, expected) in [(true, 403), (false, 200)] {
        let patch = json!({"spec": {"suspend": suspend}}).to_string();
        estate.admin(&["patch", "agentidentity", "agent", "--type=merge", "-p", &patch])?.success()?;
        let target = format!("/api/v1/namespaces/{}/configmaps", estate.namespace);
        eventually("every proxy", Duration::from_secs(20), async || {
            let mut codes = Vec::new();
            for proxy in 0..gate.proxies().len() {
                codes.push(estate.agent.send(proxy, "GET", &target, &[], b"").await?.code);
            }
            Ok(codes.iter().all(|code| *code == expected).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn f02_a_graceful_end_takes_the_lease_and_ends_watches_cleanly() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup::default())?;
    let estate = Estate::new(&gate, "gate", work()).await?;
    let leases: Api<Lease> = Api::namespaced(plane.admin().await?, e2e::gate::SYSTEM);
    let proxies = ListParams::default().labels("app.kubernetes.io/component=proxy");
    assert_eq!(leases.list(&proxies).await?.items.len(), 2);
    let mut connection = estate.agent.connect(1).await?;
    let watch = format!("/api/v1/namespaces/{}/configmaps?watch=true", estate.namespace);
    connection.send(&estate.agent.request("GET", &watch, &[], b"")?).await?;
    assert_eq!(connection.head().await?.code, 200);
    let port = gate.proxies()[1].program().admin_port();
    assert_eq!(wire::get_plain(port, "/readyz").await?.code, 200);
    let stopping = std::thread::spawn({
        let gate = gate.clone();
        move || gate.proxies()[1].program().stop(Duration::from_secs(30))
    });
    while let Some(chunk) = connection.chunk().await? {
        assert!(!chunk.is_empty());
    }
    let code = stopping.join().map_err(|_panic| anyhow::anyhow!("stop panicked"))??;
    assert_eq!(code, 0);
    assert_eq!(leases.list(&proxies).await?.items.len(), 1, "its lease went with it");
    Ok(())
}

#[tokio::test]
async fn the_admin_port_tells_how_it_goes() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "gate", work()).await?;
    estate.agent(&["get", "configmaps"])?.success()?;
    estate.agent(&["get", "nodes"])?;
    let program = estate.gate.proxies()[0].program();
    assert_eq!(wire::get_plain(program.admin_port(), "/livez").await?.code, 200);
    let metrics = program.metrics().await?;
    let allowed = format!(
        "sallyport_requests_total{{agent=\"{}/agent\",decision=\"Allowed\",reason=\"\"}}",
        estate.namespace
    );
    assert!(metrics.contains(&allowed), "{metrics}");
    for name in ["sallyport_config_revision", "sallyport_stage_seconds", "sallyport_connections"] {
        assert!(metrics.contains(name), "{metrics}");
    }
    let raw = estate.agent(&["get", "--raw", "/livez"])?;
    assert!(raw.success()?.contains("ok"), "a nonResourceURLs rule lets a health path pass");
    Ok(())
}

#[tokio::test]
async fn a_held_request_whose_client_left_does_not_run_behind_its_back() -> anyhow::Result<()> {
    let ask = json!({
        "rules": [
            {"name": "read", "effect": "Allow", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "watch"]},
            ]},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
            ]},
        ],
        "approval": {"holdSeconds": 60},
    });
    let estate = Estate::new(&super::gate()?, "gate", ask).await?;
    estate.deployment("web")?;
    let command = ["delete", "deployment", "web", "--wait=false", "-n", &estate.namespace];
    let mut child = estate.agent.kubectl_spawn(Version::New, 0, &command)?;
    let grant = estate.grant("WaitingForReview").await?;
    child.kill()?;
    child.wait()?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    estate.review(&grant, "Approved")?.success()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let deletes = Filter::ran_as(&estate.agent.username()).verb("delete").namespace(&estate.namespace);
    assert_eq!(estate.gate.plane().audit().requests(&deletes).await?.len(), 0);
    assert!(estate.agent(&command[..4])?.success()?.contains("deleted"));
    assert_eq!(estate.gate.plane().audit().requests(&deletes).await?.len(), 1);
    Ok(())
}
