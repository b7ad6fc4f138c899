//! What the gate reads is what the API server stores: YAML bodies, delete options in both places, kinds that are new.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::wire::{self, Answer};
use e2e::{Filter, eventually};
use serde_json::{Value, json};

use super::estate::Estate;

const YAML: (&str, &str) = ("Content-Type", "application/yaml");
const JSON: (&str, &str) = ("Content-Type", "application/json");
const PROTOBUF: (&str, &str) = ("Content-Type", "application/vnd.kubernetes.protobuf");
const APPLY: (&str, &str) = ("Content-Type", "application/apply-patch+yaml");

fn work() -> Value {
    json!({"rules": [{"name": "work", "effect": "Allow", "match": [
        {"apiGroups": ["", "reading.example"], "resources": ["*"], "verbs": ["*"]},
    ]}],
    "masking": [{"name": "gadgets", "type": "Fields",
        "match": [{"apiGroups": ["reading.example"], "resources": ["gadgets"], "verbs": ["*"]}],
        "fields": {"paths": [".spec.password"]}}]})
}

impl Estate {
    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps{name}", self.namespace)
    }

    async fn through(
        &self,
        method: &str,
        target: &str,
        header: (&str, &str),
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        self.agent.send(0, method, target, &[header], body).await
    }

    /// The same request past the gate, with a token that may do it.
    async fn past(
        &self,
        method: &str,
        target: &str,
        header: (&str, &str),
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let plane = self.gate.plane();
        let token = plane.token(&self.namespace, "direct", &[], 600).await?;
        let (name, value) = header;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n{name}: {value}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        wire::exchange(plane.server(), plane.ca(), &[head.as_bytes(), body].concat()).await
    }

    async fn direct_account(&self) -> anyhow::Result<()> {
        self.gate.plane().service_account(&self.namespace, "direct").await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "direct", "namespace": self.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "direct", "namespace": self.namespace}],
        });
        self.gate.plane().apply(&binding.to_string())?;
        Ok(())
    }

    /// What was given, as it is stored: data, labels, annotations.
    fn stored(&self, name: &str) -> anyhow::Result<Value> {
        let object: Value =
            serde_json::from_str(&self.admin(&["get", "configmap", name, "-o", "json"])?.success()?)?;
        let meta = &object["metadata"];
        Ok(json!([object["data"], meta["labels"], meta["annotations"]]))
    }

    /// The uid of a ConfigMap; none if it is gone.
    fn uid(&self, name: &str) -> anyhow::Result<Option<String>> {
        let out =
            self.admin(&["get", "configmap", name, "--ignore-not-found", "-o", "jsonpath={.metadata.uid}"])?;
        Ok(Some(out.success()?).filter(|uid| !uid.is_empty()))
    }
}

/// Documents with `NAME` in them, none of which a careless reader gets right.
const DOCUMENTS: [&str; 7] = [
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: NAME\n  labels: {app: web, 'v': \"1.0\"}\ndata:\n  a: plain text\n  b: 'yes'\n",
    "---\nkind: ConfigMap # the kind\napiVersion: v1\nmetadata: {name: NAME}\ndata:\n  script: |\n    #!/bin/sh\n    if true; then\n      echo \"a: b\"\n    fi\n  folded: >-\n    one\n    two\n\n    three\n",
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: NAME\n  annotations:\n    a: \"\\x41\\u00e9\\U0001f600\\t|\"\n    b: 'it''s'\n    c: 10.0.0.1\n    d: 2026-01-01\n    e: 8080:80\n",
    "apiVersion: 'v1'\nkind: \"ConfigMap\"\nmetadata: {name: NAME}\ndata: {a: 100m, b: 1Gi, c: v1, d: \"012\", e: 'null', f: \"\"}\n",
    "apiVersion: v1\r\nkind: ConfigMap\r\nmetadata:\r\n  name: NAME\r\ndata:\r\n  a: one\r\n    two\r\n",
    "kind: ConfigMap\nmetadata:\n  name: NAME\ndata:\n  tail: |+\n    one\n\n\n  strip: |-\n    two\n\n  indent: |2\n      three\napiVersion: v1\n",
    "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"NAME\"}, \"data\": {\"a\": \"\\u0041\\n\"}}",
];

#[tokio::test]
async fn a3_yaml_is_stored_as_the_api_server_would_have_stored_it() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "reading", work()).await?;
    estate.direct_account().await?;
    for (i, document) in DOCUMENTS.iter().enumerate() {
        for (method, header) in [("POST", YAML), ("PATCH", APPLY)] {
            let full = |name: &str| document.replace("NAME", name);
            let verb = method.to_lowercase();
            let (ours, theirs) = (format!("ours-{i}-{verb}"), format!("theirs-{i}-{verb}"));
            let target = |name: &str| match method {
                "POST" => estate.path(""),
                _ => estate.path(&format!("/{name}?fieldManager=test")),
            };
            let direct = estate.past(method, &target(&theirs), header, full(&theirs).as_bytes()).await?;
            let gated = estate.through(method, &target(&ours), header, full(&ours).as_bytes()).await?;
            assert_eq!(
                (gated.code, direct.code),
                (201, 201),
                "{}\n{}\n{}",
                full(&ours),
                gated.text(),
                direct.text()
            );
            assert_eq!(estate.stored(&ours)?, estate.stored(&theirs)?, "{}", full(&ours));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a3_yaml_that_hides_something_is_refused_and_nothing_is_stored() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "reading", work()).await?;
    for (what, document) in [
        ("yes", "metadata: {name: x}\ndata: {a: yes}"),
        ("octal", "metadata: {name: x}\ndata: {a: 012}"),
        ("anchor and alias", "metadata: &m {name: x}\nother: *m"),
        ("merge key", "base: {name: x}\nmetadata: {<<: {name: x}}"),
        ("tag", "metadata: {name: x}\ndata: {a: !!binary aGk=}"),
        ("second document", "metadata: {name: x}\n---\nmetadata: {name: y}"),
        ("doubled key", "metadata: {name: x}\nmetadata: {name: y}"),
        ("explicit key", "? metadata\n: {name: x}"),
        ("case", "Metadata: {name: x}"),
        ("another kind", "kind: Secret\nmetadata: {name: x}"),
        ("another namespace", "metadata: {name: x, namespace: kube-system}"),
        ("U+0085", "metadata: {name: x}\ndata: {a: \"b\u{85}c\"}"),
    ] {
        let answer = estate.through("POST", &estate.path(""), YAML, document.as_bytes()).await?;
        assert_eq!(answer.code, 400, "{what}: {}", answer.text());
        assert!(answer.text().contains("rule A3"), "{what}: {}", answer.text());
    }
    let filter = Filter::ran_as(&estate.agent.username()).resource("configmaps").verb("create");
    assert!(estate.gate.plane().audit().requests(&filter).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a3_an_apply_stores_each_character_as_it_was_judged() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "reading", work()).await?;
    let value = "a \u{85} b \u{2028} c \u{2029} d\u{7f}\u{9f}\u{feff} e é 😀";
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "data": {"v": value}});
    let target = estate.path("/odd?fieldManager=test");
    let answer = estate.through("PATCH", &target, APPLY, map.to_string().as_bytes()).await?;
    assert_eq!(answer.code, 201, "{}", answer.text());
    let stored: Value =
        serde_json::from_str(&estate.admin(&["get", "configmap", "odd", "-o", "json"])?.success()?)?;
    assert_eq!(stored["data"]["v"], value);
    Ok(())
}

/// `k8s\0`, then an envelope with `DeleteOptions{dryRun: ["All"]}` (fields: 5), as kubectl sends it.
fn dry_protobuf() -> Vec<u8> {
    STANDARD.decode("azhzAAoTCgJ2MRINRGVsZXRlT3B0aW9ucxIFKgNBbGwaACIA").expect("base64")
}

#[tokio::test]
async fn b99_a_delete_is_dry_where_the_api_server_says_so_and_only_there() -> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "reading", work()).await?;
    estate.admin(&["create", "configmap", "kept", "--from-literal=a=b"])?.success()?;
    let uid = estate.uid("kept")?;
    let kept = |query: &str| estate.path(&format!("/kept{query}"));
    let protobuf = dry_protobuf();
    let text = |text: &str| text.as_bytes().to_vec();
    for (what, query, header, body, code) in [
        ("query", "?dryRun=All", JSON, text(""), 200),
        ("JSON body", "", JSON, text(r#"{"dryRun":["All"]}"#), 200),
        ("YAML body", "", YAML, text("dryRun: [All]\n"), 200),
        ("protobuf body", "", PROTOBUF, protobuf, 200),
        (
            "JSON body, no Content-Type",
            "",
            ("X-None", "1"),
            text(r#"{"dryRun":["All"],"kind":"DeleteOptions","apiVersion":"v1"}"#),
            200,
        ),
        ("both places", "?dryRun=All", JSON, text(r#"{"dryRun":["All"]}"#), 400),
        ("query and {}", "?dryRun=All", JSON, text("{}"), 400),
        ("query and null", "?dryRun=All", JSON, text("null"), 400),
        ("query and YAML", "?dryRun=All", YAML, text("---\n"), 400),
        ("wrong case", "", JSON, text(r#"{"DryRun":["All"]}"#), 400),
        ("wrong case in YAML", "", YAML, text("DryRun: [All]"), 400),
        ("wrong word", "", JSON, text(r#"{"dryRun":["all"]}"#), 400),
        ("wrong word in the query", "?dryRun=all", JSON, text(""), 400),
        (
            "another uid",
            "",
            JSON,
            text(r#"{"preconditions":{"uid":"0f6d2f0e-0000-4c1e-9f60-7f0d5f1f9a11"}}"#),
            409,
        ),
        (
            "another uid in YAML",
            "",
            YAML,
            text("preconditions: {uid: 0f6d2f0e-0000-4c1e-9f60-7f0d5f1f9a11}"),
            409,
        ),
    ] {
        let answer = estate.through("DELETE", &kept(query), header, &body).await?;
        assert_eq!(answer.code, code, "{what}: {}", answer.text());
        assert_eq!(estate.uid("kept")?, uid, "{what}");
    }
    for (what, query, header, body) in [
        ("nothing", "", JSON, ""),
        ("query", "?gracePeriodSeconds=0&propagationPolicy=Background", JSON, ""),
        ("JSON body", "", JSON, r#"{"propagationPolicy":"Background","dryRun":[]}"#),
        ("YAML body", "", YAML, "propagationPolicy: Foreground\n"),
    ] {
        if estate.uid("kept")?.is_none() {
            estate.admin(&["create", "configmap", "kept"])?.success()?;
        }
        let answer = estate.through("DELETE", &kept(query), header, body.as_bytes()).await?;
        assert_eq!(answer.code, 200, "{what}: {}", answer.text());
        eventually("the object is gone", Duration::from_secs(20), async || {
            Ok(estate.uid("kept")?.is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn p11_a_new_kind_is_usable_within_ten_seconds_and_masked_by_the_rule_that_names_it()
-> anyhow::Result<()> {
    let estate = Estate::new(&super::gate()?, "reading", work()).await?;
    let gadgets = format!("/apis/reading.example/v1/namespaces/{}/gadgets", estate.namespace);
    let accept = ("Accept", "application/json");
    assert_eq!(estate.through("GET", &gadgets, accept, b"").await?.code, 404);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let items = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
         "metadata": {"name": "gadgets", "namespace": estate.namespace},
         "rules": [{"apiGroups": ["reading.example"], "resources": ["gadgets", "gadgets/status"], "verbs": ["*"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
         "metadata": {"name": "gadgets", "namespace": estate.namespace},
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gadgets"},
         "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": estate.agent.username()}]},
        {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
         "metadata": {"name": "gadgets.reading.example"},
         "spec": {"group": "reading.example", "scope": "Namespaced",
             "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
             "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]}},
    ]);
    estate.gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    let since = Instant::now();
    eventually("the new kind through the gate", Duration::from_secs(10), async || {
        Ok((estate.through("GET", &gadgets, accept, b"").await?.code == 200).then_some(()))
    })
    .await?;
    let took = since.elapsed();
    println!("FIGURE a new kind was usable {:.1} s after its definition", took.as_secs_f64());
    let made = "metadata: {name: one}\nspec:\n  password: canary-7a31-gadget\n  size: 3\n";
    let answer = estate.through("POST", &gadgets, YAML, made.as_bytes()).await?;
    assert_eq!(answer.code, 201, "{}", answer.text());
    for target in [format!("{gadgets}/one"), gadgets.clone(), format!("{gadgets}/one/status")] {
        for form in
            ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/yaml", "*/*"]
        {
            let answer = estate.through("GET", &target, ("Accept", form), b"").await?;
            assert_eq!(answer.code, 200, "{target} {form}: {}", answer.text());
            assert!(!answer.text().contains("canary-7a31"), "{target} {form}: {}", answer.text());
        }
    }
    let one = estate.through("GET", &format!("{gadgets}/one"), accept, b"").await?.json()?;
    assert_eq!((&one["spec"]["password"], &one["spec"]["size"]), (&json!("[MASKED:gadgets]"), &json!(3)));
    for (target, code) in [
        (format!("{gadgets}/one/scale"), 404),
        ("/apis/reading.example/v1/gadgets/one".to_owned(), 404),
        ("/apis/reading.example/v2/gadgets".to_owned(), 404),
    ] {
        assert_eq!(estate.through("GET", &target, accept, b"").await?.code, code, "{target}");
    }
    let stored =
        estate.admin(&["get", "gadgets.reading.example", "one", "-o", "jsonpath={.spec.password}"])?;
    assert_eq!(stored.success()?, "canary-7a31-gadget");
    Ok(())
}
