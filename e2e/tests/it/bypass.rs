//! An attacker with an agent's token: every way around the gate that is known, tried on a real one with raw bytes.

mod approvals;
mod masks;
mod wire;

use e2e::Filter;
use e2e::wire::Answer;
use serde_json::{Value, json};

use super::estate::Estate;

const CANARY: &str = "canary-5e1f-hunter2";
const MERGE: [(&str, &str); 1] = [("Content-Type", "application/merge-patch+json")];
const JSON_PATCH: [(&str, &str); 1] = [("Content-Type", "application/json-patch+json")];

/// Everything is allowed but Secrets; changes of Deployments need a human; one key and one label of ConfigMaps are masked.
fn nearly_everything() -> Value {
    json!({
        "rules": [
            {"name": "all", "effect": "Allow", "match": [
                {"apiGroups": ["", "apps", "sallyport.dev"], "resources": ["*"], "verbs": ["*"]},
            ]},
            {"name": "no-secrets", "effect": "Deny", "match": [
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]},
            ]},
            {"name": "ask", "effect": "RequireApproval", "match": [
                {"apiGroups": ["apps"], "resources": ["deployments", "deployments/*"],
                 "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
            ]},
        ],
        "approval": {"holdSeconds": 0},
        "masking": [{"name": "config", "type": "Fields",
            "match": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}],
            "fields": {"paths": [".data.password", ".metadata.labels['example.com/pin']"]}}],
    })
}

async fn siege() -> anyhow::Result<Estate> {
    let estate = Estate::new(&super::gate()?, "bypass", nearly_everything()).await?;
    let objects = json!([
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": estate.namespace},
         "stringData": {"password": CANARY}},
        {"apiVersion": "v1", "kind": "ConfigMap", "data": {"password": CANARY, "mode": "dark"},
         "metadata": {"name": "flags", "namespace": estate.namespace, "labels": {"example.com/pin": "4711"}}},
    ]);
    estate.gate.plane().apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    Ok(estate)
}

impl Estate {
    fn maps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    fn deployments(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace)
    }

    fn own_grants(&self) -> String {
        format!("/apis/sallyport.dev/v1alpha1/namespaces/{}/accessgrants", self.namespace)
    }

    async fn try_it(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Answer> {
        self.agent.send(0, method, target, headers, body.as_bytes()).await
    }

    /// How often the API server ran something of this resource as the agent.
    async fn ran(&self, verb: Option<&str>, resource: &str) -> anyhow::Result<usize> {
        let filter = Filter::ran_as(&self.agent.username()).resource(resource);
        let filter = verb.into_iter().fold(filter, Filter::verb);
        Ok(self.gate.plane().audit().requests(&filter).await?.len())
    }
}

fn assert_refused(what: &str, answer: &Answer) {
    assert!((400..500).contains(&answer.code), "{what}: {} {}", answer.code, answer.text());
    assert!(!answer.text().contains(CANARY), "{what}: {}", answer.text());
}

#[tokio::test]
async fn p3_to_p11_no_spelling_of_a_path_reaches_a_denied_secret() -> anyhow::Result<()> {
    let estate = siege().await?;
    let namespace = &estate.namespace;
    for target in [
        format!("/api/v1/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/namespaces/{namespace}/secrets/db/"),
        format!("/api/v1/namespaces/{namespace}//secrets/db"),
        format!("//api/v1/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/namespaces/{namespace}/secrets%2fdb"),
        format!("/api/v1/namespaces/{namespace}/%73ecrets/db"),
        format!("/api/v1/namespaces/{namespace}/configmaps/../secrets/db"),
        format!("/api/v1/namespaces/{namespace}/configmaps/%2e%2e/secrets/db"),
        format!("/api/v1/namespaces/{namespace}/configmaps/..%2fsecrets%2fdb"),
        format!("/api/v1/namespaces/{namespace}/Secrets/db"),
        format!("/api/V1/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/watch/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/watch/namespaces/{namespace}/secrets"),
        format!("/api/v1/proxy/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/namespaces/{namespace}/secrets/db/status"),
        format!("/api/v1/namespaces/{namespace}/secrets/db/x/y"),
        format!("/api/v1/namespaces/{namespace}/secrets;x/db"),
        format!("/api/v1/namespaces/{namespace}/secrets/db#x"),
        format!("/apis//v1/namespaces/{namespace}/secrets/db"),
        format!("/apis/core/v1/namespaces/{namespace}/secrets/db"),
        format!("/version/../api/v1/namespaces/{namespace}/secrets/db"),
        format!("/openapi/v3/../../api/v1/namespaces/{namespace}/secrets"),
        format!("/openapi/v3/%2e%2e/api/v1/namespaces/{namespace}/secrets"),
        format!("/sallyport/v1/../../api/v1/namespaces/{namespace}/secrets"),
        format!("https://sallyport/api/v1/namespaces/{namespace}/secrets/db"),
        format!("/api/v1/namespaces//secrets?fieldSelector=metadata.namespace={namespace}"),
        format!("/api/v1/namespaces/{namespace}/secrets?fieldSelector=metadata.name=db"),
        "/api/v1/secrets".to_owned(),
        "/api/v1/secrets?watch=1".to_owned(),
    ] {
        assert_refused(&target, &estate.try_it("GET", &target, &[], "").await?);
    }
    for method in ["HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "QUERY"] {
        let target = format!("/api/v1/namespaces/{namespace}/secrets/db");
        let mut connection = estate.agent.connect(0).await?;
        connection.send(&estate.agent.request(method, &target, &[], b"")?).await?;
        assert!((400..500).contains(&connection.head().await?.code), "P1: {method}");
    }
    assert_eq!(estate.ran(None, "secrets").await?, 0);
    Ok(())
}

#[tokio::test]
async fn p9_b99_a_dry_run_in_the_wrong_place_does_nothing_for_real() -> anyhow::Result<()> {
    let estate = siege().await?;
    let maps = estate.maps();
    let made = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}).to_string();
    for query in [
        "dryrun=All",
        "dryRun=all",
        "dryRun=All&dryRun=All",
        "dryRun=All&dryRun=",
        "%64ryRun=All",
        "dryRun=All;x",
        "dryRun=%",
    ] {
        assert_refused(query, &estate.try_it("POST", &format!("{maps}?{query}"), &[], &made).await?);
    }
    for query in [
        "watch=1&watch=0",
        "watch=&watch=true",
        "watch=yes",
        "Watch=1",
        "limit=abc",
        "limit=-1",
        "dryRun=All",
    ] {
        assert_refused(query, &estate.try_it("GET", &format!("{maps}?{query}"), &[], "").await?);
    }
    let flags = format!("{maps}/flags");
    for body in
        ["{}", "null", r#"{"dryRun":[]}"#, r#"{"DryRun":["All"]}"#, "[]", "---", r#"{"kind":"Status"}"#]
    {
        assert_refused(body, &estate.try_it("DELETE", &format!("{flags}?dryRun=All"), &[], body).await?);
    }
    assert_refused("case", &estate.try_it("DELETE", &flags, &[], r#"{"DryRun":["All"]}"#).await?);
    assert_eq!(estate.ran(Some("create"), "configmaps").await?, 0);
    assert_eq!(estate.ran(Some("delete"), "configmaps").await?, 0);
    for (query, body) in [("?dryRun=All", ""), ("", r#"{"dryRun":["All"]}"#)] {
        let answer = estate.try_it("DELETE", &format!("{flags}{query}"), &[], body).await?;
        assert_eq!(answer.code, 200, "{}", answer.text());
    }
    estate.admin(&["get", "configmap", "flags"])?.success()?;
    Ok(())
}
