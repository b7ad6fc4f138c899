//! Tokens of ServiceAccounts that are wrong in one thing each, signed with the API server's own key where that is not the thing.

use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::oidc::forge;
use e2e::wire;
use e2e::{Agent, eventually};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const MOUNT: &str = "; next: mount a projected token with audience sallyport";
/// What the words say of a token whose keys the API server does not have.
const FOREIGN: &str = "the token's signature is of no key of this cluster";

/// Of the second part of a token, or of its first.
fn decoded(token: &str, part: usize) -> anyhow::Result<Value> {
    let part = token.split('.').nth(part).context("a part")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

async fn get((agent, url): (&Agent, &str), token: &str) -> anyhow::Result<(u16, String)> {
    let request = format!("GET /api HTTP/1.1\r\nHost: sallyport\r\nAuthorization: Bearer {token}\r\n\r\n");
    let answer = wire::exchange(url, agent.ca(), request.as_bytes()).await?;
    Ok((answer.code, answer.text()))
}

#[tokio::test]
async fn b122_each_wrong_token_of_a_service_account_is_told_what_is_wrong_with_it() -> anyhow::Result<()> {
    let gate = crate::gate()?;
    let plane = gate.plane();
    let namespace = plane.namespace("tokens").await?;
    let agent = gate.agent(&namespace, "agent", &[]).await?;
    let url = gate.urls().remove(0);
    let at = (&agent, url.as_str());
    gate.agent(&namespace, "gone", &[]).await?;
    plane.service_account(&namespace, "stranger").await?;
    let good = plane.token(&namespace, "agent", &["sallyport"], 3600).await?;
    eventually("the agent", SOON, async || Ok((get(at, &good).await?.0 == 200).then_some(()))).await?;

    let (header, claims) = (decoded(&good, 0)?, decoded(&good, 1)?);
    let key = PrivateKeyDer::from_pem_file(plane.scratch().join("files/token.key"))?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_der())?;
    let random = SystemRandom::new();
    let by_key = |signed: &[u8]| Ok(key.sign(&random, signed)?.as_ref().to_vec());
    let other = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let by_other = |signed: &[u8]| Ok(other.sign(&random, signed)?.as_ref().to_vec());
    let public = std::fs::read(plane.scratch().join("files/token.pub"))?;
    let by_public =
        |signed: &[u8]| Ok(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), signed).as_ref().to_vec());
    let with = |to: &Value, change: Value| {
        let mut all = to.clone();
        for (name, value) in change.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        all
    };
    let changed = |change: Value| forge(&header, &with(&claims, change), by_key);
    let headed = |change: Value| with(&header, change);
    assert_eq!(get(at, &changed(json!({}))?).await?.0, 200, "what is signed here is taken");

    let now = jiff::Timestamp::now().as_second();
    let gone = plane.token(&namespace, "gone", &["sallyport"], 3600).await?;
    let again = ["delete", "serviceaccount", "gone", "-n", &namespace];
    plane.kubectl(&again)?.success()?;
    plane.service_account(&namespace, "gone").await?;
    let (cut, signature) = good.rsplit_once('.').context("a signature")?;
    let damaged = "the token is not valid: damaged, cut off, encrypted or of no known kind";
    let revoked = "the token was revoked: its ServiceAccount, or the Pod that it is bound to, is gone";
    let table: Vec<(&str, String, String)> = vec![
        (
            "of the API server's own audience",
            plane.token(&namespace, "agent", &[], 3600).await?,
            format!(
                "token audience is \"{}\" but must be \"sallyport\"{MOUNT}",
                claims["iss"].as_str().unwrap_or_default()
            ),
        ),
        (
            "another audience",
            changed(json!({"aud": ["vault"]}))?,
            format!("token audience is \"vault\" but must be \"sallyport\"{MOUNT}"),
        ),
        (
            "another issuer of ServiceAccounts",
            changed(json!({"iss": "https://another.example"}))?,
            FOREIGN.into(),
        ),
        (
            "another issuer of others",
            changed(json!({"iss": "https://another.example", "sub": "me"}))?,
            "token issuer is \"https://another.example\", which no AgentIdentity names".into(),
        ),
        ("another key", forge(&header, &claims, by_other)?, FOREIGN.into()),
        ("none", forge(&headed(json!({"alg": "none"})), &claims, |_| Ok(Vec::new()))?, FOREIGN.into()),
        (
            "HS256 with the public key",
            forge(&headed(json!({"alg": "HS256"})), &claims, by_public)?,
            FOREIGN.into(),
        ),
        ("another algorithm", forge(&headed(json!({"alg": "RS256"})), &claims, by_key)?, FOREIGN.into()),
        (
            "changed claims",
            format!(
                "{}.{}.{signature}",
                good.split('.').next().unwrap_or_default(),
                URL_SAFE_NO_PAD.encode(with(&claims, json!({"exp": now + 86_400})).to_string())
            ),
            FOREIGN.into(),
        ),
        (
            "expired ten minutes ago",
            changed(json!({"exp": now - 600, "iat": now - 1200, "nbf": now - 1200}))?,
            "the token has expired; next: ".into(),
        ),
        (
            "begins in ten minutes",
            changed(json!({"nbf": now + 600, "iat": now + 600, "exp": now + 1200}))?,
            "the token is not valid yet; next: ".into(),
        ),
        ("of a ServiceAccount that was made anew", gone, revoked.into()),
        (
            "of nobody's ServiceAccount",
            plane.token(&namespace, "stranger", &["sallyport"], 3600).await?,
            format!("no AgentIdentity names the subject `system:serviceaccount:{namespace}:stranger`"),
        ),
        ("signature cut off", good[..good.len() - 6].to_owned(), FOREIGN.into()),
        ("no signature", format!("{cut}."), FOREIGN.into()),
        ("two parts", cut.to_owned(), damaged.into()),
        ("cut off in the claims", good[..good.len() / 3].to_owned(), damaged.into()),
        ("doubled", format!("{good}{good}"), damaged.into()),
    ];
    let mut wrong = Vec::new();
    for (what, token, says) in &table {
        let (code, said) = get(at, token).await?;
        let shows = token.split('.').filter(|part| part.len() > 20).any(|part| said.contains(&part[..20]));
        if code != 401 || !said.contains(says.as_str()) || !said.contains("; next: ") || shows {
            wrong.push(format!("{what}: {code} {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(get(at, &good).await?.0, 200, "the right one still works");
    Ok(())
}
