//! How the operator comes back: after its own death, after what others broke, and how little it does when nothing changed.

use std::time::Duration;

use e2e::{ControlPlane, Filter, Gate, Setup, eventually};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::estate::Estate;
use crate::operator::{OPERATOR, SOON, SYSTEM, apply, get, identity, policy, reason, set, shard, shards};

#[tokio::test]
async fn f21_the_last_good_generation_outlives_the_operator() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let flags = ["--lease-seconds", "3"].map(str::to_owned).to_vec();
    let gate = Gate::start(&plane, Setup { proxies: 0, operator_flags: flags, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["accesspolicy", namespace.as_str()];
    reason(&plane, &object, "Accepted", "Accepted").await?;
    let good = shard(&plane, &namespace, "reader").await?;

    let mut broken = policy(&namespace);
    set(&mut broken, "/spec/rules/0/matchConditions", json!([{"name": "c", "expression": "true"}]));
    apply(&plane, &broken)?.success()?;
    reason(&plane, &object, "Accepted", "NotSupportedYet").await?;
    assert_eq!(shard(&plane, &namespace, "reader").await?, good, "generation 1 stays in force");

    gate.operator().kill()?;
    let out = apply(&plane, &with_note(&broken, "while the operator is down, policies can be delivered"))?;
    assert_eq!(out.code, 0, "{out:?}");
    gate.operator().restart().await?;
    let said = reason(&plane, &object, "Accepted", "NotSupportedYet").await?;
    assert_eq!(said["observedGeneration"], 3);
    assert_eq!(shard(&plane, &namespace, "reader").await?, good, "read back from what was published");

    let mut mended = policy(&namespace);
    set(&mut mended, "/spec/rules/0/match/0/verbs", json!(["get", "list"]));
    apply(&plane, &mended)?.success()?;
    eventually("generation 4 in force", SOON, async || {
        Ok((shard(&plane, &namespace, "reader").await?["policies"][0]["generation"] == 4).then_some(()))
    })
    .await?;
    assert_eq!(gate.operator().stop(Duration::from_secs(10))?, 0, "it ends in peace");
    Ok(())
}

fn with_note(policy: &Value, message: &str) -> Value {
    let mut policy = policy.clone();
    set(&mut policy, "/spec/rules/0/message", json!(message));
    policy
}

#[tokio::test]
async fn f18_without_the_webhook_nobody_approves_anything() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    gate.operator().kill()?;
    let admin = Caller::admin(&plane).await?;
    let window = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": "w", "namespace": namespace},
        "spec": {"agentRef": {"name": "reader"}, "type": "Window", "reason": "r", "window": {"durationSeconds": 60}},
    });
    let refused = admin.create(&window, "").await?.err().map(|status| status.message).unwrap_or_default();
    assert!(refused.contains("failed calling webhook"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["agentidentity", "reader", "-n", &namespace];
    reason(&plane, &object, "Ready", "NotProgrammed").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let writes = async || {
        let all = plane.audit().requests(&Filter::ran_as(OPERATOR)).await?;
        let is_write = |verb: &str| matches!(verb, "create" | "update" | "patch" | "delete");
        let of_lease =
            |resource: Option<&e2e::audit::ObjectRef>| resource.is_some_and(|one| one.resource == "leases");
        let counted = all.iter().filter(|one| is_write(&one.verb) && !of_lease(one.object_ref.as_ref()));
        anyhow::Ok(counted.map(|one| one.uri.clone()).collect::<Vec<_>>())
    };
    let before = writes().await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(writes().await?, before);

    // The boundary came before the agent's shard, which is the last ConfigMap that was made here.
    let in_system = Filter::ran_as(OPERATOR).resource("configmaps").verb("create").namespace(SYSTEM);
    let made = plane.audit().requests(&in_system).await?;
    let drawn =
        plane.audit().requests(&Filter::ran_as(OPERATOR).resource("clusterroles").verb("update")).await?;
    assert_eq!(drawn.len(), 1);
    let last = made.iter().map(|one| &one.request_received_timestamp).max();
    assert!(last > Some(&drawn[0].request_received_timestamp), "{made:?}");
    Ok(())
}

#[tokio::test]
async fn what_others_break_is_put_right() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let good = shard(&plane, &namespace, "reader").await?;
    let name =
        shards(&plane)?.into_keys().find(|name| name != "sallyport-shard-guardrails").unwrap_or_default();
    let edit =
        ["patch", "configmap", &name, "-n", SYSTEM, "--type=merge", "-p", r#"{"data":{"shard.json":"{}"}}"#];
    plane.kubectl(&edit)?.success()?;
    let back = async || {
        Ok(get(&plane, &["configmap", &name, "-n", SYSTEM])?["data"][crds::names::SHARD_KEY]
            .as_str()
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
            .filter(|shard| *shard == good)
            .map(|_shard| ()))
    };
    eventually("the shard as it was", SOON, back).await?;

    let wider = r#"[{"op":"add","path":"/rules/-","value":{"apiGroups":[""],"resources":["groups"],"verbs":["impersonate"]}}]"#;
    plane
        .kubectl(&[
            "patch",
            "clusterrole",
            crds::names::IMPERSONATOR_CLUSTER_ROLE,
            "--type=json",
            "-p",
            wider,
        ])?
        .success()?;
    eventually("the boundary as it was", SOON, async || {
        let role = get(&plane, &["clusterrole", crds::names::IMPERSONATOR_CLUSTER_ROLE])?;
        Ok((role["rules"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .await?;

    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        let wipe = r#"[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]"#;
        plane
            .kubectl(&["patch", kind, crds::names::WEBHOOK_CONFIGURATION, "--type=json", "-p", wipe])?
            .success()?;
        eventually("the caBundle", SOON, async || {
            let found = get(&plane, &[kind, crds::names::WEBHOOK_CONFIGURATION])?;
            Ok(found.pointer("/webhooks/0/clientConfig/caBundle").is_some().then_some(()))
        })
        .await?;
    }

    let tls = ["secret", crds::names::PROXY_TLS_SECRET, "-n", SYSTEM];
    plane.kubectl(&[&["delete"], &tls[..]].concat())?.success()?;
    eventually("a new serving certificate", SOON, async || Ok(get(&plane, &tls).ok())).await?;
    Ok(())
}

#[tokio::test]
async fn the_baseline_comes_back_until_it_is_handed_over() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    let object = ["accesspolicy", crds::names::BASELINE_POLICY];
    reason(&plane, &object, "Accepted", "Accepted").await?;
    let rules = || anyhow::Ok(get(&plane, &object)?["spec"]["rules"].as_array().map_or(0, Vec::len));
    let whole = rules()?;
    let shorten = r#"[{"op":"remove","path":"/spec/rules/0"}]"#;
    plane.kubectl(&["patch", object[0], object[1], "--type=json", "-p", shorten])?.success()?;
    eventually("the rule to come back", SOON, async || Ok((rules()? == whole).then_some(()))).await?;
    plane.kubectl(&["delete", object[0], object[1]])?.success()?;
    eventually("the baseline to come back", SOON, async || Ok(get(&plane, &object).ok())).await?;

    plane
        .kubectl(&["annotate", object[0], object[1], "sallyport.dev/autoupdate=false", "--overwrite"])?
        .success()?;
    plane.kubectl(&["patch", object[0], object[1], "--type=json", "-p", shorten])?.success()?;
    reason(&plane, &object, "Accepted", "Accepted").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rules()?, whole - 1, "it is theirs now");
    Ok(())
}

#[tokio::test]
async fn f17_another_operator_takes_over_from_one_that_died() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let flags = ["--lease-seconds", "3"].map(str::to_owned).to_vec();
    let gate = Gate::start(&plane, Setup { proxies: 0, operator_flags: flags, ..Setup::default() })?;
    let [webhook, admin] = e2e::control_plane::free_ports()?;
    let kubeconfig = plane.service_account_kubeconfig(SYSTEM, crds::names::OPERATOR_SERVICE_ACCOUNT).await?;
    let env = [("KUBECONFIG".to_owned(), kubeconfig.display().to_string())].into();
    let argv = [
        e2e::program("sallyport-operator")?.display().to_string(),
        format!("--webhook-bind=127.0.0.1:{webhook}"),
        format!("--webhook-url=https://127.0.0.1:{webhook}"),
        format!("--admin-bind=127.0.0.1:{admin}"),
        "--extra-san=127.0.0.1,localhost".to_owned(),
        "--lease-seconds=3".to_owned(),
    ];
    plane.supervisor().run("second-operator", argv.to_vec(), env)?;
    let leads = |metrics: &str| metrics.lines().any(|line| line == "sallyport_operator_leading 1");
    let second =
        async || Ok(e2e::wire::get_plain(admin, "/metrics").await.map(|answer| leads(&answer.text())).ok());
    eventually("the second operator", SOON, second).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(leads(&gate.operator().metrics().await?) && second().await? == Some(false), "one leads");
    gate.operator().kill()?;
    eventually("the second operator to lead", SOON, async || Ok(second().await?.filter(|leads| *leads)))
        .await?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    shard(&plane, &namespace, "reader").await?;
    Ok(())
}

#[tokio::test]
async fn f01_a_session_whose_proxy_is_gone_is_said_to_be_over_until_its_spool_comes_back()
-> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let operator_flags =
        ["--proxy-lost-seconds", "12", "--record-ttl-seconds", "30"].map(str::to_owned).to_vec();
    let gate = Gate::start(&plane, Setup { proxies: 1, operator_flags, ..Setup::default() })?;
    let rules = json!({"rules": [{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]}]});
    let estate = Estate::new(&gate, "recovery", rules).await?;
    estate.agent(&["get", "configmaps"])?.success()?;
    let record = async || {
        let list = get(&plane, &["sessionrecords", "-n", &estate.namespace])?;
        anyhow::Ok(list["items"].as_array().and_then(|all| all.first().cloned()))
    };
    eventually("the proxy's entry", Duration::from_secs(90), async || {
        Ok(record()
            .await?
            .filter(|record| record["status"]["replicas"][0]["requests"]["total"].as_i64() > Some(0)))
    })
    .await?;
    let says = |record: &Value, kind: &str| {
        let all = record["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.into_iter().find(|one| one["type"] == kind).unwrap_or_default();
        format!(
            "{}/{}",
            found["status"].as_str().unwrap_or_default(),
            found["reason"].as_str().unwrap_or_default()
        )
    };
    gate.proxies()[0].program().kill()?;
    let lost = eventually("the session to be given up", Duration::from_secs(60), async || {
        Ok(record().await?.filter(|record| says(record, "Recorded") == "False/Truncated"))
    })
    .await?;
    assert_eq!(says(&lost, "Active"), "False/ProxyLost");
    assert!(lost["status"]["endTime"].is_string());
    assert_eq!(lost["status"]["replicas"][0]["closed"], false, "the proxy's entry stays the proxy's");
    gate.proxies()[0].program().restart().await?;
    let back = eventually("the proxy to correct it", Duration::from_secs(30), async || {
        Ok(record().await?.filter(|record| says(record, "Recorded") == "True/Uploaded"))
    })
    .await?;
    assert_eq!(says(&back, "Active"), "False/ProxyLost", "that it was lost stays true");
    let name = back["metadata"]["name"].clone();
    eventually("the record to go after its time", Duration::from_secs(90), async || {
        Ok(record().await?.is_none_or(|record| record["metadata"]["name"] != name).then_some(()))
    })
    .await?;
    let folder = gate.recordings().join(&estate.namespace);
    assert!(folder.exists(), "the recording stays");
    Ok(())
}
