//! The bytes of a signed token, read strictly; nothing of them is believed yet.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::token::LONGEST;

const LONGEST_KEY_ID: usize = 256;

/// The algorithms that there are here: those with a public key (RFC 7518 3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA over P-256 with SHA-256.
    ES256,
    /// ECDSA over P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    const ALL: [Algorithm; 9] = {
        use Algorithm::*;
        [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
    };

    /// The one of that name, exactly.
    pub fn named(name: &str) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|one| format!("{one:?}") == name)
    }
}

/// A signed token in its compact form.
#[derive(Debug)]
pub struct Jws<'a> {
    /// Names the issuer's key. It chooses among the issuer's own keys, nothing else; `jku`, `x5u`, `jwk` are never looked at.
    pub key_id: String,
    /// What the signature claims to be; the key decides whether it may.
    pub algorithm: Algorithm,
    /// The claims.
    pub claims: Map<String, Value>,
    /// What is signed.
    pub signed: &'a str,
    /// The signature.
    pub signature: Vec<u8>,
}

/// What is wrong with a token's form. No byte of a signature is in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Longer than [`LONGEST`].
    #[error("the token is longer than {LONGEST} bytes")]
    TooLong,
    /// Not three parts of base64 with JSON objects in the first two.
    #[error("the token is damaged or cut off")]
    Damaged,
    /// The header has no usable `kid`.
    #[error("the token's header does not name its key (`kid`)")]
    NoKey,
    /// `none`, HMAC, or one that nobody knows.
    #[error("the token's algorithm `{0}` is not accepted")]
    Algorithm(String),
    /// A header that must be understood (RFC 7515 4.1.11).
    #[error("the token's header demands an extension (`crit`) that is not known here")]
    Critical,
}

impl<'a> Jws<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`Fault`]
    pub fn read(token: &'a str) -> Result<Jws<'a>, Fault> {
        if token.len() > LONGEST {
            return Err(Fault::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Fault::Damaged)?;
        // A further dot is no base64.
        let (header, payload) = signed.split_once('.').ok_or(Fault::Damaged)?;
        let header = object(header)?;
        let algorithm = algorithm(&header)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(Fault::Critical);
        }
        let key_id = header.get("kid").and_then(Value::as_str).unwrap_or_default();
        if key_id.is_empty() || key_id.len() > LONGEST_KEY_ID {
            return Err(Fault::NoKey);
        }
        let claims = object(payload)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Fault::Damaged)?;
        if signature.is_empty() {
            return Err(Fault::Damaged);
        }
        Ok(Jws { key_id: key_id.to_owned(), algorithm, claims, signed, signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Fault::Damaged)?;
    match parsing::json::read(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(Fault::Damaged),
    }
}

fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, Fault> {
    let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    Algorithm::named(name).ok_or_else(|| {
        let clean: String = name.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
        Fault::Algorithm(clean)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn b122_only_a_whole_signed_token_is_read() {
        let good = token(r#"{"alg":"RS256","kid":"a","jku":"https://evil"}"#, r#"{"iss":"i"}"#);
        assert_eq!(Jws::read(&good).expect("read").key_id, "a");
        let algorithm = |name: &str| Fault::Algorithm(name.to_owned());
        for (token, fault) in [
            (token(r#"{"alg":"none","kid":"a"}"#, "{}"), algorithm("none")),
            (token(r#"{"alg":"HS256","kid":"a"}"#, "{}"), algorithm("HS256")),
            (token(r#"{"alg":"rs256","kid":"a"}"#, "{}"), algorithm("rs256")),
            (token(r#"{"kid":"a"}"#, "{}"), algorithm("")),
            (token(r#"{"alg":"RS256"}"#, "{}"), Fault::NoKey),
            (token(r#"{"alg":"RS256","kid":""}"#, "{}"), Fault::NoKey),
            (token(r#"{"alg":"RS256","kid":["a"]}"#, "{}"), Fault::NoKey),
            (token(&format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "a".repeat(257)), "{}"), Fault::NoKey),
            (token(r#"{"alg":"RS256","kid":"a","crit":["exp"]}"#, "{}"), Fault::Critical),
            (token(r#"{"alg":"RS256","kid":"a","b64":false}"#, "{}"), Fault::Critical),
            (token(r#"{"alg":"RS256","alg":"RS256","kid":"a"}"#, "{}"), Fault::Damaged),
            (token(r#"{"alg":"RS256","kid":"a"}"#, r#"{"sub":"a","sub":"b"}"#), Fault::Damaged),
            (token(r#"{"alg":"RS256","kid":"a"}"#, "[]"), Fault::Damaged),
            (format!("{good}.x"), Fault::Damaged),
            (format!("{good}{good}"), Fault::Damaged),
            (good[..good.len() - 4].to_owned(), Fault::Damaged),
            (good.replace("c2ln", ""), Fault::Damaged),
            (good.replace("c2ln", "c2ln="), Fault::Damaged),
            (format!("{good}{}", "A".repeat(LONGEST)), Fault::TooLong),
            (String::new(), Fault::Damaged),
        ] {
            assert_eq!(Jws::read(&token).expect_err("refused"), fault, "{token}");
        }
    }
}
