//! Signature Version 4 of presigned requests, written out: to make any URL, good or forged, and to check one.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, ToSpan};

use super::amz_date;

/// The keys of a caller of AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id; not secret.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
    /// Session token, for temporary credentials.
    pub session_token: Option<String>,
}

impl Credentials {
    /// Keys that nobody has had; `session_token` as it is.
    pub fn random(session_token: Option<&str>) -> Self {
        let mut bytes = [0; 30];
        // Fails on no platform that the tests run on; keys of zeros would be refused as known twice.
        let _filled = aws_lc_rs::rand::fill(&mut bytes);
        let text = hex(&bytes);
        let prefix = if session_token.is_some() { "ASIA" } else { "AKIA" };
        let (access, secret) = text.split_at(16);
        Self {
            access_key: format!("{prefix}{}", access.to_ascii_uppercase()),
            secret_key: secret.to_owned(),
            session_token: session_token.map(str::to_owned),
        }
    }

    /// The variables that AWS programs read them from.
    pub fn env(&self) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> =
            [("AWS_ACCESS_KEY_ID", &self.access_key), ("AWS_SECRET_ACCESS_KEY", &self.secret_key)]
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .into();
        env.extend(self.session_token.iter().map(|token| ("AWS_SESSION_TOKEN".to_owned(), token.clone())));
        env
    }
}

/// A presigned GetCallerIdentity that can be bent before it is signed, and after.
#[derive(Clone, Debug)]
pub struct Presigned {
    /// Host that is signed and named in the URL.
    pub host: String,
    /// Region of the credential's scope.
    pub region: String,
    /// Signed headers beside `host`, names in lower case.
    pub headers: Vec<(String, String)>,
    /// When it was signed.
    pub date: Timestamp,
    /// Query parameters before the credential's own, decoded.
    pub parameters: Vec<(String, String)>,
    /// `X-Amz-Expires`, in seconds.
    pub expires: String,
}

impl Presigned {
    /// What `aws eks get-token --cluster-name cluster --region region` signs.
    pub fn new(cluster: &str, region: &str) -> Self {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            host: format!("sts.{region}.amazonaws.com"),
            region: region.to_owned(),
            headers: vec![pair("x-k8s-aws-id", cluster)],
            date: Timestamp::now(),
            parameters: vec![pair("Action", "GetCallerIdentity"), pair("Version", "2011-06-15")],
            expires: "60".to_owned(),
        }
    }

    /// The same, signed so many minutes from now; negative in the past.
    #[must_use]
    pub fn minutes_from_now(mut self, minutes: i64) -> Self {
        self.date = Timestamp::now() + minutes.minutes();
        self
    }

    /// The URL, signed.
    pub fn url(&self, credentials: &Credentials) -> String {
        let date = amz_date(self.date);
        let scope = format!("{}/{}/sts/aws4_request", date.get(..8).unwrap_or_default(), self.region);
        let mut signed = vec![("host".to_owned(), self.host.clone())];
        signed.extend(self.headers.clone());
        signed.sort();
        let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
        let mut query = self.parameters.clone();
        let mut add = |name: &str, value: &str| query.push((name.to_owned(), value.to_owned()));
        add("X-Amz-Algorithm", ALGORITHM);
        add("X-Amz-Credential", &format!("{}/{scope}", credentials.access_key));
        add("X-Amz-Date", &date);
        add("X-Amz-Expires", &self.expires);
        add("X-Amz-SignedHeaders", &names.join(";"));
        if let Some(token) = &credentials.session_token {
            add("X-Amz-Security-Token", token);
        }
        let canonical = canonical_request(&query, &signed);
        let signature = signature(&credentials.secret_key, &scope, &date, &canonical);
        query.push(("X-Amz-Signature".to_owned(), signature));
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        format!("https://{}/?{}", self.host, query.join("&"))
    }

    /// The token: the URL in base64 behind its prefix.
    pub fn token(&self, credentials: &Credentials) -> String {
        token_of(&self.url(credentials))
    }
}

/// The name of the algorithm.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// `k8s-aws-v1.` and a URL in base64.
pub fn token_of(url: &str) -> String {
    format!("k8s-aws-v1.{}", URL_SAFE_NO_PAD.encode(url))
}

/// The canonical request of a GET of `/` without a body. `query` is decoded and without the signature; `headers` are those signed.
pub fn canonical_request(query: &[(String, String)], headers: &[(String, String)]) -> String {
    let mut query: Vec<String> =
        query.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    query.sort();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let empty = hex(digest(&SHA256, b"").as_ref());
    format!("GET\n/\n{}\n{lines}\n{}\n{empty}", query.join("&"), names.join(";"))
}

/// The signature, in hex. `scope` is `<day>/<region>/<service>/aws4_request`.
pub fn signature(secret_key: &str, scope: &str, date: &str, canonical_request: &str) -> String {
    let hash = hex(digest(&SHA256, canonical_request.as_bytes()).as_ref());
    let mut key = format!("AWS4{secret_key}").into_bytes();
    for part in scope.split('/') {
        key = mac(&key, part);
    }
    hex(&mac(&key, &format!("{ALGORITHM}\n{date}\n{scope}\n{hash}")))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Undoes percent-encoding and `+`; what is no encoding stays.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = text.get(at + 1..at + 3).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match (byte, pair) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of a query, decoded, in order.
pub fn parameters(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected bytes are what `aws eks get-token` printed for these keys and these times.
    #[test]
    fn the_signature_is_that_of_the_stock_command() {
        let credentials = Credentials {
            access_key: "AKIAEXAMPLE".to_owned(),
            secret_key: "s".to_owned(),
            session_token: None,
        };
        let date = "2026-11-21T17:08:31Z".parse().expect("a time");
        let url = Presigned { date, ..Presigned::new("sallyport.hub-prod", "eu-west-1") }.url(&credentials);
        let expected = "7e50d10ba83baaa1a0ae5602f3a3dee77ac9061e552f31acbb59a91955f4d6e1";
        assert!(url.ends_with(&format!("&X-Amz-Signature={expected}")), "{url}");
    }

    #[test]
    fn a_session_token_is_signed_as_the_stock_command_signs_it() {
        let credentials = Credentials {
            access_key: "AKIAEXAMPLE".to_owned(),
            secret_key: "s".to_owned(),
            session_token: Some("aa+/==".to_owned()),
        };
        let date = "2026-11-21T17:08:32Z".parse().expect("a time");
        let url = Presigned { date, ..Presigned::new("sallyport.hub-prod", "us-east-1") }.url(&credentials);
        let expected = "b98b669124e920f863ba47b842aa8f5297c72e292a5fbcf7004012e96ab9def3";
        assert!(url.ends_with(&format!("&X-Amz-Signature={expected}")), "{url}");
    }
}
