//! Parts that are gone: the operator, the API server, one replica. The rest goes on, or refuses and says why.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::SYSTEM;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::estate::{Estate, SOON};
use super::roll::{Trace, all_recorded, end_load, start_load, work};

/// Longer than any Lease lives.
const GONE: Duration = Duration::from_secs(45);
const ROLLED_WITHIN: Duration = Duration::from_secs(180);

#[tokio::test]
async fn f_without_the_operator_the_gate_goes_on_and_approvals_fail_closed() -> anyhow::Result<()> {
    let _release = super::installed(None).await?;
    let policy = json!({"rules": [
        {"name": "read", "effect": "Allow", "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]},
        {"name": "ask", "effect": "RequireApproval", "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]},
    ]});
    let estate = Estate::new("operator", &["one"], policy).await?;
    let scale = |replicas: &str| {
        let replicas = format!("--replicas={replicas}");
        estate
            .cluster
            .kubectl(&["scale", "deployment/sallyport-operator", &replicas, "-n", SYSTEM])?
            .success()
    };
    let delete = estate.agents[0].spawn(&["delete", "configmap", "flags", "-n", &estate.namespace])?;
    let grant = estate.grant("WaitingForReview").await?;
    scale("0")?;
    eventually("the end of every operator", ROLLED_WITHIN, async || {
        let left =
            estate.cluster.get(&["pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator"])?;
        Ok(left["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })
    .await?;
    // A stamp needs the webhook: without it nobody can approve.
    let refused = estate.review(&grant, "Approved")?;
    ensure!(refused.code != 0 && refused.stderr.contains("failed calling webhook"), "{refused:?}");
    tokio::time::sleep(GONE).await;
    let list = estate.agent(&["get", "configmaps", "-o", "name"])?.success()?;
    ensure!(list.contains("configmap/flags"), "{list}");
    let out = delete.wait_with_output()?;
    ensure!(!out.status.success(), "it ran without an approval: {out:?}");
    let denied = estate.agent(&["get", "secrets"])?;
    ensure!(denied.stderr.contains("(NotAllowed)"), "{denied:?}");

    scale("2")?;
    estate.cluster.rolled_out("sallyport-operator", SYSTEM, ROLLED_WITHIN)?;
    eventually("an approval that counts", SOON, async || {
        Ok((estate.review(&grant, "Approved")?.code == 0).then_some(()))
    })
    .await?;
    let deleted = estate.agent(&["delete", "configmap", "flags"])?;
    ensure!(deleted.code == 0 && deleted.stderr.contains("ran once"), "{deleted:?}");
    Ok(())
}

#[tokio::test]
async fn g_a_killed_proxy_comes_back_and_what_it_had_begun_is_in_the_record() -> anyhow::Result<()> {
    let release = super::installed(None).await?;
    let estate = Estate::new("killed", &["one"], work()).await?;
    let Some(_node) = estate.cluster.node("kill -9 of one proxy") else { return Ok(()) };
    start_load(&estate, &["one"], 30)?;
    let pods = estate.cluster.pods(SYSTEM, "app.kubernetes.io/component=proxy")?;
    let victim = pods[0]["metadata"]["name"].as_str().context("a proxy")?;
    kill_process(process_of(victim)?, Signal::KILL)?;
    eventually("the killed container's restart", SOON, async || {
        let pod = estate.cluster.get(&["pod", victim, "-n", SYSTEM])?;
        let container = &pod["status"]["containerStatuses"][0];
        Ok((container["restartCount"] == 1 && container["ready"] == true).then_some(()))
    })
    .await?;
    let (said, sums) = end_load(&estate, &["one"], 30).await?;
    println!("FIGURE one proxy killed under load: {}", sums[0]);
    // What was under way on it breaks; whatever was asked a second later passes.
    let failed = sums[0]["failed"].as_u64().unwrap_or(u64::MAX);
    ensure!(failed < 75, "{failed} requests failed: {said}");
    estate.agent(&["get", "configmaps"])?.success()?;
    all_recorded(&release, &estate, Trace::Intent).await
}

#[tokio::test]
async fn h_after_a_restart_of_the_api_server_the_gate_works_and_every_request_is_in_the_record()
-> anyhow::Result<()> {
    let release = super::installed(None).await?;
    let estate = Estate::new("restarted", &["one"], work()).await?;
    let Some(node) = estate.cluster.node("a restart of the API server") else { return Ok(()) };
    start_load(&estate, &["one"], 40)?;
    node.restart_api_server()?;
    eventually("an answer after the restart", SOON, async || {
        Ok((estate.agent(&["get", "configmaps"])?.code == 0).then_some(()))
    })
    .await?;
    let (_, sums) = end_load(&estate, &["one"], 40).await?;
    println!("FIGURE the API server restarted under load: {}", sums[0]);
    all_recorded(&release, &estate, Trace::Outcome).await
}

/// The process of the replica of this name: containers of a node of our own are processes of this machine.
fn process_of(replica: &str) -> anyhow::Result<Pid> {
    let flag = format!("--replica={replica}");
    for entry in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if words.split(|&byte| byte == 0).any(|word| word == flag.as_bytes()) {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            return pid.context("a process has a number");
        }
    }
    anyhow::bail!("no process has the flag {flag}")
}
