//! What stays closed whatever the API server says: to whom nobody vouches, to whom a grant does not belong, and what is masked.

use bytes::Bytes;
use proxy::live::Identities;
use recording::event::{Disposition, Event};
use serde_json::json;

use super::server::Reply;
use super::world::World;
use super::{MAPS, config_map, rebuilt};

#[tokio::test]
async fn f14_f25_one_token_is_not_reviewed_with_every_request() {
    for (authorization, code) in [(super::BEARER, 200), (concat!("Bearer ", token_of!("wrong")), 401)] {
        let world = World::new().await;
        world.server.answers(|_| Reply::Json(200, config_map("a")));
        for _ in 0..6 {
            let answer =
                world.send("GET", &format!("{MAPS}/a"), &[("authorization", authorization)], "").await;
            assert_eq!(answer.code, code, "{authorization}");
        }
        let reviews = world.server.reviews();
        let audiences = json!([crds::names::TOKEN_AUDIENCE]);
        assert!(reviews.iter().all(|review| review["spec"]["audiences"] == audiences), "B122: {reviews:?}");
        assert!((1..6).contains(&reviews.len()), "{authorization}: {} reviews for 6 requests", reviews.len());
    }
}

#[tokio::test]
async fn f04_a_write_whose_answer_cannot_be_read_is_recorded_as_executed() {
    let world = World::new().await;
    let json = vec![("content-type", "application/json".to_owned())];
    world.server.answers(move |_| Reply::Raw(200, json.clone(), Bytes::from_static(b"canary-hunter2")));
    let answer = world.send("DELETE", &format!("{MAPS}/a"), &[], "").await;
    assert_eq!((answer.code, answer.reason().as_str()), (502, "OutcomeUnknown"));
    let events = world.events().await;
    let is_executed =
        |event: &Event| matches!(event, Event::Outcome(one) if one.disposition == Disposition::Executed);
    assert!(events.iter().any(is_executed), "{events:?}");
}

#[tokio::test]
async fn h3_b44_what_is_recorded_of_a_write_is_masked_and_its_error_quotes_nothing() {
    let world = World::new().await;
    let told = r#"ConfigMap "a" is invalid: data: Invalid value: "canary-hunter2""#;
    world.server.answers(move |_| Reply::Json(422, rebuilt(422, "Invalid", told)));
    let (one, label) = (format!("{MAPS}/a"), json!({"metadata": {"labels": {"a": "b"}}}));
    let writes = [
        ("PATCH", one.as_str(), "application/merge-patch+json", label.clone()),
        ("PATCH", &one, "application/strategic-merge-patch+json", label),
        (
            "PATCH",
            &one,
            "application/json-patch+json",
            json!([{"op": "add", "path": "/metadata/labels", "value": {}}]),
        ),
        (
            "POST",
            MAPS,
            "application/json",
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "canary-hunter2"},
            }),
        ),
    ];
    for (method, target, content_type, body) in &writes {
        let headers = [("content-type", *content_type)];
        let answer = world.send(method, target, &headers, &body.to_string()).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.code, 422, "{content_type}: {text}");
        assert!(!text.contains("canary") && text.contains("withheld by sallyport"), "{content_type}: {text}");
    }
    let events = world.events().await;
    let body = |event: &Event| match event {
        Event::Intent(one) => one.body.as_ref().map(|body| body.text().to_owned()),
        _ => None,
    };
    let bodies: Vec<String> = events.iter().filter_map(body).collect();
    assert_eq!(bodies.len(), writes.len(), "{events:?}");
    assert!(bodies[3].contains("[MASKED:settings]") && !bodies[3].contains("canary"), "{bodies:?}");
}

#[tokio::test]
async fn b110_a_wait_tells_of_the_agents_own_grants_only() {
    let world = World::new().await;
    for (agent, code) in [("claude-code", 200), ("another", 404)] {
        let grant = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": "g", "namespace": "agents", "uid": "uid-2"},
            "spec": {"agentRef": {"name": agent}, "type": "Window", "reason": "canary", "window": {"durationSeconds": 60}},
        });
        world.server.answers(move |_| Reply::Json(200, grant.clone()));
        let answer = world.get("/sallyport/v1/grants/g/wait?timeoutSeconds=0").await;
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.code, code, "{agent}: {text}");
        assert!(code == 200 || !text.contains("uid-2") && !text.contains("canary"), "{agent}: {text}");
    }
}

#[tokio::test]
async fn an_agent_whose_identity_is_gone_is_nobody() {
    let world = World::new().await;
    world.gate.live.identities_are(Identities::new());
    let answer = world.get(&format!("{MAPS}/a")).await;
    assert_eq!((answer.code, answer.reason().as_str()), (401, "Unauthorized"));
    assert!(world.server.seen().is_empty());
}
