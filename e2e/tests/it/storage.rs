//! Recordings in a real S3 server: kept under Object Lock, spooled while it is down, refused where it cannot be trusted.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use e2e::control_plane::{base_env, free_ports};
use e2e::gate::SYSTEM;
use e2e::pki::Authority;
use e2e::relay::Relay;
use e2e::{ControlPlane, Filter, Gate, Output, Process, S3, Setup, Version, eventually, wire};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::estate::Estate;
use super::words::page::Page;
use super::words::{begin, ended};

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

/// Why the session's uploads stand as they do: the condition's status and reason.
fn recorded(estate: &Estate, session: &str) -> anyhow::Result<String> {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Recorded")].status}/{.status.conditions[?(@.type=="Recorded")].reason}"#;
    estate.admin(&["get", "sessionrecord", session, "-o", path])?.success()
}

async fn until_recorded(estate: &Estate, session: &str, what: &str) -> anyhow::Result<()> {
    eventually(&format!("Recorded {what}"), SOON, async || {
        Ok((recorded(estate, session)? == what).then_some(()))
    })
    .await
}

struct Down<'a> {
    estate: &'a Estate,
    list: String,
}

impl Down<'_> {
    async fn read(&self) -> anyhow::Result<wire::Answer> {
        self.estate.agent.send(0, "GET", &self.list, &[], b"").await
    }

    async fn write(&self, name: &str) -> anyhow::Result<wire::Answer> {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        let json = [("Content-Type", "application/json")];
        self.estate.agent.send(0, "POST", &self.list, &json, body.as_bytes()).await
    }

    async fn delete(&self, name: &str) -> anyhow::Result<wire::Answer> {
        let target = format!("/apis/apps/v1/namespaces/{}/deployments/{name}", self.estate.namespace);
        self.estate.agent.send(0, "DELETE", &target, &[], b"").await
    }

    /// Reads until the spool is full.
    async fn fill(&self) -> anyhow::Result<()> {
        for _ in 0..5_000 {
            let answer = self.read().await?;
            if answer.code == 503 {
                assert!(answer.text().contains("RecordingUnavailable"), "{}", answer.text());
                return Ok(());
            }
            assert!(matches!(answer.code, 200 | 429), "{}", answer.text());
        }
        anyhow::bail!("the spool is never full")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_without_the_store_reads_go_on_until_the_spool_is_full_and_no_approval_is_burned()
-> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let s3 = S3::start(plane.supervisor()).await?;
    s3.bucket(BUCKET).await?;
    let mut setup = on_s3(&s3);
    setup.proxy_flags.extend(["--spool-bytes", "131072"].map(str::to_owned));
    let gate = Gate::start(&plane, setup)?;
    let estate = Estate::new(&gate, "down", policy()).await?;
    let program = gate.proxies()[0].program();
    let down = Down { estate: &estate, list: format!("/api/v1/namespaces/{}/configmaps", estate.namespace) };
    let unrecorded = ["delete", "configmap", "flags", "--wait=false"];
    for out in ended(begin(&estate.agent, |_| ["get", "configmaps"].map(str::to_owned).to_vec())?).await? {
        out.success()?;
    }
    for (name, is_killed) in [("killed", true), ("frozen", false)] {
        estate.deployment(name)?;
        let pending = down.delete(name).await?;
        assert!(pending.text().contains("ApprovalPending"), "{}", pending.text());
        let grant = estate.grant("WaitingForReview").await?;
        estate.review(&grant, "Approved")?.success()?;
        let [session] = &sessions(&estate)?[..] else { panic!("one session") };

        if is_killed {
            s3.process().kill()?
        } else {
            s3.freeze()?
        }
        assert_eq!(down.read().await?.code, 200, "a read's intent lies in the spool");
        let write = down.write(name).await?;
        assert!(write.code == 503 && write.text().contains("RecordingUnavailable"), "{}", write.text());
        let refused = down.delete(name).await?;
        assert!(
            refused.code == 503 && refused.text().contains("the approval was not used up"),
            "{}",
            refused.text()
        );
        assert!(refused.text().contains("run exactly the same command again later"), "{}", refused.text());
        assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, "", "the approval is not burned");
        let told = is_killed.then(|| begin(&estate.agent, |_| unrecorded.map(str::to_owned).to_vec()));
        let told = told.transpose()?;
        until_recorded(&estate, session, "False/UploadFailed").await?;
        down.fill().await?;
        let unready = eventually("an unready proxy", SOON, async || {
            let answer = wire::get_plain(program.admin_port(), "/readyz").await?;
            Ok((answer.code == 503).then_some(answer.text()))
        })
        .await?;
        assert!(unready.contains("the spool is full"), "{unready}");
        let metrics = program.metrics().await?;
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_default()
        };
        assert!(value("sallyport_recording_failures_total") > 0.0, "{metrics}");
        assert!(value("sallyport_recording_spool_bytes") > 100_000.0, "{metrics}");

        if let Some(told) = told {
            let mut page = Page::new("unrecorded", &estate);
            page.told("RecordingUnavailable", &unrecorded, &ended(told).await?);
            page.finish()?;
        }
        if is_killed {
            s3.restart().await?
        } else {
            s3.thaw()?
        }
        program.ready().await?;
        until_recorded(&estate, session, "Unknown/Uploading").await?;
        let ran = eventually("a place for the request", SOON, async || {
            let answer = down.delete(name).await?;
            Ok((answer.code != 503).then_some(answer))
        })
        .await?;
        assert_eq!(ran.code, 200, "{}", ran.text());
        let deletes =
            Filter::ran_as(&estate.agent.username()).verb("delete").resource("deployments").name(name);
        let seen = plane.audit().requests(&deletes.namespace(&estate.namespace)).await?;
        assert_eq!(seen.len(), 1, "it ran once: {seen:?}");
        assert_eq!(estate.grant_field(&grant, ".status.consumedBy")?, seen[0].audit_id);
    }
    let creates = Filter::ran_as(&estate.agent.username()).verb("create").resource("configmaps");
    assert!(plane.audit().requests(&creates).await?.is_empty(), "no write without a record");
    let [session] = &sessions(&estate)?[..] else { panic!("one session") };
    assert_eq!(program.stop(SOON)?, 0);
    until_recorded(&estate, session, "True/Uploaded").await?;
    let verified = plugin(&estate, &s3, &["verify", session])?;
    assert!(verified.code == 0 && verified.stdout.contains("hash chain ok ("), "{verified:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_what_a_killed_proxy_had_spooled_is_brought_by_its_next_life_once_the_store_is_back()
-> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let s3 = S3::start(plane.supervisor()).await?;
    s3.bucket(BUCKET).await?;
    let gate = Gate::start(&plane, on_s3(&s3))?;
    let estate = Estate::new(&gate, "spooled", policy()).await?;
    let program = gate.proxies()[0].program();
    let down = Down { estate: &estate, list: format!("/api/v1/namespaces/{}/configmaps", estate.namespace) };
    assert_eq!(down.read().await?.code, 200);
    s3.process().kill()?;
    let read = down.read().await?;
    assert_eq!(read.code, 200);
    let id = read.header("audit-id").unwrap_or_default().to_owned();
    program.kill()?;

    let (restarted, said) = tokio::join!(program.restart(), async {
        let said = eventually("a next life that waits for the store", SOON, async || {
            let answer = wire::get_plain(program.admin_port(), "/readyz").await;
            Ok(answer
                .ok()
                .map(|answer| answer.text())
                .filter(|text| text.contains("recordings cannot be written")))
        })
        .await;
        s3.restart().await?;
        said
    });
    restarted?;
    assert!(said?.contains("the store"), "why it is not ready");
    let [session] = &sessions(&estate)?[..] else { panic!("one session") };
    eventually("the read of the killed life in the bucket", SOON, async || {
        let out = plugin(&estate, &s3, &["replay", session, "-o", "json"])?;
        Ok(out.stdout.contains(&id).then_some(()))
    })
    .await?;
    let verified = eventually("a closed chain", SOON, async || {
        let out = plugin(&estate, &s3, &["verify", session])?;
        Ok((out.code == 0).then_some(out))
    })
    .await?;
    assert!(verified.stdout.contains("hash chain ok ("), "{verified:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f32_an_upload_that_arrived_although_its_answer_did_not_is_no_conflict() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let s3 = S3::start(plane.supervisor()).await?;
    s3.locked_bucket(BUCKET, 1).await?;
    let address = s3.endpoint().trim_start_matches("http://").parse()?;
    let relay = Relay::start(address)?;
    let mut setup = on_s3(&s3);
    setup.proxy_flags = ["--s3-endpoint".to_owned(), format!("http://127.0.0.1:{}", relay.port())].to_vec();
    let gate = Gate::start(&plane, setup)?;
    let estate = Estate::new(&gate, "twice", policy()).await?;
    let down = Down { estate: &estate, list: format!("/api/v1/namespaces/{}/configmaps", estate.namespace) };
    assert_eq!(down.write("before").await?.code, 201);
    let quiet = s3.versions(BUCKET).await?.len();

    relay.stall_answers();
    let refused = down.write("meanwhile").await?;
    assert_eq!(refused.code, 503, "{}", refused.text());
    eventually("the segment whose answer is lost", SOON, async || {
        Ok((s3.versions(BUCKET).await?.len() > quiet).then_some(()))
    })
    .await?;
    relay.cut();
    relay.flow();
    let written = eventually("a write that is recorded", SOON, async || {
        let answer = down.write("after").await?;
        Ok((answer.code != 503).then_some(answer.code))
    })
    .await?;
    assert_eq!(written, 201);
    let program = gate.proxies()[0].program();
    assert!(program.metrics().await?.contains("sallyport_recordings_set_aside_total 0"));
    let [session] = &sessions(&estate)?[..] else { panic!("one session") };
    assert_eq!(program.stop(SOON)?, 0);
    let verified = plugin(&estate, &s3, &["verify", session])?;
    assert!(verified.code == 0 && verified.stdout.contains("hash chain ok ("), "{verified:?}");
    let versions = s3.versions(BUCKET).await?;
    for version in &versions {
        assert_eq!(versions.iter().filter(|other| other.key == version.key).count(), 1, "{versions:?}");
    }
    Ok(())
}

/// Answers every connection with `body` and keeps what it was sent. A fake of the services that lend credentials: no real one
/// can be had on a machine without AWS.
async fn lend<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, body: &str) -> anyhow::Result<String> {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        anyhow::ensure!(length > 0, "the client left");
        seen.extend_from_slice(&buffer[..length]);
    }
    let answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_eks_pod_identity_and_from_a_web_identity() -> anyhow::Result<()> {
    e2e::install_crypto();
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let s3 = S3::start(plane.supervisor()).await?;
    s3.bucket(BUCKET).await?;
    let keys = s3.env();
    let (id, secret) = (&keys["AWS_ACCESS_KEY_ID"], &keys["AWS_SECRET_ACCESS_KEY"]);
    let token = plane.scratch().join("pod-token");
    std::fs::write(&token, "token-of-the-pod")?;
    let until = "2099-01-01T00:00:00Z";

    // The server knows no session tokens, so that both lend its own keys with an empty one.
    let body =
        json!({"AccessKeyId": id, "SecretAccessKey": secret, "Token": "", "Expiration": until}).to_string();
    let agent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let env = BTreeMap::from([
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI".to_owned(),
            format!("http://{}/v1/credentials", agent.local_addr()?),
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE".to_owned(), token.display().to_string()),
    ]);
    let pod = Lone::start(&gate, "pod-identity", &s3.flags(BUCKET), env)?;
    let asked = lend(agent.accept().await?.0, &body).await?;
    assert!(asked.starts_with("GET /v1/credentials ") && asked.contains("token-of-the-pod"), "{asked}");
    pod.ready().await?;

    let body = format!(
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
         <SecretAccessKey>{secret}</SecretAccessKey><SessionToken></SessionToken><Expiration>{until}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    let authority = Authority::new("sts")?;
    let pair = authority.server("sts", &[])?;
    let trust = plane.scratch().join("sts-ca.pem");
    std::fs::write(&trust, authority.cert())?;
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let sts = TcpListener::bind(("127.0.0.1", 0)).await?;
    let env = [
        ("AWS_ENDPOINT_URL_STS", format!("https://{}", sts.local_addr()?)),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/sallyport".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
        ("SSL_CERT_FILE", trust.display().to_string()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).into();
    let irsa = Lone::start(&gate, "irsa", &s3.flags(BUCKET), env)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let asked = lend(acceptor.accept(sts.accept().await?.0).await?, &body).await?;
    for part in ["AssumeRoleWithWebIdentity", "WebIdentityToken=token-of-the-pod", "role%2Fsallyport"] {
        assert!(asked.contains(part), "no {part}: {asked}");
    }
    irsa.ready().await?;
    Ok(())
}
