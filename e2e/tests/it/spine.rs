//! One real request through a real gate: as whom it arrives, and what the gate's own credential cannot do.

use std::time::Duration;

use e2e::{Agent, ControlPlane, Filter, Gate, Setup, Version, eventually, kubectl};
use serde_json::json;

/// Lets the agents of `namespace` read ConfigMaps there, by policy and by native RBAC, and waits until every proxy knows.
async fn allow_reading(gate: &Gate, agent: &Agent) -> anyhow::Result<()> {
    let (namespace, user) = (agent.namespace(), agent.username());
    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": format!("read-{namespace}")},
        "spec": {"agents": [{"namespace": namespace}], "rules": [{"name": "read", "effect": "Allow", "match": [
            {"namespaces": [namespace], "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
        ]}]},
    });
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "agent", "namespace": namespace}, "roleRef": role,
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [policy, binding]});
    gate.plane().apply(&list.to_string())?;
    let object = format!("accesspolicy/read-{namespace}");
    gate.plane().kubectl(&["wait", "--for=condition=Programmed", &object, "--timeout=60s"])?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_read_reaches_the_api_server_as_the_agent() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let namespace = gate.plane().namespace("spine").await?;
    let agent = gate.agent(&namespace, "reader", &[]).await?;
    allow_reading(&gate, &agent).await?;
    for (version, proxy) in [(Version::New, 0), (Version::Old, 1)] {
        let out = agent.kubectl_with(version, proxy, &["get", "configmaps", "-o", "name"], "")?;
        assert!(out.stdout.contains("configmap/kube-root-ca.crt"), "{out:?}");
    }
    let lists = Filter::ran_as(&agent.username()).verb("list").resource("configmaps").namespace(&namespace);
    let seen = gate.plane().audit().requests(&lists).await?;
    assert_eq!(seen.iter().map(|request| request.code()).collect::<Vec<_>>(), [200, 200]);
    for request in &seen {
        assert_eq!(request.user.username, "system:serviceaccount:sallyport-system:sallyport-proxy");
        let impersonated = request.impersonated_user.clone().unwrap_or_default();
        assert!(impersonated.extra.contains_key(crds::names::EXTRA_SESSION), "{impersonated:?}");
        let id = impersonated.extra.get(crds::names::EXTRA_REQUEST_ID);
        assert_eq!(id, Some(&vec![request.audit_id.clone()]), "{impersonated:?}");
        let mut groups = impersonated.groups;
        groups.sort();
        assert_eq!(
            groups,
            [
                "sallyport:agents".to_owned(),
                format!("sallyport:agents:{namespace}"),
                "system:authenticated".to_owned()
            ]
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_proxys_own_credential_becomes_nobody_but_agents() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let namespace = gate.plane().namespace("spine").await?;
    let agent = gate.agent(&namespace, "reader", &[]).await?;
    let stolen = gate.proxies()[0].program().kubeconfig().to_owned();
    let own = agent.username();
    let refused: [&[&str]; 6] = [
        &["--as", "alice@example.com"],
        &["--as", "system:admin"],
        &["--as", "sallyport:agent:agents:nobody-made-this-one"],
        &["--as", &own, "--as-group", "system:masters"],
        &["--as", &own, "--as-group", "system:authenticated"],
        &["--as", "system:serviceaccount:sallyport-system:sallyport-operator"],
    ];
    for flags in refused {
        let out = kubectl(Version::New, &stolen, &[flags, &["get", "--raw", "/api"]].concat())?;
        assert_eq!(out.code, 1, "{flags:?}: {out:?}");
        assert!(out.stderr.contains("cannot impersonate resource"), "{flags:?}: {out:?}");
    }
    for args in [["get", "secrets"], ["get", "pods"], ["create", "configmap"], ["get", "nodes"]] {
        let out = kubectl(Version::New, &stolen, &["auth", "can-i", args[0], args[1], "-n", &namespace])?;
        assert_eq!(out.stdout.trim(), "no", "{args:?}");
    }
    Ok(())
}

#[tokio::test]
async fn ready_is_false_without_a_proxy_and_true_once_one_made_the_agents_request() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    gate.proxies()[0].program().kill()?;
    let namespace = plane.namespace("spine").await?;
    plane.service_account(&namespace, "late").await?;
    let identity = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": {"name": "late", "namespace": namespace},
        "spec": {"target": {"type": "InCluster"}, "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                 "serviceAccount": {"namespace": namespace, "name": "late"}}]},
    });
    plane.apply(&identity.to_string())?;
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let ask = ["get", "agentidentity", "late", "-n", &namespace, "-o", ready];
    let programmed = r#"jsonpath={.status.conditions[?(@.type=="Programmed")].reason}"#;
    let why = ["get", "agentidentity", "late", "-n", &namespace, "-o", programmed];
    // A Lease of the killed proxy is fresh for 15 s; Ready must stay False past its end.
    eventually("the killed proxy's Lease to run out", Duration::from_secs(60), async || {
        let said = plane.kubectl(&ask)?.success()?;
        anyhow::ensure!(said != "True", "Ready without a proxy");
        Ok((plane.kubectl(&why)?.success()? == "NoProxyReady").then_some(()))
    })
    .await?;
    assert_eq!(plane.kubectl(&ask)?.success()?, "False");

    let user = format!("sallyport:agent:{namespace}:late");
    assert!(plane.audit().requests_of(&user).await?.is_empty(), "somebody acted as an agent without a proxy");
    gate.proxies()[0].program().restart().await?;
    plane
        .kubectl(&["wait", "--for=condition=Ready", "agentidentity/late", "-n", &namespace, "--timeout=60s"])?
        .success()?;
    let seen =
        plane.audit().requests(&Filter::ran_as(&user).verb("create").resource("selfsubjectreviews")).await?;
    assert!(seen.iter().any(|request| request.code() == 201), "{seen:?}");
    Ok(())
}
