//! HTTP/2 by hand against the real acceptor: frames and header blocks that no client library would send.
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::server::Reply;
use crate::wire::{LIMIT, MARK, Rebuilt, Wire};
use crate::{MAPS, config_map};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const BODY: &str = r#"{"metadata":{"name":"a"}}"#;

type Fields = Vec<(String, Vec<u8>)>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// HPACK: every field a literal that is never indexed, no Huffman (RFC 7541, 6.2.2).
fn block(fields: &Fields) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name.as_bytes(), value] {
            match u8::try_from(text.len()) {
                Ok(length @ ..127) => out.push(length),
                _ => {
                    out.push(127);
                    let mut rest = text.len() - 127;
                    while rest >= 128 {
                        out.push((rest & 127) as u8 | 128);
                        rest >>= 7;
                    }
                    out.push(rest as u8);
                }
            }
            out.extend_from_slice(text);
        }
    }
    out
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
}

fn head(method: &str, path: &str) -> Fields {
    fields(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", "gate.test"),
        (":path", path),
        ("authorization", crate::BEARER),
    ])
}

fn get() -> Fields {
    head("GET", &format!("{MAPS}/a"))
}

fn post() -> Fields {
    with(head("POST", MAPS), "content-type", "application/json")
}

/// One more field at the end.
fn with(mut fields: Fields, name: &str, value: &str) -> Fields {
    fields.push((name.to_owned(), value.as_bytes().to_vec()));
    fields
}

/// One field in front.
fn first(name: &str, value: &str, mut fields: Fields) -> Fields {
    fields.insert(0, (name.to_owned(), value.as_bytes().to_vec()));
    fields
}

fn without(mut fields: Fields, name: &str) -> Fields {
    fields.retain(|(found, _)| found != name);
    fields
}

fn set(mut fields: Fields, name: &str, value: &[u8]) -> Fields {
    fields.iter_mut().filter(|(found, _)| found == name).for_each(|(_, old)| *old = value.to_vec());
    fields
}

/// A request without a body on stream 1.
fn bare(fields: &Fields) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

/// A request with a body, and trailers if there are any.
fn full(fields: &Fields, body: &str, trailers: Option<Fields>) -> Vec<u8> {
    let mut out = frame(HEADERS, END_HEADERS, 1, &block(fields));
    let flags = if trailers.is_some() { 0 } else { END_STREAM };
    out.extend(frame(DATA, flags, 1, body.as_bytes()));
    if let Some(trailers) = trailers {
        out.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&trailers)));
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// A 4xx, a reset stream or an ended connection.
    No,
    /// That, or exactly the one request that a clean client would have sent.
    NoOrClean,
}

use Want::{No, NoOrClean};

type Case = (&'static str, Want, Vec<u8>);

fn pseudo() -> Vec<Case> {
    let path = |path: &[u8]| bare(&set(get(), ":path", path));
    let mark = format!("{MAPS}/{MARK}");
    vec![
        ("no :path", No, bare(&without(get(), ":path"))),
        ("no :method", No, bare(&without(get(), ":method"))),
        ("no :scheme", No, bare(&without(get(), ":scheme"))),
        ("empty :path", No, path(b"")),
        ("two :path", No, bare(&first(":path", &mark, get()))),
        ("two :method", No, bare(&first(":method", "DELETE", get()))),
        ("two :authority", No, bare(&first(":authority", MARK, get()))),
        ("two :scheme", No, bare(&first(":scheme", "http", get()))),
        ("unknown pseudo-header", No, bare(&first(":impersonate-user", MARK, get()))),
        (":status in a request", No, bare(&first(":status", "200", get()))),
        (
            "pseudo-header behind a field",
            No,
            bare(&with(without(get(), ":path"), ":path", &format!("{MAPS}/a"))),
        ),
        (":path that is *", No, path(b"*")),
        (":path in absolute form", No, path(format!("https://other{MAPS}/a").as_bytes())),
        (":path without a slash", No, path(&format!("{MAPS}/a").as_bytes()[1..])),
        (":path with two slashes", No, path(format!("//{MARK}{MAPS}/a").as_bytes())),
        (":path with a fragment", NoOrClean, path(format!("{MAPS}/a#{MARK}").as_bytes())),
        (":path with a space", No, path(format!("{MAPS}/a b").as_bytes())),
        (
            ":path with CR LF",
            No,
            path(format!("{MAPS}/a HTTP/1.1\r\nImpersonate-User: {MARK}\r\n\r\n").as_bytes()),
        ),
        (":path with NUL", No, path(format!("{MAPS}/a\0").as_bytes())),
        (":path with 0xff", No, path(&[MAPS.as_bytes(), b"/\xff"].concat())),
        (":path with UTF-8", No, path(format!("{MAPS}/\u{e4}").as_bytes())),
        (":path with dots", No, path(format!("{MAPS}/../secrets/a").as_bytes())),
        (":method with CR LF", No, bare(&set(get(), ":method", b"GET / HTTP/1.1\r\nA: b\r\n\r\nGET"))),
        (":method in lower case", No, bare(&set(get(), ":method", b"get"))),
        ("HEAD", No, bare(&set(get(), ":method", b"HEAD"))),
        (":authority and another host", NoOrClean, bare(&with(get(), "host", MARK))),
        (":authority with a user", NoOrClean, bare(&set(get(), ":authority", b"a@gate.test"))),
        (
            "host without :authority",
            NoOrClean,
            bare(&with(without(get(), ":authority"), "host", "gate.test")),
        ),
        (":scheme http", NoOrClean, bare(&set(get(), ":scheme", b"http"))),
        (
            "CONNECT",
            No,
            bare(&fields(&[
                (":method", "CONNECT"),
                (":authority", "gate:443"),
                ("authorization", crate::BEARER),
            ])),
        ),
        ("CONNECT with a path", No, bare(&set(get(), ":method", b"CONNECT"))),
        ("extended CONNECT", No, bare(&first(":protocol", "websocket", set(get(), ":method", b"CONNECT")))),
    ]
}

fn named() -> Vec<Case> {
    let field = |name: &str, value: &str| bare(&with(get(), name, value));
    let raw = |name: &str, value: &[u8]| {
        let mut fields = get();
        fields.push((name.to_owned(), value.to_vec()));
        bare(&fields)
    };
    let upgrade = with(with(get(), "connection", "upgrade"), "upgrade", "websocket");
    vec![
        ("upper-case name", No, field("X-Note", "a")),
        ("upper-case impersonation", No, field("Impersonate-User", MARK)),
        ("impersonation", No, field("impersonate-user", MARK)),
        ("impersonation with an underscore", No, field("impersonate_user", MARK)),
        ("connection", No, field("connection", "keep-alive")),
        ("keep-alive", No, field("keep-alive", "timeout=5")),
        ("proxy-connection", No, field("proxy-connection", "keep-alive")),
        ("upgrade", No, bare(&upgrade)),
        ("transfer-encoding", No, full(&with(post(), "transfer-encoding", "chunked"), BODY, None)),
        ("te other than trailers", No, field("te", "gzip")),
        ("te trailers", NoOrClean, field("te", "trailers")),
        ("two authorization", No, field("authorization", crate::BEARER)),
        ("two content-type", No, full(&with(post(), "content-type", "application/json"), BODY, None)),
        ("empty name", No, field("", MARK)),
        ("name with a colon", No, field("x:y", MARK)),
        ("name with a space", No, field("x y", MARK)),
        ("name with CR LF", No, field("x\r\nimpersonate-user", MARK)),
        ("value with CR LF", No, field("x", &format!("a\r\nImpersonate-User: {MARK}"))),
        ("value with LF", No, field("x", &format!("a\nImpersonate-User: {MARK}"))),
        ("value with NUL", No, field("x", "a\0b")),
        ("value with 0xe9", No, raw("x", b"caf\xe9")),
        (
            "cookies in crumbs",
            NoOrClean,
            bare(&with(with(get(), "cookie", &format!("a={MARK}")), "cookie", "b=2")),
        ),
        ("expect", No, field("expect", "200-foo")),
        ("content-encoding", No, full(&with(post(), "content-encoding", "gzip"), BODY, None)),
        (
            "method override",
            NoOrClean,
            bare(&with(
                with(get(), "x-http-method-override", "DELETE"),
                "x-original-url",
                &format!("/{MARK}"),
            )),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let length = |value: &str| full(&with(post(), "content-length", value), BODY, None);
    let exact = BODY.len().to_string();
    let trailers = |pairs: &[(&str, &str)]| full(&post(), BODY, Some(fields(pairs)));
    let mut after = full(&post(), BODY, None);
    after.extend(frame(DATA, END_STREAM, 1, MARK.as_bytes()));
    let split = block(&get());
    let (front, back) = split.split_at(split.len() / 2);
    let mut torn = frame(HEADERS, END_STREAM, 1, front);
    torn.extend(frame(DATA, 0, 1, MARK.as_bytes()));
    torn.extend(frame(CONTINUATION, END_HEADERS, 1, back));
    let mut continued = frame(HEADERS, END_STREAM, 1, front);
    continued.extend(frame(CONTINUATION, END_HEADERS, 1, back));
    vec![
        ("content-length too short", No, length("5")),
        ("content-length too long", No, length("500")),
        ("content-length that is no number", No, length("+25")),
        ("content-length list", No, length(&format!("{exact}, {exact}"))),
        (
            "two equal content-length",
            NoOrClean,
            full(&with(with(post(), "content-length", &exact), "content-length", &exact), BODY, None),
        ),
        (
            "two different content-length",
            No,
            full(&with(with(post(), "content-length", &exact), "content-length", "0"), BODY, None),
        ),
        ("content-length and no body", NoOrClean, bare(&with(get(), "content-length", "2"))),
        ("GET with a body", No, full(&get(), "{}", None)),
        ("trailers", NoOrClean, trailers(&[("impersonate-user", MARK), ("x-note", MARK)])),
        ("trailers with a pseudo-header", NoOrClean, trailers(&[(":path", MARK)])),
        ("trailers with an upper-case name", No, trailers(&[("Impersonate-User", MARK)])),
        ("trailers without END_STREAM", No, {
            let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(&post()));
            bytes.extend(frame(DATA, 0, 1, BODY.as_bytes()));
            bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(&fields(&[("x", "y")]))));
            bytes
        }),
        ("DATA behind the end", NoOrClean, after),
        ("DATA on an idle stream", No, frame(DATA, END_STREAM, 5, MARK.as_bytes())),
        ("HEADERS on stream 0", No, frame(HEADERS, END_STREAM | END_HEADERS, 0, &block(&get()))),
        ("HEADERS on an even stream", No, frame(HEADERS, END_STREAM | END_HEADERS, 2, &block(&get()))),
        (
            "PUSH_PROMISE of a client",
            No,
            frame(PUSH, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block(&get())].concat()),
        ),
        ("DATA between HEADERS and CONTINUATION", No, torn),
        ("CONTINUATION", NoOrClean, continued),
        (
            "a block that is no HPACK",
            No,
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "HTTP/1.1 where HTTP/2 was agreed",
            No,
            format!("GET {MAPS}/a HTTP/1.1\r\nHost: gate\r\nAuthorization: {}\r\n\r\n", crate::BEARER)
                .into_bytes(),
        ),
    ]
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// A whole answer: the code of its Status, or 200.
    Answer(u64),
    Reset,
    Closed,
}

async fn exchange(wire: &Wire, bytes: &[u8]) -> Heard {
    let stream = wire.connect(b"h2").await;
    let (mut read, mut write) = tokio::io::split(stream);
    let opening = [PREFACE, &frame(SETTINGS, 0, 0, &[]), bytes].concat();
    let talk = async {
        let _ = write.write_all(&opening).await;
        let _ = write.flush().await;
        let mut body = Vec::new();
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return Heard::Closed;
            }
            let [a, b, c, kind, flags, ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return Heard::Closed;
            }
            match kind {
                RESET => return Heard::Reset,
                GOAWAY if payload[4..8] != [0; 4] => return Heard::Closed,
                DATA => body.extend_from_slice(&payload),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                let status: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                return Heard::Answer(status["code"].as_u64().unwrap_or(200));
            }
        }
    };
    let heard = timeout(LIMIT, talk).await;
    heard.unwrap_or_else(|_| panic!("nothing was answered to {:?}", String::from_utf8_lossy(bytes)))
}

async fn clean(wire: &Wire, bytes: &[u8]) -> Rebuilt {
    assert_eq!(exchange(wire, bytes).await, Heard::Answer(200));
    let [rebuilt] = <[Rebuilt; 1]>::try_from(wire.upstream()).unwrap();
    rebuilt
}

#[tokio::test]
async fn appendix_3_no_frame_is_read_in_two_ways() {
    let wire = Wire::new().await;
    wire.world.server.answers(|seen| match seen.method.as_str() {
        "DELETE" => Reply::Json(200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        _ => Reply::Json(200, config_map("a")),
    });
    let clean_get = clean(&wire, &bare(&get())).await;
    let clean_post = clean(&wire, &full(&post(), BODY, None)).await;
    let mut failures = Vec::new();
    for (row, want, bytes) in pseudo().into_iter().chain(named()).chain(bodies()) {
        let heard = exchange(&wire, &bytes).await;
        let upstream = wire.upstream();
        let refused =
            upstream.is_empty() && matches!(heard, Heard::Reset | Heard::Closed | Heard::Answer(400..500));
        let is_clean = matches!(upstream.as_slice(), [one] if *one == clean_get || *one == clean_post);
        let holds = refused || want == NoOrClean && is_clean;
        if !holds {
            failures.push(format!("{row}: wanted {want:?}, heard {heard:?}, upstream {upstream:?}"));
        }
    }
    assert!(failures.is_empty(), "{} rows differ:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(clean(&wire, &bare(&get())).await, clean_get, "nothing came late");
}
