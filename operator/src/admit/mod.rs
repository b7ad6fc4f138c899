//! Admission: what people and programs may write into grants, policies and identities.

pub mod definitions;
pub mod grants;
pub mod listen;
pub mod rejections;
pub mod review;
pub mod stamp;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::core::{DynamicObject, Status};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use self::grants::Grants;
use self::rejections::Rejections;
use crate::telemetry::Metrics;

// The API server's own limit for one object is 1.5 MiB; an update carries two.
const LARGEST_REVIEW: usize = 8 * 1024 * 1024;

/// What the webhook works with.
#[derive(Clone)]
pub struct Admission {
    /// Judges grants.
    pub grants: Grants,
    /// Counts answers.
    pub metrics: Arc<Metrics>,
    /// Tells of refused reviews.
    pub rejections: Rejections,
}

/// The webhook's paths, as the chart's webhook configurations name them. Once `ending`, every answer asks the API server to
/// leave the connection, so that none is cut with a question on its way.
pub fn router(admission: Admission, ending: CancellationToken) -> Router {
    Router::new()
        .route("/mutate/accessgrants", post(stamp_grant))
        .route("/validate/accessgrants", post(validate_grant))
        .route("/validate/accesspolicies", post(validate_policy))
        .route("/validate/agentidentities", post(validate_identity))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(LARGEST_REVIEW))
        .layer(middleware::map_response_with_state(ending, say_goodbye))
        .with_state(admission)
}

/// A refusal as kubectl prints it: 403, in our words.
pub fn refuse(mut answer: AdmissionResponse, words: &str) -> AdmissionResponse {
    answer.allowed = false;
    answer.warnings = None;
    answer.result = Status::failure(words, "Forbidden").with_code(StatusCode::FORBIDDEN.as_u16());
    answer
}

async fn say_goodbye(State(ending): State<CancellationToken>, mut response: Response) -> Response {
    if ending.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

type Answered = Result<Json<AdmissionReview<DynamicObject>>, (StatusCode, String)>;

async fn stamp_grant(
    State(admission): State<Admission>,
    Json(sent): Json<AdmissionReview<DynamicObject>>,
) -> Answered {
    let request = request(sent)?;
    let answer = admission.grants.stamp(&request).await;
    admission.settle("stamp", answer)
}

async fn validate_grant(
    State(admission): State<Admission>,
    Json(sent): Json<AdmissionReview<DynamicObject>>,
) -> Answered {
    let request = request(sent)?;
    let answer = admission.grants.validate(&request).await;
    if !answer.allowed {
        let user = request.user_info.username.as_deref().unwrap_or_default();
        tracing::info!(
            user,
            grant = request.name,
            namespace = request.namespace,
            reason = answer.result.message,
            "grant refused"
        );
        admission.rejections.tell(&request, &answer.result.message);
    }
    admission.settle("grant", answer)
}

async fn validate_policy(
    State(admission): State<Admission>,
    Json(sent): Json<AdmissionReview<DynamicObject>>,
) -> Answered {
    let request = request(sent)?;
    admission.settle("policy", definitions::policy(&request))
}

async fn validate_identity(
    State(admission): State<Admission>,
    Json(sent): Json<AdmissionReview<DynamicObject>>,
) -> Answered {
    let request = request(sent)?;
    admission.settle("identity", definitions::identity(&request))
}

impl Admission {
    fn settle(&self, review: &str, answer: AdmissionResponse) -> Answered {
        let decision = if answer.allowed { "allowed" } else { "refused" };
        self.metrics.admissions.with_label_values(&[review, decision]).inc();
        Ok(Json(answer.into_review()))
    }
}

fn request<K: Resource + DeserializeOwned>(
    sent: AdmissionReview<K>,
) -> Result<AdmissionRequest<K>, (StatusCode, String)> {
    sent.try_into()
        .map_err(|_| (StatusCode::BAD_REQUEST, "an AdmissionReview without a request\n".to_owned()))
}
