//! Recordings in a real S3 server: kept under Object Lock, spooled while it is down, refused where it cannot be trusted.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use e2e::control_plane::{base_env, free_ports};
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Gate, Output, Process, S3, Setup, Version, eventually, wire};
use serde_json::{Value, json};

use super::estate::Estate;

const SOON: Duration = Duration::from_secs(60);
const BUCKET: &str = "recordings";

fn on_s3(s3: &S3) -> Setup {
    Setup {
        proxies: 1,
        store: Some(s3.address(BUCKET)),
        proxy_flags: s3.reach(),
        proxy_env: s3.env(),
        ..Setup::default()
    }
}

fn policy() -> Value {
    json!({
        "rules": [
            {"name": "work", "effect": "Allow", "match": [
                {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "create", "delete"]},
            ]},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["delete"]},
            ]},
        ],
        "approval": {"holdSeconds": 0},
    })
}

/// `kubectl sallyport` as the administrator, reading the bucket.
fn plugin(estate: &Estate, s3: &S3, args: &[&str]) -> anyhow::Result<Output> {
    let out = Command::new(e2e::program("kubectl-sallyport")?)
        .args(args)
        .args(["-n", &estate.namespace])
        .args(s3.flags(BUCKET))
        .env_clear()
        .envs(s3.env())
        .env("KUBECONFIG", estate.gate.plane().admin_kubeconfig())
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok(Output { stdout: text(out.stdout)?, stderr: text(out.stderr)?, code: out.status.code().unwrap_or(-1) })
}

fn sessions(estate: &Estate) -> anyhow::Result<Vec<String>> {
    let names =
        estate.admin(&["get", "sessionrecords", "-o", "jsonpath={.items[*].metadata.name}"])?.success()?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

fn create(estate: &Estate, name: &str) -> anyhow::Result<Output> {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": estate.namespace}});
    estate.agent.kubectl_with(Version::New, 0, &["create", "-f", "-"], &map.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn f09_a_locked_bucket_keeps_every_segment_once_and_lets_nobody_delete_one() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let s3 = S3::start(plane.supervisor()).await?;
    s3.locked_bucket(BUCKET, 1).await?;
    let gate = Gate::start(&plane, on_s3(&s3))?;
    let estate = Estate::new(&gate, "locked", policy()).await?;
    create(&estate, "flags")?.success()?;
    estate.agent(&["get", "configmaps"])?.success()?;
    let [name] = &sessions(&estate)?[..] else { panic!("one session") };
    let replayed = eventually("the outcome in the bucket", SOON, async || {
        let out = plugin(&estate, &s3, &["replay", name])?;
        Ok((out.code == 0 && out.stdout.contains("list configmaps")).then_some(out.stdout))
    })
    .await?;
    assert!(replayed.contains("create configmaps/flags"), "{replayed}");
    let uri =
        estate.admin(&["get", "sessionrecord", name, "-o", "jsonpath={.status.recording.uri}"])?.success()?;
    assert_eq!(uri, format!("s3://{BUCKET}/recordings/{}/{name}/", estate.namespace));

    // Ending the proxy closes the chain; its next life finds the proof that is there.
    assert_eq!(gate.proxies()[0].program().stop(SOON)?, 0);
    let verified = plugin(&estate, &s3, &["verify", name])?;
    assert!(verified.code == 0 && verified.stdout.starts_with("hash chain ok ("), "{verified:?}");
    gate.proxies()[0].program().restart().await?;
    create(&estate, "more")?.success()?;

    let versions = s3.versions(BUCKET).await?;
    let of = |key: &str| versions.iter().filter(|version| version.key == key).count();
    assert_eq!(of("recordings/.sallyport/proof"), 1, "one for all starts: {versions:?}");
    assert!(versions.iter().all(|version| of(&version.key) == 1), "nothing is written twice: {versions:?}");
    let segments: Vec<_> = versions.iter().filter(|version| version.key.ends_with(".seg")).collect();
    assert!(segments.len() >= 2, "{versions:?}");
    for segment in segments {
        let (code, said) = s3.delete_version(BUCKET, segment).await?;
        assert!(code == 403, "deleting {segment:?} was answered {code}: {said}");
    }
    Ok(())
}

/// A proxy of its own beside those of a gate, with another store.
struct Lone {
    process: Process,
    admin: u16,
}

impl Lone {
    fn start(
        gate: &Gate,
        name: &str,
        store: &[String],
        more: BTreeMap<String, String>,
    ) -> anyhow::Result<Lone> {
        let [bind, admin] = free_ports()?;
        let spool = gate.plane().scratch().join("spool").join(name);
        let mut argv = vec![e2e::program("sallyport-proxy")?.display().to_string()];
        for (flag, value) in [
            ("namespace", SYSTEM.to_owned()),
            ("replica", name.to_owned()),
            ("bind", format!("127.0.0.1:{bind}")),
            ("admin-bind", format!("127.0.0.1:{admin}")),
            ("spool", spool.display().to_string()),
        ] {
            argv.extend([format!("--{flag}"), value]);
        }
        argv.extend(store.iter().cloned());
        let mut env = base_env();
        env.extend(more);
        let kubeconfig = gate.proxies()[0].program().kubeconfig().display().to_string();
        env.insert("KUBECONFIG".to_owned(), kubeconfig);
        Ok(Lone { process: gate.plane().supervisor().run(name, argv, env)?, admin })
    }

    async fn readyz(&self) -> anyhow::Result<(u16, String)> {
        anyhow::ensure!(self.process.ended()?.is_none(), "{}", self.process.last_words());
        Ok(wire::get_plain(self.admin, "/readyz")
            .await
            .map_or((0, String::new()), |answer| (answer.code, answer.text())))
    }

    /// Waits until it is not ready for the reason that `word` names, and says so in log and metrics too.
    async fn says(&self, words: &str, reason: &str) -> anyhow::Result<()> {
        let said = eventually(&format!("`{words}` in /readyz"), SOON, async || {
            let (code, text) = self.readyz().await?;
            Ok((code == 503 && text.contains(words)).then_some(text))
        })
        .await?;
        assert!(said.starts_with("recordings cannot be written: "), "{said}");
        let metrics = wire::get_plain(self.admin, "/metrics").await?.text();
        let counted = format!("sallyport_store_proof_failures_total{{reason=\"{reason}\"}}");
        assert!(metrics.contains(&counted), "no {counted}");
        assert!(metrics.contains("sallyport_store_proven 0"), "{metrics}");
        assert!(std::fs::read_to_string(self.process.log())?.contains("the store cannot keep recordings"));
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        eventually("readiness", SOON, async || Ok((self.readyz().await?.0 == 200).then_some(()))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_keep_recordings_is_named_and_when_mended_the_proxy_is_ready()
-> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let s3 = S3::start(plane.supervisor()).await?;

    let missing = Lone::start(&gate, "missing", &s3.flags(BUCKET), s3.env())?;
    let mut wrong = s3.env();
    wrong.insert("AWS_SECRET_ACCESS_KEY".to_owned(), "not-the-secret".to_owned());
    let denied = Lone::start(&gate, "denied", &s3.flags(BUCKET), wrong)?;
    let file = plane.scratch().join("taken");
    std::fs::write(&file, "a file where the folder should be")?;
    let folder = |path: String| ["--store".to_owned(), format!("file://{path}")];
    let taken = Lone::start(&gate, "taken", &folder(file.display().to_string()), BTreeMap::new())?;
    // A file system that takes no files, from anybody.
    let readonly = Lone::start(&gate, "readonly", &folder("/sys/recordings".to_owned()), BTreeMap::new())?;
    let silent = ["--store", "s3://recordings", "--s3-endpoint", "http://127.0.0.1:1"].map(str::to_owned);
    let silent = Lone::start(&gate, "silent", &silent, s3.env())?;

    missing.says("the store is not there", "missing").await?;
    denied.says("the store refuses to write", "denied").await?;
    taken.says("the store cannot write", "failed").await?;
    readonly.says("the store cannot write", "failed").await?;
    silent.says("the store cannot write", "failed").await?;

    s3.bucket(BUCKET).await?;
    missing.ready().await?;
    std::fs::remove_file(&file)?;
    taken.ready().await?;
    assert_eq!(readonly.readyz().await?.0, 503);
    Ok(())
}
