//! Asking before acting: can-i, whoami, and what the gate serves below `/sallyport/v1`.

use e2e::Version;
use serde_json::Value;

use super::page::Page;

#[tokio::test]
async fn b58_can_i_in_each_state() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    let mut page = Page::new("can-i", &estate);
    for (title, act) in [
        ("allowed", &["list", "configmaps"][..]),
        ("allowed by policy, refused by the cluster's RBAC", &["list", "roles.rbac.authorization.k8s.io"]),
        ("needs a human", &["delete", "deployments.apps/web"]),
        ("needs a human in vain: the cluster's RBAC refuses it too", &["delete", "nodes/n"]),
        ("denied", &["get", "secrets"]),
        ("not allowed", &["list", "services"]),
        ("a stream", &["create", "pods", "--subresource=exec"]),
        ("its own grants", &["create", "accessgrants.sallyport.dev"]),
        ("other objects of the gate", &["list", "accesspolicies.sallyport.dev"]),
        ("a path", &["get", "/metrics"]),
        ("no verb of a request", &["approve", "configmaps"]),
        ("everything", &["*", "*"]),
    ] {
        page.tell(title, &[&["auth", "can-i"], act].concat())?;
    }
    page.tell("the list", &["auth", "can-i", "--list"])?;
    page.tell("who am I", &["auth", "whoami"])?;
    page.finish()
}

#[tokio::test]
async fn the_gates_own_paths() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    let mut page = Page::new("own-paths", &estate);
    let about = |query: &str| format!("/sallyport/v1/explain?{query}&namespace={}", estate.namespace);
    for (title, path) in [
        ("index", "/sallyport/v1".to_owned()),
        ("index, with a slash", "/sallyport/v1/".to_owned()),
        ("instructions", "/sallyport/v1/instructions".to_owned()),
        ("explain, allowed", about("verb=patch&resource=configmaps&name=flags")),
        ("explain, needs a human", about("verb=delete&resource=deployments.apps&name=web")),
        ("explain, denied", about("verb=get&resource=secrets&name=db")),
        ("explain, not allowed", about("verb=list&resource=services")),
        ("explain, refused by the cluster", about("verb=list&resource=roles.rbac.authorization.k8s.io")),
        ("explain, a subresource", about("verb=create&resource=pods&subresource=exec&name=web")),
        ("explain, its own grants", about("verb=create&resource=accessgrants.sallyport.dev")),
        ("explain, a path", "/sallyport/v1/explain?verb=get&path=/livez".to_owned()),
        ("explain, no verb", about("resource=pods")),
        ("explain, no such kind", about("verb=get&resource=deployments")),
        ("explain, no such subresource", about("verb=get&resource=pods/gizmo")),
        ("explain, an unknown key", about("verb=get&kind=pods")),
    ] {
        page.tell(title, &["get", "--raw", &path])?;
    }
    page.finish()
}

#[tokio::test]
async fn access_is_the_whole_truth_as_json() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    for version in Version::READERS {
        let said = estate
            .agent
            .kubectl_with(version, 1, &["get", "--raw", "/sallyport/v1/access"], "")?
            .success()?;
        let said: Value = serde_json::from_str(&said)?;
        assert_eq!(said["agent"]["username"], estate.agent.username());
        for (list, rule) in [("allowed", "work"), ("needsApproval", "ask"), ("denied", "no-secrets")] {
            let rules = said[list].as_array().cloned().unwrap_or_default();
            assert!(rules.iter().any(|entry| entry["rule"] == rule), "{list}: {said}");
        }
        assert_eq!(said["limits"]["requestsPerSecond"], 50);
    }
    Ok(())
}
