//! Kubeconfig files, and clients made from them.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use kube::config::KubeConfigOptions;
use serde_json::{Value, json};

use crate::pki::Pair;

/// How a kubeconfig proves its user.
#[derive(Clone, Debug)]
pub enum Login {
    /// A client certificate and its key, PEM.
    Cert {
        /// Certificate.
        cert: String,
        /// Key.
        key: String,
    },
    /// A file with a bearer token.
    TokenFile(PathBuf),
    /// A bearer token.
    Token(String),
    /// A credential plugin: `users[].user` as it is.
    Plugin(Value),
}

impl Login {
    /// A client certificate.
    pub fn cert(pair: &Pair) -> Self {
        Self::Cert { cert: pair.cert.clone(), key: pair.key.clone() }
    }
}

/// A kubeconfig with one cluster, one user and one context.
#[derive(Clone, Debug)]
pub struct Kubeconfig(Value);

impl Kubeconfig {
    /// A kubeconfig for `server`, verified against `ca` (PEM).
    pub fn new(server: &str, ca: &str, login: Login) -> Self {
        let user = match login {
            Login::Cert { cert, key } => {
                json!({"client-certificate-data": STANDARD.encode(cert), "client-key-data": STANDARD.encode(key)})
            }
            Login::TokenFile(path) => json!({"tokenFile": path}),
            Login::Token(token) => json!({"token": token}),
            Login::Plugin(user) => user,
        };
        Self(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca)}}],
            "users": [{"name": "e2e", "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
        }))
    }

    /// Sets the namespace that kubectl takes when none is named.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.0["contexts"][0]["context"]["namespace"] = namespace.into();
        self
    }

    /// Writes `<folder>/<name>.kubeconfig` (JSON is YAML).
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.0)?)?;
        Ok(path)
    }

    /// A client from a kubeconfig file, bound to the current async runtime.
    ///
    /// # Errors
    /// When the file does not parse.
    pub async fn client(path: &Path) -> anyhow::Result<Client> {
        crate::install_crypto();
        let file = kube::config::Kubeconfig::read_from(path)?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}
