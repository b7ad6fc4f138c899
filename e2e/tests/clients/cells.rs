//! What a user does, once for each client. Every cell asserts what the user sees and what the wire's witnesses say.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::client::{Client, Deed, Reply};
use super::row::{CROWD, CROWD_SIZE, DENIED, Row, SOON};

/// base64 of `[MASKED:secret-data]`.
const PLACEHOLDER: &str = "W01BU0tFRDpzZWNyZXQtZGF0YV0=";

pub async fn whoami(row: &mut Row) -> anyhow::Result<()> {
    let text = row.act(&row.deed("whoami"))?.success()?.text();
    ensure!(text.contains(&row.user()) && text.contains("sallyport.dev/session"), "{text}");
    Ok(())
}

pub async fn can_i(row: &mut Row) -> anyhow::Result<()> {
    let mut may = |verb: &str, group: &str, resource: &str| {
        let deed = Deed {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            ..row.deed("can-i")
        };
        let reply = row.act(&deed)?;
        anyhow::Ok(match reply.said.as_str() {
            // kubectl ends with 1 when it prints `no`.
            Some(text) => (text.lines().any(|line| line == "yes"), text.to_owned()),
            None => (reply.said["status"]["allowed"] == true, reply.success()?.text()),
        })
    };
    let (yes, said) = may("list", "", "configmaps")?;
    ensure!(yes, "{said}");
    let (yes, said) = may("delete", "apps", "deployments")?;
    ensure!(!yes && said.contains("needs human approval"), "{said}");
    let (yes, said) = may("list", "", "nodes")?;
    ensure!(!yes && said.contains("no policy allows list nodes"), "{said}");
    Ok(())
}

pub async fn discovery(row: &mut Row) -> anyhow::Result<()> {
    let text = row.act(&row.deed("discovery"))?.success()?.text();
    for kind in ["deployments", "configmaps", "accessgrants"] {
        ensure!(text.contains(kind), "no {kind} in {text}");
    }
    Ok(())
}

pub async fn list(row: &mut Row) -> anyhow::Result<()> {
    let text = row.act(&row.deed("list"))?.success()?.text();
    ensure!(text.contains("first"), "{text}");
    let seen = row.reached(|all| all.verb("list").resource("configmaps")).await?;
    ensure!(seen.iter().any(|request| request.code() == 200), "no list reached the API server as the agent");
    Ok(())
}

pub async fn pages(row: &mut Row) -> anyhow::Result<()> {
    let deed = Deed { namespace: CROWD.to_owned(), limit: 50, ..row.deed("pages") };
    let text = row.act(&deed)?.success()?.text();
    for number in 0..CROWD_SIZE {
        let name = format!("one-{number:03}");
        ensure!(text.matches(&name).count() == 1, "{name} in {text}");
    }
    let seen = row.reached(|all| all.verb("list").resource("configmaps").namespace(CROWD)).await?;
    let with = |key: &str| seen.iter().filter(|request| request.uri.contains(key)).count();
    ensure!(with("limit=50") == 3 && with("continue=") == 2, "{seen:?}");
    Ok(())
}

/// H3: the value itself is looked for in every line that any client prints, in `client::assert_clean`.
pub async fn secret(row: &mut Row) -> anyhow::Result<()> {
    let deed = Deed { name: "db".to_owned(), ..row.deed("secret") };
    let text = row.act(&deed)?.success()?.text();
    ensure!(text.contains(PLACEHOLDER), "{text}");
    let seen = row.reached_name("get", "db").await?;
    ensure!(seen.len() == 1 && seen[0].code() == 200, "{seen:?}");
    Ok(())
}

/// Each event is waited for before the next object is made: a stream that is buffered never gets to the second.
pub async fn watch(row: &mut Row) -> anyhow::Result<()> {
    let until = row.fresh("stop");
    row.client.begin(&Deed { until: until.clone(), ..row.deed("watch") })?;
    row.client.event("first")?;
    for _ in 0..2 {
        let live = row.fresh("live");
        row.config_map(&live, "x")?;
        row.client.event(&live)?;
    }
    row.config_map(&until, "x")?;
    row.client.event(&until)?;
    row.client.leave()
}

pub async fn resumed_watch(row: &mut Row) -> anyhow::Result<()> {
    let (old, between, until) = (row.fresh("old"), row.fresh("between"), row.fresh("stop"));
    row.config_map(&old, "x")?;
    let list: Value = serde_json::from_str(&row.admin(&[
        "get",
        "--raw",
        &format!("/api/v1/namespaces/{}/configmaps", row.namespace),
    ])?)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    row.config_map(&between, "x")?;
    row.client.begin(&Deed {
        until: until.clone(),
        resource_version: version.clone(),
        ..row.deed("watch")
    })?;
    row.client.event(&between)?;
    row.config_map(&until, "x")?;
    row.client.event(&until)?;
    let seen = row.client.events()?.join("\n");
    ensure!(!seen.contains(&old), "it began before {version}: {seen}");
    row.client.leave()?;
    let watches = row.watching("configmaps", 1).await?;
    let resumed =
        watches.iter().filter(|request| request.uri.contains(&format!("resourceVersion={version}")));
    ensure!(resumed.count() == 1, "{watches:?}");
    Ok(())
}

pub async fn informer(row: &mut Row) -> anyhow::Result<()> {
    let until = row.fresh("informed");
    let kubectl = matches!(row.client, Client::Kubectl { .. });
    if kubectl {
        row.config_map(&until, "wait")?;
    }
    let before = row.reached(|all| all.verb("watch").resource("configmaps")).await?.len();
    row.client.begin(&Deed { until: until.clone(), ..row.deed("informer") })?;
    if !kubectl {
        row.client.event("first")?;
    }
    row.watching("configmaps", before + 1).await?;
    row.config_map(&until, "go")?;
    row.client.end()?.success()?;
    Ok(())
}

/// Does a write of the object `name`; a refused one must not have reached the API server.
async fn write(row: &mut Row, deed: &Deed, verb: &str, code: u16) -> anyhow::Result<Reply> {
    let reply = row.act(deed)?;
    let seen = row.reached_name(verb, &deed.name).await?;
    if !reply.ok {
        ensure!(seen.is_empty(), "refused, and yet: {seen:?}");
        bail!("{}", reply.text());
    }
    ensure!(seen.len() == 1 && seen[0].code() == code, "{seen:?}");
    Ok(reply)
}

pub async fn create(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("made");
    write(row, &Deed { name: name.clone(), ..row.deed("create") }, "create", 201).await?;
    ensure!(row.text_of(&name)? == "new");
    Ok(())
}

pub async fn create_deployment(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("typed");
    write(row, &Deed { name, ..row.deed("create-deployment") }, "create", 201).await?;
    Ok(())
}

pub async fn create_json(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("json");
    write(row, &Deed { name, ..row.deed("create-json") }, "create", 201).await?;
    Ok(())
}

pub async fn apply_client_side(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("applied");
    let deed = Deed { name: name.clone(), text: "old".to_owned(), ..row.deed("apply-client-side") };
    write(row, &deed, "create", 201).await?;
    write(row, &Deed { text: "new".to_owned(), ..deed }, "patch", 200).await?;
    ensure!(row.text_of(&name)? == "new");
    Ok(())
}

pub async fn apply_server_side(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("applied");
    write(row, &Deed { name: name.clone(), ..row.deed("apply-server-side") }, "patch", 201).await?;
    ensure!(row.text_of(&name)? == "new");
    Ok(())
}

pub async fn patch(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("patched");
    row.config_map(&name, "old")?;
    write(row, &Deed { name: name.clone(), ..row.deed("patch") }, "patch", 200).await?;
    ensure!(row.text_of(&name)? == "new");
    Ok(())
}

pub async fn replace(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("replaced");
    row.config_map(&name, "old")?;
    write(row, &Deed { name: name.clone(), ..row.deed("replace") }, "update", 200).await?;
    ensure!(row.text_of(&name)? == "new");
    Ok(())
}

/// A refusal as this client's user sees it.
fn refused(reply: &Reply, reason: &str, words: &[&str]) -> anyhow::Result<()> {
    // Some clients print the body as it is: JSON, its quotes escaped.
    let text = reply.text().replace("\\\"", "\"");
    ensure!(!reply.ok, "not refused: {text}");
    ensure!(text.contains(&format!("sallyport/{reason}")), "{text}");
    for word in words {
        ensure!(text.contains(word), "no `{word}` in {text}");
    }
    ensure!(reply.code.is_none_or(|code| code == 403), "{reply:?}");
    ensure!(reply.reason.as_ref().is_none_or(|seen| seen == reason), "{reply:?}");
    Ok(())
}

pub async fn delete_held(row: &mut Row) -> anyhow::Result<()> {
    let name = row.fresh("held");
    let pod = json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "web", "image": "checkout:2.3.1"}]}});
    row.site.apply(&json!([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": row.namespace},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": pod}}]))?;
    row.admin(&["wait", e2e::kubectl::ROLLED_OUT, &format!("deployment/{name}"), "--timeout=60s"])?;
    let deed = Deed {
        name: name.clone(),
        group: "apps".to_owned(),
        resource: "deployments".to_owned(),
        ..row.deed("delete")
    };
    let pending = row.act(&deed)?;
    let grant = row.grant("WaitingForReview").await?;
    refused(
        &pending,
        "ApprovalPending",
        &[&grant, "A human looks at what is deleted.", "run exactly the same command again"],
    )?;
    ensure!(row.reached_name("delete", &name).await?.is_empty(), "it ran before it was approved");
    row.site.review(&row.namespace, &grant, "Approved")?;
    row.admin(&["wait", "--for=condition=Decided", &format!("accessgrant/{grant}"), "--timeout=60s"])?;
    row.act(&deed)?.success()?;
    let ran = row.reached_name("delete", &name).await?;
    ensure!(ran.len() == 1 && ran[0].code() == 200, "{ran:?}");
    ensure!(row.refusals(&name).await?.len() == 1, "the held delete was sent more than once");
    Ok(())
}

pub async fn denied(row: &mut Row) -> anyhow::Result<()> {
    let deed = Deed { name: "paid".to_owned(), resource: "services".to_owned(), ..row.deed("delete") };
    let reply = row.act(&deed)?;
    refused(&reply, "PolicyDenied", &[DENIED, "rule \"services\" denies delete", "final:   yes."])?;
    ensure!(row.reached_name("delete", "paid").await?.is_empty());
    Ok(())
}

pub async fn refused_once(row: &mut Row) -> anyhow::Result<()> {
    let deed = Deed { name: "once".to_owned(), resource: "services".to_owned(), ..row.deed("delete") };
    ensure!(!row.act(&deed)?.ok);
    // Frames are written in order: once a later refusal is there, all of the first are.
    ensure!(!row.act(&Deed { name: "marker".to_owned(), ..deed })?.ok);
    row.refusals("marker").await?;
    let seen = row.refusals("once").await?;
    ensure!(seen.len() == 1, "{seen:?}");
    Ok(())
}

pub async fn window_cut(row: &mut Row) -> anyhow::Result<()> {
    let watch = Deed { resource: "services".to_owned(), until: "none".to_owned(), ..row.deed("watch") };
    refused(&row.act(&watch)?, "WindowRequired", &["Longest window allowed: 3600 seconds."])?;
    let grant = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant", "metadata": {"name": "open", "namespace": row.namespace},
        "spec": {"agentRef": {"name": "agent"}, "type": "Window", "reason": "Look at the services", "window": {"durationSeconds": 600}},
    });
    row.site.apply(&json!([grant]))?;
    row.site.review(&row.namespace, "open", "Approved")?;
    row.admin(&["wait", "--for=condition=Active", "accessgrant/open", "--timeout=60s"])?;
    e2e::eventually("the window at this proxy", SOON, async || {
        row.client.begin(&watch)?;
        if row.client.event("paid").is_ok() {
            return Ok(Some(()));
        }
        row.client.end().map(|_refused| None)
    })
    .await?;
    row.site.review(&row.namespace, "open", "Revoked")?;
    let cut = row.client.end()?;
    let text = cut.text();
    ensure!(text.contains("WindowRequired") && text.contains("none is open"), "no true error: {text}");
    ensure!(matches!(row.client, Client::Kubectl { .. }) || !cut.ok, "a cut that looks like an end: {text}");
    Ok(())
}

pub async fn exec(row: &mut Row) -> anyhow::Result<()> {
    let reply = row.act(&Deed { name: "web".to_owned(), ..row.deed("exec") })?;
    let text = reply.text().replace("\\\"", "\"");
    ensure!(!reply.ok && text.contains("sallyport/PolicyDenied"), "{text}");
    ensure!(text.contains("Interactive access to containers is not open to agents."), "{text}");
    let seen = row.reached(|all| all.resource("pods").subresource("exec")).await?;
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}
