//! `kubectl explain` is the manual and `kubectl get` the dashboard of the four kinds.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{eventually, scenario};
use serde_json::{Map, Value, json};

const KINDS: [&str; 4] = ["AgentIdentity", "AccessPolicy", "AccessGrant", "SessionRecord"];
/// Said instead of a default by a field that has none although it may be left out: when it is there, or who writes it.
const NO_DEFAULT: [&str; 7] =
    ["is set when", "set exactly when", "unset ", "Exactly one of", "Set either", "Required with", "stamped"];

#[tokio::test]
async fn every_field_begins_with_its_name_and_gives_default_unit_and_example() -> anyhow::Result<()> {
    let gate = super::gate()?;
    // What `kubectl explain` itself reads.
    let raw =
        gate.plane().kubectl(&["get", "--raw", "/openapi/v3/apis/sallyport.dev/v1alpha1"])?.success()?;
    let document: Value = serde_json::from_str(&raw)?;
    let (mut wrong, mut count) = (Vec::new(), 0);
    for kind in KINDS {
        let schema = &document["components"]["schemas"][format!("dev.sallyport.v1alpha1.{kind}")];
        for (name, field) in schema["properties"].as_object().context("the kind has a schema")? {
            if name == "spec" || name == "status" {
                look(kind, name, field, true, &mut wrong, &mut count);
            }
        }
    }
    ensure!(count > 250, "only {count} fields were found");
    ensure!(wrong.is_empty(), "{} of {count} fields:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn look(path: &str, name: &str, field: &Value, given: bool, wrong: &mut Vec<String>, count: &mut usize) {
    let path = format!("{path}.{name}");
    let text = field["description"].as_str().unwrap_or_default();
    let observed = path.contains(".status");
    let mut lacks = Vec::new();
    if !text.starts_with(&format!("{name} ")) {
        lacks.push("does not begin with its name");
    }
    if !text.contains("Example: ") {
        lacks.push("gives no example");
    }
    if !given
        && !observed
        && !text.contains("Default: ")
        && !NO_DEFAULT.iter().any(|said| text.contains(said))
    {
        lacks.push("gives no default");
    }
    if name.ends_with("Seconds") && !text.to_lowercase().contains("second") {
        lacks.push("gives no unit");
    }
    *count += 1;
    wrong.extend(lacks.into_iter().map(|lack| format!("{path} {lack}: {text}")));
    let inner = if field["type"] == "array" { &field["items"] } else { field };
    let required: Vec<_> =
        inner["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in inner["properties"].as_object().unwrap_or(&Map::new()) {
        look(&path, name, field, required.contains(&name.as_str()), wrong, count);
    }
}

#[tokio::test]
async fn explain_shows_each_kind_whole() -> anyhow::Result<()> {
    let gate = super::gate()?;
    for kind in KINDS {
        let said = gate.plane().kubectl(&["explain", &kind.to_lowercase(), "--recursive"])?.success()?;
        for part in [kind, "sallyport.dev", "spec", "status", "conditions", "observedGeneration"] {
            ensure!(
                said.contains(part),
                "`kubectl explain {kind} --recursive` does not say `{part}`:\n{said}"
            );
        }
    }
    let said = gate.plane().kubectl(&["explain", "accesspolicy.spec.approval.holdSeconds"])?.success()?;
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["holdSeconds is", "Default: 45", "Example: "] {
        ensure!(words.contains(part), "no `{part}` in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_columns_are_those_of_the_pages() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let _alone = super::world().await;
    let agent = scenario::settle(&gate).await?;
    agent.kubectl(&["get", "pods", "-n", scenario::PAYMENTS])?.success()?;
    let grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"generateName": "columns-", "namespace": scenario::AGENTS},
        "spec": {"agentRef": {"name": scenario::CLAUDE_CODE}, "type": "Window", "reason": "to be looked at",
                 "window": {"durationSeconds": 60}},
    });
    let args = ["create", "-f", "-"];
    e2e::kubectl_stdin(e2e::Version::New, gate.plane().admin_kubeconfig(), &args, &grant.to_string())?
        .success()?;
    for (kind, columns, wide) in [
        ("agentidentities", "NAMESPACE NAME TARGET READY SUSPENDED POLICIES AGE", "USERNAME"),
        ("accesspolicies", "NAME MODE AGENTS JIT RECORDING READY AGE", ""),
        ("accessgrants", "NAMESPACE NAME TYPE AGENT REQUEST STATE REVIEWER EXPIRES AGE", "SESSION REASON"),
        (
            "sessionrecords",
            "NAMESPACE NAME AGENT STARTED REQUESTS DENIED APPROVED MASKED STATE RECORDED",
            "TARGET SUBJECT URI",
        ),
    ] {
        let header = async |more: &[&str]| {
            eventually(&format!("a row of {kind}"), Duration::from_secs(30), async || {
                let said = gate.plane().kubectl(&[&["get", kind, "-A"], more].concat())?.success()?;
                let first =
                    said.lines().next().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
                Ok(first)
            })
            .await
        };
        ensure!(header(&[]).await? == columns, "{kind}: {}", header(&[]).await?);
        let all = header(&["-o", "wide"]).await?;
        for name in columns.split(' ').chain(wide.split(' ')) {
            ensure!(name.is_empty() || all.split(' ').any(|shown| shown == name), "{kind} -o wide: {all}");
        }
        let count = columns.split(' ').count() + wide.split_whitespace().count();
        ensure!(all.split(' ').count() == count, "{kind} -o wide: {all}");
    }
    Ok(())
}
