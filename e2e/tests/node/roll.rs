//! Everything is replaced while two agents work: nothing fails that should pass, nothing goes unrecorded.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::gate::SYSTEM;
use e2e::install::Release;
use e2e::pod::manifest;
use e2e::{Filter, eventually};
use serde_json::{Value, json};

use super::estate::{Estate, SOON};

const RATE: u64 = 25;
const SECONDS: u64 = 90;
const ROLLED_WITHIN: Duration = Duration::from_secs(180);

pub fn work() -> Value {
    json!({"rules": [{"name": "work", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "patch"]},
    ]}]})
}

/// Starts `e2e-load` as each of the estate's agents and waits until all of them run.
pub fn start_load(estate: &Estate, agents: &[&str], seconds: u64) -> anyhow::Result<()> {
    let (rate, seconds) = (format!("--rate={RATE}"), format!("--seconds={seconds}"));
    let namespace = format!("--namespace={}", estate.namespace);
    for agent in agents {
        let command = ["e2e-load", &namespace, "--name=flags", &rate, &seconds];
        let pod = manifest(&estate.namespace, agent, &format!("load-{agent}"), &command);
        estate.cluster.apply(&pod.to_string())?;
    }
    for agent in agents {
        estate.cluster.wait("condition=Ready", &format!("pod/load-{agent}"), &estate.namespace, SOON)?;
    }
    Ok(())
}

/// Waits for the end of each load; all lines that they said, and the sums.
pub async fn end_load(
    estate: &Estate,
    agents: &[&str],
    seconds: u64,
) -> anyhow::Result<(String, Vec<Value>)> {
    let (mut said, mut sums) = (String::new(), Vec::new());
    for agent in agents {
        let pod = format!("load-{agent}");
        let limit = Duration::from_secs(seconds + 120);
        eventually(&format!("the end of {pod}"), limit, async || {
            let pod = estate.cluster.get(&["pod", &pod, "-n", &estate.namespace])?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            Ok(matches!(phase, "Succeeded" | "Failed").then_some(()))
        })
        .await?;
        let text = estate.admin(&["logs", &pod])?.success()?;
        let sum = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
        let sum = sum.map(|sum| sum["sum"].clone()).filter(Value::is_object);
        sums.push(sum.with_context(|| format!("no sum: {text}"))?);
        said.push_str(&text);
    }
    Ok((said, sums))
}

#[tokio::test]
async fn e_a_rolling_restart_of_everything_fails_nothing_and_leaves_nothing_unrecorded() -> anyhow::Result<()>
{
    let release = super::installed(None).await?;
    let agents = ["one", "two"];
    let estate = Estate::new("roll", &agents, work()).await?;
    start_load(&estate, &agents, SECONDS)?;
    for deployment in ["sallyport-proxy", "sallyport-operator"] {
        let object = format!("deployment/{deployment}");
        estate.cluster.kubectl(&["rollout", "restart", &object, "-n", SYSTEM])?.success()?;
        estate.cluster.rolled_out(deployment, SYSTEM, ROLLED_WITHIN)?;
    }
    let (said, sums) = end_load(&estate, &agents, SECONDS).await?;
    for sum in &sums {
        println!("FIGURE rolling restart under load: {sum}");
        ensure!(sum["failed"] == 0, "requests failed that should pass: {said}");
        let sent = sum["sent"].as_u64().unwrap_or_default();
        // The load waits for each answer: a busy machine is asked less often, and that is no failure of the gate.
        ensure!(sent > RATE * SECONDS / 4, "only {sent} requests: {said}");
        let ends = sum["watchEnds"].as_object().context("ends of the watch")?;
        let told = ends.keys().all(|end| end == "clean" || end.starts_with("told: "));
        ensure!(!ends.is_empty() && told, "watches are told to reconnect: {ends:?}");
    }
    all_recorded(&release, &estate, Trace::Outcome).await
}

/// What of a request must be in the recordings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// That it was begun: all there can be of what was under way on a proxy that was killed (F03).
    Intent,
    /// And how it ended.
    Outcome,
}

/// Every request of the estate's agents in the API server's audit log has its trace in the recordings, by id.
pub async fn all_recorded(release: &Release, estate: &Estate, trace: Trace) -> anyhow::Result<()> {
    let what = "every audited request has its record";
    let Some(node) = estate.cluster.node(what) else { return Ok(()) };
    let mut wanted = HashMap::new();
    for agent in &estate.agents {
        for request in node.audit().requests(&Filter::ran_as(&agent.username())).await? {
            let object = request.object_ref.clone().unwrap_or_default();
            // The gate's own question whether it can act as the agent is no request of the agent.
            if object.resource != "selfsubjectreviews" {
                wanted.insert(request.audit_id.clone(), format!("{} {}", request.verb, request.uri));
            }
        }
    }
    ensure!(wanted.len() > 100, "only {} requests in the audit log", wanted.len());
    eventually(what, Duration::from_secs(60), async || {
        let found = recorded(release, estate, trace)?;
        let missing: Vec<_> = wanted.iter().filter(|(id, _)| !found.contains(id.as_str())).take(5).collect();
        if missing.is_empty() {
            println!("FIGURE requests in the audit log, each with its record: {}", wanted.len());
            return Ok(Some(()));
        }
        println!("not yet recorded, among others: {missing:?}");
        Ok(None)
    })
    .await
}

/// Ids of the requests that have that trace in some recording of the estate's namespace.
fn recorded(release: &Release, estate: &Estate, trace: Trace) -> anyhow::Result<HashSet<String>> {
    let sessions = estate.cluster.get(&["sessionrecords", "-n", &estate.namespace])?;
    let (mut intents, mut outcomes) = (HashSet::new(), HashSet::new());
    for session in sessions["items"].as_array().into_iter().flatten() {
        let name = session["metadata"]["name"].as_str().unwrap_or_default();
        let replay = release.plugin(&["replay", name, "-n", &estate.namespace, "-o", "json"])?;
        for line in replay.iter().flat_map(|replay| replay.stdout.lines()) {
            let line: Value = serde_json::from_str(line)?;
            let Some(id) = line["event"]["requestId"].as_str() else { continue };
            match line["type"].as_str() {
                Some("Intent") => intents.insert(id.to_owned()),
                Some("Outcome") => outcomes.insert(id.to_owned()),
                _ => false,
            };
        }
    }
    if trace == Trace::Outcome {
        intents.retain(|id| outcomes.contains(id));
    }
    Ok(intents)
}
