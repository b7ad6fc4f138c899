//! An AI agent in front of a gate: a token with audience `sallyport`, and the kubeconfig that the operator published.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde_json::json;

use crate::eventually;
use crate::gate::Gate;
use crate::kubectl::{Output, Version, kubectl, kubectl_spawn, kubectl_stdin};
use crate::wire::{self, Answer, Connection};

const PUBLISHED_WITHIN: Duration = Duration::from_secs(90);
/// How long an agent's token is good: a day.
pub const TOKEN_SECONDS: i64 = 86_400;

/// An agent with its credentials. It can reach every proxy of its gate.
#[derive(Clone)]
pub struct Agent {
    namespace: String,
    name: String,
    token_file: PathBuf,
    ca: String,
    published: Kubeconfig,
    kubeconfigs: Vec<PathBuf>,
    urls: Vec<String>,
}

impl Gate {
    /// Makes the ServiceAccount and the AgentIdentity `name` in `namespace` with `labels`, and waits until it is Ready.
    ///
    /// # Errors
    /// When the API server refuses or the identity is not Ready in 90 s.
    pub async fn agent(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<Agent> {
        Agent::create(self, namespace, name, labels).await
    }

    /// An AgentIdentity that is there already, with a fresh token for its ServiceAccount `account` of the same namespace.
    ///
    /// # Errors
    /// When its kubeconfig is not published in 90 s.
    pub async fn existing_agent(&self, namespace: &str, name: &str, account: &str) -> anyhow::Result<Agent> {
        Agent::adopt(self, namespace, name, account).await
    }
}

impl Agent {
    async fn create(
        gate: &Gate,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        gate.plane().service_account(namespace, name).await?;
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let identity = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            "spec": {
                "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                              "serviceAccount": {"namespace": namespace, "name": name}}],
                "target": {"type": "InCluster"},
            },
        });
        gate.plane().apply(&identity.to_string())?;
        let wait = ["wait", "--for=condition=Ready", "--timeout=90s", "-n", namespace];
        let object = format!("agentidentity/{name}");
        gate.plane().kubectl(&[&wait[..], &[&object]].concat())?.success()?;
        Self::adopt(gate, namespace, name, name).await
    }

    async fn adopt(gate: &Gate, namespace: &str, name: &str, account: &str) -> anyhow::Result<Self> {
        let plane = gate.plane();
        let maps: Api<ConfigMap> = Api::namespaced(plane.admin().await?, namespace);
        let map = format!("{name}-kubeconfig");
        let text = eventually(&format!("ConfigMap {map}"), PUBLISHED_WITHIN, async || {
            Ok(maps.get_opt(&map).await?.and_then(|map| map.data?.remove("kubeconfig")))
        })
        .await?;
        let token = plane.token(namespace, account, &[crds::names::TOKEN_AUDIENCE], TOKEN_SECONDS).await?;
        let folder = plane.scratch().join("agents").join(format!("{namespace}-{name}-{}", plane.next()));
        std::fs::create_dir_all(&folder)?;
        let token_file = folder.join("token");
        std::fs::write(&token_file, token)?;
        let (ca, urls) = (gate.ca().await?, gate.urls());
        let published = Kubeconfig::from_yaml(&text).context("the published kubeconfig does not parse")?;
        let mut agent = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            token_file,
            ca,
            published,
            kubeconfigs: Vec::new(),
            urls: urls.clone(),
        };
        for (index, url) in urls.iter().enumerate() {
            let path = folder.join(format!("proxy-{index}.kubeconfig"));
            agent.write_kubeconfig(&path, url)?;
            agent.kubeconfigs.push(path);
        }
        Ok(agent)
    }

    /// Its user name in native RBAC and in the API server's audit log.
    pub fn username(&self) -> String {
        format!("{}{}:{}", crds::names::USERNAME_PREFIX, self.namespace, self.name)
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// File with its token.
    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    /// The authority that the gate's certificate is of, PEM.
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Its token.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.token_file)?)
    }

    /// Kubeconfig file that reaches proxy `index`: the published one with the token's path and that proxy's address.
    pub fn kubeconfig(&self, index: usize) -> &Path {
        &self.kubeconfigs[index]
    }

    /// Writes the published kubeconfig with the token's path and `url` for a server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, url: &str) -> anyhow::Result<()> {
        let mut config = self.published.clone();
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(url.to_owned());
        }
        let users = config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut());
        for user in users.filter(|user| user.token_file.is_some()) {
            user.token_file = Some(self.token_file.display().to_string());
        }
        Ok(std::fs::write(path, serde_json::to_vec_pretty(&config)?)?)
    }

    /// Runs the newest kubectl as this agent through proxy 0.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<Output> {
        kubectl(Version::New, self.kubeconfig(0), args)
    }

    /// Runs a kubectl as this agent through a proxy, with text on its standard input.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn kubectl_with(
        &self,
        version: Version,
        proxy: usize,
        args: &[&str],
        stdin: &str,
    ) -> anyhow::Result<Output> {
        kubectl_stdin(version, self.kubeconfig(proxy), args, stdin)
    }

    /// Starts a kubectl as this agent and returns at once, for watches. The caller ends it.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn kubectl_spawn(&self, version: Version, proxy: usize, args: &[&str]) -> anyhow::Result<Child> {
        kubectl_spawn(version, self.kubeconfig(proxy), args)
    }

    /// A client through a proxy, bound to the current async runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self, proxy: usize) -> anyhow::Result<Client> {
        crate::kubeconfig::Kubeconfig::client(self.kubeconfig(proxy)).await
    }

    /// An open TLS connection to a proxy: for raw bytes and for streams.
    ///
    /// # Errors
    /// When the proxy cannot be reached.
    pub async fn connect(&self, proxy: usize) -> anyhow::Result<Connection> {
        Connection::open(&self.urls[proxy], &self.ca).await
    }

    /// Sends one request with this agent's token and the `headers` given, and reads the answer. The target goes out as it is.
    ///
    /// # Errors
    /// When the proxy cannot be reached or does not answer in HTTP.
    pub async fn send(
        &self,
        proxy: usize,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, target, headers, body)?;
        wire::exchange(&self.urls[proxy], &self.ca, &request).await
    }

    /// The bytes of one request with this agent's token.
    ///
    /// # Errors
    /// When the token's file is gone.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<Vec<u8>> {
        let token = self.token()?;
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: sallyport\r\nAuthorization: Bearer {token}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        Ok([head.as_bytes(), body].concat())
    }
}
