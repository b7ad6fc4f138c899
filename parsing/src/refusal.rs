//! Why a request is not read: the rule, the status code, the words.

use http::StatusCode;

/// Every error of this crate says which rule spoke and what to answer.
pub trait Refused: std::error::Error {
    /// Id of the rule: `P1` to `P15`, `A3`, `B84` and so on.
    fn rule(&self) -> &'static str;
    /// 400, 401, 403, 404, 405, 413 or 415. Never 422 or 429.
    fn code(&self) -> StatusCode;
    /// A complete command or advice, where there is a way out.
    fn next(&self) -> Option<&'static str> {
        None
    }
}

/// A refusal with everything that an answer and a record need.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (rule {rule})")]
pub struct Refusal {
    /// Id of the rule.
    pub rule: &'static str,
    /// Status code.
    pub code: StatusCode,
    /// What is wrong, lower case, without full stop.
    pub message: String,
    /// What to do instead.
    pub next: Option<&'static str>,
}

impl Refusal {
    /// The reason of a Kubernetes `Status` with this code.
    pub fn reason(&self) -> &'static str {
        match self.code {
            StatusCode::UNAUTHORIZED => "Unauthorized",
            StatusCode::FORBIDDEN => "Forbidden",
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
            StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "UnsupportedMediaType",
            _ => "BadRequest",
        }
    }
}

impl<E: Refused> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self { rule: error.rule(), code: error.code(), message: error.to_string(), next: error.next() }
    }
}
