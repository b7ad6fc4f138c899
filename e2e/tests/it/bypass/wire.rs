//! Framing, headers and upgrades: what is sent by hand and understood by nobody as the attacker wishes.

use std::time::Duration;

use e2e::Filter;

use super::{assert_refused, siege};

/// Appendix 3: what is sent as the head, and what may follow it.
fn framings(namespace: &str, token: &str) -> Vec<(&'static str, String)> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let head = format!("Host: sallyport\r\nAuthorization: Bearer {token}\r\n");
    let next = format!("DELETE {path}/flags HTTP/1.1\r\n{head}\r\n");
    let get = |version: &str, more: &str| format!("GET {path}/flags {version}\r\n{head}{more}\r\n");
    let post = |more: &str, body: &str| format!("POST {path} HTTP/1.1\r\n{head}{more}\r\n{body}");
    vec![
        ("CL.TE", post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{next}"))),
        (
            "TE.CL",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                &format!("5c\r\n{next}\r\n0\r\n\r\n"),
            ),
        ),
        ("two CL", post("Content-Length: 0\r\nContent-Length: 9\r\n", &next)),
        ("CL list", post("Content-Length: 0, 0\r\n", &next)),
        ("CL plus", post("Content-Length: +0\r\n", &next)),
        ("CL minus", post("Content-Length: -1\r\n", &next)),
        ("TE identity", post("Transfer-Encoding: identity\r\n", &next)),
        ("TE xchunked", post("Transfer-Encoding: xchunked\r\n", &next)),
        (
            "TE twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{next}")),
        ),
        ("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", &format!("0\r\n\r\n{next}"))),
        ("TE vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", &next)),
        ("space before colon", post("Transfer-Encoding : chunked\r\n", &format!("0\r\n\r\n{next}"))),
        ("chunk size 0x1", post("Transfer-Encoding: chunked\r\n", "0x1\r\n{\r\n0\r\n\r\n")),
        ("obs-fold", get("HTTP/1.1", "X: a\r\n b\r\n")),
        ("NUL", get("HTTP/1.1", "X: a\0b\r\n")),
        ("HTTP/1.0", get("HTTP/1.0", "")),
        ("HTTP/1.2", get("HTTP/1.2", "")),
        ("two Host", get("HTTP/1.1", "Host: other\r\n")),
        ("no Host", format!("GET {path}/flags HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n")),
        ("GET with a body", format!("GET {path}/flags HTTP/1.1\r\n{head}Content-Length: 2\r\n\r\n{{}}")),
        ("Expect", get("HTTP/1.1", "Expect: 200-foo\r\n")),
        (
            "upgrade and more",
            format!("{}{next}", get("HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n")),
        ),
        (
            "h2c",
            get(
                "HTTP/1.1",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\n",
            ),
        ),
    ]
}

#[tokio::test]
async fn b126_no_framing_smuggles_a_second_request() -> anyhow::Result<()> {
    let estate = siege().await?;
    for (what, bytes) in framings(&estate.namespace, &estate.agent.token()?) {
        let mut connection = estate.agent.connect(0).await?;
        connection.send(bytes.as_bytes()).await?;
        let answered = tokio::time::timeout(Duration::from_secs(15), connection.answer()).await;
        if let Ok(Ok(answer)) = answered {
            assert!((400..600).contains(&answer.code), "{what}: {} {}", answer.code, answer.text());
        }
    }
    assert_eq!(estate.ran(Some("delete"), "configmaps").await?, 0, "the second request is never seen");
    assert_eq!(estate.ran(Some("create"), "configmaps").await?, 0);
    Ok(())
}

#[tokio::test]
async fn b84_b120_to_b128_no_header_makes_the_agent_somebody_else() -> anyhow::Result<()> {
    let estate = siege().await?;
    let flags = format!("{}/flags", estate.maps());
    for (name, value) in [
        ("Impersonate-User", "system:admin"),
        ("impersonate-group", "system:masters"),
        ("Impersonate-Extra-Scopes", "x"),
        ("Impersonate-Uid", "1"),
        ("Impersonate_User", "system:admin"),
        ("X-Remote-User", "system:admin"),
        ("X_Forwarded_User", "system:admin"),
        ("Authorization", "Bearer other"),
        ("Authorization", "Basic YTpi"),
        ("Content-Encoding", "gzip"),
        ("Upgrade", "websocket"),
        ("Connection", "upgrade"),
    ] {
        let answer = estate.try_it("GET", &flags, &[(name, value)], "").await?;
        assert_refused(name, &answer);
    }
    let harmless = [
        ("Connection", "authorization, impersonate-user"),
        ("X-Forwarded-For", "10.9.8.7"),
        ("X-Real-Ip", "10.9.8.7"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Original-URL", "/api/v1/secrets"),
        ("Audit-ID", "forged"),
        ("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.AAAA"),
        ("Range", "bytes=0-9"),
    ];
    let answer = estate.try_it("GET", &flags, &harmless, "").await?;
    assert_eq!(answer.code, 200, "{}", answer.text());
    let filter = Filter::ran_as(&estate.agent.username()).resource("configmaps").namespace(&estate.namespace);
    let seen = estate.gate.plane().audit().requests(&filter).await?;
    assert_eq!(
        seen.iter().map(|one| one.audit_id.as_str()).collect::<Vec<_>>(),
        [answer.header("audit-id").unwrap_or_default()]
    );
    let token = estate.agent.token()?;
    for authorization in [
        "",
        "Bearer",
        "Bearer  ",
        "bearer\t",
        "Basic x",
        &format!("Bearer {token}, Bearer {token}"),
        &format!("Bearer {token}x"),
    ] {
        let request =
            format!("GET {flags} HTTP/1.1\r\nHost: sallyport\r\nAuthorization: {authorization}\r\n\r\n");
        let mut connection = estate.agent.connect(0).await?;
        connection.send(request.as_bytes()).await?;
        assert_eq!(connection.head().await?.code, 401, "B122: `{authorization}`");
    }
    Ok(())
}

#[tokio::test]
async fn b62_to_b71_no_stream_is_opened_in_any_protocol() -> anyhow::Result<()> {
    let estate = siege().await?;
    let websocket = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"),
    ];
    let spdy = [
        ("Connection", "Upgrade"),
        ("Upgrade", "SPDY/3.1"),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
    ];
    let pods = format!("/api/v1/namespaces/{}/pods/one", estate.namespace);
    for path in [
        "exec?command=sh&stdout=true",
        "attach?stdout=true",
        "portforward?ports=80",
        "exec?command=sh&dryRun=All",
    ] {
        let target = format!("{pods}/{path}");
        assert_refused(&target, &estate.try_it("GET", &target, &websocket, "").await?);
        assert_refused(&target, &estate.try_it("POST", &target, &spdy, "").await?);
        assert_refused(&target, &estate.try_it("GET", &target, &[], "").await?);
        assert_refused(&target, &estate.try_it("POST", &target, &[], "").await?);
    }
    for target in [
        format!("{pods}/proxy/"),
        format!("{pods}:8080/proxy/x"),
        format!("/api/v1/namespaces/{}/services/https:kubernetes:443/proxy/api/v1/secrets", estate.namespace),
        "/api/v1/nodes/n1/proxy/pods".to_owned(),
        "/api/v1/nodes/n1:10255/proxy/pods".to_owned(),
        "/api/v1/nodes/n1/proxy/exec/a/b/c?command=sh".to_owned(),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert_refused(&target, &estate.try_it(method, &target, &[], "").await?);
        }
    }
    for target in [format!("{}?watch=1", estate.maps()), format!("{pods}/log?follow=true")] {
        assert_refused("B15, P14", &estate.try_it("GET", &target, &websocket, "").await?);
    }
    for resource in ["pods", "services", "nodes"] {
        assert_eq!(estate.ran(None, resource).await?, 0, "{resource}");
    }
    Ok(())
}
