//! Asks STS whose a presigned request is. Over TLS, at the host that was signed for, for this gate's cluster name; no redirect is
//! followed, and size and time are bounded.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;

use super::presigned::Presigned;

const WHOLE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(15);
const LARGEST: usize = 16 * 1024;
const CLUSTER_HEADER: &str = "x-k8s-aws-id";

/// What GetCallerIdentity says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Identity {
    /// Account, 12 digits.
    #[serde(rename = "Account")]
    pub account: String,
    /// Who: a session of a role, a user, root.
    #[serde(rename = "Arn")]
    pub arn: String,
    /// `<unique id>:<session>` for a session of a role.
    #[serde(rename = "UserId")]
    pub user_id: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "GetCallerIdentityResponse")]
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "GetCallerIdentityResult")]
    result: Identity,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(rename = "Error")]
    error: Code,
}

#[derive(Deserialize)]
struct Code {
    #[serde(rename = "Code")]
    code: String,
}

/// Why nobody is known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StsError {
    /// STS refuses the request.
    #[error("STS refuses: {0}")]
    Refused(Refused),
    /// STS did not say anything of use (F25).
    #[error("STS cannot be asked: {0}")]
    Unavailable(String),
}

/// For what STS refuses a presigned request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The temporary credentials have ended.
    #[error("the AWS credentials that signed the token have expired")]
    Expired,
    /// No such access key, or not with this session token.
    #[error("AWS does not know the access key that signed the token")]
    UnknownKey,
    /// Another key, another cluster name, or a changed URL.
    #[error("AWS finds the token's signature wrong")]
    Signature,
    /// Anything else.
    #[error("AWS refuses the token")]
    Other,
}

impl Refused {
    // None: it is no verdict about the token.
    fn of_code(code: &str) -> Option<Self> {
        match code {
            "ExpiredToken" | "ExpiredTokenException" => Some(Self::Expired),
            "InvalidClientTokenId" | "UnrecognizedClientException" => Some(Self::UnknownKey),
            "SignatureDoesNotMatch" => Some(Self::Signature),
            "Throttling" | "ThrottlingException" | "RequestLimitExceeded" | "SlowDown" => None,
            _ => Some(Self::Other),
        }
    }
}

/// The way to STS. Cloning shares its connections.
#[derive(Clone)]
pub struct Sts {
    client: Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, String>,
    endpoint: Option<Authority>,
}

impl Sts {
    /// Trusts the system's authorities. With an `endpoint` every request is sent there, still for the host that was signed.
    pub fn new(endpoint: Option<Authority>) -> Self {
        let client = tls().map(|tls| {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT));
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls)
                .https_only()
                .enable_http1()
                .wrap_connector(tcp);
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(4)
                .build(connector)
        });
        Self { client, endpoint }
    }

    /// Whose `presigned` is, if it is signed for `cluster`.
    ///
    /// # Errors
    /// [`StsError`]
    pub async fn ask(&self, presigned: &Presigned, cluster: &str) -> Result<Identity, StsError> {
        let slow = |_| StsError::Unavailable(format!("no answer within {} seconds", WHOLE.as_secs()));
        timeout(WHOLE, self.exchange(presigned, cluster)).await.map_err(slow)?
    }

    async fn exchange(&self, presigned: &Presigned, cluster: &str) -> Result<Identity, StsError> {
        let client = self.client.as_ref().map_err(|why| StsError::Unavailable(why.clone()))?;
        let request = self.request(presigned, cluster).map_err(unavailable)?;
        let answer = client.request(request).await.map_err(|error| {
            StsError::Unavailable(
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
            )
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body =
            body.map_err(|_| StsError::Unavailable("its answer is too large or incomplete".to_owned()))?;
        judge(status, &body.to_bytes())
    }

    fn request(&self, presigned: &Presigned, cluster: &str) -> Result<Request<Empty<Bytes>>, http::Error> {
        let signed_for: Authority = presigned.host().parse().map_err(http::Error::from)?;
        let uri = Uri::builder()
            .scheme(Scheme::HTTPS)
            .authority(self.endpoint.as_ref().unwrap_or(&signed_for).clone())
            .path_and_query(presigned.path_and_query())
            .build()?;
        Request::get(uri)
            .header(header::HOST, signed_for.as_str())
            .header(CLUSTER_HEADER, cluster)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("sallyport-proxy/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
    }
}

fn unavailable(error: impl ToString) -> StsError {
    StsError::Unavailable(error.to_string())
}

fn judge(status: StatusCode, body: &[u8]) -> Result<Identity, StsError> {
    if status == StatusCode::OK {
        let answer: Result<Answer, _> = serde_json::from_slice(body);
        let meaningless = |_| StsError::Unavailable("its answer is no GetCallerIdentity".to_owned());
        return answer.map(|answer| answer.response.result).map_err(meaningless);
    }
    let refused = if matches!(status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN) {
        let failure: Option<Failure> = serde_json::from_slice(body).ok();
        failure.and_then(|failure| Refused::of_code(&failure.error.code))
    } else {
        None
    };
    refused.map_or_else(
        || Err(StsError::Unavailable(format!("it answers {status}"))),
        |why| Err(StsError::Refused(why)),
    )
}

fn tls() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let trusting =
        builder.with_native_roots().map_err(|error| format!("no authority is trusted: {error}"))?;
    Ok(trusting.with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_names_somebody() {
        let good = r#"{"GetCallerIdentityResponse":{"GetCallerIdentityResult":{"Account":"1","Arn":"a","UserId":"u"},"ResponseMetadata":{"RequestId":"r"}}}"#;
        let identity = Identity { account: "1".to_owned(), arn: "a".to_owned(), user_id: "u".to_owned() };
        assert_eq!(judge(StatusCode::OK, good.as_bytes()), Ok(identity));
        let twice = good.replace(r#""Arn":"a""#, r#""Arn":"a","Arn":"b""#);
        let listed = good.replace(r#""Arn":"a""#, r#""Arn":["a"]"#);
        let cut = good.get(..good.len() - 1).expect("ASCII");
        for bad in ["", "{}", "null", "<xml/>", cut, &twice, &listed] {
            let answer = judge(StatusCode::OK, bad.as_bytes());
            assert!(matches!(answer, Err(StsError::Unavailable(_))), "{bad}: {answer:?}");
        }
        for status in [204, 206, 301, 302, 307, 401, 404, 429, 500, 502, 503] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = judge(status, good.as_bytes());
            assert!(matches!(answer, Err(StsError::Unavailable(_))), "{status}: {answer:?}");
        }
    }

    #[test]
    fn f25_a_refusal_is_a_verdict_and_throttling_is_none() {
        let says = |code: &str| {
            let body =
                format!(r#"{{"Error":{{"Code":"{code}","Message":"m","Type":"Sender"}},"RequestId":"r"}}"#);
            judge(StatusCode::FORBIDDEN, body.as_bytes())
        };
        for (code, why) in [
            ("ExpiredToken", Refused::Expired),
            ("InvalidClientTokenId", Refused::UnknownKey),
            ("SignatureDoesNotMatch", Refused::Signature),
            ("AccessDenied", Refused::Other),
            ("MissingAuthenticationToken", Refused::Other),
        ] {
            assert_eq!(says(code), Err(StsError::Refused(why)), "{code}");
        }
        for code in ["Throttling", "RequestLimitExceeded"] {
            assert!(matches!(says(code), Err(StsError::Unavailable(_))), "{code}");
        }
        assert!(matches!(judge(StatusCode::FORBIDDEN, b"<html>"), Err(StsError::Unavailable(_))));
    }
}
