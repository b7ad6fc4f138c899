//! Several operators: one leads, all answer; how one follows the other, and what ends one that may no longer write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use e2e::gate::Program;
use e2e::{ControlPlane, Filter, Gate, Setup, Sign, eventually};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::operator::{OPERATOR, SOON, SYSTEM, get, identity, policy, reason, shard};

const LEASE_LOST: i32 = 3;

fn operators(flags: &[&str]) -> anyhow::Result<(ControlPlane, Gate)> {
    let plane = ControlPlane::start()?;
    let operator_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    let gate = Gate::start(&plane, Setup { operators: 2, proxies: 0, operator_flags, ..Setup::default() })?;
    Ok((plane, gate))
}

async fn leads(operator: &Program) -> bool {
    let metrics = operator.metrics().await.unwrap_or_default();
    metrics.lines().any(|line| line == "sallyport_operator_leading 1")
}

async fn count(operator: &Program, metric: &str) -> anyhow::Result<f64> {
    let metrics = operator.metrics().await?;
    let lines = metrics.lines().filter(|line| line.starts_with(metric));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

/// The one that leads, and the other.
async fn leader(gate: &Gate) -> anyhow::Result<(&Program, &Program)> {
    let [one, other] = gate.operators() else { anyhow::bail!("two operators") };
    eventually("a leader", SOON, async || {
        Ok(match (leads(one).await, leads(other).await) {
            (true, false) => Some((one, other)),
            (false, true) => Some((other, one)),
            (true, true) => anyhow::bail!("two leaders"),
            (false, false) => None,
        })
    })
    .await
}

fn lease(plane: &ControlPlane) -> anyhow::Result<Value> {
    get(plane, &["lease", "sallyport-operator", "-n", SYSTEM])
}

/// A window that the administrator asks for.
pub fn window(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": name, "namespace": namespace},
        "spec": {"agentRef": {"name": "reader"}, "type": "Window", "reason": "r", "window": {"durationSeconds": 60}},
    })
}

#[tokio::test]
async fn f17_one_writes_and_all_answer_and_two_that_start_at_once_agree() -> anyhow::Result<()> {
    let (plane, gate) = operators(&[])?;
    let (leader, other) = leader(&gate).await?;
    let namespace = plane.namespace("leader").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    shard(&plane, &namespace, "reader").await?;
    reason(&plane, &["accesspolicy", &namespace], "Accepted", "Accepted").await?;
    assert!(count(leader, "sallyport_operator_shard_writes_total").await? > 0.0);
    for metric in ["sallyport_operator_shard_writes_total", "sallyport_operator_status_writes_total"] {
        assert_eq!(count(other, metric).await?, 0.0, "{metric}: only the leader writes");
    }
    for resource in ["secrets", "configmaps"] {
        let made = Filter::ran_as(OPERATOR).resource(resource).verb("create").namespace(SYSTEM);
        let mut made: Vec<String> = plane
            .audit()
            .requests(&made)
            .await?
            .into_iter()
            .filter_map(|one| Some(one.object_ref?.name))
            .collect();
        let all = made.len();
        made.sort();
        made.dedup();
        assert_eq!(made.len(), all, "nothing is made twice: {made:?}");
    }
    let admin = Caller::admin(&plane).await?;
    eventually("both to have answered the API server", SOON, async || {
        // Several at once: one after the other would all go over one connection, to one of them.
        let asked = window(&namespace, "asked");
        let asking = (0..8).map(|_| admin.create(&asked, "&dryRun=All"));
        for answer in futures::future::join_all(asking).await {
            answer?.map_err(|status| anyhow::anyhow!(status.message))?;
        }
        let answered = (
            count(leader, "sallyport_admissions_total").await?,
            count(other, "sallyport_admissions_total").await?,
        );
        Ok((answered.0 > 0.0 && answered.1 > 0.0).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_rolling_restart_hands_over_at_once_and_no_webhook_call_fails() -> anyhow::Result<()> {
    // So long that no other way to lead but the one before giving it back is quick enough.
    let (plane, gate) = operators(&["--lease-seconds", "120", "--drain-seconds", "3"])?;
    let namespace = plane.namespace("leader").await?;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let calling = {
        let (plane, namespace, stop, calls) = (plane.clone(), namespace.clone(), stop.clone(), calls.clone());
        tokio::spawn(async move {
            let admin = Caller::admin(&plane).await?;
            while !stop.load(Ordering::Acquire) {
                let asked = admin.create(&window(&namespace, "asked"), "&dryRun=All").await?;
                asked.map_err(|status| anyhow::anyhow!("a webhook call failed: {}", status.message))?;
                calls.fetch_add(1, Ordering::AcqRel);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        })
    };
    for _round in 0..2 {
        let (leader, other) = leader(&gate).await?;
        let before = lease(&plane)?["spec"]["leaseTransitions"].as_i64().unwrap_or(0);
        assert_eq!(stop_elsewhere(leader).await?, 0, "it ends in peace");
        eventually("the other to lead", SOON, async || Ok(leads(other).await.then_some(()))).await?;
        assert_eq!(lease(&plane)?["spec"]["leaseTransitions"].as_i64(), Some(before + 1));
        leader.restart().await?;
    }
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    shard(&plane, &namespace, "reader").await?;
    stop.store(true, Ordering::Release);
    calling.await??;
    let calls = calls.load(Ordering::Acquire);
    println!("two operators restarted one after the other: {calls} webhook calls, 0 failed");
    assert!(calls > 20, "{calls} calls prove nothing");
    Ok(())
}

async fn stop_elsewhere(program: &Program) -> anyhow::Result<i32> {
    let process = program.process();
    process.signal(Sign::Term)?;
    ended(program, Duration::from_secs(30)).await
}

async fn ended(program: &Program, limit: Duration) -> anyhow::Result<i32> {
    let process = program.process();
    eventually("a program to end", limit, async || process.ended()).await
}

#[tokio::test]
async fn f17_an_operator_whose_lease_is_taken_ends_and_says_so() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    assert!(leads(gate.operator()).await);
    let stolen = json!({"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 60,
                                 "renewTime": format!("{:.6}", jiff::Timestamp::now())}});
    let patch =
        ["patch", "lease", "sallyport-operator", "-n", SYSTEM, "--type=merge", "-p", &stolen.to_string()];
    plane.kubectl(&patch)?.success()?;
    assert_eq!(ended(gate.operator(), Duration::from_secs(40)).await?, LEASE_LOST);
    let words = gate.operator().process().last_words();
    assert!(words.contains("operator lease lost; the process ends"), "{words}");
    assert!(words.contains("another replica holds it"), "{words}");
    assert_eq!(
        lease(&plane)?["spec"]["holderIdentity"],
        "somebody-else",
        "what is not ours is not given back"
    );
    Ok(())
}

#[tokio::test]
async fn f17_an_operator_that_slept_through_its_lease_ends_before_it_writes() -> anyhow::Result<()> {
    let (plane, gate) = operators(&["--lease-seconds", "5"])?;
    let (first, second) = leader(&gate).await?;
    first.process().signal(Sign::Stop)?;
    eventually("the other to lead", Duration::from_secs(40), async || Ok(leads(second).await.then_some(())))
        .await?;
    let namespace = plane.namespace("leader").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let good = shard(&plane, &namespace, "reader").await?;
    let map = || get(&plane, &["configmap", "-n", SYSTEM, "-l", crds::names::LABEL_SHARD]);
    let before = map()?["items"].clone();
    first.process().signal(Sign::Cont)?;
    assert_eq!(ended(first, Duration::from_secs(40)).await?, LEASE_LOST);
    assert_eq!(map()?["items"], before, "one that woke up writes nothing");
    assert_eq!(shard(&plane, &namespace, "reader").await?, good);
    assert!(leads(second).await);
    Ok(())
}
