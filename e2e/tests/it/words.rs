//! Every text as an agent reads it: stock kubectl 1.29, 1.33 and 1.36 through the gate, held against committed files.
//!
//! `SALLYPORT_WRITE_SNAPSHOTS=1` writes the files instead; what changed is then read in the diff, as an agent would read it.

mod faults;
mod grants;
pub mod page;
mod questions;
mod suspended;

use std::process::Child;
use std::time::Duration;

use e2e::{Agent, Output, Version};
use serde_json::{Value, json};

use super::estate::Estate;
use page::Page;

/// Longer than kubectl repeats by itself.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
const CANARY: &str = "canary-7c1d-hunter2";

/// A policy with every effect, and masks; what waits for a human is answered at once.
fn every_effect() -> Value {
    let core = |resources: &[&str], verbs: &[&str]| json!([{"apiGroups": [""], "resources": resources, "verbs": verbs}]);
    let reads = ["get", "list", "watch"];
    json!({
        "rules": [
            {"name": "work", "effect": "Allow", "match": core(&["configmaps", "pods", "pods/exec", "resourcequotas"], &["*"])},
            {"name": "look", "effect": "Allow", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": reads},
                {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": reads},
                {"nonResourceURLs": ["/livez"], "verbs": ["get"]},
            ]},
            {"name": "ask", "effect": "RequireApproval", "message": "Changes to workloads need a human.", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["patch", "update", "delete"]},
                {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["nodes"], "verbs": ["delete"]},
            ]},
            {"name": "no-secrets", "effect": "Deny", "message": "Secrets are not for agents.",
             "match": core(&["secrets"], &["*"])},
        ],
        "approval": {"holdSeconds": 0},
        "masking": [{"name": "config", "type": "Fields", "match": core(&["configmaps"], &["*"]),
                     "fields": {"paths": [".data.password"]}}],
    })
}

async fn estate() -> anyhow::Result<Estate> {
    let estate = Estate::new(&super::gate()?, "words", every_effect()).await?;
    let objects = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "data": {"password": CANARY, "mode": "dark"},
         "metadata": {"name": "flags", "namespace": estate.namespace}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": estate.namespace},
         "spec": {"containers": [{"name": "web", "image": "web"}]}},
    ]);
    estate.gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    Ok(estate)
}

#[tokio::test]
async fn refusals() -> anyhow::Result<()> {
    let estate = estate().await?;
    estate.deployment("web")?;
    let mut page = Page::new("refusals", &estate);
    let placeholder = r#"{"metadata":{"annotations":{"note":"[MASKED:config]"}}}"#;
    for (title, args) in [
        ("PolicyDenied", &["get", "secret", "db"][..]),
        ("PolicyDenied, of a list", &["get", "secrets"]),
        ("PolicyDenied, by the gate itself", &["get", "accesspolicies.sallyport.dev"]),
        ("NotAllowed", &["get", "services"]),
        ("NotAllowed, of the cluster", &["get", "nodes"]),
        (
            "NotAllowed, of a verb that prints the message alone",
            &["set", "serviceaccount", "daemonset/web", "robot"],
        ),
        ("NotAllowed, of a path", &["get", "--raw", "/metrics"]),
        ("NotAllowed, for all namespaces", &["get", "configmaps", "-A"]),
        ("MaskedValueInWrite", &["patch", "configmap", "flags", "--type=merge", "-p", placeholder]),
        ("PolicyDenied, of a stream", &["exec", "web", "--", "id"]),
        ("BadRequest", &["get", "--raw", "/api/v1/nodes?limit=x"]),
        ("NotFound, of a path of the gate", &["get", "--raw", "/sallyport/v2/access"]),
        ("NotFound, of an object", &["get", "configmap", "none"]),
        ("Forbidden by the RBAC of the cluster", &["get", "roles"]),
        ("Forbidden by the RBAC of the cluster, of one object", &["delete", "resourcequota", "q"]),
    ] {
        page.tell(title, args)?;
    }
    page.finish()
}

#[tokio::test]
async fn warnings_and_placeholders() -> anyhow::Result<()> {
    let estate = estate().await?;
    let mut page = Page::new("masked", &estate);
    page.tell("an object with a masked value", &["get", "configmap", "flags", "-o", "jsonpath={.data}"])?;
    page.tell("a list with one", &["get", "configmaps", "flags", "-o", "custom-columns=P:.data.password"])?;
    page.tell("a table shows none", &["get", "configmap", "flags", "--no-headers", "-o", "name"])?;
    let said = page.text();
    assert!(!said.contains(CANARY), "{said}");
    page.finish()
}

#[tokio::test]
async fn b122_a_wrong_token_is_told_what_is_wrong_also_by_discovery() -> anyhow::Result<()> {
    let estate = estate().await?;
    let plane = estate.gate.plane();
    let mut page = Page::new("unauthorized", &estate);
    let (ca, url) = (estate.gate.ca().await?, estate.gate.urls().remove(0));
    let foreign = plane.token(&estate.namespace, "agent", &[plane.server()], 600).await?;
    for (title, args) in [
        ("for somebody else, asked who it is", &["auth", "whoami"][..]),
        ("for somebody else, with a cold cache", &["get", "configmaps"]),
    ] {
        page.tell_with(title, args, |version| {
            let login = e2e::kubeconfig::Login::Token(foreign.clone());
            let config = e2e::kubeconfig::Kubeconfig::new(&url, &ca, login);
            let config = config.write(plane.scratch(), &format!("foreign-{}", plane.next()))?;
            e2e::kubectl(version, &config, args)
        })?;
    }
    let said = page.text();
    assert!(said.contains("Warning: token audience is"), "{said}");
    assert!(!said.contains(&foreign), "a 401 never shows the token");
    page.finish()
}

/// What each reader's kubectl says.
fn by_each(say: impl Fn(Version) -> anyhow::Result<e2e::Output>) -> anyhow::Result<Vec<e2e::Output>> {
    Version::READERS.into_iter().map(say).collect()
}

/// Every reader's kubectl at once.
pub fn begin(agent: &Agent, args: impl Fn(Version) -> Vec<String>) -> anyhow::Result<Vec<Child>> {
    let spawn = |version| {
        let args = args(version);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        agent.kubectl_spawn(version, 0, &[&["-n", agent.namespace()], &args[..]].concat())
    };
    Version::READERS.into_iter().map(spawn).collect()
}

/// What they said, when all have ended.
pub async fn ended(children: Vec<Child>) -> anyhow::Result<Vec<Output>> {
    let all = tokio::task::spawn_blocking(move || {
        children.into_iter().map(Child::wait_with_output).collect::<Result<Vec<_>, _>>()
    });
    let said = |out: std::process::Output| Output {
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        code: out.status.code().unwrap_or(-1),
    };
    Ok(tokio::time::timeout(ENDED_WITHIN, all).await???.into_iter().map(said).collect())
}

/// The name of an object that one reader has for itself.
pub fn own(version: Version, name: &str) -> String {
    format!("{name}-{version:?}").to_lowercase()
}
