//! Targets of type EKS: moto for the calls to AWS, and a real kube-apiserver that takes tokens as EKS does.

use e2e::aws::{Aws, EksCluster};
use e2e::{ControlPlane, Filter, Gate, Setup, Version};
use serde_json::{Value, json};

use super::super::estate::review_as;
use super::Remote;

const GATE_ACCOUNT: &str = "111122223333";

struct Eks {
    remote: Remote,
    aws: Aws,
    cluster: EksCluster,
}

/// A hub whose proxies have AWS credentials, and an EKS cluster of another account.
async fn eks() -> anyhow::Result<Eks> {
    let (hub, aws, cluster) = (ControlPlane::start()?, super::super::aws()?, super::super::eks()?);
    let named = vec!["--hub=hub-prod".to_owned()];
    let gate = Gate::start(
        &hub,
        Setup {
            proxy_env: aws.env(&aws.user(GATE_ACCOUNT, "sallyport-proxy")),
            proxy_flags: named.clone(),
            operator_flags: named,
            ..Setup::default()
        },
    )?;
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
