//! Requests through the gate against the same requests straight to the API server, interleaved in one run: `make bench`.
//!
//! Both go over one kept-alive TLS connection. A figure to know, not a goal: the gate adds a TLS hop, a decision, two recorded
//! frames and masking.

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use e2e::wire::Connection;
use e2e::{Agent, ControlPlane, Gate, Setup, scenario};
use serde_json::json;

#[derive(Parser)]
#[command(name = "e2e-bench", about = "GET and LIST through the gate and directly")]
struct Args {
    /// Requests of each sort, each way.
    #[arg(long, default_value_t = 500)]
    requests: usize,
    /// Objects in the list.
    #[arg(long, default_value_t = 200)]
    objects: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let agent = scenario::settle(&gate).await?;
    lift_limit(&plane)?;
    fill(&plane, args.objects)?;
    let direct_token = plane.token(scenario::AGENTS, scenario::CLAUDE_CODE, &[], 3600).await?;
    allow_direct(&plane)?;

    let configmaps = format!("/api/v1/namespaces/{}/configmaps", scenario::PAYMENTS);
    println!("{:<6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}", "", "direct", "", "gate", "", "ratio", "");
    println!("{:<6} {:>9} {:>9} {:>9} {:>9} {:>7} {:>7}", "ms", "p50", "p99", "p50", "p99", "p50", "p99");
    for (name, target, requests) in
        [("GET", format!("{configmaps}/flags"), args.requests), ("LIST", configmaps, args.requests / 5)]
    {
        let mut direct = Side::new(plane.server(), plane.ca(), head(&direct_token, &target)).await?;
        let mut gated = Side::new(&gate.urls()[0], &gate.ca().await?, gate_head(&agent, &target)?).await?;
        for _ in 0..requests {
            direct.once().await?;
            gated.once().await?;
        }
        let (direct50, direct99) = direct.percentiles();
        let (gate50, gate99) = gated.percentiles();
        let (ratio50, ratio99) = (gate50 / direct50, gate99 / direct99);
        println!(
            "{name:<6} {direct50:>9.2} {direct99:>9.2} {gate50:>9.2} {gate99:>9.2} {ratio50:>7.2} {ratio99:>7.2}"
        );
    }
    Ok(())
}

/// One way to the API server, with the times it took.
struct Side {
    connection: Connection,
    request: Vec<u8>,
    times: Vec<Duration>,
}

impl Side {
    async fn new(url: &str, ca: &str, request: Vec<u8>) -> anyhow::Result<Self> {
        let mut side = Self { connection: Connection::open(url, ca).await?, request, times: Vec::new() };
        for _ in 0..20 {
            side.once().await?;
        }
        side.times.clear();
        Ok(side)
    }

    async fn once(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.connection.send(&self.request).await?;
        let answer = self.connection.answer().await?;
        self.times.push(started.elapsed());
        ensure!(answer.code == 200, "{}: {}", answer.code, answer.text());
        Ok(())
    }

    /// Median and 99th percentile, milliseconds.
    fn percentiles(&mut self) -> (f64, f64) {
        self.times.sort();
        let at = |percent: usize| {
            let index = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
            self.times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        (at(50), at(99))
    }
}

fn head(token: &str, target: &str) -> Vec<u8> {
    let accept = "Accept: application/json\r\n";
    format!("GET {target} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n{accept}\r\n")
        .into_bytes()
}

fn gate_head(agent: &Agent, target: &str) -> anyhow::Result<Vec<u8>> {
    Ok(head(&agent.token()?, target))
}

/// Lets the agent ask as often as the schema permits, and waits until that is in force.
fn lift_limit(plane: &ControlPlane) -> anyhow::Result<()> {
    let object = format!("agentidentity/{}", scenario::CLAUDE_CODE);
    let limits = json!({"spec": {"limits": {"requestsPerSecond": 10_000}}}).to_string();
    plane.kubectl(&["patch", &object, "-n", scenario::AGENTS, "--type=merge", "-p", &limits])?.success()?;
    let programmed = r#"--for=jsonpath={.status.conditions[?(@.type=="Programmed")].observedGeneration}=2"#;
    for until in [programmed, "--for=condition=Programmed"] {
        plane.kubectl(&["wait", until, &object, "-n", scenario::AGENTS, "--timeout=30s"])?.success()?;
    }
    Ok(())
}

fn fill(plane: &ControlPlane, objects: usize) -> anyhow::Result<()> {
    let item = |index: usize| {
        let data: serde_json::Map<_, _> =
            (0..20).map(|key| (format!("key-{key}"), json!("v".repeat(100)))).collect();
        let meta = json!({"name": format!("filler-{index}"), "namespace": scenario::PAYMENTS});
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    };
    let items: Vec<_> = (0..objects).map(item).collect();
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).map(|_said| ())
}

/// The direct side needs the rights that the agent has behind the gate.
fn allow_direct(plane: &ControlPlane) -> anyhow::Result<()> {
    let account =
        json!({"kind": "ServiceAccount", "name": scenario::CLAUDE_CODE, "namespace": scenario::AGENTS});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "bench-direct", "namespace": scenario::PAYMENTS}, "roleRef": role, "subjects": [account],
    });
    plane.apply(&binding.to_string()).map(|_said| ())
}
