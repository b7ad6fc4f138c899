//! Two agents and two replicas: what one replica holds, an approval that reaches both releases; nobody gets another's answers.

use e2e::pod::replicas;
use e2e::{Filter, eventually};
use serde_json::json;

use super::estate::{Estate, SOON};

#[tokio::test]
async fn c_a_held_request_on_each_replica_is_released_by_one_approval_each_and_runs_once()
-> anyhow::Result<()> {
    let _release = super::installed(None).await?;
    let policy = json!({"rules": [
        {"name": "read", "effect": "Allow", "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]},
        {"name": "ask", "effect": "RequireApproval", "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]},
    ]});
    let estate = Estate::new("together", &["one", "two"], policy).await?;
    let replicas = replicas(&estate.cluster)?;
    assert_eq!(replicas.len(), 2, "two replicas");
    for name in ["red", "blue"] {
        estate.admin(&["create", "configmap", name])?.success()?;
    }
    let mut held = Vec::new();
    for ((agent, name), replica) in estate.agents.iter().zip(["red", "blue"]).zip(&replicas) {
        let args = ["delete", "configmap", name, "-n", &estate.namespace, &replica[0], &replica[1]];
        held.push(agent.spawn(&args)?);
    }
    let grants = eventually("a grant of each agent", SOON, async || {
        let list = estate.cluster.get(&["accessgrants", "-n", &estate.namespace])?;
        let names = list["items"].as_array().into_iter().flatten();
        let names: Vec<String> =
            names.filter_map(|grant| grant["metadata"]["name"].as_str().map(str::to_owned)).collect();
        Ok((names.len() == 2).then_some(names))
    })
    .await?;
    for (agent, child) in estate.agents.iter().zip(&mut held) {
        let list = agent.kubectl(&["get", "configmaps", "-n", &estate.namespace, "-o", "name"])?.success()?;
        assert!(
            list.contains("red") && list.contains("blue"),
            "both agents work while both are held: {list}"
        );
        assert!(child.try_wait()?.is_none(), "a held request came back before its approval");
    }
    for grant in &grants {
        estate.review(grant, "Approved")?.success()?;
    }
    for child in held {
        let out = child.wait_with_output()?;
        assert!(out.status.success(), "{out:?}");
        assert!(String::from_utf8(out.stderr)?.contains("ran once"));
    }
    let Some(node) = estate.cluster.node("who deleted what, in the API server's audit log") else {
        return Ok(());
    };
    for (agent, name) in estate.agents.iter().zip(["red", "blue"]) {
        let deletes = Filter::default().verb("delete").resource("configmaps").namespace(&estate.namespace);
        let seen = node.audit().requests(&deletes.name(name)).await?;
        let users: Vec<_> = seen.iter().map(|request| request.ran_as().to_owned()).collect();
        assert_eq!(users, [agent.username()]);
    }
    Ok(())
}
