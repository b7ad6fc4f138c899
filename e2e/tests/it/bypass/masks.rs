//! Masked values: copied, tested, guessed, selected, hashed, or shown by a stream that was open before.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::estate::Estate;
use super::{CANARY, JSON_PATCH, MERGE, assert_refused, nearly_everything, siege};

#[tokio::test]
async fn b50_to_b54_a_masked_value_cannot_be_copied_tested_guessed_or_selected() -> anyhow::Result<()> {
    let estate = siege().await?;
    let flags = format!("{}/flags", estate.maps());
    let version = || {
        estate.admin(&["get", "configmap", "flags", "-o", "jsonpath={.metadata.resourceVersion}"])?.success()
    };
    let before = version()?;
    let last_applied = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
    for operation in [
        json!({"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}),
        json!({"op": "move", "from": "/data/password", "path": "/data/y"}),
        json!({"op": "copy", "from": "/data", "path": "/binaryData"}),
        json!({"op": "copy", "from": last_applied, "path": "/data/x"}),
        json!({"op": "copy", "from": "/metadata/annotations", "path": "/data"}),
        json!({"op": "copy", "from": "/metadata/labels/example.com~1pin", "path": "/data/x"}),
        json!({"op": "copy", "from": "", "path": "/data/x"}),
        json!({"op": "test", "path": "/data/password", "value": CANARY}),
        json!({"op": "test", "path": "/data", "value": {"password": CANARY, "mode": "dark"}}),
        json!({"op": "test", "path": last_applied, "value": "x"}),
        json!({"op": "replace", "path": "/data/password", "value": CANARY}),
        json!({"op": "add", "path": "/data", "value": {"password": CANARY}}),
        json!({"op": "copy", "from": "/data/mode", "path": "/data/password"}),
    ] {
        for query in ["", "?dryRun=All"] {
            let body = json!([operation]).to_string();
            assert_refused(
                &body,
                &estate.try_it("PATCH", &format!("{flags}{query}"), &JSON_PATCH, &body).await?,
            );
        }
    }
    let whole = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"}, "data": {"password": CANARY}});
    let apply = [("Content-Type", "application/apply-patch+yaml")];
    for (method, query, headers, body) in [
        ("PATCH", "", &MERGE[..], json!({"data": {"password": CANARY}})),
        ("PATCH", "?dryRun=All", &MERGE[..], json!({"metadata": {"labels": {"example.com/pin": "4711"}}})),
        ("PUT", "", &[], whole.clone()),
        ("PATCH", "?fieldManager=a", &apply[..], whole),
    ] {
        let answer = estate.try_it(method, &format!("{flags}{query}"), headers, &body.to_string()).await?;
        assert_refused(&format!("B52: {method} {body}"), &answer);
    }
    assert_eq!(version()?, before, "nothing was sent that changes anything");
    for selector in [
        "labelSelector=example.com/pin%3D4711",
        "labelSelector=example.com/pin%20in%20(4711)",
        "labelSelector=!example.com/pin",
        "fieldSelector=data.password%3Dx",
    ] {
        for more in ["", "&watch=1"] {
            let target = format!("{}?{selector}{more}", estate.maps());
            assert_refused(&target, &estate.try_it("GET", &target, &[], "").await?);
        }
        let target = format!("{}?{selector}", estate.maps());
        assert_refused(&target, &estate.try_it("DELETE", &target, &[], "").await?);
    }
    let free = [
        (
            &JSON_PATCH[..],
            json!([{"op": "test", "path": "/data/mode", "value": "dark"}, {"op": "copy", "from": "/data/mode", "path": "/data/more"}]),
        ),
        (&MERGE[..], json!({"data": {"mode": "light"}})),
    ];
    for (headers, body) in free {
        let answer = estate.try_it("PATCH", &flags, headers, &body.to_string()).await?;
        assert_eq!(answer.code, 200, "{body}: {}", answer.text());
        assert!(!answer.text().contains(CANARY) && !answer.text().contains("4711"), "B43: {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn b57_a_grant_is_no_oracle_for_masked_values() -> anyhow::Result<()> {
    let mut policy = nearly_everything();
    policy["rules"][2]["match"] =
        json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]);
    let estate = Estate::new(&crate::gate()?, "bypass", policy).await?;
    estate.admin(&["create", "configmap", "flags", "--from-literal=password=1234"])?.success()?;
    let delete = estate.try_it("DELETE", &format!("{}/flags", estate.maps()), &[], "").await?;
    assert_refused("pending", &delete);
    let grant = estate.grant("WaitingForReview").await?;
    let seen = estate.try_it("GET", &format!("{}/{grant}", estate.own_grants()), &[], "").await?.json()?;
    let mut object: Value =
        serde_json::from_str(&estate.admin(&["get", "configmap", "flags", "-o", "json"])?.success()?)?;
    assert_eq!(object["data"]["password"], "1234");
    let metadata = object["metadata"].as_object_mut().ok_or_else(|| anyhow::anyhow!("metadata"))?;
    metadata.retain(|key, _| !["managedFields", "resourceVersion", "generation"].contains(&key.as_str()));
    let guess = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, object.to_string().as_bytes());
    let guess: String = guess.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = seen["spec"]["request"]["objectHash"].as_str().unwrap_or_default();
    assert!(hash.starts_with("sha256:") && hash != format!("sha256:{guess}"), "{hash}");
    Ok(())
}

#[tokio::test]
async fn f20_a_watch_ends_when_what_it_hides_changes() -> anyhow::Result<()> {
    let estate = Estate::new(&crate::gate()?, "bypass", json!({
        "rules": [{"name": "read", "effect": "Allow", "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]}],
    })).await?;
    let mut connection = estate.agent.connect(0).await?;
    let target = format!("{}?watch=1", estate.maps());
    connection.send(&estate.agent.request("GET", &target, &[], b"")?).await?;
    assert_eq!(connection.head().await?.code, 200);
    let masking = json!({"spec": {"masking": [{"name": "config", "type": "Fields",
        "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}], "fields": {"paths": [".data.password"]}}]}});
    let patch = ["patch", "accesspolicy", &estate.namespace, "--type=merge", "-p", &masking.to_string()];
    estate.gate.plane().kubectl(&patch)?.success()?;
    let wait = [
        "wait",
        "--for=condition=Programmed",
        &format!("accesspolicy/{}", estate.namespace),
        "--timeout=30s",
    ];
    estate.gate.plane().kubectl(&wait)?.success()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    estate
        .admin(&["create", "configmap", "late", &format!("--from-literal=password={CANARY}")])?
        .success()?;
    let mut said = String::new();
    let cut = tokio::time::timeout(Duration::from_secs(10), async {
        while let Ok(Some(chunk)) = connection.chunk().await {
            said.push_str(&String::from_utf8_lossy(&chunk));
        }
    });
    cut.await.map_err(|_| anyhow::anyhow!("the watch went on as it was"))?;
    assert!(!said.contains(CANARY) && said.contains("\"ERROR\""), "{said}");
    Ok(())
}
