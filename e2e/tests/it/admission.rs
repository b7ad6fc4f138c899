//! The chart's RBAC and its second wall (admission policies), each tried as every kind of user. The webhook is gone here.

use anyhow::Context;
use e2e::ControlPlane;
use kube::core::Status;
use serde_json::{Value, json};

use crate::caller::Caller;

const SYSTEM: &str = crds::names::SYSTEM_NAMESPACE;
const AGENT: &str = "sallyport:agent:agents:claude-code";
const FINGERPRINT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct Wall {
    plane: ControlPlane,
    admin: Caller,
    alice: Caller,
    proxy: Caller,
    operator: Caller,
    agent: Caller,
}

impl Wall {
    /// Everything that the chart installs but the webhooks; alice may approve, and so may the agent, by mistake.
    async fn raise() -> anyhow::Result<Self> {
        let plane = ControlPlane::start()?;
        e2e::gate::install(&plane).await?;
        plane.named_namespace("agents").await?;
        for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
            plane.kubectl(&["delete", kind, crds::names::WEBHOOK_CONFIGURATION])?.success()?;
        }
        let mistake = ["create", "clusterrolebinding", "mistake", "--clusterrole=cluster-admin"];
        plane.kubectl(&[&mistake[..], &["--group=sallyport:agents"]].concat())?.success()?;
        let approver =
            ["create", "rolebinding", "approver", "--clusterrole=sallyport-approver", "-n", "agents"];
        plane.kubectl(&[&approver[..], &["--user=alice@example.com"]].concat())?.success()?;
        let wall = Self {
            admin: Caller::admin(&plane).await?,
            alice: Caller::user(&plane, "alice@example.com", &["payments-oncall", "system:authenticated"])
                .await?,
            proxy: Caller::account(&plane, SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?,
            operator: Caller::account(&plane, SYSTEM, crds::names::OPERATOR_SERVICE_ACCOUNT).await?,
            agent: Caller::user(&plane, AGENT, &["sallyport:agents", "system:authenticated"]).await?,
            plane,
        };
        wall.until_it_stands().await?;
        Ok(wall)
    }

    // The API server takes a moment to read new admission policies.
    async fn until_it_stands(&self) -> anyhow::Result<()> {
        let probes = [
            (json!(single("probe")), "created only by Sallyport's proxy"),
            (record("probe"), "created only by Sallyport's proxy"),
        ];
        for (object, message) in probes {
            let limit = std::time::Duration::from_secs(30);
            e2e::eventually(message, limit, async || {
                let answer = self.admin.create(&object, "&dryRun=All").await?;
                Ok(answer.err().filter(|status| status.message.contains(message)).map(|_status| ()))
            })
            .await?;
        }
        Ok(())
    }
}

#[track_caller]
fn refused(answer: Result<Value, Status>, message: &str) {
    let said = match answer {
        Ok(value) => format!("accepted: {value}"),
        Err(status) => status.message,
    };
    assert!(said.contains(message), "wanted `{message}`, got `{said}`");
}

fn allowed(answer: Result<Value, Status>) -> anyhow::Result<Value> {
    answer.map_err(|status| anyhow::anyhow!(status.message))
}

fn grant(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": name, "namespace": "agents"}, "spec": spec,
    })
}

fn single(name: &str) -> Value {
    let request = json!({
        "verb": "delete", "apiGroup": "apps", "apiVersion": "v1", "resource": "deployments",
        "namespace": "payments", "name": "web", "fingerprint": FINGERPRINT,
    });
    let by = json!({"username": AGENT, "subject": {"name": "in-cluster", "type": "ServiceAccount"}});
    grant(
        name,
        json!({"agentRef": {"name": "claude-code"}, "type": "SingleRequest", "requestedBy": by, "request": request}),
    )
}

fn window(name: &str, username: &str) -> Value {
    grant(
        name,
        json!({
            "agentRef": {"name": "claude-code"}, "type": "Window", "reason": "INC-4312",
            "requestedBy": {"username": username}, "window": {"durationSeconds": 1800},
        }),
    )
}

fn record(name: &str) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "SessionRecord",
        "metadata": {"name": name, "namespace": "agents"},
        "spec": {
            "agentRef": {"name": "claude-code", "uid": "3b0c6a52-8a3e-4a5b-9c54-1f6f2d1f0b11"},
            "subject": {"name": "in-cluster", "type": "ServiceAccount", "id": "system:serviceaccount:agents:claude-code"},
            "target": {"type": "InCluster", "server": "https://10.96.0.1"}, "username": AGENT,
            "level": "Request", "startTime": "2026-11-20T14:30:02Z",
        },
    })
}

fn reviews(entries: Value) -> Value {
    json!({"spec": {"reviews": entries}})
}

#[tokio::test]
async fn the_second_wall_stands_without_the_webhook() -> anyhow::Result<()> {
    let wall = Wall::raise().await?;
    d06_reviews_carry_the_name_of_their_writer(&wall).await?;
    d07_agents_and_programs_do_not_review(&wall).await?;
    status_is_written_only_by_the_two_programs(&wall).await?;
    agents_write_nothing_of_sallyport(&wall).await?;
    programs_write_only_what_is_theirs(&wall).await?;
    the_proxy_becomes_only_whom_the_operator_names(&wall).await
}

async fn d06_reviews_carry_the_name_of_their_writer(wall: &Wall) -> anyhow::Result<()> {
    refused(
        wall.admin.create(&single("s1"), "").await?,
        "a grant of type 'SingleRequest' is created only by Sallyport's proxy",
    );
    let forged = window("w1", AGENT);
    refused(wall.admin.create(&forged, "").await?, "`requestedBy` must name the user who asks");
    let grant = single("s1");
    allowed(wall.proxy.create(&grant, "").await?)?;

    let must = "a new review must carry the name of the user who writes it";
    let unstamped = reviews(json!([{"decision": "Approved"}]));
    refused(wall.alice.merge(&grant, "", &unstamped).await?, must);
    let of_bob = reviews(json!([{"reviewer": "bob@example.com", "decision": "Approved"}]));
    refused(wall.alice.merge(&grant, "", &of_bob).await?, must);
    refused(wall.admin.merge(&grant, "", &of_bob).await?, must);
    let foreign = json!([{"reviewer": "alice@example.com", "decision": "Approved", "groups": ["sre"]}]);
    refused(
        wall.alice.merge(&grant, "", &reviews(foreign)).await?,
        "must carry only groups of the user who writes it",
    );
    let own = json!({"reviewer": "alice@example.com", "decision": "Approved", "groups": ["payments-oncall"]});
    allowed(wall.alice.merge(&grant, "", &reviews(json!([own]))).await?)?;
    // A second review beside the first: only the new one is looked at.
    let second = json!({"reviewer": "e2e-admin", "decision": "Approved"});
    allowed(wall.admin.merge(&grant, "", &reviews(json!([own, second]))).await?)?;
    refused(
        wall.alice.merge(&grant, "", &reviews(json!([own]))).await?,
        "a review may not be changed or removed",
    );
    Ok(())
}

async fn d07_agents_and_programs_do_not_review(wall: &Wall) -> anyhow::Result<()> {
    let grant = window("w2", "alice@example.com");
    refused(wall.alice.create(&grant, "").await?, "cannot create resource \"accessgrants\"");
    allowed(wall.proxy.create(&grant, "").await?)?;
    let as_agent = reviews(json!([{"reviewer": AGENT, "decision": "Approved"}]));
    // Two policies refuse it; which of them the API server names is not fixed.
    refused(wall.agent.merge(&grant, "", &as_agent).await?, "denied request: agents ");
    for (program, name) in [(&wall.proxy, "sallyport-proxy"), (&wall.operator, "sallyport-operator")] {
        let reviewer = format!("system:serviceaccount:{SYSTEM}:{name}");
        let review = json!({"reviewer": reviewer, "decision": "Approved"});
        refused(
            program.merge(&grant, "", &reviews(json!([review]))).await?,
            "cannot patch resource \"accessgrants\"",
        );
        // Nor does a program slip a review in where it may write: at creation.
        let mut born_reviewed = window("w3", "alice@example.com");
        born_reviewed["spec"]["reviews"] = json!([review]);
        let message = if name == "sallyport-proxy" {
            "Sallyport's own programs may not review"
        } else {
            "cannot create"
        };
        refused(program.create(&born_reviewed, "").await?, message);
    }
    Ok(())
}

async fn status_is_written_only_by_the_two_programs(wall: &Wall) -> anyhow::Result<()> {
    let session = record("r1");
    refused(wall.admin.create(&session, "").await?, "a SessionRecord is created only by Sallyport's proxy");
    refused(wall.operator.create(&session, "").await?, "cannot create resource \"sessionrecords\"");
    allowed(wall.proxy.create(&session, "").await?)?;
    let grant = single("s2");
    allowed(wall.proxy.create(&grant, "").await?)?;
    let uses = json!({"status": {"uses": 1}});
    let ended = json!({"status": {"endTime": "2026-11-20T14:48:40Z"}});
    for program in [&wall.proxy, &wall.operator] {
        allowed(program.merge(&grant, "/status", &uses).await?)?;
        allowed(program.merge(&session, "/status", &ended).await?)?;
    }
    let message = "is written only by Sallyport's operator and proxy";
    refused(wall.admin.merge(&grant, "/status", &uses).await?, message);
    refused(wall.admin.merge(&session, "/status", &ended).await?, message);
    refused(
        wall.alice.merge(&grant, "/status", &uses).await?,
        "cannot patch resource \"accessgrants/status\"",
    );
    Ok(())
}

async fn agents_write_nothing_of_sallyport(wall: &Wall) -> anyhow::Result<()> {
    let message = "agents write objects of sallyport.dev only through the gate";
    let grant = window("w2", "alice@example.com");
    refused(wall.agent.create(&window("w4", AGENT), "").await?, message);
    // A record and a status are refused by two policies each; which of them is named is not fixed.
    refused(wall.agent.create(&record("r2"), "").await?, "denied request: ");
    refused(wall.agent.delete(&grant).await?, message);
    refused(wall.agent.merge(&grant, "/status", &json!({"status": {"uses": 0}})).await?, "denied request: ");
    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "mine"},
        "spec": {"agents": [{"namespace": "*"}], "rules": [{"name": "all", "effect": "Allow",
            "match": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}]},
    });
    refused(wall.agent.create(&policy, "").await?, message);
    Ok(())
}

async fn programs_write_only_what_is_theirs(wall: &Wall) -> anyhow::Result<()> {
    let map = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "agents", "labels": labels}});
    let ours = json!({"app.kubernetes.io/managed-by": "sallyport"});
    let kubeconfig = map("claude-code-kubeconfig", ours.clone());
    allowed(wall.operator.create(&kubeconfig, "").await?)?;
    allowed(wall.operator.merge(&kubeconfig, "", &json!({"data": {"kubeconfig": "x"}})).await?)?;
    let only = "writes only ConfigMaps that are called '<agent>-kubeconfig'";
    refused(wall.operator.create(&map("coredns", ours.clone()), "").await?, only);
    refused(wall.operator.create(&map("other-kubeconfig", json!({})), "").await?, only);
    let foreign = map("mine-kubeconfig", json!({}));
    allowed(wall.admin.create(&foreign, "").await?)?;
    let claim = json!({"metadata": {"labels": ours}});
    refused(
        wall.operator.merge(&foreign, "", &claim).await?,
        "does not take over a ConfigMap that somebody else made",
    );
    let shard = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sallyport-shard-0", "namespace": SYSTEM}});
    refused(wall.proxy.create(&shard, "").await?, "cannot create resource \"configmaps\"");
    allowed(wall.operator.create(&shard, "").await?)?;

    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": SYSTEM}});
    allowed(wall.proxy.create(&lease("sallyport-proxy-0"), "").await?)?;
    allowed(wall.operator.create(&lease("sallyport-operator"), "").await?)?;
    let own = "Sallyport's programs write only Leases of their own";
    refused(wall.proxy.delete(&lease("sallyport-operator")).await?, own);
    refused(wall.operator.create(&lease("sallyport-proxy-1"), "").await?, own);
    allowed(wall.proxy.delete(&lease("sallyport-proxy-0")).await?)?;

    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": SYSTEM}});
    refused(
        wall.proxy.merge(&secret("sallyport-ca"), "", &json!({})).await?,
        "cannot patch resource \"secrets\"",
    );
    Ok(())
}

async fn the_proxy_becomes_only_whom_the_operator_names(wall: &Wall) -> anyhow::Result<()> {
    let role = |name: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}});
    let rules = json!({"rules": [
        {"apiGroups": [""], "resources": ["users"], "resourceNames": [AGENT], "verbs": ["impersonate"]},
        {"apiGroups": [""], "resources": ["groups"], "resourceNames": ["sallyport:agents"], "verbs": ["impersonate"]},
    ]});
    allowed(wall.operator.merge(&role("sallyport-proxy-impersonator"), "", &rules).await?)?;
    for other in ["sallyport-proxy-impersonator-extras", "sallyport-proxy", "cluster-admin"] {
        refused(
            wall.operator.merge(&role(other), "", &rules).await?,
            "cannot patch resource \"clusterroles\"",
        );
    }
    let kubeconfig =
        wall.plane.service_account_kubeconfig(SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
    let whoami = |flags: &[&str]| {
        let args = [flags, &["auth", "whoami", "-o", "json"]].concat();
        e2e::kubectl(e2e::Version::New, &kubeconfig, &args)
    };
    let agent = format!("--as={AGENT}");
    let limit = std::time::Duration::from_secs(10);
    let known = e2e::eventually("the API server to read the new rules", limit, async || {
        let extras =
            ["--as-user-extra=sallyport.dev/session=s", "--as-user-extra=sallyport.dev/request-id=r"];
        let out = whoami(&[&[agent.as_str(), "--as-group=sallyport:agents"][..], &extras].concat())?;
        Ok((out.code == 0).then_some(out.stdout))
    });
    let known: Value = serde_json::from_str(&known.await?)?;
    assert_eq!(known["status"]["userInfo"]["extra"]["sallyport.dev/session"], json!(["s"]));
    let others: [&[&str]; 5] = [
        &["--as=sallyport:agent:agents:other"],
        &["--as=alice@example.com"],
        &["--as=system:admin"],
        &[&agent, "--as-group=system:masters"],
        &[&agent, "--as-user-extra=scopes=all"],
    ];
    for flags in others {
        let out = whoami(flags)?;
        assert_ne!(out.code, 0, "{flags:?}: {out:?}");
    }
    // kubectl hides the reason; the API server says it.
    let raw =
        e2e::kubectl(e2e::Version::New, &kubeconfig, &["--as=system:admin", "get", "--raw", "/version"])?;
    let forbidden = raw.stderr.lines().next().context("a message")?;
    assert!(forbidden.contains("cannot impersonate resource \"users\""), "{forbidden}");
    Ok(())
}
