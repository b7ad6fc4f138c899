//! Windows of time: asked for with plain kubectl through the gate, approved by one line, and an end that cuts.

use std::time::{Duration, Instant};

use e2e::{Filter, Output, Version};
use serde_json::{Value, json};

use super::estate::Estate;

/// The goal is 500 ms; a machine that runs other tests beside this one gets three times that.
const CUT_WITHIN: Duration = Duration::from_millis(1500);

/// Everything that this policy allows is live only inside a window.
fn only_in_a_window() -> Value {
    json!({
        "rules": [{"name": "work", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch", "patch"]},
        ]}],
        "jit": {"mode": "Required", "maxWindowSeconds": 3600},
    })
}

pub fn ask(estate: &Estate, seconds: u32) -> anyhow::Result<String> {
    let grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "agent-", "namespace": estate.namespace},
        "spec": {"agentRef": {"name": "agent"}, "type": "Window", "reason": "Roll back checkout, INC-4312",
                 "window": {"durationSeconds": seconds}},
    });
    let args = ["create", "-f", "-", "-o", "jsonpath={.metadata.name}"];
    estate.agent.kubectl_with(Version::New, 0, &args, &grant.to_string())?.success()
}

/// An open window with a watch in it: (grant, the watch's process).
async fn open(estate: &Estate) -> anyhow::Result<(String, std::process::Child)> {
    let grant = ask(estate, 600)?;
    estate.review(&grant, "Approved")?.success()?;
    let wait = ["wait", "--for=condition=Active", &format!("accessgrant/{grant}"), "--timeout=30s"];
    estate.agent(&wait)?.success()?;
    let args = ["get", "configmaps", "-w", "-n", &estate.namespace];
    let child = estate.agent.kubectl_spawn(Version::New, 1, &args)?;
    watching(estate).await?;
    Ok((grant, child))
}

/// Waits until the API server has opened the agent's watch.
async fn watching(estate: &Estate) -> anyhow::Result<()> {
    let watches = Filter::ran_as(&estate.agent.username()).verb("watch").resource("configmaps");
    estate.gate.plane().audit().wait_for(&watches.namespace(&estate.namespace), 1).await?;
    Ok(())
}

/// Does `end`, and says how long the watch lived on and what it printed.
async fn cut_by(
    mut child: std::process::Child,
    end: impl FnOnce() -> anyhow::Result<Output>,
) -> anyhow::Result<(Duration, String)> {
    assert!(child.try_wait()?.is_none(), "the watch is open");
    end()?.success()?;
    let since = Instant::now();
    let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let took = since.elapsed();
    Ok((took, said(&out)?))
}

/// What kubectl said. It prints an ERROR event and a broken stream as rows of its table, and exits with 0 all the same.
fn said(out: &std::process::Output) -> anyhow::Result<String> {
    let text = String::from_utf8([&out.stdout[..], &out.stderr[..]].concat())?;
    assert!(
        text.contains("unable to decode an event from the watch stream"),
        "a cut is never a clean end: {text}"
    );
    Ok(text)
}

fn refused_without_window(estate: &Estate) -> anyhow::Result<()> {
    let out = estate.agent(&["get", "configmaps"])?;
    assert!(out.stderr.contains("sallyport/WindowRequired"), "{out:?}");
    assert!(out.stderr.contains("Longest window allowed: 3600 seconds."), "{out:?}");
    Ok(())
}

#[tokio::test]
async fn a_window_is_asked_for_approved_used_and_revoked_under_an_open_watch() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "window", only_in_a_window()).await?;
    refused_without_window(&estate)?;
    let (grant, child) = open(&estate).await?;
    assert!(estate.agent(&["get", "configmaps"])?.success()?.contains("kube-root-ca.crt"));
    let (took, said) = cut_by(child, || estate.review(&grant, "Revoked")).await?;
    assert!(took < CUT_WITHIN, "{took:?}");
    assert!(said.contains("WindowRequired"), "{said}");
    refused_without_window(&estate)
}

#[tokio::test]
async fn an_agent_that_withdraws_its_window_cuts_its_own_watch() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "window", only_in_a_window()).await?;
    let (grant, child) = open(&estate).await?;
    let (took, _) =
        cut_by(child, || estate.agent(&["delete", "accessgrant", &grant, "--wait=false"])).await?;
    assert!(took < CUT_WITHIN, "{took:?}");
    refused_without_window(&estate)
}

#[tokio::test]
async fn suspending_the_agent_cuts_its_watch() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "window", only_in_a_window()).await?;
    let (_, child) = open(&estate).await?;
    let suspend = ["patch", "agentidentity", "agent", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#];
    let (took, said) = cut_by(child, || estate.admin(&suspend)).await?;
    assert!(took < CUT_WITHIN, "{took:?}");
    assert!(said.contains("AgentSuspended"), "{said}");
    assert!(estate.agent(&["get", "configmaps"])?.stderr.contains("sallyport/AgentSuspended"));
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_window_cuts_and_a_reviewer_may_shorten_it() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "window", only_in_a_window()).await?;
    let grant = ask(&estate, 600)?;
    let review = json!({"decision": "Approved", "durationSeconds": 60});
    super::estate::review_as(&estate.alice, &estate.namespace, &grant, &review)?.success()?;
    let approved = Instant::now();
    let wait = ["wait", "--for=condition=Active", &format!("accessgrant/{grant}"), "--timeout=30s"];
    estate.agent(&wait)?.success()?;
    let child =
        estate.agent.kubectl_spawn(Version::New, 0, &["get", "configmaps", "-w", "-n", &estate.namespace])?;
    let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let lived = approved.elapsed();
    assert!((Duration::from_secs(57)..Duration::from_secs(64)).contains(&lived), "{lived:?}");
    assert!(said(&out)?.contains("WindowRequired"), "{out:?}");
    refused_without_window(&estate)
}

#[tokio::test]
async fn an_agent_sees_and_touches_only_its_own_grants() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "window", only_in_a_window()).await?;
    let other = estate.gate.agent(&estate.namespace, "other", &[]).await?;
    let grant = ask(&estate, 600)?;
    let in_namespace = |args: &[&str]| other.kubectl(&[args, &["-n", &estate.namespace]].concat());
    assert!(!in_namespace(&["get", "accessgrants"])?.stdout.contains(&grant));
    assert!(in_namespace(&["get", "accessgrant", &grant])?.stderr.contains("NotFound"));
    assert!(in_namespace(&["delete", "accessgrant", &grant])?.stderr.contains("NotFound"));
    assert!(estate.agent(&["get", "accessgrants"])?.success()?.contains(&grant));
    let patch = r#"{"spec":{"reviews":[{"decision":"Approved"}]}}"#;
    let own = estate.agent(&["patch", "accessgrant", &grant, "--type=merge", "-p", patch])?;
    assert!(own.stderr.contains("sallyport/PolicyDenied"), "D07: {own:?}");
    let foreign = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "x-", "namespace": estate.namespace},
        "spec": {"agentRef": {"name": "other"}, "type": "Window", "reason": "mine", "window": {"durationSeconds": 60}},
    });
    let out = estate.agent.kubectl_with(Version::New, 0, &["create", "-f", "-"], &foreign.to_string())?;
    assert!(out.stderr.contains("an agent asks for itself only"), "{out:?}");
    Ok(())
}
