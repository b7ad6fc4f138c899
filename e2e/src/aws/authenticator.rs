//! The token webhook of an EKS control plane: takes `k8s-aws-v1.` tokens that are signed for its cluster, asks STS, and names
//! users and groups by access entries. A fake, because EKS's own cannot be had; it checks what aws-iam-authenticator checks.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

use super::FakeSts;
use super::listen::listen;
use super::sigv4::parameters;
use crate::pki::Authority;
use crate::wire;

/// Who a role is in the cluster.
#[derive(Clone, Debug)]
pub struct AccessEntry {
    /// The role's ARN.
    pub principal_arn: String,
    /// User name; `{{SessionName}}` and `{{AccountID}}` are filled in.
    pub username: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// A running webhook. Cheap to clone; lives as long as its process.
#[derive(Clone)]
pub struct FakeAuthenticator(Arc<Inner>);

struct Inner {
    cluster: String,
    port: u16,
    ca: String,
    sts: FakeSts,
    entries: Arc<Mutex<Vec<AccessEntry>>>,
    asked: Arc<Mutex<usize>>,
}

impl FakeAuthenticator {
    /// Starts it for one cluster on a free loopback port, with TLS.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(cluster: &str, sts: &FakeSts) -> anyhow::Result<Self> {
        let authority = Authority::new("fake-eks-ca")?;
        let pair = authority.server("fake-eks-authenticator", &["localhost"])?;
        let (entries, asked): (Arc<Mutex<Vec<AccessEntry>>>, Arc<Mutex<usize>>) = Default::default();
        let (known, count, of, asks) =
            (Arc::clone(&entries), Arc::clone(&asked), cluster.to_owned(), sts.clone());
        let port = listen(Some(&pair), move |request: Request<Bytes>| {
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            let entries = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (cluster, sts) = (of.clone(), asks.clone());
            async move {
                let review: Value = serde_json::from_slice(request.body())?;
                let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
                let status = match verify(&cluster, &sts, &entries, token).await {
                    Ok(user) => json!({"authenticated": true, "user": user}),
                    Err(error) => json!({"authenticated": false, "error": format!("{error:#}")}),
                };
                let answer = json!({
                    "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
                });
                let answer = Bytes::from(answer.to_string());
                Ok(Response::builder().header("content-type", "application/json").body(answer)?)
            }
        })?;
        let ca = authority.cert().to_owned();
        let (cluster, sts) = (cluster.to_owned(), sts.clone());
        Ok(Self(Arc::new(Inner { cluster, port, ca, sts, entries, asked })))
    }

    /// Adds an access entry, in place of one of the same role.
    pub fn entry(&self, entry: AccessEntry) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|known| known.principal_arn != entry.principal_arn);
        entries.push(entry);
    }

    /// Removes the access entry of a role.
    pub fn remove(&self, principal_arn: &str) {
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|known| known.principal_arn != principal_arn);
    }

    /// The principal of each access entry.
    pub fn principals(&self) -> Vec<String> {
        let entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| entry.principal_arn.clone()).collect()
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        *self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster that tokens must be signed for.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// STS that it asks.
    pub fn sts(&self) -> &FakeSts {
        &self.0.sts
    }

    /// The file of `--authentication-token-webhook-config-file`.
    pub fn webhook_config(&self) -> String {
        let cluster = json!({
            "server": format!("https://127.0.0.1:{}/authenticate", self.0.port),
            "certificate-authority-data": STANDARD.encode(&self.0.ca),
        });
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "webhook",
            "clusters": [{"name": "authenticator", "cluster": cluster}],
            "users": [{"name": "apiserver", "user": {}}],
            "contexts": [{"name": "webhook", "context": {"cluster": "authenticator", "user": "apiserver"}}],
        })
        .to_string()
    }
}

async fn verify(cluster: &str, sts: &FakeSts, entries: &[AccessEntry], token: &str) -> anyhow::Result<Value> {
    let url = token.strip_prefix("k8s-aws-v1.").context("no token of AWS")?;
    let url = String::from_utf8(URL_SAFE_NO_PAD.decode(url)?)?;
    let (host, query) =
        url.strip_prefix("https://").and_then(|rest| rest.split_once("/?")).context("no URL of STS")?;
    ensure!(host.starts_with("sts.") && host.ends_with(".amazonaws.com"), "unexpected hostname");
    let given = parameters(query);
    let of = |name: &str| given.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    ensure!(of("Action") == Some("GetCallerIdentity"), "unexpected action parameter");
    let signed = of("X-Amz-SignedHeaders").unwrap_or_default();
    ensure!(signed.split(';').any(|name| name == "x-k8s-aws-id"), "client did not sign the cluster's header");
    let request = format!(
        "GET /?{query} HTTP/1.1\r\nHost: {host}\r\nx-k8s-aws-id: {cluster}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    let answer = wire::exchange(&sts.url(), sts.ca(), request.as_bytes()).await?;
    ensure!(
        answer.code == 200,
        "error from AWS (expected 200, got {}). Body: {}",
        answer.code,
        answer.text()
    );
    let answer = answer.json()?;
    let result = answer.pointer("/GetCallerIdentityResponse/GetCallerIdentityResult").context("a result")?;
    let arn = result.get("Arn").and_then(Value::as_str).context("an ARN")?;
    let account = result.get("Account").and_then(Value::as_str).context("an account")?;
    let [_, _, _, _, _, resource] = arn.split(':').collect::<Vec<_>>()[..] else { bail!("no ARN: {arn}") };
    let ["assumed-role", role, session] = resource.split('/').collect::<Vec<_>>()[..] else {
        bail!("no role: {arn}")
    };
    let name_of = |arn: &str| arn.rsplit('/').next().map(str::to_owned);
    let entry = entries.iter().find(|entry| {
        let of_account = entry.principal_arn.split(':').nth(4) == Some(account);
        of_account && name_of(&entry.principal_arn).as_deref() == Some(role)
    });
    let entry = entry.with_context(|| format!("no access entry for {arn}"))?;
    let session = session.replace('@', "-");
    let username = entry.username.replace("{{SessionName}}", &session).replace("{{AccountID}}", account);
    let extra = json!({"arn": [arn], "canonicalArn": [entry.principal_arn], "sessionName": [session]});
    Ok(json!({
        "username": username, "uid": format!("aws-iam-authenticator:{account}:e2e"),
        "groups": entry.groups, "extra": extra,
    }))
}
