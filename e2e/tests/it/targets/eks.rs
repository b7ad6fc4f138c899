//! Targets of type EKS, and access entries of agents' own roles: moto for the calls to AWS, and a real kube-apiserver that takes tokens as EKS does.

use std::sync::OnceLock;

use e2e::aws::entries::Asked;
use e2e::aws::{Aws, Credentials, EksCluster};
use e2e::{ControlPlane, Filter, Gate, Setup, Version};
use serde_json::{Value, json};

use super::super::estate::review_as;
use super::Remote;

const GATE_ACCOUNT: &str = "111122223333";
const CLUSTER: &str = "arn:aws:eks:us-east-2:444455556666:cluster/prod-use2";
const HUB_CLUSTER: &str = "arn:aws:eks:us-east-1:111122223333:cluster/hub-prod";

struct Eks {
    remote: Remote,
    aws: Aws,
    cluster: EksCluster,
}

/// A hub whose proxies have AWS credentials and look at access entries all the time, shared by the tests here.
fn gate() -> anyhow::Result<Gate> {
    static GATE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || {
        let (hub, aws) = (ControlPlane::start()?, super::super::aws()?);
        let named = vec!["--hub=hub-prod".to_owned()];
        let mut proxy_flags = named.clone();
        proxy_flags.extend(["--access-entries-seconds=1".to_owned(), format!("--aws-cluster={HUB_CLUSTER}")]);
        let proxy_env = aws.env(&aws.user(GATE_ACCOUNT, "sallyport-proxy"));
        Gate::start(&hub, Setup { proxy_env, proxy_flags, operator_flags: named, ..Setup::default() })
    };
    let gate = GATE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no hub on EKS: {error}"))
}

/// That hub, and an EKS cluster of another account.
async fn eks() -> anyhow::Result<Eks> {
    let (gate, aws, cluster) = (gate()?, super::super::aws()?, super::super::eks()?);
    let remote = Remote::between(gate, cluster.plane().clone(), "eks").await?;
    Ok(Eks { remote, aws, cluster })
}

impl Eks {
    fn target(&self, cluster: &str, role: &str) -> Value {
        let region = self.cluster.region();
        json!({"type": "EKS", "eks": {"clusterName": cluster, "region": region, "roleARN": role}})
    }

    fn external_id(&self, name: &str) -> String {
        format!("sallyport/hub-prod/{}/{name}", self.remote.namespace)
    }

    /// Waits until `BypassDetected` of this agent is as wished; reason and message, empty where there is no such condition.
    async fn bypass(&self, name: &str, is: impl Fn(&str) -> bool) -> anyhow::Result<(String, String)> {
        e2e::eventually("BypassDetected", super::SOON, async || {
            let object = self.remote.admin(&["get", "agentidentity", name, "-o", "json"])?;
            let object: Value = serde_json::from_str(&object)?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let said = conditions.into_iter().find(|one| one["type"] == "BypassDetected").unwrap_or_default();
            let word = |field: &str| said[field].as_str().unwrap_or_default().to_owned();
            Ok(is(&word("message")).then(|| (word("reason"), word("message"))))
        })
        .await
    }

    /// Waits until every proxy has asked about both clusters once more, and for the last thing that was begun before.
    async fn another_look(&self) -> anyhow::Result<()> {
        let seen = self.aws.access_entries().asked().len();
        e2e::eventually("two more looks of each proxy", super::SOON, async || {
            let asked = self.aws.access_entries().asked();
            let first = |cluster: &str| {
                let is_first = |one: &&Asked| one.cluster == cluster && !one.further;
                asked.iter().skip(seen).filter(is_first).count()
            };
            Ok((first(HUB_CLUSTER) >= 6 && first(CLUSTER) >= 6).then_some(()))
        })
        .await
    }

    /// Runs a printed command of `aws` with stock `aws`, as somebody of the account `account`.
    async fn runs(&self, command: &str, account: &str) -> anyhow::Result<()> {
        let (command, _) = command.split_once("   #").unwrap_or((command, ""));
        let args: Vec<&str> = command.split(' ').skip(1).collect();
        let admin: Credentials =
            self.aws.assume_role(&format!("arn:aws:iam::{account}:role/admin"), "alice").await?;
        self.aws.call(&admin, &args).map(drop)
    }

    /// What the role may do in the cluster at most.
    fn may_edit(&self) -> anyhow::Result<()> {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "agents", "namespace": self.remote.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "sallyport:agents"}],
        });
        self.remote.far.apply(&binding.to_string()).map(drop)
    }
}

#[tokio::test]
async fn an_eks_target_is_entered_by_a_role_that_only_this_agent_can_have() -> anyhow::Result<()> {
    let eks = eks().await?;
    let (remote, namespace) = (&eks.remote, eks.remote.namespace.as_str());
    let role = format!("arn:aws:iam::{}:role/team/sallyport-payments", eks.cluster.account());
    let other = format!("arn:aws:iam::{}:role/other", eks.cluster.account());
    eks.aws.trust(&role, &eks.external_id("agent"));
    eks.may_edit()?;
    remote.identity("agent", eks.target(eks.cluster.name(), &role)).await?;
    remote.identity("thief", eks.target(eks.cluster.name(), &role)).await?;
    remote.identity("nowhere", eks.target("no-such-cluster", &other)).await?;

    let advice = remote.becomes("agent", "Unauthorized").await?;
    for word in [
        "aws eks create-access-entry",
        &role,
        "sallyport:{{SessionName}}",
        "mapRoles",
        "role/sallyport-payments\n",
    ] {
        assert!(advice.contains(word), "`{word}` is not in {advice}");
    }
    let denied = remote.becomes("thief", "AssumeRoleDenied").await?;
    assert!(denied.contains(&eks.external_id("thief")), "{denied}");
    let unknown = remote.becomes("nowhere", "ClusterNotFound").await?;
    assert!(unknown.contains("cluster/no-such-cluster"), "{unknown}");
    let said = remote.admin(&["get", "agentidentity", "agent", "-o", "jsonpath={.status.eks.externalID}"])?;
    assert_eq!(said, eks.external_id("agent"));

    eks.cluster.access_entry(&role, "sallyport:{{SessionName}}", &["sallyport:agents"]);
    // A change of the identity is probed at once; else the next try may be a minute away.
    let again = json!({"spec": {"description": "with an access entry now"}}).to_string();
    remote.admin(&["patch", "agentidentity", "agent", "--type=merge", "-p", &again])?;
    let agent = remote.agent("agent").await?;
    let version = remote.becomes("agent", "Reachable").await?;
    assert!(version.starts_with("v1."), "{version}");
    let user = format!("sallyport:{namespace}.agent");
    remote.far_admin(&["create", "configmap", "flags", "--from-literal=where=eks"])?;
    for proxy in [0, 1, 0, 1] {
        let args = ["get", "configmap", "flags", "-n", namespace, "-o", "jsonpath={.data.where}"];
        assert_eq!(agent.kubectl_with(Version::New, proxy, &args, "")?.success()?, "eks");
    }
    let there = Filter::ran_as(&user).resource("configmaps").namespace(namespace);
    assert_eq!(remote.far.audit().requests(&there).await?.len(), 4);

    // F22: credentials and tokens are kept; each proxy assumed the role under the agent's own name, and hardly more than once.
    let assumed = eks.aws.assumed();
    let own: Vec<_> = assumed.iter().filter(|one| one.session == format!("{namespace}.agent")).collect();
    assert!(!own.is_empty() && own.iter().all(|one| one.granted && one.role_arn == role), "{own:?}");
    assert!(own.iter().all(|one| one.external_id.as_deref() == Some(&*eks.external_id("agent"))), "{own:?}");
    assert!(assumed.iter().filter(|one| one.session.ends_with(".thief")).all(|one| !one.granted));
    let before = own.len();
    for _ in 0..5 {
        agent.kubectl(&["get", "configmaps"])?.success()?;
    }
    let after = eks.aws.assumed().iter().filter(|one| one.session == format!("{namespace}.agent")).count();
    assert_eq!(after, before, "a role was assumed for each request");

    // Approved on the hub, run once on the other cluster.
    remote.deployment("web")?;
    let delete = ["delete", "deployment", "web"];
    let pending = agent.kubectl(&delete)?;
    assert!(pending.stderr.contains("ApprovalPending"), "{pending:?}");
    let grant =
        agent.kubectl(&["get", "accessgrants", "-o", "jsonpath={.items[*].metadata.name}"])?.success()?;
    review_as(&remote.alice, namespace, &grant, &json!({"decision": "Approved"}))?.success()?;
    agent
        .kubectl(&["wait", "--for=condition=Decided", &format!("accessgrant/{grant}"), "--timeout=60s"])?
        .success()?;
    let done = agent.kubectl(&delete)?;
    assert!(done.code == 0 && done.stderr.contains("ran once"), "{done:?}");

    // A role that lost its way in: the agent is told that the gate is refused, never that its own token is.
    eks.cluster.delete_access_entry(&role);
    // The API server itself remembers for ten seconds whose a token is.
    e2e::eventually("the refusal of the role", super::SOON, async || {
        let refused = agent.kubectl(&["get", "configmaps"])?;
        Ok(refused.stderr.contains("does not accept the gate's credential").then_some(()))
    })
    .await?;
    let bound = agent.kubectl(&["create", "clusterrolebinding", "x", "--clusterrole=view", "--user=x"])?;
    assert!(bound.stderr.contains("the gate itself denies"), "b83: {bound:?}");
    Ok(())
}

#[tokio::test]
async fn b113_an_access_entry_of_an_agents_own_role_is_told_and_the_printed_command_ends_it()
-> anyhow::Result<()> {
    let eks = eks().await?;
    let (remote, namespace) = (&eks.remote, eks.remote.namespace.as_str());
    let (entries, account) = (eks.aws.access_entries(), eks.cluster.account());
    let target = format!("arn:aws:iam::{account}:role/{namespace}-target");
    let gate = format!("arn:aws:iam::{GATE_ACCOUNT}:user/sallyport-proxy");
    let runner = format!("arn:aws:iam::{GATE_ACCOUNT}:role/team/{namespace}-Runner");
    eks.aws.trust(&target, &eks.external_id("reader"));
    for cluster in [CLUSTER, HUB_CLUSTER] {
        entries.deny(cluster, true);
    }
    let far: Vec<String> =
        (0..3).map(|at| format!("arn:aws:iam::{account}:role/{namespace}-node-{at}")).collect();
    for role in
        [&far[..], &[runner.replace("arn:aws:", "arn:aws-cn:"), target.clone(), runner.clone()]].concat()
    {
        // Without a group it is let in all the same.
        eks.cluster.access_entry(&role, "x", &[]);
    }
    remote.identity("reader", eks.target(eks.cluster.name(), &target)).await?;
    remote.becomes("reader", "Reachable").await?;
    let identity = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": "runner", "namespace": namespace},
        "spec": {"target": {"type": "InCluster"}, "subjects": [{"name": "ci", "type": "AWSIAMRole",
                 "awsIAMRole": {"arn": format!("arn:aws:iam::{GATE_ACCOUNT}:role/{namespace}-runner")}}]},
    });
    remote.gate.plane().apply(&identity.to_string())?;

    // The permission is optional: what is denied is said, and concludes nothing.
    let proxy = remote.gate.proxies()[0].program();
    e2e::eventually("both clusters denied", super::SOON, async || {
        let metrics = proxy.metrics().await?;
        let all = metrics.contains("sallyport_access_entry_clusters{result=\"denied\"} 2");
        Ok(all.then_some(()))
    })
    .await?;
    assert_eq!(eks.bypass("runner", |_| true).await?, (String::new(), String::new()));

    entries.deny(CLUSTER, false);
    let told = eks.bypass("runner", |said| !said.is_empty()).await?;
    let command = format!(
        "aws eks delete-access-entry --cluster-name {} --region {} --principal-arn {runner}   # in account {account}",
        eks.cluster.name(),
        eks.cluster.region()
    );
    assert_eq!(told.0, "EKSAccessEntry");
    assert_eq!(told.1.lines().skip(1).collect::<Vec<_>>(), [command.as_str()], "{told:?}");
    let asked = entries.asked();
    assert!(
        asked.iter().any(|one| one.cluster == CLUSTER && one.further && one.by.contains(":assumed-role/")),
        "pages: {asked:?}"
    );
    assert!(
        asked.iter().all(|one| one.cluster != HUB_CLUSTER || one.by == gate),
        "the hub as the gate: {asked:?}"
    );
    assert_eq!(eks.bypass("reader", |_| true).await?.0, "", "the gate's own way in is no way past it");

    // No answer is no all-clear.
    entries.deny(CLUSTER, true);
    eks.another_look().await?;
    assert_eq!(eks.bypass("runner", |_| true).await?, told);
    entries.deny(CLUSTER, false);

    // The hub's own cluster, asked as the gate itself: which cluster it is, was told.
    entries.set(
        HUB_CLUSTER,
        &["arn:aws:iam::111122223333:user/alice", "arn:aws:iam::111122223333:role/nodes", &runner],
    );
    entries.deny(HUB_CLUSTER, false);
    let (_, both) = eks.bypass("runner", |said| said.starts_with("2 ways")).await?;
    for line in both.lines().skip(1) {
        eks.runs(line, if line.contains("hub-prod") { GATE_ACCOUNT } else { account }).await?;
    }
    eks.bypass("runner", str::is_empty).await?;

    // An identity that comes later is judged by what is known already.
    entries.set(HUB_CLUSTER, &[&runner.replace("-Runner", "-later")]);
    let mut later = identity;
    later["metadata"]["name"] = "later".into();
    later["spec"]["subjects"][0]["awsIAMRole"]["arn"] =
        format!("arn:aws:iam::{GATE_ACCOUNT}:role/{namespace}-later").into();
    remote.gate.plane().apply(&later.to_string())?;
    let (reason, message) = eks.bypass("later", |said| !said.is_empty()).await?;
    assert!(
        reason == "EKSAccessEntry" && message.contains("--cluster-name hub-prod --region us-east-1 "),
        "{message}"
    );
    Ok(())
}
