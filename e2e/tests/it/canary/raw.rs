//! The same objects asked for by hand: every encoding, every write that answers with the object, and every oracle.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::wire::{Answer, Connection};
use e2e::{Agent, Version, eventually};
use serde_json::{Value, json};

use super::objects::{CANARY, Ground, KINDS, ground, placeholders};
use super::{leak, tail};

const ACCEPTS: [&str; 9] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "*/*",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
];
const MERGE: (&str, &str) = ("Content-Type", "application/merge-patch+json");
const JSON_PATCH: (&str, &str) = ("Content-Type", "application/json-patch+json");

struct Asker<'a> {
    agent: &'a Agent,
    connection: Connection,
}

impl<'a> Asker<'a> {
    async fn new(agent: &'a Agent) -> anyhow::Result<Self> {
        Ok(Self { agent, connection: agent.connect(0).await? })
    }

    /// Asks, and holds the answer's head and body against the canary.
    async fn ask(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        let request = self.agent.request(method, target, headers, body.as_bytes())?;
        self.connection.send(&request).await?;
        let answer = self.connection.answer().await?;
        if answer.header("connection") == Some("close") {
            self.connection = self.agent.connect(0).await?;
        }
        let all = format!("{:?}{}", answer.headers, answer.text());
        assert!(leak(&all).is_none(), "{method} {target} {headers:?} {body} leaks {:?}", leak(&all));
        Ok(answer)
    }
}

/// The collection of a kind.
fn collection(kind: &str, ground: &Ground) -> String {
    let group = match kind {
        "pods" | "podtemplates" | "replicationcontrollers" | "configmaps" => "api/v1".to_owned(),
        "jobs" | "cronjobs" => "apis/batch/v1".to_owned(),
        "{vaults}" => ground.fill("apis/{group}/v1", ""),
        _ => "apis/apps/v1".to_owned(),
    };
    let resource = if kind == "{vaults}" { "vaults" } else { kind };
    format!("/{group}/namespaces/{}/{resource}", ground.masked)
}

/// A named object of a kind; revisions have names of their own.
fn named(kind: &str, ground: &Ground) -> Option<String> {
    let name = match kind {
        "controllerrevisions" => return None,
        "configmaps" => "flags",
        _ => "one",
    };
    Some(format!("{}/{name}", collection(kind, ground)))
}

fn has_placeholder(answer: &Answer) -> bool {
    placeholders().iter().any(|text| answer.text().contains(text))
}

#[tokio::test]
async fn b01_b26_no_encoding_of_any_template_kind_shows_the_canary() -> anyhow::Result<()> {
    let (_, agent, grounds) = ground(1, false).await?;
    let (ground, mut asker) = (&grounds[0], Asker::new(&agent).await?);
    for kind in KINDS {
        let all = collection(kind, ground);
        let one = named(kind, ground);
        let watch = format!(
            "{all}?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        );
        for accept in ACCEPTS {
            for target in [Some(format!("{all}?includeObject=Object")), one.clone()].into_iter().flatten() {
                let answer = asker.ask("GET", &target, &[("Accept", accept)], "").await?;
                // Partial metadata of the wrong number is the API server's 406, and its 500 for a custom kind.
                let fits = answer.code == 200 || accept.contains("as=Partial");
                assert!(fits, "{accept} {target}: {}", answer.text());
                let whole = answer.code == 200 && !accept.contains("as=Table");
                assert!(!whole || has_placeholder(&answer), "{accept} {target}: {}", tail(&answer.text()));
            }
        }
        for accept in ["application/json", ACCEPTS[5]] {
            let target = format!("{watch}&includeObject=Object");
            let answer = asker.ask("GET", &target, &[("Accept", accept)], "").await?;
            assert!(has_placeholder(&answer), "watch {accept} {kind}: {}", tail(&answer.text()));
            assert!(answer.text().contains("initial-events-end"), "B18: {kind}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn b40_b54_no_write_and_no_oracle_tells_the_canary() -> anyhow::Result<()> {
    let (_, agent, grounds) = ground(1, false).await?;
    let (ground, mut asker) = (&grounds[0], Asker::new(&agent).await?);
    let paths = [
        ("pods", "/spec/containers/0/env/0/value"),
        ("podtemplates", "/template/spec/initContainers/0/env/0/value"),
        ("cronjobs", "/spec/jobTemplate/spec/template/spec/containers/0/env/0/value"),
        ("configmaps", "/data/token"),
        ("{vaults}", "/spec/password"),
    ];
    for kind in KINDS {
        let Some(one) = named(kind, ground) else { continue };
        for query in ["", "?dryRun=All"] {
            let target = format!("{one}{query}");
            let answer = asker.ask("PATCH", &target, &[MERGE], "{}").await?;
            assert!(answer.code == 200 && has_placeholder(&answer), "B40, B43: {target}: {}", answer.text());
        }
        let path = paths.iter().find(|(of, _)| *of == kind);
        let path = path.map_or("/spec/template/spec/containers/0/env/0/value", |(_, path)| path);
        let last_applied = "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration";
        for from in [path, "", last_applied, "/metadata/managedFields"] {
            for operation in [
                json!({"op": "test", "path": from, "value": CANARY}),
                json!({"op": "copy", "from": from, "path": "/metadata/annotations/x"}),
                json!({"op": "move", "from": from, "path": "/metadata/annotations/x"}),
            ] {
                // Sending the canary is a guess, so it may stand in nothing that comes back.
                let answer = asker.ask("PATCH", &one, &[JSON_PATCH], &json!([operation]).to_string()).await?;
                // 400: what is copied does not even fit (B103).
                assert!(matches!(answer.code, 400 | 403), "B50, B51: {one} {operation}: {answer:?}");
            }
        }
        let guess = json!([{"op": "replace", "path": path, "value": "guess"}]).to_string();
        let answer = asker.ask("PATCH", &format!("{one}?dryRun=All"), &[JSON_PATCH], &guess).await?;
        assert_eq!(answer.code, 403, "B52: {one}: {}", answer.text());
    }
    let vaults = collection("{vaults}", ground);
    for more in ["", "&watch=1", "&limit=1"] {
        let target = format!("{vaults}?fieldSelector=spec.password%3D{}{more}", CANARY.replace('/', "%2F"));
        let answer = asker.ask("GET", &target, &[], "").await?;
        assert_eq!(answer.code, 403, "B53: {target}: {}", answer.text());
    }
    let answer = asker
        .ask("DELETE", &format!("{}?labelSelector=victim%3Dyes", collection("configmaps", ground)), &[], "")
        .await?;
    assert!(answer.code == 200 && has_placeholder(&answer), "B42: {}", answer.text());
    Ok(())
}

/// A policy of the cluster's own whose words quote the object: as a warning, or as a refusal.
fn quoting(name: &str, namespace: &str, action: &str, label: &str) -> [Value; 2] {
    let quote = "'it is ' + oldObject.spec.template.spec.containers[0].env[0].value";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                "operations": ["UPDATE"], "resources": ["deployments"]}]},
            "matchConditions": [{"name": "asked", "expression": format!("has(object.metadata.labels.{label})")}],
            "validations": [{"expression": "false", "messageExpression": quote}],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": [action],
            "matchResources": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}},
    });
    [policy, binding]
}

#[tokio::test]
async fn b44_b45_what_an_admission_policy_quotes_of_a_template_is_withheld() -> anyhow::Result<()> {
    let (gate, agent, grounds) = ground(1, false).await?;
    let (ground, mut asker, plane) = (&grounds[0], Asker::new(&agent).await?, gate.plane());
    let namespace = &ground.masked;
    let mut items = Vec::new();
    for (action, label) in [("Warn", "warned"), ("Deny", "denied")] {
        items.extend(quoting(&format!("{namespace}-{label}"), namespace, action, label));
    }
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    let one = named("deployments", ground).unwrap_or_default();
    for label in ["warned", "denied"] {
        eventually("an admission policy that quotes the value", Duration::from_secs(60), async || {
            let set = format!("{label}=yes");
            let args = ["label", "deployment", "one", &set, "-n", namespace, "--dry-run=server"];
            let out = plane.kubectl(&args)?;
            Ok(leak(&out.stderr).map(drop))
        })
        .await?;
        let patch = json!({"metadata": {"labels": {label: "yes"}}}).to_string();
        for query in ["", "?dryRun=All"] {
            let answer = asker.ask("PATCH", &format!("{one}{query}"), &[MERGE], &patch).await?;
            assert_eq!(answer.code, if label == "warned" { 200 } else { 422 }, "{}", answer.text());
            let said = format!("{:?}{}", answer.headers, answer.text());
            assert!(said.contains("withheld"), "{label}: {said}");
        }
    }
    plane
        .kubectl(&[
            "delete",
            "validatingadmissionpolicybinding",
            &format!("{namespace}-warned"),
            &format!("{namespace}-denied"),
        ])?
        .success()?;
    Ok(())
}

/// One Secret of each type that the API server or a tool gives a meaning to, with the canary in every value.
fn typed_secrets(namespace: &str) -> Vec<Value> {
    let encode = |text: &str| STANDARD.encode(text);
    let inner = encode(&format!("user:{CANARY}"));
    let docker = json!({"auths": {"registry.example": {"auth": inner, "password": CANARY}}}).to_string();
    let types = [
        ("Opaque", json!({"a": encode(CANARY), "b": encode(&encode(CANARY))})),
        ("helm.sh/release.v1", json!({"release": encode(&encode(&format!("H4sI{CANARY}")))})),
        ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": encode(&docker)})),
        ("kubernetes.io/basic-auth", json!({"username": encode("u"), "password": encode(CANARY)})),
        ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": encode(CANARY)})),
        ("kubernetes.io/tls", json!({"tls.crt": encode(CANARY), "tls.key": encode(CANARY)})),
        (
            "bootstrap.kubernetes.io/token",
            json!({"token-id": encode("abcdef"), "token-secret": encode(CANARY)}),
        ),
    ];
    let secret = |(at, (kind, data)): (usize, (&str, Value))| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("typed-{at}"), "namespace": namespace},
               "type": kind, "data": data})
    };
    let mut secrets: Vec<Value> = types.into_iter().enumerate().map(secret).collect();
    // Its token comes from the controller.
    secrets.push(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "typed-account", "namespace": namespace,
                     "annotations": {"kubernetes.io/service-account.name": "default"}}}));
    // Helm's other driver.
    secrets.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"release": encode(&format!("H4sI{CANARY}"))},
        "metadata": {"name": "sh.helm.release.v1.x.v1", "namespace": namespace, "labels": {"owner": "helm"}}}));
    secrets
}

#[tokio::test]
async fn b22_b23_b27_every_value_of_every_type_of_secret_is_the_placeholder() -> anyhow::Result<()> {
    let (gate, agent, grounds) = ground(1, false).await?;
    let (ground, mut asker, plane) = (&grounds[0], Asker::new(&agent).await?, gate.plane());
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": typed_secrets(&ground.masked)}).to_string();
    plane.apply(&list)?;
    let token = ["get", "secret", "typed-account", "-n", &ground.masked, "-o", "jsonpath={.data.token}"];
    eventually("a token in its Secret", Duration::from_secs(30), async || {
        Ok((!plane.kubectl(&token)?.success()?.is_empty()).then_some(()))
    })
    .await?;
    for (resource, field, want) in [
        ("secrets", "data", STANDARD.encode("[MASKED:secret-data]")),
        ("configmaps", "data", "[MASKED:config]".to_owned()),
        ("configmaps", "binaryData", STANDARD.encode("[MASKED:config]")),
    ] {
        let target = format!("/api/v1/namespaces/{}/{resource}", ground.masked);
        let answer = asker.ask("GET", &target, &[], "").await?.json()?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        let values: Vec<&Value> = items
            .iter()
            .flat_map(|item| item[field].as_object().into_iter().flat_map(|data| data.values()))
            .collect();
        assert!(values.len() >= 3, "{resource} {field}: {answer}");
        assert!(values.iter().all(|value| **value == want), "{resource} {field}: {values:?}");
    }
    Ok(())
}

#[tokio::test]
async fn b16_b24_b46_b59_what_else_the_tables_name() -> anyhow::Result<()> {
    let (_, agent, grounds) = ground(1, false).await?;
    let (ground, mut asker) = (&grounds[0], Asker::new(&agent).await?);
    let one = named("deployments", ground).unwrap_or_default();
    let account = format!("/api/v1/namespaces/{}/serviceaccounts/default/token", ground.masked);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["x"]}});
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}});
    for (target, body) in
        [(account.as_str(), request), ("/apis/authentication.k8s.io/v1/tokenreviews", review)]
    {
        let json = [("Content-Type", "application/json")];
        let answer = asker.ask("POST", target, &json, &body.to_string()).await?;
        assert_eq!(answer.code, 403, "B24: {target}: {}", answer.text());
    }
    let apply = |replicas: u64| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one"}, "spec": {"replicas": replicas}});
    let yaml = [("Content-Type", "application/apply-patch+yaml")];
    let answer =
        asker.ask("PATCH", &format!("{one}?fieldManager=other"), &yaml, &apply(5).to_string()).await?;
    assert_eq!(answer.code, 409, "B46: {}", answer.text());
    assert!(answer.text().contains(".spec.replicas"), "B46: a conflict names its fields: {}", answer.text());

    let labels = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "flags", "namespace": ground.masked, "labels": {"more": "yes"}}})
    .to_string();
    for (args, code) in [
        (["apply", "--server-side", "--field-manager=other", "-f", "-"], 0),
        (["diff", "--server-side", "--field-manager=other", "-f", "-"], 0),
    ] {
        let out = agent.kubectl_with(Version::New, 0, &args, &labels)?;
        assert_eq!(out.code, code, "B59: what has not changed has no difference: {out:?}");
    }
    let mut connection = agent.connect(0).await?;
    connection.send(&agent.request("HEAD", &one, &[], b"")?).await?;
    assert_eq!(connection.head().await?.code, 405, "B16");
    Ok(())
}
