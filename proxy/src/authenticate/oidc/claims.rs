//! The claims that every token must have, held against issuer and clock. Strict: a claim of a wrong type is a wrong claim.
use jiff::Timestamp;
use serde_json::{Map, Value};
use thiserror::Error;

/// Clocks may differ by this many seconds where a token begins. Where it ends there is no grace.
const LEEWAY: i64 = 5;

/// What the registered claims say, verified.
#[derive(Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whom the issuer vouches for.
    pub sub: String,
    /// For whom the token is.
    pub audiences: Vec<String>,
    /// When it ends.
    pub expires: Timestamp,
}

/// What is wrong with a claim.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClaimFault {
    /// Not there, or of a wrong type.
    #[error("the token has no usable claim `{0}`")]
    Unusable(&'static str),
    /// Of somebody else.
    #[error("the token is not of this issuer (claim `iss`)")]
    Issuer,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Not begun.
    #[error("the token is not valid yet (claim `nbf`)")]
    NotYet,
    /// Made by another clock.
    #[error("the token was issued in the future (claim `iat`); the clocks of issuer and gate differ")]
    Future,
}

impl Registered {
    /// Reads and checks them.
    ///
    /// # Errors
    /// [`ClaimFault`]
    pub fn check(
        claims: &Map<String, Value>,
        issuer: &str,
        now: Timestamp,
    ) -> Result<Registered, ClaimFault> {
        if text(claims, "iss")? != issuer {
            return Err(ClaimFault::Issuer);
        }
        let sub = text(claims, "sub")?.to_owned();
        let audiences = audiences(claims)?;
        let expires = time(claims, "exp")?.ok_or(ClaimFault::Unusable("exp"))?;
        let begins = time(claims, "nbf")?;
        let issued = time(claims, "iat")?;
        let later = |at: Option<Timestamp>| at.is_some_and(|at| at.as_second() > now.as_second() + LEEWAY);
        if expires <= now {
            return Err(ClaimFault::Expired);
        }
        if later(begins) {
            return Err(ClaimFault::NotYet);
        }
        if later(issued) {
            return Err(ClaimFault::Future);
        }
        Ok(Registered { sub, audiences, expires })
    }

    /// Whether one of the token's audiences is demanded.
    pub fn is_for(&self, demanded: &[String]) -> bool {
        self.audiences.iter().any(|audience| demanded.contains(audience))
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, ClaimFault> {
    let text = claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or(ClaimFault::Unusable(name))
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, ClaimFault> {
    let unusable = ClaimFault::Unusable("aud");
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(all)) if !all.is_empty() => {
            all.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or(unusable)
        }
        _ => Err(unusable),
    }
}

/// Seconds since 1970, whole or not (RFC 7519 2); a fraction is cut off.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, ClaimFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().or_else(|| {
        let seconds = value.as_f64().filter(|seconds| (0.0..253_402_300_800.0).contains(seconds))?;
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        Some(seconds as i64)
    });
    let at = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map(Some).ok_or(ClaimFault::Unusable(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;

    fn check(change: &[(&str, Value)]) -> Result<Registered, ClaimFault> {
        let mut claims = json!({"iss": "https://i", "sub": "s", "aud": ["a", "b"], "exp": NOW + 60, "nbf": NOW, "iat": NOW});
        for (name, value) in change {
            if *value == json!("(none)") {
                claims.as_object_mut().expect("object").remove(*name);
            } else {
                claims[*name] = value.clone();
            }
        }
        let now = Timestamp::from_second(NOW).expect("a time");
        Registered::check(claims.as_object().expect("object"), "https://i", now)
    }

    #[test]
    fn b122_f16_each_registered_claim_is_held_against_issuer_and_clock() {
        let good = check(&[]).expect("good");
        assert_eq!((good.sub.as_str(), good.expires.as_second()), ("s", NOW + 60));
        assert!(good.is_for(&["b".to_owned()]) && !good.is_for(&["c".to_owned()]) && !good.is_for(&[]));
        for (name, value) in [
            ("nbf", json!("(none)")),
            ("iat", json!("(none)")),
            ("iat", json!(NOW + 5)),
            ("nbf", json!(NOW + 5)),
            ("exp", json!(NOW + 1)),
            ("exp", json!(1_800_000_060.7)),
            ("aud", json!("a")),
            ("iat", json!(NOW - 600)),
        ] {
            assert!(check(&[(name, value.clone())]).is_ok(), "{name}={value}");
        }
        let none = json!("(none)");
        for (name, value, fault) in [
            ("iss", json!("https://i/"), ClaimFault::Issuer),
            ("iss", json!("HTTPS://i"), ClaimFault::Issuer),
            ("iss", json!(["https://i"]), ClaimFault::Unusable("iss")),
            ("iss", none.clone(), ClaimFault::Unusable("iss")),
            ("sub", none.clone(), ClaimFault::Unusable("sub")),
            ("sub", json!(""), ClaimFault::Unusable("sub")),
            ("sub", json!(7), ClaimFault::Unusable("sub")),
            ("aud", none.clone(), ClaimFault::Unusable("aud")),
            ("aud", json!([]), ClaimFault::Unusable("aud")),
            ("aud", json!(["a", 7]), ClaimFault::Unusable("aud")),
            ("aud", json!({"a": 1}), ClaimFault::Unusable("aud")),
            ("exp", none, ClaimFault::Unusable("exp")),
            ("exp", json!("2999999999"), ClaimFault::Unusable("exp")),
            ("exp", json!(null), ClaimFault::Unusable("exp")),
            ("exp", json!(1e300), ClaimFault::Unusable("exp")),
            ("exp", json!(NOW), ClaimFault::Expired),
            ("exp", json!(NOW - 600), ClaimFault::Expired),
            ("exp", json!(0), ClaimFault::Expired),
            ("nbf", json!("now"), ClaimFault::Unusable("nbf")),
            ("nbf", json!(NOW + 6), ClaimFault::NotYet),
            ("nbf", json!(NOW + 600), ClaimFault::NotYet),
            ("iat", json!(true), ClaimFault::Unusable("iat")),
            ("iat", json!(NOW + 600), ClaimFault::Future),
        ] {
            assert_eq!(check(&[(name, value.clone())]).expect_err("refused"), fault, "{name}={value}");
        }
    }
}
