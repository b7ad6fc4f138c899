//! A real Keycloak: services and people, its keys in rotation, and a login by SAML behind it.

use std::sync::OnceLock;
use std::time::Duration;

use e2e::eventually;
use e2e::oidc::Keycloak;
use serde_json::{Value, json};

use super::Desk;

fn keycloak() -> anyhow::Result<Keycloak> {
    static KEYCLOAK: OnceLock<Result<Keycloak, String>> = OnceLock::new();
    let keycloak = KEYCLOAK.get_or_init(|| {
        let plane = crate::plane().map_err(|error| format!("{error:#}"))?;
        Keycloak::start(&plane).map_err(|error| format!("{error:#}"))
    });
    keycloak.clone().map_err(|error| anyhow::anyhow!("no Keycloak: {error}"))
}

#[tokio::test]
async fn a_service_and_a_person_of_a_real_keycloak_are_agents() -> anyhow::Result<()> {
    let (desk, keycloak) = (Desk::new(&crate::gate()?).await?, keycloak()?);
    let at = json!({
        "url": keycloak.issuer("agents"), "audiences": ["sallyport"], "certificateAuthority": keycloak.ca(),
    });
    let service = json!([
        {"claim": "azp", "requiredValue": "deployer"},
        {"expression": "claims.team == 'payments'", "message": "only the payments team deploys"},
    ]);
    desk.agent("deployer", &at, &service)?;
    desk.agent(
        "alice",
        &at,
        &json!([{"expression": "claims.azp == 'kubectl' && claims.preferred_username == 'alice'"}]),
    )?;
    let deployer = keycloak.client_token("deployer").await?;
    assert_eq!(desk.who(&deployer)?, desk.user("deployer"));
    desk.kubectl(&deployer, &["create", "configmap", "release"])?.success()?;
    let stranger = keycloak.client_token("stranger").await?;
    let said = desk.who(&stranger)?.expect_err("another client");
    assert!(said.contains("only the payments team deploys"), "{said}");
    // Through the browser: realm `agents` sends her to realm `people`, which vouches for her by SAML.
    let alice = keycloak.person_token().await?;
    assert_eq!(desk.who(&alice)?, desk.user("alice"));
    let seen = desk.kubectl(&alice, &["get", "configmaps", "-o", "name"])?.success()?;
    assert!(seen.contains("configmap/release"), "{seen}");
    rotate(&desk, &keycloak, &deployer).await
}

/// A new key with a higher priority signs from now on; then the old one goes.
async fn rotate(desk: &Desk, keycloak: &Keycloak, old: &str) -> anyhow::Result<()> {
    let components = "/agents/components?type=org.keycloak.keys.KeyProvider";
    let before = keycloak.admin("GET", components, &Value::Null).await?;
    let key = json!({
        "name": "rotated", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
        "parentId": "agents", "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"], "keySize": ["2048"]},
    });
    keycloak.admin("POST", "/agents/components", &key).await?;
    let new = keycloak.client_token("deployer").await?;
    assert_ne!(new.split('.').next(), old.split('.').next(), "another key signs");
    eventually("the rotated key", Duration::from_secs(10), async || {
        Ok((desk.who(&new)? == desk.user("deployer")).then_some(()))
    })
    .await?;
    assert_eq!(desk.who(old)?, desk.user("deployer"), "the old key is still published");
    for component in
        before.as_array().into_iter().flatten().filter(|one| one["providerId"] == "rsa-generated")
    {
        let path = format!("/agents/components/{}", component["id"].as_str().unwrap_or_default());
        keycloak.admin("DELETE", &path, &Value::Null).await?;
    }
    eventually("the old key's end", Duration::from_secs(90), async || {
        Ok(desk.who(old)?.is_err().then_some(()))
    })
    .await?;
    desk.told(old, "the issuer does not publish the key that signed the token").await?;
    assert_eq!(desk.who(&new)?, desk.user("deployer"));
    Ok(())
}
