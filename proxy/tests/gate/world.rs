//! A whole gate in this process: in front of a scripted API server, behind an in-memory pipe.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crds::session_record::SessionRecord;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use object_store::memory::InMemory;
use policy::bundle::Bundle;
use policy::shard::{GUARDRAILS_NAME, Shard, ShardIdentity, ShardPolicy, agent_shard_name};
use proxy::accept::{Places, Session};
use proxy::authenticate::Authenticator;
use proxy::decide::Decider;
use proxy::denials::Denials;
use proxy::drain::Drain;
use proxy::grants::Grants;
use proxy::hold::Hold;
use proxy::limits::Limits;
use proxy::live::{AgentKey, Identities, Identity, Live};
use proxy::mask::Masks;
use proxy::record::{CardError, Cards, Recorder, Settings};
use proxy::serve::{Asker, Gate, serve};
use proxy::streams::Streams;
use proxy::targets::{Own, Targets};
use proxy::telemetry::Telemetry;
use recording::event::Event;
use recording::segment::Stamp;
use recording::store::read_session;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;

use crate::server::Server;

pub struct World {
    pub server: Server,
    pub gate: Arc<Gate>,
    places: Places,
    store: Arc<InMemory>,
    cards: Arc<MemoryCards>,
    _spool: tempfile::TempDir,
}

/// An answer, whole.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{:?}", self.body))
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

fn policy() -> ShardPolicy {
    let rule = |name: &str, effect: &str, resources: &[&str], verbs: &[&str]| {
        json!({"name": name, "effect": effect, "match": [
            {"namespaces": ["payments"], "apiGroups": ["", "apps"], "resources": resources, "verbs": verbs},
        ]})
    };
    let spec = serde_json::from_value(json!({
        "agents": [{"namespace": "agents"}],
        "rules": [
            rule("work", "Allow", &["configmaps", "secrets", "pods", "pods/log", "deployments"],
                 &["get", "list", "watch", "create", "update", "patch", "delete"]),
            rule("streams", "Allow", &["pods/exec"], &["create"]),
        ],
        "masking": [{"name": "settings", "type": "Fields",
                     "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
                     "fields": {"paths": [".data"]}}],
    }));
    ShardPolicy::publish("work", "uid", 1, &spec.unwrap(), None).0.unwrap()
}

fn bundle(per_second: u32) -> Bundle {
    let spec = serde_json::from_value(json!({
        "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                      "serviceAccount": {"namespace": "agents", "name": "claude-code"}}],
        "target": {"type": "InCluster"},
        "limits": {"requestsPerSecond": per_second, "maxConcurrentStreams": 1},
    }));
    let identity =
        ShardIdentity::new("agents", "claude-code", "uid-1", 1, BTreeMap::new(), spec.unwrap()).unwrap();
    let text = |identity, policies| Shard { format_version: 1, identity, policies }.encode().unwrap();
    let shards = BTreeMap::from([
        (agent_shard_name("agents", "claude-code"), text(Some(identity), vec![policy()])),
        (GUARDRAILS_NAME.to_owned(), text(None, Vec::new())),
    ]);
    Bundle::load(&shards, None).unwrap()
}

impl World {
    pub async fn new() -> World {
        Self::limited(50).await
    }

    /// With an agent that may send so many requests in a second.
    pub async fn limited(per_second: u32) -> World {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = Server::start().await;
        let mut config = kube::Config::new(format!("http://{}", server.address).parse().unwrap());
        config.default_retry = false;
        let spool = tempfile::tempdir().unwrap();
        let token = spool.path().join("token");
        std::fs::write(&token, "the-proxys-own-token").unwrap();
        config.auth_info.token_file = Some(token.display().to_string());
        let client = kube::Client::try_from(config.clone()).unwrap();
        let targets = Arc::new(Targets::new(Own::new(&config).unwrap(), "hub", client.clone()));
        let telemetry = Telemetry::new().unwrap();
        let (live, limits, grants) = (Live::new(), Limits::new(200), Grants::new(client.clone()));
        live.bundle_is(bundle(per_second));
        let (store, cards) = (Arc::new(InMemory::new()), Arc::new(MemoryCards::default()));
        let settings = Settings::new("test", spool.path().join("spool"), "memory://");
        let recorder = Recorder::open(settings, store.clone(), cards.clone(), telemetry.clone()).unwrap();
        let drain = Drain::default();
        let decider = Decider::new(live.clone(), grants.clone(), "sallyport-system");
        let gate = Gate {
            denials: Denials::new(client.clone(), "test"),
            authenticator: Authenticator::new(
                client,
                proxy::authenticate::AwsSettings::default(),
                limits.clone(),
                telemetry.clone(),
            ),
            hold: Hold::new(
                decider.clone(),
                grants.clone(),
                Arc::clone(&targets.hub().upstream),
                live.clone(),
                drain.clone(),
            ),
            streams: Streams::new(telemetry.clone(), drain.clone()),
            drain,
            masks: Masks::default(),
            writes: TaskTracker::new(),
            live,
            limits,
            decider,
            grants,
            targets,
            recorder,
            telemetry,
        };
        let places = Places::new(100, 50, gate.telemetry.clone());
        let world = World { server, gate: Arc::new(gate), places, store, cards, _spool: spool };
        world.suspend(false);
        world
    }

    /// An agent may hold so many connections from now on.
    pub fn hold_connections(&mut self, per_agent: u32) {
        self.places = Places::new(100, per_agent, self.gate.telemetry.clone());
    }

    /// Watches over open streams, as the program does.
    pub fn watch_over_streams(&self) {
        let gate = Arc::clone(&self.gate);
        tokio::spawn(async move {
            let (decider, grants, live) = (gate.decider.clone(), gate.grants.clone(), gate.live.clone());
            let asker = Asker { decider, grants, live };
            gate.streams.watch_over(&gate.live, |open, now| asker.still(open, now)).await;
        });
    }

    /// Turns the kill switch.
    pub fn suspend(&self, suspended: bool) {
        let identity = Identity { uid: "uid-1".to_owned(), generation: 1, suspended, ..Identity::default() };
        self.gate.live.identities_are(Identities::from([(AgentKey::new("agents", "claude-code"), identity)]));
    }

    /// Every request panics on its way from now on, or no longer.
    pub fn panics(&self, panics: bool) {
        self.cards.1.store(panics, Ordering::SeqCst);
    }

    /// A connection of a client that speaks HTTP/1.1.
    pub async fn connect(&self) -> http1::SendRequest<Full<Bytes>> {
        let (client, connection) = http1::handshake(TokioIo::new(self.raw().await)).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A connection of a client that speaks HTTP/2.
    pub async fn connect_h2(&self) -> http2::SendRequest<Full<Bytes>> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let gate = Arc::clone(&self.gate);
        let session = Session::new(SocketAddr::from(([127, 0, 0, 1], 40_000)), self.places.stranger());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let served = serve(Arc::clone(&gate), session.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(served.await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(far), service).await;
        });
        let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// An HTTP/1.1 connection, for bytes.
    pub async fn raw(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let gate = Arc::clone(&self.gate);
        let session = Session::new(SocketAddr::from(([127, 0, 0, 1], 40_000)), self.places.stranger());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let served = serve(Arc::clone(&gate), session.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(served.await) }
            });
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await;
        });
        near
    }

    /// Sends one request as the agent; `headers` may replace what is sent by default.
    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut client = self.connect().await;
        let answer = client.send_request(request(method, target, headers, body)).await.unwrap();
        whole(answer).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, &[], "").await
    }

    /// Every event of every chain, once the recorder is closed.
    pub async fn events(&self) -> Vec<Event> {
        self.gate.recorder.close(std::time::Duration::from_secs(5)).await;
        let names: Vec<String> = self.cards.0.lock().unwrap().keys().cloned().collect();
        let mut events = Vec::new();
        for name in names {
            let mut keep = |_: &str, _: Stamp, event: Event| events.push(event);
            let report = read_session(&*self.store, "agents", &name, &mut keep).await.unwrap();
            assert!(report.chains.iter().all(|chain| chain.problems.is_empty()), "{report:?}");
        }
        events
    }
}

pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", "gate");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
        request = request.header("authorization", crate::BEARER);
    }
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

pub async fn whole(answer: Response<hyper::body::Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { code: head.status.as_u16(), headers: head.headers, body }
}

/// SessionRecords in memory.
#[derive(Default)]
struct MemoryCards(Mutex<BTreeMap<String, SessionRecord>>, AtomicBool);

impl Cards for MemoryCards {
    fn create<'a>(
        &'a self,
        record: &'a SessionRecord,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        assert!(!self.1.load(Ordering::SeqCst), "an injected fault");
        let mut record = record.clone();
        record.metadata.resource_version = Some("1".to_owned());
        let name = record.metadata.name.clone().unwrap_or_default();
        let taken = self.0.lock().unwrap().contains_key(&name);
        if !taken {
            self.0.lock().unwrap().insert(name, record.clone());
        }
        Box::pin(async move { Ok((!taken).then_some(record)) })
    }

    fn get<'a>(
        &'a self,
        _namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        let found = self.0.lock().unwrap().get(name).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn replace_status<'a>(&'a self, record: &'a SessionRecord) -> BoxFuture<'a, Result<bool, CardError>> {
        let name = record.metadata.name.clone().unwrap_or_default();
        self.0.lock().unwrap().insert(name, record.clone());
        Box::pin(async move { Ok(true) })
    }
}
