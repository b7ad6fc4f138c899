//! SessionRecords: those of sessions that ended long ago go, and those whose proxy will not come back say so.
//!
//! A proxy writes the end of its sessions itself, also those of an earlier life whose spool it finds. This is for the proxy
//! that is gone with its spool. Should it come back after all, it corrects the record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::session_record::{SessionRecord, SessionRecordStatus};
use crds::{Condition, ConditionStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::status::{Said, settle};
use crate::telemetry::Metrics;
use crate::watch::Watched;

const PAGE: u32 = 200;
const MOST_OFTEN: Duration = Duration::from_secs(1);
const LEAST_OFTEN: Duration = Duration::from_secs(60);
const LEASE_PREFIX: &str = "sallyport-proxy-";

/// Looks after SessionRecords, page by page: they may be many, so none is kept in memory.
pub struct RecordKeeper {
    client: Client,
    time_to_live: Option<Duration>,
    bound: Duration,
    watched: Watched,
    metrics: Arc<Metrics>,
}

impl RecordKeeper {
    /// By the flags of `config`, and the proxies' Leases that `watched` sees.
    pub fn new(client: Client, config: &Config, watched: Watched, metrics: Arc<Metrics>) -> Self {
        let bound = Duration::from_secs(u64::from(config.proxy_lost_seconds));
        Self { client, time_to_live: config.record_ttl(), bound, watched, metrics }
    }

    /// Looks again and again until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let shortest = self.time_to_live.map_or(self.bound, |ttl| ttl.min(self.bound));
        let pace = (shortest / 4).clamp(MOST_OFTEN, LEAST_OFTEN);
        let mut silence = Silence::since(Instant::now());
        loop {
            // The Leases are looked at first: nobody is lost before a whole bound was waited for.
            silence.observe(self.watched.leases.state().iter().map(Arc::as_ref), Instant::now());
            let Some(outcome) = stop.run_until_cancelled(self.sweep(&silence)).await else { return };
            if let Err(error) = outcome {
                tracing::warn!(%error, "session records not kept");
            }
            if stop.run_until_cancelled(tokio::time::sleep(pace)).await.is_none() {
                return;
            }
        }
    }

    async fn sweep(&self, silence: &Silence) -> Result<(), kube::Error> {
        let api: Api<DeserializeGuard<SessionRecord>> = Api::all(self.client.clone());
        let lost = |replica: &str| silence.of(replica, Instant::now()) >= self.bound;
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let found = api.list(&page).await?;
            for record in found.items.into_iter().filter_map(|record| record.0.ok()) {
                match verdict(&record, lost, self.bound, self.time_to_live, Timestamp::now()) {
                    Verdict::Stands => {}
                    Verdict::Goes => self.delete(&record).await?,
                    Verdict::Lost(status) => self.tell(&record, &status).await?,
                }
            }
            match found.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    fn api_of(&self, record: &SessionRecord) -> Api<SessionRecord> {
        Api::namespaced(self.client.clone(), &record.namespace().unwrap_or_default())
    }

    async fn delete(&self, record: &SessionRecord) -> Result<(), kube::Error> {
        let seen = Preconditions { uid: record.uid(), resource_version: record.resource_version() };
        let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
        let deleted = self.api_of(record).delete(&record.name_any(), &params).await.map(drop);
        self.done(record, "delete", deleted)
    }

    async fn tell(&self, record: &SessionRecord, status: &Value) -> Result<(), kube::Error> {
        // The version makes the write fail where a proxy wrote meanwhile.
        let patch = json!({"metadata": {"resourceVersion": record.resource_version()}, "status": status});
        let (name, params) = (record.name_any(), PatchParams::default());
        let told = self.api_of(record).patch_status(&name, &params, &Patch::Merge(&patch)).await.map(drop);
        self.done(record, "lost", told)
    }

    fn done(
        &self,
        record: &SessionRecord,
        deed: &str,
        written: Result<(), kube::Error>,
    ) -> Result<(), kube::Error> {
        match written {
            Ok(()) => {
                self.metrics.records.with_label_values(&[deed]).inc();
                tracing::info!(
                    record = record.name_any(),
                    namespace = record.namespace(),
                    deed,
                    "session record"
                );
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// For how long each proxy was not heard of, by our own clock.
struct Silence {
    since: Instant,
    seen: BTreeMap<String, (Option<MicroTime>, Instant)>,
}

impl Silence {
    fn since(now: Instant) -> Self {
        Self { since: now, seen: BTreeMap::new() }
    }

    fn observe<'a>(&mut self, leases: impl IntoIterator<Item = &'a Lease>, now: Instant) {
        for lease in leases {
            let name = lease.name_any();
            let Some(replica) = name.strip_prefix(LEASE_PREFIX) else { continue };
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
            if self.seen.get(replica).is_none_or(|(before, _)| *before != renewed) {
                self.seen.insert(replica.to_owned(), (renewed, now));
            }
        }
    }

    // One that was never seen is silent since we look.
    fn of(&self, replica: &str, now: Instant) -> Duration {
        now.duration_since(self.seen.get(replica).map_or(self.since, |(_, at)| *at))
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Stands,
    Goes,
    // The parts of the status that change.
    Lost(Value),
}

fn verdict(
    record: &SessionRecord,
    lost: impl Fn(&str) -> bool,
    bound: Duration,
    time_to_live: Option<Duration>,
    now: Timestamp,
) -> Verdict {
    let status = record.status.clone().unwrap_or_default();
    let open: Vec<&str> = status
        .replicas
        .iter()
        .filter(|replica| !replica.closed)
        .map(|replica| replica.name.as_str())
        .collect();
    let is_older =
        |at: &Time, by: Duration| SignedDuration::try_from(by).is_ok_and(|by| now.duration_since(at.0) >= by);
    // An upload that fails is tried again for as long as its proxy lives.
    let is_final = condition(&status, "Recorded")
        .is_some_and(|found| found.status != ConditionStatus::Unknown && found.reason != "UploadFailed");
    let gone = match open.as_slice() {
        // Made by a proxy that did not live to write its first status.
        [] => status.replicas.is_empty() && is_older(&record.spec.start_time, bound),
        open => open.iter().all(|replica| lost(replica)),
    };
    if gone && !is_final {
        return Verdict::Lost(farewell(record, &status, &open, now));
    }
    let is_over =
        status.end_time.as_ref().is_some_and(|end| time_to_live.is_some_and(|ttl| is_older(end, ttl)));
    // While the recording is on its way, the record is how it is found.
    if is_over && is_final { Verdict::Goes } else { Verdict::Stands }
}

fn farewell(record: &SessionRecord, status: &SessionRecordStatus, open: &[&str], now: Timestamp) -> Value {
    let named: Vec<String> = open.iter().map(|replica| format!("`{replica}`")).collect();
    let who = if named.is_empty() { "the proxy".to_owned() } else { named.join(", ") };
    let truncated =
        format!("{who} was lost before the recording was closed; what was not uploaded is missing");
    let mut said = vec![Said::no("Recorded", "Truncated", truncated)];
    let mut change = json!({});
    let is_active = condition(status, "Active").is_none_or(|found| found.status != ConditionStatus::False);
    if is_active {
        said.push(Said::no("Active", "ProxyLost", format!("{who} is not heard of any more")));
        change["endTime"] = json!(Time(now));
    }
    let before: BTreeMap<String, Condition> =
        status.conditions.iter().map(|condition| (condition.r#type.clone(), condition.clone())).collect();
    let new = settle(&before, said, record.metadata.generation.unwrap_or(1), now);
    // A merge patch replaces the whole list.
    let kept = status.conditions.iter().filter(|old| new.iter().all(|new| new.r#type != old.r#type)).cloned();
    let all: Vec<Condition> = kept.chain(new.iter().cloned()).collect();
    change["conditions"] = json!(all);
    change
}

fn condition<'a>(status: &'a SessionRecordStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.r#type == kind)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use kube::api::ObjectMeta;

    use super::*;

    const BOUND: Duration = Duration::from_secs(900);
    const WEEK: Option<Duration> = Some(Duration::from_secs(7 * 86_400));

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn record(status: Value) -> SessionRecord {
        serde_json::from_value(json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "SessionRecord",
            "metadata": {"name": "a-20261120-9k2d", "namespace": "agents", "generation": 1},
            "spec": {"agentRef": {"name": "a", "uid": "u"}, "target": {"type": "InCluster", "server": "https://x"},
                     "subject": {"name": "s", "type": "ServiceAccount", "id": "system:serviceaccount:agents:a"},
                     "username": "sallyport:agent:agents:a", "level": "Metadata", "startTime": "2026-11-20T14:30:02Z"},
            "status": status,
        }))
        .unwrap()
    }

    fn said(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": 1,
               "lastTransitionTime": "2026-11-20T14:48:40Z"})
    }

    fn judge(status: Value, lost: &[&str], now: &str) -> Verdict {
        verdict(&record(status), |replica| lost.contains(&replica), BOUND, WEEK, at(now))
    }

    fn running() -> Value {
        json!({"replicas": [{"name": "p0", "closed": false}, {"name": "p1", "closed": true}],
               "conditions": [said("Active", "True", "Active"), said("Recorded", "Unknown", "Uploading")]})
    }

    #[test]
    fn a_session_whose_only_proxy_is_lost_ends_and_its_recording_is_truncated() {
        let Verdict::Lost(change) = judge(running(), &["p0"], "2026-11-20T15:30:00Z") else {
            panic!("stands")
        };
        assert_eq!(change["endTime"], "2026-11-20T15:30:00Z");
        let word = |at: usize| {
            format!(
                "{}={}/{}",
                change["conditions"][at]["type"],
                change["conditions"][at]["status"],
                change["conditions"][at]["reason"]
            )
        };
        assert_eq!(
            [word(0), word(1)],
            ["\"Recorded\"=\"False\"/\"Truncated\"", "\"Active\"=\"False\"/\"ProxyLost\""]
        );
        assert!(change["conditions"][0]["message"].as_str().unwrap().starts_with("`p0` was lost"));
    }

    #[test]
    fn f07_a_proxy_that_was_lost_while_its_uploads_failed_is_told_of_too() {
        let mut failing = running();
        failing["conditions"][1] = said("Recorded", "False", "UploadFailed");
        assert!(matches!(judge(failing.clone(), &["p0"], "2026-11-20T15:30:00Z"), Verdict::Lost(_)));
        assert_eq!(judge(failing, &[], "2026-11-20T15:30:00Z"), Verdict::Stands);
    }

    #[test]
    fn nobody_is_lost_while_somebody_who_serves_the_session_lives() {
        assert_eq!(judge(running(), &["p1"], "2026-11-20T15:30:00Z"), Verdict::Stands);
        let two = json!({"replicas": [{"name": "p0"}, {"name": "p2"}], "conditions": [said("Active", "True", "Active")]});
        assert_eq!(judge(two, &["p0"], "2026-11-20T15:30:00Z"), Verdict::Stands);
    }

    #[test]
    fn what_another_replica_said_of_the_end_stays() {
        let mut ended = running();
        ended["endTime"] = json!("2026-11-20T14:48:40Z");
        ended["conditions"][0] = said("Active", "False", "IdleTimeout");
        let Verdict::Lost(change) = judge(ended, &["p0"], "2026-11-20T15:30:00Z") else { panic!("stands") };
        assert_eq!(change.get("endTime"), None);
        assert_eq!(change["conditions"][0], said("Active", "False", "IdleTimeout"));
        assert_eq!(change["conditions"][1]["reason"], "Truncated");
    }

    #[test]
    fn a_record_without_any_status_is_given_up_after_the_bound() {
        assert_eq!(judge(json!({}), &[], "2026-11-20T14:45:00Z"), Verdict::Stands);
        assert!(matches!(judge(json!({}), &[], "2026-11-20T14:45:02Z"), Verdict::Lost(_)));
    }

    #[test]
    fn only_a_record_that_is_over_and_settled_goes_after_its_time() {
        let over = |recorded: &Value| {
            json!({"endTime": "2026-11-20T14:48:40Z", "replicas": [{"name": "p0", "closed": true}],
                   "conditions": [said("Active", "False", "IdleTimeout"), recorded]})
        };
        let uploaded = said("Recorded", "True", "Uploaded");
        assert_eq!(judge(over(&uploaded), &[], "2026-11-27T14:48:39Z"), Verdict::Stands);
        assert_eq!(judge(over(&uploaded), &[], "2026-11-27T14:48:40Z"), Verdict::Goes);
        assert_eq!(
            judge(over(&said("Recorded", "False", "Truncated")), &[], "2026-11-28T00:00:00Z"),
            Verdict::Goes
        );
        for on_its_way in
            [said("Recorded", "Unknown", "Uploading"), said("Recorded", "False", "UploadFailed")]
        {
            assert_eq!(judge(over(&on_its_way), &[], "2027-11-28T00:00:00Z"), Verdict::Stands);
        }
        let record = record(over(&uploaded));
        assert_eq!(verdict(&record, |_| true, BOUND, None, at("2036-01-01T00:00:00Z")), Verdict::Stands);
    }

    #[test]
    fn silence_is_counted_by_our_own_clock_from_the_last_renewal_that_was_seen() {
        let start = Instant::now();
        let lease = |renewed: &str| Lease {
            metadata: ObjectMeta { name: Some("sallyport-proxy-p0".into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { renew_time: Some(MicroTime(at(renewed))), ..LeaseSpec::default() }),
        };
        let second = Duration::from_secs(1);
        let mut silence = Silence::since(start);
        silence.observe([&lease("2020-01-01T00:00:00Z")], start);
        assert_eq!(silence.of("p0", start), Duration::ZERO, "however old it says it is");
        silence.observe([&lease("2020-01-01T00:00:05Z")], start + 5 * second);
        silence.observe([&lease("2020-01-01T00:00:05Z")], start + 10 * second);
        assert_eq!(silence.of("p0", start + 11 * second), 6 * second);
        silence.observe([], start + 12 * second);
        assert_eq!(silence.of("p0", start + 12 * second), 7 * second, "a lease that is gone renews nothing");
        assert_eq!(silence.of("never-seen", start + 12 * second), 12 * second);
    }
}
