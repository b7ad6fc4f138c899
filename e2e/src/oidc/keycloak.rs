//! A real Keycloak with a realm for agents (`agents`) and a realm of people (`people`) that it trusts by SAML.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::browser::Browser;
use crate::control_plane::{ControlPlane, base_env, free_ports};
use crate::pki::Authority;
use crate::supervision::Process;
use crate::{eventually, tools};

/// Two cores that also run the rest of the tests need this.
const READY_WITHIN: Duration = Duration::from_secs(300);
const ADMIN_PASSWORD: &str = "keycloak-admin";
/// Secret of every client of realm `agents`.
pub const CLIENT_SECRET: &str = "keycloak-client";
const PASSWORD: &str = "keycloak-alice";
const REDIRECT: &str = "http://127.0.0.1:1/done";

/// A running Keycloak; ends with its control plane.
#[derive(Clone)]
pub struct Keycloak {
    base: String,
    ca: String,
    process: Process,
}

impl Keycloak {
    /// Starts it beside `plane`, with a certificate of an authority of its own and a fresh database in memory.
    ///
    /// # Errors
    /// When it cannot be fetched or is not ready in 300 s.
    pub fn start(plane: &ControlPlane) -> anyhow::Result<Self> {
        let [program] = tools::tools(["keycloak"])?;
        let installed = program.ancestors().nth(2).context("bin/kc.sh stands in a folder")?;
        let home = plane.scratch().join(format!("keycloak-{}", plane.next()));
        let [port] = free_ports()?;
        let base = format!("https://127.0.0.1:{port}");
        let authority = Authority::new("keycloak-ca")?;
        let pair = authority.server("keycloak", &["localhost"])?;
        furnish(installed, &home, &base)?;
        std::fs::write(home.join("conf/server.crt"), pair.cert)?;
        std::fs::write(home.join("conf/server.key"), pair.key)?;
        // Its two realms talk to each other.
        std::fs::write(home.join("conf/ca.pem"), authority.cert())?;
        let mut env: BTreeMap<String, String> = base_env();
        env.insert("KC_BOOTSTRAP_ADMIN_USERNAME".to_owned(), "admin".to_owned());
        env.insert("KC_BOOTSTRAP_ADMIN_PASSWORD".to_owned(), ADMIN_PASSWORD.to_owned());
        let process = plane.supervisor().run("keycloak", command(&home, &base, port), env)?;
        let keycloak = Self { base, ca: authority.cert().to_owned(), process };
        let started = keycloak.clone();
        crate::block_on(move || async move { started.ready().await })?;
        Ok(keycloak)
    }

    /// URL of a realm: claim `iss` of its tokens.
    pub fn issuer(&self, realm: &str) -> String {
        format!("{}/realms/{realm}", self.base)
    }

    /// The authority of its certificate, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// A token of realm `agents` for a client by its own secret: what a service gets.
    ///
    /// # Errors
    /// When Keycloak refuses.
    pub async fn client_token(&self, client: &str) -> anyhow::Result<String> {
        self.token(
            "agents",
            &[("grant_type", "client_credentials"), ("client_id", client), ("client_secret", CLIENT_SECRET)],
        )
        .await
    }

    /// A token of realm `agents` for the person `alice`, who logs in at realm `people`: SAML in between.
    ///
    /// # Errors
    /// When the login does not end well.
    pub async fn person_token(&self) -> anyhow::Result<String> {
        let mut browser = self.browser();
        let start = format!(
            "/realms/agents/protocol/openid-connect/auth?client_id=kubectl&response_type=code&scope=openid\
             &kc_idp_hint=people&redirect_uri={REDIRECT}"
        );
        let known = [
            ("username", "alice"),
            ("password", PASSWORD),
            ("email", "alice@example.com"),
            ("firstName", "Alice"),
            ("lastName", "Example"),
        ];
        let back = browser.go(&start, &known, REDIRECT).await?;
        let (_, code) = back.split_once("code=").with_context(|| format!("no code in {back}"))?;
        let code = code.split('&').next().unwrap_or(code);
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "kubectl"),
            ("client_secret", CLIENT_SECRET),
            ("redirect_uri", REDIRECT),
            ("code", code),
        ];
        self.token("agents", &form).await
    }

    /// Asks a realm's token endpoint.
    ///
    /// # Errors
    /// When Keycloak refuses.
    pub async fn token(&self, realm: &str, form: &[(&str, &str)]) -> anyhow::Result<String> {
        let target = format!("/realms/{realm}/protocol/openid-connect/token");
        let answer = self.browser().post(&target, form).await?;
        let token = answer.json()?;
        let token = token["access_token"].as_str().with_context(|| format!("no token: {}", answer.text()))?;
        Ok(token.to_owned())
    }

    /// A request of the administration API, with its answer (null where there is none).
    ///
    /// # Errors
    /// When Keycloak refuses.
    pub async fn admin(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let form = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", "admin"),
            ("password", ADMIN_PASSWORD),
        ];
        let token = self.token("master", &form).await?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [
            ("Authorization".to_owned(), format!("Bearer {token}")),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ];
        let answer = self.browser().send(method, &format!("/admin/realms{path}"), &headers, &body).await?;
        anyhow::ensure!(
            (200..300).contains(&answer.code),
            "{method} {path}: {} {}",
            answer.code,
            answer.text()
        );
        Ok(if answer.body.is_empty() { Value::Null } else { answer.json()? })
    }

    /// A browser of its own: cookies, no redirects by itself.
    pub fn browser(&self) -> Browser {
        Browser::new(&self.base, &self.ca)
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let ready = eventually("Keycloak", READY_WITHIN, async || {
            if let Some(code) = self.process.ended()? {
                anyhow::bail!("Keycloak ended with {code}");
            }
            let answer = self.browser().get("/realms/agents/.well-known/openid-configuration").await;
            Ok(answer.is_ok_and(|answer| answer.code == 200).then_some(()))
        });
        ready.await.with_context(|| self.process.last_words())
    }
}

/// The program's own files are shared; what it writes is in `home`.
fn furnish(installed: &Path, home: &Path, base: &str) -> anyhow::Result<()> {
    for folder in ["conf", "data/import"] {
        std::fs::create_dir_all(home.join(folder))?;
    }
    for shared in ["lib", "providers", "themes"] {
        std::os::unix::fs::symlink(installed.join(shared), home.join(shared))?;
    }
    std::fs::copy(installed.join("conf/cache-ispn.xml"), home.join("conf/cache-ispn.xml"))?;
    for realm in [agents(base), people(base)] {
        let name = realm["realm"].as_str().context("a realm has a name")?;
        std::fs::write(home.join(format!("data/import/{name}.json")), realm.to_string())?;
    }
    Ok(())
}

/// What `kc.sh start --optimized` runs.
fn command(home: &Path, base: &str, port: u16) -> Vec<String> {
    let at = |file: &str| home.join(file).display().to_string();
    let words = [
        "java".to_owned(),
        "-XX:TieredStopAtLevel=1".to_owned(),
        "-XX:+UseSerialGC".to_owned(),
        "-Xmx384m".to_owned(),
        "-Djava.util.logging.manager=org.jboss.logmanager.LogManager".to_owned(),
        "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory".to_owned(),
        "--add-opens=java.base/java.util=ALL-UNNAMED".to_owned(),
        "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED".to_owned(),
        "--add-opens=java.base/java.security=ALL-UNNAMED".to_owned(),
        format!("-Dkc.home.dir={}", home.display()),
        format!("-Djboss.server.config.dir={}", at("conf")),
        "-cp".to_owned(),
        at("lib/quarkus-run.jar"),
        "io.quarkus.bootstrap.runner.QuarkusEntryPoint".to_owned(),
        "start".to_owned(),
        "--optimized".to_owned(),
        "--import-realm".to_owned(),
        format!("--hostname={base}"),
        "--http-host=127.0.0.1".to_owned(),
        "--http-enabled=false".to_owned(),
        format!("--https-port={port}"),
        format!("--https-certificate-file={}", at("conf/server.crt")),
        format!("--https-certificate-key-file={}", at("conf/server.key")),
        format!("--truststore-paths={}", at("conf/ca.pem")),
        "--cache=local".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    words.to_vec()
}

/// Services `deployer` and `stranger`, and `kubectl` for people, who come from realm `people`.
fn agents(base: &str) -> Value {
    let service = |id: &str, team: &str| {
        json!({
            "clientId": id, "secret": CLIENT_SECRET, "serviceAccountsEnabled": true, "standardFlowEnabled": false,
            "protocolMappers": [audience(), claim("team", team)],
        })
    };
    let person = json!({
        "clientId": "kubectl", "secret": CLIENT_SECRET, "standardFlowEnabled": true,
        "redirectUris": [REDIRECT], "protocolMappers": [audience()],
    });
    let broker = json!({
        "alias": "people", "providerId": "saml", "enabled": true, "trustEmail": true,
        "config": {
            "idpEntityId": format!("{base}/realms/people"), "entityId": format!("{base}/realms/agents"),
            "singleSignOnServiceUrl": format!("{base}/realms/people/protocol/saml"),
            "metadataDescriptorUrl": format!("{base}/realms/people/protocol/saml/descriptor"),
            "useMetadataDescriptorUrl": "true", "validateSignature": "true", "wantAssertionsSigned": "true",
            "postBindingResponse": "true", "postBindingAuthnRequest": "true", "principalType": "SUBJECT",
            "nameIDPolicyFormat": "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified", "syncMode": "IMPORT",
        },
    });
    json!({
        "id": "agents", "realm": "agents", "enabled": true, "sslRequired": "all", "accessTokenLifespan": 300,
        "clients": [service("deployer", "payments"), service("stranger", "marketing"), person],
        "identityProviders": [broker],
    })
}

/// The person `alice`, and realm `agents` as the one service that she may log in to.
fn people(base: &str) -> Value {
    json!({
        "id": "people", "realm": "people", "enabled": true, "sslRequired": "all",
        "users": [{
            "username": "alice", "enabled": true, "email": "alice@example.com", "emailVerified": true,
            "firstName": "Alice", "lastName": "Example", "credentials": [{"type": "password", "value": PASSWORD}],
        }],
        "clients": [{
            "clientId": format!("{base}/realms/agents"), "protocol": "saml", "enabled": true,
            "redirectUris": [format!("{base}/realms/agents/broker/people/endpoint")],
            "attributes": {
                "saml.client.signature": "false", "saml.assertion.signature": "true", "saml.server.signature": "true",
                "saml.force.post.binding": "true", "saml_name_id_format": "username", "saml_force_name_id_format": "true",
            },
        }],
    })
}

fn audience() -> Value {
    json!({
        "name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
        "config": {"included.custom.audience": crds::names::TOKEN_AUDIENCE, "access.token.claim": "true"},
    })
}

fn claim(name: &str, value: &str) -> Value {
    json!({
        "name": name, "protocol": "openid-connect", "protocolMapper": "oidc-hardcoded-claim-mapper",
        "config": {"claim.name": name, "claim.value": value, "jsonType.label": "String", "access.token.claim": "true"},
    })
}
