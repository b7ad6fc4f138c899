//! Requests that wait for a human: asked, approved by one line, run exactly once, and void as soon as anything changes.

use std::time::Duration;

use e2e::{ControlPlane, Filter, Gate, Setup, Version};
use serde_json::{Value, json};

use super::estate::Estate;

/// Reads are allowed, changes to Deployments need a human who has `hold` seconds.
fn ask_before_change(hold: u32) -> Value {
    json!({
        "rules": [
            {"name": "read", "effect": "Allow", "match": [
                {"apiGroups": ["", "apps"], "resources": ["deployments", "configmaps"], "verbs": ["get", "list", "watch"]},
            ]},
            {"name": "ask-before-change", "effect": "RequireApproval", "message": "Changes need a human.", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"],
                 "verbs": ["create", "update", "patch", "delete"]},
            ]},
        ],
        "approval": {"holdSeconds": hold},
    })
}

fn deletes(estate: &Estate) -> Filter {
    Filter::ran_as(&estate.agent.username())
        .verb("delete")
        .resource("deployments")
        .namespace(&estate.namespace)
}

#[tokio::test]
async fn a_held_delete_runs_when_a_human_patches_the_grant() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "hold", ask_before_change(40)).await?;
    estate.deployment("web")?;
    let args = ["delete", "deployment", "web", "-n", &estate.namespace];
    let child = estate.agent.kubectl_spawn(Version::New, 1, &args)?;
    let grant = estate.grant("WaitingForReview").await?;
    assert!(estate.review(&grant, "Approved")?.success().is_ok());
    let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    let (stdout, stderr) = (String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?);
    assert!(stdout.contains("deployment.apps \"web\" deleted"), "{stdout}{stderr}");
    assert!(stderr.contains(&format!("approved by alice@example.com ({grant}), ran once")), "{stderr}");
    let seen = estate.gate.plane().audit().requests(&deletes(&estate)).await?;
    assert_eq!(seen.iter().map(|request| request.code()).collect::<Vec<_>>(), [200]);
    assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, seen[0].audit_id);
    Ok(())
}

#[tokio::test]
async fn the_same_command_again_uses_the_approval_and_then_asks_anew() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "hold", ask_before_change(0)).await?;
    estate.deployment("web")?;
    let delete = ["delete", "deployment", "web"];
    let pending = estate.agent(&delete)?;
    assert_eq!(pending.code, 1);
    assert!(
        pending.stderr.starts_with("Error from server (ApprovalPending): deployments.apps \"web\""),
        "{pending:?}"
    );
    let grant = estate.grant("WaitingForReview").await?;
    for words in [
        "  why:     Changes need a human. Nothing has been changed yet.\n".to_owned(),
        format!("  grant:   {grant} (namespace {}), waits for review until ", estate.namespace),
        format!(
            "  next:    kubectl wait --for=condition=Decided accessgrant/{grant} -n {} --timeout=100s\n",
            estate.namespace
        ),
    ] {
        assert!(pending.stderr.contains(&words), "{words}: {}", pending.stderr);
    }
    assert!(estate.agent(&delete)?.stderr.contains(&grant), "the same request finds the same grant");
    assert!(estate.gate.plane().audit().requests(&deletes(&estate)).await?.is_empty());

    estate.review(&grant, "Approved")?.success()?;
    let wait = ["wait", "--for=condition=Decided", &format!("accessgrant/{grant}"), "--timeout=30s"];
    assert!(estate.agent(&wait)?.success()?.contains("condition met"));
    assert!(estate.agent(&delete)?.success()?.contains("deleted"));

    estate.deployment("web")?;
    let anew = estate.agent(&delete)?;
    assert!(anew.stderr.contains("(ApprovalPending)") && !anew.stderr.contains(&grant), "D13: {anew:?}");
    assert_eq!(estate.gate.plane().audit().requests(&deletes(&estate)).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn d01_a_changed_body_or_object_needs_a_new_approval() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "hold", ask_before_change(0)).await?;
    estate.deployment("web")?;
    let patch = |image: &str| {
        let body = json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
            .to_string();
        estate.agent(&["patch", "deployment", "web", "-p", &body])
    };
    assert!(patch("checkout:2.4.0")?.stderr.contains("ApprovalPending"));
    let grant = estate.grant("WaitingForReview").await?;
    estate.review(&grant, "Approved")?.success()?;

    let other = patch("checkout:6.6.6")?;
    assert!(
        other.stderr.contains("ApprovalPending") && !other.stderr.contains(&grant),
        "another body: {other:?}"
    );

    estate.admin(&["annotate", "deployment", "web", "owner=somebody"])?.success()?;
    let changed = patch("checkout:2.4.0")?;
    assert!(
        changed.stderr.contains("ApprovalPending") && !changed.stderr.contains(&grant),
        "another object: {changed:?}"
    );

    estate.admin(&["annotate", "deployment", "web", "owner-"])?.success()?;
    let status = json!({"status": {"replicas": 7, "observedGeneration": 99}}).to_string();
    estate
        .admin(&["patch", "deployment", "web", "--subresource=status", "--type=merge", "-p", &status])?
        .success()?;
    let ran = patch("checkout:2.4.0")?;
    assert!(ran.stdout.contains("patched"), "a status tick voids nothing: {ran:?}");
    let patches = Filter::ran_as(&estate.agent.username()).verb("patch").resource("deployments");
    let seen = estate.gate.plane().audit().requests(&patches.namespace(&estate.namespace)).await?;
    assert_eq!(seen.len(), 1, "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_denied_request_is_answered_with_the_reviewers_note() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "hold", ask_before_change(0)).await?;
    estate.deployment("web")?;
    estate.agent(&["delete", "deployment", "web"])?;
    let grant = estate.grant("WaitingForReview").await?;
    let review = json!({"decision": "Denied", "note": "use the canary first"});
    super::estate::review_as(&estate.alice, &estate.namespace, &grant, &review)?.success()?;
    let denied = estate.agent(&["delete", "deployment", "web"])?;
    let first = format!("sallyport/ApprovalDenied: alice@example.com denied this delete (grant {grant}).");
    assert!(denied.stderr.contains(&first), "{denied:?}");
    assert!(denied.stderr.contains("  why:     reviewer note: \"use the canary first\"\n"), "{denied:?}");
    Ok(())
}

/// Sends one delete to a proxy and returns code and reason of its answer; 0 where the connection broke.
async fn delete(agent: e2e::Agent, proxy: usize, target: String) -> (u16, String) {
    match agent.send(proxy, "DELETE", &target, &[], b"").await {
        Ok(answer) => {
            let status: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
            (answer.code, if answer.code == 401 { text("message") } else { text("reason") })
        }
        Err(_) => (0, "ConnectionLost".to_owned()),
    }
}

fn target(estate: &Estate, name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{}/deployments/{name}", estate.namespace)
}

/// Sends `count` identical deletes at once, half of them to each proxy.
async fn race(estate: &Estate, name: &str, count: usize) -> Vec<(u16, String)> {
    let sent = (0..count).map(|index| delete(estate.agent.clone(), index % 2, target(estate, name)));
    sent.collect::<tokio::task::JoinSet<_>>().join_all().await
}

async fn approved(estate: &Estate, name: &str) -> anyhow::Result<String> {
    estate.admin(&["delete", "accessgrants", "--all"])?.success()?;
    estate.deployment(name)?;
    let pending = delete(estate.agent.clone(), 0, target(estate, name)).await;
    assert_eq!(pending, (403, "ApprovalPending".to_owned()));
    let grant = estate.grant("WaitingForReview").await?;
    estate.review(&grant, "Approved")?.success()?;
    Ok(grant)
}

/// What a delete that lost the race may read.
const LOST: [&str; 5] =
    ["ApprovalPending", "ApprovalExpired", "TooManyPendingApprovals", "TooManyRequests", "NotFound"];

#[tokio::test(flavor = "multi_thread")]
async fn d03_of_fifty_racing_deletes_on_two_proxies_one_runs() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "race", ask_before_change(0)).await?;
    let grant = approved(&estate, "web").await?;
    let answers = race(&estate, "web", 50).await;
    let won = answers.iter().filter(|(code, _)| *code == 200).count();
    assert_eq!(won, 1, "{answers:?}");
    for (code, reason) in answers.iter().filter(|(code, _)| *code != 200) {
        assert!(LOST.contains(&reason.as_str()), "{code} {reason}");
    }
    let seen = estate.gate.plane().audit().requests(&deletes(&estate)).await?;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, seen[0].audit_id);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn d04_a_proxy_killed_in_the_race_never_makes_it_two() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup::default())?;
    let estate = Estate::new(&gate, "race", ask_before_change(0)).await?;
    for round in 0..20u64 {
        let name = format!("web-{round}");
        let grant = approved(&estate, &name).await?;
        let victim = usize::try_from(round % 2)?;
        let kill = async {
            tokio::time::sleep(Duration::from_millis(3 * round)).await;
            gate.proxies()[victim].program().kill()
        };
        let (answers, killed) = tokio::join!(race(&estate, &name, 50), kill);
        killed?;
        let seen = plane.audit().requests(&deletes(&estate).name(&name)).await?;
        assert!(seen.len() <= 1, "round {round}: {seen:?}");
        for (code, reason) in answers.iter().filter(|(code, _)| *code != 200) {
            assert!(LOST.contains(&reason.as_str()) || *code == 0, "round {round}: {code} {reason}");
        }
        gate.proxies()[victim].program().restart().await?;
        if let Some(request) = seen.first() {
            assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, request.audit_id, "round {round}");
        }
    }
    Ok(())
}
