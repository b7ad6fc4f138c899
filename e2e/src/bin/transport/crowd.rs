//! Agents with many idle connections and many watches, none of which may be refused.
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use e2e::Gate;
use e2e::load::{Client, Lost, Protocol, Who};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const NAMESPACE: &str = "bench";
/// The schema permits 1000 streams for an agent; 250 leave room for a fair count of agents.
const STREAMS_EACH: usize = 250;
/// A connection carries a hundred streams.
const STREAMS_PER_CONNECTION: usize = 90;
/// The gate keeps an idle connection for five minutes.
const KEPT: Duration = Duration::from_secs(290);
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// The agents and what they hold.
pub struct Crowd {
    url: String,
    agents: Vec<Who>,
    watches: usize,
    idle: Vec<(Instant, Client)>,
    open: Vec<JoinHandle<()>>,
    heard: mpsc::UnboundedReceiver<Result<(), String>>,
    tell: mpsc::UnboundedSender<Result<(), String>>,
    turn: u32,
}

impl Crowd {
    /// As many agents as `watches` need, who may read one namespace.
    pub async fn new(gate: &Gate, watches: usize) -> anyhow::Result<Self> {
        let plane = gate.plane();
        plane.named_namespace(NAMESPACE).await?;
        let rule = json!({"name": "read", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "create"]},
        ]});
        let policy = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": NAMESPACE},
            "spec": {"agents": [{"namespace": NAMESPACE}], "rules": [rule]},
        });
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load", "namespace": NAMESPACE},
            "data": {"turn": "0"},
        });
        let items = json!([policy, map]);
        plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
        let mut agents = Vec::new();
        for number in 0..watches.div_ceil(STREAMS_EACH).max(2) {
            agents.push(agent(gate, &format!("agent-{number}")).await?);
        }
        plane
            .kubectl(&["wait", "--for=condition=Programmed", "accesspolicy/bench", "--timeout=60s"])?
            .success()?;
        let (tell, heard) = mpsc::unbounded_channel();
        let url = gate.urls()[0].clone();
        Ok(Self { url, agents, watches, idle: Vec::new(), open: Vec::new(), heard, tell, turn: 0 })
    }

    /// Who they are.
    pub fn agents(&self) -> &[Who] {
        &self.agents
    }

    fn client(&self, number: usize, protocol: Protocol) -> Client {
        Client::new(&self.url, &self.agents[number % self.agents.len()], protocol, true)
    }

    /// Opens connections that ask once and then keep still.
    pub async fn idle(&mut self, count: usize) -> anyhow::Result<()> {
        for number in 0..count {
            let protocol = if number % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
            let mut client = self.client(number / 2, protocol);
            ask(&mut client).await?;
            self.idle.push((Instant::now(), client));
        }
        Ok(())
    }

    /// Asks once more on all of them; how many were idle for longer than the gate keeps them, of how many. The others are the
    /// connections from before.
    pub async fn idle_still_there(&mut self) -> anyhow::Result<(usize, usize)> {
        let mut late = 0;
        for (asked, client) in &mut self.idle {
            late += usize::from(asked.elapsed() > KEPT);
            ensure!(asked.elapsed() > KEPT || client.is_connected().await, "an idle connection was ended");
            ask(client).await?;
            *asked = Instant::now();
        }
        Ok((late, self.idle.len()))
    }

    /// Opens the watches.
    pub async fn watch(&mut self) -> anyhow::Result<()> {
        let version = version(&mut self.client(0, Protocol::Http1)).await?;
        let target = format!("{}?watch=true&resourceVersion={version}", maps());
        let mut shared: Vec<(usize, Client)> = Vec::new();
        for number in 0..self.watches {
            let agent = number / STREAMS_EACH;
            if number % 2 == 0 {
                let mut client = self.client(agent, Protocol::Http1);
                let stream = opened(client.open("GET", &target, "").await, client.again())?;
                self.follow(stream, Some(client));
                continue;
            }
            let has_room = |(used, client): &(usize, Client)| {
                *used < STREAMS_PER_CONNECTION && client.is_of(&self.agents[agent])
            };
            let index = shared.iter().position(has_room).unwrap_or_else(|| {
                shared.push((0, self.client(agent, Protocol::Http2)));
                shared.len() - 1
            });
            let (used, client) = &mut shared[index];
            *used += 1;
            let stream = opened(client.open("GET", &target, "").await, client.again())?;
            self.follow(stream, None);
        }
        self.idle.extend(shared.into_iter().map(|(_, client)| (Instant::now(), client)));
        Ok(())
    }

    fn follow(&mut self, mut stream: e2e::load::Stream, client: Option<Client>) {
        let tell = self.tell.clone();
        self.open.push(tokio::spawn(async move {
            let _held = client;
            let mut rest = Vec::new();
            loop {
                match stream.next().await {
                    Ok(Some(piece)) => rest.extend_from_slice(&piece),
                    Ok(None) => return drop(tell.send(Err("a watch ended".to_owned()))),
                    Err(lost) => return drop(tell.send(Err(format!("a watch: {lost}")))),
                }
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line);
                    let said = if line.contains(r#""MODIFIED""#) { Ok(()) } else { Err(line.into_owned()) };
                    let _nobody = tell.send(said);
                }
            }
        }));
    }

    /// Changes the object; how long it took until every watch had told so.
    pub async fn event(&mut self, gate: &Gate) -> anyhow::Result<Duration> {
        self.turn += 1;
        let patch = json!({"data": {"turn": self.turn.to_string()}}).to_string();
        let started = Instant::now();
        let patched = ["patch", "configmap", "load", "-n", NAMESPACE, "--type=merge", "-p", &patch];
        gate.plane().kubectl(&patched)?.success()?;
        for count in 0..self.watches {
            match tokio::time::timeout(ARRIVES_WITHIN, self.heard.recv()).await {
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(other))) => bail!("a watch said {other}"),
                Ok(None) | Err(_) => bail!("the event reached {count} watches only"),
            }
        }
        Ok(started.elapsed())
    }
}

fn maps() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

async fn ask(client: &mut Client) -> anyhow::Result<()> {
    let answer = client.whole("GET", &format!("{}/load", maps()), "").await;
    answer.map_err(|lost| anyhow::anyhow!("an idle connection's request: {lost}"))?;
    ensure!(client.again() == 0, "a request that should pass was refused first");
    Ok(())
}

fn opened(stream: Result<e2e::load::Stream, Lost>, again: u32) -> anyhow::Result<e2e::load::Stream> {
    let stream = stream.map_err(|lost| anyhow::anyhow!("a watch: {lost}"))?;
    ensure!(
        stream.code == 200 && again == 0,
        "a watch was refused with {} ({again} times before)",
        stream.code
    );
    Ok(stream)
}

async fn version(client: &mut Client) -> anyhow::Result<String> {
    let list = client.whole("GET", &maps(), "").await.map_err(|lost| anyhow::anyhow!("a list: {lost}"))?;
    let list: serde_json::Value = serde_json::from_slice(&list.body)?;
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
}

/// An agent who may hold many streams and ask often.
async fn agent(gate: &Gate, name: &str) -> anyhow::Result<Who> {
    let plane = gate.plane();
    let agent = gate.agent(NAMESPACE, name, &[]).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()}],
    });
    plane.apply(&binding.to_string())?;
    let object = format!("agentidentity/{name}");
    let limits =
        json!({"spec": {"limits": {"requestsPerSecond": 10_000, "maxConcurrentStreams": STREAMS_EACH + 10}}});
    let limits = limits.to_string();
    plane.kubectl(&["patch", &object, "-n", NAMESPACE, "--type=merge", "-p", &limits])?.success()?;
    let programmed = r#"--for=jsonpath={.status.conditions[?(@.type=="Programmed")].observedGeneration}=2"#;
    for until in [programmed, "--for=condition=Programmed"] {
        plane.kubectl(&["wait", until, &object, "-n", NAMESPACE, "--timeout=60s"])?.success()?;
    }
    Ok(Who::from(&agent))
}
