//! What the operator says of itself: JSON logs on stderr, and counters.

use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tracing_subscriber::EnvFilter;

/// Sends logs to stderr, one JSON object a line. `RUST_LOG` chooses what; the default is `info`.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter);
    if subscriber.try_init().is_err() {
        tracing::debug!("logging was started before");
    }
}

/// The operator's counters. Labels have few, fixed values.
pub struct Metrics {
    registry: Registry,
    /// Reconciliations by `result`: `ok` or `error`.
    pub reconciliations: IntCounterVec,
    /// Writes of status by `kind` of object.
    pub status_writes: IntCounterVec,
    /// Live-config ConfigMaps written or deleted.
    pub shard_writes: IntCounterVec,
    /// Live-config ConfigMaps in force.
    pub shards: IntGauge,
    /// Admission answers by `review` and `decision`.
    pub admissions: IntCounterVec,
    /// 1 while this replica reconciles.
    pub leading: Gauge,
    certificate_ends: GaugeVec,
    bypass_routes: IntGaugeVec,
    /// SessionRecords by `deed`: `delete` (retention) or `lost` (told the end of a proxy that fell silent).
    pub records: IntCounterVec,
}

impl Metrics {
    /// Registers every counter.
    ///
    /// # Errors
    /// Two counters share a name: an error in this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let metrics = Self {
            reconciliations: counter(
                "sallyport_operator_reconciliations_total",
                "Reconciliations.",
                &["result"],
            )?,
            status_writes: counter("sallyport_operator_status_writes_total", "Status writes.", &["kind"])?,
            shard_writes: counter("sallyport_operator_shard_writes_total", "Live-config writes.", &["deed"])?,
            admissions: counter("sallyport_admissions_total", "Admission answers.", &["review", "decision"])?,
            records: counter("sallyport_operator_records_total", "SessionRecords seen to.", &["deed"])?,
            shards: IntGauge::new("sallyport_shards", "Live-config ConfigMaps in force.")?,
            leading: Gauge::new("sallyport_operator_leading", "1 while this replica reconciles.")?,
            certificate_ends: GaugeVec::new(
                Opts::new("sallyport_certificate_end_timestamp_seconds", "When a certificate ends."),
                &["certificate"],
            )?,
            bypass_routes: IntGaugeVec::new(
                Opts::new("sallyport_bypass_routes", "Ways past the gate that an agent has."),
                &["agent"],
            )?,
            registry: registry.clone(),
        };
        registry.register(Box::new(metrics.shards.clone()))?;
        registry.register(Box::new(metrics.leading.clone()))?;
        registry.register(Box::new(metrics.certificate_ends.clone()))?;
        registry.register(Box::new(metrics.bypass_routes.clone()))?;
        Ok(metrics)
    }

    /// Tells when a certificate ends.
    pub fn certificate_end(&self, certificate: &str, end: jiff::Timestamp) {
        self.certificate_ends.with_label_values(&[certificate]).set(end.as_second() as f64);
    }

    /// Tells how many ways past the gate each agent has.
    pub fn bypass(&self, routes: impl Iterator<Item = (String, usize)>) {
        self.bypass_routes.reset();
        for (agent, count) in routes {
            self.bypass_routes.with_label_values(&[&agent]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The text exposition format.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}
