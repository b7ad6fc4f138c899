//! The one endpoint of AWS's services: moto, and in front of it what moto lacks. A fake for four things only: DescribeCluster
//! names a real API server, a role may have a trust policy with an external id, STS learns whose the keys of AssumeRole are, and access
//! entries are [`FakeAccessEntries`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, ReqwestConnector};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::listen::listen;
use super::sigv4::parameters;
use super::{Credentials, FakeAccessEntries, FakeSts, Known, REGION};

/// The front. Cheap to clone; lives as long as its process.
#[derive(Clone)]
pub struct FakeAws(Arc<Inner>);

struct Inner {
    moto: String,
    url: String,
    sts: FakeSts,
    client: HttpClient,
    clusters: Mutex<HashMap<String, (String, String)>>,
    trusts: Mutex<HashMap<String, String>>,
    assumed: Mutex<Vec<Assumed>>,
    described: Mutex<usize>,
    entries: FakeAccessEntries,
}

/// One AssumeRole that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// `RoleArn`.
    pub role_arn: String,
    /// `RoleSessionName`.
    pub session: String,
    /// `ExternalId`.
    pub external_id: Option<String>,
    /// Whether the role's trust policy let it.
    pub granted: bool,
}

impl FakeAws {
    pub(super) fn start(moto: String, sts: FakeSts) -> anyhow::Result<Self> {
        let (sender, receiver) = watch::channel(None::<FakeAws>);
        let port = listen(None, move |request| {
            let front = receiver.borrow().clone();
            async move { front.context("not started")?.answer(request).await }
        })?;
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true))?;
        let front = Self(Arc::new(Inner {
            moto,
            url: format!("http://127.0.0.1:{port}"),
            sts,
            client,
            clusters: Mutex::default(),
            trusts: Mutex::default(),
            assumed: Mutex::default(),
            described: Mutex::default(),
            entries: FakeAccessEntries::default(),
        }));
        sender.send_replace(Some(front.clone()));
        Ok(front)
    }

    pub(super) fn url(&self) -> &str {
        &self.0.url
    }

    pub(super) fn trust(&self, role_arn: &str, external_id: &str) {
        let mut trusts = self.0.trusts.lock().unwrap_or_else(PoisonError::into_inner);
        trusts.insert(role_arn.to_owned(), external_id.to_owned());
    }

    pub(super) fn assumed(&self) -> Vec<Assumed> {
        self.0.assumed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn access_entries(&self) -> &FakeAccessEntries {
        &self.0.entries
    }

    /// How often DescribeCluster was asked.
    pub fn described(&self) -> usize {
        *self.0.described.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn assume_role(&self, role_arn: &str, session: &str) -> anyhow::Result<Credentials> {
        let query = [("RoleArn", role_arn), ("RoleSessionName", session)];
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", super::sigv4::encode(value))).collect();
        let body = format!("Action=AssumeRole&Version=2011-06-15&{}", query.join("&"));
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        let request = Request::post(format!("{}/", self.0.moto))
            .header("content-type", form)
            .header("authorization", authorization("AKIAHARNESS", "sts"))
            .body(Bytes::from(body.clone()))?;
        let (code, _, answer) = self.ask_moto(request).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        ensure!(code == 200, "moto answered {code} to AssumeRole: {text}");
        self.learn(&parameters(&body), &text)
    }

    /// Makes an EKS cluster whose description names `server` and `ca` (PEM).
    pub(super) async fn cluster(
        &self,
        account: &str,
        region: &str,
        name: &str,
        (server, ca): (&str, &str),
    ) -> anyhow::Result<()> {
        let own = self.assume_role(&format!("arn:aws:iam::{account}:role/harness"), "harness").await?;
        let body = json!({
            "name": name, "version": "1.33", "roleArn": format!("arn:aws:iam::{account}:role/cluster"),
            "resourcesVpcConfig": {"subnetIds": ["subnet-e2e"]},
        });
        let mut authorization = authorization(&own.access_key, "eks");
        authorization = authorization.replace(REGION, region);
        let request = Request::post(format!("{}/clusters", self.0.moto))
            .header("content-type", "application/json")
            .header("authorization", authorization)
            .body(Bytes::from(body.to_string()))?;
        let (code, _, answer) = self.ask_moto(request).await?;
        ensure!(code == 200, "moto answered {code} to CreateCluster: {}", String::from_utf8_lossy(&answer));
        let arn = format!("arn:aws:eks:{region}:{account}:cluster/{name}");
        let mut clusters = self.0.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.insert(arn, (server.to_owned(), STANDARD.encode(ca)));
        Ok(())
    }

    async fn answer(&self, request: Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        if request.uri().path().contains("/access-entries") {
            return self.access_entries_of_a_cluster(&request);
        }
        let is_describe = request.method() == "GET" && request.uri().path().starts_with("/clusters/");
        let form = parameters(&String::from_utf8_lossy(request.body()));
        let is_assume = form.iter().any(|pair| *pair == ("Action".to_owned(), "AssumeRole".to_owned()));
        if is_assume && !self.note(&form) {
            return denied(&form);
        }
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut onward = Request::builder().method(head.method).uri(format!("{}{target}", self.0.moto));
        for (name, value) in head.headers.iter().filter(|(name, _)| *name != "host") {
            onward = onward.header(name, value);
        }
        let (code, content_type, mut answer) = self.ask_moto(onward.body(body)?).await?;
        if is_assume && code == 200 {
            self.learn(&form, &String::from_utf8_lossy(&answer))?;
        }
        if is_describe {
            *self.0.described.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            answer = self.with_the_real_server(&answer).unwrap_or(answer);
        }
        Ok(Response::builder().status(code).header("content-type", content_type).body(answer)?)
    }

    fn access_entries_of_a_cluster(&self, request: &Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        let mut path = request.uri().path().split('/').skip(2);
        let (name, principal) = (path.next().context("a cluster")?, path.nth(1));
        let signed = request.headers().get("authorization").context("a signature")?.to_str()?;
        let scope = signed.split("Credential=").nth(1).and_then(|rest| rest.split(',').next());
        let mut scope = scope.context("a scope")?.split('/');
        let (key, region) = (scope.next().context("a key")?, scope.nth(1).context("a region")?);
        let known = self.0.sts.whose(key).context("a key that STS gave")?;
        let arn = format!("arn:aws:eks:{region}:{}:cluster/{name}", known.account);
        match principal.filter(|_| request.method() == "DELETE") {
            Some(principal) => {
                let principal = percent_encoding::percent_decode_str(principal).decode_utf8()?;
                self.0.entries.delete(&arn, &principal)
            }
            None => self.0.entries.answer(request, &arn, &known.arn),
        }
    }

    // Whether the role's trust policy lets it.
    fn note(&self, form: &[(String, String)]) -> bool {
        let role_arn = value(form, "RoleArn").unwrap_or_default();
        let external_id = value(form, "ExternalId");
        let wanted = self.0.trusts.lock().unwrap_or_else(PoisonError::into_inner).get(&role_arn).cloned();
        let granted = wanted.is_none_or(|wanted| external_id.as_deref() == Some(&*wanted));
        let session = value(form, "RoleSessionName").unwrap_or_default();
        let assumed = Assumed { role_arn, session, external_id, granted };
        self.0.assumed.lock().unwrap_or_else(PoisonError::into_inner).push(assumed);
        granted
    }

    fn learn(&self, form: &[(String, String)], answer: &str) -> anyhow::Result<Credentials> {
        let of = |tag: &str| element(answer, tag).with_context(|| format!("no {tag} in moto's answer"));
        let credentials = Credentials {
            access_key: of("AccessKeyId")?,
            secret_key: of("SecretAccessKey")?,
            session_token: Some(of("SessionToken")?),
        };
        let ends: Timestamp = of("Expiration")?.parse()?;
        let role_arn = value(form, "RoleArn").context("a role")?;
        let account = role_arn.split(':').nth(4).context("a role of an account")?;
        let known = Known::lasting(&credentials, account, &of("Arn")?, &of("AssumedRoleId")?);
        self.0.sts.know(Known { ends: Some(ends), ..known });
        Ok(credentials)
    }

    fn with_the_real_server(&self, answer: &[u8]) -> Option<Bytes> {
        let mut described: Value = serde_json::from_slice(answer).ok()?;
        let cluster = described.get_mut("cluster")?;
        let arn = cluster.get("arn")?.as_str()?.to_owned();
        let clusters = self.0.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, ca) = clusters.get(&arn)?.clone();
        cluster["endpoint"] = server.into();
        cluster["certificateAuthority"]["data"] = ca.into();
        Some(Bytes::from(described.to_string()))
    }

    async fn ask_moto(&self, request: Request<Bytes>) -> anyhow::Result<(u16, String, Bytes)> {
        let response = self.0.client.execute(request.map(HttpRequestBody::from)).await?;
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or("text/plain").to_owned();
        let code = response.status().as_u16();
        Ok((code, content_type, response.into_body().collect().await?.to_bytes()))
    }
}

// moto reads service and account from it and checks nothing.
fn authorization(access_key: &str, service: &str) -> String {
    let scope = format!("{access_key}/20260101/{REGION}/{service}/aws4_request");
    format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0")
}

fn denied(form: &[(String, String)]) -> anyhow::Result<Response<Bytes>> {
    let role_arn = value(form, "RoleArn").unwrap_or_default();
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>AccessDenied</Code>\
         <Message>User: arn:aws:sts::111122223333:assumed-role/sallyport-proxy/e2e is not authorized to perform: sts:AssumeRole on \
         resource: {role_arn}</Message></Error><RequestId>e2e</RequestId></ErrorResponse>"
    );
    Ok(Response::builder().status(403).header("content-type", "text/xml").body(body.into())?)
}

fn value(form: &[(String, String)], name: &str) -> Option<String> {
    form.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone())
}

fn element(xml: &str, tag: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
}
