//! Asking a human, as the agent reads it: pending, denied, withdrawn, approved, waited for, windows.

use std::time::Duration;

use e2e::{Filter, Output, Version, eventually};
use serde_json::{Value, json};

use super::super::estate::{ALICE, Estate, review_as};
use super::page::Page;

/// Each reader has an object of its own: what one of them does must not be what another finds.
fn object(version: Version) -> String {
    format!("web-{version:?}").to_lowercase()
}

fn delete(estate: &Estate, version: Version) -> anyhow::Result<Output> {
    let args = ["delete", "deployment", &object(version), "-n", &estate.namespace];
    estate.agent.kubectl_with(version, 0, &args, "")
}

/// The name of the grant that a refusal names.
fn grant_of(out: &Output) -> anyhow::Result<String> {
    let line = out.stderr.lines().find_map(|line| line.trim().strip_prefix("grant:"));
    let name = line.and_then(|line| line.split_whitespace().next());
    name.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no grant in {out:?}"))
}

fn wait(estate: &Estate, version: Version, grant: &str, seconds: u32) -> anyhow::Result<Output> {
    let path = format!("/sallyport/v1/grants/{grant}/wait?timeoutSeconds={seconds}");
    estate.agent.kubectl_with(version, 0, &["get", "--raw", &path], "")
}

#[tokio::test]
async fn a_single_request_from_asking_to_its_end() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    for version in Version::READERS {
        estate.deployment(&object(version))?;
    }
    let mut page = Page::new("approvals", &estate);
    let command = ["delete", "deployment", "web"];
    let raw = ["get", "--raw", "/sallyport/v1/grants/GRANT/wait?timeoutSeconds=1"];
    let each = |say: &dyn Fn(Version) -> anyhow::Result<Output>| super::by_each(say);

    let pending = each(&|version| delete(&estate, version))?;
    page.told("ApprovalPending", &command, &pending);
    let grants = pending.iter().map(grant_of).collect::<anyhow::Result<Vec<_>>>()?;
    let grant = |version: Version| {
        let at = Version::READERS.iter().position(|reader| *reader == version).unwrap_or_default();
        grants[at].as_str()
    };
    page.told(
        "waiting: the time is over",
        &raw,
        &each(&|version| wait(&estate, version, grant(version), 1))?,
    );

    let review = |name: &str, review: Value| review_as(&estate.alice, &estate.namespace, name, &review);
    for name in &grants {
        review(name, json!({"decision": "Denied", "note": "use the canary first"}))?.success()?;
    }
    page.told("waiting: denied", &raw, &each(&|version| wait(&estate, version, grant(version), 30))?);
    page.told("ApprovalDenied", &command, &each(&|version| delete(&estate, version))?);
    page.told(
        "waiting for a grant that is not one's own",
        &raw,
        &each(&|version| wait(&estate, version, "none", 1))?,
    );
    page.finish()
}

#[tokio::test]
async fn an_approved_request_runs_once_and_says_by_whom() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    let mut page = Page::new("approved", &estate);
    let command = ["delete", "deployment", "web"];
    let raw = ["get", "--raw", "/sallyport/v1/grants/GRANT/wait?timeoutSeconds=30"];
    let (mut waited, mut ran, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for version in Version::READERS {
        estate.deployment(&object(version))?;
        let grant = grant_of(&delete(&estate, version)?)?;
        let waiting = std::thread::spawn({
            let (agent, grant) = (estate.agent.clone(), grant.clone());
            move || {
                let path = format!("/sallyport/v1/grants/{grant}/wait?timeoutSeconds=30");
                agent.kubectl_with(version, 1, &["get", "--raw", &path], "")
            }
        });
        estate.review(&grant, "Approved")?.success()?;
        waited.push(waiting.join().map_err(|_panic| anyhow::anyhow!("waiting panicked"))??);
        ran.push(delete(&estate, version)?);
        used.push(wait(&estate, version, &grant, 1)?);
    }
    page.told("waiting: approved", &raw, &waited);
    page.told("approved, and run", &command, &ran);
    page.told("waiting: used up", &raw, &used);
    assert!(page.text().contains(&format!("approved by {ALICE}")), "{}", page.text());
    page.finish()
}

#[tokio::test]
async fn a_wait_ends_with_the_grant_and_with_the_agent() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    estate.deployment("web-new")?;
    let audit = estate.gate.plane().audit();
    let begin = async |grant: &str| {
        let before = audit.requests(&looks(grant)).await?.len();
        let path = format!("/sallyport/v1/grants/{grant}/wait?timeoutSeconds=120");
        let child = estate.agent.kubectl_spawn(Version::New, 0, &["get", "--raw", &path])?;
        audit.wait_for(&looks(grant), before + 1).await?;
        anyhow::Ok(child)
    };
    let ended = async |child: std::process::Child| -> anyhow::Result<String> {
        let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        Ok(format!("{}{}", String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?))
    };
    let grant = grant_of(&delete(&estate, Version::New)?)?;
    let child = begin(&grant).await?;
    let args = ["delete", "accessgrant", &grant, "--wait=false", "-n", &estate.namespace];
    estate.agent.kubectl_with(Version::New, 0, &args, "")?.success()?;
    let said = ended(child).await?;
    assert!(said.contains("\"state\": \"Gone\"") && said.contains("withdrawn"), "{said}");

    let grant = grant_of(&delete(&estate, Version::New)?)?;
    let child = begin(&grant).await?;
    let suspend = ["patch", "agentidentity", "agent", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#];
    estate.admin(&suspend)?.success()?;
    let said = ended(child).await?;
    assert!(said.contains("(AgentSuspended)"), "{said}");
    Ok(())
}

/// The proxy's own looks at a grant: the first thing that a wait does.
fn looks(grant: &str) -> Filter {
    Filter::ran_as("system:serviceaccount:sallyport-system:sallyport-proxy").verb("get").name(grant)
}

#[tokio::test]
async fn a_withdrawn_grant_ends_the_hold_and_one_too_many_is_refused() -> anyhow::Result<()> {
    let mut policy = super::every_effect();
    policy["approval"]["holdSeconds"] = json!(60);
    let estate = Estate::new(&super::super::gate()?, "words", policy).await?;
    let limit = [
        "patch",
        "agentidentity",
        "agent",
        "--type=merge",
        "-p",
        r#"{"spec":{"limits":{"maxPendingGrants":1}}}"#,
    ];
    estate.admin(&limit)?.success()?;
    eventually("the new limit", Duration::from_secs(30), async || {
        let access = estate.agent(&["get", "--raw", "/sallyport/v1/access"])?.success()?;
        Ok(access.contains("\"maxPendingGrants\": 1").then_some(()))
    })
    .await?;
    for version in Version::READERS {
        estate.deployment(&object(version))?;
    }
    estate.deployment("other")?;
    let mut page = Page::new("withdrawn", &estate);
    let (mut too_many, mut withdrawn) = (Vec::new(), Vec::new());
    for version in Version::READERS {
        let name = object(version);
        let args = ["delete", "deployment", &name, "-n", &estate.namespace];
        let child = estate.agent.kubectl_spawn(version, 0, &args)?;
        let grant = estate.grant("WaitingForReview").await?;
        let other = ["delete", "deployment", "other", "-n", &estate.namespace];
        too_many.push(estate.agent.kubectl_with(version, 0, &other, "")?);
        let withdraw = ["delete", "accessgrant", "--all", "--wait=false"];
        estate.admin(&withdraw)?.success()?;
        let out = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
        withdrawn.push(Output {
            stdout: String::from_utf8(out.stdout)?,
            stderr: String::from_utf8(out.stderr)?,
            code: out.status.code().unwrap_or(-1),
        });
        assert!(withdrawn.last().is_some_and(|out| out.stderr.contains(&grant)), "{withdrawn:?}");
    }
    page.told("TooManyPendingApprovals", &["delete", "deployment", "other"], &too_many);
    page.told("ApprovalExpired: the grant was withdrawn", &["delete", "deployment", "web"], &withdrawn);
    page.finish()
}

#[tokio::test]
async fn windows() -> anyhow::Result<()> {
    let policy = json!({
        "rules": [{"name": "flags", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "patch"]}]}],
        "jit": {"mode": "Required", "maxWindowSeconds": 3600},
    });
    let estate = Estate::new(&super::super::gate()?, "words", policy).await?;
    estate.admin(&["create", "configmap", "flags"])?.success()?;
    let mut page = Page::new("windows", &estate);
    let label = ["patch", "configmap", "flags", "--type=merge", "-p", r#"{"metadata":{"labels":{"a":"b"}}}"#];
    page.tell("WindowRequired", &label)?;
    page.tell("asked before", &["auth", "can-i", "patch", "configmaps/flags"])?;
    let ask = |seconds: u32, reviews: Value| {
        let mut grant = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"generateName": "agent-", "namespace": estate.namespace},
            "spec": {"agentRef": {"name": "agent"}, "type": "Window", "reason": "Roll back checkout, INC-4312",
                     "window": {"durationSeconds": seconds}},
        });
        if !reviews.is_null() {
            grant["spec"]["reviews"] = reviews;
        }
        grant.to_string()
    };
    page.tell_stdin("a window that is too long", &["create", "-f", "-"], &ask(7200, Value::Null))?;
    let forged = json!([{"decision": "Approved"}]);
    page.tell_stdin("a window that one approves oneself", &["create", "-f", "-"], &ask(600, forged))?;
    let args = ["create", "-f", "-", "-o", "jsonpath={.metadata.name}"];
    let grant = estate.agent.kubectl_with(Version::New, 0, &args, &ask(240, Value::Null))?.success()?;
    page.tell(
        "waiting for a review",
        &["get", "--raw", &format!("/sallyport/v1/grants/{grant}/wait?timeoutSeconds=0")],
    )?;
    estate.review(&grant, "Approved")?.success()?;
    page.tell("open", &["get", "--raw", &format!("/sallyport/v1/grants/{grant}/wait?timeoutSeconds=30")])?;
    page.tell("a request inside that says when it closes", &["get", "configmap", "flags", "-o", "name"])?;
    page.tell(
        "who am I, in a window",
        &["auth", "whoami", "-o", "jsonpath={.status.userInfo.extra.sallyport\\.dev/window}"],
    )?;
    page.finish()
}
