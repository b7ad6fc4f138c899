//! The one door by which a failure reaches a client: code, closed reason, words.
mod reason;

use std::error::Error;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::json;

use crate::request_id::RequestId;

pub use reason::Reason;

/// What an answer's body may fail with; the text goes to the log only.
pub type BodyError = Box<dyn Error + Send + Sync>;
/// The body of every answer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Header by which an answer names its request.
pub const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// A body that is held whole.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `sallyport.dev/Grant`, `sallyport.dev/Rule` and so on.
    pub reason: String,
    /// What it is about, such as `policy/rule`.
    pub field: String,
    /// What it says.
    pub message: String,
}

/// A refusal, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason and code.
    pub reason: Reason,
    /// The first line: a sentence.
    pub sentence: String,
    /// The indented `key: value` lines, in order; `id` is added last. A value may have several lines.
    pub lines: Vec<(&'static str, String)>,
    /// API group of what was asked for.
    pub group: String,
    /// Plural resource of what was asked for.
    pub kind: String,
    /// Name of what was asked for.
    pub name: String,
    /// `details.retryAfterSeconds`: where waiting helps.
    pub wait_seconds: Option<u32>,
    /// The machine form; the request id is added last.
    pub causes: Vec<Cause>,
}

impl Refusal {
    /// A refusal that says one sentence.
    pub fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self {
            reason,
            sentence: sentence.into(),
            lines: Vec::new(),
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            wait_seconds: None,
            causes: Vec::new(),
        }
    }

    /// What a request or stream is told that the replica's end interrupts (F02). Whether it was carried out, its record says.
    pub fn restarting() -> Self {
        let why = "sallyport/ServiceUnavailable: the gate is restarting.";
        Refusal::new(Reason::ServiceUnavailable, why).next("run the same command again")
    }

    /// Adds a `key: value` line.
    #[must_use]
    pub fn line(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.lines.push((key, value.into()));
        self
    }

    /// Says in `details` what was asked for.
    #[must_use]
    pub fn about(mut self, action: &policy::action::Action) -> Self {
        if let policy::action::Action::Resource(action) = action {
            self.group.clone_from(&action.group);
            self.kind.clone_from(&action.resource);
            self.name = action.name.clone().unwrap_or_default();
        }
        self
    }

    /// Adds what is to be done next: a complete command or `stop`.
    #[must_use]
    pub fn next(self, value: impl Into<String>) -> Self {
        self.line("next", value)
    }

    /// The whole message, as kubectl prints it.
    pub fn message(&self, id: &RequestId) -> String {
        let mut text = self.sentence.clone();
        let lines = self.lines.iter().map(|(key, value)| (*key, value.as_str()));
        for (key, value) in lines.chain([("id", id.as_str())]) {
            for (index, line) in value.lines().enumerate() {
                let label = if index == 0 { format!("{key}:") } else { String::new() };
                text.push_str(&format!("\n  {label:<9}{line}"));
            }
        }
        text
    }

    /// The `Status` object.
    pub fn status(&self, id: &RequestId) -> serde_json::Value {
        let cause = |c: &Cause| json!({"reason": c.reason, "field": c.field, "message": c.message});
        let own = json!({"reason": "sallyport.dev/RequestID", "message": id.as_str()});
        let causes: Vec<_> = self.causes.iter().map(cause).chain([own]).collect();
        let mut details = json!({"causes": causes});
        for (key, value) in [("group", &self.group), ("kind", &self.kind), ("name", &self.name)] {
            if !value.is_empty() {
                details[key] = json!(value);
            }
        }
        if let Some(seconds) = self.wait_seconds {
            details["retryAfterSeconds"] = json!(seconds);
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": self.reason.code().as_u16(), "reason": self.reason.as_str(),
            "message": self.message(id), "details": details,
        })
    }

    /// The answer.
    pub fn answer(&self, id: &RequestId) -> Response<Body> {
        let mut response = Response::new(whole(self.status(id).to_string()));
        *response.status_mut() = self.reason.code();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        common(headers, id);
        if let Some(seconds) = self.reason.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if self.reason == Reason::MethodNotAllowed {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
        }
        response
    }
}

impl From<parsing::Refusal> for Refusal {
    fn from(read: parsing::Refusal) -> Self {
        let reason = match read.code {
            StatusCode::UNAUTHORIZED => Reason::Unauthorized,
            StatusCode::FORBIDDEN => Reason::Forbidden,
            StatusCode::NOT_FOUND => Reason::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Reason::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Reason::RequestEntityTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Reason::UnsupportedMediaType,
            _ => Reason::BadRequest,
        };
        let mut refusal = Refusal::new(reason, format!("sallyport/{}: {read}", reason.as_str()));
        refusal.causes.push(Cause {
            reason: "sallyport.dev/ParsingRule".to_owned(),
            field: read.rule.to_owned(),
            message: read.message,
        });
        match read.next {
            Some(next) => refusal.next(next),
            None => refusal,
        }
    }
}

impl From<policy::explain::Refusal> for Refusal {
    fn from(said: policy::explain::Refusal) -> Self {
        let cause = |c: policy::explain::Cause| Cause {
            reason: c.reason.to_owned(),
            field: c.field,
            message: c.message,
        };
        Refusal {
            reason: said.reason.into(),
            sentence: said.sentence,
            lines: said.lines,
            group: said.group,
            kind: said.kind,
            name: said.name,
            wait_seconds: said.wait_seconds,
            causes: said.causes.into_iter().map(cause).collect(),
        }
    }
}

/// Headers of every answer, refused or not.
pub fn common(headers: &mut HeaderMap, id: &RequestId) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(AUDIT_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reason; 25] = [
        Reason::PolicyDenied,
        Reason::NotAllowed,
        Reason::PolicyBroken,
        Reason::ApprovalPending,
        Reason::ApprovalDenied,
        Reason::ApprovalExpired,
        Reason::WindowRequired,
        Reason::MaskedValueInWrite,
        Reason::AgentSuspended,
        Reason::TooManyPendingApprovals,
        Reason::StreamDenied,
        Reason::NotSupportedYet,
        Reason::Unauthorized,
        Reason::BadRequest,
        Reason::NotFound,
        Reason::MethodNotAllowed,
        Reason::RequestEntityTooLarge,
        Reason::UnsupportedMediaType,
        Reason::Forbidden,
        Reason::TooManyRequests,
        Reason::RecordingUnavailable,
        Reason::ServiceUnavailable,
        Reason::BadGateway,
        Reason::OutcomeUnknown,
        Reason::InternalError,
    ];

    #[test]
    fn d05_no_decision_carries_retry_after() {
        for reason in ALL {
            let answer = Refusal::new(reason, "x").answer(&RequestId::new());
            let may_retry = matches!(reason, Reason::TooManyRequests | Reason::RecordingUnavailable);
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), may_retry, "{reason:?}");
        }
    }

    #[test]
    fn f04_an_unknown_outcome_is_502_and_is_never_repeated() {
        let answer = Refusal::new(Reason::OutcomeUnknown, "x").answer(&RequestId::new());
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert!(!answer.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn the_message_has_the_fixed_shape() {
        let refusal = Refusal::new(Reason::NotAllowed, "nodes is forbidden: sallyport/NotAllowed: no.")
            .line("final", "yes, until an administrator adds a rule.")
            .next("first\nsecond");
        let id = RequestId::new();
        let expected = format!(
            "nodes is forbidden: sallyport/NotAllowed: no.\n  final:   yes, until an administrator adds a rule.\n  \
             next:    first\n           second\n  id:      {id}"
        );
        assert_eq!(refusal.message(&id), expected);
        let status = refusal.status(&id);
        assert_eq!(status["reason"], "NotAllowed");
        assert_eq!(status["code"], 403);
        assert_eq!(status["details"]["causes"][0]["message"], id.as_str());
    }
}
