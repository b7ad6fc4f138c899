//! What the program says about itself: counters for machines, one JSON line per event for people.
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tracing_subscriber::EnvFilter;

use crate::live::Seen;

/// Every metric of the proxy. Cloning shares them.
#[derive(Clone)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    requests: IntCounterVec,
    pending_grants: IntGaugeVec,
    approval_wait: Histogram,
    masked_values: IntCounter,
    recording_failures: IntCounter,
    recordings_set_aside: IntCounter,
    spool_bytes: IntGauge,
    spool_oldest: IntGauge,
    store_proven: IntGauge,
    store_unproven: IntCounterVec,
    config_revision: IntGauge,
    config_broken_shards: IntGauge,
    connections: IntGaugeVec,
    connections_refused: IntCounterVec,
    streams: IntGauge,
    streams_cut: IntCounterVec,
    issuers_away: IntGauge,
    sts_failures: IntCounter,
    access_entry_clusters: IntGaugeVec,
    stage_seconds: prometheus::HistogramVec,
}

/// A stage of the staircase, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A session becomes a subject.
    Authenticate,
    /// Bytes become an act.
    Parse,
    /// An act becomes a decision.
    Decide,
    /// A decision becomes a permit.
    Hold,
    /// A permit becomes an answer.
    Forward,
    /// An answer becomes a masked answer.
    Mask,
    /// What happened is written down.
    Record,
}

impl Stage {
    const fn label(self) -> &'static str {
        match self {
            Stage::Authenticate => "authenticate",
            Stage::Parse => "parse",
            Stage::Decide => "decide",
            Stage::Hold => "hold",
            Stage::Forward => "forward",
            Stage::Mask => "mask",
            Stage::Record => "record",
        }
    }
}

impl Telemetry {
    /// Registers every metric in a registry of its own.
    ///
    /// # Errors
    /// Only if two metrics were given one name: a mistake in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let buckets = vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];
        let wait = HistogramOpts::new("sallyport_approval_wait_seconds", "Seconds from asking to a decision")
            .buckets(vec![0.5, 1.0, 5.0, 15.0, 45.0, 120.0, 300.0, 900.0, 3600.0]);
        let inner = Inner {
            requests: IntCounterVec::new(
                Opts::new("sallyport_requests_total", "Requests by agent, decision and reason"),
                &["agent", "decision", "reason"],
            )?,
            pending_grants: IntGaugeVec::new(
                Opts::new("sallyport_pending_grants", "Grants that wait for a review"),
                &["agent"],
            )?,
            approval_wait: Histogram::with_opts(wait)?,
            masked_values: IntCounter::new(
                "sallyport_masked_values_total",
                "Values replaced by a placeholder",
            )?,
            recording_failures: IntCounter::new(
                "sallyport_recording_failures_total",
                "Frames that were not stored",
            )?,
            recordings_set_aside: IntCounter::new(
                "sallyport_recordings_set_aside_total",
                "Segments that found something else in their place in the store; a person must look",
            )?,
            spool_bytes: IntGauge::new(
                "sallyport_recording_spool_bytes",
                "Bytes on the local disk that wait for the store",
            )?,
            spool_oldest: IntGauge::new(
                "sallyport_recording_spool_oldest_seconds",
                "Seconds that the oldest of them waits",
            )?,
            store_proven: IntGauge::new(
                "sallyport_store_proven",
                "1 once the store has shown that it takes an object once and never again",
            )?,
            store_unproven: IntCounterVec::new(
                Opts::new(
                    "sallyport_store_proof_failures_total",
                    "Attempts to prove the store that failed, by reason",
                ),
                &["reason"],
            )?,
            config_revision: IntGauge::new(
                "sallyport_config_revision",
                "Bundles put in force since the start",
            )?,
            config_broken_shards: IntGauge::new(
                "sallyport_config_broken_shards",
                "Shards that do not decode",
            )?,
            connections: IntGaugeVec::new(
                Opts::new("sallyport_connections", "Open connections, of strangers and of agents"),
                &["state"],
            )?,
            connections_refused: IntCounterVec::new(
                Opts::new("sallyport_connections_refused_total", "Connections closed by the gate, by reason"),
                &["reason"],
            )?,
            streams: IntGauge::new("sallyport_streams", "Open watches and followed logs")?,
            streams_cut: IntCounterVec::new(
                Opts::new("sallyport_streams_cut_total", "Streams ended by the gate, by cause"),
                &["cause"],
            )?,
            issuers_away: IntGauge::new(
                "sallyport_issuers_away",
                "OpenID Connect issuers whose keys could not be fetched when they were last asked for",
            )?,
            sts_failures: IntCounter::new(
                "sallyport_sts_failures_total",
                "Questions about AWS tokens that AWS STS gave no usable answer to",
            )?,
            access_entry_clusters: IntGaugeVec::new(
                Opts::new(
                    "sallyport_access_entry_clusters",
                    "EKS clusters whose access entries are looked at, by what became of the last look",
                ),
                &["result"],
            )?,
            stage_seconds: prometheus::HistogramVec::new(
                HistogramOpts::new("sallyport_stage_seconds", "Seconds spent in each stage").buckets(buckets),
                &["stage"],
            )?,
            registry,
        };
        inner.register()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Counts one finished request. `agent` is `namespace/name` of a known identity, or empty.
    pub fn request(&self, agent: &str, decision: &str, reason: &str) {
        self.inner.requests.with_label_values(&[agent, decision, reason]).inc();
    }

    /// Notes how many grants of an agent wait for a review.
    pub fn pending_grants(&self, agent: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.inner.pending_grants.with_label_values(&[agent]).set(count);
    }

    /// Notes what became of the last look at the access entries of each EKS cluster.
    pub fn access_entry_clusters(&self, seen: impl Iterator<Item = Seen>) {
        let seen: Vec<Seen> = seen.collect();
        for one in Seen::ALL {
            let count = seen.iter().filter(|&&other| other == one).count();
            let gauge = self.inner.access_entry_clusters.with_label_values(&[one.as_str()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Notes how long a held request waited for a decision.
    pub fn approval_wait(&self, waited: Duration) {
        self.inner.approval_wait.observe(waited.as_secs_f64());
    }

    /// Counts placeholders written.
    pub fn masked_values(&self, count: u64) {
        self.inner.masked_values.inc_by(count);
    }

    /// Counts a frame that could not be stored.
    pub fn recording_failure(&self) {
        self.inner.recording_failures.inc();
    }

    /// Counts a segment that has no place in the store.
    pub fn set_aside(&self) {
        self.inner.recordings_set_aside.inc();
    }

    /// Notes how much waits for the store, and for how long.
    pub fn spool(&self, bytes: u64, oldest: Duration) {
        self.inner.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.inner.spool_oldest.set(i64::try_from(oldest.as_secs()).unwrap_or(i64::MAX));
    }

    /// Notes that the store may be trusted.
    pub fn store_proven(&self) {
        self.inner.store_proven.set(1);
    }

    /// Counts an attempt to prove the store that failed; `reason` is a closed word.
    pub fn store_unproven(&self, reason: &'static str) {
        self.inner.store_unproven.with_label_values(&[reason]).inc();
    }

    /// Notes that another bundle came into force, and how many shards kept their last good state.
    pub fn bundle_in_force(&self, broken_shards: usize) {
        self.inner.config_revision.inc();
        self.broken_shards(broken_shards);
    }

    /// Notes how many shards do not decode.
    pub fn broken_shards(&self, count: usize) {
        self.inner.config_broken_shards.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a connection on which no agent has shown itself, until the guard is dropped.
    pub fn stranger(&self) -> GaugeGuard {
        GaugeGuard::new(&self.inner.connections.with_label_values(&["stranger"]))
    }

    /// Counts a connection of an agent until the guard is dropped.
    pub fn known_connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.inner.connections.with_label_values(&["agent"]))
    }

    /// Counts a connection that the gate closed or would not count as an agent's; `reason` is a closed word.
    pub fn connection_refused(&self, reason: &'static str) {
        self.inner.connections_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a stream until the guard is dropped.
    pub fn stream(&self) -> GaugeGuard {
        GaugeGuard::new(&self.inner.streams)
    }

    /// Counts a stream that the gate ended; `cause` is a closed word.
    pub fn stream_cut(&self, cause: &'static str) {
        self.inner.streams_cut.with_label_values(&[cause]).inc();
    }

    /// Notes of how many issuers the keys cannot be had at the moment (F25).
    pub fn issuers_away(&self, count: usize) {
        self.inner.issuers_away.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a question to AWS STS without a usable answer (F25).
    pub fn sts_failure(&self) {
        self.inner.sts_failures.inc();
    }

    /// Notes the time spent in one stage.
    pub fn stage(&self, stage: Stage, spent: Duration) {
        self.inner.stage_seconds.with_label_values(&[stage.label()]).observe(spent.as_secs_f64());
    }

    /// Every metric in Prometheus' text format.
    ///
    /// # Errors
    /// If a metric cannot be encoded.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.inner.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Inner {
    fn register(&self) -> Result<(), prometheus::Error> {
        let all: [Box<dyn prometheus::core::Collector>; 20] = [
            Box::new(self.requests.clone()),
            Box::new(self.pending_grants.clone()),
            Box::new(self.approval_wait.clone()),
            Box::new(self.masked_values.clone()),
            Box::new(self.recording_failures.clone()),
            Box::new(self.recordings_set_aside.clone()),
            Box::new(self.spool_bytes.clone()),
            Box::new(self.spool_oldest.clone()),
            Box::new(self.store_proven.clone()),
            Box::new(self.store_unproven.clone()),
            Box::new(self.config_revision.clone()),
            Box::new(self.config_broken_shards.clone()),
            Box::new(self.connections.clone()),
            Box::new(self.connections_refused.clone()),
            Box::new(self.streams.clone()),
            Box::new(self.streams_cut.clone()),
            Box::new(self.issuers_away.clone()),
            Box::new(self.sts_failures.clone()),
            Box::new(self.access_entry_clusters.clone()),
            Box::new(self.stage_seconds.clone()),
        ];
        all.into_iter().try_for_each(|metric| self.registry.register(metric))
    }
}

/// Counts one thing for as long as it lives.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Sends every event to stderr as JSON; `RUST_LOG` chooses which.
pub fn start_log() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_runtime=warn"));
    let log = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr);
    if log.try_init().is_err() {
        tracing::debug!("a log is already in place");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_names_are_there() {
        let telemetry = Telemetry::new().expect("unique names");
        telemetry.request("agents/a", "Allowed", "Allowed");
        telemetry.pending_grants("agents/a", 2);
        let text = String::from_utf8(telemetry.render().expect("encodes")).expect("text");
        for name in [
            "sallyport_requests_total{agent=\"agents/a\",decision=\"Allowed\",reason=\"Allowed\"} 1",
            "sallyport_pending_grants{agent=\"agents/a\"} 2",
            "sallyport_approval_wait_seconds",
            "sallyport_masked_values_total",
            "sallyport_recording_failures_total",
            "sallyport_recordings_set_aside_total",
            "sallyport_recording_spool_bytes",
            "sallyport_recording_spool_oldest_seconds",
            "sallyport_store_proven",
            "sallyport_config_revision",
        ] {
            assert!(text.contains(name), "`{name}` is missing");
        }
    }

    #[test]
    fn a_gauge_falls_when_its_guard_is_dropped() {
        let telemetry = Telemetry::new().expect("unique names");
        let guard = telemetry.stranger();
        let gauge = telemetry.inner.connections.with_label_values(&["stranger"]);
        assert_eq!(gauge.get(), 1);
        drop(guard);
        assert_eq!(gauge.get(), 0);
    }
}
