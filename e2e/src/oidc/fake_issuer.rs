//! An issuer that signs whatever it is told to and answers as badly as it is told to: a fake, because a real issuer makes no
//! forged, stale or half-made token on command, and does not fall silent when asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::pki::Authority;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";

/// How the issuer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Good,
    /// It takes the question and never answers.
    Silent,
    /// It hangs up.
    Dead,
    /// HTML.
    Garbage,
    /// To another address of its own, where the right answer is.
    Redirect,
    /// The right answer, and megabytes of white space after it.
    Huge,
    /// Its discovery document names somebody else.
    OtherIssuer,
    /// Its discovery document names keys behind plain HTTP.
    PlainKeys,
    /// The right answer with a 500.
    Broken,
}

/// The kind of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 2048 bits.
    Rsa,
    /// ES256.
    P256,
    /// ES384.
    P384,
    /// EdDSA.
    Ed25519,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, Kind),
    Ed(Ed25519KeyPair),
}

struct Key {
    id: String,
    pair: Arc<Pair>,
    published: bool,
}

/// The issuer. Lives as long as its process.
#[derive(Clone)]
pub struct FakeIssuer(Arc<Inner>);

struct Inner {
    port: u16,
    ca: String,
    mood: Mutex<Mood>,
    keys: Mutex<Vec<Key>>,
    asked: AtomicUsize,
}

/// A token of any header and claims, signed by `sign`.
///
/// # Errors
/// When `sign` fails.
pub fn forge(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

impl FakeIssuer {
    /// Starts it on a free loopback port, on a thread of its own, with a certificate of its own authority and one RSA key `k1`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> anyhow::Result<Self> {
        crate::install_crypto();
        let authority = Authority::new("fake-issuer-ca")?;
        let pair = authority.server("fake-issuer", &["localhost"])?;
        let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
        listener.set_nonblocking(true)?;
        let inner = Inner {
            port: listener.local_addr()?.port(),
            ca: authority.cert().to_owned(),
            mood: Mutex::new(Mood::Good),
            keys: Mutex::default(),
            asked: AtomicUsize::new(0),
        };
        let issuer = Self(Arc::new(inner));
        issuer.add_key("k1", Kind::Rsa)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (serving, tls) = (issuer.clone(), TlsAcceptor::from(Arc::new(config)));
        std::thread::spawn(move || runtime.block_on(serving.serve(listener, tls)));
        Ok(issuer)
    }

    /// Its URL, as in claim `iss`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.0.port)
    }

    /// The authority of its certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.0.ca
    }

    /// How it answers from now on.
    pub fn is(&self, mood: Mood) {
        *self.0.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// How often it was asked for its discovery document.
    pub fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Makes and publishes a key.
    ///
    /// # Errors
    /// When key generation fails.
    pub fn add_key(&self, id: &str, kind: Kind) -> anyhow::Result<()> {
        let pair = match kind {
            Kind::Rsa => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048)?),
            Kind::P256 => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?, kind),
            Kind::P384 => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?, kind),
            Kind::Ed25519 => Pair::Ed(Ed25519KeyPair::generate()?),
        };
        let key = Key { id: id.to_owned(), pair: Arc::new(pair), published: true };
        self.keys().push(key);
        Ok(())
    }

    /// No longer publishes a key; it still signs.
    pub fn drop_key(&self, id: &str) {
        self.keys().iter_mut().filter(|key| key.id == id).for_each(|key| key.published = false);
    }

    /// A token: `claims` signed by the key `id` with `algorithm`.
    ///
    /// # Errors
    /// When the key is not there or cannot sign that way.
    pub fn token(&self, id: &str, algorithm: &str, claims: &Value) -> anyhow::Result<String> {
        forge(&json!({"alg": algorithm, "kid": id, "typ": "JWT"}), claims, |signed| {
            self.sign(id, algorithm, signed)
        })
    }

    /// A signature by the key `id`.
    ///
    /// # Errors
    /// When the key is not there or cannot sign that way.
    pub fn sign(&self, id: &str, algorithm: &str, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let random = SystemRandom::new();
        match &*self.pair(id)? {
            Pair::Rsa(pair) => {
                let encoding: &'static dyn aws_lc_rs::signature::RsaEncoding = match algorithm {
                    "RS256" => &RSA_PKCS1_SHA256,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    other => anyhow::bail!("an RSA key does not sign with {other}"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)?;
                Ok(signature)
            }
            Pair::Ec(pair, _) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Pair::Ed(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }

    /// An HMAC whose secret is the published modulus of the RSA key `id`: the classic confusion of key kinds.
    ///
    /// # Errors
    /// When the key is not there.
    pub fn hmac_by_public_key(&self, id: &str, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let jwk = jwk(id, &*self.pair(id)?)?;
        let secret = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().context("an RSA key")?)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        Ok(hmac::sign(&key, message).as_ref().to_vec())
    }

    fn keys(&self) -> std::sync::MutexGuard<'_, Vec<Key>> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pair(&self, id: &str) -> anyhow::Result<Arc<Pair>> {
        let pair = self.keys().iter().find(|key| key.id == id).map(|key| Arc::clone(&key.pair));
        pair.with_context(|| format!("there is no key {id}"))
    }

    async fn serve(self, listener: std::net::TcpListener, tls: TlsAcceptor) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (socket, _) = listener.accept().await?;
            let (issuer, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move { issuer.connection(socket, tls).await });
        }
    }

    async fn connection(self, socket: TcpStream, tls: TlsAcceptor) -> anyhow::Result<()> {
        let mut stream = tls.accept(socket).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?;
        let target = head.split(' ').nth(1).context("a request line")?;
        if target == DISCOVERY {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
        }
        let mood = *self.0.mood.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, more, body) = match (mood, target) {
            (Mood::Dead, _) => return Ok(()),
            (Mood::Silent, _) => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                return Ok(());
            }
            (Mood::Garbage, _) => ("200 OK", String::new(), "<html>Please log in</html>".to_owned()),
            (Mood::Redirect, DISCOVERY | KEYS) => {
                ("302 Found", format!("Location: {}/elsewhere{target}\r\n", self.url()), String::new())
            }
            (_, KEYS | "/elsewhere/keys") => ("200 OK", String::new(), self.key_set()?.to_string()),
            _ => ("200 OK", String::new(), self.discovery(mood).to_string()),
        };
        let status = if mood == Mood::Broken { "500 Internal Server Error" } else { status };
        let body = if mood == Mood::Huge { body + &" ".repeat(8 << 20) } else { body };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        Ok(stream.shutdown().await?)
    }

    fn discovery(&self, mood: Mood) -> Value {
        let url = self.url();
        let issuer = if mood == Mood::OtherIssuer { "https://issuer.example" } else { &url };
        let keys = if mood == Mood::PlainKeys { url.replace("https:", "http:") } else { url.clone() };
        json!({"issuer": issuer, "jwks_uri": format!("{keys}{KEYS}"), "response_types_supported": ["id_token"]})
    }

    fn key_set(&self) -> anyhow::Result<Value> {
        let keys = self.keys();
        let published = keys.iter().filter(|key| key.published).map(|key| jwk(&key.id, &key.pair));
        Ok(json!({"keys": published.collect::<anyhow::Result<Vec<Value>>>()?}))
    }
}

fn jwk(id: &str, pair: &Pair) -> anyhow::Result<Value> {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Ok(match pair {
        Pair::Rsa(pair) => {
            // RSAPublicKey in DER (RFC 8017 A.1.1): two lengths and a sign byte before the 256 bytes of the modulus.
            let modulus = pair.public_key().as_ref().get(9..265).context("a key of 2048 bits")?;
            let (n, e) = (modulus.to_vec(), [1, 0, 1]);
            json!({"kty": "RSA", "use": "sig", "kid": id, "n": text(&n), "e": text(&e)})
        }
        Pair::Ec(pair, kind) => {
            let point = pair.public_key().as_ref();
            let (x, y) = point.get(1..).context("a point")?.split_at((point.len() - 1) / 2);
            let curve = if *kind == Kind::P384 { "P-384" } else { "P-256" };
            json!({"kty": "EC", "use": "sig", "kid": id, "crv": curve, "x": text(x), "y": text(y)})
        }
        Pair::Ed(pair) => {
            json!({"kty": "OKP", "use": "sig", "kid": id, "crv": "Ed25519", "x": text(pair.public_key().as_ref())})
        }
    })
}
