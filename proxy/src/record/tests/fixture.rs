//! A recorder in a scratch folder, with records in memory and a store that can be switched off.
use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crds::access_policy::RecordingLevel;
use crds::agent_identity::{SubjectType, TargetType};
use crds::session_record::{SessionRecord, SessionRecordStatus};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use recording::event::{Act, Disposition, Event, Intent, Permitted, Refusal};
use recording::store::read_session;
use recording::verify::Report;

use crate::record::{CardError, Cards, Durability, Ended, Facts, Recorder, Session, Settings, Unavailable};
use crate::telemetry::Telemetry;

/// A store that fails every put while it is down, may be slow, and may put one object over another.
#[derive(Debug, Default)]
pub struct OutageStore {
    pub inner: InMemory,
    pub down: AtomicBool,
    pub overwrites: AtomicBool,
    pub puts: AtomicUsize,
    pub slow_ms: AtomicU64,
}

impl std::fmt::Display for OutageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OutageStore")
    }
}

#[async_trait]
impl ObjectStore for OutageStore {
    async fn put_opts(
        &self,
        to: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(self.slow_ms.load(Ordering::SeqCst))).await;
        if self.down.load(Ordering::SeqCst) {
            return Err(object_store::Error::Generic { store: "outage", source: "down".into() });
        }
        let mode =
            if self.overwrites.load(Ordering::SeqCst) { PutMode::Overwrite } else { options.mode.clone() };
        self.inner.put_opts(to, bytes, PutOptions { mode, ..options }).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// SessionRecords in memory, with the API server's rules: names are taken once, a status replaces what was read.
#[derive(Default)]
pub struct MemoryCards {
    records: Mutex<BTreeMap<String, SessionRecord>>,
    pub down: AtomicBool,
    pub writes: AtomicUsize,
}

impl MemoryCards {
    pub fn all(&self) -> Vec<SessionRecord> {
        self.records.lock().unwrap().values().cloned().collect()
    }

    /// The same records, apart from now on.
    pub fn fork(&self) -> MemoryCards {
        MemoryCards { records: Mutex::new(self.records.lock().unwrap().clone()), ..MemoryCards::default() }
    }

    pub fn status(&self, name: &str) -> SessionRecordStatus {
        self.records.lock().unwrap()[name].status.clone().unwrap_or_default()
    }

    fn check(&self) -> Result<(), CardError> {
        if self.down.load(Ordering::SeqCst) { Err(CardError::Api("down".into())) } else { Ok(()) }
    }
}

impl Cards for MemoryCards {
    fn create<'a>(
        &'a self,
        record: &'a SessionRecord,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        Box::pin(async move {
            self.check()?;
            let mut records = self.records.lock().unwrap();
            let name = record.metadata.name.clone().unwrap();
            if records.contains_key(&name) {
                return Ok(None);
            }
            let mut made = record.clone();
            made.metadata.resource_version = Some("1".into());
            records.insert(name, made.clone());
            Ok(Some(made))
        })
    }

    fn get<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        Box::pin(async move {
            self.check()?;
            tokio::task::yield_now().await;
            Ok(self.records.lock().unwrap().get(name).cloned())
        })
    }

    fn replace_status<'a>(&'a self, record: &'a SessionRecord) -> BoxFuture<'a, Result<bool, CardError>> {
        Box::pin(async move {
            self.check()?;
            let mut records = self.records.lock().unwrap();
            let found = records.get_mut(record.metadata.name.as_deref().unwrap()).unwrap();
            if found.metadata.resource_version != record.metadata.resource_version {
                return Ok(false);
            }
            self.writes.fetch_add(1, Ordering::SeqCst);
            let version: u64 = found.metadata.resource_version.as_deref().unwrap().parse().unwrap();
            found.metadata.resource_version = Some((version + 1).to_string());
            found.status = record.status.clone();
            Ok(true)
        })
    }
}

/// Everything around a recorder.
pub struct World {
    pub folder: tempfile::TempDir,
    pub store: Arc<OutageStore>,
    pub cards: Arc<MemoryCards>,
}

impl World {
    pub fn new() -> World {
        World { folder: tempfile::tempdir().unwrap(), store: Arc::default(), cards: Arc::default() }
    }

    pub fn settings(&self, replica: &str) -> Settings {
        Settings {
            segment_age: Duration::from_millis(50),
            store_patience: Duration::from_millis(300),
            first_status: Duration::from_millis(30),
            status_every: Duration::from_millis(200),
            ..Settings::new(replica, self.folder.path().join(replica), "file:///recordings")
        }
    }

    pub fn open(&self, replica: &str) -> Recorder {
        self.open_with(self.settings(replica))
    }

    pub fn open_with(&self, settings: Settings) -> Recorder {
        let telemetry = Telemetry::new().unwrap();
        Recorder::open(settings, self.store.clone(), self.cards.clone(), telemetry).unwrap()
    }

    pub async fn read(&self, session: &str) -> (Report, Vec<Event>) {
        let mut events = vec![];
        let mut visit = |_: &str, _, event| events.push(event);
        let report = read_session(&*self.store, "agents", session, &mut visit).await.unwrap();
        (report, events)
    }
}

pub fn facts() -> Facts {
    Facts {
        namespace: "agents".into(),
        agent: "claude-code".into(),
        agent_uid: "3b0c6a52".into(),
        subject: "in-cluster".into(),
        subject_type: SubjectType::ServiceAccount,
        subject_id: "system:serviceaccount:agents:claude-code".into(),
        client_address: "10.0.12.7".into(),
        user_agent: "kubectl/v1.33.1 \u{202e}evil".into(),
        target_type: TargetType::InCluster,
        target_server: "https://10.100.0.1".into(),
        username: "sallyport:agent:agents:claude-code".into(),
        level: RecordingLevel::Request,
        idle: Duration::from_secs(900),
        longest: Duration::from_secs(28_800),
    }
}

pub fn intent(id: &str, verb: &str) -> Intent {
    Intent {
        request_id: id.into(),
        act: act(verb),
        target: "/api/v1/namespaces/payments/pods/web".into(),
        raw_target: "/api/v1/namespaces/payments/pods/web".into(),
        decision: Permitted::Allowed,
        rules: vec!["payments-agents/read".into()],
        bundle: "sha256:00".into(),
        grant: None,
        would_have: vec![],
        role_session: None,
        body: None,
    }
}

pub fn act(verb: &str) -> Act {
    Act {
        verb: verb.into(),
        version: "v1".into(),
        resource: "pods".into(),
        namespace: Some("payments".into()),
        name: Some("web".into()),
        ..Act::default()
    }
}

pub fn refusal(id: &str, reason: &str) -> Refusal {
    Refusal {
        request_id: id.into(),
        act: Some(act("delete")),
        method: "DELETE".into(),
        raw_target: "/api/v1/namespaces/payments/pods/web".into(),
        reason: reason.into(),
        rules: vec!["payments-agents/never".into()],
        bundle: None,
        grant: None,
        body: None,
    }
}

pub fn executed() -> Ended {
    Ended { code: 200, masked: 2, bytes: 100, disposition: Disposition::Executed, reason: None, log: None }
}

/// A whole request.
pub async fn request(session: &Session, id: &str, verb: &str) -> Result<(), Unavailable> {
    let durability = if verb == "get" { Durability::Spool } else { Durability::Store };
    let pending = session.intent(intent(id, verb), durability, Instant::now()).await?;
    pending.finish(executed());
    Ok(())
}

/// Waits for something that happens in the background.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a crash would leave: the folder as it is now.
pub fn copy_folder(from: &FilePath, to: &FilePath) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
