//! Steady load from several agents, as clients with kept connections put it; what became of each request; and whether each one
//! that reached the API server is in the recordings.
//!
//! *Expected flow*: [`Load::start`], whatever is to be survived, [`Load::stop`], then [`Report::failed`] and [`unrecorded`].
//! *Like client-go*: HTTP/2 or HTTP/1.1, a GET is sent again when a kept connection ends before its answer, a write only when
//! nothing of it was sent, and a 429 with `Retry-After` is waited out. A watch goes on from the last version it saw when it ends
//! cleanly. It runs on a thread of its own, so that its caller may block.

mod check;
mod client;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

pub use check::{Recordings, unrecorded};
pub use client::{Client, Lost, Protocol, Stream, Whole};

use crate::agent::Agent;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Who {
    /// User name in the API server's audit log.
    pub username: String,
    /// File with its token.
    pub token_file: PathBuf,
    /// Namespace with the ConfigMaps that it reads and patches.
    pub namespace: String,
    /// The authority that the gate's certificate is of, PEM.
    pub ca: String,
}

impl From<&Agent> for Who {
    fn from(agent: &Agent) -> Self {
        Self {
            username: agent.username(),
            token_file: agent.token_file().to_owned(),
            namespace: agent.namespace().to_owned(),
            ca: agent.ca().to_owned(),
        }
    }
}

/// How much is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the gate is reached; workers take turns.
    pub urls: Vec<String>,
    /// Requests of all agents together in a second.
    pub per_second: u32,
    /// Connections of each agent; every other one speaks HTTP/1.1.
    pub workers: u32,
    /// Watches of each agent.
    pub watches: u32,
    /// A connection is used for one request only, so that each begins with a handshake.
    pub fresh_connections: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { urls: Vec::new(), per_second: 50, workers: 5, watches: 1, fresh_connections: false }
    }
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Who asked.
    pub username: String,
    /// `GET`, `LIST`, `PATCH` or `WATCH`.
    pub what: &'static str,
    /// Since the load began.
    pub at: Duration,
    /// Until the whole answer was there; of a watch until its end.
    pub took: Duration,
    /// `Audit-ID` of the answer.
    pub id: Option<String>,
    /// How often it was sent again by the rules above.
    pub again: u32,
    /// Status code, or how it was lost.
    pub outcome: Result<u16, String>,
}

impl Sent {
    /// Whether it is as it should be.
    pub fn is_good(&self) -> bool {
        matches!(self.outcome, Ok(200..=299))
    }
}

/// What became of all of them.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In order of their ends.
    pub sent: Vec<Sent>,
}

impl Report {
    /// Those that failed.
    pub fn failed(&self) -> Vec<&Sent> {
        self.sent.iter().filter(|sent| !sent.is_good()).collect()
    }

    /// How many of this sort went well.
    pub fn good(&self, what: &str) -> usize {
        self.sent.iter().filter(|sent| sent.what == what && sent.is_good()).count()
    }

    /// Latency below which `percent` of the requests (watches left out) were answered.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut times: Vec<_> =
            self.sent.iter().filter(|sent| sent.what != "WATCH").map(|sent| sent.took).collect();
        times.sort();
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).copied().unwrap_or_default()
    }

    /// One line of figures.
    pub fn summary(&self) -> String {
        let again: u32 = self.sent.iter().map(|sent| sent.again).sum();
        format!(
            "{} requests, {} failed, {again} sent again, {} watches; p50 {:?}, p99 {:?}",
            self.sent.len(),
            self.failed().len(),
            self.good("WATCH"),
            self.percentile(50),
            self.percentile(99),
        )
    }
}

/// A running load.
pub struct Load {
    stop: watch::Sender<bool>,
    report: Arc<Mutex<Report>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Starts it. Each agent's namespace holds the ConfigMap `load`.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn start(agents: Vec<Who>, plan: Plan) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let report = Arc::new(Mutex::new(Report::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&report);
        let thread = std::thread::spawn(move || runtime.block_on(run(agents, plan, stopped, shared)));
        Ok(Self { stop, report, thread: Some(thread) })
    }

    /// What became of those that have ended so far.
    pub fn so_far(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every request end, and reports.
    pub fn stop(mut self) -> Report {
        self.stop.send_replace(true);
        let _panicked = self.thread.take().map(std::thread::JoinHandle::join);
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// What every worker has.
#[derive(Clone)]
struct Work {
    who: Who,
    url: String,
    protocol: Protocol,
    keeps: bool,
    began: Instant,
    stopped: watch::Receiver<bool>,
    report: Arc<Mutex<Report>>,
}

async fn run(agents: Vec<Who>, plan: Plan, stopped: watch::Receiver<bool>, report: Arc<Mutex<Report>>) {
    let mut tasks = tokio::task::JoinSet::new();
    let workers = plan.workers * u32::try_from(agents.len()).unwrap_or(1);
    let every = Duration::from_secs(1) * workers / plan.per_second.max(1);
    let mut number = 0;
    for who in agents {
        let work = |index: u32| Work {
            who: who.clone(),
            url: plan.urls[usize::try_from(index).unwrap_or(0) % plan.urls.len()].clone(),
            protocol: if index.is_multiple_of(2) { Protocol::Http2 } else { Protocol::Http1 },
            keeps: !plan.fresh_connections,
            began: Instant::now(),
            stopped: stopped.clone(),
            report: Arc::clone(&report),
        };
        for index in 0..plan.workers {
            number += 1;
            tasks.spawn(work(index).asks(every, every * number / workers));
        }
        for index in 0..plan.watches {
            tasks.spawn(work(index).watches());
        }
    }
    while tasks.join_next().await.is_some() {}
}

impl Work {
    async fn asks(mut self, every: Duration, after: Duration) {
        let mut client = Client::new(&self.url, &self.who, self.protocol, self.keeps);
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + after, every);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let map = format!("/api/v1/namespaces/{}/configmaps", self.who.namespace);
        let one = format!("{map}/load");
        for turn in 0_u64.. {
            tokio::select! {
                _tick = due.tick() => {}
                _changed = self.stopped.wait_for(|stopped| *stopped) => return,
            }
            let patch = json!({"data": {"turn": turn.to_string()}}).to_string();
            let (what, method, target, body) = match turn % 5 {
                0 => ("LIST", "GET", &map, ""),
                2 => ("PATCH", "PATCH", &one, patch.as_str()),
                _ => ("GET", "GET", &one, ""),
            };
            let at = Instant::now();
            let answer = client.whole(method, target, body).await;
            self.note(what, at, client.again(), answer.map(|answer| (answer.code, answer.id)));
        }
    }

    async fn watches(mut self) {
        let mut client = Client::new(&self.url, &self.who, self.protocol, true);
        let map = format!("/api/v1/namespaces/{}/configmaps", self.who.namespace);
        let mut version: Option<String> = None;
        while !*self.stopped.borrow() {
            let from = match version.take() {
                Some(version) => version,
                None => {
                    let at = Instant::now();
                    let listed = client.whole("GET", &map, "").await;
                    let found = listed.as_ref().ok().and_then(|answer| resource_version(&answer.body, true));
                    self.note("LIST", at, client.again(), listed.map(|answer| (answer.code, answer.id)));
                    let Some(found) = found else {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    };
                    found
                }
            };
            version = self.watch_once(&mut client, &map, from).await;
        }
    }

    /// One watch to its end; the version to go on from, none where a new list is needed.
    async fn watch_once(&mut self, client: &mut Client, map: &str, from: String) -> Option<String> {
        let target = format!("{map}?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
        let at = Instant::now();
        let mut stream = match client.open("GET", &target, "").await {
            Ok(stream) => stream,
            Err(lost) => {
                self.note("WATCH", at, client.again(), Err(lost));
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Some(from);
            }
        };
        let (mut version, mut rest, mut error) = (from, Vec::new(), None);
        let end = loop {
            let piece = tokio::select! {
                piece = stream.next() => piece,
                _changed = self.stopped.wait_for(|stopped| *stopped) => break Ok(()),
            };
            match piece {
                Ok(Some(piece)) => rest.extend_from_slice(&piece),
                Ok(None) => break Ok(()),
                Err(lost) => break Err(lost),
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match resource_version(&line, false) {
                    Some(newer) => version = newer,
                    None => error = Some(Lost::Said(String::from_utf8_lossy(&line).into_owned())),
                }
            }
        };
        if end.is_ok() && !rest.is_empty() {
            error = Some(Lost::Said(format!("it ended within an event: {}", String::from_utf8_lossy(&rest))));
        }
        let gone = error.is_some() || stream.code != 200;
        let outcome = match (error, end) {
            (Some(error), _) | (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok((stream.code, stream.id)),
        };
        self.note("WATCH", at, client.again(), outcome);
        (!gone).then_some(version)
    }

    fn note(
        &self,
        what: &'static str,
        at: Instant,
        again: u32,
        outcome: Result<(u16, Option<String>), Lost>,
    ) {
        let (id, outcome) = match outcome {
            Ok((code, id)) => (id, Ok(code)),
            Err(lost) => (None, Err(lost.to_string())),
        };
        let sent = Sent {
            username: self.who.username.clone(),
            what,
            at: at.duration_since(self.began),
            took: at.elapsed(),
            id,
            again,
            outcome,
        };
        self.report.lock().unwrap_or_else(PoisonError::into_inner).sent.push(sent);
    }
}

/// Of a list, or of the object of an event that is no error.
fn resource_version(text: &[u8], is_list: bool) -> Option<String> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let holder = if is_list { &value } else { &value["object"] };
    (is_list || value["type"] != "ERROR")
        .then(|| holder["metadata"]["resourceVersion"].as_str().map(str::to_owned))
        .flatten()
}
