//! What a token says about itself, unverified: used to word a refusal and to end what a verified token began.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;

/// Longest token that is looked at, in bytes.
pub const LONGEST: usize = 16 * 1024;

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The claims that are of use.
#[derive(Debug, Default, Deserialize)]
pub struct Claims {
    #[serde(default)]
    aud: Audience,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    sub: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Reads the payload of a JWT without checking its signature; `None` for anything else.
    pub fn peek(token: &str) -> Option<Claims> {
        let mut parts = token.split('.');
        let (header, payload, rest) = (parts.next()?, parts.next()?, parts.count());
        if rest != 1 {
            return None;
        }
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        serde_json::from_slice::<serde_json::Map<_, _>>(&decoded(header)?).ok()?;
        serde_json::from_slice(&decoded(payload)?).ok()
    }

    /// When the token ends.
    pub fn expires(&self) -> Option<Timestamp> {
        time(self.exp)
    }

    /// When the token begins to be good.
    pub fn not_before(&self) -> Option<Timestamp> {
        time(self.nbf)
    }

    /// Whose token it says it is; exactly as it says.
    pub fn issuer(&self) -> Option<&str> {
        self.iss.as_deref()
    }

    /// Whether it could be a token of a ServiceAccount for our audience.
    pub fn names_service_account(&self) -> bool {
        let ours = self.all_audiences().iter().any(|one| one == crds::names::TOKEN_AUDIENCE);
        ours && self.sub.as_deref().is_some_and(|sub| sub.starts_with(SERVICE_ACCOUNT))
    }

    /// Whose token it says it is, for a sentence, where it is no ServiceAccount's.
    pub fn foreign_issuer(&self) -> Option<String> {
        let foreign = !self.sub.as_deref().is_some_and(|sub| sub.starts_with(SERVICE_ACCOUNT));
        self.iss.as_deref().filter(|_| foreign).map(clean)
    }

    fn all_audiences(&self) -> &[String] {
        match &self.aud {
            Audience::None => &[],
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Many(many) => many,
        }
    }

    /// The audiences, joined for a sentence; control characters and quotes cannot be in it.
    pub fn audiences(&self) -> String {
        self.all_audiences().iter().take(4).map(|one| clean(one)).collect::<Vec<String>>().join(", ")
    }
}

fn time(seconds: Option<f64>) -> Option<Timestamp> {
    let seconds = seconds.filter(|seconds| (0.0..253_402_300_800.0).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    Timestamp::from_second(seconds as i64).ok()
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() && *c != '"').take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn claims_are_read_and_junk_is_not() {
        let one = Claims::peek(&jwt(r#"{"aud":"x","exp":1}"#)).expect("read");
        assert_eq!((one.audiences().as_str(), one.expires()), ("x", Timestamp::from_second(1).ok()));
        let many = Claims::peek(&jwt(r#"{"aud":["a","b\u001b[1m\""]}"#)).expect("read");
        assert_eq!(many.audiences(), "a, b[1m");
        assert_eq!(
            Claims::peek(&jwt(&format!(r#"{{"aud":"{}"}}"#, "a".repeat(500))))
                .expect("read")
                .audiences()
                .len(),
            128
        );
        let signed_twice = format!("{}.c2ln", jwt("{}"));
        for junk in [
            &*signed_twice,
            "",
            "a",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            "..",
            "a.e30.c",
            "W10.e30.c",
            &jwt("[]"),
            &jwt("{\"exp\":\"x\"}"),
        ] {
            assert!(Claims::peek(junk).is_none(), "`{junk}` was read");
        }
    }

    #[test]
    fn only_a_service_account_for_our_audience_is_reviewed_beside_its_issuer() {
        for (payload, expected) in [
            (r#"{"sub":"system:serviceaccount:a:b","aud":["x","sallyport"]}"#, true),
            (r#"{"sub":"system:serviceaccount:a:b","aud":"https://kubernetes.default.svc"}"#, false),
            (r#"{"sub":"system:serviceaccount:a:b"}"#, false),
            (r#"{"sub":"alice","aud":"sallyport"}"#, false),
            (r#"{"aud":"sallyport"}"#, false),
        ] {
            assert_eq!(
                Claims::peek(&jwt(payload)).expect("read").names_service_account(),
                expected,
                "{payload}"
            );
        }
    }
}
