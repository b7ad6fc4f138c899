//! Ways past the gate: a binding of the agent's own subject is told with the command that removes it, and that command does.

use std::time::{Duration, Instant};

use e2e::{ControlPlane, Version, eventually, kubectl};
use serde_json::{Value, json};

use super::operator::{SOON, get, identity, operated};

const RBAC: &str = "rbac.authorization.k8s.io";

fn binding(namespace: Option<&str>, name: &str, role: &str, subjects: Value) -> Value {
    let mut binding = json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" },
        "metadata": {"name": name}, "subjects": subjects,
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
    });
    if let Some(namespace) = namespace {
        binding["metadata"]["namespace"] = namespace.into();
    }
    binding
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
}

fn named(kind: &str, name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": kind, "name": name})
}

/// The condition's reason and message; empty where there is no such condition.
fn told(plane: &ControlPlane, namespace: &str, name: &str) -> anyhow::Result<(String, String)> {
    let found = get(plane, &["agentidentity", name, "-n", namespace])?;
    let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let bypass = conditions.iter().find(|one| one["type"] == "BypassDetected");
    assert!(bypass.is_none_or(|one| one["status"] == "True"), "{bypass:?}");
    let word = |field: &str| bypass.and_then(|one| one[field].as_str()).unwrap_or_default().to_owned();
    Ok((word("reason"), word("message")))
}

/// The message of a condition that can only be about bindings.
fn said(plane: &ControlPlane, namespace: &str, name: &str) -> anyhow::Result<String> {
    let (reason, message) = told(plane, namespace, name)?;
    assert!(matches!(&*reason, "" | "RBACBinding"), "{reason}: {message}");
    Ok(message)
}

async fn until(
    plane: &ControlPlane,
    namespace: &str,
    name: &str,
    holds: impl Fn(&str) -> bool,
) -> anyhow::Result<String> {
    eventually("BypassDetected", SOON, async || {
        let said = said(plane, namespace, name)?;
        Ok(holds(&said).then_some(said))
    })
    .await
}

/// Runs the commands of a message in a shell, as a person would paste them.
fn paste(plane: &ControlPlane, message: &str) -> anyhow::Result<()> {
    paste_with(plane, message, "false")
}

/// The same with an editor, for commands that open one.
fn paste_with(plane: &ControlPlane, message: &str, editor: &str) -> anyhow::Result<()> {
    let commands: Vec<&str> = message.lines().filter(|line| line.starts_with("kubectl ")).collect();
    anyhow::ensure!(!commands.is_empty(), "no command in {message}");
    let folder = plane.scratch().join(format!("bin-{}", plane.next()));
    std::fs::create_dir_all(&folder)?;
    std::os::unix::fs::symlink(Version::New.program()?, folder.join("kubectl"))?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let out = std::process::Command::new("bash")
        .args(["-euc", &commands.join("\n")])
        .env("PATH", path)
        .env("KUBECONFIG", plane.admin_kubeconfig())
        .env("KUBE_EDITOR", editor)
        .output()?;
    anyhow::ensure!(out.status.success(), "{message}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

async fn world() -> anyhow::Result<(ControlPlane, String)> {
    let plane = operated()?.plane().clone();
    let namespace = plane.namespace("past").await?;
    plane.service_account(&namespace, "robot").await?;
    plane.apply(&identity(&namespace, "robot", "robot").to_string())?;
    eventually("the identity is seen", SOON, async || {
        let found = get(&plane, &["agentidentity", "robot", "-n", &namespace])?;
        Ok(found["status"]["conditions"].is_array().then_some(()))
    })
    .await?;
    Ok((plane, namespace))
}

#[tokio::test]
async fn b113_each_way_past_the_gate_is_told_and_the_printed_command_ends_it() -> anyhow::Result<()> {
    let (plane, namespace) = world().await?;
    assert_eq!(
        said(&plane, &namespace, "robot")?,
        "",
        "the default bindings of a cluster are no way past anything"
    );
    let elsewhere = plane.namespace("elsewhere").await?;
    let agent = account(&namespace, "robot");
    let user = named("User", &format!("system:serviceaccount:{namespace}:robot"));
    let group = named("Group", &format!("system:serviceaccounts:{namespace}"));
    let alice = named("User", "alice@example.com");
    for (what, object, command) in [
        (
            "its name",
            binding(None, &format!("{namespace}-one"), "edit", json!([agent])),
            "kubectl delete clusterrolebinding/",
        ),
        (
            "another namespace",
            binding(Some(&elsewhere), "two", "view", json!([agent])),
            "kubectl delete rolebinding/two -n ",
        ),
        (
            "its user name",
            binding(Some(&namespace), "three", "view", json!([user])),
            "kubectl delete rolebinding/three -n ",
        ),
        (
            "its group",
            binding(Some(&elsewhere), "four", "view", json!([group])),
            "kubectl delete rolebinding/four -n ",
        ),
        (
            "among others",
            binding(Some(&elsewhere), "five", "view", json!([alice, agent, group])),
            "kubectl patch rolebinding/five -n ",
        ),
        (
            "a name that is no word for a shell",
            binding(None, &format!("{namespace} $(touch x);'y"), "view", json!([agent])),
            "kubectl delete 'clusterrolebinding/",
        ),
    ] {
        let begun = Instant::now();
        plane.apply(&object.to_string())?;
        let message = until(&plane, &namespace, "robot", |said| !said.is_empty()).await?;
        eprintln!("{what}: told after {:?}", begun.elapsed());
        assert!(
            message.starts_with("1 way past the gate:") && message.contains(command),
            "{what}: {message}"
        );
        paste(&plane, &message)?;
        until(&plane, &namespace, "robot", str::is_empty).await?;
    }
    let five = get(&plane, &["rolebinding", "five", "-n", &elsewhere])?;
    assert_eq!(five["subjects"], json!([alice]), "whoever else was bound still is");
    let events = get(&plane, &["events", "-n", &namespace])?;
    let told = events["items"].as_array().cloned().unwrap_or_default();
    assert!(
        told.iter().any(|event| event["reason"] == "BypassDetected" && event["type"] == "Warning"),
        "{events}"
    );
    Ok(())
}

#[tokio::test]
async fn b113_what_everybody_may_and_the_ceiling_are_no_ways_past() -> anyhow::Result<()> {
    let (plane, namespace) = world().await?;
    let ceiling = named("User", &format!("sallyport:agent:{namespace}:robot"));
    let agents = named("Group", "sallyport:agents");
    let group = named("Group", &format!("system:serviceaccounts:{namespace}"));
    let harmless = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": format!("{namespace}-discovery")},
        "rules": [{"nonResourceURLs": ["/api", "/apis/*", "/version"], "verbs": ["get"]}],
    });
    for object in [
        binding(Some(&namespace), "ceiling", "edit", json!([ceiling, agents])),
        harmless,
        binding(None, &format!("{namespace}-discovery"), &format!("{namespace}-discovery"), json!([group])),
    ] {
        plane.apply(&object.to_string())?;
    }
    // One that is a way past shows that the others were looked at.
    plane.apply(&binding(Some(&namespace), "last", "view", json!([group])).to_string())?;
    let message = until(&plane, &namespace, "robot", |said| said.contains("rolebinding/last")).await?;
    assert!(message.starts_with("1 way past the gate:"), "{message}");
    Ok(())
}

#[tokio::test]
async fn b113_the_agents_own_token_is_refused_by_the_api_server_itself() -> anyhow::Result<()> {
    let plane = super::plane()?;
    let namespace = plane.namespace("past").await?;
    plane.service_account(&namespace, "robot").await?;
    plane.apply(
        &binding(None, &namespace, "cluster-admin", json!([account(&namespace, "robot")])).to_string(),
    )?;
    // Without a wish a token is for the API server.
    for (audiences, code) in [(&["sallyport"][..], 1), (&[], 0)] {
        let token = plane.token(&namespace, "robot", audiences, 600).await?;
        let login = e2e::kubeconfig::Login::Token(token);
        let config = e2e::kubeconfig::Kubeconfig::new(plane.server(), plane.ca(), login);
        let config = config.write(plane.scratch(), &format!("direct-{}", plane.next()))?;
        let out = eventually("RBAC knows the binding", Duration::from_secs(10), async || {
            let out = kubectl(Version::New, &config, &["get", "namespaces", "-o", "name"])?;
            Ok((!out.stderr.contains("Forbidden")).then_some(out))
        })
        .await?;
        assert_eq!(out.code, code, "{audiences:?}: {out:?}");
        let refused = out.stderr.contains("must be logged in") || out.stderr.contains("Unauthorized");
        assert_eq!(refused, code == 1, "whatever it is bound to: {out:?}");
    }
    Ok(())
}

fn aws_auth(data: &Value) -> String {
    let metadata = json!({"name": "aws-auth", "namespace": "kube-system"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string()
}

#[tokio::test]
async fn b113_aws_auth_is_watched_and_the_printed_command_opens_it() -> anyhow::Result<()> {
    let (plane, namespace) = world().await?;
    let role = |path: &str| format!("arn:aws:iam::111122223333:role/{path}{namespace}-runner");
    let mut runner = identity(&namespace, "runner", "runner");
    runner["spec"]["subjects"] = json!([
        {"name": "ci", "type": "AWSIAMRole", "awsIAMRole": {"arn": role("team/")}},
        {"name": "in-cluster", "type": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": "runner"}},
    ]);
    plane.apply(&runner.to_string())?;
    let until = async |what: &str, holds: &dyn Fn(&str) -> bool| {
        eventually(what, SOON, async || {
            let (reason, message) = told(&plane, &namespace, "runner")?;
            Ok(holds(&message).then_some((reason, message)))
        })
        .await
    };
    let nodes = "- rolearn: arn:aws:iam::111122223333:role/nodes\n  username: system:node:{{EC2PrivateDNSName}}\n  groups: [system:nodes]\n";
    let command = "kubectl edit configmap/aws-auth -n kube-system   # ";
    for (what, data, comment) in [
        (
            "as it is mostly written",
            json!({"mapRoles": format!("{nodes}- {{rolearn: {}, username: x, groups: []}}\n", role(""))}),
            format!("take rolearn {} out of mapRoles", role("")),
        ),
        (
            "as the IAM console shows it",
            json!({"mapRoles": format!("- rolearn: {}\n", role("other/path/"))}),
            format!("take rolearn {} out of mapRoles", role("other/path/")),
        ),
        (
            "among users",
            json!({"mapRoles": nodes, "mapUsers": format!("[{{userarn: '{}'}}]", role(""))}),
            format!("take userarn {} out of mapUsers", role("")),
        ),
        (
            "its account",
            json!({"mapRoles": nodes, "mapAccounts": "- \"111122223333\""}),
            "take account 111122223333 out of mapAccounts".to_owned(),
        ),
        (
            "nobody can read it",
            json!({"mapRoles": format!("{nodes}- rolearn: [")}),
            "mapRoles is no list of mappings that can be read: mend it".to_owned(),
        ),
    ] {
        let begun = Instant::now();
        plane.apply(&aws_auth(&data))?;
        let (reason, message) = until(what, &|said| said.ends_with(&comment)).await?;
        eprintln!("{what}: told after {:?}", begun.elapsed());
        assert_eq!(reason, "AWSAuthConfigMap", "{what}");
        assert_eq!(message.lines().skip(1).collect::<Vec<_>>(), [format!("{command}{comment}")], "{what}");
        plane.apply(&aws_auth(&json!({"mapRoles": nodes})))?;
        until("nothing more of it", &|said| said.is_empty()).await?;
    }
    assert_eq!(told(&plane, &namespace, "robot")?.0, "", "who has no role is not concerned");

    // Two kinds: the first gives the reason, and all are told. Each printed command does what it says.
    plane.apply(&aws_auth(&json!({"mapRoles": format!("{nodes}- {{rolearn: {}}}\n", role(""))})))?;
    plane.apply(
        &binding(Some(&namespace), "quick-fix", "view", json!([account(&namespace, "runner")])).to_string(),
    )?;
    let (reason, both) = until("both", &|said| said.starts_with("2 ways past the gate: RBAC")).await?;
    assert_eq!(reason, "RBACBinding");
    paste_with(&plane, &both, &format!("sed -i /{namespace}-runner/d"))?;
    until("all gone", &|said| said.is_empty()).await?;
    let left = get(&plane, &["configmap", "aws-auth", "-n", "kube-system"])?;
    assert_eq!(left["data"]["mapRoles"], nodes, "whoever else was let in still is");

    plane.apply(&aws_auth(&json!({"mapRoles": format!("- {{rolearn: {}}}", role(""))})))?;
    until("it is back", &|said| !said.is_empty()).await?;
    plane.kubectl(&["delete", "configmap", "aws-auth", "-n", "kube-system"])?.success()?;
    until("the ConfigMap is gone", &|said| said.is_empty()).await?;
    Ok(())
}
