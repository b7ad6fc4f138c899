//! Clocks: a gate that stood still for a while, as on a paused virtual machine, goes on with what is true then.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use e2e::kubectl::kubectl_spawn;
use e2e::oidc::FakeIssuer;
use e2e::{Filter, Gate, Sign, Version};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::estate::Estate;
use super::oidc::{claims, subject, trust, with};

const SOON: Duration = Duration::from_secs(60);

fn policy() -> Value {
    json!({
        "rules": [
            {"name": "work", "effect": "Allow", "match": [
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
            ]},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
            ]},
        ],
        "approval": {"holdSeconds": 0, "useDeadlineSeconds": 10},
    })
}

/// An agent of an issuer, with a token that is good for these seconds; when it ends.
fn guest(estate: &Estate, issuer: &FakeIssuer, seconds: i64) -> anyhow::Result<(PathBuf, i64)> {
    let (at, rules) = trust(issuer);
    let identity = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": "guest", "namespace": estate.namespace},
        "spec": {"subjects": subject(&at, &rules), "target": {"type": "InCluster"}},
    });
    estate.gate.plane().apply(&identity.to_string())?;
    estate.admin(&["wait", "--for=condition=Ready", "--timeout=90s", "agentidentity/guest"])?.success()?;
    let end = Timestamp::now().as_second() + seconds;
    let token = issuer.token("k1", "RS256", &with(claims(issuer), json!({"exp": end})))?;
    let login = e2e::kubeconfig::Login::Token(token);
    let path = e2e::kubeconfig::Kubeconfig::new(&estate.gate.urls()[0], estate.agent.ca(), login)
        .in_namespace(&estate.namespace)
        .write(&estate.gate.plane().scratch().join("files"), &format!("guest-{}", estate.namespace))?;
    Ok((path, end))
}

async fn watches(gate: &Gate, estate: &Estate, user: &str) -> anyhow::Result<()> {
    let watches = Filter::ran_as(user).verb("watch").resource("configmaps").namespace(&estate.namespace);
    gate.plane().audit().wait_for(&watches, 1).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_d18_a_pause_prolongs_no_token_and_no_approval_and_ends_nothing_else() -> anyhow::Result<()> {
    let gate = super::fragile()?;
    let estate = Estate::new(&gate, "clock", policy()).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "agents", "namespace": estate.namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group",
                      "name": format!("sallyport:agents:{}", estate.namespace)}],
    });
    gate.plane().apply(&binding.to_string())?;
    estate.deployment("web")?;
    let delete = ["delete", "deployment", "web", "-n", &estate.namespace];
    let pending = estate.agent.kubectl_with(Version::New, 0, &delete, "")?;
    assert!(pending.stderr.contains("ApprovalPending"), "{pending:?}");
    let grant = estate.grant("WaitingForReview").await?;

    let (kubeconfig, end) = guest(&estate, &FakeIssuer::start()?, 25)?;
    let watch = ["get", "configmaps", "-w", "-o", "name", "-n", &estate.namespace];
    let ending = kubectl_spawn(Version::New, &kubeconfig, &["get", "configmaps", "-w", "-o", "json"])?;
    watches(&gate, &estate, &format!("sallyport:agent:{}:guest", estate.namespace)).await?;
    let mut staying = estate.agent.kubectl_spawn(Version::New, 0, &watch)?;
    watches(&gate, &estate, &estate.agent.username()).await?;

    let target = format!("/api/v1/namespaces/{}/configmaps", estate.namespace);
    let mut line = estate.agent.connect(0).await?;
    line.send(&estate.agent.request("GET", &target, &[], b"")?).await?;
    assert_eq!(line.answer().await?.code, 200);
    let proxy = gate.proxies()[0].program().process();
    estate.review(&grant, "Approved")?.success()?;
    proxy.signal(Sign::Stop)?;
    // It is sent while the approval is good, and read when it is not.
    let target = format!("/apis/apps/v1/namespaces/{}/deployments/web", estate.namespace);
    line.send(&estate.agent.request("DELETE", &target, &[], b"")?).await?;
    let past = (end - Timestamp::now().as_second()).max(11) + 1;
    tokio::time::sleep(Duration::from_secs(past.unsigned_abs())).await;
    proxy.signal(Sign::Cont)?;
    let late = match line.answer().await {
        Ok(answer) => answer,
        // It was quiet for longer than a connection may be.
        Err(_) => estate.agent.send(0, "DELETE", &target, &[], b"").await?,
    };
    let said = late.text();
    assert!(late.code == 403 && said.contains("sallyport/Approval"), "{} {said}", late.code);
    let deletes = Filter::ran_as(&estate.agent.username()).verb("delete").resource("deployments");
    assert!(gate.plane().audit().requests(&deletes.namespace(&estate.namespace)).await?.is_empty(), "{said}");
    assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, "");

    let ended = tokio::task::spawn_blocking(move || ending.wait_with_output());
    let ended = tokio::time::timeout(SOON, ended).await???;
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(said.contains("the token that opened this stream has expired"), "{said}");

    assert!(staying.try_wait()?.is_none(), "its token is good");
    estate.admin(&["create", "configmap", "after"])?.success()?;
    let mut out = staying.stdout.take().map(BufReader::new);
    let seen = tokio::task::spawn_blocking(move || {
        let lines = out.iter_mut().flat_map(BufRead::lines);
        lines.map_while(Result::ok).any(|line| line == "configmap/after")
    });
    assert!(tokio::time::timeout(SOON, seen).await??, "the watch went on");
    staying.kill()?;
    staying.wait()?;
    Ok(())
}
