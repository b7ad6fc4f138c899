//! What a reason means on the wire.

use http::StatusCode;
use policy::explain::Reason;

/// The status code that goes with a reason. A decision is always 403.
pub const fn code(reason: Reason) -> StatusCode {
    match reason {
        Reason::PolicyDenied
        | Reason::NotAllowed
        | Reason::PolicyBroken
        | Reason::ApprovalPending
        | Reason::ApprovalDenied
        | Reason::ApprovalExpired
        | Reason::WindowRequired
        | Reason::MaskedValueInWrite
        | Reason::AgentSuspended
        | Reason::TooManyPendingApprovals
        | Reason::StreamDenied
        | Reason::NotSupportedYet
        | Reason::Forbidden => StatusCode::FORBIDDEN,
        Reason::Unauthorized => StatusCode::UNAUTHORIZED,
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Reason::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Reason::RecordingUnavailable | Reason::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::BadGateway | Reason::OutcomeUnknown => StatusCode::BAD_GATEWAY,
        Reason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Seconds after which clients may repeat by themselves: only where nothing was decided and nothing was sent.
pub(super) fn retry_after(reason: Reason) -> Option<&'static str> {
    if reason == Reason::TooManyRequests {
        return Some("1");
    }
    (reason == Reason::RecordingUnavailable).then_some("5")
}
