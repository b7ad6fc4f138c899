//! What is no plain decision: faults of the target, limits, a broken policy, a deadline, and what only a gate without its
//! baseline refuses in its own words.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::gate::api_address;
use e2e::relay::Relay;
use e2e::{Agent, Filter, Gate, Output, Version, eventually};
use serde_json::{Value, json};

use super::super::estate::Estate;
use super::page::Page;
use super::{begin, ended, own};

const SOON: Duration = Duration::from_secs(60);
/// A ConfigMap of the target.
const LOST: &str = "lost";
/// What three of one agent's requests that wait for a human leave of three places.
const NO_PLACE: &str = "TooManyRequests: an agent with as many requests in flight as it may have";

fn policy(namespace: &str) -> Value {
    let core = |resources: &[&str]| json!([{"apiGroups": [""], "resources": resources, "verbs": ["*"]}]);
    json!({
        "rules": [
            {"name": "work", "effect": "Allow", "match": core(&["configmaps", "pods", "pods/exec"])},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
            ]},
            {"name": "not-there", "effect": "Deny", "match": [
                {"namespaces": [format!("{namespace}-closed")], "apiGroups": [""], "resources": ["*"], "verbs": ["*"]},
            ]},
        ],
        "approval": {"holdSeconds": 300, "reviewDeadlineSeconds": 60},
        "masking": [{"name": "config", "type": "Fields", "match": core(&["configmaps"]),
                     "fields": {"paths": [".data.password"]}}],
    })
}

fn bind(namespace: Option<&str>, name: &str, role: &str, user: &str) -> Value {
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" },
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = namespace.into();
    }
    binding
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// An agent whose target is the same cluster, behind a relay, with a credential of its own.
struct Behind {
    agent: Agent,
    relay: Relay,
    account: String,
}

impl Behind {
    async fn new(estate: &Estate) -> anyhow::Result<Self> {
        let (gate, plane, namespace) = (&estate.gate, estate.gate.plane(), &estate.namespace);
        let relay = Relay::start(api_address(plane)?)?;
        for name in ["remote", "target"] {
            plane.service_account(namespace, name).await?;
        }
        let account = format!("system:serviceaccount:{namespace}:target");
        let token = plane.token(namespace, "target", &[], 3600).await?;
        let items = json!([
            bind(Some(namespace), "target", "edit", &account),
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "target", "namespace": namespace},
             "stringData": {"token": token}},
            {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
             "metadata": {"name": "remote", "namespace": namespace},
             "spec": {
                "subjects": [{"name": "s", "type": "ServiceAccount",
                              "serviceAccount": {"namespace": namespace, "name": "remote"}}],
                "target": {"type": "Static", "static": {
                    "server": format!("https://127.0.0.1:{}", relay.port()), "caBundle": STANDARD.encode(plane.ca()),
                    "tokenSecretRef": {"name": "target", "key": "token"}}},
             }},
        ]);
        plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        estate
            .admin(&["wait", "--for=condition=Ready", "--timeout=90s", "agentidentity/remote"])?
            .success()?;
        let agent = gate.existing_agent(namespace, "remote", "remote").await?;
        // Every kubectl knows the kinds of the target before its answers stop.
        for out in ended(begin(&agent, |_| words(&["get", "configmaps", "-o", "name"]))?).await? {
            out.success()?;
        }
        Ok(Self { agent, relay, account })
    }

    /// Kubectl's one request reaches the target, and its answer is lost. A connection must be there: one that is made
    /// meanwhile has no answer to its handshake, so whoever took the only one makes it begin again.
    async fn lose_answer(&self, estate: &Estate, version: Version, args: &[&str]) -> anyhow::Result<Output> {
        let (method, verb) = if args[0] == "delete" { ("DELETE", "delete") } else { ("GET", "get") };
        let all = format!("/api/v1/namespaces/{}/configmaps", estate.namespace);
        let arrived = || {
            let of_verb = Filter::ran_as(&self.account).verb(verb).resource("configmaps").name(LOST);
            estate.gate.plane().audit().so_far(&of_verb.namespace(&estate.namespace)).map(|all| all.len())
        };
        eventually("a request whose answer is lost", 2 * SOON, async || {
            estate.admin(&["create", "configmap", LOST])?;
            self.agent.send(0, method, &format!("{all}/none"), &[], b"").await?;
            let before = arrived()?;
            self.relay.stall_answers();
            let child = self.agent.kubectl_spawn(version, 0, args)?;
            let arrives = eventually("the request at the target", SOON, async || {
                Ok((arrived()? > before).then_some(()))
            });
            let is_there = tokio::time::timeout(Duration::from_secs(5), arrives).await.is_ok();
            if !is_there {
                self.relay.flow();
            }
            self.relay.cut();
            let said = ended(vec![child]).await?;
            self.relay.flow();
            if is_there {
                assert_eq!(arrived()?, before + 1, "nothing is repeated: {said:?}");
            }
            Ok(said.into_iter().next().filter(|_| is_there))
        })
        .await
    }
}

/// An agent of a policy that was never good.
async fn broken(gate: &Gate) -> anyhow::Result<Agent> {
    let namespace = gate.plane().namespace("broken").await?;
    let agent = gate.agent(&namespace, "agent", &[]).await?;
    let rule = json!({"name": "work", "effect": "Allow", "matchConditions": [{"name": "c", "expression": "true"}],
                      "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]});
    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
        "spec": {"agents": [{"namespace": namespace}], "rules": [rule]},
    });
    gate.plane().apply(&policy.to_string())?;
    eventually("the broken policy to be in force", SOON, async || {
        let said = agent.kubectl(&["get", "configmaps"])?.stderr;
        Ok(said.contains("PolicyBroken").then_some(()))
    })
    .await?;
    Ok(agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn d05_f04_faults_limits_and_deadlines() -> anyhow::Result<()> {
    let gate = crate::fragile()?;
    let namespace = gate.plane().namespace("faults").await?;
    gate.plane().named_namespace(&format!("{namespace}-closed")).await?;
    let estate = Estate::within(&gate, &namespace, policy(&namespace)).await?;
    let mut page = Page::new("faults", &estate);
    for version in Version::READERS {
        estate.deployment(&own(version, "web"))?;
    }
    let held = begin(&estate.agent, |version| words(&["delete", "deployment", &own(version, "web")]))?;
    let other = gate.agent(&namespace, "other", &[]).await?;
    let flags = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"password": super::CANARY},
                       "metadata": {"name": "flags", "namespace": namespace}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": namespace},
                     "spec": {"containers": [{"name": "web", "image": "web"}]}});
    let items = json!([
        bind(Some(&namespace), "other", "edit", &other.username()),
        bind(None, &format!("{namespace}-other"), "view", &other.username()),
        flags,
        pod,
    ]);
    gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    eventually("three requests that wait for a human", SOON, async || {
        let grants = estate.admin(&["get", "accessgrants", "-o", "name"])?.success()?;
        Ok((grants.lines().count() == 3).then_some(()))
    })
    .await?;

    let by = |agent: &Agent, args: &[&str]| begin(agent, |_| words(args));
    let crowded = ["get", "configmap", "flags"];
    let all = ["get", "configmaps", "-A", "--field-selector=metadata.name=flags", "-o", "name"];
    let (waiting, listed) = (by(&estate.agent, &crowded)?, ended(by(&other, &all)?).await?);
    page.told("a list of all namespaces without those that are denied", &all, &listed);
    for (title, args) in [
        ("StreamDenied, of an upgrade", &["exec", "web", "--", "id"][..]),
        (
            "NotAllowed, of a change of a masked field",
            &["patch", "configmap", "flags", "--type=merge", "-p", r#"{"data":{"password":"guess"}}"#],
        ),
        (
            "Forbidden, of a selector on a masked field",
            &["get", "configmaps", "--field-selector=data.password=guess"],
        ),
    ] {
        page.told(title, args, &ended(by(&other, args)?).await?);
    }
    let get = ["get", "configmaps"];
    let broken = ended(by(&broken(&gate).await?, &get)?).await?;
    page.told("PolicyBroken", &get, &broken);
    page.told(NO_PLACE, &crowded, &ended(waiting).await?);

    lost(&mut page, &estate, &Behind::new(&estate).await?).await?;
    page.told("ApprovalExpired: nobody reviewed it", &["delete", "deployment", "web"], &ended(held).await?);
    page.finish()
}

async fn lost(page: &mut Page<'_>, estate: &Estate, behind: &Behind) -> anyhow::Result<()> {
    let read = ["get", "configmap", LOST];
    for (title, args) in [
        ("BadGateway: a read that was not answered", &read[..]),
        ("OutcomeUnknown", &["delete", "configmap", LOST, "--wait=false"]),
    ] {
        let mut said = Vec::new();
        for version in Version::READERS {
            said.push(behind.lose_answer(estate, version, args).await?);
        }
        page.told(title, args, &said);
    }
    let [nobody] = e2e::control_plane::free_ports()?;
    behind.relay.retarget(([127, 0, 0, 1], nobody).into());
    behind.relay.cut();
    let said = eventually("a target that cannot be reached", SOON, async || {
        let said = ended(begin(&behind.agent, |_| words(&read))?).await?;
        Ok(said.iter().all(|out| out.stderr.contains("cannot be reached")).then_some(said))
    })
    .await?;
    page.told("BadGateway: a target that cannot be reached", &read, &said);
    Ok(())
}
