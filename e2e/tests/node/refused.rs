//! Installations that cannot work: not ready, and the reason where people look.

use e2e::eventually;
use e2e::gate::SYSTEM;
use e2e::install::install_with;
use serde_json::{Value, json};

use super::estate::SOON;

const HURRIED: [&str; 2] = ["--wait=false", "--set=proxy.replicas=1"];

#[tokio::test]
async fn z_a_volume_that_is_not_there_is_said_by_the_pod() -> anyhow::Result<()> {
    let _place = super::nothing_installed().await?;
    let cluster = super::cluster()?;
    cluster.namespace(SYSTEM).await?;
    let values = ["storage.type=Filesystem", "storage.filesystem.existingClaim=absent"].map(str::to_owned);
    install_with(&cluster, &values, &HURRIED)?.success()?;
    let said = eventually("the reason", SOON, async || {
        let pods = cluster.pods(SYSTEM, "app.kubernetes.io/component=proxy")?;
        let all = pods.iter().flat_map(|pod| pod["status"]["conditions"].as_array().into_iter().flatten());
        let said: Vec<_> = all.filter_map(|condition| condition["message"].as_str()).collect();
        Ok(said.iter().find(|text| text.contains("absent")).map(|text| (*text).to_owned()))
    })
    .await?;
    println!("the pod says: {said}");
    uninstall()
}

#[tokio::test]
async fn z_a_volume_that_cannot_be_written_is_not_ready_and_says_so() -> anyhow::Result<()> {
    let _place = super::nothing_installed().await?;
    let cluster = super::cluster()?;
    let Some(_node) = cluster.node("a volume that the proxies' user may not write") else { return Ok(()) };
    cluster.namespace(SYSTEM).await?;
    // Root's, and nobody else may write: what a forgotten chown leaves.
    let folder = cluster.scratch().join(format!("root-only-{}", cluster.next()));
    std::fs::create_dir(&folder)?;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "root-only"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
                 "hostPath": {"path": folder, "type": "Directory"}},
    });
    cluster.apply(&volume.to_string())?;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "root-only", "namespace": SYSTEM},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": "root-only",
                 "resources": {"requests": {"storage": "1Gi"}}},
    });
    cluster.apply(&claim.to_string())?;
    let values = ["storage.type=Filesystem", "storage.filesystem.existingClaim=root-only"].map(str::to_owned);
    install_with(&cluster, &values, &HURRIED)?.success()?;
    let said = eventually("the reason", SOON, async || {
        let pods = cluster.pods(SYSTEM, "app.kubernetes.io/component=proxy")?;
        let Some(pod) = pods.first().filter(|pod| running(pod)) else { return Ok(None) };
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let ready = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/readyz");
        let answer = cluster.kubectl(&["get", "--raw", &ready])?;
        let log = cluster.kubectl(&["logs", name, "-n", SYSTEM, "--tail=50"])?;
        anyhow::ensure!(answer.code != 0, "ready without a place for recordings: {answer:?}");
        let said = format!("{}{}{}", answer.stdout, answer.stderr, log.stdout);
        Ok(said.to_lowercase().contains("permission denied").then_some(said))
    })
    .await?;
    println!("the proxy says: {said}");
    uninstall()
}

fn running(pod: &Value) -> bool {
    let container = &pod["status"]["containerStatuses"][0];
    container["started"] == true || container["restartCount"].as_u64().unwrap_or_default() > 0
}

fn uninstall() -> anyhow::Result<()> {
    let cluster = super::cluster()?;
    let args = ["uninstall", e2e::chart::RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "180s"];
    cluster.helm(&args)?.success().map(|_said| ())
}
