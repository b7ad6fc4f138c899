//! The admin port: `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// What must hold before the operator calls itself ready.
#[derive(Default)]
pub struct Readiness {
    /// The webhook serves a certificate that the API server accepts: of an authority in `caBundle`.
    pub certificates: AtomicBool,
    /// Every watched kind was listed once.
    pub watches: AtomicBool,
    /// The webhook accepts connections.
    pub webhook: AtomicBool,
    /// The replica ends: others should be asked.
    pub ending: AtomicBool,
}

impl Readiness {
    fn missing(&self) -> Vec<&'static str> {
        [("certificates", &self.certificates), ("watches", &self.watches), ("webhook", &self.webhook)]
            .into_iter()
            .filter(|(_, flag)| !flag.load(Ordering::Acquire))
            .map(|(name, _)| name)
            .collect()
    }
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
}

/// Serves the admin port until `stop`.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(Shared { metrics, readiness });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    if shared.readiness.ending.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "ends\n".to_owned());
    }
    let missing = shared.readiness.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waits for: {}\n", missing.join(", ")))
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.render())
}
