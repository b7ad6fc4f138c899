//! The operator against the real API server: conditions, live config, the boundary, certificates, and how it comes back.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use e2e::{ControlPlane, Gate, Setup, Version, eventually, kubectl_stdin};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::caller::Caller;

pub const SYSTEM: &str = crds::names::SYSTEM_NAMESPACE;
pub const OPERATOR: &str = "system:serviceaccount:sallyport-system:sallyport-operator";
pub const SOON: Duration = Duration::from_secs(20);

/// An operator without proxies, shared by the tests that need no more.
pub fn operated() -> anyhow::Result<Gate> {
    static GATE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || Gate::start(&ControlPlane::start()?, Setup { proxies: 0, ..Setup::default() });
    let gate = GATE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no operator: {error}"))
}

pub fn identity(namespace: &str, name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"target": {"type": "InCluster"}, "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                 "serviceAccount": {"namespace": namespace, "name": account}}]},
    })
}

pub fn policy(namespace: &str) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
        "spec": {"agents": [{"namespace": namespace}], "rules": [{"name": "read", "effect": "Allow", "match": [
            {"namespaces": [namespace], "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}]},
    })
}

pub fn get(plane: &ControlPlane, args: &[&str]) -> anyhow::Result<Value> {
    let text = plane.kubectl(&[&["get"], args, &["-o", "json"]].concat())?.success()?;
    Ok(serde_json::from_str(&text)?)
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|one| one["type"] == kind).cloned()
}

/// Waits until the condition has this reason for the newest generation.
pub async fn reason(
    plane: &ControlPlane,
    object: &[&str],
    kind: &str,
    wanted: &str,
) -> anyhow::Result<Value> {
    eventually(&format!("{kind}={wanted} of {object:?}"), SOON, async || {
        let found = get(plane, object)?;
        let said = condition(&found, kind).filter(|said| {
            said["reason"] == wanted && said["observedGeneration"] == found["metadata"]["generation"]
        });
        Ok(said)
    })
    .await
}

/// Every shard in force by name, decoded.
pub fn shards(plane: &ControlPlane) -> anyhow::Result<BTreeMap<String, (String, Value)>> {
    let list = get(plane, &["configmap", "-n", SYSTEM, "-l", crds::names::LABEL_SHARD])?;
    let mut shards = BTreeMap::new();
    for map in list["items"].as_array().cloned().unwrap_or_default() {
        let text = map["data"][crds::names::SHARD_KEY].as_str().unwrap_or_default();
        let hash = map["metadata"]["annotations"][crds::names::ANNOTATION_HASH].as_str().unwrap_or_default();
        assert_eq!(hash, sha256(text), "the annotation is the hash of the text");
        let name = map["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        shards.insert(name, (hash.to_owned(), serde_json::from_str(text)?));
    }
    Ok(shards)
}

fn shard_of(plane: &ControlPlane, namespace: &str, name: &str) -> anyhow::Result<Option<(String, Value)>> {
    let is_its =
        |shard: &Value| shard["identity"]["namespace"] == namespace && shard["identity"]["name"] == name;
    Ok(shards(plane)?.into_values().find(|(_, shard)| is_its(shard)))
}

pub async fn shard(plane: &ControlPlane, namespace: &str, name: &str) -> anyhow::Result<Value> {
    eventually("a shard", SOON, async || Ok(shard_of(plane, namespace, name)?.map(|(_, shard)| shard))).await
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn bundle(plane: &ControlPlane) -> anyhow::Result<String> {
    let lines = shards(plane)?.into_iter().map(|(name, (hash, _))| format!("{name} {hash}\n"));
    Ok(sha256(&lines.collect::<String>()))
}

fn impersonable(plane: &ControlPlane) -> anyhow::Result<Vec<String>> {
    let role = get(plane, &["clusterrole", crds::names::IMPERSONATOR_CLUSTER_ROLE])?;
    let rules = role["rules"].as_array().cloned().unwrap_or_default();
    let names = rules.iter().flat_map(|rule| rule["resourceNames"].as_array().cloned().unwrap_or_default());
    Ok(names.filter_map(|name| Some(name.as_str()?.to_owned())).collect())
}

#[tokio::test]
async fn a_policy_that_leaves_a_route_open_says_so_until_it_is_closed() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    let mut open = policy(&namespace);
    open["spec"]["rules"] = json!([{"name": "keep-pods", "effect": "Deny", "match": [
        {"namespaces": [namespace], "apiGroups": [""], "resources": ["pods"], "verbs": ["delete", "deletecollection"]}]}]);
    plane.apply(&open.to_string())?;
    let object = ["accesspolicy", &*namespace];
    let said = reason(&plane, &object, "Incomplete", "LintFindings").await?;
    let message = said["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("rule `keep-pods` restricts `delete pods` but not `create pods/eviction`"),
        "{message}"
    );
    open["spec"]["rules"][0]["match"][0]["resources"] = json!(["pods", "pods/eviction"]);
    open["spec"]["rules"][0]["match"][0]["verbs"] = json!(["*"]);
    plane.apply(&open.to_string())?;
    let gone = async || Ok(condition(&get(&plane, &object)?, "Incomplete").is_none().then_some(()));
    eventually("no Incomplete", SOON, gone).await
}

#[tokio::test]
async fn what_an_identity_becomes() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["agentidentity", "reader", "-n", &namespace];
    reason(&plane, &object, "Accepted", "Accepted").await?;
    assert_eq!(reason(&plane, &object, "Programmed", "NoProxyReady").await?["status"], "False");
    assert_eq!(reason(&plane, &object, "Ready", "NotProgrammed").await?["status"], "False");
    let status = get(&plane, &object)?["status"].clone();
    let user = format!("sallyport:agent:{namespace}:reader");
    assert_eq!(status["username"], user);
    assert_eq!(status["groups"], json!(["sallyport:agents", format!("sallyport:agents:{namespace}")]));
    assert_eq!(status["policyCount"], 2);
    let named =
        json!([{"name": namespace, "mode": "Enforce"}, {"name": "sallyport-baseline", "mode": "Enforce"}]);
    assert_eq!(status["policies"], named);
    assert_eq!(status["kubeconfigRef"], json!({"name": "reader-kubeconfig"}));
    let map = get(&plane, &["configmap", "reader-kubeconfig", "-n", &namespace])?;
    let kubeconfig = map["data"]["kubeconfig"].as_str().unwrap_or_default();
    assert!(
        kubeconfig.contains("certificate-authority-data") && kubeconfig.contains("tokenFile"),
        "{kubeconfig}"
    );
    assert!(
        !kubeconfig.contains("insecure") && kubeconfig.contains(&format!("namespace: {namespace}")),
        "{kubeconfig}"
    );
    let stored = shard(&plane, &namespace, "reader").await?;
    assert_eq!(stored["policies"][0]["name"], namespace);
    assert!(impersonable(&plane)?.contains(&user));

    plane.kubectl(&["delete", "agentidentity", "reader", "-n", &namespace])?.success()?;
    eventually("the shard to go", SOON, async || {
        Ok(shard_of(&plane, &namespace, "reader")?.is_none().then_some(()))
    })
    .await?;
    eventually("the boundary to narrow", SOON, async || {
        Ok((!impersonable(&plane)?.contains(&user)).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_field_whose_feature_is_not_built_is_said_and_never_ignored() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["accesspolicy", namespace.as_str()];
    for (pointer, value, path) in [
        (
            "/spec/rules/0/matchConditions",
            json!([{"name": "c", "expression": "true"}]),
            "spec.rules[0].matchConditions",
        ),
        ("/spec/rules/0/match/0/namespaceSelector", json!({}), "spec.rules[0].match[0].namespaceSelector"),
        (
            "/spec/masking",
            json!([{"name": "m", "type": "Patterns", "patterns": {"detectors": ["JWT"]}}]),
            "spec.masking[0].type",
        ),
        (
            "/spec/masking",
            json!([{"name": "m", "type": "KnownSecrets", "knownSecrets": {"namespaces": ["x"]}}]),
            "spec.masking[0].type",
        ),
        (
            "/spec/masking",
            json!([{"name": "m", "type": "Fields", "replacement": "Hash", "fields": {"paths": [".a"]}}]),
            "spec.masking[0].replacement",
        ),
        ("/spec/recording", json!({"level": "RequestResponse"}), "spec.recording.level"),
        ("/spec/recording", json!({"streams": "None"}), "spec.recording.streams"),
        ("/spec/recording", json!({"failurePolicy": "Ignore"}), "spec.recording.failurePolicy"),
    ] {
        let mut wanted = policy(&namespace);
        set(&mut wanted, pointer, value);
        let out = apply(&plane, &wanted)?;
        assert!(out.code == 0 && out.stderr.contains("Warning: NotSupportedYet"), "{path}: {out:?}");
        let said = reason(&plane, &object, "Accepted", "NotSupportedYet").await?;
        assert!(
            said["status"] == "False" && said["message"].as_str().is_some_and(|m| m.contains(path)),
            "{path}: {said}"
        );
        assert_eq!(reason(&plane, &object, "Ready", "NotAccepted").await?["status"], "False");
        let stored = shard(&plane, &namespace, "reader").await?;
        assert!(
            stored["policies"][0]["content"]["broken"]["message"].as_str().is_some_and(|m| m.contains(path)),
            "{stored}"
        );
        plane.kubectl(&["delete", "accesspolicy", &namespace])?.success()?;
    }
    Ok(())
}

pub fn set(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, field)) = pointer.rsplit_once('/') else { return };
    if let Some(parent) = object.pointer_mut(parent) {
        parent[field] = value;
    }
}

pub fn apply(plane: &ControlPlane, object: &Value) -> anyhow::Result<e2e::Output> {
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl_stdin(Version::New, plane.admin_kubeconfig(), &args, &object.to_string())
}

#[tokio::test]
async fn a_policy_that_does_not_compile_is_refused_where_it_was_written() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    let mut wanted = policy(&namespace);
    set(
        &mut wanted,
        "/spec/masking",
        json!([{"name": "m", "type": "Fields", "fields": {"paths": [".a.b", ".spec.x y"]}}]),
    );
    let out = apply(&plane, &wanted)?;
    let words = "InvalidPattern: spec.masking[0].fields.paths[1]";
    assert!(out.code != 0 && out.stderr.contains(words), "{out:?}");
    Ok(())
}

#[tokio::test]
async fn a_shard_that_is_too_large_is_a_condition_and_the_old_one_stays() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["agentidentity", "reader", "-n", &namespace];
    reason(&plane, &object, "Accepted", "Accepted").await?;
    let rule = |at: usize| {
        json!({"name": format!("r{at}"), "effect": "Allow", "message": "x".repeat(1024), "match": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]})
    };
    let large = |at: usize| {
        let mut policy = policy(&namespace);
        policy["metadata"]["name"] = json!(format!("{namespace}-large-{at}"));
        policy["spec"]["rules"] = Value::Array((0..128).map(rule).collect());
        policy
    };
    for at in 0..7 {
        plane.apply(&large(at).to_string())?;
    }
    let said = reason(&plane, &object, "Accepted", "TooLarge").await?;
    assert!(said["message"].as_str().is_some_and(|message| message.contains("900 KiB")), "{said}");
    reason(&plane, &object, "Ready", "NotAccepted").await?;
    let kept = shard(&plane, &namespace, "reader").await?;
    let count = kept["policies"].as_array().map_or(0, Vec::len);
    assert!(count > 0 && count < 8, "{count} policies in force");
    let last = format!("{namespace}-large-6");
    let behind = reason(&plane, &["accesspolicy", &last], "Programmed", "NoProxyReady").await?;
    assert_eq!(behind["status"], "False");
    for at in 0..7 {
        plane.kubectl(&["delete", "accesspolicy", &format!("{namespace}-large-{at}")])?.success()?;
    }
    reason(&plane, &object, "Accepted", "Accepted").await?;
    Ok(())
}

#[tokio::test]
async fn a_subject_belongs_to_the_oldest_identity() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    plane.apply(&identity(&namespace, "older", "shared").to_string())?;
    reason(&plane, &["agentidentity", "older", "-n", &namespace], "Accepted", "Accepted").await?;
    // Creation times are whole seconds: the same second is settled by name.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    plane.apply(&identity(&namespace, "a-younger", "shared").to_string())?;
    let younger = ["agentidentity", "a-younger", "-n", &namespace];
    let said = reason(&plane, &younger, "Accepted", "SubjectConflict").await?;
    let words = format!("belongs to AgentIdentity `{namespace}/older`");
    assert!(said["message"].as_str().is_some_and(|message| message.contains(&words)), "{said}");
    assert!(shard_of(&plane, &namespace, "a-younger")?.is_none());
    assert!(!impersonable(&plane)?.contains(&format!("sallyport:agent:{namespace}:a-younger")));
    plane.kubectl(&["delete", "agentidentity", "older", "-n", &namespace])?.success()?;
    reason(&plane, &younger, "Accepted", "Accepted").await?;
    shard(&plane, &namespace, "a-younger").await?;
    Ok(())
}

/// A Lease as a proxy renews it.
fn lease(name: &str, bundle: &str, seconds: i32) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": SYSTEM, "annotations": {crds::names::ANNOTATION_HASH: bundle},
                     "labels": {crds::names::LABEL_COMPONENT: crds::names::COMPONENT_PROXY}},
        "spec": {"leaseDurationSeconds": seconds, "renewTime": format!("{:.6}", Timestamp::now())},
    })
}

#[tokio::test]
async fn programmed_follows_the_leases_and_ready_the_first_request() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    Gate::start(&plane, Setup { proxies: 0, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&policy(&namespace).to_string())?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    let object = ["agentidentity", "reader", "-n", &namespace];
    reason(&plane, &object, "Programmed", "NoProxyReady").await?;

    let proxy = Caller::account(&plane, SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
    let first = lease("sallyport-proxy-0", &bundle(&plane)?, 6);
    proxy.create(&first, "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    let said = reason(&plane, &object, "Programmed", "Programmed").await?;
    assert!(said["message"].as_str().is_some_and(|message| message.starts_with("1/1 proxies at ")), "{said}");
    reason(&plane, &["accesspolicy", &namespace], "Ready", "Ready").await?;
    assert_eq!(reason(&plane, &object, "Ready", "Reconciling").await?["status"], "Unknown");

    let reached = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": "reader", "namespace": namespace},
        "status": {"conditions": [{"type": "TargetReachable", "status": "True", "reason": "Reachable", "message": "v1.36.3",
                    "observedGeneration": 1, "lastTransitionTime": "2026-11-20T14:00:00Z"}]},
    });
    let account = plane.service_account_kubeconfig(SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
    let args =
        ["apply", "--server-side", "--subresource=status", "--field-manager=sallyport-proxy", "-f", "-"];
    kubectl_stdin(Version::New, &account, &args, &reached.to_string())?.success()?;
    reason(&plane, &object, "Ready", "Ready").await?;
    assert!(
        condition(&get(&plane, &object)?, "TargetReachable").is_some(),
        "the proxies' condition stays theirs"
    );

    // A second proxy that still runs another bundle.
    let lagging = lease("sallyport-proxy-1", "sha256:another", 60);
    proxy.create(&lagging, "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    let renewed = lease("sallyport-proxy-0", &bundle(&plane)?, 6);
    proxy.merge(&renewed, "", &renewed).await?.map_err(|status| anyhow::anyhow!(status.message))?;
    assert_eq!(
        reason(&plane, &object, "Programmed", "Reconciling").await?["message"].as_str().map(|m| &m[..3]),
        Some("1/2")
    );
    proxy.delete(&lagging).await?.map_err(|status| anyhow::anyhow!(status.message))?;

    // Nobody renews: within the six seconds and a moment it is over.
    reason(&plane, &object, "Programmed", "NoProxyReady").await?;
    assert_eq!(reason(&plane, &object, "Ready", "NotProgrammed").await?["status"], "False");
    Ok(())
}

#[tokio::test]
async fn a_finished_grant_goes_after_its_time() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let flags = ["--grant-ttl-seconds", "3"].map(str::to_owned).to_vec();
    Gate::start(&plane, Setup { proxies: 0, operator_flags: flags, ..Setup::default() })?;
    let namespace = plane.namespace("operator").await?;
    plane.apply(&identity(&namespace, "reader", "reader").to_string())?;
    shard(&plane, &namespace, "reader").await?;
    let proxy = Caller::account(&plane, SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
    let grant = |name: &str| {
        json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"agentRef": {"name": "reader"}, "type": "Window", "reason": "r", "window": {"durationSeconds": 60},
                     "requestedBy": {"username": format!("sallyport:agent:{namespace}:reader")}},
        })
    };
    for name in ["used", "waiting"] {
        proxy.create(&grant(name), "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    }
    let consumed = json!({"status": {"consumedBy": "01JD9Z8QH7V3M5T8W2K4N6P9RX", "uses": 1,
                          "consumedTime": format!("{:.0}", Timestamp::now())}});
    proxy
        .merge(&grant("used"), "/status", &consumed)
        .await?
        .map_err(|status| anyhow::anyhow!(status.message))?;
    let object = ["accessgrant", "used", "-n", &namespace];
    reason(&plane, &object, "Active", "Used").await?;
    assert_eq!(get(&plane, &object)?["status"]["uses"], 1, "the proxies' fields stay theirs");
    eventually("the used grant to go", SOON, async || Ok(get(&plane, &object).is_err().then_some(())))
        .await?;
    get(&plane, &["accessgrant", "waiting", "-n", &namespace])?;
    Ok(())
}

#[tokio::test]
async fn a_refused_review_is_an_event_on_the_grant_and_a_dry_run_leaves_none() -> anyhow::Result<()> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("operator").await?;
    let admin = Caller::admin(&plane).await?;
    let tries = [("tried", "?dryRun=All"), ("reviewed", "")];
    for (name, _) in tries {
        let window = crate::leader::window(&namespace, name);
        admin.create(&window, "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    }
    let review = json!({"spec": {"reviews": [{"decision": "Approved"}]}});
    for (name, query) in tries {
        let refused = admin.merge(&crate::leader::window(&namespace, name), query, &review).await?;
        assert!(refused.is_err(), "nobody approves what they asked for");
    }
    let events = async || {
        let list = get(&plane, &["events.events.k8s.io", "-n", &namespace])?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        let rejected = all.into_iter().filter(|event| event["reason"] == "ReviewRejected");
        anyhow::Ok(rejected.collect::<Vec<_>>())
    };
    let told =
        eventually("the event", SOON, async || Ok(Some(events().await?).filter(|all| !all.is_empty())))
            .await?;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["regarding"]["name"], "reviewed");
    assert_eq!(told[0]["type"], "Warning");
    assert!(
        told[0]["note"]
            .as_str()
            .is_some_and(|note| note == "e2e-admin: the requester may not review their own request"),
        "{told:?}"
    );
    Ok(())
}
