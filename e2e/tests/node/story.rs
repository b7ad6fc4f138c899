//! The first half hour as installed: an agent in a pod with a stock kubectl, a person with another, and what is written down.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::audit::Request;
use e2e::cluster::Cluster;
use e2e::install::{AGENT_IMAGE, Release, Storage};
use e2e::pod::AgentPod;
use e2e::scenario::{AGENTS, CANARY, CLAUDE_CODE, PAYMENTS, manifest};
use e2e::{Filter, Output, eventually};
use serde_json::json;

use super::estate::{SOON, grant, review};

const DELETE_WEB: [&str; 5] = ["delete", "deploy", "web", "-n", "payments"];

/// An agent whose every answer is searched for the secret.
struct Agent(AgentPod);

impl Agent {
    fn says(&self, args: &[&str]) -> anyhow::Result<Output> {
        let out = self.0.kubectl(args)?;
        keeps_the_secret(&out)?;
        Ok(out)
    }
}

fn keeps_the_secret(out: &Output) -> anyhow::Result<()> {
    for secret in [CANARY.to_owned(), STANDARD.encode(CANARY)] {
        ensure!(
            !out.stdout.contains(&secret) && !out.stderr.contains(&secret),
            "the agent has read the secret"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_the_first_half_hour_with_recordings_on_a_volume() -> anyhow::Result<()> {
    play(Storage::Filesystem).await
}

#[tokio::test]
async fn b_the_first_half_hour_with_recordings_in_s3() -> anyhow::Result<()> {
    play(Storage::S3).await
}

async fn play(storage: Storage) -> anyhow::Result<()> {
    drop(super::nothing_installed().await?);
    let cluster = super::cluster()?;
    let before = sessions(&cluster)?;
    let release = super::installed(Some(storage)).await?;
    let agent = settle(&release)?;
    let earlier = deletes(&cluster, &agent).await?;
    let whoami = agent.says(&["auth", "whoami"])?.success()?;
    ensure!(whoami.contains(&agent.0.username()) && whoami.contains("sallyport.dev/session"), "{whoami}");

    let secret = agent.says(&["get", "secret", "db", "-n", PAYMENTS, "-o", "jsonpath={.data.password}"])?;
    let placeholder = String::from_utf8(STANDARD.decode(secret.stdout.trim())?)?;
    ensure!(placeholder.starts_with("[MASKED:"), "{secret:?}");
    ensure!(secret.stderr.contains("Warning: sallyport"), "{secret:?}");
    agent.says(&["get", "secret", "db", "-n", PAYMENTS, "-o", "yaml"])?.success()?;
    let denied = agent.says(&["delete", "namespace", PAYMENTS])?;
    ensure!(denied.code != 0 && denied.stderr.contains("(PolicyDenied)"), "{denied:?}");
    ensure!(denied.stderr.contains("sallyport-baseline"), "{denied:?}");
    let asked = agent.says(&["auth", "can-i", "delete", "deploy/web", "-n", PAYMENTS])?;
    ensure!(asked.stdout.contains("no - needs human approval"), "{asked:?}");

    held(&agent).await?;
    window(&agent)?;
    suspended(&agent).await?;
    if let (Some(earlier), Some(now)) = (earlier, deletes(&cluster, &agent).await?) {
        ensure!(now.len() == earlier.len() + 1, "{now:?}");
    }
    let own = sessions(&cluster)?.into_iter().find(|name| !before.contains(name));
    remembered(&release, &own.context("no session")?).await
}

/// The agent's deletes of deployments in the API server's audit log, those of earlier stories too; none on another's cluster.
async fn deletes(cluster: &Cluster, agent: &Agent) -> anyhow::Result<Option<Vec<Request>>> {
    let Some(node) = cluster.node("one delete in the API server's audit log") else { return Ok(None) };
    let deletes = Filter::ran_as(&agent.0.username()).verb("delete").resource("deployments");
    node.audit().requests(&deletes).await.map(Some)
}

/// Names of the agents' sessions, oldest first.
fn sessions(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let args = [
        "get",
        "sessionrecords",
        "-n",
        AGENTS,
        "--sort-by=.spec.startTime",
        "-o",
        "name",
        "--ignore-not-found",
    ];
    let out = cluster.kubectl(&args)?;
    // Before the first release there is no such kind.
    Ok(out.stdout.lines().filter_map(|line| Some(line.split_once('/')?.1.to_owned())).collect())
}

/// The world as it was, the three files, the agent's pod; ends with the first allowed request.
fn settle(release: &Release) -> anyhow::Result<Agent> {
    let cluster = super::cluster()?;
    // Made anew, it joins no session of an earlier story, whose recording is in that story's store.
    let identity = ["delete", "agentidentity", CLAUDE_CODE, "-n", AGENTS, "--ignore-not-found"];
    cluster.kubectl(&identity)?.success()?;
    for name in ["world", "identity", "policy", "rbac", "alice"] {
        let text = std::fs::read_to_string(manifest(name))?;
        cluster.apply(&text.replace("registry.example/payments/web:2.3.1", AGENT_IMAGE))?;
    }
    cluster.wait("condition=Ready", &format!("agentidentity/{CLAUDE_CODE}"), AGENTS, SOON)?;
    let out =
        cluster.kubectl(&["delete", "pod", CLAUDE_CODE, "-n", AGENTS, "--ignore-not-found", "--force"])?;
    ensure!(out.code == 0, "{out:?}");
    let agent = Agent(AgentPod::start(&cluster, AGENTS, CLAUDE_CODE)?);
    let list = agent.says(&["get", "deploy", "-n", PAYMENTS])?.success()?;
    let took = release.began().elapsed();
    println!(
        "FIGURE helm install to first allowed request, {:?}: {:.1} s",
        release.storage(),
        took.as_secs_f64()
    );
    ensure!(list.contains("web"), "{list}");
    ensure!(took < Duration::from_secs(60), "{took:?} from helm install to the first allowed request");
    Ok(agent)
}

async fn held(agent: &Agent) -> anyhow::Result<()> {
    let cluster = super::cluster()?;
    let delete = agent.0.spawn(&DELETE_WEB)?;
    let name = grant(&cluster, AGENTS, "WaitingForReview").await?;
    let before = cluster.kubectl(&["get", "deploy", "web", "-n", PAYMENTS])?;
    ensure!(before.code == 0, "it was deleted before anybody approved");
    let patched = review(&cluster, AGENTS, &name, "Approved")?;
    ensure!(patched.stderr.contains("approval recorded for alice@example.com"), "{patched:?}");
    let out = delete.wait_with_output()?;
    let said = [&out.stdout[..], &out.stderr[..]].concat();
    let said = String::from_utf8(said)?;
    ensure!(out.status.success() && said.contains("approved by alice@example.com"), "{said}");
    let after = cluster.kubectl(&["get", "deploy", "web", "-n", PAYMENTS])?;
    ensure!(after.stderr.contains("NotFound"), "{after:?}");
    Ok(())
}

fn window(agent: &Agent) -> anyhow::Result<()> {
    let cluster = super::cluster()?;
    cluster.apply(&std::fs::read_to_string(manifest("windows"))?)?;
    cluster.wait("condition=Programmed", "accesspolicy/payments-write", AGENTS, SOON)?;
    let patch =
        ["patch", "configmap", "flags", "-n", PAYMENTS, "--type=merge", "-p", r#"{"data":{"refunds":"on"}}"#];
    let refused = agent.says(&patch)?;
    ensure!(refused.stderr.contains("(WindowRequired)"), "{refused:?}");
    let ask = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "claude-code-", "namespace": AGENTS},
        "spec": {"agentRef": {"name": CLAUDE_CODE}, "type": "Window", "reason": "Turn refunds on, INC-4312",
                 "window": {"durationSeconds": 600}},
    });
    let create = ["create", "-f", "-", "-o", "jsonpath={.metadata.name}"];
    let name = agent.0.kubectl_stdin(&create, &ask.to_string())?.success()?;
    review(&cluster, AGENTS, &name, "Approved")?.success()?;
    let object = format!("accessgrant/{name}");
    let decided = ["wait", "--for=condition=Decided", &object, "-n", AGENTS, "--timeout=60s"];
    agent.says(&decided)?.success()?;
    let since = Instant::now();
    agent.says(&patch)?.success()?;
    println!("FIGURE the window's first write after it was decided: {:.1} s", since.elapsed().as_secs_f64());
    review(&cluster, AGENTS, &name, "Revoked")?.success().map(|_said| ())
}

/// The kill switch; it ends the session too.
async fn suspended(agent: &Agent) -> anyhow::Result<()> {
    let cluster = super::cluster()?;
    for (suspend, wanted) in [("true", "(AgentSuspended)"), ("false", "")] {
        let patch = format!(r#"{{"spec":{{"suspend":{suspend}}}}}"#);
        let object = format!("agentidentity/{CLAUDE_CODE}");
        cluster.kubectl(&["patch", &object, "-n", AGENTS, "--type=merge", "-p", &patch])?.success()?;
        eventually("the kill switch", SOON, async || {
            let out = agent.says(&["get", "deploy", "-n", PAYMENTS])?;
            let refused = out.stderr.contains("(AgentSuspended)");
            Ok((refused != wanted.is_empty()).then_some(()))
        })
        .await?;
    }
    Ok(())
}

async fn remembered(release: &Release, session: &str) -> anyhow::Result<()> {
    let wanted =
        ["PolicyDenied", "Approved by alice@example.com", "delete deployments.apps/web", "WindowRequired"];
    eventually("the whole story in the recording", SOON, async || {
        let replay = release.plugin_in_pod(&["replay", session, "-n", AGENTS]).await?;
        ensure!(!replay.stdout.contains(CANARY), "the recording holds the secret");
        Ok(wanted.iter().all(|text| replay.stdout.contains(text)).then_some(()))
    })
    .await?;
    eventually("a closed chain that verifies", SOON, async || {
        let verified = release.plugin_in_pod(&["verify", session, "-n", AGENTS]).await?;
        println!("verify says: {}", verified.stdout.trim());
        let closed =
            verified.stdout.starts_with("hash chain ok") && !verified.stdout.contains("still active");
        Ok((verified.code == 0 && closed).then_some(()))
    })
    .await
}
