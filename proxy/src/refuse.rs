//! The one door by which a failure reaches a client: code, closed reason, words.
mod code;

use std::error::Error;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::json;

use crate::request_id::RequestId;

pub use code::code;
pub use policy::explain::{Cause, LATER, Reason, Refusal};

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

/// The `Status` object of a refusal; the request id ends the lines and the causes.
pub fn status(refusal: &Refusal, id: &RequestId) -> serde_json::Value {
    let cause = |c: &Cause| json!({"reason": c.reason, "field": c.field, "message": c.message});
    let own = json!({"reason": "sallyport.dev/RequestID", "message": id.as_str()});
    let causes: Vec<_> = refusal.causes.iter().map(cause).chain([own]).collect();
    let mut details = json!({"causes": causes});
    for (key, value) in [("group", &refusal.group), ("kind", &refusal.kind), ("name", &refusal.name)] {
        if !value.is_empty() {
            details[key] = json!(value);
        }
    }
    if let Some(seconds) = refusal.wait_seconds {
        details["retryAfterSeconds"] = json!(seconds);
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code(refusal.reason).as_u16(), "reason": refusal.reason.as_str(),
        "message": refusal.message(id.as_str()), "details": details,
    })
}

/// The answer that a refusal becomes.
pub fn answer(refusal: &Refusal, id: &RequestId) -> Response<Body> {
    let mut response = Response::new(whole(status(refusal, id).to_string()));
    *response.status_mut() = code(refusal.reason);
    let words = Words { message: refusal.message(id.as_str()), sentence: refusal.sentence.clone() };
    response.extensions_mut().insert(words);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    common(headers, id);
    if let Some(seconds) = code::retry_after(refusal.reason) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if refusal.reason == Reason::MethodNotAllowed {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"));
    }
    response
}

/// The words of a refusal, beside its answer: for [`readable`].
#[derive(Clone)]
struct Words {
    message: String,
    sentence: String,
}

fn is_whoami(path: &str) -> bool {
    path.starts_with("/apis/authentication.k8s.io/") && path.ends_with("/selfsubjectreviews")
}

/// Whether client libraries read the answers of this path raw, so that they lose a refusal's Status.
fn is_read_raw(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    matches!(path, "/api" | "/apis" | "/version" | "/openapi/v2" | "/openapi/v3")
        || path.starts_with("/openapi/v3/")
}

/// A refusal in the form that the reader of this path shows; any other answer as it is. client-go prints of such an answer the body
/// where it is plain text, and else `unknown`; where it, or kubectl, has words of its own for the code, a warning tells ours. An agent
/// with a cold cache would learn nothing otherwise: discovery is the first that it asks for.
pub fn readable(mut response: Response<Body>, path: &str) -> Response<Body> {
    let Some(Words { message, sentence }) = response.extensions_mut().remove::<Words>() else {
        return response;
    };
    // `kubectl auth whoami` has words of its own for every 403.
    if is_whoami(path) {
        if response.status() == StatusCode::FORBIDDEN {
            warn(response.headers_mut(), &sentence);
        }
        return response;
    }
    if !is_read_raw(path) {
        return response;
    }
    let shows_the_body = matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if !shows_the_body {
        warn(headers, &sentence);
    }
    *response.body_mut() = whole(message);
    response
}

/// Adds a warning, in visible ASCII.
pub fn warn(headers: &mut HeaderMap, text: &str) {
    let mut quoted = String::from("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.push('?'),
        }
    }
    quoted.push('"');
    if let Ok(value) = HeaderValue::try_from(quoted) {
        headers.append(header::WARNING, value);
    }
}

/// What a write is told that the replica's end cuts off: it may have been sent (F04).
pub fn cut_off() -> Refusal {
    let why = "sallyport/OutcomeUnknown: the gate ended before the outcome was known; the request may or may not have been carried out.";
    Refusal::new(Reason::OutcomeUnknown, why)
        .next("read the object and see, before you run the command again")
}

/// What a stream is told that the replica's end interrupts (F02).
pub fn restarting() -> Refusal {
    let why = "sallyport/ServiceUnavailable: the gate is restarting.";
    Refusal::new(Reason::ServiceUnavailable, why).next("run the same command again")
}

/// The refusal of a request that could not be read.
pub fn unread(read: parsing::Refusal) -> Refusal {
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
        reason: "sallyport.dev/ParsingRule",
        field: read.rule.to_owned(),
        message: read.message,
    });
    match read.next {
        Some(next) => refusal.next(next),
        None => refusal,
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
            let answer = answer(&Refusal::new(reason, "x"), &RequestId::new());
            let may_retry = matches!(reason, Reason::TooManyRequests | Reason::RecordingUnavailable);
            assert_eq!(answer.headers().contains_key(header::RETRY_AFTER), may_retry, "{reason:?}");
        }
    }

    #[test]
    fn f04_an_unknown_outcome_is_502_and_is_never_repeated() {
        let answer = answer(&Refusal::new(Reason::OutcomeUnknown, "x"), &RequestId::new());
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        assert!(!answer.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_refusal_that_is_read_raw_is_text_and_a_lost_one_warns() {
        let path = |path| is_read_raw(path);
        assert!(["/api", "/apis/", "/version", "/openapi/v2", "/openapi/v3/api/v1"].into_iter().all(path));
        assert!(!["/api/v1", "/apis/apps/v1", "/apiserver", "/sallyport/v1"].into_iter().any(path));
        for (reason, warns) in [(Reason::AgentSuspended, false), (Reason::Unauthorized, true)] {
            let id = RequestId::new();
            let refusal = Refusal::new(reason, "no \"entry\"");
            let answer = readable(answer(&refusal, &id), "/api");
            assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
            let warning =
                answer.headers().get(header::WARNING).map(|value| value.to_str().unwrap_or_default());
            assert_eq!(warning, warns.then_some(r#"299 - "no \"entry\"""#));
        }
        let refused = || answer(&Refusal::new(Reason::AgentSuspended, "no"), &RequestId::new());
        let whoami = readable(refused(), "/apis/authentication.k8s.io/v1/selfsubjectreviews");
        assert_eq!(whoami.headers()[header::CONTENT_TYPE], "application/json");
        assert!(whoami.headers().contains_key(header::WARNING));
        assert!(!readable(refused(), "/api/v1/pods").headers().contains_key(header::WARNING));
        let passed = Response::new(whole("{}"));
        assert!(readable(passed, "/api").headers().is_empty(), "what is not the gate's own stays as it is");
    }

    #[test]
    fn a_refusal_without_words_of_its_own_says_what_to_do() {
        for reason in ALL {
            let message = Refusal::new(reason, "x").message("1");
            let says = message.contains("\n  next:    ");
            assert_eq!(says, reason.way_on().is_some(), "{message}");
        }
        assert!(!Refusal::new(Reason::BadGateway, "x").next("stop").message("1").contains("look at"));
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
        assert_eq!(refusal.message(id.as_str()), expected);
        let status = status(&refusal, &id);
        assert_eq!(status["reason"], "NotAllowed");
        assert_eq!(status["code"], 403);
        assert_eq!(status["details"]["causes"][0]["message"], id.as_str());
    }
}
