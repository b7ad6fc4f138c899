//! The chart in real helm's hands: linted, rendered, judged by the API server, installed, upgraded, uninstalled.

use std::path::PathBuf;
use std::time::Duration;

use e2e::chart::{RELEASE, folder, helm};
use e2e::control_plane::free_ports;
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Output, Process, Version, eventually, kubectl_stdin};
use serde_json::{Value, json};

use crate::operator::identity;

/// Kinds whose definitions are other projects'. No API server here has them: their manifests are parsed and no more.
const FOREIGN: [&str; 3] = ["Certificate", "PrometheusRule", "ServiceMonitor"];
const SOON: Duration = Duration::from_secs(30);
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

fn sets_of_values() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder().join("ci"))? {
        files.push(entry?.path());
    }
    files.sort();
    anyhow::ensure!(files.len() >= 10, "only {} sets of values", files.len());
    Ok(files)
}

fn chart() -> String {
    folder().display().to_string()
}

fn render(namespace: &str, values: &[&str]) -> anyhow::Result<Output> {
    let chart = chart();
    let args = ["template", RELEASE, &chart, "--namespace", namespace, "--kube-version", "1.36.0"];
    helm(None, &[&args[..], values].concat())
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let parse =
        |one: &str| serde_saphyr::from_str::<Value>(one).map_err(|error| anyhow::anyhow!("{error}: {one}"));
    let all = text.split("\n---\n").map(parse).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|one| one["kind"].is_string()).collect())
}

fn dry_run(plane: &ControlPlane, objects: &[Value]) -> anyhow::Result<Output> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let args = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
    kubectl_stdin(Version::New, plane.admin_kubeconfig(), &args, &list)
}

#[tokio::test]
async fn every_set_of_values_is_taken_by_the_api_server_and_its_pods_are_restricted() -> anyhow::Result<()> {
    let plane = super::plane()?;
    let namespace = plane.namespace("chart").await?;
    plane.kubectl(&["label", "namespace", &namespace, RESTRICTED])?.success()?;
    let mut foreign = std::collections::BTreeSet::new();
    for file in sets_of_values()? {
        let path = file.display().to_string();
        helm(None, &["lint", "--strict", &chart(), "-f", &path])?.success()?;
        let text = render(&namespace, &["-f", &path, "--skip-tests"])?.success()?;
        let (others, objects): (Vec<Value>, Vec<Value>) = documents(&text)?
            .into_iter()
            .partition(|one| one["kind"].as_str().is_some_and(|kind| FOREIGN.contains(&kind)));
        foreign.extend(others.iter().filter_map(|one| one["kind"].as_str().map(str::to_owned)));
        let out = dry_run(&plane, &objects)?;
        assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{path}");
        let pods: Vec<Value> = objects.iter().filter_map(pod).collect();
        assert_eq!(pods.len(), 2, "{path}");
        for pod in pods {
            let out = dry_run(&plane, std::slice::from_ref(&pod))?;
            assert_eq!((out.code, out.stderr.as_str()), (0, ""), "{path}: {pod}");
        }
    }
    assert_eq!(foreign.into_iter().collect::<Vec<_>>(), FOREIGN, "each is rendered by some set");
    Ok(())
}

/// The pod that a Deployment would make: Pod Security judges pods. Its account and class are not there: they are not judged.
fn pod(object: &Value) -> Option<Value> {
    let template = (object["kind"] == "Deployment").then(|| &object["spec"]["template"])?;
    let mut spec = template["spec"].clone();
    for absent in ["serviceAccountName", "priorityClassName"] {
        spec.as_object_mut()?.remove(absent);
    }
    let meta = json!({"name": object["metadata"]["name"], "namespace": object["metadata"]["namespace"]});
    Some(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}))
}

#[test]
fn thoughtless_values_are_refused_in_words_that_help() -> anyhow::Result<()> {
    let filesystem = "storage.type=Filesystem";
    let cases: [(&[&str], &str); 24] = [
        (&[], "the name of a bucket, required for storage.type=S3: --set storage.s3.bucket=NAME"),
        (&["storage.s3.bucket=Has Spaces"], "at '/storage/s3/bucket': 'Has Spaces' does not match pattern"),
        (&["storage.s3.bucket=b"], "minLength: got 1, want 3"),
        (&[filesystem, "storage.s3.bucket=both"], "recordings go to one place, so choose S3 or Filesystem"),
        (&["storage.type=NFS"], "at '/storage/type': value must be one of 'S3', 'Filesystem'"),
        (&[filesystem, "storage.filesystem.size=lots"], "at '/storage/filesystem/size'"),
        (&[filesystem, "proxy.replicas=0"], "at '/proxy/replicas': minimum: got 0, want 1"),
        (&[filesystem, "operator.replicas=0"], "at '/operator/replicas': minimum: got 0, want 1"),
        (&[filesystem, "proxy.replicas=two"], "at '/proxy/replicas': got string, want integer"),
        (&[filesystem, "replicas=3"], "additional properties 'replicas' not allowed"),
        (&[filesystem, "proxy.replica=3"], "at '/proxy': additional properties 'replica' not allowed"),
        (&[filesystem, "tls.issuerRef.name=x"], "empty unless tls.mode=CertManager: one TLS mode at a time"),
        (&[filesystem, "tls.secretName=x"], "empty unless tls.mode=Secret: one TLS mode at a time"),
        (&[filesystem, "tls.mode=CertManager"], "required for tls.mode=CertManager"),
        (&[filesystem, "tls.mode=Secret"], "required for tls.mode=Secret"),
        (
            &[filesystem, "tls.mode=Off"],
            "at '/tls/mode': value must be one of 'SelfSigned', 'CertManager', 'Secret'",
        ),
        (&[filesystem, "tls.mode=Secret,tls.secretName=a,tls.issuerRef.name=b"], "one TLS mode at a time"),
        (&[filesystem, "proxy.url=http://gate"], "at '/proxy/url'"),
        (&[filesystem, "proxy.url=https://gate/path"], "at '/proxy/url'"),
        (&[filesystem, "image.tag=a b"], "at '/image/tag'"),
        (
            &[filesystem, "proxy.podDisruptionBudget.minAvailable=2"],
            "no node under such a pod could ever be drained",
        ),
        (
            &[filesystem, "proxy.autoscaling.enabled=true,proxy.autoscaling.minReplicas=9"],
            "more than maxReplicas",
        ),
        (&[filesystem, "operator.extraArgs={rm -rf}"], "at '/operator/extraArgs/0'"),
        (
            &[filesystem, "global.imagePullSecrets={pull}"],
            "at '/global/imagePullSecrets/0': got string, want object",
        ),
    ];
    for (set, words) in cases {
        let args: Vec<&str> = set.iter().flat_map(|value| ["--set", value]).collect();
        let out = render(SYSTEM, &args)?;
        assert_ne!(out.code, 0, "{set:?} was accepted");
        assert!(out.stderr.contains(words), "{set:?}: no `{words}` in:\n{}", out.stderr);
        assert_eq!(out.stdout, "", "{set:?}");
    }
    let unchecked = render(SYSTEM, &["--skip-schema-validation"])?;
    assert!(unchecked.stderr.contains("storage.s3.bucket is required"), "{}", unchecked.stderr);
    let old = ["template", RELEASE, &chart(), "--set", filesystem, "--kube-version", "1.31.9"];
    assert!(helm(None, &old)?.stderr.contains("requires kubeVersion: >=1.32.0-0"));
    Ok(())
}

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
