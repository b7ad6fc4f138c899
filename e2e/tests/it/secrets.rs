//! Secrets written by agents: made by policy like any kind, never destroyed by what was read masked (C), never guessed (B50 to B52).

use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use e2e::{Filter, Output, Version, eventually, kubectl_stdin};
use serde_json::{Value, json};

use super::estate::Estate;

/// 23 bytes that occur nowhere else.
const CANARY: &str = "canary-1d83e0b7c5f94a62";
const VERSIONS: [Version; 3] = [Version::New, Version::V133, Version::Old];
const MARK: &str = "[MASKED:secret-data]";

/// Secrets may be read and written, not deleted; a change of the Secret `asked` needs a human. Bodies are recorded.
async fn estate() -> anyhow::Result<Estate> {
    let policy = json!({
        "rules": [
            {"name": "secrets", "effect": "Allow", "match": [
                {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get", "list", "create", "update", "patch"]}]},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["asked"], "verbs": ["update", "patch"]}]},
        ],
        "approval": {"holdSeconds": 0},
        "recording": {"level": "Request"},
    });
    Estate::new(&super::gate()?, "secrets", policy).await
}

/// A Secret as a person made it with client-side apply, so that it has a last-applied annotation.
fn secret(estate: &Estate, name: &str) -> anyhow::Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": estate.namespace},
        "type": "Opaque", "data": {"password": STANDARD.encode(CANARY), "other": STANDARD.encode("x")}});
    let admin = estate.gate.plane().admin_kubeconfig();
    kubectl_stdin(Version::New, admin, &["apply", "-f", "-"], &object.to_string())?.success()?;
    Ok(())
}

fn stored(estate: &Estate, name: &str) -> anyhow::Result<Value> {
    let text = estate.admin(&["get", "secret", name, "-o", "json"])?.success()?;
    Ok(serde_json::from_str(&text)?)
}

fn run(estate: &Estate, version: Version, args: &[&str], input: &str) -> anyhow::Result<Output> {
    estate.agent.kubectl_with(version, 0, &[args, &["-n", &estate.namespace]].concat(), input)
}

/// `kubectl edit`, where the editor replaces one text by another.
fn edit(estate: &Estate, version: Version, from: &str, to: &str) -> anyhow::Result<Output> {
    let out = Command::new(version.program()?)
        .args(["edit", "secret", "db", "-n", &estate.namespace])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", estate.agent.kubeconfig(0).with_extension("home"))
        .env("KUBECONFIG", estate.agent.kubeconfig(0))
        .env("KUBE_EDITOR", format!("sed -i s#{from}#{to}#"))
        .stdin(Stdio::null())
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes);
    Ok(Output { stdout: text(out.stdout)?, stderr: text(out.stderr)?, code: out.status.code().unwrap_or(-1) })
}

fn assert_clean(what: &str, text: &str) {
    let base64 = STANDARD.encode(CANARY);
    let core = base64.trim_end_matches('=');
    for form in [CANARY, &core[..core.len() - 2], &URL_SAFE.encode(format!("x{CANARY}"))[4..24]] {
        assert!(!text.contains(form), "{what} leaks {form}: {text}");
    }
}

#[tokio::test]
async fn b40_a_new_secret_is_made_and_shown_masked() -> anyhow::Result<()> {
    let estate = estate().await?;
    let literal = format!("--from-literal=password={CANARY}");
    for (turn, version) in VERSIONS.into_iter().enumerate() {
        let object = |name: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"password": CANARY}})
                .to_string()
        };
        let names = ["generic", "applied", "created"].map(|name| format!("{name}-{turn}"));
        let [generic, applied, created] = &names;
        for (args, input) in [
            (&["create", "secret", "generic", generic, &literal, "-o", "yaml"][..], String::new()),
            (&["apply", "-f", "-", "-o", "yaml"], object(applied)),
            (&["create", "-f", "-", "-o", "yaml"], object(created)),
        ] {
            let out = run(&estate, version, args, &input)?;
            assert_eq!(out.code, 0, "{version:?} {args:?}: {out:?}");
            assert!(out.stdout.contains(&STANDARD.encode(MARK)), "{version:?} {args:?}: {out:?}");
            assert_clean(&format!("{version:?} {args:?}"), &format!("{}{}", out.stdout, out.stderr));
        }
        for name in &names {
            assert_eq!(
                stored(&estate, name)?["data"]["password"],
                STANDARD.encode(CANARY),
                "{version:?} {name}"
            );
        }
        let again = run(&estate, version, &["create", "secret", "generic", generic, &literal], "")?;
        assert!(again.code == 1 && again.stderr.contains("already exists"), "{again:?}");
    }
    recorded_clean(&estate, 9).await
}

/// What was recorded of the writes holds their bodies, and no value of them.
async fn recorded_clean(estate: &Estate, at_least: usize) -> anyhow::Result<()> {
    let bodies = eventually("the recorded bodies", Duration::from_secs(30), async || {
        let events = super::record::events(estate)?;
        let bodies: Vec<String> =
            events.values().filter(|event| !event["body"].is_null()).map(ToString::to_string).collect();
        let whole: Vec<String> = events.values().map(ToString::to_string).collect();
        Ok((bodies.len() >= at_least).then_some(whole))
    })
    .await?;
    bodies.iter().for_each(|event| assert_clean("the recording", event));
    Ok(())
}

#[tokio::test]
async fn c01_to_c11_what_was_read_masked_cannot_be_written_back() -> anyhow::Result<()> {
    let estate = estate().await?;
    secret(&estate, "db")?;
    let before = stored(&estate, "db")?;
    let masked = STANDARD.encode(MARK);
    for version in VERSIONS {
        let read = run(&estate, version, &["get", "secret", "db", "-o", "yaml"], "")?.success()?;
        assert!(read.contains(&masked), "{read}");
        let copy = format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"copy"}},"data":{{"password":"{masked}"}}}}"#
        );
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "copy"}, "data": {"env": format!("P={MARK}")}});
        let merge = |patch: Value| {
            vec![
                "patch".to_owned(),
                "secret".into(),
                "db".into(),
                "--type=merge".into(),
                "-p".into(),
                patch.to_string(),
            ]
        };
        let json_patch = |patch: Value| {
            vec![
                "patch".to_owned(),
                "secret".into(),
                "db".into(),
                "--type=json".into(),
                "-p".into(),
                patch.to_string(),
            ]
        };
        let plain = |args: &[&str]| args.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (head, tail) = masked.split_at(9);
        let cases: Vec<(&str, Vec<String>, String)> = vec![
            ("C01 apply", plain(&["apply", "-f", "-"]), read.clone()),
            (
                "C02 apply with another value",
                plain(&["apply", "-f", "-"]),
                read.replace("\nmetadata:\n", "\nmetadata:\n  labels: {changed: c02}\n"),
            ),
            (
                "C03 apply --server-side",
                plain(&["apply", "--server-side", "--force-conflicts", "-f", "-"]),
                read.clone(),
            ),
            ("C05 replace", plain(&["replace", "-f", "-"]), read.clone()),
            (
                "C06 strategic",
                plain(&["patch", "secret", "db", "-p", &json!({"data": {"password": masked}}).to_string()]),
                String::new(),
            ),
            ("C06 merge", merge(json!({"data": {"password": masked}})), String::new()),
            ("C06 merge, stringData", merge(json!({"stringData": {"password": MARK}})), String::new()),
            (
                "C06 merge, in a text",
                merge(json!({"stringData": {"url": format!("pg://u:{MARK}@db")}})),
                String::new(),
            ),
            ("C06 merge, a key", merge(json!({"metadata": {"annotations": {MARK: "x"}}})), String::new()),
            (
                "C06 merge, split base64",
                merge(json!({"data": {"password": format!("{head}\n{tail}")}})),
                String::new(),
            ),
            (
                "C06 merge, URL-safe base64",
                merge(json!({"stringData": {"password": URL_SAFE.encode(format!("?>{MARK}"))}})),
                String::new(),
            ),
            (
                "C06 merge, base64 twice",
                merge(json!({"data": {"password": STANDARD.encode(&masked)}})),
                String::new(),
            ),
            (
                "C07 JSON patch, replace",
                json_patch(json!([{"op": "replace", "path": "/data/password", "value": masked}])),
                String::new(),
            ),
            (
                "C07 JSON patch, test",
                json_patch(json!([{"op": "test", "path": "/data/password", "value": masked}])),
                String::new(),
            ),
            ("C08 another Secret", plain(&["create", "-f", "-"]), copy),
            ("C08 another kind", plain(&["apply", "-f", "-"]), map.to_string()),
        ];
        for (what, args, input) in cases {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let out = run(&estate, version, &args, &input)?;
            assert!(
                out.code != 0 && out.stderr.contains("MaskedValueInWrite"),
                "{version:?} {what}: {out:?}"
            );
            assert_clean(what, &format!("{}{}", out.stdout, out.stderr));
        }
        let field = run(&estate, version, &["replace", "-f", "-"], &read)?.stderr;
        assert!(field.contains(".data.password") && field.contains("last-applied-configuration"), "{field}");
        // C04: a change beside the value passes, one of the masked line does not.
        let touched = edit(&estate, version, &masked, &STANDARD.encode(format!("{MARK}2")))?;
        assert!(
            touched.code != 0 && touched.stderr.contains("MaskedValueInWrite"),
            "{version:?} C04: {touched:?}"
        );
        // C11: what was read has a resourceVersion that still fits. replace --force deletes first, which has its own rule.
        let forced = run(&estate, version, &["replace", "--force", "-f", "-"], &read)?;
        assert!(forced.code != 0, "{version:?} replace --force: {forced:?}");
        assert_eq!(stored(&estate, "db")?, before, "{version:?}: the Secret is byte-identical");
        assert!(
            estate.admin(&["get", "secret", "copy"])?.code != 0
                && estate.admin(&["get", "configmap", "copy"])?.code != 0
        );
        // C10: what is masked decodes.
        run(&estate, version, &["describe", "secret", "db"], "")?.success()?;
        let decoded = ["get", "secret", "db", "-o", "go-template={{.data.password | base64decode}}"];
        assert_eq!(run(&estate, version, &decoded, "")?.success()?, MARK);
    }
    let writes = Filter::ran_as(&estate.agent.username()).resource("secrets").namespace(&estate.namespace);
    let seen = estate.gate.plane().audit().requests(&writes).await?;
    assert!(seen.iter().all(|request| request.code() < 400), "nothing but reads was sent: {seen:?}");
    recorded_clean(&estate, 0).await
}

#[tokio::test]
async fn b43_b52_a_secret_is_changed_beside_its_values_and_its_values_only_by_a_human() -> anyhow::Result<()>
{
    let estate = estate().await?;
    secret(&estate, "db")?;
    secret(&estate, "asked")?;
    let data = stored(&estate, "db")?["data"].clone();
    for version in VERSIONS {
        for args in [
            &["label", "secret", "db", "--overwrite", "app=web", "-o", "yaml"][..],
            &["annotate", "secret", "db", "--overwrite", "a=b", "-o", "yaml"],
            &["patch", "secret", "db", "--type=merge", "-p", "{}", "-o", "yaml"],
            &[
                "patch",
                "secret",
                "db",
                "--type=json",
                "-p",
                r#"[{"op":"add","path":"/metadata/labels/x","value":"y"}]"#,
                "-o",
                "yaml",
            ],
        ] {
            let out = run(&estate, version, args, "")?;
            assert_eq!(out.code, 0, "{version:?} {args:?}: {out:?}");
            assert_clean(&format!("{version:?} {args:?}"), &format!("{}{}", out.stdout, out.stderr));
        }
    }
    assert_eq!(stored(&estate, "db")?["data"], data);
    let before = stored(&estate, "db")?;
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    let pointer = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
    let guess = before["metadata"]["annotations"][annotation].clone();
    assert!(guess.as_str().is_some_and(|text| text.contains(&STANDARD.encode(CANARY))), "{guess}");
    let (merge, operations) = ("application/merge-patch+json", "application/json-patch+json");
    let mut whole = before.clone();
    whole["metadata"].as_object_mut().map(|map| map.remove("managedFields"));
    let mut copied = whole.clone();
    copied.as_object_mut().map(|map| map.remove("data"));
    let target = format!("/api/v1/namespaces/{}/secrets/db", estate.namespace);
    for (what, method, content_type, body) in [
        (
            "B50 test",
            "PATCH",
            operations,
            json!([{"op": "test", "path": "/data/password", "value": data["password"]}]),
        ),
        ("B50 test above", "PATCH", operations, json!([{"op": "test", "path": "/data", "value": data}])),
        (
            "B50 test of the copy",
            "PATCH",
            operations,
            json!([{"op": "test", "path": pointer, "value": guess}]),
        ),
        (
            "B51 copy",
            "PATCH",
            operations,
            json!([{"op": "copy", "from": "/data/password", "path": "/metadata/annotations/x"}]),
        ),
        (
            "B51 move",
            "PATCH",
            operations,
            json!([{"op": "move", "from": "/data/password", "path": "/data/y"}]),
        ),
        (
            "B51 copy of the copy",
            "PATCH",
            operations,
            json!([{"op": "copy", "from": pointer, "path": "/metadata/annotations/x"}]),
        ),
        ("B52 guess", "PATCH", merge, json!({"data": {"password": data["password"]}})),
        ("B52 guess as text", "PATCH", merge, json!({"stringData": {"password": CANARY}})),
        (
            "B52 guess by JSON patch",
            "PATCH",
            operations,
            json!([{"op": "replace", "path": "/data/password", "value": data["password"]}]),
        ),
        ("B52 guess of all", "PUT", "application/json", whole),
        ("B52 guess of the copy", "PATCH", merge, json!({"metadata": {"annotations": {annotation: guess}}})),
        ("B52 guess of the copy by PUT", "PUT", "application/json", copied),
        (
            "B52 guess of the copy by JSON patch",
            "PATCH",
            operations,
            json!([{"op": "replace", "path": pointer, "value": guess}]),
        ),
        (
            "B52 guess of the annotations",
            "PATCH",
            operations,
            json!([{"op": "replace", "path": "/metadata/annotations", "value": before["metadata"]["annotations"]}]),
        ),
    ] {
        for query in ["", "?dryRun=All"] {
            let answer = estate
                .agent
                .send(
                    0,
                    method,
                    &format!("{target}{query}"),
                    &[("Content-Type", content_type)],
                    body.to_string().as_bytes(),
                )
                .await?;
            // A copy between two types of field is refused before anybody asks what is masked.
            assert!(matches!(answer.code, 400 | 403), "{what}{query}: {}", answer.text());
            assert_clean(what, &answer.text());
        }
    }
    assert_eq!(stored(&estate, "db")?, before, "nothing was sent");
    by_a_human(&estate).await?;
    recorded_clean(&estate, 1).await
}

async fn by_a_human(estate: &Estate) -> anyhow::Result<()> {
    let fresh = format!("{CANARY}-2");
    let patch = json!({"stringData": {"password": fresh}}).to_string();
    let args = ["patch", "secret", "asked", "--type=merge", "-p", &patch];
    let pending = run(estate, Version::New, &args, "")?;
    assert!(pending.stderr.contains("(ApprovalPending)"), "{pending:?}");
    let grant = estate.grant("WaitingForReview").await?;
    let seen = estate.admin(&["get", "accessgrant", &grant, "-o", "yaml"])?.success()?;
    assert_clean("the grant", &seen);
    estate.review(&grant, "Approved")?.success()?;
    let out = run(estate, Version::New, &args, "")?;
    assert!(out.code == 0 && out.stdout.contains("patched"), "{out:?}");
    assert_eq!(stored(estate, "asked")?["data"]["password"], STANDARD.encode(&fresh));
    assert_clean("the answer", &format!("{}{}", out.stdout, out.stderr));
    Ok(())
}

#[tokio::test]
async fn b82_a_secret_that_is_a_login_is_not_written() -> anyhow::Result<()> {
    let estate = estate().await?;
    secret(&estate, "db")?;
    estate.admin(&["create", "serviceaccount", "robot"])?.success()?;
    let whose = json!({"kubernetes.io/service-account.name": "robot"});
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "minted", "annotations": whose},
        "type": "kubernetes.io/service-account-token"});
    for version in VERSIONS {
        for args in
            [&["create", "-f", "-"][..], &["apply", "-f", "-"], &["apply", "--server-side", "-f", "-"]]
        {
            let out = run(&estate, version, args, &object.to_string())?;
            assert!(
                out.code != 0 && out.stderr.contains("a login to the cluster"),
                "{version:?} {args:?}: {out:?}"
            );
        }
        let typed = [
            "create",
            "secret",
            "generic",
            "minted",
            "--type=bootstrap.kubernetes.io/token",
            "--from-literal=token-id=a",
        ];
        let out = run(&estate, version, &typed, "")?;
        assert!(out.code != 0 && out.stderr.contains("a login to the cluster"), "{version:?}: {out:?}");
        let annotate = ["annotate", "secret", "db", "kubernetes.io/service-account.name=robot"];
        let out = run(&estate, version, &annotate, "")?;
        assert!(out.code != 0 && out.stderr.contains("a login to the cluster"), "{version:?}: {out:?}");
    }
    assert!(estate.admin(&["get", "secret", "minted"])?.code != 0);
    Ok(())
}
