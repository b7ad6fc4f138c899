//! A target whose address leads elsewhere: found again by its name, and whoever else stands there gets nothing.

use std::time::Duration;

use e2e::gate::api_address;
use e2e::relay::Relay;
use e2e::{Filter, Version, eventually, wire};
use serde_json::json;

use super::{Remote, SOON};

#[tokio::test]
async fn f31_a_moved_api_server_is_found_and_another_one_in_its_place_gets_nothing() -> anyhow::Result<()> {
    let remote = Remote::new("moved").await?;
    let (far, hub) = (api_address(&remote.far)?, api_address(remote.gate.plane())?);
    let (name, elsewhere) = (Relay::start(far)?, Relay::start(far)?);
    let server = format!("https://localhost:{}", name.port());
    remote.secret("edge", &remote.powerful("gate").await?)?;
    remote.identity("agent", remote.fixed(&server, remote.far.ca(), "edge")).await?;
    let agent = remote.agent("agent").await?;
    let target = format!("/api/v1/namespaces/{}/configmaps", remote.namespace);
    let create = async |name: &str| -> anyhow::Result<wire::Answer> {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        let media = [("Content-Type", "application/json")];
        agent.send(0, "POST", &target, &media, body.as_bytes()).await
    };
    assert_eq!(create("before").await?.code, 201);
    let watch = agent.kubectl_spawn(Version::New, 0, &["get", "configmaps", "-w", "-o", "name"])?;
    let account = format!("system:serviceaccount:{}:gate", remote.namespace);
    let of_account = || Filter::ran_as(&account).resource("configmaps").namespace(&remote.namespace);
    remote.far.audit().wait_for(&of_account().verb("watch"), 1).await?;

    // Another API server now stands at the address: its certificate is not of the target's authority.
    name.retarget(hub);
    name.cut();
    let ended = tokio::task::spawn_blocking(move || watch.wait_with_output());
    let ended = tokio::time::timeout(SOON, ended).await???;
    assert!(String::from_utf8_lossy(&ended.stdout).contains("configmap/before"), "{ended:?}");
    let read = eventually("a gate that no longer takes the old connections", SOON, async || {
        let answer = agent.send(0, "GET", &target, &[], b"").await?;
        Ok(answer.text().contains("cannot be reached").then_some(answer))
    })
    .await?;
    assert!(read.code == 502 && read.text().contains("Nothing was sent"), "{}", read.text());
    let write = create("stray").await?;
    assert_eq!(write.code, 502, "{}", write.text());
    let strayed = Filter::default().resource("configmaps").namespace(&remote.namespace).name("stray");
    assert!(remote.gate.plane().audit().requests(&strayed).await?.is_empty(), "the other one was asked");

    // The target itself, at another address: the next connection finds it, and nothing is sent twice.
    name.retarget(([127, 0, 0, 1], elsewhere.port()).into());
    let begun = std::time::Instant::now();
    eventually("the target", Duration::from_secs(10), async || {
        Ok((agent.send(0, "GET", &target, &[], b"").await?.code == 200).then_some(()))
    })
    .await?;
    assert_eq!(create("after").await?.code, 201, "after {:?}", begun.elapsed());
    let made = remote.far.audit().requests(&of_account().verb("create")).await?;
    let mut names: Vec<_> =
        made.iter().filter_map(|one| Some(one.object_ref.as_ref()?.name.clone())).collect();
    names.sort();
    assert_eq!(names, ["after", "before"], "each was sent once, and what was refused never");
    Ok(())
}
