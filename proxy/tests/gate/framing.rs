//! HTTP/1.1 by hand against the real acceptor: each row of appendix 3, and what exactly arrives upstream.
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::server::Reply;
use crate::wire::{LIMIT, MARK, Rebuilt, Wire};
use crate::{MAPS, config_map};

/// What the gate may do with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// A refusal with one of these codes, after which the connection ends: what follows is nobody's.
    No(&'static [u16]),
    /// hyper does not show it: refused, or exactly the one request that a clean client would have sent.
    NoOrClean,
}

use Want::{No, NoOrClean};

struct Case {
    row: &'static str,
    bytes: Vec<u8>,
    want: Want,
}

const AUTH: &str = concat!("Authorization: Bearer ", token_of!("good"), "\r\n");
const BODY: &str = r#"{"metadata":{"name":"a"}}"#;
const BAD: Want = No(&[400]);

fn case(row: &'static str, want: Want, bytes: impl Into<Vec<u8>>) -> Case {
    Case { row, bytes: bytes.into(), want }
}

/// A second request, which must never be anybody's.
fn next() -> String {
    format!("DELETE {MAPS}/{MARK} HTTP/1.1\r\nHost: gate\r\n{AUTH}\r\n")
}

fn get_with(target: &str, version: &str, more: &str) -> String {
    format!("GET {target} {version}\r\nHost: gate\r\n{AUTH}{more}\r\n")
}

/// A GET that carries `more` in its head, and a second request behind it.
fn get(more: &str) -> String {
    format!("{}{}", get_with(&format!("{MAPS}/a"), "HTTP/1.1", more), next())
}

/// As [`get`], for heads that are read: the connection is to end behind them.
fn last(more: &str) -> String {
    get_with(&format!("{MAPS}/a"), "HTTP/1.1", &format!("Connection: close\r\n{more}"))
}

/// A POST with these fields and this body, and a second request behind it.
fn post(more: &str, body: &str) -> String {
    let json = "Content-Type: application/json\r\n";
    format!("POST {MAPS} HTTP/1.1\r\nHost: gate\r\n{AUTH}{json}{more}\r\n{body}{}", next())
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

fn lengths() -> Vec<Case> {
    let length = BODY.len();
    let one = format!("Content-Length: {length}\r\n");
    let chunks = "Transfer-Encoding: chunked\r\n";
    let many = |value: &str| post(&format!("Content-Length: {value}\r\n"), BODY);
    let transfer = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &chunked(BODY));
    vec![
        case("CL + TE: chunked", NoOrClean, post(&format!("{one}{chunks}"), &chunked(BODY))),
        case("CL + TE: chunked", NoOrClean, post(&format!("{chunks}Content-Length: 4\r\n"), &chunked(BODY))),
        case("two equal CL", NoOrClean, post(&format!("{one}{one}Connection: close\r\n"), BODY)),
        case("two different CL", BAD, post(&format!("{one}Content-Length: 0\r\n"), BODY)),
        case("two different CL", BAD, post(&format!("Content-Length: 0\r\n{one}"), BODY)),
        case("CL 1, 1", BAD, many(&format!("{length}, {length}"))),
        case("CL +1", BAD, many(&format!("+{length}"))),
        case("CL -1", BAD, many("-1")),
        case("CL -1", BAD, many("0x19")),
        case("CL -1", BAD, many("")),
        case("TE identity", No(&[400, 501]), transfer("identity")),
        case("TE xchunked", No(&[400, 501]), transfer("xchunked")),
        case("TE vertical tab", BAD, transfer("\x0bchunked")),
        case("TE chunked twice", BAD, transfer("chunked, chunked")),
        case("TE chunked twice", BAD, post(&format!("{chunks}{chunks}"), &chunked(BODY))),
        case("TE gzip, chunked", BAD, transfer("gzip, chunked")),
        case("TE gzip, chunked", BAD, transfer("chunked, gzip")),
        case("chunk size 0x1", BAD, post(chunks, &format!("0x{:x}\r\n{BODY}\r\n0\r\n\r\n", length))),
        case("chunk size 0x1", BAD, post(chunks, &format!("-{:x}\r\n{BODY}\r\n0\r\n\r\n", length))),
        case(
            "GET + Content-Length body",
            BAD,
            format!("{}{{}}{}", get_with(MAPS, "HTTP/1.1", "Content-Length: 2\r\n"), next()),
        ),
        case(
            "GET + Content-Length body",
            BAD,
            format!("{}2\r\n{{}}\r\n0\r\n\r\n{}", get_with(MAPS, "HTTP/1.1", chunks), next()),
        ),
        case(
            "request trailers Impersonate-User: root",
            NoOrClean,
            post(
                &format!("{chunks}Connection: close\r\nTrailer: Impersonate-User\r\n"),
                &format!("{:x}\r\n{BODY}\r\n0\r\nImpersonate-User: {MARK}\r\nX-{MARK}: root\r\n\r\n", length),
            ),
        ),
    ]
}

fn heads() -> Vec<Case> {
    let old = |more: &str, body: &str| {
        let head = format!("POST {MAPS} HTTP/1.0\r\nHost: gate\r\n{AUTH}Content-Type: application/json\r\n");
        format!("{head}{more}\r\n{body}{}", next())
    };
    let target = |target: &str| format!("{}{}", get_with(target, "HTTP/1.1", ""), next());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
    let exec = "/api/v1/namespaces/payments/pods/web/exec?command=id&container=web&stdout=true";
    let mut raw_byte = get_with(&format!("{MAPS}?limit=\u{1}"), "HTTP/1.1", "").into_bytes();
    raw_byte.iter_mut().filter(|byte| **byte == 1).for_each(|byte| *byte = 0xff);
    vec![
        case("TE in HTTP/1.0", BAD, old("Transfer-Encoding: chunked\r\n", &chunked(BODY))),
        case("HTTP/1.0", BAD, old(&format!("Content-Length: {}\r\n", BODY.len()), BODY)),
        case("HTTP/1.0", BAD, get_with(MAPS, "HTTP/1.0", "Connection: keep-alive\r\n")),
        case("HTTP/1.2", BAD, get_with(MAPS, "HTTP/1.2", "")),
        case("Transfer-Encoding : chunked", BAD, post("Transfer-Encoding : chunked\r\n", &chunked(BODY))),
        case("Impersonate-User : x", BAD, get(&format!("Impersonate-User : {MARK}\r\n"))),
        case("obs-fold", BAD, get(&format!("X: a\r\n Impersonate-User: {MARK}\r\n"))),
        case("obs-fold", BAD, get("X: a\r\n\tb\r\n")),
        case("bare LF line ends", NoOrClean, last("").replace("\r\n", "\n")),
        case(
            "bare LF line ends",
            BAD,
            get(&format!("X: a\nImpersonate-User: {MARK}\r\n")).replace("X: a\nI", "X: a\rI"),
        ),
        case("NUL in header", BAD, get("X: a\0b\r\n")),
        case("non-ASCII header value", BAD, get("X: caf\u{e9}\r\n")),
        case("no Host", BAD, format!("GET {MAPS} HTTP/1.1\r\n{AUTH}\r\n{}", next())),
        case("two Host", BAD, get("Host: gate\r\n")),
        case("two Host", BAD, get("Host: other\r\n")),
        case("leading CRLF", NoOrClean, format!("\r\n{}", last(""))),
        case("raw UTF-8 in path", BAD, target("/api/v1/namespaces/payments/configmaps/\u{e4}")),
        case("raw 0xff in query", BAD, raw_byte),
        case("absolute-form, Host differs", BAD, target(&format!("https://other{MAPS}/a"))),
        case("absolute-form, Host differs", BAD, target(&format!("http://gate{MAPS}/a"))),
        case("#frag", NoOrClean, get_with(&format!("{MAPS}/a#{MARK}"), "HTTP/1.1", "Connection: close\r\n")),
        case("Connection: Upgrade + pipelined second request", BAD, get(upgrade)),
        case(
            "Connection: Upgrade + pipelined second request",
            BAD,
            get("Connection: Upgrade\r\nUpgrade: h2c\r\n"),
        ),
        case("Connection: Upgrade + pipelined second request", BAD, get("Connection: Upgrade\r\n")),
        case(
            "Connection: Upgrade + pipelined second request",
            No(&[400, 403]),
            format!("{}{}", get_with(exec, "HTTP/1.1", upgrade), next()),
        ),
        case("Expect: 200-foo", No(&[400, 417]), get("Expect: 200-foo\r\n")),
        case("1.1 MiB header", No(&[431]), get(&format!("X: {}\r\n", "a".repeat(1_153_434)))),
        case("an empty method", BAD, format!(" {MAPS} HTTP/1.1\r\nHost: gate\r\n{AUTH}\r\n")),
        case(
            "CONNECT",
            No(&[400, 405]),
            format!("CONNECT gate:443 HTTP/1.1\r\nHost: gate:443\r\n{AUTH}\r\n{}", next()),
        ),
    ]
}

/// What is said of a connection that the gate did not end.
const LEFT_OPEN: &str = "(left open)";

/// Sends the bytes and reads to the end of the connection.
async fn exchange(wire: &Wire, bytes: &[u8]) -> String {
    let stream = wire.connect(b"http/1.1").await;
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = async {
        // The gate may end the connection before it has read everything.
        let _ = write.write_all(bytes).await;
        let _ = write.flush().await;
    };
    let mut answer = Vec::new();
    let read = async {
        let mut some = [0; 8192];
        while let Ok(length @ 1..) = read.read(&mut some).await {
            answer.extend_from_slice(&some[..length]);
        }
    };
    let ended = timeout(LIMIT, async { tokio::join!(sent, read) }).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if ended.is_ok() { answer } else { answer + LEFT_OPEN }
}

/// What a clean client's request becomes upstream.
async fn clean(wire: &Wire, bytes: &str) -> Rebuilt {
    let answer = exchange(wire, bytes.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    let [rebuilt] = <[Rebuilt; 1]>::try_from(wire.upstream()).unwrap();
    rebuilt
}

fn answers(reply: &str) -> Vec<u16> {
    let lines = reply.lines().filter(|line| line.starts_with("HTTP/1.") && !line.contains(" 100 "));
    lines.map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn appendix_3_no_framing_is_read_in_two_ways() {
    let wire = Wire::new().await;
    wire.world.server.answers(|seen| match seen.method.as_str() {
        "POST" => Reply::Json(201, config_map("a")),
        "DELETE" => Reply::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        _ => Reply::Json(200, config_map("a")),
    });
    let clean_get = clean(&wire, &last("")).await;
    let length = format!("Content-Length: {}\r\nConnection: close\r\n", BODY.len());
    let clean_post = clean(&wire, &post(&length, BODY)).await;
    let mut failures = Vec::new();
    for Case { row, bytes, want } in lengths().into_iter().chain(heads()) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
        let reply = exchange(&wire, &bytes).await;
        let (codes, upstream) = (answers(&reply), wire.upstream());
        let refused = |allowed: &[u16]| {
            matches!(codes.as_slice(), [code] if allowed.contains(code)) && upstream.is_empty()
        };
        let holds = match want {
            No(allowed) => refused(allowed),
            NoOrClean => {
                refused(&[400])
                    || codes.len() == 1
                        && matches!(upstream.as_slice(), [one] if *one == clean_get || *one == clean_post)
            }
        };
        if !holds || reply.ends_with(LEFT_OPEN) {
            failures
                .push(format!("{row}: wanted {want:?}\n{shown}\n answered {reply}\n upstream {upstream:?}"));
        }
    }
    assert!(failures.is_empty(), "{} rows differ:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test]
async fn h2_what_is_sent_upstream_is_written_by_the_gate_alone() {
    let wire = Wire::new().await;
    wire.world.server.answers(|_| Reply::Json(201, config_map("a")));
    let body = r#" { "metadata" : {"name":"a", "labels": {"b" :"1","a":"2"} } } "#;
    let more = format!(
        "Content-Length: {}\r\nConnection: close\r\nX-Junk: {MARK}\r\nCookie: {MARK}=1\r\n",
        body.len()
    );
    let target = "?fieldValidation=Strict&pretty=true&fieldManager=kubectl%2Dx";
    let sent = post(&more, body).replacen(MAPS, &format!("{MAPS}{target}"), 1);
    let rebuilt = clean(&wire, &sent).await;
    assert_eq!(rebuilt.line, format!("POST {MAPS}?fieldManager=kubectl-x&fieldValidation=Strict"));
    assert_eq!(
        rebuilt.body,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"labels":{"a":"2","b":"1"},"name":"a"}}"#
    );
}
