//! The SessionRecord of a session: found or made under a name that every replica computes, its status shared by
//! compare-and-swap.
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use crds::access_policy::RecordingLevel;
use crds::agent_identity::{SubjectType, TargetType};
use crds::names;
use crds::session_record::{
    SessionAgentRef, SessionClient, SessionRecord, SessionRecordSpec, SessionRecordStatus, SessionSubject,
    SessionTarget,
};
use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client};
use recording::event::EndReason;

use super::status::{end, is_ended, set_conditions};
use super::tally::{shown, time};

/// Most replicas, past and present, that one record can name.
const MOST_REPLICAS: usize = 64;
const MOST_TRIES: usize = 16;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What is known of a session before its record exists.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Namespace of the AgentIdentity and of the record.
    pub namespace: String,
    /// Name of the AgentIdentity.
    pub agent: String,
    /// Its uid.
    pub agent_uid: String,
    /// Name of the subject inside it.
    pub subject: String,
    /// Its type.
    pub subject_type: SubjectType,
    /// Who the credential says it is.
    pub subject_id: String,
    /// Address of the client.
    pub client_address: String,
    /// What the client calls itself.
    pub user_agent: String,
    /// The target's type.
    pub target_type: TargetType,
    /// The target's address.
    pub target_server: String,
    /// The user name that the target sees.
    pub username: String,
    /// Recording level.
    pub level: RecordingLevel,
    /// Silence that ends the session.
    pub idle: std::time::Duration,
    /// The longest a session may be.
    pub longest: std::time::Duration,
}

/// The records could not be reached, or the answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The API server failed.
    #[error("the session record cannot be reached: {0}")]
    Api(String),
    /// Others kept changing it.
    #[error("the session record changes too fast")]
    Contended,
    /// No name is free.
    #[error("no name is free for a session record")]
    NoName,
}

/// Where SessionRecords are kept.
pub trait Cards: Send + Sync + 'static {
    /// Creates a record; `None` if the name is taken.
    fn create<'a>(
        &'a self,
        record: &'a SessionRecord,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>>;
    /// Reads a record; `None` if there is none.
    fn get<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>>;
    /// Replaces the status if the record is still the one that was read; `false` if it is not.
    fn replace_status<'a>(&'a self, record: &'a SessionRecord) -> BoxFuture<'a, Result<bool, CardError>>;
}

/// SessionRecords in the API server, by the proxy's own ServiceAccount.
pub struct ApiCards(Client);

impl ApiCards {
    /// With this client.
    pub fn new(client: Client) -> Arc<ApiCards> {
        Arc::new(ApiCards(client))
    }

    fn api(&self, namespace: &str) -> Api<SessionRecord> {
        Api::namespaced(self.0.clone(), namespace)
    }
}

impl Cards for ApiCards {
    fn create<'a>(
        &'a self,
        record: &'a SessionRecord,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        let api = self.api(record.metadata.namespace.as_deref().unwrap_or_default());
        Box::pin(async move {
            match api.create(&PostParams::default(), record).await {
                Ok(made) => Ok(Some(made)),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                Err(error) => Err(CardError::Api(error.to_string())),
            }
        })
    }

    fn get<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionRecord>, CardError>> {
        Box::pin(async move {
            let found = self.api(namespace).get_opt(name).await;
            found.map_err(|error| CardError::Api(error.to_string()))
        })
    }

    fn replace_status<'a>(&'a self, record: &'a SessionRecord) -> BoxFuture<'a, Result<bool, CardError>> {
        let api = self.api(record.metadata.namespace.as_deref().unwrap_or_default());
        let name = record.metadata.name.clone().unwrap_or_default();
        Box::pin(async move {
            match api.replace_status(&name, &PostParams::default(), record).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
                Err(error) => Err(CardError::Api(error.to_string())),
            }
        })
    }
}

/// Makes a record, or joins the one of another replica that has not ended and records into the same `store`. `taken`
/// are names that this replica has left already.
///
/// # Errors
/// The API server cannot be reached.
pub async fn find_or_make(
    cards: &dyn Cards,
    facts: &Facts,
    store: &str,
    taken: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Result<SessionRecord, CardError> {
    if let Some(found) = of_yesterday(cards, facts, store, &taken, now).await? {
        return Ok(found);
    }
    let day = day_of(now);
    for n in 0..10_000u32 {
        let name = session_name(facts, &day, n);
        if taken(&name) {
            continue;
        }
        if let Some(made) = cards.create(&new_record(facts, &name, now)).await? {
            return Ok(made);
        }
        let Some(found) = cards.get(&facts.namespace, &name).await? else { continue };
        if let Some(open) = joined(cards, facts, store, found, now).await? {
            return Ok(open);
        }
    }
    Err(CardError::NoName)
}

/// A session that another replica began before midnight (UTC) and that still runs: the day in a name is that of its beginning.
async fn of_yesterday(
    cards: &dyn Cards,
    facts: &Facts,
    store: &str,
    taken: impl Fn(&str) -> bool,
    now: Timestamp,
) -> Result<Option<SessionRecord>, CardError> {
    let before =
        Timestamp::from_second(now.as_second() - i64::try_from(facts.longest.as_secs()).unwrap_or(0));
    let (today, day) = (day_of(now), day_of(before.unwrap_or(now).max(now - DAY)));
    if day == today {
        return Ok(None);
    }
    for n in 0..10_000u32 {
        let name = session_name(facts, &day, n);
        let Some(found) = cards.get(&facts.namespace, &name).await? else { return Ok(None) };
        if !taken(&name)
            && let Some(open) = joined(cards, facts, store, found, now).await?
        {
            return Ok(Some(open));
        }
    }
    Ok(None)
}

/// The record if it can be joined; one whose end nobody told is told now.
async fn joined(
    cards: &dyn Cards,
    facts: &Facts,
    store: &str,
    found: SessionRecord,
    now: Timestamp,
) -> Result<Option<SessionRecord>, CardError> {
    match standing(&found, facts, store, now) {
        Standing::Open => return Ok(Some(found)),
        Standing::Silent => {
            let lost = |_: &SessionRecordSpec, status: &mut SessionRecordStatus| {
                end(status, EndReason::ProxyLost, now);
                set_conditions(status, now);
            };
            let name = found.metadata.name.unwrap_or_default();
            update(cards, &facts.namespace, &name, lost).await?;
        }
        Standing::Other => {}
    }
    Ok(None)
}

/// Folder of a session's recording in a store.
pub fn uri(store: &str, namespace: &str, session: &str) -> String {
    format!("{}/{namespace}/{session}/", store.trim_end_matches('/'))
}

fn day_of(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y%m%d").to_string()
}

/// Changes a record's status until nobody else did in between. `None` if the record is gone.
///
/// # Errors
/// The API server cannot be reached, or others change the record all the time.
pub async fn update(
    cards: &dyn Cards,
    namespace: &str,
    name: &str,
    mut change: impl FnMut(&SessionRecordSpec, &mut SessionRecordStatus),
) -> Result<Option<SessionRecord>, CardError> {
    for _ in 0..MOST_TRIES {
        let Some(mut record) = cards.get(namespace, name).await? else { return Ok(None) };
        let mut status = record.status.take().unwrap_or_default();
        let before = status.clone();
        change(&record.spec, &mut status);
        let same = status == before;
        status.observed_generation = record.metadata.generation;
        record.status = Some(status);
        if same || cards.replace_status(&record).await? {
            return Ok(Some(record));
        }
    }
    Err(CardError::Contended)
}

/// `<agent>-<yyyymmdd>-<4 characters>`: the same for every replica that serves this subject as this agent.
fn session_name(facts: &Facts, day: &str, n: u32) -> String {
    const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let text = format!("{}\0{}\0{day}\0{n}", facts.agent_uid, facts.subject);
    let hash = digest(&SHA256, text.as_bytes());
    let bits = hash.as_ref().iter().take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) >> 4;
    let word: String = (0..4).rev().map(|i| char::from(BASE32[(bits >> (5 * i) & 31) as usize])).collect();
    format!("{}-{day}-{word}", facts.agent)
}

/// What a record that has the name is to a replica that wants to join.
enum Standing {
    /// It can be joined.
    Open,
    /// It should have ended long ago; nobody was left to say so.
    Silent,
    /// It has ended, is full, or is somebody else's.
    Other,
}

fn standing(record: &SessionRecord, facts: &Facts, store: &str, now: Timestamp) -> Standing {
    let spec = &record.spec;
    let status = record.status.clone().unwrap_or_default();
    // A record names one store: after a change of stores a new session begins.
    let uri = uri(store, &facts.namespace, record.metadata.name.as_deref().unwrap_or_default());
    if status
        .recording
        .as_ref()
        .and_then(|recording| recording.uri.as_ref())
        .is_some_and(|other| *other != uri)
    {
        return Standing::Other;
    }
    if spec.agent_ref.uid != facts.agent_uid || spec.subject.name != facts.subject || is_ended(&status) {
        return Standing::Other;
    }
    let since = |time: &Time| now.duration_since(time.0).unsigned_abs();
    // Others write the time of their last request only once a minute.
    let silent = since(status.last_activity_time.as_ref().unwrap_or(&spec.start_time));
    if silent > facts.idle + super::STATUS_LAG || since(&spec.start_time) > facts.longest + super::STATUS_LAG
    {
        return Standing::Silent;
    }
    let fits = since(&spec.start_time) < facts.longest && status.replicas.len() < MOST_REPLICAS;
    if fits { Standing::Open } else { Standing::Other }
}

/// The word that the schema has for a value.
pub fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn new_record(facts: &Facts, name: &str, now: Timestamp) -> SessionRecord {
    let labels = [
        (names::LABEL_AGENT, facts.agent.clone()),
        (names::LABEL_SUBJECT, facts.subject.clone()),
        (names::LABEL_TARGET_TYPE, word(&facts.target_type)),
        (names::LABEL_MANAGED_BY, names::MANAGED_BY.to_owned()),
    ];
    let spec = SessionRecordSpec {
        agent_ref: SessionAgentRef { name: facts.agent.clone(), uid: facts.agent_uid.clone() },
        subject: SessionSubject {
            name: facts.subject.clone(),
            r#type: facts.subject_type,
            id: shown(&facts.subject_id, 1024),
        },
        client: Some(SessionClient {
            address: (!facts.client_address.is_empty()).then(|| shown(&facts.client_address, 64)),
            user_agent: (!facts.user_agent.is_empty()).then(|| shown(&facts.user_agent, 256)),
        }),
        target: SessionTarget { r#type: facts.target_type, server: shown(&facts.target_server, 2048) },
        username: facts.username.clone(),
        level: facts.level,
        start_time: time(now.as_microsecond()),
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(facts.namespace.clone()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ..ObjectMeta::default()
    };
    SessionRecord { metadata, spec, status: None }
}
