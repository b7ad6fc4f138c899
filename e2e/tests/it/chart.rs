//! The chart in real helm's hands: linted, rendered, judged by the API server, installed, upgraded, uninstalled.

use std::path::PathBuf;

use e2e::chart::{RELEASE, folder, helm};
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Output, Version, kubectl_stdin};
use serde_json::{Value, json};

/// Kinds whose definitions are other projects'. No API server here has them: their manifests are parsed and no more.
const FOREIGN: [&str; 3] = ["Certificate", "PrometheusRule", "ServiceMonitor"];
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
