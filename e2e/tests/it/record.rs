//! The recording against the witness: what reached the API server is written down, and what nobody knows is called so.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::kubectl::kubectl_spawn;
use e2e::{ControlPlane, Filter, Gate, Output, Setup, Version, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::estate::Estate;

const SOON: Duration = Duration::from_secs(30);

/// `kubectl sallyport` as the administrator.
fn plugin(gate: &Gate, args: &[&str]) -> anyhow::Result<Output> {
    let store = format!("file://{}", gate.recordings().display());
    let out = Command::new(e2e::program("kubectl-sallyport")?)
        .args(args)
        .args(["--store", &store])
        .env_clear()
        .env("KUBECONFIG", gate.plane().admin_kubeconfig())
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok(Output { stdout: text(out.stdout)?, stderr: text(out.stderr)?, code: out.status.code().unwrap_or(-1) })
}

fn sessions(gate: &Gate, namespace: &str) -> anyhow::Result<Vec<String>> {
    let args = ["get", "sessionrecords", "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}"];
    let names = gate.plane().kubectl(&args)?.success()?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// Every event of every session, by request id and type.
pub fn events(estate: &Estate) -> anyhow::Result<HashMap<(String, String), Value>> {
    events_in(&estate.gate, &estate.namespace)
}

/// The same of a namespace.
pub fn events_in(gate: &Gate, namespace: &str) -> anyhow::Result<HashMap<(String, String), Value>> {
    let mut found = HashMap::new();
    for name in sessions(gate, namespace)? {
        let replay = plugin(gate, &["replay", &name, "-n", namespace, "-o", "json"])?;
        for line in replay.stdout.lines() {
            let line: Value = serde_json::from_str(line)?;
            if let (Some(id), Some(kind)) = (line["event"]["requestId"].as_str(), line["type"].as_str()) {
                found.insert((id.to_owned(), kind.to_owned()), line["event"].clone());
            }
        }
    }
    Ok(found)
}

fn id_in(stderr: &str) -> Option<String> {
    let line = stderr.lines().find_map(|line| line.trim().strip_prefix("id:"))?;
    Some(line.trim().to_owned())
}

#[tokio::test]
async fn h9_what_reached_the_api_server_is_what_was_recorded_and_refusals_too() -> anyhow::Result<()> {
    let policy = json!({"rules": [{"name": "work", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "watch"]},
    ]}]});
    let estate = Estate::new(&super::gate()?, "record", policy).await?;
    let namespace = estate.namespace.as_str();
    let flags = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags", "namespace": namespace}});
    let create = ["create", "-f", "-"];
    estate.agent.kubectl_with(Version::New, 0, &create, &flags.to_string())?.success()?;
    for proxy in [0, 1] {
        for args in [["get", "configmaps"], ["get", "configmap/flags"], ["get", "configmap/none"]] {
            let args = [&args[..], &["-n", namespace]].concat();
            estate.agent.kubectl_with(Version::New, proxy, &args, "")?;
        }
    }
    let refused = estate.agent(&["delete", "configmap", "flags"])?;
    let refused = id_in(&refused.stderr).unwrap_or_else(|| panic!("{refused:?}"));
    let bad = estate.agent.send(0, "GET", "/api/v1/namespaces//configmaps", &[], b"").await?;
    assert_eq!(bad.code, 400, "{}", bad.text());
    let target = format!("/api/v1/namespaces/{namespace}/configmaps");
    let as_admin = estate.agent.send(0, "GET", &target, &[("Impersonate-User", "admin")], b"").await?;
    assert!((400..500).contains(&as_admin.code), "{}", as_admin.text());
    let as_admin = as_admin.header("audit-id").unwrap_or_default().to_owned();

    let seen = estate.gate.plane().audit().requests_of(&estate.agent.username()).await?;
    let seen: Vec<_> = seen
        .into_iter()
        .filter(|request| {
            request.object_ref.as_ref().is_none_or(|object| object.resource != "selfsubjectreviews")
        })
        .collect();
    assert!(seen.len() >= 7, "{seen:?}");
    let all = eventually("every outcome in the store", SOON, async || {
        let events = events(&estate)?;
        let ended = |id: &str| events.contains_key(&(id.to_owned(), "Outcome".to_owned()));
        let all = seen.iter().all(|request| ended(&request.audit_id)) && ended(&refused) && ended(&as_admin);
        Ok(all.then_some(events))
    })
    .await?;
    for request in &seen {
        let of = |kind: &str| &all[&(request.audit_id.clone(), kind.to_owned())];
        let (intent, outcome) = (of("Intent"), of("Outcome"));
        assert_eq!(intent["act"]["verb"], request.verb, "{request:?}");
        assert_eq!(intent["target"], request.uri, "{request:?}");
        if request.verb != "watch" {
            assert_eq!(outcome["code"], request.code(), "{request:?}");
        }
    }
    let refusal = &all[&(refused.clone(), "Refusal".to_owned())];
    assert_eq!((&refusal["reason"], &refusal["act"]["verb"]), (&json!("NotAllowed"), &json!("delete")));
    assert!(!seen.iter().any(|request| request.audit_id == refused));
    assert!(
        all.contains_key(&(as_admin, "Refusal".to_owned())),
        "an attempt to be somebody else is recorded"
    );
    let unread = all.iter().find(|((_, kind), event)| kind == "Refusal" && event["reason"] == "BadRequest");
    assert!(
        unread.is_some_and(|(_, event)| event["rawTarget"] == "/api/v1/namespaces//configmaps"),
        "{unread:?}"
    );
    let dump = serde_json::to_string(&all.values().collect::<Vec<_>>())?;
    assert!(!dump.contains(&estate.agent.token()?), "a token is in the recording");

    let [name] = &sessions(&estate.gate, &estate.namespace)?[..] else {
        panic!("both proxies share one session")
    };
    let verified =
        eventually("a session record that knows both chains", Duration::from_secs(70), async || {
            let out = plugin(&estate.gate, &["verify", name, "-n", namespace])?;
            let known =
                estate.admin(&["get", "sessionrecord", name, "-o", "jsonpath={.status.replicas[*].name}"])?;
            Ok((known.success()?.split_whitespace().count() == 2).then_some(out))
        })
        .await?;
    assert!(verified.stdout.contains("hash chain ok (") && verified.code == 0, "{verified:?}");
    Ok(())
}

#[tokio::test]
async fn a_suspended_agents_session_ends_and_what_it_tries_is_still_recorded() -> anyhow::Result<()> {
    let policy = json!({"rules": [{"name": "work", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]},
    ]}]});
    let estate = Estate::new(&super::gate()?, "record", policy).await?;
    estate.agent(&["get", "configmaps"])?.success()?;
    let [first] = &sessions(&estate.gate, &estate.namespace)?[..] else { panic!("one session") };
    let suspend = ["patch", "agentidentity", "agent", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#];
    estate.admin(&suspend)?.success()?;
    let refused = eventually("a refusal", SOON, async || {
        let out = estate.agent(&["get", "configmaps"])?;
        Ok(if out.stderr.contains("AgentSuspended") { id_in(&out.stderr) } else { None })
    })
    .await?;
    eventually("the refusal's record", SOON, async || {
        let events = events(&estate)?;
        let refusal = events.get(&(refused.clone(), "Refusal".to_owned()));
        Ok(refusal.filter(|refusal| refusal["reason"] == "AgentSuspended").cloned())
    })
    .await?;
    let active = r#"jsonpath={.status.conditions[?(@.type=="Active")].reason}"#;
    eventually("the session's end", SOON, async || {
        let reason = estate.admin(&["get", "sessionrecord", first, "-o", active])?.success()?;
        Ok((reason == "AgentSuspended").then_some(()))
    })
    .await?;
    let verified = eventually("a closed chain", SOON, async || {
        let out = plugin(&estate.gate, &["verify", first, "-n", &estate.namespace])?;
        Ok((out.code == 0 && !out.stdout.contains("still active")).then_some(out))
    })
    .await?;
    assert!(verified.stdout.starts_with("hash chain ok ("), "{verified:?}");
    Ok(())
}

/// An admission webhook that answers nothing, so that the API server holds a delete for as long as it may.
async fn hold_deletes(estate: &Estate) -> anyhow::Result<Arc<AtomicUsize>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (port, asked) = (listener.local_addr()?.port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": format!("stall-{}", estate.namespace)},
        "webhooks": [{
            "name": "stall.e2e.sallyport.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail", "timeoutSeconds": 20,
            "clientConfig": {"url": format!("https://127.0.0.1:{port}/")},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": estate.namespace}},
            "rules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["DELETE"]}],
        }],
    });
    estate.gate.plane().apply(&webhook.to_string())?;
    estate.deployment("probe")?;
    eventually("the webhook to be asked", SOON, async || {
        let kubeconfig = estate.gate.plane().admin_kubeconfig();
        let args = ["delete", "deployment", "probe", "--dry-run=server", "-n", &estate.namespace];
        let mut child = kubectl_spawn(Version::New, kubeconfig, &args)?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        child.kill()?;
        child.wait()?;
        Ok((asked.load(Ordering::SeqCst) > 0).then_some(()))
    })
    .await?;
    Ok(asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_a_stalled_approved_write_is_unknown_and_its_grant_is_never_used_again() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, relayed: true, ..Setup::default() })?;
    let ask = json!({
        "rules": [{"name": "ask", "effect": "RequireApproval", "match": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
        ]}],
        "approval": {"holdSeconds": 0},
    });
    let estate = Estate::new(&gate, "stall", ask).await?;
    let namespace = estate.namespace.as_str();
    estate.deployment("web")?;
    hold_deletes(&estate).await?;
    let target = format!("/apis/apps/v1/namespaces/{namespace}/deployments/web");
    let delete = async || estate.agent.send(0, "DELETE", &target, &[], b"").await;
    let pending = delete().await?;
    assert!(pending.text().contains("ApprovalPending"), "{}", pending.text());
    let grant = estate.grant("WaitingForReview").await?;
    estate.review(&grant, "Approved")?.success()?;

    let proxy = &gate.proxies()[0];
    // As whom it runs is not known yet when it is received.
    let deletes = Filter::default().verb("delete").resource("deployments").namespace(namespace).name("web");
    let (lost, id) = tokio::join!(delete(), async {
        let arrived = eventually("the delete at the API server", SOON, async || {
            Ok(plane.audit().so_far(&deletes)?.pop())
        })
        .await?;
        proxy.relay()?.stall_answers();
        proxy.program().kill()?;
        anyhow::Ok(arrived.audit_id)
    });
    let id = id?;
    assert!(
        lost.as_ref().is_err() || lost.as_ref().is_ok_and(|answer| answer.code == 0),
        "code {:?}",
        lost.map(|answer| answer.code)
    );
    assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, id, "used up before it was sent");

    // Nothing but the store is left to say what happened.
    let [name] = &sessions(&estate.gate, &estate.namespace)?[..] else { panic!("one session") };
    let unknown = format!("unknown: delete deployments.apps/web -n {namespace} (id {id}, ");
    let verified = plugin(&gate, &["verify", name, "-n", namespace])?;
    assert!(verified.stdout.contains(&unknown), "{verified:?}");
    let replayed = plugin(&gate, &["replay", name, "-n", namespace])?.success()?;
    let line = replayed.lines().find(|line| line.contains("Approved       delete")).unwrap_or_default();
    assert!(line.contains("unknown") && line.contains(&grant), "{replayed}");

    proxy.relay()?.cut();
    proxy.relay()?.flow();
    proxy.program().restart().await?;
    let closed = eventually("the chain to be closed by the next life", SOON, async || {
        let out = plugin(&gate, &["verify", name, "-n", namespace])?;
        Ok(out.stdout.contains("hash chain ok (").then_some(out))
    })
    .await?;
    assert!(closed.stdout.contains(&unknown), "it stays unknown: {closed:?}");
    let again = delete().await?;
    assert!(again.text().contains("ApprovalPending") && !again.text().contains(&grant), "{}", again.text());
    assert_eq!(plane.audit().requests(&deletes).await?.len(), 1, "it was sent once");
    Ok(())
}
