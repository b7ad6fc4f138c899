//! An issuer's public keys, each with the algorithms that it is for: the key decides, never the token.
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::jws::{Algorithm, Jws};

const MOST: usize = 100;
/// 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The keys of an issuer. Two of one `kid` are both tried: both are the issuer's.
#[derive(Debug, Default)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: String,
    /// The one algorithm that the issuer names for it; any of its kind where it names none.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
    /// The point, uncompressed.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// RFC 7517, as far as it is of use.
#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// What a token's signature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Made by the issuer.
    Good,
    /// Not made by the key that the token names.
    Bad,
    /// Made in a way that the key is not for.
    OtherAlgorithm,
    /// The issuer has no key of that name.
    UnknownKey,
}

impl Keys {
    /// Reads a JWK set. Keys that sign nothing for us are left out: for encryption, symmetric, of an unknown kind.
    /// `None` if it is none.
    pub fn read(json: &[u8]) -> Option<Keys> {
        let set: Value = serde_json::from_slice(json).ok()?;
        let keys = set.get("keys")?.as_array()?;
        Some(Keys(keys.iter().take(MOST).filter_map(Key::read).collect()))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Checks a token's signature.
    pub fn verify(&self, token: &Jws<'_>) -> Signature {
        let mut found = Signature::UnknownKey;
        for key in self.0.iter().filter(|key| key.id == token.key_id) {
            match key.verify(token) {
                Signature::Good => return Signature::Good,
                Signature::Bad => found = Signature::Bad,
                other if found == Signature::UnknownKey => found = other,
                Signature::OtherAlgorithm | Signature::UnknownKey => {}
            }
        }
        found
    }
}

impl Key {
    fn read(json: &Value) -> Option<Key> {
        let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
        let signs = jwk.r#use.as_deref().is_none_or(|to| to == "sig");
        let verifies = jwk.key_ops.as_ref().is_none_or(|all| all.iter().any(|one| one == "verify"));
        if !signs || !verifies {
            return None;
        }
        let material = Material::read(&jwk)?;
        let only = match &jwk.alg {
            None => None,
            Some(name) => Some(Algorithm::named(name).filter(|one| material.is_for(*one))?),
        };
        Some(Key { id: jwk.kid, only, material })
    }

    fn verify(&self, token: &Jws<'_>) -> Signature {
        let algorithm = token.algorithm;
        if self.only.is_some_and(|only| only != algorithm) || !self.material.is_for(algorithm) {
            return Signature::OtherAlgorithm;
        }
        if self.material.verifies(algorithm, token.signed.as_bytes(), &token.signature) {
            Signature::Good
        } else {
            Signature::Bad
        }
    }
}

impl Material {
    fn read(jwk: &Jwk) -> Option<Material> {
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_ref()?).ok();
        let point = |half: usize| {
            let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
            let whole = [&[4], x.as_slice(), &y].concat();
            (x.len() == half && y.len() == half).then_some(whole)
        };
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let n = bytes(&jwk.n)?;
                RSA_BYTES.contains(&n.len()).then_some(Material::Rsa { n, e: bytes(&jwk.e)? })
            }
            ("EC", Some("P-256")) => point(32).map(Material::P256),
            ("EC", Some("P-384")) => point(48).map(Material::P384),
            ("OKP", Some("Ed25519")) => bytes(&jwk.x).filter(|x| x.len() == 32).map(Material::Ed25519),
            _ => None,
        }
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Material::Rsa { .. } => rsa(algorithm).is_some(),
            Material::P256(_) => algorithm == Algorithm::ES256,
            Material::P384(_) => algorithm == Algorithm::ES384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDSA,
        }
    }

    fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let by = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key).verify(signed, signature).is_ok()
        };
        match self {
            Material::Rsa { n, e } => rsa(algorithm)
                .is_some_and(|how| RsaPublicKeyComponents { n, e }.verify(how, signed, signature).is_ok()),
            Material::P256(point) => by(&ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => by(&ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => by(&ED25519, key),
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    fn token(algorithm: Algorithm, key_id: &str, signature: Vec<u8>) -> Jws<'static> {
        Jws { key_id: key_id.to_owned(), algorithm, claims: Default::default(), signed: "a.b", signature }
    }

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn set(keys: &[Value]) -> Keys {
        Keys::read(json!({"keys": keys}).to_string().as_bytes()).expect("a set")
    }

    #[test]
    fn b122_the_key_decides_on_the_algorithm() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = pair.public_key().as_ref().to_vec();
        let jwk = |more: Value| {
            let mut jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": b64(&point[1..33]), "y": b64(&point[33..])});
            jwk.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            jwk
        };
        let signature = pair.sign(&SystemRandom::new(), b"a.b").expect("signs").as_ref().to_vec();
        let good = token(Algorithm::ES256, "k", signature.clone());
        for more in [json!({}), json!({"alg": "ES256", "use": "sig"}), json!({"key_ops": ["verify"]})] {
            assert_eq!(set(&[jwk(more.clone())]).verify(&good), Signature::Good, "{more}");
        }
        for more in [
            json!({"use": "enc"}),
            json!({"key_ops": ["encrypt"]}),
            json!({"alg": "RS256"}),
            json!({"alg": "none"}),
            json!({"kid": ""}),
            json!({"kid": "other"}),
            json!({"crv": "P-384"}),
            json!({"x": "AA"}),
            json!({"y": b64(&[&point[33..], &[0]].concat())}),
            json!({"kty": "oct", "k": "AA"}),
        ] {
            assert_eq!(set(&[jwk(more.clone())]).verify(&good), Signature::UnknownKey, "{more}");
        }
        let keys = set(&[jwk(json!({}))]);
        for algorithm in [Algorithm::RS256, Algorithm::ES384, Algorithm::EdDSA, Algorithm::PS512] {
            assert_eq!(keys.verify(&token(algorithm, "k", signature.clone())), Signature::OtherAlgorithm);
        }
        let damaged = token(Algorithm::ES256, "k", signature[1..].to_vec());
        assert_eq!(keys.verify(&damaged), Signature::Bad);
        let other = Ed25519KeyPair::generate().expect("a key");
        let other =
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": b64(other.public_key().as_ref())});
        assert_eq!(set(&[other.clone(), jwk(json!({}))]).verify(&good), Signature::Good, "one `kid` twice");
        assert_eq!(set(&[other]).verify(&good), Signature::OtherAlgorithm);
        assert!(Keys::read(b"{}").is_none() && Keys::read(b"<html>").is_none());
    }

    #[test]
    fn b122_weak_and_broken_keys_and_those_beyond_the_hundredth_are_none() {
        let of = |key: Value| set(&[key]).count();
        let rsa = |bytes: usize| json!({"kty": "RSA", "kid": "k", "e": "AQAB", "n": b64(&vec![0xc5; bytes])});
        assert_eq!([128, 255, 256, 1024, 1025].map(|bytes| of(rsa(bytes))), [0, 0, 1, 1, 0]);
        let ed25519 =
            |bytes: usize| json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": b64(&vec![7; bytes])});
        assert_eq!([31, 32, 33].map(|bytes| of(ed25519(bytes))), [0, 1, 0]);
        assert_eq!(set(&vec![ed25519(32); MOST + 1]).count(), MOST);
        let for_one =
            set(&[json!({"kty": "RSA", "kid": "k", "alg": "RS256", "e": "AQAB", "n": b64(&[0xc5; 256])})]);
        for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
            assert_eq!(for_one.verify(&token(algorithm, "k", vec![0; 256])), Signature::OtherAlgorithm);
        }
        assert_eq!(for_one.verify(&token(Algorithm::RS256, "k", vec![0; 256])), Signature::Bad);
    }
}
