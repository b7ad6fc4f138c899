//! Header fields: what is refused, what is kept (P14, B84, B120 to B128, appendix 3).

mod facts;

use facts::{headers, read, with};
use http::{HeaderMap, HeaderValue, Version};
use parsing::Refused;
use parsing::header::{self, HeaderError, TokenError, Upgrade, bearer};

const POD: &str = "/api/v1/namespaces/a/pods/x";

fn refusal(headers: &HeaderMap, target: &str) -> String {
    match read("GET", target, headers, b"") {
        Ok(_) => "read".to_owned(),
        Err(refusal) => format!("{} {}", refusal.code.as_u16(), refusal.rule),
    }
}

#[test]
fn b84_impersonation_is_refused_in_every_spelling() {
    for name in [
        "Impersonate-User",
        "impersonate-group",
        "IMPERSONATE-UID",
        "Impersonate-Extra-Scopes",
        "Impersonate_User",
        "X-Remote-User",
        "x-remote-group",
        "X-Remote-Extra-Foo",
        "X-Remote_User",
    ] {
        assert_eq!(refusal(&with(headers(""), name, "system:masters"), POD), "403 B84", "{name}");
    }
    assert_eq!(refusal(&with(headers(""), "impersonate-user", ""), POD), "403 B84");
}

#[test]
fn b121_underscores_and_doubled_fields_are_refused() {
    for name in ["Kubectl_Command", "_", "a_b", "Authorization_"] {
        assert_eq!(refusal(&with(headers(""), name, "x"), POD), "400 B121", "{name}");
    }
    for (name, value) in [
        ("Authorization", "Bearer abc.def"),
        ("Authorization", "Bearer other"),
        ("Host", "gate:8443"),
        ("Host", "evil"),
    ] {
        assert_eq!(refusal(&with(headers(""), name, value), POD), "400 B121", "{name}");
    }
    for (name, value) in
        [("Content-Type", "application/json"), ("Content-Length", "0"), ("Transfer-Encoding", "chunked")]
    {
        let twice = with(with(headers(""), name, value), name, value);
        assert_eq!(refusal(&twice, POD), "400 B121", "{name}");
    }
}

#[test]
fn b126_framing_that_two_readers_read_differently_is_refused() {
    let cases = [
        ("Content-Length", "1, 1"),
        ("Content-Length", "+1"),
        ("Content-Length", "-1"),
        ("Content-Length", ""),
        ("Content-Length", "0x1"),
        ("Transfer-Encoding", "gzip, chunked"),
        ("Transfer-Encoding", "chunked, chunked"),
        ("Transfer-Encoding", "identity"),
        ("Transfer-Encoding", "xchunked"),
        ("Expect", "200-foo"),
        ("Expect", "100-continue, 200-foo"),
    ];
    for (name, value) in cases {
        assert_eq!(refusal(&with(headers(""), name, value), POD), "400 B126", "{name}: {value}");
    }
    let both = with(with(headers(""), "Content-Length", "3"), "Transfer-Encoding", "chunked");
    assert_eq!(refusal(&both, POD), "400 B126");
    for value in ["gzip", "br", "deflate", "gzip, identity"] {
        assert_eq!(refusal(&with(headers(""), "Content-Encoding", value), POD), "415 B126");
    }
    let mut strange = headers("");
    strange.insert("x-note", HeaderValue::from_bytes(b"caf\xc3\xa9").expect("a value"));
    assert_eq!(refusal(&strange, POD), "400 B126");
    let mut hostless = headers("");
    hostless.remove("host");
    assert_eq!(refusal(&hostless, POD), "400 B126");
    for version in [Version::HTTP_09, Version::HTTP_10] {
        assert_eq!(header::check(version, &headers("")), Err(HeaderError::Version));
    }
    assert_eq!(header::check(Version::HTTP_2, &hostless), Ok(()));
    let expecting = with(with(headers(""), "Expect", "100-continue"), "Content-Length", "0");
    assert_eq!(refusal(&expecting, POD), "read");
}

#[test]
fn f13_too_many_fields_are_refused() {
    let many = (0..100).fold(headers(""), |map, i| with(map, &format!("x-{i}"), "1"));
    assert_eq!(refusal(&many, POD), "400 F13");
}

#[test]
fn b122_a_token_is_one_and_not_empty() {
    let cases: [(&[&str], Result<&str, TokenError>); 13] = [
        (&["Bearer abc.def-_~+/="], Ok("abc.def-_~+/=")),
        (&["bearer abc"], Ok("abc")),
        (&["BEARER abc"], Ok("abc")),
        (&["Bearer  abc "], Ok("abc")),
        (&[], Err(TokenError::Missing)),
        (&["Bearer a", "Bearer a"], Err(TokenError::Doubled)),
        (&["Bearer "], Err(TokenError::Empty)),
        (&["Bearer"], Err(TokenError::Empty)),
        (&["Bearer    "], Err(TokenError::Empty)),
        (&["Bearer a b"], Err(TokenError::Characters)),
        (&["Bearer a,b"], Err(TokenError::Characters)),
        (&["Basic dXNlcjpwYXNz"], Err(TokenError::Scheme)),
        (&[""], Err(TokenError::Scheme)),
    ];
    for (values, want) in cases {
        let map = values.iter().fold(HeaderMap::new(), |map, value| with(map, "authorization", value));
        let got = bearer(&map);
        assert_eq!(got.as_ref().map(header::Token::expose).map_err(|error| *error), want, "{values:?}");
        if let Err(error) = got {
            assert_eq!(error.code().as_u16(), 401);
        }
    }
    let token = bearer(&with(HeaderMap::new(), "authorization", "Bearer very-secret")).expect("a token");
    assert!(!format!("{token:?}").contains("secret"));
}

#[test]
fn p14_upgrades_are_taken_on_streams_only() {
    let websocket = with(with(headers(""), "Connection", "keep-alive, Upgrade"), "Upgrade", "websocket");
    let spdy = with(with(headers(""), "Connection", "upgrade"), "Upgrade", "SPDY/3.1");
    let log = format!("{POD}/log?follow=true");
    let exec = format!("{POD}/exec?command=sh");
    for target in ["/api/v1/pods?watch=1", POD, &log, "/version", "/api/v1/nodes/n/proxy/exec"] {
        assert_eq!(refusal(&websocket, target), "400 P14", "{target}");
        assert_eq!(refusal(&spdy, target), "400 P14", "{target}");
    }
    assert_eq!(refusal(&websocket, &exec), "read");
    assert_eq!(refusal(&spdy, &exec), "read");
    assert_eq!(read("GET", &exec, &spdy, b"").expect("read").headers.upgrade, Some(Upgrade::Spdy));
    for protocol in ["h2c", "websocket, h2c", "SPDY/3", "tls/1.0", ""] {
        let map = with(with(headers(""), "Connection", "upgrade"), "Upgrade", protocol);
        assert_eq!(refusal(&map, &exec), "400 P14", "{protocol}");
        assert_eq!(refusal(&map, POD), "400 P14", "{protocol}");
    }
    assert_eq!(refusal(&with(headers(""), "Connection", "Upgrade"), POD), "400 P14");
    assert_eq!(refusal(&with(headers(""), "Upgrade", "websocket"), &exec), "400 P14");
}

#[test]
fn b123_a_token_in_a_subprotocol_is_dropped() {
    let upgrade = with(with(headers(""), "Connection", "upgrade"), "Upgrade", "websocket");
    let exec = format!("{POD}/exec?command=sh");
    let token = "base64url.bearer.authorization.k8s.io.c2VjcmV0";
    let both = with(upgrade.clone(), "Sec-WebSocket-Protocol", &format!("{token}, v5.channel.k8s.io"));
    let kept = read("GET", &exec, &both, b"").expect("read").headers;
    assert_eq!(kept.subprotocols, ["v5.channel.k8s.io"]);
    assert!(!format!("{kept:?}").contains("c2VjcmV0"));
    assert_eq!(refusal(&with(upgrade, "Sec-WebSocket-Protocol", token), &exec), "400 B123");
}

#[test]
fn b120_b128_nothing_of_the_client_goes_upstream_unasked() {
    let names = [
        "X-Forwarded-For",
        "X-Real-Ip",
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "Cookie",
        "Audit-ID",
        "Range",
    ];
    let map = names.iter().fold(headers(""), |map, name| with(map, name, "x"));
    let map = with(with(map, "Connection", "authorization, x-foo"), "If-None-Match", "\"tag\"");
    let upstream = |target: &str| read("GET", target, &map, b"").expect("read").headers.upstream();
    assert!(upstream(POD).is_empty());
    assert!(upstream("/metrics").is_empty());
    let openapi = upstream("/openapi/v3");
    assert_eq!(openapi.len(), 1);
    assert_eq!(openapi["if-none-match"], "\"tag\"");
}

#[test]
fn b02_several_accept_fields_are_one_list() {
    let map = with(with(headers(""), "Accept", "application/yaml"), "Accept", "*/*");
    let kept = read("GET", POD, &map, b"").expect("read").headers;
    assert_eq!(kept.accept.as_deref(), Some("application/yaml,*/*"));
}
