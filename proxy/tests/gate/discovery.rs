//! What the API server serves, while it changes, lies still or does not answer (P11, F26).
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::server::Reply;
use crate::world::World;
use crate::{MAPS, config_map};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/payments/deployments";
const GROUPS: &str = include_str!("../../../parsing/tests/fixtures/discovery-groups.json");

fn groups() -> Value {
    serde_json::from_str(GROUPS).unwrap()
}

fn versions(groups: &mut Value) -> &mut Vec<Value> {
    let items = groups["items"].as_array_mut().unwrap();
    let apps = items.iter_mut().find(|group| group["metadata"]["name"] == "apps").unwrap();
    apps["versions"].as_array_mut().unwrap()
}

fn list(api_version: &str) -> Reply {
    Reply::Json(
        200,
        json!({"kind": "DeploymentList", "apiVersion": api_version, "metadata": {}, "items": []}),
    )
}

async fn known() -> World {
    let world = World::new().await;
    world.server.answers(|seen| match seen.target.contains("/deployments") {
        true if seen.target.contains("/v2/") => list("apps/v2"),
        true => list("apps/v1"),
        false => Reply::Json(200, config_map("a")),
    });
    assert_eq!(world.get(DEPLOYMENTS).await.code, 200);
    world
}

#[tokio::test]
async fn f26_known_kinds_outlive_a_discovery_that_fails_and_unknown_ones_are_refused() {
    let json = || vec![("content-type", "application/json".to_owned())];
    for broken in [
        Reply::Cut,
        Reply::Json(503, json!({"kind": "Status", "code": 503})),
        Reply::Json(200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
        Reply::Raw(200, json(), Bytes::from_static(b"{\"kind\":\"APIGroupDiscoveryList\",\"items\":[")),
    ] {
        let world = known().await;
        let before = world.server.seen().len();
        world.server.groups_are(broken.clone());
        for target in ["/apis/apps/v2/namespaces/payments/deployments", "/api/v1/namespaces/payments/gizmos"]
        {
            let answer = world.get(target).await;
            assert!(matches!(answer.code, 404 | 503), "{broken:?}: {}", answer.code);
        }
        assert_eq!(world.server.seen().len(), before, "{broken:?}");
        assert_eq!(world.get(DEPLOYMENTS).await.code, 200, "{broken:?}");
        assert_eq!(world.get(&format!("{MAPS}/a")).await.code, 200, "{broken:?}");
    }
}

#[tokio::test]
async fn f26_a_group_whose_server_is_away_keeps_its_kinds_and_gets_no_new_ones() {
    let world = known().await;
    let mut stale = groups();
    *versions(&mut stale) = vec![json!({"version": "v1", "resources": [], "freshness": "Stale"})];
    world.server.groups_are(Reply::Json(200, stale));
    assert_eq!(world.get("/apis/apps/v1/namespaces/payments/gizmos").await.code, 404);
    assert_eq!(world.get(DEPLOYMENTS).await.code, 200);
    let mut gone = groups();
    versions(&mut gone).clear();
    world.server.groups_are(Reply::Json(200, gone));
    assert_eq!(world.get("/apis/apps/v1/namespaces/payments/gizmos").await.code, 404);
    assert_eq!(world.get(DEPLOYMENTS).await.code, 404, "a group that is gone is gone");
}

#[tokio::test]
async fn p11_a_new_kind_is_known_with_the_first_request_for_it() {
    let world = known().await;
    let target = DEPLOYMENTS.replace("v1", "v2");
    assert_eq!(world.get(&target).await.code, 404);
    let mut more = groups();
    let mut second = versions(&mut more)[0].clone();
    second["version"] = json!("v2");
    versions(&mut more).push(second);
    world.server.groups_are(Reply::Json(200, more));
    let answer = world.get(&target).await;
    assert_eq!(answer.code, 200, "{:?}", answer.body);
}

#[tokio::test]
async fn p11_a_crowd_that_asks_for_an_unknown_kind_makes_one_question() {
    let world = known().await;
    let before = world.server.discoveries();
    let unknown = || world.get("/apis/nothing.example/v1/namespaces/payments/things");
    let answers = futures::future::join_all((0..20).map(|_| unknown())).await;
    assert!(answers.iter().all(|answer| answer.code == 404));
    let asked = world.server.discoveries() - before;
    assert!(asked <= 2, "{asked} questions for 20 requests");
    let since = std::time::Instant::now();
    for _ in 0..3 {
        assert_eq!(unknown().await.code, 404);
    }
    let asked = world.server.discoveries() - before - asked;
    let most = since.elapsed().as_secs() + 1;
    assert!(asked as u64 <= most, "{asked} questions in {most} s, whoever asks");
    assert!(since.elapsed() >= Duration::from_secs(2), "a miss waits for its turn");
}
