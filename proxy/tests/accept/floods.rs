//! Floods and stalls of HTTP/2 (F13, F14): the connection that sends them ends, memory stays, and nobody else notices.
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::attack::{
    Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, get,
};
use super::{PRODUCED, Server, h1_request};

const ENHANCE_YOUR_CALM: u32 = 11;
const INITIAL_WINDOW: u16 = 4;

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn id(number: u32) -> u32 {
    number * 2 + 1
}

/// Runs one flood: it is over long before `most`, the gate's memory has not grown by more than 32 MiB, another connection that
/// was open goes on, and a new one is served.
async fn repelled(name: &str, most: u32, make: impl Fn(u32) -> Vec<u8>) {
    let server = Server::new();
    let (mut other, _task) = server.tls(b"http/1.1").await;
    h1_request(&mut other).await;
    let attacker = Attacker::connect(&server, &[]).await;
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/"))).await;
    attacker.hears(|heard| heard.kind == DATA).await;
    let before = resident();
    let sent = attacker.flood(most, make).await;
    let heard = attacker.ended().await;
    assert!(sent < most, "{name}: all {most} were taken");
    let goaway = heard.iter().rfind(|heard| heard.kind == GOAWAY);
    assert!(goaway.is_none_or(|goaway| goaway.code() == ENHANCE_YOUR_CALM), "{name}: {goaway:?}");
    assert_eq!(server.refused("Flood"), 1, "{name}: it ended because it is a flood");
    let grown = resident().saturating_sub(before);
    assert!(grown < 32 * 1024, "{name}: {grown} KiB after {sent}");
    h1_request(&mut other).await;
    server.still_serves().await;
}

#[tokio::test]
async fn f13_f14_a_client_is_told_what_it_may_send() {
    let server = Server::new();
    let attacker = Attacker::connect(&server, &[]).await;
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    let told = attacker.hears(|heard| heard.kind == SETTINGS && !heard.payload.is_empty()).await;
    let of = |name: u16| {
        let mut settings = told.payload.chunks(6);
        settings.find(|one| one[..2] == name.to_be_bytes()).map(|one| number(&one[2..]))
    };
    let (streams, window, headers) = (of(3), of(INITIAL_WINDOW), of(6));
    assert_eq!((streams, window, headers), (Some(100), Some(128 * 1024), Some(64 * 1024)));
    let more = attacker.hears(|heard| heard.kind == WINDOW_UPDATE && heard.stream == 0).await;
    assert_eq!(number(&more.payload), 256 * 1024 - 65_535, "of the connection");
}

#[tokio::test]
async fn f14_rapid_reset_ends_the_connection() {
    let reset = |number: u32| {
        let stream = id(number + 1);
        let request = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/stranger/silent"));
        [request, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    repelled("one by one", 50_000, reset).await;
    let many = |number: u32| (0..500).flat_map(|index| reset(number * 500 + index)).collect();
    repelled("five hundred at once", 100, many).await;
}

#[tokio::test]
async fn f14_streams_that_the_gate_has_to_reset_end_the_connection() {
    // A request with `connection`, which HTTP/2 forbids: the gate resets the stream, and the client paid nothing (MadeYouReset).
    let wrong = |number: u32| {
        let field = [&[0x00, 10][..], b"connection", &[5], b"close"].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, id(number + 1), &[get("/"), field].concat())
    };
    repelled("malformed requests", 50_000, wrong).await;
}

#[tokio::test]
async fn f14_control_frames_without_end_end_the_connection() {
    repelled("PING", 100_000, |_| frame(PING, 0, 0, b"12345678")).await;
    repelled("SETTINGS", 100_000, |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])).await;
    repelled("PRIORITY", 100_000, |number| frame(PRIORITY, 0, id(number), &[0, 0, 0, 0, 1])).await;
    repelled("unknown frames", 100_000, |_| frame(99, 0, 0, b"x")).await;
    repelled("SETTINGS of a thousand values", 100_000, |_| {
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0].repeat(1000))
    })
    .await;
}

#[tokio::test]
async fn f14_empty_data_without_end_ends_the_connection() {
    let empty = |number: u32| match number {
        0 => frame(HEADERS, END_HEADERS, 3, &get("/stranger/silent")),
        _ => frame(DATA, 0, 3, b""),
    };
    repelled("empty DATA", 100_000, empty).await;
}

#[tokio::test]
async fn f13_continuation_without_end_ends_the_connection() {
    // A field that is never indexed, again and again, and no END_HEADERS.
    let field = [&[0x10, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let endless = move |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 3, &get("/")),
        _ => frame(CONTINUATION, 0, 3, &field.repeat(100)),
    };
    repelled("CONTINUATION", 10_000, endless).await;
    let tiny = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 3, &get("/")),
        _ => frame(CONTINUATION, 0, 3, b""),
    };
    repelled("empty CONTINUATION", 100_000, tiny).await;
}

#[tokio::test]
async fn f13_a_header_bomb_is_431_or_the_end() {
    let server = Server::new();
    let attacker = Attacker::connect(&server, &[]).await;
    // 4000 bytes are put into the table once and referred to by a byte each: 3 MB for the one who unpacks them.
    let indexed = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let bomb = [get("/"), indexed, vec![0xbe; 800]].concat();
    let before = resident();
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let heard = attacker.hears(|heard| matches!(heard.kind, HEADERS | GOAWAY | RST_STREAM)).await;
    // 0x88 would be `:status 200`; 431 is what h2 answers by itself.
    assert!(heard.kind == GOAWAY || (heard.kind == HEADERS && heard.payload[0] != 0x88), "{heard:?}");
    assert!(resident().saturating_sub(before) < 16 * 1024);
    server.still_serves().await;
}

#[tokio::test(start_paused = true)]
async fn f14_a_stream_whose_window_never_opens_is_cut_alone() {
    let server = Server::new();
    let attacker = Attacker::connect(&server, &[(INITIAL_WINDOW, 0)]).await;
    for stream in [1, 3] {
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("/endless"))).await;
        attacker.hears(|heard| heard.kind == HEADERS && heard.stream == stream).await;
    }
    let open = frame(WINDOW_UPDATE, 0, 3, &16_384_u32.to_be_bytes());
    let began = tokio::time::Instant::now();
    let cut = async {
        loop {
            attacker.send(&open).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if attacker.heard().iter().any(|heard| heard.kind == RST_STREAM && heard.stream == 1) {
                return began.elapsed().as_secs();
            }
        }
    };
    let seconds = tokio::time::timeout(Duration::from_secs(200), cut).await.expect("it is cut");
    assert!((59..=62).contains(&seconds), "{seconds}");
    assert!(
        attacker.heard().iter().any(|heard| heard.kind == DATA && heard.stream == 3),
        "the other one goes on"
    );
    assert!(!attacker.heard().iter().any(|heard| heard.kind == RST_STREAM && heard.stream == 3));
    assert!(!attacker.task.is_finished(), "and so does the connection");
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 5, &get("/"))).await;
    attacker.hears(|heard| heard.kind == HEADERS && heard.stream == 5).await;
}

#[tokio::test(start_paused = true)]
async fn f14_a_client_that_does_not_answer_pings_is_gone() {
    let server = Server::new();
    let (mut stream, task) = server.tls(b"h2").await;
    let opening = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/")),
    ];
    stream.write_all(&opening.concat()).await.expect("written");
    stream.flush().await.expect("sent");
    let began = tokio::time::Instant::now();
    task.await.expect("no panic");
    assert!(began.elapsed() <= Duration::from_secs(45), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn f12_what_nobody_reads_is_not_made_and_ends() {
    let made = || PRODUCED.load(Ordering::Relaxed) * 16;
    let server = Server::new();
    let (mut stream, task) = server.tls(b"http/1.1").await;
    stream.write_all(b"GET /endless/counted HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("written");
    stream.flush().await.expect("sent");
    let began = tokio::time::Instant::now();
    task.await.expect("no panic");
    assert!((60..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let on_h1 = made();
    assert!((16..1024).contains(&on_h1), "{on_h1} KiB for a reader who does not read");

    let attacker = Attacker::connect(&server, &[(INITIAL_WINDOW, 65_535)]).await;
    attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/endless/counted"))).await;
    let cut = attacker.hears(|heard| heard.kind == RST_STREAM && heard.stream == 1).await;
    assert_eq!(cut.code(), 8, "CANCEL");
    assert!(made() - on_h1 < 1024, "{} KiB for one window of 64", made() - on_h1);
}
