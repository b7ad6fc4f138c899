//! Targets of type Static, against a second real kube-apiserver.

use e2e::{Agent, Filter, Version, kubectl};
use serde_json::{Value, json};

use super::super::estate::review_as;
use super::super::record::events_in;
use super::Remote;

async fn edge(prefix: &str) -> anyhow::Result<(Remote, Agent, String)> {
    let remote = Remote::new(prefix).await?;
    let token = remote.powerful("gate").await?;
    remote.secret("edge", &token)?;
    remote.identity("agent", remote.fixed(remote.far.server(), remote.far.ca(), "edge")).await?;
    let agent = remote.agent("agent").await?;
    let account = format!("system:serviceaccount:{}:gate", remote.namespace);
    Ok((remote, agent, account))
}

#[tokio::test]
async fn a_static_target_is_worked_on_with_its_token_and_approved_on_the_hub() -> anyhow::Result<()> {
    let (remote, agent, account) = edge("static").await?;
    let namespace = remote.namespace.as_str();
    let version = remote.becomes("agent", "Reachable").await?;
    assert!(version.starts_with("v1."), "{version}");
    remote.deployment("web")?;
    remote.far_admin(&["create", "configmap", "flags", "--from-literal=where=far"])?;
    remote.admin(&["create", "configmap", "flags", "--from-literal=where=hub"])?;
    let said = agent.kubectl(&["get", "configmap", "flags", "-o", "jsonpath={.data.where}"])?.success()?;
    assert_eq!(said, "far");
    let there = Filter::ran_as(&account).resource("configmaps").namespace(namespace);
    assert_eq!(remote.far.audit().requests(&there).await?.len(), 1);
    let here = remote.gate.plane().audit().requests_of(&agent.username()).await?;
    assert!(here.is_empty(), "the hub was asked as the agent: {here:?}");

    // Held, approved by a person of the hub, found again by every kubectl, and run once on the other cluster.
    let delete = ["delete", "deployment", "web"];
    let pending = agent.kubectl(&delete)?;
    assert!(pending.stderr.contains("ApprovalPending"), "{pending:?}");
    let grant =
        agent.kubectl(&["get", "accessgrants", "-o", "jsonpath={.items[*].metadata.name}"])?.success()?;
    assert!(grant.starts_with("agent-") && !grant.contains(' '), "{grant}");
    review_as(&remote.alice, namespace, &grant, &json!({"decision": "Approved"}))?.success()?;
    let wait = ["wait", "--for=condition=Decided", &format!("accessgrant/{grant}"), "--timeout=60s"];
    for version in [Version::New, Version::Old] {
        agent.kubectl_with(version, 0, &wait, "")?.success()?;
    }
    for name in ["kubectl-1.29", "kubectl-1.33"] {
        let [program] = e2e::tools::tools([name])?;
        let home = agent.kubeconfig(0).with_extension(name);
        let out = std::process::Command::new(program)
            .args(wait)
            .env_clear()
            .env("HOME", &home)
            .env("KUBECONFIG", agent.kubeconfig(0))
            .output()?;
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let done = agent.kubectl(&delete)?;
    assert!(done.stderr.contains("ran once") && done.code == 0, "{done:?}");
    let left = remote.far_admin(&["get", "deployments", "-o", "name"])?;
    assert_eq!(left, "");
    let window = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"generateName": "agent-", "namespace": namespace},
        "spec": {"agentRef": {"name": "agent"}, "type": "Window", "reason": "a window", "window": {"durationSeconds": 600}},
    });
    for version in [Version::New, Version::Old] {
        let asked = agent.kubectl_with(version, 1, &["create", "-f", "-"], &window.to_string())?;
        assert!(asked.stderr.contains("no policy offers a window"), "{asked:?}");
    }
    let records = remote.admin(&["get", "sessionrecords", "-o", "json"])?;
    let records: Value = serde_json::from_str(&records)?;
    for record in records["items"].as_array().into_iter().flatten() {
        assert_eq!(record["spec"]["target"], json!({"type": "Static", "server": remote.far.server()}));
    }
    assert!(!events_in(&remote.gate, namespace)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn b110_the_groups_of_a_remote_target_name_ours_in_every_form() -> anyhow::Result<()> {
    let (_remote, agent, _) = edge("joined").await?;
    for form in [
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
        "application/json",
        "application/vnd.kubernetes.protobuf",
    ] {
        let answer = agent.send(0, "GET", "/apis", &[("Accept", form)], b"").await?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        let named =
            |one: &&Value| one["name"] == "sallyport.dev" || one["metadata"]["name"] == "sallyport.dev";
        let entries =
            document["items"].as_array().or(document["groups"].as_array()).cloned().unwrap_or_default();
        assert_eq!(entries.iter().filter(named).count(), 1, "{form}: {}", answer.text());
        assert!(entries.len() > 10 && answer.header("etag").is_none(), "{form}");
    }
    for (path, kind) in
        [("/apis/sallyport.dev", "APIGroup"), ("/apis/sallyport.dev/v1alpha1", "APIResourceList")]
    {
        let document: Value = serde_json::from_slice(&agent.send(0, "GET", path, &[], b"").await?.body)?;
        assert_eq!(document["kind"], kind);
    }
    let explained = agent.kubectl(&["explain", "accessgrant.spec.window"])?.success()?;
    assert!(explained.contains("durationSeconds"), "{explained}");
    let listed = agent.kubectl(&["api-resources", "--api-group=sallyport.dev", "-o", "name"])?.success()?;
    assert_eq!(listed.trim(), "accessgrants.sallyport.dev");
    for path in
        ["/apis/sallyport.dev/v1alpha1/accesspolicies", "/apis/sallyport.dev/v1alpha1/agentidentities"]
    {
        let answer = agent.send(0, "GET", path, &[], b"").await?;
        assert!((400..500).contains(&answer.code), "{path}: {}", answer.text());
    }
    Ok(())
}

/// Everything that security B6 calls user-keyed: method, target, body.
fn user_keyed(namespace: &str) -> Vec<(&'static str, &'static str, String, Value)> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let object = |api: &str, kind: &str| json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}});
    let rbac_object = |kind: &str| object("rbac.authorization.k8s.io/v1", kind);
    let admission = |kind: &str| object("admissionregistration.k8s.io/v1", kind);
    let none = Value::Null;
    vec![
        ("b83", "POST", format!("{rbac}/namespaces/{namespace}/roles"), rbac_object("Role")),
        ("b83", "POST", format!("{rbac}/namespaces/{namespace}/rolebindings"), rbac_object("RoleBinding")),
        ("b83", "POST", format!("{rbac}/clusterroles"), rbac_object("ClusterRole")),
        ("b83", "PATCH", format!("{rbac}/clusterroles/view"), json!({"rules": []})),
        ("b83", "POST", format!("{rbac}/clusterrolebindings"), rbac_object("ClusterRoleBinding")),
        ("b83", "DELETE", format!("{rbac}/clusterrolebindings/cluster-admin"), none.clone()),
        (
            "b82",
            "POST",
            format!("/api/v1/namespaces/{namespace}/serviceaccounts/gate/token"),
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
        ),
        (
            "b85",
            "POST",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests".to_owned(),
            object("certificates.k8s.io/v1", "CertificateSigningRequest"),
        ),
        (
            "b85",
            "PATCH",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval".to_owned(),
            json!({"status": {}}),
        ),
        (
            "b86",
            "POST",
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned(),
            admission("MutatingWebhookConfiguration"),
        ),
        (
            "b86",
            "POST",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
            admission("ValidatingAdmissionPolicy"),
        ),
        (
            "b86",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/x".to_owned(),
            none.clone(),
        ),
        (
            "b87",
            "POST",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
            object("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ),
        (
            "b87",
            "POST",
            "/apis/apiregistration.k8s.io/v1/apiservices".to_owned(),
            object("apiregistration.k8s.io/v1", "APIService"),
        ),
        (
            "b88",
            "POST",
            format!("/api/v1/namespaces/{namespace}/bindings"),
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "x"}, "target": {"name": "n"}}),
        ),
        ("b88", "PATCH", "/api/v1/nodes/n".to_owned(), json!({"metadata": {"labels": {"a": "b"}}})),
        ("b68", "GET", "/api/v1/nodes/n/proxy/pods".to_owned(), none.clone()),
        (
            "b89",
            "PATCH",
            format!("/api/v1/namespaces/{namespace}"),
            json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}),
        ),
        ("b93", "DELETE", format!("/api/v1/namespaces/{namespace}"), none),
        (
            "b83",
            "PATCH",
            "/api/v1/namespaces/kube-system/configmaps/aws-auth".to_owned(),
            json!({"data": {"mapRoles": "x"}}),
        ),
        (
            "b58",
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(),
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "a"}}),
        ),
        (
            "b58",
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(),
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "a"}}),
        ),
    ]
}

#[tokio::test]
async fn b82_to_b93_what_kubernetes_keys_on_the_user_is_refused_through_a_shared_credential()
-> anyhow::Result<()> {
    let (remote, agent, account) = edge("shared").await?;
    let namespace = remote.namespace.as_str();
    for (id, method, target, body) in user_keyed(namespace) {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = if body.is_empty() { vec![] } else { vec![("Content-Type", media)] };
        let answer = agent.send(0, method, &target, &headers, body.as_bytes()).await?;
        let said = answer.text();
        assert!((400..500).contains(&answer.code), "{id} {method} {target}: {said}");
        assert!(
            said.contains("the gate itself denies")
                || said.contains("StreamDenied")
                || said.contains("BadRequest"),
            "{id} {method} {target}: {said}"
        );
    }
    let owners = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "1"}]}});
    let configmaps = format!("/api/v1/namespaces/{namespace}/configmaps");
    remote.far_admin(&["create", "configmap", "kept"])?;
    let merge = [("Content-Type", "application/merge-patch+json")];
    let target = format!("{configmaps}/kept");
    let answer = agent.send(0, "PATCH", &target, &merge, owners.to_string().as_bytes()).await?;
    assert!(answer.code == 403 && answer.text().contains("owners or finalizers"), "b91: {}", answer.text());
    let free = json!({"metadata": {"labels": {"a": "b"}}});
    let answer = agent.send(0, "PATCH", &target, &merge, free.to_string().as_bytes()).await?;
    assert_eq!(answer.code, 200, "{}", answer.text());
    updates_keep_owners(&remote, &agent, &target).await?;
    let reads = agent.kubectl(&["get", "clusterroles", "view", "-o", "name"])?;
    assert_eq!(reads.code, 0, "reading is no matter of who asks: {reads:?}");
    let writes = remote.far.audit().requests_of(&account).await?;
    let writes: Vec<_> = writes
        .iter()
        .filter(|one| !matches!(one.verb.as_str(), "get" | "list" | "watch"))
        .filter(|one| one.object_ref.as_ref().is_some_and(|object| object.resource != "selfsubjectreviews"))
        .collect();
    assert_eq!(writes.len(), 3, "only the label and, twice, the value were sent: {writes:?}");
    Ok(())
}

/// What an update or an apply leaves out, it takes away.
async fn updates_keep_owners(remote: &Remote, agent: &Agent, target: &str) -> anyhow::Result<()> {
    let applied = remote.far.scratch().join("files/kept.yaml");
    let of_argo = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kept", "finalizers": ["example.com/kept"]}});
    std::fs::write(&applied, of_argo.to_string())?;
    let applied = applied.display().to_string();
    remote.far_admin(&["apply", "--server-side", "--field-manager=argocd", "-f", &applied])?;
    let stored = || -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&remote.far_admin(&["get", "configmap", "kept", "-o", "json"])?)?)
    };
    let before = stored()?;
    let update = |finalizers: Value, version: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
               "metadata": {"name": "kept", "finalizers": finalizers, "resourceVersion": version}})
    };
    let version = &before["metadata"]["resourceVersion"];
    let yaml = "application/apply-patch+yaml";
    let apply =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "b"}});
    for (what, method, query, media, body) in [
        ("left out", "PUT", "", "application/json", update(Value::Null, Value::Null)),
        ("left out, of this version", "PUT", "", "application/json", update(Value::Null, version.clone())),
        ("left out, of any version", "PUT", "", "application/json", update(json!([]), json!("0"))),
        ("another", "PUT", "", "application/json", update(json!(["example.com/other"]), Value::Null)),
        ("dry", "PUT", "?dryRun=All", "application/json", update(Value::Null, Value::Null)),
        ("given up", "PATCH", "?fieldManager=argocd&force=true", yaml, apply),
    ] {
        let headers = [("Content-Type", media)];
        let answer =
            agent.send(0, method, &format!("{target}{query}"), &headers, body.to_string().as_bytes()).await?;
        let said = answer.text();
        assert!(
            answer.code == 403 && said.contains("denies changing owners or finalizers"),
            "b92 {what}: {said}"
        );
    }
    assert_eq!(stored()?, before);
    let headers = [("Content-Type", "application/json")];
    let same = update(json!(["example.com/kept"]), Value::Null).to_string();
    let answer = agent.send(0, "PUT", target, &headers, same.as_bytes()).await?;
    assert_eq!(answer.code, 200, "{}", answer.text());
    assert_eq!(stored()?["metadata"]["finalizers"], json!(["example.com/kept"]));
    let stale = update(json!(["example.com/kept"]), version.clone()).to_string();
    let answer = agent.send(0, "PUT", target, &headers, stale.as_bytes()).await?;
    assert_eq!(answer.code, 409, "the version that the client named still counts: {}", answer.text());
    Ok(())
}

#[tokio::test]
async fn b31_b58_questions_about_oneself_never_reach_the_credential() -> anyhow::Result<()> {
    let (remote, agent, account) = edge("whoami").await?;
    let before = reviews(&remote, &account).await?;
    let whoami = agent.kubectl(&["auth", "whoami", "-o", "json"])?.success()?;
    assert!(whoami.contains(&agent.username()) && !whoami.contains("serviceaccount:"), "{whoami}");
    for version in [Version::New, Version::Old] {
        let can = |words: &[&str]| agent.kubectl_with(version, 0, &[&["auth", "can-i"], words].concat(), "");
        assert!(can(&["get", "pods"])?.stdout.starts_with("yes"));
        assert!(can(&["create", "clusterrolebindings"])?.stdout.starts_with("no"), "the credential could");
        assert!(can(&["delete", "deployments.apps/web"])?.stdout.starts_with("no"), "it asks a human first");
        let list = can(&["--list"])?;
        assert!(list.stdout.contains("pods") || list.stdout.contains('*'), "{list:?}");
    }
    for question in ["verb=get&resource=pods", "verb=delete&resource=deployments.apps&name=web"] {
        let path = format!("/sallyport/v1/explain?{question}&namespace={}", agent.namespace());
        let explained = agent.kubectl(&["get", "--raw", &path])?.success()?;
        assert!(!explained.contains("targetRBAC"), "{explained}");
    }
    // The probe's own review is the only one that a credential ever sees.
    let after = reviews(&remote, &account).await?;
    assert!(after <= before + 1, "{before} before, {after} after");
    Ok(())
}

async fn reviews(remote: &Remote, account: &str) -> anyhow::Result<usize> {
    let mut count = 0;
    for resource in ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"] {
        count += remote.far.audit().requests(&Filter::ran_as(account).resource(resource)).await?.len();
    }
    Ok(count)
}

#[tokio::test]
async fn target_reachable_tells_the_true_cause_and_a_rotated_token_is_taken_at_once() -> anyhow::Result<()> {
    let remote = Remote::new("reach").await?;
    let namespace = remote.namespace.as_str();
    let token = remote.powerful("gate").await?;
    remote.secret("good", &token)?;
    remote.secret("rotated", "nonsense")?;
    let (server, ca) = (remote.far.server(), remote.far.ca());
    let [dead] = e2e::control_plane::free_ports()?;
    let dead = format!("https://127.0.0.1:{dead}");
    for (name, target) in [
        ("wrong-ca", remote.fixed(server, remote.gate.plane().ca(), "good")),
        ("no-ca", remote.fixed(server, "hello", "good")),
        ("dead-port", remote.fixed(&dead, ca, "good")),
        ("no-secret", remote.fixed(server, ca, "missing")),
        ("wrong-token", remote.fixed(server, ca, "rotated")),
    ] {
        remote.identity(name, target).await?;
    }
    for (name, reason, word) in [
        ("wrong-ca", "CertificateInvalid", "certificate"),
        ("no-ca", "CertificateInvalid", "caBundle"),
        ("dead-port", "ConnectionFailed", "refused"),
        ("no-secret", "Unauthorized", "missing"),
        ("wrong-token", "Unauthorized", "401"),
    ] {
        let said = remote.becomes(name, reason).await?;
        assert!(said.contains(word) && !said.contains("nonsense"), "{name}: {said}");
    }
    // F22: the Secret is watched, and the proxy may read it and no other of the namespace.
    remote.secret("rotated", &token)?;
    let agent = remote.agent("wrong-token").await?;
    agent.kubectl(&["get", "configmaps"])?.success()?;
    let proxy = remote.gate.proxies()[0].program().kubeconfig().to_owned();
    let may = |secret: &str| {
        kubectl(Version::New, &proxy, &["get", "secret", secret, "-n", namespace, "-o", "name"])
    };
    remote.secret("unnamed", "x")?;
    assert_eq!(may("rotated")?.code, 0);
    assert!(may("unnamed")?.stderr.contains("Forbidden"));
    remote.far.service_account(namespace, "weak").await?;
    remote.secret("rotated", &remote.far.token(namespace, "weak", &[], 3600).await?)?;
    e2e::eventually("the weaker token", super::SOON, async || {
        let out = agent.kubectl(&["get", "configmaps"])?;
        Ok(out.stderr.contains("Forbidden").then_some(()))
    })
    .await?;
    for name in ["wrong-ca", "no-ca", "dead-port", "no-secret", "wrong-token"] {
        remote.admin(&["delete", "agentidentity", name])?;
    }
    e2e::eventually("the proxy's access to tokens to be gone", super::SOON, async || {
        Ok(may("rotated")?.stderr.contains("Forbidden").then_some(()))
    })
    .await
}

#[tokio::test]
async fn rate_pending_grants_and_streams_are_limited_for_each_agent_of_a_target() -> anyhow::Result<()> {
    let (remote, other, account) = edge("limits").await?;
    let namespace = remote.namespace.as_str();
    let target = || remote.fixed(remote.far.server(), remote.far.ca(), "edge");
    remote.limited("busy", target(), json!({"maxPendingGrants": 1, "maxConcurrentStreams": 1})).await?;
    remote.limited("rapid", target(), json!({"requestsPerSecond": 1})).await?;
    let (busy, rapid) = (remote.agent("busy").await?, remote.agent("rapid").await?);
    for name in ["web", "web2"] {
        remote.deployment(name)?;
    }
    let delete = |agent: &Agent, name: &str| agent.kubectl(&["delete", "deployment", name]);
    assert!(delete(&busy, "web")?.stderr.contains("ApprovalPending"));
    assert!(delete(&busy, "web2")?.stderr.contains("TooManyPendingApprovals"));
    assert!(delete(&other, "web2")?.stderr.contains("ApprovalPending"));

    let mut watch = busy.kubectl_spawn(Version::New, 0, &["get", "configmaps", "-w"])?;
    let watches = Filter::ran_as(&account).verb("watch").resource("configmaps").namespace(namespace);
    remote.far.audit().wait_for(&watches, 1).await?;
    let second = format!("/api/v1/namespaces/{namespace}/configmaps?watch=true&timeoutSeconds=1");
    let refused = busy.send(0, "GET", &second, &[], b"").await?;
    assert!(refused.code == 403 && refused.text().contains("StreamDenied"), "{}", refused.text());
    assert_eq!(other.send(0, "GET", &second, &[], b"").await?.code, 200);
    watch.kill()?;
    watch.wait()?;

    let mut codes = Vec::new();
    for _ in 0..8 {
        codes.push(rapid.send(0, "GET", "/version", &[], b"").await?.code);
    }
    assert!(codes.contains(&429), "{codes:?}");
    assert_eq!(other.send(0, "GET", "/version", &[], b"").await?.code, 200);
    Ok(())
}
