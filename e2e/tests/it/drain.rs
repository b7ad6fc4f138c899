//! Restarts under load: of both proxies one after the other, of the operator, of the API server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::balancer::Balancer;
use e2e::fake_kubelet::FakeKubelet;
use e2e::kubectl::kubectl_spawn;
use e2e::load::{Load, Plan, Recordings, Report, Who, unrecorded};
use e2e::{Agent, ControlPlane, Filter, Gate, Setup, Sign, Version, eventually};
use serde_json::json;

use super::estate::Estate;

const SOON: Duration = Duration::from_secs(30);
const GRACE_SECONDS: u64 = 4;
/// A proxy ends this long after the signal at the latest: grace, last answers, last uploads, last tasks.
const ENDS_WITHIN: Duration = Duration::from_secs(GRACE_SECONDS + 31);

fn setup(grace: u64) -> Setup {
    Setup { proxy_flags: vec![format!("--drain-seconds={grace}")], ..Setup::default() }
}

fn work() -> serde_json::Value {
    json!({"rules": [
        {"name": "work", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["configmaps", "pods", "pods/log"],
             "verbs": ["get", "list", "watch", "create", "patch"]},
        ]},
        {"name": "ask", "effect": "RequireApproval", "message": "Ask first.",
         "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]},
    ]})
}

/// Two agents of one namespace behind a balancer, with what the load reads and patches.
struct Scene {
    estate: Estate,
    agents: [Agent; 2],
    balancer: Balancer,
}

impl Scene {
    async fn new(gate: &Gate) -> anyhow::Result<Self> {
        let estate = Estate::new(gate, "drain", work()).await?;
        let plane = gate.plane();
        let other = gate.agent(&estate.namespace, "other", &[]).await?;
        let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": estate.namespace}});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "other", "namespace": estate.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": other.username()}],
        });
        for object in [map("load"), map("mine"), binding] {
            plane.apply(&object.to_string())?;
        }
        let (agents, balancer) = ([estate.agent.clone(), other], Balancer::start(gate)?);
        Ok(Self { estate, agents, balancer })
    }

    fn load(&self, plan: Plan) -> anyhow::Result<Load> {
        let urls = vec![self.balancer.url()];
        Load::start(self.agents.iter().map(Who::from).collect(), Plan { urls, ..plan })
    }

    /// A kubeconfig of the first agent that names the balancer.
    fn kubeconfig(&self) -> anyhow::Result<PathBuf> {
        let path = self.estate.agent.token_file().with_file_name("balanced.kubeconfig");
        self.estate.agent.write_kubeconfig(&path, &self.balancer.url())?;
        Ok(path)
    }

    fn recordings(&self) -> Recordings {
        let gate = &self.estate.gate;
        Recordings::of_folder(gate.plane().admin_kubeconfig(), &self.estate.namespace, &gate.recordings())
    }

    /// Nothing failed, and nothing that ran is missing in the recordings.
    async fn assert_whole(&self, report: &Report) -> anyhow::Result<()> {
        eprintln!("{}", report.summary());
        assert!(report.failed().is_empty(), "{}: {:#?}", report.summary(), report.failed());
        let users: Vec<_> = self.agents.iter().map(Agent::username).collect();
        let audit = self.estate.gate.plane().audit();
        assert_eq!(unrecorded(audit, &self.recordings(), &users).await?, Vec::<String>::new());
        let events = self.recordings().events()?;
        let lost: Vec<_> = report
            .sent
            .iter()
            .filter_map(|sent| sent.id.clone())
            .filter(|id| !events.contains_key(&(id.clone(), "Outcome".to_owned())))
            .collect();
        assert!(lost.is_empty(), "answered and not recorded: {lost:?}");
        Ok(())
    }
}

/// Waits until so many more requests than now have ended.
async fn more(load: &Load, count: usize) -> anyhow::Result<()> {
    let before = load.so_far().sent.len();
    eventually(&format!("{count} more requests"), Duration::from_secs(90), async || {
        Ok((load.so_far().sent.len() >= before + count).then_some(()))
    })
    .await
}

/// Stops a program in order and starts it anew.
async fn roll(program: &e2e::gate::Program) -> anyhow::Result<()> {
    assert_eq!(program.stop(ENDS_WITHIN)?, 0, "it ends in peace: {}", program.process().last_words());
    program.restart().await
}

/// What `kubectl get -w` as the administrator prints until it is ended.
struct Witness(std::process::Child);

impl Witness {
    fn of(gate: &Gate, args: &[&str], path: &str) -> anyhow::Result<Self> {
        let args = [&["get", "-w", "-o", path], args].concat();
        Ok(Self(kubectl_spawn(Version::New, gate.plane().admin_kubeconfig(), &args)?))
    }

    fn end(mut self) -> anyhow::Result<String> {
        self.0.kill()?;
        Ok(String::from_utf8(self.0.wait_with_output()?.stdout)?)
    }
}

#[tokio::test]
async fn f02_a_rolling_restart_under_load_fails_nothing_and_loses_no_record() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, setup(GRACE_SECONDS))?;
    let scene = Scene::new(&gate).await?;
    let (identities, policies) = (
        Witness::of(
            &gate,
            &["agentidentities", "-n", &scene.estate.namespace],
            r#"jsonpath={.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}"#,
        )?,
        Witness::of(
            &gate,
            &["accesspolicies"],
            r#"jsonpath={.metadata.name}={.status.conditions[?(@.type=="Programmed")].status}{"\n"}"#,
        )?,
    );
    let waiting = [Version::Old, Version::New].map(|version| {
        let args = ["wait", "--for=jsonpath={.data.done}=yes", "configmap/mine", "--timeout=300s"];
        kubectl_spawn(version, &scene.kubeconfig()?, &[&args[..], &["-n", &scene.estate.namespace]].concat())
    });
    let load = scene.load(Plan::default())?;
    more(&load, 100).await?;
    for proxy in gate.proxies() {
        roll(proxy.program()).await?;
        more(&load, 100).await?;
    }
    roll(gate.operator()).await?;
    more(&load, 100).await?;
    scene
        .estate
        .admin(&["patch", "configmap", "mine", "--type=merge", "-p", r#"{"data":{"done":"yes"}}"#])?
        .success()?;
    for child in waiting {
        let out = child?.wait_with_output()?;
        assert!(out.status.success(), "kubectl wait goes on where the watch ended: {out:?}");
    }
    let report = load.stop();
    assert!(report.good("WATCH") >= 4, "each of two watches was told to reconnect: {}", report.summary());
    scene.assert_whole(&report).await?;
    let (identities, policies) = (identities.end()?, policies.end()?);
    assert!(identities.contains("=True") && policies.contains("=True"), "{identities}{policies}");
    assert!(!identities.contains("=False") && !identities.contains("=Unknown"), "Ready flaps: {identities}");
    assert!(!policies.contains("=False") && !policies.contains("=Unknown"), "Programmed flaps: {policies}");
    Ok(())
}

#[tokio::test]
async fn f02_what_is_open_at_the_end_of_a_replica_is_told_the_truth() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, setup(GRACE_SECONDS))?;
    let scene = Scene::new(&gate).await?;
    let (estate, namespace) = (&scene.estate, scene.estate.namespace.as_str());
    let kubelet = FakeKubelet::start(&plane)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"nodeName": kubelet.node(), "tolerations": [{"operator": "Exists"}],
                 "containers": [{"name": "web", "image": "web"}]},
    });
    plane.apply(&pod.to_string())?;
    let spawn =
        |args: &[&str]| estate.agent.kubectl_spawn(Version::Old, 0, &[args, &["-n", namespace]].concat());
    let watch = spawn(&["get", "configmaps", "-w", "-o", "name"])?;
    let watches =
        Filter::ran_as(&estate.agent.username()).verb("watch").resource("configmaps").namespace(namespace);
    plane.audit().wait_for(&watches, 1).await?;
    let log = spawn(&["logs", "-f", "web"])?;
    eventually("a followed log", SOON, async || Ok((kubelet.following() == 1).then_some(()))).await?;
    kubelet.say("a line\n");
    let held = spawn(&["delete", "configmap", "mine"])?;
    let grant = estate.grant("WaitingForReview").await?;

    let proxy = gate.proxies()[0].program();
    assert_eq!(proxy.stop(ENDS_WITHIN)?, 0);
    let ended = |child: std::process::Child| -> anyhow::Result<(bool, String)> {
        let out = child.wait_with_output()?;
        let text = String::from_utf8([&out.stdout[..], &out.stderr[..]].concat())?;
        Ok((out.status.success(), text))
    };
    let (is_clean, said) = ended(watch)?;
    assert!(
        is_clean && !said.contains("rror") && !said.contains("unable"),
        "a watch may go on elsewhere: {said}"
    );
    let (is_clean, said) = ended(log)?;
    assert!(!is_clean && said.contains("a line"), "a log is never whole by mistake: {said}");
    let (is_clean, said) = ended(held)?;
    assert!(!is_clean && said.contains("sallyport/ApprovalPending") && said.contains(&grant), "{said}");
    assert!(said.contains("then run exactly the same command again"), "{said}");

    estate.review(&grant, "Approved")?.success()?;
    let resumed =
        estate.agent.kubectl_with(Version::Old, 1, &["delete", "configmap", "mine", "-n", namespace], "")?;
    assert!(resumed.clone().success()?.contains("deleted"), "{resumed:?}");
    let events = scene.recordings().events()?;
    let reasons: Vec<_> = events.values().filter_map(|event| event["reason"].as_str()).collect();
    assert!(reasons.contains(&"ServiceUnavailable") && reasons.contains(&"ApprovalPending"), "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn f02_a_second_signal_ends_at_once_and_loses_no_record() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, setup(300))?;
    let scene = Scene::new(&gate).await?;
    let load = scene.load(Plan::default())?;
    more(&load, 50).await?;
    let proxy = gate.proxies()[0].program();
    proxy.process().signal(Sign::Term)?;
    more(&load, 100).await?;
    assert!(proxy.process().ended()?.is_none(), "it serves on");
    assert!(load.so_far().failed().is_empty(), "{:?}", load.so_far().failed());
    let since = Instant::now();
    assert_eq!(proxy.stop(Duration::from_secs(20))?, 0);
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    load.stop();
    let users: Vec<_> = scene.agents.iter().map(Agent::username).collect();
    proxy.restart().await?;
    assert_eq!(unrecorded(plane.audit(), &scene.recordings(), &users).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn f05_an_api_server_that_restarts_is_a_gap_and_nothing_more() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, setup(GRACE_SECONDS))?;
    let scene = Scene::new(&gate).await?;
    let load = scene.load(Plan::default())?;
    more(&load, 100).await?;
    plane.api_server().kill()?;
    more(&load, 20).await?;
    plane.restart_api_server()?;
    eventually("requests that pass again", SOON, async || {
        let sent = load.so_far().sent;
        Ok(sent.iter().rev().take(20).all(|one| one.is_good()).then_some(()))
    })
    .await?;
    let report = load.stop();
    eprintln!("{}", report.summary());
    assert!(!report.failed().is_empty(), "it was away");
    for sent in report.failed() {
        let why = sent.outcome.clone().err().unwrap_or_default();
        // An API server that has just started says no to everybody until it has read its RBAC.
        let by_rbac =
            why.starts_with("403 ") && why.contains(&format!("User \\\"{}\\\" cannot", sent.username));
        let is_honest = why.starts_with("502 ") || why.starts_with("503 ") || by_rbac || sent.what == "WATCH";
        assert!(is_honest, "neither a decision nor a broken connection: {sent:?}");
    }
    // What follows the API server follows it again: the kill switch works.
    let patch = r#"{"spec":{"suspend":true}}"#;
    scene.estate.admin(&["patch", "agentidentity", "agent", "--type=merge", "-p", patch])?.success()?;
    let target = format!("/api/v1/namespaces/{}/configmaps/load", scene.estate.namespace);
    for proxy in 0..2 {
        eventually("the kill switch", SOON, async || {
            let answer = scene.estate.agent.send(proxy, "GET", &target, &[], b"").await?;
            Ok(answer.text().contains("sallyport/AgentSuspended").then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn f24_no_handshake_fails_while_certificates_are_replaced() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, setup(GRACE_SECONDS))?;
    let scene = Scene::new(&gate).await?;
    let load = scene.load(Plan { fresh_connections: true, watches: 0, ..Plan::default() })?;
    let secret = [
        "get",
        "secret",
        crds::names::PROXY_TLS_SECRET,
        "-n",
        e2e::gate::SYSTEM,
        "-o",
        r"jsonpath={.data.tls\.crt}",
    ];
    for _ in 0..5 {
        let before = plane.kubectl(&secret)?.success()?;
        plane
            .kubectl(&["delete", "secret", crds::names::PROXY_TLS_SECRET, "-n", e2e::gate::SYSTEM])?
            .success()?;
        eventually("another certificate", SOON, async || {
            let now = plane.kubectl(&secret)?;
            Ok((now.code == 0 && !now.stdout.is_empty() && now.stdout != before).then_some(()))
        })
        .await?;
        more(&load, 50).await?;
    }
    let report = load.stop();
    eprintln!("{}", report.summary());
    assert!(report.failed().is_empty(), "{:#?}", report.failed());
    Ok(())
}
