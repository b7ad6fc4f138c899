//! Approvals, grants and the walls around them.

use std::time::Duration;

use e2e::{Agent, ControlPlane, Gate, Setup, Version, eventually, kubectl};
use serde_json::{Value, json};

use super::super::estate::{Estate, review_as};
use super::{MERGE, assert_refused, nearly_everything, siege};

#[tokio::test]
async fn d16_d17_an_approval_covers_one_named_object_and_nothing_like_it() -> anyhow::Result<()> {
    let estate = siege().await?;
    estate.deployment("web")?;
    let all = estate.deployments();
    for (what, method, target, headers, body) in [
        ("D17 deletecollection", "DELETE", all.clone(), &[][..], String::new()),
        ("D17 by selector", "DELETE", format!("{all}?fieldSelector=metadata.name=web"), &[], String::new()),
        ("P8 create with a name", "POST", format!("{all}/web"), &[], "{}".to_owned()),
        (
            "another name in the body",
            "PATCH",
            format!("{all}/web"),
            &MERGE,
            json!({"metadata": {"name": "x"}}).to_string(),
        ),
        (
            "another namespace",
            "PATCH",
            format!("{all}/web"),
            &MERGE,
            json!({"metadata": {"namespace": "kube-system"}}).to_string(),
        ),
        (
            "B95 scale",
            "PATCH",
            format!("{all}/web/scale"),
            &MERGE,
            json!({"spec": {"replicas": 3}}).to_string(),
        ),
        ("B41 status", "PATCH", format!("{all}/web/status"), &MERGE, "{}".to_owned()),
        ("B43 empty patch", "PATCH", format!("{all}/web"), &MERGE, "{}".to_owned()),
    ] {
        assert_refused(what, &estate.try_it(method, &target, headers, &body).await?);
    }
    let made = |name: &str| {
        let labels = json!({"app": name});
        let template =
            json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
        let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template});
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
            .to_string()
    };
    for grant in grants(&estate)? {
        estate.admin(&["delete", "accessgrant", &grant])?.success()?;
    }
    assert_refused("pending", &estate.try_it("POST", &all, &[], &made("one")).await?);
    let grant = estate.grant("WaitingForReview").await?;
    estate.review(&grant, "Approved")?.success()?;
    assert_refused("another name", &estate.try_it("POST", &all, &[], &made("two")).await?);
    assert_refused(
        "the other proxy too",
        &estate.agent.send(1, "POST", &all, &[], made("two").as_bytes()).await?,
    );
    let ran = estate.try_it("POST", &all, &[], &made("one")).await?;
    assert_eq!(ran.code, 201, "{}", ran.text());
    estate.admin(&["delete", "deployment", "one"])?.success()?;
    assert_refused("D03 a second time", &estate.try_it("POST", &all, &[], &made("one")).await?);
    for verb in ["delete", "deletecollection", "patch"] {
        assert_eq!(estate.ran(Some(verb), "deployments").await?, 0, "{verb}");
    }
    assert_eq!(estate.ran(Some("create"), "deployments").await?, 1);
    Ok(())
}

fn grants(estate: &Estate) -> anyhow::Result<Vec<String>> {
    let names =
        estate.admin(&["get", "accessgrants", "-o", "jsonpath={.items[*].metadata.name}"])?.success()?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

fn window(estate: &Estate, agent: &Agent, spec: &Value, metadata: &Value) -> Value {
    let mut grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "w-", "namespace": estate.namespace},
        "spec": {"agentRef": {"name": agent.name()}, "type": "Window", "reason": "INC-1", "window": {"durationSeconds": 600}},
    });
    let parts = [("metadata", metadata), ("spec", spec)];
    for (part, more) in parts {
        for (key, value) in more.as_object().into_iter().flatten() {
            grant[part][key] = value.clone();
        }
    }
    grant
}

#[tokio::test]
async fn b110_an_agents_own_grants_are_a_narrow_door() -> anyhow::Result<()> {
    let policy = json!({
        "rules": [{"name": "all", "effect": "Allow", "match": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}],
        "jit": {"mode": "Required"}, "approval": {"holdSeconds": 0},
    });
    let estate = Estate::new(&crate::gate()?, "bypass", policy).await?;
    let other = estate.gate.agent(&estate.namespace, "other", &[]).await?;
    let own = estate.own_grants();
    let post = async |grant: Value| estate.try_it("POST", &own, &[], &grant.to_string()).await;
    for spec in [
        json!({"reviews": [{"decision": "Approved"}]}),
        json!({"reviews": [{"decision": "Approved", "reviewer": "alice@example.com", "reviewTime": "2026-01-01T00:00:00Z"}]}),
        json!({"agentRef": {"name": "other"}}),
        json!({"type": "SingleRequest"}),
        json!({"window": {"durationSeconds": 2_000_000}}),
        json!({"window": null}),
    ] {
        let answer = post(window(&estate, &estate.agent, &spec, &json!({}))).await?;
        assert_refused(&spec.to_string(), &answer);
    }
    let forged = json!({
        "labels": {"sallyport.dev/agent": "other", "app.kubernetes.io/managed-by": "x"}, "finalizers": ["example.com/stay"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}], "annotations": {"a": "b"},
    });
    let by = json!({"requestedBy": {"username": "alice@example.com"}});
    let mut grant = window(&estate, &estate.agent, &by, &forged);
    grant["status"] = json!({"consumedBy": "x", "conditions": []});
    let answer = post(grant).await?;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let name = answer.json()?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let stored: Value =
        serde_json::from_str(&estate.admin(&["get", "accessgrant", &name, "-o", "json"])?.success()?)?;
    let meta = &stored["metadata"];
    assert!(
        meta["finalizers"].is_null() && meta["ownerReferences"].is_null() && meta["annotations"].is_null(),
        "{stored}"
    );
    assert_eq!(meta["labels"]["sallyport.dev/agent"], "agent");
    assert_eq!(stored["spec"]["requestedBy"]["username"], estate.agent.username().as_str());
    assert!(stored["status"]["consumedBy"].is_null(), "{stored}");
    let others = other
        .send(0, "POST", &own, &[], window(&estate, &other, &json!({}), &json!({})).to_string().as_bytes())
        .await?;
    assert_eq!(others.code, 201, "{}", others.text());
    let others = others.json()?["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    for query in [
        "",
        "?fieldSelector=spec.agentRef.name=other",
        "?fieldSelector=spec.agentRef.name!=agent",
        "?labelSelector=sallyport.dev/agent=other",
        "?resourceVersion=0",
        "?limit=1",
    ] {
        let answer =
            estate.try_it("GET", &format!("{own}{query}"), &[("Accept", "application/json")], "").await?;
        assert!(!answer.text().contains(&others), "{query}: {}", answer.text());
    }
    for (method, target) in [
        ("GET", format!("{own}/{others}")),
        ("GET", format!("{own}?fieldSelector=metadata.name={others}")),
        ("GET", format!("{own}?watch=1&fieldSelector=metadata.name={others}")),
        ("DELETE", format!("{own}/{others}")),
        ("DELETE", own.clone()),
        ("GET", format!("{own}/{name}/status")),
        ("PUT", format!("{own}/{name}")),
        ("PATCH", format!("{own}/{name}")),
        ("PATCH", format!("{own}/{name}/status")),
        ("GET", "/apis/sallyport.dev/v1alpha1/accessgrants".to_owned()),
        ("GET", format!("/apis/sallyport.dev/v1alpha1/namespaces/{}/sessionrecords", estate.namespace)),
        (
            "GET",
            format!("/apis/sallyport.dev/v1alpha1/namespaces/{}/agentidentities/agent", estate.namespace),
        ),
        ("GET", "/apis/sallyport.dev/v1alpha1/accesspolicies".to_owned()),
        ("GET", format!("/api/v1/namespaces/{}/configmaps", crds::names::SYSTEM_NAMESPACE)),
    ] {
        let headers = if method == "PATCH" { &MERGE[..] } else { &[] };
        let body = match method {
            "PATCH" => json!({"spec": {"reviews": [{"decision": "Approved"}]}}).to_string(),
            "PUT" => window(&estate, &estate.agent, &json!({}), &json!({"name": name})).to_string(),
            _ => String::new(),
        };
        let answer = estate.try_it(method, &target, headers, &body).await?;
        assert_refused(&format!("{method} {target}"), &answer);
        assert!(!answer.text().contains("\"Window\""), "{target}: {}", answer.text());
    }
    estate.admin(&["get", "accessgrant", &others])?.success()?;
    Ok(())
}

fn admission(plane: &ControlPlane) -> anyhow::Result<()> {
    plane.apply(&e2e::chart::manifests("admission")?)?;
    Ok(())
}

#[tokio::test]
async fn f18_f19_without_the_walls_no_approval_counts() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let estate = Estate::new(&gate, "bypass", nearly_everything()).await?;
    estate.deployment("web")?;
    let delete = async || estate.try_it("DELETE", &format!("{}/web", estate.deployments()), &[], "").await;
    let until = async |words: &str| {
        eventually(words, Duration::from_secs(20), async || {
            let answer = delete().await?;
            anyhow::ensure!(answer.code >= 400, "it ran: {}", answer.text());
            Ok(answer.text().contains(words).then_some(()))
        })
        .await
    };
    assert_refused("pending", &delete().await?);
    let grant = estate.grant("WaitingForReview").await?;
    estate.review(&grant, "Approved")?.success()?;
    let binding = ["validatingadmissionpolicybinding", "sallyport-grants"];
    plane.kubectl(&[&["delete"], &binding[..]].concat())?.success()?;
    until("approvals are switched off: ValidatingAdmissionPolicyBinding `sallyport-grants` is missing")
        .await?;
    admission(&plane)?;
    let audit = ["--type=merge", "-p", r#"{"spec":{"validationActions":["Audit"]}}"#];
    plane.kubectl(&[&["patch"], &binding[..], &audit].concat())?.success()?;
    until("`sallyport-grants` was changed").await?;
    let ignore = [
        "patch",
        "validatingadmissionpolicy",
        "sallyport-grants",
        "--type=merge",
        "-p",
        r#"{"spec":{"failurePolicy":"Ignore"}}"#,
    ];
    plane.kubectl(&ignore)?.success()?;
    until("ValidatingAdmissionPolicy `sallyport-grants` was changed").await?;
    assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, "", "the grant was not used");
    assert_eq!(estate.ran(Some("delete"), "deployments").await?, 0);
    plane.kubectl(&[&["delete"], &binding[..]].concat())?.success()?;
    admission(&plane)?;
    eventually("the approval to count again", Duration::from_secs(20), async || {
        Ok((delete().await?.code == 200).then_some(()))
    })
    .await?;

    estate.deployment("web")?;
    until("ApprovalPending").await?;
    let grant = estate.grant("WaitingForReview").await?;
    gate.operator().kill()?;
    let down = estate.review(&grant, "Approved")?;
    assert!(down.stderr.contains("failed calling webhook"), "F18: {down:?}");
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        plane.kubectl(&["delete", kind, crds::names::WEBHOOK_CONFIGURATION])?.success()?;
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "editor", "namespace": estate.namespace},
        "rules": [{"apiGroups": ["sallyport.dev"], "resources": ["accessgrants"], "verbs": ["get", "patch", "update"]}]});
    plane.apply(&role.to_string())?;
    estate
        .admin(&["create", "rolebinding", "editor", "--role=editor", "--user=bob@example.com"])?
        .success()?;
    let bob = plane.user_kubeconfig("bob@example.com", None)?;
    let patch =
        json!({"spec": {"reviews": [{"decision": "Approved", "reviewer": "bob@example.com"}]}}).to_string();
    let dry = [
        "patch",
        "accessgrant",
        &grant,
        "-n",
        &estate.namespace,
        "--type=merge",
        "--dry-run=server",
        "-p",
        &patch,
    ];
    eventually("the API server to read the admission policy again", Duration::from_secs(20), async || {
        Ok((kubectl(Version::New, &bob, &dry)?.code != 0).then_some(()))
    })
    .await?;
    for (who, reviewer, words) in [
        (&bob, "bob@example.com", "needs the RBAC verb `approve`"),
        (&bob, "alice@example.com", "must carry the name of the user"),
        (&plane.admin_kubeconfig().to_path_buf(), "alice@example.com", "must carry the name of the user"),
    ] {
        let review =
            json!({"decision": "Approved", "reviewer": reviewer, "reviewTime": "2026-01-01T00:00:00Z"});
        let out = review_as(who, &estate.namespace, &grant, &review)?;
        assert!(out.stderr.contains(words), "D06, {reviewer}: {out:?}");
    }
    until("ApprovalPending").await?;
    assert_eq!(estate.ran(Some("delete"), "deployments").await?, 1);
    Ok(())
}
