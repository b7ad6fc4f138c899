//! The stage against a fake upstream: what leaves, what does not, and how it ends.

use std::convert::Infallible;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt, stream};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use masking::{Cells, Encoding, Expectation, FieldPath, FieldRule, Form, GroupKind, Plans, Segment, Which};
use serde_json::{Value, json};

use super::*;

const SECRET: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnk=";
const AGENT: &str = "sallyport:agent:agents:one";

fn prepared(form: Form, is_write: bool) -> Prepared {
    let path = vec![Segment::Field("data".to_owned()), Segment::AnyKey];
    let rule = FieldRule {
        name: "secret-data".into(),
        group: Which::Any,
        kind: Which::Any,
        path: FieldPath::new(path).unwrap(),
        encoding: Encoding::Text,
    };
    let kind = GroupKind::new("", "Secret");
    Prepared {
        accept: "application/json".to_owned(),
        reading: Reading::Objects {
            plans: Arc::new(Plans::compile(vec![rule]).unwrap()),
            expectation: Expectation { kind, also: Vec::new(), form, cells: Cells::Keep },
        },
        is_watch: form == Form::Watch,
        is_write,
    }
}

fn fields(list: &[(HeaderName, &'static str)]) -> HeaderMap {
    list.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
}

fn json_fields() -> HeaderMap {
    fields(&[(CONTENT_TYPE, "application/json")])
}

async fn masked(
    prepared: &Prepared,
    status: u16,
    headers: &HeaderMap,
    body: impl Into<Bytes>,
) -> Result<Masked<Response<Body>>, NotMasked> {
    let status = StatusCode::from_u16(status).unwrap();
    prepared.mask_parts(status, headers, Full::new(body.into()), AGENT, &RequestId::new()).await
}

async fn text(masked: Masked<Response<Body>>) -> (Response<()>, String, Arc<Tally>) {
    let (response, tally) = masked.into_parts();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(bytes.to_vec()).unwrap(), tally)
}

fn warnings<T>(response: &Response<T>) -> Vec<&str> {
    response.headers().get_all(WARNING).iter().map(|v| v.to_str().unwrap()).collect()
}

fn secret() -> String {
    format!(r#"{{"kind":"Secret","apiVersion":"v1","data":{{"p":"{SECRET}","q":"{SECRET}"}}}}"#)
}

#[tokio::test]
async fn a_short_answer_is_held_counted_and_masked() {
    let answer = masked(&prepared(Form::Object, false), 200, &json_fields(), secret()).await.unwrap();
    let (response, body, tally) = text(answer).await;
    assert!(!body.contains(SECRET) && body.contains("\"p\""), "{body}");
    let said = r#"299 - "sallyport: 2 values masked (secret-data). They are placeholders, not data.""#;
    assert_eq!(warnings(&response), [said]);
    assert_eq!((tally.masked_values(), tally.ended()), (2, End::Whole));
    assert!(!response.headers().contains_key("content-length"));
    assert!(response.headers().contains_key("audit-id"));
}

#[tokio::test]
async fn b12_b13_what_is_not_plain_json_is_never_passed_on() {
    let refused = [
        (200, fields(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")])),
        (200, fields(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "br")])),
        (404, fields(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")])),
        (200, fields(&[(CONTENT_TYPE, "application/yaml")])),
        (200, fields(&[(CONTENT_TYPE, "application/vnd.kubernetes.protobuf")])),
        (200, fields(&[(CONTENT_TYPE, "application/cbor")])),
        (200, fields(&[(CONTENT_TYPE, "text/plain")])),
        (200, fields(&[])),
        (200, fields(&[(CONTENT_TYPE, "application/json"), (CONTENT_TYPE, "text/plain")])),
        (206, json_fields()),
        (204, json_fields()),
        (304, json_fields()),
        (401, json_fields()),
    ];
    for (status, headers) in refused {
        let answer = masked(&prepared(Form::Object, false), status, &headers, secret()).await;
        let refusal = answer.expect_err("refused").refusal(false);
        assert_eq!(refusal.reason, Reason::BadGateway, "{status} {headers:?}");
    }
    for form in [Form::Object, Form::List] {
        for body in ["", "{", "k8s\0protobuf", "null", r#"{"kind":"Other","apiVersion":"v1","x":1}"#] {
            assert!(masked(&prepared(form, false), 200, &json_fields(), body).await.is_err(), "{body}");
        }
    }
}

#[tokio::test]
async fn b17_trailers_are_dropped() {
    let event = format!("{{\"type\":\"ADDED\",\"object\":{}}}", secret());
    for (form, data) in [(Form::Object, secret()), (Form::Watch, event)] {
        let trailers = fields(&[(HeaderName::from_static("x-value"), SECRET)]);
        let data = Frame::data(Bytes::from(data));
        let body = StreamBody::new(stream::iter([Ok::<_, Infallible>(data), Ok(Frame::trailers(trailers))]));
        let prepared = prepared(form, false);
        let answer = prepared
            .mask_parts(StatusCode::OK, &json_fields(), body, AGENT, &RequestId::new())
            .await
            .unwrap();
        let whole = answer.into_parts().0.into_body().collect().await.unwrap();
        assert!(whole.trailers().is_none(), "{form:?}");
    }
}

#[tokio::test]
async fn f04_a_write_whose_answer_cannot_be_read_has_an_unknown_outcome() {
    let error = masked(&prepared(Form::Object, true), 200, &json_fields(), "{").await.expect_err("refused");
    assert_eq!(error.refusal(true).reason, Reason::OutcomeUnknown);
}

fn chunked(bytes: String, size: usize) -> impl HttpBody<Data = Bytes, Error = Infallible> + Send + Unpin {
    let chunks: Vec<_> =
        bytes.as_bytes().chunks(size).map(|c| Ok(Frame::data(Bytes::copy_from_slice(c)))).collect();
    StreamBody::new(stream::iter(chunks))
}

fn big_list() -> String {
    let item = format!(
        r#"{{"metadata":{{"name":"x"}},"data":{{"p":"{SECRET}","pad":"{}"}},"type":"{}"}}"#,
        "y".repeat(300),
        "z".repeat(300)
    );
    format!(
        r#"{{"kind":"SecretList","apiVersion":"v1","metadata":{{}},"items":[{}]}}"#,
        vec![item; 500].join(",")
    )
}

#[tokio::test]
async fn a_long_answer_streams_in_frames_worth_sending() {
    let list = big_list();
    let prepared = prepared(Form::List, false);
    let body = chunked(list.clone(), 1000);
    let answer =
        prepared.mask_parts(StatusCode::OK, &json_fields(), body, AGENT, &RequestId::new()).await.unwrap();
    let (mut response, tally) = answer.into_parts();
    assert_eq!(
        warnings(&response),
        [r#"299 - "sallyport: values are masked (secret-data). They are placeholders, not data.""#]
    );
    let (mut sizes, mut whole) = (Vec::new(), Vec::new());
    while let Some(frame) = response.body_mut().frame().await {
        let data = frame.unwrap().into_data().unwrap();
        sizes.push(data.len());
        whole.extend_from_slice(&data);
    }
    assert!(sizes[..sizes.len() - 1].iter().all(|size| *size >= 16 * 1024), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 66 * 1024), "F12: {sizes:?}");
    assert!(!String::from_utf8(whole.clone()).unwrap().contains(SECRET));
    let parsed: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(parsed["items"].as_array().unwrap().len(), 500);
    assert_eq!((tally.masked_values(), tally.ended()), (1000, End::Whole));
}

#[tokio::test(start_paused = true)]
async fn f10_a_body_that_stalls_is_not_waited_for() {
    for (code, seconds) in [(200, 1), (500, 10)] {
        let begun = Frame::data(Bytes::from_static(b"{\"kind\":\"SecretList\","));
        let body = StreamBody::new(stream::iter([Ok::<_, Infallible>(begun)]).chain(stream::pending()));
        let (prepared, id, since) =
            (prepared(Form::List, false), RequestId::new(), tokio::time::Instant::now());
        let status = StatusCode::from_u16(code).unwrap();
        assert!(prepared.mask_parts(status, &json_fields(), body, AGENT, &id).await.is_ok());
        assert_eq!(since.elapsed(), Duration::from_secs(seconds), "{code}");
    }
}

#[tokio::test]
async fn e13_a_log_that_breaks_off_never_ends_cleanly() {
    let log = Prepared { accept: String::new(), reading: Reading::Log, is_watch: false, is_write: false };
    let pieces = [Ok(Frame::data(Bytes::from_static(b"line\n"))), Err(BodyError::from("reset"))];
    let (body, id) = (StreamBody::new(stream::iter(pieces)), RequestId::new());
    let plain = fields(&[(CONTENT_TYPE, "text/plain")]);
    let answer = log.mask_parts(StatusCode::OK, &plain, body, AGENT, &id).await.unwrap();
    let (response, tally) = answer.into_parts();
    assert!(response.into_body().collect().await.is_err());
    assert_eq!(tally.ended(), End::Broken);
}

#[tokio::test]
async fn e13_a_list_that_is_cut_never_ends_cleanly() {
    let list = big_list();
    for end in [300_000, list.len() - 1] {
        let cut = list[..end].to_owned();
        let prepared = prepared(Form::List, false);
        let answer = prepared
            .mask_parts(StatusCode::OK, &json_fields(), chunked(cut, 4096), AGENT, &RequestId::new())
            .await
            .unwrap();
        let (response, tally) = answer.into_parts();
        assert!(response.into_body().collect().await.is_err(), "cut at {end}");
        assert_eq!(tally.ended(), End::Broken);
    }
    let (mut to, from) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(8);
    to.send(Ok(Frame::data(list[..300_000].to_owned().into()))).await.unwrap();
    to.send(Err("reset".into())).await.unwrap();
    let prepared = prepared(Form::List, false);
    let body = StreamBody::new(from);
    let answer =
        prepared.mask_parts(StatusCode::OK, &json_fields(), body, AGENT, &RequestId::new()).await.unwrap();
    assert!(answer.into_parts().0.into_body().collect().await.is_err());
}

#[tokio::test]
async fn b18_watch_events_leave_at_once_and_never_as_empty_frames() {
    let (mut to, from) = mpsc::channel::<Result<Frame<Bytes>, BodyError>>(8);
    let prepared = prepared(Form::Watch, false);
    let body = StreamBody::new(from);
    let answer =
        prepared.mask_parts(StatusCode::OK, &json_fields(), body, AGENT, &RequestId::new()).await.unwrap();
    let (response, _) = answer.into_parts();
    let mut body = response.into_body().into_data_stream();
    for _ in 0..3 {
        let event = format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", secret());
        to.send(Ok(Frame::data(Bytes::new()))).await.unwrap();
        to.send(Ok(Frame::data(event.into()))).await.unwrap();
        let left = body.next().await.unwrap().unwrap();
        assert!(left.ends_with(b"}\n") && !left.is_empty());
        assert!(!String::from_utf8_lossy(&left).contains(SECRET));
    }
    drop(to);
    assert!(body.next().await.is_none());
}

fn status(code: u16, reason: &str, message: &str, causes: Value) -> String {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {"x": SECRET}, "status": "Failure", "code": code,
        "reason": reason, "message": message, "extra": SECRET,
        "details": {"name": "x", "kind": "secrets", "causes": causes, "more": SECRET}})
    .to_string()
}

#[tokio::test]
async fn b44_errors_of_writes_name_fields_and_no_values() {
    let message = format!("Secret \"x\" is invalid: data: Invalid value: \"{SECRET}\"");
    let causes = json!([{"reason": "FieldValueInvalid", "message": message, "field": "data"}]);
    let invalid = status(422, "Invalid", &message, causes);
    let write = prepared(Form::Object, true);
    for (code, body) in [
        (422, invalid.clone()),
        (400, status(400, "BadRequest", &message, json!([]))),
        (403, status(403, "Forbidden", &message, json!([]))),
        (500, status(500, "InternalError", &message, json!([]))),
        (
            409,
            status(
                409,
                "Conflict",
                &format!("admission webhook \"x\" denied the request: {message}"),
                json!([]),
            ),
        ),
        (403, status(403, "Forbidden", &format!("{message} User \"{AGENT}\" cannot "), json!([]))),
    ] {
        let (response, body, _) = text(masked(&write, code, &json_fields(), body).await.unwrap()).await;
        assert_eq!(response.status().as_u16(), code);
        assert!(!body.contains(SECRET), "{body}");
    }
    let (_, body, _) = text(masked(&write, 422, &json_fields(), invalid).await.unwrap()).await;
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(said["details"]["causes"][0]["field"], "data");
    assert_eq!(said["details"]["causes"][0]["reason"], "FieldValueInvalid");
    assert_eq!(said["reason"], "Invalid");
}

#[tokio::test]
async fn errors_of_reads_and_conflicts_keep_their_words() {
    for (is_write, code, reason) in
        [(false, 404, "NotFound"), (true, 404, "NotFound"), (true, 409, "Conflict")]
    {
        let body = status(code, reason, "secrets \"x\" not found", json!([]));
        let (_, body, _) =
            text(masked(&prepared(Form::Object, is_write), code, &json_fields(), body).await.unwrap()).await;
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(said["message"], "secrets \"x\" not found");
        assert_eq!(said["details"]["name"], "x");
        assert!(!body.contains(SECRET), "unknown members are dropped: {body}");
    }
}

#[tokio::test]
async fn b44_a_custom_kinds_own_server_may_quote_it_when_a_read_fails() {
    let said =
        |code| status(code, "InternalError", &format!("conversion webhook failed: {SECRET}"), json!([]));
    let mut custom = prepared(Form::Object, false);
    if let Reading::Objects { expectation, .. } = &mut custom.reading {
        expectation.kind = GroupKind::new("example.com", "Vault");
    }
    let words = "299 - \"Vault is deprecated\"".parse::<HeaderValue>().unwrap();
    let mut headers = json_fields();
    headers.insert(WARNING, words);
    let (response, body, _) = text(masked(&custom, 500, &headers, said(500)).await.unwrap()).await;
    assert!(!body.contains(SECRET) && !warnings(&response)[0].contains("deprecated"), "{body}");
    let (_, body, _) = text(masked(&custom, 400, &headers, said(400)).await.unwrap()).await;
    assert!(body.contains("conversion webhook"), "{body}");
    let built_in = prepared(Form::Object, false);
    let (_, body, _) = text(masked(&built_in, 500, &headers, said(500)).await.unwrap()).await;
    assert!(body.contains("conversion webhook"), "{body}");
}

#[tokio::test]
async fn b47_errors_that_are_no_status_say_only_the_code() {
    for (headers, body) in [
        (fields(&[(CONTENT_TYPE, "text/plain")]), format!("panic: {SECRET}")),
        (fields(&[(CONTENT_TYPE, "text/html")]), status(500, "x", SECRET, json!([]))),
        (json_fields(), json!({"kind": "Secret", "apiVersion": "v1", "message": SECRET}).to_string()),
        (json_fields(), json!({"kind": "Status", "apiVersion": "v2", "message": SECRET}).to_string()),
        (json_fields(), format!("{{\"a\":\"{SECRET}\"}}")),
        (json_fields(), format!("{SECRET}{{")),
        (json_fields(), status(500, "x", &"y".repeat(70_000), json!([]))),
    ] {
        let (response, body, _) =
            text(masked(&prepared(Form::Object, false), 500, &headers, body).await.unwrap()).await;
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            said["message"],
            "the API server answered 500 Internal Server Error; its words are not passed on"
        );
    }
}

#[tokio::test]
async fn the_targets_own_rbac_speaks_for_itself_and_the_gate_says_so() {
    let message = format!("secrets \"x\" is forbidden: User \"{AGENT}\" cannot patch resource \"secrets\"");
    let body = status(403, "Forbidden", &message, json!([]));
    for is_write in [true, false] {
        let answer =
            masked(&prepared(Form::Object, is_write), 403, &json_fields(), body.clone()).await.unwrap();
        let (response, body, _) = text(answer).await;
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["message"], *message);
        assert!(
            warnings(&response)[0]
                .starts_with("299 - \"Sallyport allowed this request; Kubernetes RBAC on the target")
        );
    }
}

#[tokio::test]
async fn b44_who_quotes_rbac_is_not_rbac() {
    let quoted = format!("forbidden: User \"{AGENT}\" cannot be {SECRET}");
    for (code, message) in [
        (403, format!("admission webhook \"w.example\" denied the request: label {quoted}")),
        (403, format!("pods \"x\" is forbidden: the label is {quoted}")),
        (422, format!("secrets \"x\" is {quoted}")),
    ] {
        let body = status(code, "Forbidden", &message, json!([]));
        let answer = masked(&prepared(Form::Object, true), code, &json_fields(), body).await.unwrap();
        let (response, body, _) = text(answer).await;
        assert!(!body.contains(SECRET) && warnings(&response).is_empty(), "{message}: {body}");
    }
}

#[tokio::test]
async fn b45_an_error_is_capped_and_cleaned() {
    let causes: Vec<Value> =
        (0..70).map(|_| json!({"reason": "r".repeat(600), "message": "m", "field": "f"})).collect();
    let body = status(409, &"R".repeat(600), &format!("\u{1b}[2J{}", "x".repeat(9000)), json!(causes));
    let (_, body, _) =
        text(masked(&prepared(Form::Object, true), 409, &json_fields(), body).await.unwrap()).await;
    let said: Value = serde_json::from_str(&body).unwrap();
    let length = |text: &Value| text.as_str().unwrap().len();
    assert_eq!((length(&said["reason"]), length(&said["message"])), (512, 8192));
    assert!(said["message"].as_str().unwrap().starts_with("[2Jx"), "no control character");
    let causes = said["details"]["causes"].as_array().unwrap();
    assert_eq!((causes.len(), length(&causes[0]["reason"])), (64, 512));
}

#[tokio::test]
async fn logs_stream_as_text_and_discovery_as_it_is() {
    let read = |reading| Prepared { accept: String::new(), reading, is_watch: false, is_write: false };
    let (log, open) = (read(Reading::Log), read(Reading::Open));
    let plain = fields(&[(CONTENT_TYPE, "text/plain; charset=utf-8")]);
    let (response, body, tally) = text(masked(&log, 200, &plain, "line\n").await.unwrap()).await;
    assert_eq!((body.as_str(), tally.ended()), ("line\n", End::Whole));
    assert_eq!(response.headers()[CONTENT_TYPE], "text/plain");
    assert!(masked(&log, 200, &fields(&[(CONTENT_TYPE, "text/html")]), "x").await.is_err());
    for code in [206, 302] {
        assert!(
            masked(&log, code, &plain, "x").await.is_err() && masked(&open, code, &plain, "x").await.is_err()
        );
    }
    let proto = fields(&[(CONTENT_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")]);
    let (response, _, _) = text(masked(&open, 200, &proto, "x").await.unwrap()).await;
    assert_eq!(response.headers()[CONTENT_TYPE], proto[CONTENT_TYPE]);
    let gzip = fields(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")]);
    assert!(masked(&open, 200, &gzip, "x").await.is_err());
}
