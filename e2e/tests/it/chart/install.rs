//! The chart installed, upgraded, tested and uninstalled by real helm on a real API server.

use e2e::chart::{RELEASE, helm};
use e2e::control_plane::free_ports;
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Output, Process, eventually};
use serde_json::{Value, json};

use super::{SOON, chart};
use crate::operator::identity;

struct Releases {
    plane: ControlPlane,
}

impl Releases {
    fn start() -> anyhow::Result<Self> {
        Ok(Self { plane: ControlPlane::start()? })
    }

    fn helm(&self, args: &[&str]) -> anyhow::Result<Output> {
        helm(Some(self.plane.admin_kubeconfig()), args)
    }

    fn install(&self, release: &str, namespace: &str, values: &[&str]) -> anyhow::Result<Output> {
        let chart = chart();
        let args = ["install", release, &chart, "--namespace", namespace, "--create-namespace"];
        self.helm(&[&args[..], &["--set", "storage.type=Filesystem"], values].concat())
    }

    fn get(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(
            &self.plane.kubectl(&["get", kind, name, "-n", SYSTEM, "-o", "json"])?.success()?,
        )?)
    }

    /// Everything of Sallyport's, as `kind/name` lines, wherever it is.
    fn left(&self) -> anyhow::Result<Vec<String>> {
        let kinds = "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,\
                     mutatingwebhookconfiguration,validatingwebhookconfiguration,serviceaccount,role,rolebinding,deployment,\
                     service,poddisruptionbudget,persistentvolumeclaim,networkpolicy";
        let all = self.plane.kubectl(&["get", kinds, "-A", "-o", "name"])?.success()?;
        Ok(all.lines().filter(|line| line.contains("sallyport")).map(str::to_owned).collect())
    }
}

/// The operator with the rights that the chart gave it, its webhook behind the chart's Service.
async fn start_operator(plane: &ControlPlane) -> anyhow::Result<Process> {
    let [webhook, admin] = free_ports()?;
    let account = crds::names::OPERATOR_SERVICE_ACCOUNT;
    let kubeconfig = plane.service_account_kubeconfig(SYSTEM, account).await?;
    let argv = vec![
        e2e::program("sallyport-operator")?.display().to_string(),
        format!("--webhook-bind=127.0.0.1:{webhook}"),
        format!("--admin-bind=127.0.0.1:{admin}"),
    ];
    let env = [("KUBECONFIG".to_owned(), kubeconfig.display().to_string())];
    plane.supervisor().run("operator", argv, env.into())
}

const DEFINITIONS: [&str; 4] = ["accessgrants", "accesspolicies", "agentidentities", "sessionrecords"];

#[tokio::test]
async fn an_upgrade_keeps_what_the_operator_wrote_and_an_uninstall_leaves_the_evidence() -> anyhow::Result<()>
{
    let releases = Releases::start()?;
    let plane = &releases.plane;
    let notes = releases.install(RELEASE, SYSTEM, &[])?.success()?;
    for words in [
        "Agents talk to: https://sallyport-proxy.sallyport-system.svc",
        "kubectl apply -f identity.yaml -f policy.yaml -f rbac.yaml",
        "helm test sallyport -n sallyport-system",
        "WARNING: storage.type=Filesystem keeps recordings on a volume of this cluster",
        "WARNING: the volume is ReadWriteOnce",
    ] {
        assert!(notes.contains(words), "no `{words}` in:\n{notes}");
    }
    assert!(
        !releases.left()?.contains(&"clusterrole.rbac.authorization.k8s.io/sallyport-install".to_owned())
    );
    let operator = start_operator(plane).await?;
    let namespace = plane.namespace("chart").await?;
    plane.apply(&identity(&namespace, "agent", "agent").to_string())?;
    let user = format!("sallyport:agent:{namespace}:agent");
    let role = eventually("the impersonation rules", SOON, async || {
        let role = releases.get("clusterrole", crds::names::IMPERSONATOR_CLUSTER_ROLE)?;
        Ok(role["rules"].to_string().contains(&user).then_some(role))
    })
    .await?;
    let hook = eventually("the webhook's authority", SOON, async || {
        let hook = releases.get("validatingwebhookconfiguration", crds::names::WEBHOOK_CONFIGURATION)?;
        Ok(hook["webhooks"][0]["clientConfig"]["caBundle"].is_string().then_some(hook))
    })
    .await?;
    let uid = ["get", "agentidentity", "agent", "-n", &namespace, "-o", "jsonpath={.metadata.uid}"];
    let identity = plane.kubectl(&uid)?.success()?;

    // Nobody mends meanwhile what the upgrade breaks.
    operator.kill()?;
    let definition = releases.get("crd", "agentidentities.sallyport.dev")?;
    let chart = chart();
    let upgrade = ["upgrade", RELEASE, &chart, "--namespace", SYSTEM, "--set", "storage.type=Filesystem"];
    for values in
        [&["--set", "proxy.replicas=3"][..], &["--set", "logLevel=debug", "--set", "proxy.drainSeconds=60"]]
    {
        releases.helm(&[&upgrade[..], values].concat())?.success()?;
    }
    assert_eq!(
        releases.get("deployment", "sallyport-proxy")?["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
        100
    );
    let upgraded = releases.get("clusterrole", crds::names::IMPERSONATOR_CLUSTER_ROLE)?;
    assert_eq!(upgraded["rules"], role["rules"], "the impersonation rules are the operator's");
    let after = releases.get("validatingwebhookconfiguration", crds::names::WEBHOOK_CONFIGURATION)?;
    assert_eq!(after["webhooks"][0]["clientConfig"], hook["webhooks"][0]["clientConfig"]);
    assert_eq!(
        releases.get("crd", "agentidentities.sallyport.dev")?["metadata"]["uid"],
        definition["metadata"]["uid"]
    );

    releases.helm(&["uninstall", RELEASE, "--namespace", SYSTEM])?.success()?;
    let mut kept: Vec<String> = DEFINITIONS
        .iter()
        .map(|plural| format!("customresourcedefinition.apiextensions.k8s.io/{plural}.sallyport.dev"))
        .collect();
    kept.push("persistentvolumeclaim/sallyport-recordings".to_owned());
    assert_eq!(releases.left()?, kept);
    assert_eq!(plane.kubectl(&uid)?.success()?, identity, "objects outlive the chart");

    releases.install(RELEASE, SYSTEM, &[])?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_second_install_a_foreign_definition_and_missing_rights_are_told_and_leave_nothing()
-> anyhow::Result<()> {
    let releases = Releases::start()?;
    let plane = &releases.plane;
    let foreign = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "accessgrants.sallyport.dev"},
        "spec": {
            "group": "sallyport.dev", "scope": "Namespaced",
            "names": {"kind": "AccessGrant", "plural": "accessgrants", "singular": "accessgrant", "listKind": "AccessGrantList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    plane.apply(&foreign.to_string())?;
    let out = releases.install(RELEASE, SYSTEM, &[])?;
    for words in [
        "The CustomResourceDefinition accessgrants.sallyport.dev is in this cluster already and belongs to nobody that Helm knows",
        "kubectl annotate crd accessgrants.sallyport.dev meta.helm.sh/release-name=sallyport",
        "--set crds.enabled=false",
    ] {
        assert!(out.code != 0 && out.stderr.contains(words), "no `{words}` in {out:?}");
    }
    let only = ["customresourcedefinition.apiextensions.k8s.io/accessgrants.sallyport.dev"];
    assert_eq!(releases.left()?, only);
    plane.kubectl(&["delete", "crd", "accessgrants.sallyport.dev"])?.success()?;

    plane.named_namespace(SYSTEM).await?;
    for (user, role) in [("editor", "edit"), ("reader", "reads-all-edits-here")] {
        if user == "reader" {
            let all = ["create", "clusterrole", "reads-all", "--verb=get,list,watch", "--resource=*.*"];
            plane.kubectl(&all)?.success()?;
            plane
                .kubectl(&[
                    "create",
                    "clusterrolebinding",
                    "reads",
                    "--clusterrole=reads-all",
                    "--user=reader",
                ])?
                .success()?;
        }
        let grant = ["create", "rolebinding", role, "--clusterrole=admin", "-n", SYSTEM];
        plane.kubectl(&[&grant[..], &[&format!("--user={user}")]].concat())?.success()?;
        let kubeconfig = plane.user_kubeconfig(user, None)?;
        let chart = chart();
        let install = ["install", RELEASE, &chart, "-n", SYSTEM, "--set", "storage.type=Filesystem"];
        let out = helm(Some(&kubeconfig), &install)?;
        assert!(out.code != 0 && out.stderr.contains(&format!("User \"{user}\" cannot ")), "{out:?}");
        assert_eq!(releases.left()?, Vec::<String>::new(), "{user}");
        releases.helm(&["uninstall", RELEASE, "-n", SYSTEM, "--ignore-not-found"])?.success()?;
    }

    releases.install(RELEASE, SYSTEM, &[])?.success()?;
    let before = releases.left()?;
    for (release, namespace) in [("another", "elsewhere"), ("another", SYSTEM), (RELEASE, "elsewhere")] {
        let out = releases.install(release, namespace, &[])?;
        let words = "Sallyport is installed in this cluster already, as release sallyport in namespace sallyport-system";
        assert!(out.code != 0 && out.stderr.contains(words), "{out:?}");
        assert_eq!(releases.left()?, before, "{release} in {namespace}");
    }
    let again = releases.install(RELEASE, SYSTEM, &[])?;
    assert!(again.stderr.contains("cannot re-use a name that is still in use"), "{again:?}");
    Ok(())
}

// No kubelet here: what a pod of the check would end with is written as a kubelet writes it. Its work is tested in `boundary`.
#[tokio::test]
async fn helm_test_takes_away_what_it_made_whether_it_fails_or_not() -> anyhow::Result<()> {
    let releases = Releases::start()?;
    let plane = &releases.plane;
    releases.install(RELEASE, SYSTEM, &[])?.success()?;
    let before = releases.left()?;
    for (phase, ends) in [("Failed", 1), ("Succeeded", 0), ("Succeeded", 0)] {
        let kubeconfig = plane.admin_kubeconfig().to_owned();
        let test = std::thread::spawn(move || {
            helm(Some(&kubeconfig), &["test", RELEASE, "-n", SYSTEM, "--timeout", "120s"])
        });
        eventually("the check's pod to end", SOON * 4, async || {
            let pod = plane.kubectl(&["get", "pod", "sallyport-check", "-n", SYSTEM, "-o", "name"])?;
            if pod.code == 0 {
                let patch = json!({"status": {"phase": phase}}).to_string();
                let end =
                    ["patch", "pod", "sallyport-check", "-n", SYSTEM, "--subresource=status", "-p", &patch];
                plane.kubectl(&end)?;
            }
            Ok(test.is_finished().then_some(()))
        })
        .await?;
        let out = test.join().map_err(|_panic| anyhow::anyhow!("helm panicked"))??;
        assert_eq!(out.code, ends, "{out:?}");
        eventually("its namespace to go", SOON * 2, async || {
            let namespace = plane.kubectl(&["get", "namespace", "sallyport-check", "-o", "name"])?;
            Ok((namespace.code != 0).then_some(()))
        })
        .await?;
        assert_eq!(releases.left()?, before, "{phase}");
        let pod = plane.kubectl(&["get", "pod", "sallyport-check", "-n", SYSTEM, "-o", "name"])?;
        assert_eq!(pod.code == 0, phase == "Failed", "only a failed one stays, to be read");
    }
    Ok(())
}
