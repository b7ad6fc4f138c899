//! STS for presigned GetCallerIdentity: recomputes the signature as AWS does, answers as AWS does, and fails on command. A fake,
//! because moto checks no signature.
//!
//! *Like STS*: the signature covers the host that was asked for and every signed header as it arrived; a signature is good for 15
//! minutes whatever `X-Amz-Expires` says; XML, or JSON for those who accept it; the codes and words of AWS's errors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::watch;

use super::listen::listen;
use super::sigv4::{ALGORITHM, Credentials, canonical_request, parameters, signature};
use crate::pki::Authority;

const LIFE: SignedDuration = SignedDuration::from_mins(15);
const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A running STS. Cheap to clone; lives as long as its process.
#[derive(Clone)]
pub struct FakeSts(Arc<Inner>);

struct Inner {
    port: u16,
    ca: String,
    known: Mutex<HashMap<String, Known>>,
    asked: Mutex<Vec<Asked>>,
    fault: watch::Sender<Option<Fault>>,
}

/// Whose keys these are.
#[derive(Clone, Debug)]
pub struct Known {
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token that must come with them.
    pub session_token: Option<String>,
    /// When they end; never for a user's.
    pub ends: Option<Timestamp>,
    /// `Account` of the answer.
    pub account: String,
    /// `Arn` of the answer.
    pub arn: String,
    /// `UserId` of the answer.
    pub user_id: String,
}

impl Known {
    /// Keys that never end.
    pub fn lasting(credentials: &Credentials, account: &str, arn: &str, user_id: &str) -> Self {
        Self {
            access_key: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
            session_token: credentials.session_token.clone(),
            ends: None,
            account: account.to_owned(),
            arn: arn.to_owned(),
            user_id: user_id.to_owned(),
        }
    }
}

/// One request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
}

/// What STS does instead of answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Takes the request and answers when the fault is lifted.
    Slow,
    /// A status code with these words.
    Status(u16, String),
    /// 200 with this body, as JSON.
    Says(String),
    /// 302 to this address.
    Redirect(String),
}

impl Fault {
    /// The words of a throttled STS.
    pub fn throttled() -> Self {
        let body = json!({"Error": {"Code": "Throttling", "Message": "Rate exceeded", "Type": "Sender"}});
        Self::Status(400, body.to_string())
    }
}

struct Refusal {
    code: &'static str,
    message: String,
}

impl FakeSts {
    /// Starts it on a free loopback port, with TLS.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        let authority = Authority::new("fake-sts-ca")?;
        let pair = authority.server("fake-sts", &["localhost"])?;
        let inner = |port| Inner {
            port,
            ca: authority.cert().to_owned(),
            known: Mutex::default(),
            asked: Mutex::default(),
            fault: watch::Sender::new(None),
        };
        let (sender, receiver) = watch::channel(None::<FakeSts>);
        let port = listen(Some(&pair), move |request| {
            let sts = receiver.borrow().clone();
            async move { sts.ok_or_else(|| anyhow::anyhow!("not started"))?.answer(&request).await }
        })?;
        let sts = Self(Arc::new(inner(port)));
        sender.send_replace(Some(sts.clone()));
        Ok(sts)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.0.port)
    }

    /// The authority of its certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.0.ca
    }

    /// From now on these keys are known; keys known before are replaced.
    pub fn know(&self, known: Known) {
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(known.access_key.clone(), known);
    }

    /// Whose an access key is.
    pub(super) fn whose(&self, access_key: &str) -> Option<Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).get(access_key).cloned()
    }

    /// From now on these keys have ended.
    pub fn end(&self, credentials: &Credentials) {
        let mut all = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get_mut(&credentials.access_key) {
            known.ends = Some(Timestamp::UNIX_EPOCH);
        }
    }

    /// From now on it does this; none: it answers again.
    pub fn fault(&self, fault: Option<Fault>) {
        self.0.fault.send_replace(fault);
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(&self, request: &Request<Bytes>) -> anyhow::Result<Response<Bytes>> {
        let headers: Vec<(String, String)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into()))
            .collect();
        let asked = Asked {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            headers: headers.clone(),
        };
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let mut faults = self.0.fault.subscribe();
        let slow = faults.wait_for(|fault| *fault != Some(Fault::Slow));
        let _lifted = tokio::time::timeout(Duration::from_secs(120), slow).await;
        let fault = self.0.fault.borrow().clone();
        let is_json = headers.iter().any(|(name, value)| name == "accept" && value.contains("json"));
        match fault {
            Some(Fault::Status(code, body)) => respond(code, true, body),
            Some(Fault::Says(body)) => respond(200, true, body),
            Some(Fault::Redirect(to)) => {
                Ok(Response::builder().status(302).header("location", to).body(Bytes::new())?)
            }
            None | Some(Fault::Slow) => match self.judge(request, &headers) {
                Ok(known) => respond(200, is_json, identity(&known, is_json)),
                Err(refusal) => respond(refusal.status(), is_json, refusal.body(is_json)),
            },
        }
    }

    fn judge(&self, request: &Request<Bytes>, headers: &[(String, String)]) -> Result<Known, Refusal> {
        let query = parameters(request.uri().query().unwrap_or_default());
        let first =
            |name: &str| query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let of = |name: &str| first(name).unwrap_or_default();
        if request.uri().path() != "/" || request.method() != "GET" {
            return Err(Refusal::new("InvalidAction", "Could not find operation"));
        }
        if of("X-Amz-Algorithm") != ALGORITHM || first("X-Amz-Signature").is_none() {
            return Err(Refusal::new(
                "MissingAuthenticationToken",
                "Request is missing Authentication Token",
            ));
        }
        let (access_key, scope) = of("X-Amz-Credential").split_once('/').unwrap_or_default();
        let invalid =
            || Refusal::new("InvalidClientTokenId", "The security token included in the request is invalid.");
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner).get(access_key).cloned();
        let known = known.ok_or_else(invalid)?;
        if known.session_token.as_deref() != first("X-Amz-Security-Token") {
            return Err(invalid());
        }
        let host = header(headers, "host").unwrap_or_default();
        check_scope(scope, of("X-Amz-Date"), &host)?;
        check_time(of("X-Amz-Date"))?;
        if known.ends.is_some_and(|end| end <= Timestamp::now()) {
            let message = "The security token included in the request is expired";
            return Err(Refusal::new("ExpiredToken", message));
        }
        let unsigned = query.iter().filter(|(name, _)| name != "X-Amz-Signature").cloned();
        let unsigned: Vec<(String, String)> = unsigned.collect();
        let signed = of("X-Amz-SignedHeaders").split(';').map(str::to_owned);
        let signed: Vec<(String, String)> =
            signed.map(|name| (name.clone(), header(headers, &name).unwrap_or_default())).collect();
        let expected =
            signature(&known.secret_key, scope, of("X-Amz-Date"), &canonical_request(&unsigned, &signed));
        if of("X-Amz-Signature") != expected || !signed.iter().any(|(name, _)| name == "host") {
            let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                           Secret Access Key and signing method. Consult the service documentation for details.";
            return Err(Refusal::new("SignatureDoesNotMatch", message));
        }
        if of("Action") != "GetCallerIdentity" || of("Version") != "2011-06-15" {
            return Err(Refusal::new("InvalidAction", "Could not find operation"));
        }
        Ok(known)
    }
}

impl Refusal {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn status(&self) -> u16 {
        if self.code == "InvalidAction" { 400 } else { 403 }
    }

    fn body(&self, is_json: bool) -> String {
        let Self { code, message } = self;
        if is_json {
            let error = json!({"Code": code, "Message": message, "Type": "Sender"});
            return json!({"Error": error, "RequestId": REQUEST_ID}).to_string();
        }
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    <Type>Sender</Type>\n    <Code>{code}</Code>\n    \
             <Message>{message}</Message>\n  </Error>\n  <RequestId>{REQUEST_ID}</RequestId>\n</ErrorResponse>\n"
        )
    }
}

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const REQUEST_ID: &str = "6f1c1f0e-0000-4000-8000-e2e000000000";

fn identity(known: &Known, is_json: bool) -> String {
    let Known { account, arn, user_id, .. } = known;
    if is_json {
        let result = json!({"Account": account, "Arn": arn, "UserId": user_id});
        return json!({"GetCallerIdentityResponse": {
            "GetCallerIdentityResult": result,
            "ResponseMetadata": {"RequestId": REQUEST_ID},
        }})
        .to_string();
    }
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\">\n  <GetCallerIdentityResult>\n    <Arn>{arn}</Arn>\n    \
         <UserId>{user_id}</UserId>\n    <Account>{account}</Account>\n  </GetCallerIdentityResult>\n  \
         <ResponseMetadata>\n    <RequestId>{REQUEST_ID}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n"
    )
}

fn respond(code: u16, is_json: bool, body: String) -> anyhow::Result<Response<Bytes>> {
    let content_type = if is_json { "application/json" } else { "text/xml" };
    Ok(Response::builder().status(code).header("content-type", content_type).body(body.into())?)
}

// All values of a header, joined as the signature has them.
fn header(headers: &[(String, String)], name: &str) -> Option<String> {
    let values: Vec<&str> =
        headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.trim()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn check_scope(scope: &str, date: &str, host: &str) -> Result<(), Refusal> {
    let region = match host.split('.').collect::<Vec<_>>().as_slice() {
        ["sts", "amazonaws", "com"] => "us-east-1",
        ["sts" | "sts-fips", region, "amazonaws", "com"] | ["sts", region, "amazonaws", "com", "cn"] => {
            region
        }
        _ => return Err(Refusal::new("InvalidAction", "no STS has this host")),
    };
    let day = date.get(..8).unwrap_or_default();
    if scope == format!("{day}/{region}/sts/aws4_request") {
        return Ok(());
    }
    let message = format!("Credential should be scoped to a valid region, not '{scope}'. ");
    Err(Refusal::new("SignatureDoesNotMatch", message))
}

fn check_time(date: &str) -> Result<(), Refusal> {
    let now = Timestamp::now();
    let Ok(signed) =
        jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", date).and_then(|parsed| parsed.to_datetime())
    else {
        return Err(Refusal::new("IncompleteSignature", "Date must be in ISO-8601 'basic format'."));
    };
    let Ok(signed) = signed.to_zoned(jiff::tz::TimeZone::UTC) else {
        return Err(Refusal::new("IncompleteSignature", "Date must be in ISO-8601 'basic format'."));
    };
    let age = now.duration_since(signed.timestamp());
    let now = super::amz_date(now);
    if age > LIFE {
        let message = format!("Signature expired: {date} is now earlier than {now} - 15 min.");
        return Err(Refusal::new("SignatureDoesNotMatch", message));
    }
    if age < -SKEW {
        let message = format!("Signature not yet current: {date} is still later than {now} + 5 min.");
        return Err(Refusal::new("SignatureDoesNotMatch", message));
    }
    Ok(())
}
