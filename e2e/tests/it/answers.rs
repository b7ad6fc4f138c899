//! What the gate answers itself: who am I, may I, what may I, and why. With kubectl 1.36 (protobuf) and 1.31 (JSON).

use std::time::Duration;

use e2e::{Agent, Filter, Gate, Version};
use serde_json::{Value, json};

const VERSIONS: [(Version, usize); 2] = [(Version::New, 0), (Version::Old, 1)];

/// An agent whose policy allows, asks, windows and denies, and whose native RBAC is `edit`.
async fn court(name: &str) -> anyhow::Result<(Gate, Agent)> {
    let gate = super::gate()?;
    let namespace = gate.plane().namespace("answers").await?;
    let agent = gate.agent(&namespace, name, &[]).await?;
    let entry = |resources: &[&str], group: &str, verbs: &[&str]| json!([{"namespaces": [namespace], "apiGroups": [group], "resources": resources, "verbs": verbs}]);
    let reads = ["get", "list", "watch"];
    let policy = |suffix: &str, jit: Value, rules: Value| {
        let mut spec = json!({"agents": [{"namespace": namespace}], "rules": rules});
        if !jit.is_null() {
            spec["jit"] = jit;
        }
        json!({"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy",
               "metadata": {"name": format!("{namespace}-{suffix}")}, "spec": spec})
    };
    let rules = policy(
        "rules",
        Value::Null,
        json!([
            {"name": "read", "effect": "Allow", "match": entry(&["configmaps", "pods", "pods/exec", "resourcequotas", "serviceaccounts"], "", &["*"])},
            {"name": "ask", "effect": "RequireApproval", "match": entry(&["deployments"], "apps", &["delete"])},
            {"name": "no-secrets", "effect": "Deny", "message": "Secrets are not for agents.",
             "match": entry(&["secrets"], "", &["*"])},
            {"name": "roles", "effect": "Allow", "match": entry(&["roles"], "rbac.authorization.k8s.io", &reads)},
            {"name": "livez", "effect": "Allow", "match": [{"nonResourceURLs": ["/livez"], "verbs": ["get"]}]},
        ]),
    );
    let windowed = policy(
        "window",
        json!({"mode": "Required", "maxWindowSeconds": 600}),
        json!([
            {"name": "services", "effect": "Allow", "match": entry(&["services"], "", &["patch"])},
        ]),
    );
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "agent", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()}],
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [rules, windowed, binding]});
    gate.plane().apply(&list.to_string())?;
    for suffix in ["rules", "window"] {
        let object = format!("accesspolicy/{namespace}-{suffix}");
        gate.plane().kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
    }
    Ok((gate, agent))
}

fn asked(agent: &Agent, version: Version, proxy: usize, words: &[&str]) -> anyhow::Result<String> {
    let flags = ["auth", "can-i", "-n", agent.namespace()];
    let out = agent.kubectl_with(version, proxy, &[&flags, words].concat(), "")?;
    Ok(format!("{}{}", out.stdout, out.stderr).trim().to_owned())
}

#[tokio::test]
async fn b31_whoami_is_the_agent_and_not_the_gate() -> anyhow::Result<()> {
    let (gate, agent) = court("who").await?;
    for (version, proxy) in VERSIONS {
        let said = agent.kubectl_with(version, proxy, &["auth", "whoami", "-o", "json"], "")?.success()?;
        let said: Value = serde_json::from_str(&said)?;
        let user = &said["status"]["userInfo"];
        assert_eq!(user["username"], agent.username());
        let groups = json!([
            "sallyport:agents",
            format!("sallyport:agents:{}", agent.namespace()),
            "system:authenticated"
        ]);
        assert_eq!(user["groups"], groups);
        assert_eq!(user["extra"]["sallyport.dev/grant-namespace"], json!([agent.namespace()]));
        let session = user["extra"]["sallyport.dev/session"][0].as_str().unwrap_or_default().to_owned();
        assert!(session.starts_with("who-"), "{said}");
        let table = agent.kubectl_with(version, proxy, &["auth", "whoami"], "")?.success()?;
        assert!(table.contains("sallyport.dev/session") && table.contains(&session), "{table}");
    }
    let reviews = Filter::ran_as(&agent.username()).resource("selfsubjectreviews");
    let asked = gate.plane().audit().requests(&reviews).await?;
    let probes = asked.iter().filter(|request| request.user_agent.contains("kubectl"));
    assert_eq!(probes.count(), 0, "whoami went upstream");
    Ok(())
}

#[tokio::test]
async fn b58_can_i_is_policy_and_the_targets_rbac() -> anyhow::Result<()> {
    let (_gate, agent) = court("may").await?;
    let namespace = agent.namespace().to_owned();
    let whole = format!("{namespace}-rules");
    for (version, proxy) in VERSIONS {
        let say = |words: &[&str]| asked(&agent, version, proxy, words);
        assert_eq!(say(&["list", "configmaps"])?, "yes");
        assert_eq!(say(&["get", "pods/x"])?, "yes");
        let pending = say(&["delete", "deployments.apps/web"])?;
        let want = format!(
            "no - needs human approval (policy \"{whole}\" rule \"ask\"): run the command; it pauses until a human decides"
        );
        assert_eq!(pending, want);
        let denied = say(&["get", "secrets"])?;
        assert!(
            denied.starts_with(&format!("no - policy \"{whole}\" rule \"no-secrets\" denies")),
            "{denied}"
        );
        assert!(say(&["patch", "services/web"])?.starts_with("no - needs an open window"));
        assert!(
            say(&["list", "nodes"])?.contains("no policy allows list nodes"),
            "{}",
            say(&["list", "nodes"])?
        );
        // Policy says yes; the target's `edit` does not.
        let rbac = say(&["list", "roles.rbac.authorization.k8s.io"])?;
        assert!(rbac.starts_with("no - ") && rbac.contains("RBAC on the target denied"), "{rbac}");
        assert!(say(&["delete", "resourcequotas/q"])?.contains("RBAC on the target denied"));
        let exec = say(&["create", "pods", "--subresource=exec"])?;
        assert!(exec.starts_with("no - "), "{exec}");
        assert!(say(&["approve", "configmaps"])?.contains("the verb must be one of"));
        assert!(say(&["*", "*"])?.starts_with("no"));
        assert!(say(&["create", "accessgrants.sallyport.dev"])?.starts_with("yes"));
        assert!(say(&["patch", "accessgrants.sallyport.dev"])?.starts_with("no"));
        assert!(say(&["get", "/version"])?.starts_with("yes"));
        assert!(say(&["get", "/metrics"])?.starts_with("no"));
    }
    Ok(())
}

#[tokio::test]
async fn can_i_has_the_apis_three_states() -> anyhow::Result<()> {
    let (_gate, agent) = court("three").await?;
    let status = async |verb: &str, group: &str, resource: &str| -> anyhow::Result<Value> {
        let attributes =
            json!({"namespace": agent.namespace(), "verb": verb, "group": group, "resource": resource});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                            "spec": {"resourceAttributes": attributes}});
        let target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let json = [("Content-Type", "application/json")];
        let answer = agent.send(0, "POST", target, &json, review.to_string().as_bytes()).await?;
        assert_eq!(answer.code, 201);
        Ok(answer.json()?["status"].clone())
    };
    let yes = status("list", "", "configmaps").await?;
    assert_eq!((&yes["allowed"], &yes["denied"]), (&json!(true), &Value::Null));
    let ask = status("delete", "apps", "deployments").await?;
    assert_eq!((&ask["allowed"], &ask["denied"]), (&json!(false), &Value::Null));
    let never = status("get", "", "secrets").await?;
    assert_eq!((&never["allowed"], &never["denied"]), (&json!(false), &json!(true)));
    Ok(())
}

#[tokio::test]
async fn can_i_list_says_what_runs_now_and_that_there_is_more() -> anyhow::Result<()> {
    let (_gate, agent) = court("list").await?;
    for (version, proxy) in VERSIONS {
        let words = ["auth", "can-i", "--list", "-n", agent.namespace()];
        let out = agent.kubectl_with(version, proxy, &words, "")?;
        assert_eq!(out.code, 0, "{out:?}");
        assert!(
            out.stdout.lines().any(|line| line.starts_with("configmaps") && line.contains("[*]")),
            "{out:?}"
        );
        assert!(!out.stdout.contains("secrets") && !out.stdout.contains("services"), "{out:?}");
        assert!(out.stderr.contains("Warning: the list may be incomplete:"), "{out:?}");
        assert!(out.stderr.contains("1 rule needs human approval"), "{out:?}");
        assert!(out.stderr.contains("kubectl get --raw /sallyport/v1/access"), "{out:?}");
    }
    Ok(())
}

#[tokio::test]
async fn access_and_explain_are_documents() -> anyhow::Result<()> {
    let (_gate, agent) = court("docs").await?;
    let (whole, namespace) = (format!("{}-rules", agent.namespace()), agent.namespace());
    let raw = |path: &str| agent.kubectl(&["get", "--raw", path]);
    let access: Value = serde_json::from_str(&raw("/sallyport/v1/access")?.success()?)?;
    assert_eq!(access["agent"]["username"], agent.username());
    for (list, rule) in
        [("allowed", "read"), ("needsApproval", "ask"), ("needsWindow", "services"), ("denied", "no-secrets")]
    {
        let rules = access[list].as_array().cloned().unwrap_or_default();
        assert!(rules.iter().any(|entry| entry["rule"] == rule), "{list}: {access}");
    }
    assert_eq!(access["window"]["maxWindowSeconds"], 600);
    let about = |query: &str| format!("/sallyport/v1/explain?{query}&namespace={namespace}");
    let explain: Value =
        serde_json::from_str(&raw(&about("verb=delete&resource=deployments.apps&name=web"))?.success()?)?;
    assert_eq!(explain["decision"], "ApprovalPending", "{explain}");
    assert_eq!(explain["rules"][0]["policy"], whole);
    let log: Value = serde_json::from_str(&raw(&about("verb=get&resource=pods/log&name=x"))?.success()?)?;
    assert_eq!(log["decision"], "NotAllowed", "{log}");
    let path: Value = serde_json::from_str(&raw("/sallyport/v1/explain?verb=get&path=/livez")?.success()?)?;
    assert_eq!(path["decision"], "Allowed", "{path}");
    for (target, token) in [
        ("/sallyport/v1/explain?verb=delete", "(BadRequest)"),
        ("/sallyport/v1/explain?verb=delete&resource=gizmos", "(BadRequest)"),
        ("/sallyport/v1/explain?verb=delete&colour=red", "(BadRequest)"),
        ("/sallyport/v2/access", "(NotFound)"),
    ] {
        let out = raw(target)?;
        assert!(out.code == 1 && out.stderr.contains(token), "{target}: {out:?}");
    }
    Ok(())
}

#[tokio::test]
async fn refusals_and_the_kill_switch_are_events_of_the_identity() -> anyhow::Result<()> {
    let (gate, agent) = court("events").await?;
    let target = format!("/api/v1/namespaces/{}/secrets/db", agent.namespace());
    for _ in 0..3 {
        assert_eq!(agent.send(0, "GET", &target, &[], b"").await?.code, 403);
    }
    let told = async |reason: &str| {
        e2e::eventually(&format!("Event {reason}"), Duration::from_secs(60), async || {
            let list = gate.plane().kubectl(&[
                "get",
                "events.events.k8s.io",
                "-o",
                "json",
                "-n",
                agent.namespace(),
            ])?;
            let list: Value = serde_json::from_str(&list.success()?)?;
            let found = list["items"].as_array().into_iter().flatten().find(|event| {
                event["reason"] == reason
                    && event["regarding"]["kind"] == "AgentIdentity"
                    && event["regarding"]["name"] == agent.name()
            });
            Ok(found.cloned())
        })
        .await
    };
    let denied = told("RequestsDenied").await?;
    let note = denied["note"].as_str().unwrap_or_default();
    assert!(note.contains("PolicyDenied") && note.contains("refused by proxy"), "{denied}");
    for (suspend, reason) in [(true, "AgentSuspended"), (false, "AgentResumed")] {
        let patch = json!({"spec": {"suspend": suspend}}).to_string();
        let args =
            ["patch", "agentidentity", agent.name(), "--type=merge", "-p", &patch, "-n", agent.namespace()];
        gate.plane().kubectl(&args)?.success()?;
        told(reason).await?;
    }
    Ok(())
}
