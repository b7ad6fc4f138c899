//! What is spoken before HTTP: TLS 1.3 and 1.2 with forward secrecy and authenticated ciphers, and a certificate that changes (F24).
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Server, client, connect, ended, h1_request, renew};

const ALERT: u8 = 0x15;
/// What an alert says: handshake_failure, protocol_version, no_application_protocol.
const REFUSALS: [u8; 3] = [40, 70, 120];

/// A ClientHello by hand: `version` as TLS 1.0 to 1.2 write it, with these cipher suites and the extensions that go with ECDHE.
fn hello(version: u16, suites: &[u16]) -> Vec<u8> {
    let list = |items: &[u16]| items.iter().flat_map(|item| item.to_be_bytes()).collect::<Vec<u8>>();
    let short =
        |bytes: &[u8]| [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &short(body)].concat();
    let extensions = [
        extension(10, &short(&list(&[0x1d, 0x17]))),
        extension(11, &[1, 0]),
        extension(13, &short(&list(&[0x0403, 0x0804, 0x0401, 0x0203, 0x0201]))),
        extension(23, &[]),
    ];
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &[0],
        &short(&list(suites)),
        &[1, 0],
        &short(&extensions.concat()),
    ];
    let body = body.concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[0x16, 0x03, 0x01][..], &short(&handshake)].concat()
}

#[tokio::test]
async fn old_versions_and_weak_ciphers_are_refused() {
    let modern = [0xc02b, 0xc02c, 0xcca9];
    let rows: [(&str, u16, &[u16]); 7] = [
        ("TLS 1.0", 0x0301, &modern),
        ("TLS 1.1", 0x0302, &modern),
        ("SSL 3.0", 0x0300, &modern),
        ("RSA key exchange", 0x0303, &[0x009c, 0x009d, 0x002f]),
        ("CBC", 0x0303, &[0xc009, 0xc00a, 0xc013, 0xc014, 0xc023]),
        ("RC4, 3DES, NULL, export", 0x0303, &[0x0005, 0x000a, 0x0001, 0x0003, 0xc008]),
        ("anonymous", 0x0303, &[0xc018, 0x0034, 0x006d]),
    ];
    let server = Server::new();
    for (name, version, suites) in rows {
        let (mut pipe, task) = server.pipe();
        pipe.write_all(&hello(version, suites)).await.expect("written");
        let mut said = Vec::new();
        pipe.read_to_end(&mut said).await.expect("the end");
        ended(task).await;
        assert_eq!(said.first(), Some(&ALERT), "{name}: {said:02x?}");
        assert!(REFUSALS.contains(&said[6]), "{name}: {said:02x?}");
    }
    assert_eq!(server.refused("NoTLS"), 7);
    let (mut pipe, _task) = server.pipe();
    pipe.write_all(&hello(0x0303, &modern)).await.expect("written");
    let mut first = [0; 6];
    pipe.read_exact(&mut first).await.expect("an answer");
    assert_eq!((first[0], first[5]), (0x16, 2), "the same hello with TLS 1.2 and a good suite is answered");
}

#[tokio::test]
async fn both_versions_and_protocols_are_spoken_and_no_others() {
    let server = Server::new();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for alpn in [&b"http/1.1"[..], b""] {
            let (pipe, _task) = server.pipe();
            let mut stream = connect(client(&server.ca, &[version], alpn), pipe).await.expect("TLS");
            h1_request(&mut stream).await;
        }
    }
    for alpn in [&b"http/1.0"[..], b"spdy/3.1", b"h2c"] {
        let (pipe, task) = server.pipe();
        assert!(connect(client(&server.ca, rustls::ALL_VERSIONS, alpn), pipe).await.is_err());
        ended(task).await;
    }
    let (mut pipe, task) = server.pipe();
    pipe.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("plain HTTP is written");
    let mut said = Vec::new();
    pipe.read_to_end(&mut said).await.expect("the end");
    ended(task).await;
    assert!(!said.starts_with(b"HTTP"), "{said:02x?}");
}

#[tokio::test]
async fn f24_the_next_handshake_sees_a_new_certificate_and_open_connections_go_on() {
    let server = Server::new();
    let (mut open, _task) = server.tls(b"http/1.1").await;
    h1_request(&mut open).await;
    let newer = renew(&server.certificate);
    assert!(server.certificate.replace(b"-----BEGIN CERT", b"half").is_err());
    let (pipe, _refused) = server.pipe();
    assert!(connect(client(&server.ca, rustls::ALL_VERSIONS, b"h2"), pipe).await.is_err(), "not the old one");
    let (pipe, _task) = server.pipe();
    let mut stream =
        connect(client(&newer, rustls::ALL_VERSIONS, b"http/1.1"), pipe).await.expect("the new one");
    h1_request(&mut stream).await;
    h1_request(&mut open).await;
}

#[tokio::test]
async fn f14_no_request_is_taken_from_early_data() {
    // Tickets hold no credential: each request shows its own token. What must not be is a request that can be replayed.
    let server = Server::new();
    let mut config = client(&server.ca, &[&rustls::version::TLS13], b"http/1.1");
    config.enable_early_data = true;
    for _ in 0..2 {
        let (pipe, _task) = server.pipe();
        let mut stream = connect(config.clone(), pipe).await.expect("TLS");
        assert!(!stream.get_ref().1.is_early_data_accepted());
        h1_request(&mut stream).await;
    }
}
