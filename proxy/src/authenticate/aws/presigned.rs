//! What is inside a token of AWS: the presigned GetCallerIdentity, taken apart and written anew. What aws-iam-authenticator
//! checks, and stricter: one spelling of each parameter, no header signed but the two that the gate itself sends.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use super::hosts::Hosts;

/// How every token of AWS begins.
pub const PREFIX: &str = "k8s-aws-v1.";
/// AWS honours a presigned request for so long, whatever `X-Amz-Expires` says.
const LIFE: SignedDuration = SignedDuration::from_mins(15);
/// So much may the signer's clock be ahead, as for STS itself.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
const LONGEST: usize = 8 * 1024;
const DATE: &str = "%Y%m%dT%H%M%SZ";
const SIGNED_HEADERS: &str = "host;x-k8s-aws-id";

/// What is wrong with a token. The words hold no byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Longer than any that AWS makes.
    #[error("the token is too long")]
    TooLong,
    /// No base64, or cut short.
    #[error("the token is damaged: what follows `k8s-aws-v1.` is no base64url")]
    Encoding,
    /// No `https://<host>/?<query>`.
    #[error("the token holds no https URL of AWS STS with the path `/`")]
    Url,
    /// A host that is not in the list.
    #[error("the token's URL names a host that is no STS endpoint that this gate trusts")]
    Host,
    /// A parameter that a presigned GetCallerIdentity does not have.
    #[error("the token's URL has a parameter that a presigned GetCallerIdentity does not have")]
    Unknown,
    /// Twice the same.
    #[error("the token's URL has parameter `{0}` twice")]
    Doubled(&'static str),
    /// Not there; a token that was cut short too.
    #[error("the token's URL has no parameter `{0}`")]
    Missing(&'static str),
    /// Something that AWS does not write there.
    #[error("the token's URL has a wrong value in parameter `{0}`")]
    Value(&'static str),
    /// The cluster's name was not signed, or more than that.
    #[error("the token signs other headers than `host;x-k8s-aws-id`")]
    SignedHeaders,
    /// The credential is scoped to another region, day or service than host and date say.
    #[error("the token's credential is scoped to another region, day or service than its host and date")]
    Scope,
    /// Older than AWS honours.
    #[error("the token has expired: AWS honours it for 15 minutes")]
    Expired,
    /// Signed with a clock that is ahead.
    #[error("the token is dated in the future: the clock of the machine that made it is wrong")]
    Future,
}

/// A presigned GetCallerIdentity, of parts that each were understood.
#[derive(Clone, PartialEq, Eq)]
pub struct Presigned {
    host: String,
    credential: String,
    date: String,
    signed_at: Timestamp,
    expires: u16,
    security_token: Option<String>,
    signature: String,
}

impl Presigned {
    /// Takes a token apart. The clock is not looked at: see [`Presigned::check_time`].
    ///
    /// # Errors
    /// [`Fault`]: the first thing that is wrong.
    pub fn read(token: &str, hosts: &Hosts) -> Result<Self, Fault> {
        if token.len() > LONGEST {
            return Err(Fault::TooLong);
        }
        let inside = token.strip_prefix(PREFIX).ok_or(Fault::Encoding)?;
        let url = URL_SAFE_NO_PAD.decode(inside).map_err(|_| Fault::Encoding)?;
        let url = String::from_utf8(url).map_err(|_| Fault::Url)?;
        let (host, rest) =
            url.strip_prefix("https://").and_then(|rest| rest.split_once('/')).ok_or(Fault::Url)?;
        let region = hosts.region(host).ok_or(Fault::Host)?;
        let query = rest.strip_prefix('?').ok_or(Fault::Url)?;
        let mut fields = Fields::default();
        for pair in query.split('&') {
            fields.take(pair)?;
        }
        fields.is("Action", "GetCallerIdentity")?;
        fields.is("Version", "2011-06-15")?;
        fields.is("X-Amz-Algorithm", "AWS4-HMAC-SHA256")?;
        if fields.of("X-Amz-SignedHeaders")? != SIGNED_HEADERS {
            return Err(Fault::SignedHeaders);
        }
        let date = fields.of("X-Amz-Date")?.to_owned();
        let signed_at = time_of(&date).ok_or(Fault::Value("X-Amz-Date"))?;
        let credential = fields.valid("X-Amz-Credential", is_credential)?;
        check_scope(&credential, &date, region)?;
        Ok(Self {
            host: host.to_owned(),
            signed_at,
            credential,
            date,
            expires: expires(fields.of("X-Amz-Expires")?).ok_or(Fault::Value("X-Amz-Expires"))?,
            security_token: fields.optional("X-Amz-Security-Token", is_security_token)?,
            signature: fields.valid("X-Amz-Signature", is_signature)?,
        })
    }

    /// Whether AWS honours it now.
    ///
    /// # Errors
    /// If it has expired or is from the future.
    pub fn check_time(&self, now: Timestamp) -> Result<(), Fault> {
        if self.end() <= now {
            return Err(Fault::Expired);
        }
        if self.signed_at.duration_since(now) > AHEAD {
            return Err(Fault::Future);
        }
        Ok(())
    }

    /// When it ends.
    pub fn end(&self) -> Timestamp {
        self.signed_at.saturating_add(LIFE).unwrap_or(self.signed_at)
    }

    /// The host that it is signed for, one of [`Hosts`].
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Path and query, written anew from the parts. The signature covers a sorted query, so the order is ours.
    pub fn path_and_query(&self) -> String {
        let mut out = format!(
            "/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date={}\
             &X-Amz-Expires={}&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id",
            encoded(&self.credential),
            self.date,
            self.expires
        );
        if let Some(token) = &self.security_token {
            out.push_str("&X-Amz-Security-Token=");
            out.push_str(&encoded(token));
        }
        out.push_str("&X-Amz-Signature=");
        out.push_str(&self.signature);
        out
    }
}

impl std::fmt::Debug for Presigned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presigned")
            .field("host", &self.host)
            .field("date", &self.date)
            .finish_non_exhaustive()
    }
}

const PARAMETERS: [&str; 9] = [
    "Action",
    "Version",
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];

/// The parameters, each at most once, decoded.
#[derive(Default)]
struct Fields([Option<String>; PARAMETERS.len()]);

impl Fields {
    fn take(&mut self, pair: &str) -> Result<(), Fault> {
        let (name, value) = pair.split_once('=').ok_or(Fault::Unknown)?;
        let mut known = PARAMETERS.iter().zip(&mut self.0);
        let (&name, place) = known.find(|(known, _)| **known == name).ok_or(Fault::Unknown)?;
        if place.is_some() {
            return Err(Fault::Doubled(name));
        }
        *place = Some(decoded(value).ok_or(Fault::Value(name))?);
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&str> {
        PARAMETERS.iter().zip(&self.0).find(|(known, _)| **known == name)?.1.as_deref()
    }

    fn of(&self, name: &'static str) -> Result<&str, Fault> {
        self.get(name).ok_or(Fault::Missing(name))
    }

    fn is(&self, name: &'static str, wanted: &str) -> Result<(), Fault> {
        if self.of(name)? == wanted { Ok(()) } else { Err(Fault::Value(name)) }
    }

    fn valid(&self, name: &'static str, is_valid: fn(&str) -> bool) -> Result<String, Fault> {
        let value = self.of(name)?;
        if is_valid(value) { Ok(value.to_owned()) } else { Err(Fault::Value(name)) }
    }

    fn optional(&self, name: &'static str, is_valid: fn(&str) -> bool) -> Result<Option<String>, Fault> {
        self.get(name).is_some().then(|| self.valid(name, is_valid)).transpose()
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)
}

// RFC 3986's unreserved characters and percent-encoded ones, nothing else: `+` means one thing here and another there. What
// stood behind an escape may be any byte; each parameter says which it takes.
fn decoded(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let plain = if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else if is_unreserved(byte) {
            byte
        } else {
            return None;
        };
        out.push(char::from(plain));
    }
    Some(out)
}

fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_unreserved(byte) { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

fn time_of(date: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(DATE, date).ok()?;
    let is_one_spelling = time.strftime(DATE).to_string() == date;
    is_one_spelling.then(|| time.to_zoned(TimeZone::UTC).ok()).flatten().map(|time| time.timestamp())
}

// `<access key id>/<day>/<region>/sts/aws4_request`
fn is_credential(text: &str) -> bool {
    let access_key = text.split('/').next().unwrap_or_default();
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (16..=128).contains(&access_key.len()) && access_key.bytes().all(is_key)
}

fn check_scope(credential: &str, date: &str, region: &str) -> Result<(), Fault> {
    let day = date.get(..8).unwrap_or_default();
    let scope = credential.split_once('/').map(|(_key, scope)| scope);
    if scope == Some(&*format!("{day}/{region}/sts/aws4_request")) { Ok(()) } else { Err(Fault::Scope) }
}

fn expires(text: &str) -> Option<u16> {
    let seconds: u16 = text.parse().ok()?;
    ((1..=900).contains(&seconds) && seconds.to_string() == text).then_some(seconds)
}

fn is_security_token(text: &str) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_token)
}

fn is_signature(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
