//! `kubectl sallyport` in a person's hands: what waits, and deciding it.

use std::path::Path;
use std::process::Command;

use e2e::{Output, Version};
use serde_json::{Value, json};

use super::estate::Estate;

fn only_in_a_window() -> Value {
    json!({
        "rules": [{"name": "work", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]},
        ]}],
        "jit": {"mode": "Required", "maxWindowSeconds": 3600},
    })
}

/// The plugin as Alice, by her kubeconfig alone.
fn plugin(estate: &Estate, args: &[&str]) -> anyhow::Result<Output> {
    plugin_as(&estate.alice, args)
}

fn plugin_as(kubeconfig: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let out = Command::new(e2e::program("kubectl-sallyport")?)
        .args(args)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok(Output { stdout: text(out.stdout)?, stderr: text(out.stderr)?, code: out.status.code().unwrap_or(-1) })
}

fn ask(estate: &Estate, reason: &str) -> anyhow::Result<String> {
    let grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "agent-", "namespace": estate.namespace},
        "spec": {"agentRef": {"name": "agent"}, "type": "Window", "reason": reason, "window": {"durationSeconds": 1800}},
    });
    let args = ["create", "-f", "-", "-o", "jsonpath={.metadata.name}"];
    estate.agent.kubectl_with(Version::New, 0, &args, &grant.to_string())?.success()
}

#[tokio::test]
async fn a_person_sees_what_waits_and_approves_denies_and_revokes_it() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "plugin", only_in_a_window()).await?;
    let namespace = estate.namespace.as_str();
    let nothing = plugin(&estate, &["pending", "-n", namespace])?;
    assert_eq!(nothing.stderr.trim(), format!("Nothing waits for review in namespace {namespace}."));

    let grant = ask(&estate, "Roll back checkout,\nINC-4312")?;
    estate.grant("WaitingForReview").await?;
    let list = plugin(&estate, &["pending", "-n", namespace, "-o", "wide"])?.success()?;
    let row = list.lines().find(|line| line.starts_with(&grant)).unwrap_or_default();
    for part in ["Window", "agent", "0/1", "Roll back checkout,\\nINC-4312"] {
        assert!(row.contains(part), "no `{part}` in:\n{list}");
    }
    let everywhere = plugin(&estate, &["pending", "-A"])?;
    assert!(
        everywhere.stderr.contains("Error from server (Forbidden): "),
        "Alice approves in one namespace: {everywhere:?}"
    );

    let approved = plugin(&estate, &["approve", &grant, "-n", namespace, "--for", "10m", "-m", "go ahead"])?;
    assert!(
        approved.stderr.contains("Warning: approval recorded for alice@example.com; 1 of 1 required"),
        "{approved:?}"
    );
    assert!(
        approved.stdout.starts_with(&format!("accessgrant.sallyport.dev/{grant} approval recorded")),
        "{approved:?}"
    );
    estate.grant("WindowOpen").await?;
    assert_eq!(estate.grant_field(&grant, ".spec.reviews[0].reviewer")?, "alice@example.com");
    assert_eq!(estate.grant_field(&grant, ".spec.reviews[0].durationSeconds")?, "600");
    assert_eq!(plugin(&estate, &["pending", "-n", namespace, "-o", "name"])?.success()?, "");
    estate.agent(&["get", "configmaps"])?.success()?;

    plugin(&estate, &["revoke", &grant, "-n", namespace, "-m", "enough"])?.success()?;
    assert!(estate.agent(&["get", "configmaps"])?.stderr.contains("WindowRequired"));

    let second = ask(&estate, "again")?;
    let lengthened = plugin(&estate, &["approve", &second, "-n", namespace, "--for", "31m"])?;
    assert!(
        lengthened.stderr.contains("a reviewer may shorten a window but not lengthen it"),
        "{lengthened:?}"
    );
    let denied = plugin(&estate, &["deny", &second, "-n", namespace, "-o", "json"])?.success()?;
    let denied: Value = serde_json::from_str(&denied)?;
    assert_eq!(denied["spec"]["reviews"][0]["decision"], "Denied");
    let nobody = plugin(&estate, &["approve", "no-such-grant", "-n", namespace])?;
    assert_eq!((nobody.code, nobody.stdout.as_str()), (1, ""));
    assert!(nobody.stderr.contains("Error from server (NotFound): "), "{nobody:?}");
    Ok(())
}

#[tokio::test]
async fn the_gate_explains_itself_to_the_agent_without_running_anything() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "explain", only_in_a_window()).await?;
    let kubeconfig = estate.agent.kubeconfig(0);
    let ask =
        |args: &[&str]| plugin_as(kubeconfig, &[&["explain"], args, &["-n", &estate.namespace]].concat());
    let reads = ask(&["list", "configmaps"])?.success()?;
    assert!(reads.contains(": WindowRequired"), "{reads}");
    let row = format!("{}   work   Allow", estate.namespace);
    assert!(reads.contains(&row), "no `{row}` in:\n{reads}");
    let deletes = ask(&["delete", "deployments.apps", "web", "-o", "json"])?.success()?;
    let deletes: Value = serde_json::from_str(&deletes)?;
    assert_eq!(deletes["decision"], "NotAllowed", "{deletes}");
    let nonsense = ask(&["frobnicate", "configmaps"])?;
    assert_eq!(nonsense.code, 1, "{nonsense:?}");
    assert!(nonsense.stderr.contains("the verb must be one of"), "{nonsense:?}");
    let elsewhere = plugin(&estate, &["explain", "list", "configmaps", "-n", &estate.namespace])?;
    assert_ne!(elsewhere.code, 0, "only the gate answers: {elsewhere:?}");
    Ok(())
}
