//! The table of wrong tokens: each is refused with the one thing that is wrong with it, as stock kubectl shows it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::oidc::{FakeIssuer, Kind, forge};
use e2e::wire;
use serde_json::{Value, json};

use super::{Desk, ORGANISATION, SUB, claims, refused, trust, with};

const ANOTHER: &str = "; next: get a new token from the issuer";
const ASK: &str = "; next: ask an administrator which claims the AgentIdentity demands";

#[tokio::test]
async fn b122_every_algorithm_with_a_public_key_is_taken() -> anyhow::Result<()> {
    let (desk, issuer) = (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?);
    for (id, kind) in [("p256", Kind::P256), ("p384", Kind::P384), ("ed", Kind::Ed25519)] {
        issuer.add_key(id, kind)?;
    }
    let (at, rules) = trust(&issuer);
    desk.agent("agent", &at, &rules)?;
    for (key, algorithm) in [
        ("k1", "RS256"),
        ("k1", "RS384"),
        ("k1", "RS512"),
        ("k1", "PS256"),
        ("k1", "PS384"),
        ("k1", "PS512"),
        ("p256", "ES256"),
        ("p384", "ES384"),
        ("ed", "EdDSA"),
    ] {
        let token = issuer.token(key, algorithm, &claims(&issuer))?;
        assert_eq!(desk.who(&token)?, desk.user("agent"), "{algorithm}");
    }
    let second = with(claims(&issuer), json!({"aud": ["else", "second"], "nbf": null, "iat": null}));
    assert_eq!(desk.who(&issuer.token("p256", "ES256", &second)?)?, desk.user("agent"));
    let token = issuer.token("k1", "RS256", &claims(&issuer))?;
    desk.kubectl(&token, &["create", "configmap", "made"])?.success()?;
    let out = desk.kubectl(&token, &["get", "configmaps", "-o", "name"])?.success()?;
    assert!(out.contains("configmap/made"), "{out}");
    nothing_of(&desk, &token).await
}

/// Neither the programs' logs nor the recordings nor any object of ours hold the token or its signature.
async fn nothing_of(desk: &Desk, token: &str) -> anyhow::Result<()> {
    let signature = token.rsplit('.').next().unwrap_or(token);
    let mut texts = vec![desk.admin(&["get", "agid,agrant,srec", "-o", "yaml"])?.success()?];
    for program in desk.gate.proxies().iter().map(|proxy| proxy.program()).chain(desk.gate.operators()) {
        texts.push(std::fs::read_to_string(program.process().log())?);
    }
    let mut folders = vec![desk.gate.recordings(), desk.gate.plane().scratch().join("spool")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                // A file of the spool may go while it is looked at.
                texts.push(
                    std::fs::read(path)
                        .map(|all| String::from_utf8_lossy(&all).into_owned())
                        .unwrap_or_default(),
                );
            }
        }
    }
    assert!(texts.iter().any(|text| text.contains(SUB)), "the subject itself is recorded");
    assert!(!texts.iter().any(|text| text.contains(signature)), "a token was written down");
    Ok(())
}

#[tokio::test]
async fn b122_each_wrong_token_is_told_what_is_wrong_with_it() -> anyhow::Result<()> {
    let (desk, issuer, evil) =
        (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    desk.agent("agent", &at, &rules)?;
    let good = issuer.token("k1", "RS256", &claims(&issuer))?;
    assert_eq!(desk.who(&good)?, desk.user("agent"));
    let now = jiff::Timestamp::now().as_second();
    let changed = |change: Value| issuer.token("k1", "RS256", &with(claims(&issuer), change));
    let headed = |header: Value, algorithm: &str| {
        forge(&header, &claims(&issuer), |signed| issuer.sign("k1", algorithm, signed))
    };
    let forged = |header: Value| forge(&header, &claims(&issuer), |signed| evil.sign("k1", "RS256", signed));
    let (cut, _) = good.rsplit_once('.').unwrap_or_default();
    let encrypted = URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A256GCM","kid":"k1"}"#);
    let unknown = "the token is not valid: damaged, cut off, encrypted or of no known kind";
    let table: Vec<(&str, String, String)> = vec![
        ("audience", changed(json!({"aud": "https://kubernetes.default.svc"}))?,
         "token audience is \"https://kubernetes.default.svc\" but must be \"sallyport\" or \"second\"; next: get a token for that audience".into()),
        ("no audience", changed(json!({"aud": null}))?, format!("the token has no usable claim `aud`{ANOTHER}")),
        ("issuer", changed(json!({"iss": "https://issuer.example"}))?,
         "token issuer is \"https://issuer.example\", which no AgentIdentity names".into()),
        ("issuer with a slash", changed(json!({"iss": format!("{}/", issuer.url())}))?, "which no AgentIdentity names".into()),
        ("signature of another", forged(json!({"alg": "RS256", "kid": "k1"}))?, format!("the token's signature is not the issuer's{ANOTHER}")),
        ("key in the header", forged(json!({"alg": "RS256", "kid": "k1", "jku": format!("{}/keys", evil.url()),
            "x5u": evil.url(), "jwk": {"kty": "RSA", "kid": "k1", "e": "AQAB", "n": "AQAB"}}))?,
         format!("the token's signature is not the issuer's{ANOTHER}")),
        ("none", forge(&json!({"alg": "none", "kid": "k1"}), &claims(&issuer), |_| Ok(Vec::new()))?,
         format!("the token's algorithm `none` is not accepted{ANOTHER}")),
        ("HS256 with the public key", forge(&json!({"alg": "HS256", "kid": "k1"}), &claims(&issuer),
            |signed| issuer.hmac_by_public_key("k1", signed))?, format!("the token's algorithm `HS256` is not accepted{ANOTHER}")),
        ("algorithm of another kind of key", headed(json!({"alg": "ES256", "kid": "k1"}), "RS256")?,
         format!("the token's algorithm `ES256` is not that of the issuer's key{ANOTHER}")),
        ("algorithm swapped", headed(json!({"alg": "PS256", "kid": "k1"}), "RS256")?, format!("the token's signature is not the issuer's{ANOTHER}")),
        ("no kid", headed(json!({"alg": "RS256"}), "RS256")?, format!("the token's header does not name its key (`kid`){ANOTHER}")),
        ("kid as a path", headed(json!({"alg": "RS256", "kid": "../../../dev/null"}), "RS256")?,
         format!("the issuer does not publish the key that signed the token{ANOTHER}")),
        ("kid as a query", headed(json!({"alg": "RS256", "kid": "k1' OR '1'='1"}), "RS256")?,
         format!("the issuer does not publish the key that signed the token{ANOTHER}")),
        ("crit", headed(json!({"alg": "RS256", "kid": "k1", "crit": ["b64"], "b64": true}), "RS256")?,
         format!("the token's header demands an extension (`crit`) that is not known here{ANOTHER}")),
        ("expired ten minutes ago", changed(json!({"exp": now - 600, "iat": now - 1200, "nbf": now - 1200}))?, format!("the token has expired{ANOTHER}")),
        ("no end", changed(json!({"exp": null}))?, format!("the token has no usable claim `exp`{ANOTHER}")),
        ("begins in ten minutes", changed(json!({"nbf": now + 600, "exp": now + 1200}))?, format!("the token is not valid yet (claim `nbf`){ANOTHER}")),
        ("issued in ten minutes", changed(json!({"iat": now + 600, "exp": now + 1200}))?,
         format!("the token was issued in the future (claim `iat`); the clocks of issuer and gate differ{ANOTHER}")),
        ("stolen from another workflow", changed(json!({"sub": "repo:acme/blog:ref:refs/heads/main"}))?,
         format!("the token breaks a claim rule: claim `sub` must have the required value{ASK}")),
        ("stolen from another organisation", changed(json!({"repository_owner_id": "666"}))?, format!("the token breaks a claim rule: {ORGANISATION}{ASK}")),
        ("without the claim", changed(json!({"repository_owner_id": null}))?, format!("the token breaks a claim rule: {ORGANISATION}{ASK}")),
        ("all wrong", changed(json!({"sub": "x", "repository_owner_id": 1234567}))?,
         format!("the token breaks a claim rule: claim `sub` must have the required value; {ORGANISATION}{ASK}")),
        ("claims too large", changed(json!({"groups": vec!["g"; 300]}))?,
         format!("the token's claims are too large: a list or object has more than 256 entries{ANOTHER}")),
        ("signature cut off", good[..good.len() - 6].to_owned(), format!("the token's signature is not the issuer's{ANOTHER}")),
        ("no signature", format!("{cut}."), format!("the token is damaged or cut off{ANOTHER}")),
        ("two parts", cut.to_owned(), unknown.into()),
        ("cut off in the claims", good[..good.len() / 3].to_owned(), unknown.into()),
        ("doubled", format!("{good}{good}"), unknown.into()),
        ("encrypted", format!("{encrypted}.a.b.c.d"), unknown.into()),
        ("oversized", changed(json!({"padding": "x".repeat(17 * 1024)}))?, format!("the token is longer than 16384 bytes{ANOTHER}")),
    ];
    for (what, token, says) in &table {
        let said = desk.who(token)?.expect_err(what);
        assert!(said.contains("error: You must be logged in to the server ("), "{what}: {said}");
        assert!(said.contains(says), "{what}: {said}");
        let parts = token.split('.').filter(|part| part.len() > 20);
        assert!(
            parts.into_iter().all(|part| !said.contains(&part[..20])),
            "{what}: a part of the token: {said}"
        );
    }
    let (what, stolen, says) = table.iter().find(|row| row.0.starts_with("stolen")).expect("a row");
    assert!(desk.who(stolen)?.expect_err(what).starts_with(&refused(says)), "to the letter");
    assert_eq!(desk.who(&good)?, desk.user("agent"), "the right one still works");
    assert_eq!(evil.asked(), 0, "nobody asks where a token says its keys are");
    raw(&desk, &good).await
}

/// What kubectl would not send.
async fn raw(desk: &Desk, good: &str) -> anyhow::Result<()> {
    for (value, says) in [
        ("Bearer".to_owned(), "token"),
        ("Bearer   ".to_owned(), "token"),
        (format!("Bearer {good} {good}"), "token"),
        (format!("Bearer {good}\r\nAuthorization: Bearer {good}"), "token"),
        (format!("Basic {good}"), "token"),
    ] {
        let request = format!("GET /api HTTP/1.1\r\nHost: sallyport\r\nAuthorization: {value}\r\n\r\n");
        let answer = wire::exchange(&desk.gate.urls()[0], &desk.ca, request.as_bytes()).await?;
        assert_eq!(answer.code, 401, "{value}: {}", answer.text());
        assert!(answer.text().contains(says) && !answer.text().contains(good), "{}", answer.text());
    }
    Ok(())
}
