//! Renewing: the leader looks after the certificates, often enough for the lifetimes they have.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;

use super::keep::Keeper;
use super::trust::Trust;
use crate::config::Config;
use crate::telemetry::Metrics;

const MOST: Duration = Duration::from_secs(10);
const LEAST: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);

/// Keeps certificates and trust until it is dropped.
pub async fn renew(client: Client, config: Arc<Config>, trust: Trust, metrics: Arc<Metrics>) {
    let pace = pace(&config);
    let keeper = Keeper::new(&client, config);
    loop {
        let pause = match keeper.keep(&trust, Timestamp::now()).await {
            Ok(ends) => {
                ends.into_iter().for_each(|(certificate, end)| metrics.certificate_end(certificate, end));
                pace
            }
            Err(error) => {
                tracing::warn!(%error, "certificates not kept");
                RETRY.min(pace)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

// A third of the lifetime is left when a certificate is due; a late look takes little of that.
fn pace(config: &Config) -> Duration {
    let part = Duration::try_from(config.certificate_lifetime()).unwrap_or(MOST) / 20;
    part.clamp(LEAST, MOST)
}
