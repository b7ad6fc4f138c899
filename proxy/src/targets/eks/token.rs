//! The token that an EKS cluster takes: a presigned GetCallerIdentity, as `aws eks get-token` makes it.
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderValue;

use super::super::{Fault, NoAccess};
use crate::upstream::bearer;

/// As `aws eks get-token` has it. The cluster counts fifteen minutes from the date in the URL.
const EXPIRES: Duration = Duration::from_secs(60);
const PREFIX: &str = "k8s-aws-v1.";

/// A bearer token for the cluster of this name. It works nowhere else: the name is signed.
pub(super) fn presigned(
    credentials: &Credentials,
    region: &str,
    cluster: &str,
) -> Result<HeaderValue, NoAccess> {
    let url = url(credentials, region, cluster, SystemTime::now()).map_err(|error| failed(&*error))?;
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(url));
    bearer(&token).ok_or_else(|| failed(&std::fmt::Error))
}

fn failed(error: &(dyn std::error::Error + Send + Sync)) -> NoAccess {
    NoAccess { fault: Fault::Unauthorized, message: format!("the token cannot be signed: {error}") }
}

fn url(
    credentials: &Credentials,
    region: &str,
    cluster: &str,
    now: SystemTime,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let url = format!("https://{}/?Action=GetCallerIdentity&Version=2011-06-15", host(region));
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(EXPIRES);
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(settings)
        .build()?
        .into();
    let named = [("x-k8s-aws-id", cluster)];
    let signable = SignableRequest::new("GET", &url, named.into_iter(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    let mut request = http::Request::get(&url).body(())?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request.uri().to_string())
}

/// The regional endpoint: a cluster takes no other partition's.
fn host(region: &str) -> String {
    let suffix = match region {
        _ if region.starts_with("cn-") => "amazonaws.com.cn",
        _ if region.starts_with("us-iso-") => "c2s.ic.gov",
        _ if region.starts_with("us-isob-") => "sc2s.sgov.gov",
        _ => "amazonaws.com",
    };
    format!("sts.{region}.{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials::new("AKIDEXAMPLE", "secret", Some("session/+token".to_owned()), None, "test")
    }

    #[test]
    fn a_token_is_what_aws_eks_get_token_makes() {
        let value = presigned(&credentials(), "eu-central-1", "prod").expect("signed");
        assert!(value.is_sensitive());
        let text = value.to_str().expect("text").strip_prefix("Bearer k8s-aws-v1.").expect("prefix");
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(text).expect("base64")).expect("text");
        let (base, query) = url.split_once('?').expect("a query");
        assert_eq!(base, "https://sts.eu-central-1.amazonaws.com/");
        let keys: Vec<&str> = query.split('&').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
        for key in [
            "Action",
            "Version",
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Date",
            "X-Amz-Expires",
            "X-Amz-SignedHeaders",
            "X-Amz-Signature",
            "X-Amz-Security-Token",
        ] {
            assert_eq!(keys.iter().filter(|found| **found == key).count(), 1, "{key} in {url}");
        }
        assert!(query.contains("X-Amz-SignedHeaders=host%3Bx-k8s-aws-id"), "{url}");
        assert!(query.contains("X-Amz-Expires=60"), "{url}");
    }

    #[test]
    fn the_cluster_and_the_moment_are_signed() {
        let signature = |cluster: &str, seconds: u64| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
            let url = url(&credentials(), "us-east-1", cluster, at).expect("signed");
            url.split("X-Amz-Signature=").nth(1).expect("a signature")[..64].to_owned()
        };
        assert_eq!(signature("prod", 0), signature("prod", 0));
        assert_ne!(signature("prod", 0), signature("prod2", 0));
        assert_ne!(signature("prod", 0), signature("prod", 1));
    }

    #[test]
    fn each_partition_has_its_own_sts() {
        for (region, host_name) in [
            ("us-east-1", "sts.us-east-1.amazonaws.com"),
            ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
            ("us-iso-east-1", "sts.us-iso-east-1.c2s.ic.gov"),
            ("us-isob-east-1", "sts.us-isob-east-1.sc2s.sgov.gov"),
        ] {
            assert_eq!(host(region), host_name);
        }
    }
}
