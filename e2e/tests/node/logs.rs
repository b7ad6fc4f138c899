//! `kubectl logs` of a real container through the gate: line by line, and cut when the permission ends, on every replica.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use e2e::install::AGENT_IMAGE;
use e2e::pod::replicas;
use serde_json::json;

use super::estate::{Estate, SOON};

/// The promise is 500 ms; the rest is kubectl's way out of two pods on a machine that does other things too.
const CUT_WITHIN: Duration = Duration::from_secs(3);

/// `kubectl logs -f` in the agent's pod, its lines as they come.
struct Follower {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Follower {
    fn start(estate: &Estate, replica: &[String; 2]) -> anyhow::Result<Self> {
        let args = ["logs", "-f", "--tail=1", "talker", "-n", &estate.namespace, &replica[0], &replica[1]];
        let mut child = estate.agents[0].spawn(&args)?;
        let (sender, lines) = channel();
        let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as Box<dyn std::io::Read + Send>),
            child.stderr.take().map(|output| Box::new(output) as Box<dyn std::io::Read + Send>),
        ];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send((Instant::now(), line)).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, lines })
    }

    /// Reads `count` lines and says how long lay between the arrivals of the first and the last.
    fn read(&self, count: usize) -> anyhow::Result<Duration> {
        let (first, _) = self.lines.recv_timeout(SOON)?;
        let mut last = first;
        for _ in 1..count {
            (last, _) = self.lines.recv_timeout(SOON)?;
        }
        Ok(last - first)
    }

    /// Reads to the end; how long that took, what the last line was and whether kubectl ended well.
    fn end(mut self, limit: Duration) -> anyhow::Result<(Duration, String, bool)> {
        let (since, mut last) = (Instant::now(), String::new());
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(since.elapsed())) {
                Ok((_, line)) => last = line,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.child.kill()?;
                    anyhow::bail!("the stream still goes on after {limit:?}");
                }
            }
        }
        let took = since.elapsed();
        Ok((took, last, self.child.wait()?.success()))
    }
}

async fn estate() -> anyhow::Result<Estate> {
    let policy = json!({
        "rules": [{"name": "read", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        ]}],
        "jit": {"mode": "Required", "maxWindowSeconds": 3600, "approval": "Required"},
    });
    let estate = Estate::new("logs", &["one"], policy).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker", "namespace": estate.namespace},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "containers": [{
            "name": "talker", "image": AGENT_IMAGE, "imagePullPolicy": "IfNotPresent",
            "args": ["logs-generator", "--log-lines-total=100000", "--run-duration=5h33m"],
        }]},
    });
    estate.cluster.apply(&pod.to_string())?;
    estate.cluster.wait("condition=Ready", "pod/talker", &estate.namespace, SOON)?;
    Ok(estate)
}

#[tokio::test]
async fn d_logs_stream_line_by_line_and_a_revoked_window_cuts_them_on_every_replica() -> anyhow::Result<()> {
    let _release = super::installed(None).await?;
    let estate = estate().await?;
    let refused = estate.agent(&["logs", "talker"])?;
    assert!(refused.stderr.contains("WindowRequired"), "{refused:?}");
    let grant = estate.open_window(600).await?;
    let some = estate.agent(&["logs", "talker", "--tail=3"])?.success()?;
    assert_eq!(some.lines().count(), 3, "{some}");
    let followers = replicas(&estate.cluster)?;
    let followers: Vec<_> =
        followers.iter().map(|replica| Follower::start(&estate, replica)).collect::<Result<_, _>>()?;
    assert_eq!(followers.len(), 2);
    for follower in &followers {
        // The talker says five lines a second.
        let spread = follower.read(20)?;
        assert!(spread > Duration::from_secs(2), "the lines came all at once, in {spread:?}");
    }
    estate.review(&grant, "Revoked")?.success()?;
    for follower in followers {
        let (took, last, well) = follower.end(Duration::from_secs(30))?;
        println!("FIGURE logs -f cut after the revoke returned: {} ms", took.as_millis());
        assert!(took < CUT_WITHIN, "{took:?}");
        assert!(!well, "a cut is never a clean end: {last}");
    }
    Ok(())
}

#[tokio::test]
async fn d_the_end_of_a_window_cuts_logs_on_every_replica() -> anyhow::Result<()> {
    let _release = super::installed(None).await?;
    let estate = estate().await?;
    let grant = estate.open_window(60).await?;
    let followers = replicas(&estate.cluster)?;
    let followers: Vec<_> =
        followers.iter().map(|replica| Follower::start(&estate, replica)).collect::<Result<_, _>>()?;
    for follower in &followers {
        follower.read(2)?;
    }
    let ends = estate.cluster.get(&["accessgrant", &grant, "-n", &estate.namespace])?;
    let ends = ends["status"]["expirationTime"].as_str().unwrap_or_default().to_owned();
    let ends: jiff::Timestamp = ends.parse()?;
    for follower in followers {
        let (_, last, well) = follower.end(Duration::from_secs(90))?;
        let late = jiff::Timestamp::now().as_millisecond() - ends.as_millisecond();
        println!("FIGURE logs -f cut after the window's end: {late} ms");
        assert!(late > -1000 && u128::try_from(late.max(0))? < CUT_WITHIN.as_millis(), "{late} ms");
        assert!(!well, "a cut is never a clean end: {last}");
    }
    Ok(())
}
