//! `kubectl logs` and `logs -f` through the gate: line by line, bounded, recorded in figures, and cut with a true error.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use e2e::fake_kubelet::FakeKubelet;
use e2e::kubectl::kubectl_spawn;
use e2e::{Version, eventually};
use serde_json::{Value, json};

use super::estate::Estate;

const SOON: Duration = Duration::from_secs(30);
/// The goal is 500 ms; a machine that runs other tests beside this one gets three times that.
const CUT_WITHIN: Duration = Duration::from_millis(1500);
const CANARY: &str = "canary-in-a-log-line";

fn rules(verbs: &[&str]) -> Value {
    json!([{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": verbs},
    ]}])
}

/// An agent that may read logs, and a pod whose log is made here.
async fn yard(policy: Value) -> anyhow::Result<(Estate, FakeKubelet)> {
    let estate = Estate::new(&super::gate()?, "logs", policy).await?;
    let kubelet = FakeKubelet::start(estate.gate.plane())?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": estate.namespace},
        "spec": {"nodeName": kubelet.node(), "tolerations": [{"operator": "Exists"}],
                 "containers": [{"name": "web", "image": "web"}]},
    });
    estate.gate.plane().apply(&pod.to_string())?;
    Ok((estate, kubelet))
}

/// Waits until the API server follows the log.
async fn following(kubelet: &FakeKubelet, count: usize) -> anyhow::Result<()> {
    eventually("a followed log", SOON, async || Ok((kubelet.following() == count).then_some(()))).await
}

/// A `kubectl logs -f` whose lines are read as they come.
struct Follow {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Follow {
    fn start(estate: &Estate, version: Version, proxy: usize) -> anyhow::Result<Self> {
        let args = ["logs", "-f", "web", "-n", &estate.namespace];
        let mut child = estate.agent.kubectl_spawn(version, proxy, &args)?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow::anyhow!("stdout is a pipe"))?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, lines })
    }

    /// The next line, which must come although nothing follows it.
    fn line(&self) -> anyhow::Result<String> {
        Ok(self.lines.recv_timeout(SOON)?)
    }

    /// Waits for the end: exit code and what was said on stderr. A kubectl 1.36 whose log was refused before its first line asks
    /// for 20 s more before it gives up.
    async fn ended(mut self) -> anyhow::Result<(i32, String)> {
        drop(self.child.stdin.take());
        let out = tokio::task::spawn_blocking(move || self.child.wait_with_output()).await??;
        Ok((out.status.code().unwrap_or(-1), String::from_utf8(out.stderr)?))
    }
}

/// The outcome of the request for the log of `web`, from the store.
async fn outcome(estate: &Estate, disposition: &str) -> anyhow::Result<Value> {
    eventually(&format!("a log that is recorded as {disposition}"), SOON, async || {
        let events = super::record::events(estate)?;
        let ids = events
            .iter()
            .filter(|((_, kind), event)| kind == "Intent" && event["act"]["subresource"] == "log");
        let mut outcomes = ids.filter_map(|((id, _), _)| events.get(&(id.clone(), "Outcome".to_owned())));
        Ok(outcomes.find(|event| event["disposition"] == disposition).cloned())
    })
    .await
}

#[tokio::test]
async fn a_log_streams_line_by_line_and_is_recorded_in_figures() -> anyhow::Result<()> {
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    for (index, version) in [Version::Old, Version::New].into_iter().enumerate() {
        let follow = Follow::start(&estate, version, index)?;
        following(&kubelet, 1).await?;
        for count in 0..3 {
            let line = format!("{CANARY} {count}");
            kubelet.say(&format!("{line}\n"));
            assert_eq!(follow.line()?, line, "before the next one is written");
        }
        kubelet.end();
        let (code, said) = follow.ended().await?;
        assert_eq!(code, 0, "its own end is clean: {said}");
        following(&kubelet, 0).await?;
    }
    let ended = outcome(&estate, "executed").await?;
    assert_eq!((&ended["log"]["lines"], &ended["bytes"]), (&json!(3), &json!(3 * (CANARY.len() + 3))));
    let text: String = (0..3).map(|count| format!("{CANARY} {count}\n")).collect();
    assert_eq!(ended["log"]["sha256"], recording_hash(text.as_bytes()));
    let dump = format!("{:?}", super::record::events(&estate)?);
    assert!(!dump.contains(CANARY), "the text of a log is not recorded");
    Ok(())
}

fn recording_hash(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    format!("sha256:{}", digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

#[tokio::test]
async fn p9_what_is_asked_of_a_log_arrives_exactly() -> anyhow::Result<()> {
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    kubelet.log_is(b"one\ntwo\n".to_vec());
    let args = [
        "logs",
        "web",
        "-c",
        "web",
        "--tail=5",
        "--timestamps",
        "--since-time=2026-11-20T14:00:00Z",
        "--limit-bytes=100",
        "--previous",
    ];
    assert_eq!(estate.agent(&args)?.success()?, "one\ntwo\n");
    let asked = kubelet.asked().pop().unwrap_or_default();
    let (path, query) = asked.split_once('?').unwrap_or_default();
    assert_eq!(path, format!("/containerLogs/{}/web/web", estate.namespace));
    for part in [
        "tailLines=5",
        "timestamps=true",
        "sinceTime=2026-11-20T14%3A00%3A00Z",
        "limitBytes=100",
        "previous=true",
    ] {
        assert!(query.split('&').any(|one| one == part), "`{part}` in `{query}`");
    }
    let before = kubelet.asked().len();
    let refused = estate.agent(&["logs", "web", "--insecure-skip-tls-verify-backend"])?;
    assert!(refused.code != 0 && refused.stderr.contains("insecureSkipTLSVerifyBackend"), "{refused:?}");
    let ranged = format!("/api/v1/namespaces/{}/pods/web/log", estate.namespace);
    let ranged = estate.agent.send(0, "GET", &ranged, &[("Range", "bytes=0-1")], b"").await?;
    assert_eq!((ranged.code, ranged.text().as_str()), (200, "one\ntwo\n"), "B13: no part of a value");
    assert_eq!(kubelet.asked().len(), before + 1);
    let missing = estate.agent(&["logs", "web", "-c", "none"])?;
    assert!(missing.stderr.contains("container none is not valid for pod web"), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn f12_a_large_log_waits_for_its_reader() -> anyhow::Result<()> {
    const WHOLE: usize = 96 << 20;
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
    let log = line.repeat(WHOLE / line.len());
    let hash = recording_hash(&log);
    kubelet.log_is(log);
    let mut connection = estate.agent.connect(0).await?;
    let target = format!("/api/v1/namespaces/{}/pods/web/log", estate.namespace);
    connection.send(&estate.agent.request("GET", &target, &[("Accept-Encoding", "gzip")], b"")?).await?;
    let head = connection.head().await?;
    assert_eq!((head.code, head.header("content-type")), (200, Some("text/plain")));
    assert_eq!(head.header("content-encoding"), None);
    let mut before = 0;
    eventually("the kubelet to be held up", SOON, async || {
        let now = kubelet.written();
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok((std::mem::replace(&mut before, now) == now && now > 0).then_some(()))
    })
    .await?;
    let held = kubelet.written();
    assert!(held < 32 << 20, "{held} bytes were taken for a client that reads nothing");
    let mut read = 0;
    while let Some(chunk) = connection.chunk().await? {
        read += chunk.len();
    }
    assert_eq!(read, WHOLE);
    let ended = outcome(&estate, "executed").await?;
    assert_eq!((&ended["log"]["lines"], &ended["log"]["sha256"]), (&json!(WHOLE / 1024), &json!(hash)));
    Ok(())
}

#[tokio::test]
async fn without_a_rule_for_pods_log_there_is_no_log() -> anyhow::Result<()> {
    let policy = json!({"rules": [{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    ]}]});
    let (estate, kubelet) = yard(policy).await?;
    let refused = estate.agent(&["logs", "web"])?;
    assert!(refused.code != 0 && refused.stderr.contains("sallyport/NotAllowed"), "{refused:?}");
    assert!(kubelet.asked().is_empty());
    Ok(())
}

#[tokio::test]
async fn e10_a_followed_log_is_cut_on_suspend_with_and_without_a_line() -> anyhow::Result<()> {
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    let suspend = |is: bool| {
        let patch = json!({"spec": {"suspend": is}}).to_string();
        estate.admin(&["patch", "agentidentity", "agent", "--type=merge", "-p", &patch])?.success()
    };
    for has_line in [true, false] {
        for version in [Version::New, Version::Old] {
            let follow = Follow::start(&estate, version, 1)?;
            following(&kubelet, 1).await?;
            if has_line {
                kubelet.say("a line\n");
                assert_eq!(follow.line()?, "a line");
            }
            let since = Instant::now();
            suspend(true)?;
            following(&kubelet, 0).await?;
            assert!(since.elapsed() < CUT_WITHIN, "{:?}", since.elapsed());
            let (code, said) = follow.ended().await?;
            assert_ne!(code, 0, "never a clean end: {said}");
            if !has_line {
                assert!(said.contains("sallyport/AgentSuspended"), "nothing was sent yet: {said}");
            }
            suspend(false)?;
            eventually("the agent to be served again", SOON, async || {
                Ok((estate.agent(&["get", "pod", "web"])?.code == 0).then_some(()))
            })
            .await?;
        }
    }
    let cut = outcome(&estate, "cut").await?;
    assert_eq!(cut["reason"], "AgentSuspended");
    Ok(())
}

#[tokio::test]
async fn e10_a_followed_log_is_cut_when_its_window_is_revoked_or_ends() -> anyhow::Result<()> {
    let policy = json!({"rules": rules(&["get"]), "jit": {"mode": "Required", "maxWindowSeconds": 3600}});
    let (estate, kubelet) = yard(policy).await?;
    for ends_by_itself in [false, true] {
        let grant = super::window::ask(&estate, 600)?;
        let mut review = json!({"decision": "Approved"});
        if ends_by_itself {
            review["durationSeconds"] = json!(90);
        }
        super::estate::review_as(&estate.alice, &estate.namespace, &grant, &review)?.success()?;
        let wait = ["wait", "--for=condition=Active", &format!("accessgrant/{grant}"), "--timeout=30s"];
        estate.agent(&wait)?.success()?;
        // One of each on both replicas: with a line, and silent.
        let spoken = Follow::start(&estate, Version::New, 0)?;
        following(&kubelet, 1).await?;
        kubelet.say("a line\n");
        spoken.line()?;
        let silent = Follow::start(&estate, Version::New, 1)?;
        following(&kubelet, 2).await?;
        let since = Instant::now();
        if ends_by_itself {
            // A container that is silent for longer than the API server's usual answer takes is followed all the same.
            eventually("the window's end", Duration::from_secs(120), async || {
                let open = kubelet.following();
                assert!(open == 2 || since.elapsed() > Duration::from_secs(80), "{:?}", since.elapsed());
                Ok((open == 0).then_some(()))
            })
            .await?;
        } else {
            estate.review(&grant, "Revoked")?.success()?;
            following(&kubelet, 0).await?;
            assert!(since.elapsed() < CUT_WITHIN, "{:?}", since.elapsed());
        }
        for follow in [spoken, silent] {
            let (code, said) = follow.ended().await?;
            assert_ne!(code, 0, "never a clean end: {said}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn e10_a_followed_log_is_cut_when_the_policy_changes() -> anyhow::Result<()> {
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    let follow = Follow::start(&estate, Version::New, 0)?;
    following(&kubelet, 1).await?;
    kubelet.say("a line\n");
    follow.line()?;
    let patch = json!({"spec": {"rules": rules(&["list"])}}).to_string();
    estate
        .gate
        .plane()
        .kubectl(&["patch", "accesspolicy", &estate.namespace, "--type=merge", "-p", &patch])?
        .success()?;
    let (code, said) = follow.ended().await?;
    assert_ne!(code, 0, "never a clean end: {said}");
    assert_eq!(outcome(&estate, "cut").await?["reason"], "NotAllowed");
    Ok(())
}

#[tokio::test]
async fn e11_followed_logs_count_as_streams() -> anyhow::Result<()> {
    let (estate, kubelet) = yard(json!({"rules": rules(&["get"])})).await?;
    let limits = json!({"spec": {"limits": {"maxConcurrentStreams": 1}}}).to_string();
    estate.admin(&["patch", "agentidentity", "agent", "--type=merge", "-p", &limits])?.success()?;
    let first = Follow::start(&estate, Version::New, 0)?;
    following(&kubelet, 1).await?;
    kubelet.log_is(b"whole\n".to_vec());
    let denied = eventually("the limit to be in force", SOON, async || {
        let mut second = kubectl_spawn(
            Version::New,
            estate.agent.kubeconfig(0),
            &["logs", "-f", "web", "-n", &estate.namespace],
        )?;
        drop(second.stdin.take());
        let out = eventually("an answer, or a second log", SOON, async || {
            Ok((second.try_wait()?.is_some() || kubelet.following() == 2).then_some(()))
        })
        .await;
        out?;
        let is_denied = second.try_wait()?.is_some();
        let _ended = second.kill();
        let out = second.wait_with_output()?;
        following(&kubelet, 1).await?;
        Ok(is_denied.then(|| String::from_utf8_lossy(&out.stderr).into_owned()))
    })
    .await?;
    assert!(denied.contains("sallyport/StreamDenied"), "{denied}");
    assert_eq!(estate.agent(&["logs", "web"])?.success()?, "whole\n", "one that ends needs no place");
    kubelet.say("a line\n");
    kubelet.end();
    assert_eq!(first.ended().await?.0, 0);
    Ok(())
}
