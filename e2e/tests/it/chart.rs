//! The chart's values: linted and rendered by real helm, judged by the API server, told on their page.

mod install;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::chart::{RELEASE, folder, helm};
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Output, Version, eventually, kubectl_stdin};
use serde_json::{Value, json};

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
    // Its own: where an operator runs outside the cluster, the webhooks have its address instead of the chart's Service.
    let plane = ControlPlane::start()?;
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
fn the_programs_take_the_flags_that_the_chart_gives_them() -> anyhow::Result<()> {
    for file in sets_of_values()? {
        let path = file.display().to_string();
        let text = render(SYSTEM, &["-f", &path])?.success()?;
        let pods = documents(&text)?.into_iter().filter_map(|one| match one["kind"].as_str() {
            Some("Deployment") => Some(one["spec"]["template"]["spec"].clone()),
            Some("Pod") => Some(one["spec"].clone()),
            _ => None,
        });
        let pods: Vec<Value> = pods.collect();
        assert_eq!(pods.len(), 3, "{path}");
        for container in pods.iter().map(|pod| &pod["containers"][0]) {
            let image = container["image"].as_str().unwrap_or_default();
            let name = image.rsplit('/').next().and_then(|name| name.split([':', '@']).next());
            let args = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let args: Vec<String> = args.map(|arg| arg.replace("$(POD_NAME)", "sallyport-proxy-0")).collect();
            // Flags are read in order, so that --help answers only where every one before it was taken.
            let program = e2e::program(name.unwrap_or_default())?;
            let out = Command::new(program).args(&args).arg("--help").env_clear().output()?;
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success() && !args.is_empty(), "{path}: {name:?} {args:?}: {said}");
        }
    }
    Ok(())
}

/// B113: without the look for ways past the gate nobody may read what is only needed for it.
#[test]
fn b113_rights_in_kube_system_are_there_only_to_look_for_ways_past_the_gate() -> anyhow::Result<()> {
    for (set, looks) in [("aws.detectBypass=true", true), ("aws.detectBypass=false", false)] {
        let values = ["--set", "storage.type=Filesystem", "--set", set];
        let objects = documents(&render("sallyport-system", &values)?.success()?)?;
        let there = objects.iter().filter(|one| one["metadata"]["namespace"] == "kube-system");
        let resources: Vec<&Value> =
            there.filter(|one| one["kind"] == "Role").map(|one| &one["rules"]).collect();
        let aws_auth = resources.iter().any(|rules| rules.to_string().contains("aws-auth"));
        assert_eq!(aws_auth, looks, "{set}: {resources:?}");
        let args = objects.iter().filter(|one| one["kind"] == "Deployment").map(ToString::to_string);
        let args: String = args.collect();
        assert!(args.contains(&format!("--detect-bypass={looks}")), "{set}");
        assert_eq!(args.contains("--access-entries-seconds=0"), !looks, "{set}");
    }
    Ok(())
}

#[test]
fn thoughtless_values_are_refused_in_words_that_help() -> anyhow::Result<()> {
    let filesystem = "storage.type=Filesystem";
    let cases: [(&[&str], &str); 26] = [
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
        (&[filesystem, "proxy.spool.mebibytes=0"], "at '/proxy/spool/mebibytes': minimum: got 0, want 1"),
        (&["storage.s3.bucket=acme", "storage.s3.kmsKeyARN=alias/x"], "at '/storage/s3/kmsKeyARN'"),
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

/// Every value of the chart that is no map, or is an empty one, with its default as JSON.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value.as_object().filter(|map| !map.is_empty() && !path.ends_with(".resources")) {
        Some(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, found);
            }
        }
        None => {
            let text = value.as_str().filter(|text| !text.is_empty());
            found.push((path.to_owned(), text.map_or_else(|| value.to_string(), str::to_owned)));
        }
    }
}

#[test]
fn the_page_names_every_value_with_its_default_and_no_other() -> anyhow::Result<()> {
    let values: Value = serde_saphyr::from_str(&std::fs::read_to_string(folder().join("values.yaml"))?)?;
    let page = std::fs::read_to_string(e2e::workspace_root().join("docs/chart.md"))?;
    let mut wanted = Vec::new();
    leaves("", &values, &mut wanted);
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split("` | `");
        let (path, rest) = (cells.next()?, cells.next()?);
        Some((path.to_owned(), rest.split("` | ").next()?.to_owned()))
    });
    let (mut told, squeeze): (Vec<_>, _) = (rows.collect(), |text: &str| text.replace(' ', ""));
    for row in wanted.iter_mut().chain(&mut told) {
        row.1 = squeeze(&row.1);
    }
    wanted.sort();
    told.sort();
    assert_eq!(told, wanted);
    Ok(())
}

#[tokio::test]
async fn every_alert_looks_at_a_metric_that_there_is() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let namespace = gate.plane().namespace("alerts").await?;
    gate.agent(&namespace, "agent", &[]).await?;
    let metrics = eventually("metrics of agents", SOON, async || {
        let text = gate.operator().metrics().await? + &gate.proxies()[0].program().metrics().await?;
        Ok(text.contains("sallyport_pending_grants").then_some(text))
    })
    .await?;
    let file = folder().join("ci/monitoring-values.yaml");
    let text = render(SYSTEM, &["-f", &file.display().to_string()])?.success()?;
    let rules = documents(&text)?.into_iter().find(|one| one["kind"] == "PrometheusRule");
    let rules = rules.map(|one| one["spec"]["groups"][0]["rules"].clone()).unwrap_or_default();
    let alerts = rules.as_array().map_or(0, Vec::len);
    assert!(alerts >= 6, "{alerts} alerts");
    for rule in rules.as_array().into_iter().flatten() {
        let expression = rule["expr"].as_str().unwrap_or_default();
        let word = |letter: char| !(letter.is_ascii_alphanumeric() || letter == '_');
        let names: Vec<&str> = expression.split(word).filter(|name| name.starts_with("sallyport_")).collect();
        assert!(!names.is_empty(), "{rule}");
        for name in names {
            assert!(metrics.contains(&format!("# TYPE {name} ")), "nobody has `{name}`: {rule}");
        }
    }
    Ok(())
}
