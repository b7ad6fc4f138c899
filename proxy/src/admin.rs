//! What the platform asks of the program: alive, ready, and how it is doing.
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::drain::Drain;
use crate::live::Live;
use crate::telemetry::Telemetry;

#[derive(Clone)]
struct Admin {
    live: Live,
    telemetry: Telemetry,
    drain: Drain,
}

/// Serves `/livez`, `/readyz` and `/metrics` until `ended`; the drain's beginning turns readiness off (F02).
///
/// # Errors
/// If the listener fails.
pub async fn run(
    listener: TcpListener,
    live: Live,
    telemetry: Telemetry,
    drain: Drain,
    ended: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { live, telemetry, drain });
    axum::serve(listener, routes).with_graceful_shutdown(ended.cancelled_owned()).await
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.drain.is_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match admin.live.unready() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.telemetry.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
