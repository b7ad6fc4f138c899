//! The whole gate in process, in front of an API server that lies, breaks and stalls.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on fails"
)]

/// A token for the gate's audience that the scripted API server answers for by its third part.
macro_rules! token_of {
    ($who:literal) => {
        concat!("e30.eyJhdWQiOiJzYWxseXBvcnQiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.", $who)
    };
}

/// The agent's token as a header field's value.
const BEARER: &str = concat!("Bearer ", token_of!("good"));

mod closed;
mod discovery;
mod frames;
mod framing;
mod server;
mod wire;
mod world;

use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proxy::live::AgentKey;
use recording::event::{Disposition, Event};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use server::Reply;
use world::{World, request, whole};

const MAPS: &str = "/api/v1/namespaces/payments/configmaps";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "payments"},
           "data": {"password": "canary-hunter2"}})
}

fn rebuilt(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

#[tokio::test]
async fn h2_nothing_of_the_client_reaches_upstream_but_what_was_read() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    let headers = [
        ("connection", "authorization, impersonate-user"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/api/v1/secrets"),
        ("kubectl-command", "kubectl get"),
        ("audit-id", "forged"),
        ("cookie", "a=b"),
        ("accept", "application/vnd.kubernetes.protobuf"),
        ("accept-encoding", "gzip"),
        ("user-agent", "kubectl/v1.36.3"),
    ];
    let answer = world.send("GET", &format!("{MAPS}/a"), &headers, "").await;
    assert_eq!(answer.code, 200, "{:?}", answer.body);
    let seen = world.server.seen();
    let [seen] = seen.as_slice() else { panic!("{seen:?}") };
    let mut names: Vec<&str> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "audit-id",
            "authorization",
            "host",
            "impersonate-extra-sallyport.dev%2frequest-id",
            "impersonate-extra-sallyport.dev%2fsession",
            "impersonate-group",
            "impersonate-user",
            "user-agent",
        ]
    );
    assert_eq!(seen.target, format!("{MAPS}/a"));
    assert_eq!(seen.header("authorization"), ["Bearer the-proxys-own-token"]);
    assert_eq!(seen.header("impersonate-user"), ["sallyport:agent:agents:claude-code"]);
    assert_eq!(seen.header("impersonate-group"), ["sallyport:agents", "sallyport:agents:agents"]);
    assert_eq!(seen.header("accept-encoding"), ["identity"]);
    assert!(seen.header("accept")[0].starts_with("application/json"), "{seen:?}");
    let id = answer.headers["audit-id"].to_str().unwrap();
    assert_eq!(seen.header("audit-id"), [id]);
    assert_eq!(seen.header("host"), [world.server.address.to_string()]);
}

#[tokio::test]
async fn p15_no_target_changes_the_host() {
    let world = World::new().await;
    for target in
        ["//evil.example/api/v1/secrets", "http://evil.example/api", "/api/v1/..%2f..%2fsecrets", "/\\evil"]
    {
        let Ok(uri) = target.parse::<http::Uri>() else { continue };
        let mut wrong = request("GET", "/", &[], "");
        *wrong.uri_mut() = uri;
        let answer = whole(world.connect().await.send_request(wrong).await.unwrap()).await;
        assert_eq!(answer.code, 400, "`{target}`: {:?}", answer.body);
    }
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn b122_every_wrong_token_is_401_and_nothing_goes_upstream() {
    let world = World::new().await;
    let foreign =
        "e30.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoibWUiLCJhdWQiOiJzYWxseXBvcnQifQ.c2ln";
    let foreign = format!("Bearer {foreign}");
    let long = format!("{BEARER}{}", "d".repeat(16 * 1024));
    let jwt = "Bearer e30.eyJhdWQiOlsiaHR0cHM6Ly9rdWJlcm5ldGVzLmRlZmF1bHQuc3ZjIl19.c2ln";
    for (authorization, says) in [
        ("", "no token"),
        ("Bearer", "token"),
        ("Bearer  ", "token"),
        ("Basic Z29vZA==", "Bearer"),
        (
            concat!("Bearer ", token_of!("wrong")),
            "the token is not valid; next: mount a projected token with audience sallyport",
        ),
        (concat!("Bearer ", token_of!("kubernetes")), "mount a projected token with audience sallyport"),
        (
            concat!("Bearer ", token_of!("stranger")),
            "no AgentIdentity names the subject `system:serviceaccount:agents:stranger`",
        ),
    ] {
        let answer = world.send("GET", MAPS, &[("authorization", authorization)], "").await;
        assert_eq!(answer.code, 401, "`{authorization}`");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(says), "`{authorization}`: {message}");
        let reviews = usize::from(authorization.starts_with("Bearer e30"));
        assert_eq!(world.server.reviews().len(), reviews, "`{authorization}`");
        world.server.forget();
    }
    // What no ServiceAccount's token can be is not shown to the API server, whose audit log would keep it.
    let unknown = "the token is not valid: damaged, cut off, encrypted or of no known kind";
    for (authorization, says) in [
        ("Bearer hunter2", unknown),
        ("Bearer a.b", unknown),
        ("Bearer e30.e30", unknown),
        ("Bearer e30.x.c2ln", unknown),
        ("Bearer x.e30.c2ln", unknown),
        ("Bearer e30.e30.c2ln.c2ln.c2ln", unknown),
        ("Bearer e30.e30.c2ln", "the token is not valid; next: mount"),
        ("Bearer k8s-aws-v1.aHR0cHM", "no AgentIdentity of this gate names an AWS IAM role"),
        ("Bearer e30.eyJhdWQiOiJzYWxseXBvcnQiLCJleHAiOjF9.good", "the token has expired"),
        (&foreign, "token issuer is \"https://issuer.example\", which no AgentIdentity names"),
        (&long, "the token is longer than 16384 bytes"),
        (jwt, "token audience is \"https://kubernetes.default.svc\" but must be \"sallyport\""),
    ] {
        let answer = world.send("GET", MAPS, &[("authorization", authorization)], "").await;
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(answer.code == 401 && message.contains(says), "`{authorization}`: {message}");
        assert!(message.contains("; next: "), "{message}");
        assert_eq!(world.server.reviews().len(), 0, "`{authorization}`");
    }
    let twice = [("authorization", BEARER), ("authorization", BEARER)];
    assert!(matches!(world.send("GET", MAPS, &twice, "").await.code, 400 | 401));
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn b84_a_client_that_impersonates_is_refused() {
    let world = World::new().await;
    for name in
        ["impersonate-user", "impersonate-group", "impersonate-extra-a", "x-remote-user", "impersonate_user"]
    {
        let answer = world.send("GET", MAPS, &[(name, "system:admin")], "").await;
        assert!(matches!(answer.code, 400 | 403), "{name}: {}", answer.code);
    }
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn f25_without_token_reviews_nobody_is_let_in() {
    let world = World::new().await;
    world.server.reviews_fail();
    let answer = world.get(MAPS).await;
    assert_eq!((answer.code, answer.reason().as_str()), (503, "ServiceUnavailable"));
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn a_suspended_agent_is_refused_at_once() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 200);
    world.suspend(true);
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert_eq!((answer.code, answer.reason().as_str()), (403, "AgentSuspended"));
    world.suspend(false);
    assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 200);
}

#[tokio::test]
async fn f04_a_write_that_breaks_off_is_unknown_and_sent_once() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Cut);
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    for (method, target) in [("POST", MAPS.to_owned()), ("DELETE", format!("{MAPS}/a"))] {
        let body = if method == "POST" { body.as_str() } else { "" };
        let answer = world.send(method, &target, &[("content-type", "application/json")], body).await;
        assert_eq!((answer.code, answer.reason().as_str()), (502, "OutcomeUnknown"), "{method}");
        assert!(!answer.headers.contains_key("retry-after"));
        assert!(answer.json()["message"].as_str().unwrap().contains("outcome unknown"));
        let sent = world.server.seen().into_iter().filter(|seen| seen.method == method).count();
        assert_eq!(sent, 1, "{method}");
    }
    let events = world.events().await;
    let unknown = events.iter().filter(
        |event| matches!(event, Event::Outcome(outcome) if outcome.disposition == Disposition::Unknown),
    );
    assert_eq!(unknown.count(), 2, "{events:?}");
}

#[tokio::test]
async fn f30_a_write_goes_on_when_its_client_leaves() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Late(300, config_map("a")));
    let mut client = world.connect().await;
    let send = client.send_request(request("DELETE", &format!("{MAPS}/a"), &[], ""));
    assert!(tokio::time::timeout(Duration::from_millis(100), send).await.is_err(), "no answer yet");
    drop(client);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.server.seen().len(), 1);
    let events = world.events().await;
    let executed = events.iter().any(
        |event| matches!(event, Event::Outcome(outcome) if outcome.disposition == Disposition::Executed && outcome.code == 200),
    );
    assert!(executed, "{events:?}");
}

#[tokio::test]
async fn b127_redirects_and_switches_are_never_followed() {
    let world = World::new().await;
    for code in [301, 302, 303, 304, 307, 308] {
        let elsewhere = format!("http://{}/api/v1/namespaces/kube-system/secrets", world.server.address);
        world.server.answers(move |_| Reply::Raw(code, vec![("location", elsewhere.clone())], Bytes::new()));
        let answer = world.get(&format!("{MAPS}/a")).await;
        assert_eq!(answer.code, 502, "{code}: {:?}", answer.body);
    }
    assert_eq!(world.server.seen().len(), 6, "each was asked for once");
}

#[tokio::test]
async fn h4_what_cannot_be_read_does_not_leave() {
    let world = World::new().await;
    let json = || ("content-type", "application/json".to_owned());
    let canary = Bytes::from(config_map("a").to_string());
    let raw = |fields: Vec<(&'static str, String)>, body: Bytes| Reply::Raw(200, fields, body);
    for reply in [
        raw(vec![("content-type", "text/html".into())], canary.clone()),
        raw(vec![("content-type", "application/vnd.kubernetes.protobuf".into())], canary.clone()),
        raw(vec![], canary.clone()),
        raw(vec![json(), ("content-encoding", "gzip".into())], canary.clone()),
        raw(vec![json()], canary.slice(..canary.len() - 5)),
        raw(vec![json()], Bytes::from_static(b"\"canary-hunter2\"")),
        raw(vec![json()], Bytes::from_static(b"canary-hunter2")),
        raw(vec![json()], Bytes::new()),
    ] {
        let told = reply.clone();
        world.server.answers(move |_| told.clone());
        let answer = world.get(&format!("{MAPS}/a")).await;
        assert_eq!(answer.code, 502, "{reply:?}: {:?}", answer.body);
        assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{reply:?}");
    }
}

#[tokio::test]
async fn an_answer_is_masked_and_says_so() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{:?}", answer.body);
    assert!(String::from_utf8_lossy(&answer.body).contains("[MASKED:settings]"), "{:?}", answer.body);
    assert!(answer.headers["warning"].to_str().unwrap().contains("masked (settings)"));
}

#[tokio::test]
async fn the_targets_own_no_is_passed_on_with_a_hint() {
    let world = World::new().await;
    let user = "sallyport:agent:agents:claude-code";
    let message =
        format!("configmaps \"a\" is forbidden: User \"{user}\" cannot get resource \"configmaps\"");
    world.server.answers(move |_| Reply::Json(403, rebuilt(403, "Forbidden", &message)));
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert_eq!((answer.code, answer.reason().as_str()), (403, "Forbidden"));
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(
        warning.contains("Sallyport allowed this request; Kubernetes RBAC on the target denied it for user"),
        "{warning}"
    );
    assert!(warning.contains(user), "{warning}");
}

#[tokio::test]
async fn f05_a_no_to_the_gate_itself_is_no_decision_about_the_agent() {
    let world = World::new().await;
    for cannot in ["impersonate resource \"users\"", "impersonate-on:user-info:get resource \"configmaps\""] {
        let message =
            format!("configmaps \"a\" is forbidden: User \"system:serviceaccount:s:proxy\" cannot {cannot}");
        world.server.answers(move |_| Reply::Json(403, rebuilt(403, "Forbidden", &message)));
        for method in ["GET", "DELETE"] {
            let answer = world.send(method, &format!("{MAPS}/a"), &[], "").await;
            assert_eq!((answer.code, answer.reason().as_str()), (502, "BadGateway"), "{method}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("serviceaccount"), "{:?}", answer.body);
        }
    }
    let events = world.events().await;
    let failed =
        |event: &&Event| matches!(event, Event::Outcome(one) if one.disposition == Disposition::Failed);
    assert_eq!(events.iter().filter(failed).count(), 4, "{events:?}");
}

#[tokio::test]
async fn c_a_write_that_would_destroy_a_value_is_refused() {
    let world = World::new().await;
    let base64 = "W01BU0tFRDpzZXR0aW5nc10=";
    for (target, data, reason) in [
        (MAPS, json!({"password": "[MASKED:settings]"}), "MaskedValueInWrite"),
        (MAPS, json!({"password": base64}), "MaskedValueInWrite"),
        ("/api/v1/namespaces/payments/secrets", json!({"password": base64}), "MaskedValueInWrite"),
    ] {
        let kind = if target == MAPS { "ConfigMap" } else { "Secret" };
        let body = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a"}, "data": data});
        let answer =
            world.send("POST", target, &[("content-type", "application/json")], &body.to_string()).await;
        assert_eq!((answer.code, answer.reason().as_str()), (403, reason), "{body}");
    }
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn streams_that_have_no_codec_are_refused_by_name() {
    let world = World::new().await;
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    let exec = "/api/v1/namespaces/payments/pods/web/exec?command=id&container=web&stdout=true";
    let answer = world.send("GET", exec, &upgrade, "").await;
    assert_eq!((answer.code, answer.reason().as_str()), (403, "StreamDenied"), "{:?}", answer.body);
    let answer = world.send("GET", MAPS, &upgrade, "").await;
    assert_eq!(answer.code, 400, "P14: {:?}", answer.body);
    assert!(world.server.seen().is_empty());
}

#[tokio::test]
async fn limits_are_told_apart() {
    let world = World::limited(1).await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    let mut codes = Vec::new();
    for _ in 0..10 {
        let answer = world.get(&format!("{MAPS}/a")).await;
        if answer.code == 429 {
            assert_eq!(answer.headers["retry-after"], "1");
            assert_eq!(answer.reason(), "TooManyRequests");
        }
        codes.push(answer.code);
    }
    assert!(codes.contains(&429) && codes.contains(&200), "{codes:?}");
}

#[tokio::test]
async fn f14_an_agent_with_too_many_connections_is_told_and_nothing_is_forwarded() {
    let mut world = World::new().await;
    world.hold_connections(2);
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    let get = || request("GET", &format!("{MAPS}/a"), &[], "");
    let (mut first, mut second) = (world.connect().await, world.connect().await);
    for client in [&mut first, &mut second] {
        assert_eq!(whole(client.send_request(get()).await.unwrap()).await.code, 200);
    }
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert_eq!((answer.code, answer.reason().as_str()), (429, "TooManyRequests"));
    assert_eq!(answer.headers["retry-after"], "1");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("agents/claude-code already holds 2 connections"), "{message}");
    assert_eq!(world.server.seen().len(), 2);
    drop(first);
    let again = async {
        while world.get(&format!("{MAPS}/a")).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), again).await.expect("a place is given back");
}

#[tokio::test]
async fn f28_requests_in_flight_are_bounded_and_streams_do_not_count() {
    let world = World::new().await;
    let key = AgentKey::new("agents", "claude-code");
    let mut held: Vec<_> = (0..200).map(|_| world.gate.limits.request(&key).unwrap()).collect();
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert_eq!((answer.code, answer.reason().as_str()), (429, "TooManyRequests"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("already has 200 requests in flight"), "{message}");
    assert!(world.server.seen().is_empty());
    held.pop();
    endless_watch(&world);
    let mut client = world.connect().await;
    let mut watch =
        client.send_request(request("GET", &format!("{MAPS}?watch=true"), &[], "")).await.unwrap();
    watch.frame().await.unwrap().unwrap();
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 200, "the watch gave its place back");
}

#[tokio::test]
async fn f10_a_body_that_trickles_is_a_400_and_nothing_is_forwarded() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    let mut client = world.connect().await;
    assert_eq!(
        whole(client.send_request(request("GET", &format!("{MAPS}/a"), &[], "")).await.unwrap()).await.code,
        200
    );
    let mut raw = world.raw().await;
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: gate\r\nAuthorization: {BEARER}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let (mut reader, mut writer) = tokio::io::split(raw);
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut said = Vec::new();
    while !said.windows(3).any(|three| three == b"F10") {
        assert!(reader.read_buf(&mut said).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    assert!(said.to_lowercase().contains("connection: close"), "{said}");
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(world.server.seen().len(), 1);
    trickle.abort();
}

fn endless_watch(world: &World) {
    let event = format!("{}\n", json!({"type": "ADDED", "object": config_map("a")}));
    world.server.answers(move |_| Reply::Endless(Bytes::from(event.clone())));
}

#[tokio::test]
async fn one_stream_too_many_is_denied_and_a_place_is_given_back() {
    let world = World::new().await;
    endless_watch(&world);
    let mut client = world.connect().await;
    let mut first =
        client.send_request(request("GET", &format!("{MAPS}?watch=true"), &[], "")).await.unwrap();
    let event = first.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("[MASKED:settings]"), "{event:?}");
    let second = world.get(&format!("{MAPS}?watch=true")).await;
    assert_eq!((second.code, second.reason().as_str()), (403, "StreamDenied"));
    drop((first, client));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut client = world.connect().await;
    let third = client.send_request(request("GET", &format!("{MAPS}?watch=true"), &[], "")).await.unwrap();
    assert_eq!(third.status(), 200);
}

#[tokio::test]
async fn e10_a_suspended_agents_watch_is_told_why_and_breaks_off() {
    let world = World::new().await;
    world.watch_over_streams();
    endless_watch(&world);
    let mut client = world.connect().await;
    let mut watch =
        client.send_request(request("GET", &format!("{MAPS}?watch=true"), &[], "")).await.unwrap();
    watch.frame().await.unwrap().unwrap();
    let since = std::time::Instant::now();
    world.suspend(true);
    let said = watch.frame().await.unwrap().unwrap().into_data().unwrap();
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!((&said["type"], &said["object"]["reason"]), (&json!("ERROR"), &json!("AgentSuspended")));
    assert!(watch.frame().await.unwrap().is_err(), "never a clean end");
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    let events = world.events().await;
    let cut = events
        .iter()
        .any(|event| matches!(event, Event::Outcome(one) if one.disposition == Disposition::Cut));
    assert!(cut, "{events:?}");
}

/// Opens a watch or a followed log with a token that ends so many seconds from now; its body, and the token.
async fn opened_for(
    world: &World,
    target: &str,
    is_h2: bool,
    end: i64,
) -> (hyper::Response<Incoming>, String) {
    let claims = json!({"aud": "sallyport", "exp": end, "sub": "system:serviceaccount:a:b"}).to_string();
    let token = format!("e30.{}.good", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims));
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let answer = if is_h2 {
        let asked = request("GET", &format!("http://gate{target}"), &headers, "");
        world.connect_h2().await.send_request(asked).await
    } else {
        world.connect().await.send_request(request("GET", target, &headers, "")).await
    };
    (answer.unwrap(), token)
}

/// How a stream is cut when its token ends, and when.
async fn until_its_token_ends(target: &str, is_h2: bool) {
    let world = World::new().await;
    world.watch_over_streams();
    endless_watch(&world);
    let now = || jiff::Timestamp::now().as_second();
    let (mut life, mut end) = (2, now() + 2);
    let (mut opened, mut token) = opened_for(&world, target, is_h2, end).await;
    // A machine that is slower than the token is short-lived has no stream to cut.
    while opened.status() == 401 && life < 60 {
        (life, end) = (life * 2, now() + life * 2);
        (opened, token) = opened_for(&world, target, is_h2, end).await;
    }
    assert_eq!(opened.status(), 200, "{target}");
    let mut body = opened.into_body();
    body.frame().await.unwrap().unwrap();
    if target.contains("watch") {
        let said = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let said: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!((&said["type"], &said["object"]["reason"]), (&json!("ERROR"), &json!("Unauthorized")));
        assert!(!said.to_string().contains(&token));
    }
    assert!(body.frame().await.unwrap().is_err(), "{target}: never a clean end");
    assert!(now() >= end, "{target}: it ended before its token");
    let events = world.events().await;
    let is_cut = |event: &Event| matches!(event, Event::Outcome(one) if one.disposition == Disposition::Cut);
    assert!(events.iter().any(is_cut), "{target}: {events:?}");
}

#[tokio::test]
async fn f23_a_tokens_end_ends_its_watches_and_followed_logs() {
    let watch = format!("{MAPS}?watch=true");
    let log = "/api/v1/namespaces/payments/pods/web/log?follow=true";
    tokio::join!(
        until_its_token_ends(&watch, false),
        until_its_token_ends(&watch, true),
        until_its_token_ends(log, false),
        until_its_token_ends(log, true),
    );
}

#[tokio::test]
async fn f29_a_panic_on_the_way_is_a_500_and_nothing_is_forwarded() {
    let world = World::new().await;
    world.server.answers(|_| Reply::Json(200, config_map("a")));
    world.panics(true);
    for method in ["GET", "DELETE"] {
        let answer = world.send(method, &format!("{MAPS}/a"), &[], "").await;
        assert_eq!((answer.code, answer.reason().as_str()), (500, "InternalError"), "{method}");
    }
    assert!(world.server.seen().is_empty());
    world.panics(false);
    assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 200, "the next request is served");
}

#[tokio::test]
async fn f02_a_drain_ends_watches_cleanly() {
    let world = World::new().await;
    world.watch_over_streams();
    endless_watch(&world);
    let mut client = world.connect().await;
    let mut watch =
        client.send_request(request("GET", &format!("{MAPS}?watch=true"), &[], "")).await.unwrap();
    watch.frame().await.unwrap().unwrap();
    world.gate.drain.close();
    let end = tokio::time::timeout(Duration::from_secs(2), watch.frame()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
    let events = world.events().await;
    let is_cut = |event: &Event| matches!(event, Event::Outcome(one) if one.disposition == Disposition::Cut);
    assert!(events.iter().any(is_cut), "the gate ended it: {events:?}");
}

#[tokio::test]
async fn every_refusal_is_recorded_with_its_rule() {
    let world = World::new().await;
    for (method, target, code, reason) in [
        ("GET", "/api/v1/namespaces/payments//configmaps", 400, "BadRequest"),
        ("HEAD", MAPS, 405, "MethodNotAllowed"),
        ("GET", "/api/v1/namespaces/payments/nosuchthings", 404, "NotFound"),
        ("GET", "/api/v1/nodes", 403, "NotAllowed"),
        ("GET", "/livez", 403, "NotAllowed"),
    ] {
        let answer = world.send(method, target, &[], "").await;
        assert_eq!(answer.code, code, "{target}");
        if method != "HEAD" {
            assert_eq!(answer.reason(), reason, "{target}");
        }
    }
    assert!(world.server.seen().is_empty());
    let events = world.events().await;
    let refused: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Refusal(refusal) => Some((refusal.reason.clone(), refusal.rules.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(refused.len(), 5, "{events:?}");
    assert_eq!(refused[0], ("BadRequest".to_owned(), vec!["P4".to_owned()]));
    assert_eq!(refused[1], ("MethodNotAllowed".to_owned(), vec!["P1".to_owned()]));
    assert_eq!(refused[2], ("NotFound".to_owned(), vec!["P11".to_owned()]));
}
