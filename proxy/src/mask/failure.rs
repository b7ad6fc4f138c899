//! The API server's own errors, rebuilt field by field (B44, B45, B47).

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{NotMasked, media_type, status_object};
use crate::refuse::BodyError;

/// Longest error that is read, and longest message that is passed on, in characters.
const LONGEST_BODY: usize = 64 * 1024;
const LONGEST_TEXT: usize = 8 * 1024;
/// Longest name, field path and reason that is passed on.
const LONGEST_WORD: usize = 512;
const MOST_CAUSES: usize = 64;
const READ: Duration = Duration::from_secs(10);

/// How RBAC refuses the gate itself, also per verb since Kubernetes 1.35 (`cannot impersonate-on:user-info:get`).
const CANNOT_IMPERSONATE: &str = "\" cannot impersonate";

const WITHHELD: &str = "withheld by sallyport: it may quote values that are masked";
const REFUSED: &str = "the API server refused the change. Its words are withheld by sallyport, for they may quote values that are \
                       masked; details.causes names the fields.";
const FAILED: &str =
    "the API server failed. Its words are withheld by sallyport, for they may quote values that are masked.";

/// An error as the client reads it.
pub struct Said {
    /// The Status.
    pub body: Value,
    /// The target's own RBAC said no to the agent.
    pub denied_by_rbac: bool,
}

/// Reads an error. What is no Status becomes one that says only the code; `hidden`: texts may quote a masked value.
///
/// # Errors
/// Where the error is about the gate's own credential, which is not the client's business.
pub async fn read<B>(
    status: StatusCode,
    headers: &HeaderMap,
    body: B,
    hidden: bool,
    username: &str,
) -> Result<Said, NotMasked>
where
    B: HttpBody<Data = Bytes> + Send + Unpin,
    B::Error: Into<BodyError>,
{
    if status == StatusCode::UNAUTHORIZED {
        return Err(NotMasked::Unauthorized);
    }
    let is_json = media_type(headers).is_ok_and(|media| media == "application/json");
    let bytes = timeout(READ, Limited::new(body, LONGEST_BODY).collect()).await;
    let bytes = bytes.ok().and_then(Result::ok).map(|whole| whole.to_bytes());
    let said = bytes.filter(|_| is_json).and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(said) = said.filter(|said| said["kind"] == "Status" && said["apiVersion"] == "v1") else {
        let text = format!("the API server answered {status}; its words are not passed on");
        return Ok(Said { body: status_object(status, "", &text), denied_by_rbac: false });
    };
    let message = said["message"].as_str().unwrap_or_default();
    let by_rbac = status == StatusCode::FORBIDDEN && is_rbacs(message, username);
    // Also an API server that has just started and has not read its RBAC says so (F05): no decision about the agent.
    if status == StatusCode::FORBIDDEN && !by_rbac && message.contains(CANNOT_IMPERSONATE) {
        return Err(NotMasked::Impersonation);
    }
    let hidden = hidden && !by_rbac && may_quote(status, message);
    Ok(Said { body: rebuilt(status, &said, hidden), denied_by_rbac: by_rbac })
}

/// Whether RBAC itself refuses the agent, in its own words from their beginning: those of an admission plugin or of a webhook
/// may hold the same somewhere, in a field that the agent wrote.
fn is_rbacs(message: &str, username: &str) -> bool {
    if message.contains(BY_WEBHOOK) {
        return false;
    }
    let words = message.split_once("forbidden: ").map(|(_, words)| words);
    words.is_some_and(|words| words.starts_with(&format!("User \"{username}\" cannot ")))
}

/// How every refusal by a webhook begins, whatever its code.
const BY_WEBHOOK: &str = " denied the request";

/// The codes under which admission and validation speak; the others name objects and versions, never values, unless a
/// webhook has chosen them.
fn may_quote(status: StatusCode, message: &str) -> bool {
    message.contains(BY_WEBHOOK)
        || !matches!(
            status,
            StatusCode::NOT_FOUND
                | StatusCode::CONFLICT
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::GONE
                | StatusCode::TOO_MANY_REQUESTS
        )
}

fn rebuilt(status: StatusCode, said: &Value, hidden: bool) -> Value {
    let word = |value: &Value| cut(value.as_str().unwrap_or_default(), LONGEST_WORD);
    let text = |value: &Value| match hidden {
        true => WITHHELD.to_owned(),
        false => cut(value.as_str().unwrap_or_default(), LONGEST_TEXT),
    };
    let message = match hidden {
        true if status.is_server_error() => FAILED.to_owned(),
        true => REFUSED.to_owned(),
        false => text(&said["message"]),
    };
    let mut body = status_object(status, &word(&said["reason"]), &message);
    let mut details = Map::new();
    for key in ["group", "kind", "name", "uid"] {
        if said["details"][key].is_string() {
            details.insert(key.to_owned(), word(&said["details"][key]).into());
        }
    }
    if let Some(seconds) = said["details"]["retryAfterSeconds"].as_u64() {
        details.insert("retryAfterSeconds".to_owned(), seconds.into());
    }
    if let Some(causes) = said["details"]["causes"].as_array() {
        let causes = causes.iter().take(MOST_CAUSES).map(|cause| {
            json!({"reason": word(&cause["reason"]), "message": text(&cause["message"]), "field": word(&cause["field"])})
        });
        details.insert("causes".to_owned(), causes.collect());
    }
    if !details.is_empty() {
        body["details"] = details.into();
    }
    body
}

/// The beginning of a text, without control characters but line breaks and tabs.
fn cut(text: &str, longest: usize) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).take(longest).collect()
}
