//! One client with an agent, a policy and objects of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::audit::Request;
use e2e::kubeconfig::{Kubeconfig, Login};
use e2e::{Filter, eventually};
use serde_json::{Value, json};

use super::client::{CANARY, Client, Deed, Reply};
use super::site::{ALICE, Site};

/// Namespace of the objects that every row pages through.
pub const CROWD: &str = "clients-crowd";
/// How many objects are there.
pub const CROWD_SIZE: usize = 120;
/// What the Deny rule says.
pub const DENIED: &str = "Services cost money. Ask the platform team.";
/// For what takes a moment.
pub const SOON: Duration = Duration::from_secs(60);
const AGENT: &str = "agent";

/// A client at work.
pub struct Row {
    pub site: Arc<Site>,
    pub name: &'static str,
    pub namespace: String,
    pub kubeconfig: PathBuf,
    pub client: Client,
    count: usize,
}

/// How a row's client is had.
#[derive(Clone, Copy)]
pub enum Source {
    /// A program of `e2e/tools/build.sh`, by its name there.
    Tool(&'static str),
    /// A program of `e2e/clients/build.sh`.
    Built(&'static str),
    /// A program of this workspace.
    Own(&'static str),
}

/// Finds or builds programs with a script of this crate: name -> command.
pub fn build(script: &str, names: &[&str]) -> anyhow::Result<BTreeMap<String, String>> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script);
    let out = Command::new(&script).args(names).stderr(Stdio::inherit()).output()?;
    anyhow::ensure!(out.status.success(), "{} failed: {}", script.display(), out.status);
    let text = String::from_utf8(out.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect())
}

/// The objects that all rows share.
pub fn crowd(site: &Site) -> anyhow::Result<()> {
    let maps = (0..CROWD_SIZE).map(|number| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("one-{number:03}"), "namespace": CROWD},
               "data": {"text": "x".repeat(1024)}})
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": maps.collect::<Vec<_>>()}).to_string();
    let group = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "sallyport:agents"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": CROWD}});
    site.apply(&json!([namespace, binding(CROWD, "view", &group)]))?;
    // A namespace that stands from an earlier run holds them already.
    let out = site.admin_with(&["create", "-f", "-"], &list)?;
    if out.code != 0 && !out.stderr.contains("AlreadyExists") {
        bail!("{}", out.stderr)
    }
    Ok(())
}

fn binding(namespace: &str, role: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": format!("clients-{role}"), "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": [subject],
    })
}

impl Row {
    /// Makes namespace, agent, policies, RBAC and objects, and starts the client.
    pub async fn open(site: Arc<Site>, name: &'static str, source: Source) -> anyhow::Result<Self> {
        let id = std::process::id();
        let namespace = format!("clients-{}-{id}", name.replace('.', "-"));
        let kubeconfig = site.scratch.path().join(format!("{name}.kubeconfig"));
        let row = |client| Self {
            site: Arc::clone(&site),
            name,
            namespace: namespace.clone(),
            kubeconfig: kubeconfig.clone(),
            client,
            count: 0,
        };
        prepare(&site, &namespace)?;
        let token = site.admin(&[
            "create",
            "token",
            AGENT,
            "-n",
            &namespace,
            "--audience=sallyport",
            "--duration=2h",
        ])?;
        let token_file = kubeconfig.with_extension("token");
        std::fs::write(&token_file, token.trim())?;
        // Rows take turns, so that both proxies serve.
        let gate = &site.gates[name.len() % site.gates.len()];
        let ca = std::fs::read_to_string(&site.ca)?;
        Kubeconfig::new(gate, &ca, Login::TokenFile(token_file))
            .in_namespace(&namespace)
            .write(site.scratch.path(), name)?;
        let program = |found: BTreeMap<String, String>, name: &str| {
            found.get(name).cloned().context("the script names no such program")
        };
        let client = match source {
            Source::Tool(tool) => {
                let path = program(build("tools/build.sh", &[tool])?, tool)?;
                Client::kubectl(path.as_ref(), &kubeconfig)
            }
            Source::Built(language) => {
                Client::spoken(&program(build("clients/build.sh", &[language])?, language)?, &kubeconfig)?
            }
            Source::Own(own) => Client::spoken(&e2e::program(own)?.display().to_string(), &kubeconfig)?,
        };
        Ok(row(client))
    }

    /// The agent's name in native RBAC and in the audit log.
    pub fn user(&self) -> String {
        format!("{}{}:{AGENT}", crds::names::USERNAME_PREFIX, self.namespace)
    }

    /// A name that no other object has.
    pub fn fresh(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}-{}", self.count)
    }

    /// A deed in the row's namespace.
    pub fn deed(&self, deed: &'static str) -> Deed {
        Deed {
            deed,
            namespace: self.namespace.clone(),
            resource: "configmaps".to_owned(),
            text: "new".to_owned(),
            ..Deed::default()
        }
    }

    /// Does it, whatever comes of it.
    pub fn act(&mut self, deed: &Deed) -> anyhow::Result<Reply> {
        self.client.act(deed)
    }

    /// kubectl as the administrator in the row's namespace.
    pub fn admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.site.admin(&[args, &["-n", &self.namespace]].concat())
    }

    /// A ConfigMap, made past the gate.
    pub fn config_map(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.site.apply(&json!([{"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace}, "data": {"text": text}}]))
    }

    /// What a ConfigMap says now.
    pub fn text_of(&self, name: &str) -> anyhow::Result<String> {
        self.admin(&["get", "configmap", name, "-o", "jsonpath={.data.text}"])
    }

    /// What reached the API server as this agent.
    pub async fn reached(&self, filter: fn(Filter) -> Filter) -> anyhow::Result<Vec<Request>> {
        self.site.audit.requests(&filter(Filter::ran_as(&self.user()))).await
    }

    /// The same, about the object `name`.
    pub async fn reached_name(&self, verb: &str, name: &str) -> anyhow::Result<Vec<Request>> {
        self.site.audit.requests(&Filter::ran_as(&self.user()).verb(verb).name(name)).await
    }

    /// Waits until the agent has `count` watches of `resource` at the API server.
    pub async fn watching(&self, resource: &str, count: usize) -> anyhow::Result<Vec<Request>> {
        let watches =
            Filter::ran_as(&self.user()).verb("watch").resource(resource).namespace(&self.namespace);
        self.site.audit.wait_for(&watches, count).await
    }

    /// Refusals of deletes of `name` in the recordings, once there is one.
    pub async fn refusals(&self, name: &str) -> anyhow::Result<Vec<Value>> {
        eventually(&format!("a recorded refusal of {name}"), SOON, async || {
            let events = self.site.recorded(&self.namespace)?;
            let refused = |event: &&Value| {
                event["type"] == "Refusal"
                    && event["event"]["act"]["verb"] == "delete"
                    && event["event"]["act"]["name"] == name
            };
            let found: Vec<Value> = events.iter().filter(refused).cloned().collect();
            Ok((!found.is_empty()).then_some(found))
        })
        .await
    }

    /// The first grant whose condition Active has this reason.
    pub async fn grant(&self, state: &str) -> anyhow::Result<String> {
        eventually(&format!("a grant that is {state}"), SOON, async || {
            let list: Value = serde_json::from_str(&self.admin(&["get", "accessgrants", "-o", "json"])?)?;
            let active = |grant: &&Value| {
                let conditions = grant["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|one| one["type"] == "Active" && one["reason"] == state)
            };
            let found = list["items"].as_array().into_iter().flatten().find(active);
            Ok(found.and_then(|grant| grant["metadata"]["name"].as_str()).map(str::to_owned))
        })
        .await
    }
}

fn prepare(site: &Site, namespace: &str) -> anyhow::Result<()> {
    let meta = |name: &str| json!({"name": name, "namespace": namespace});
    site.apply(&json!([
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(AGENT)},
    ]))?;
    let user = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
    let agent = user(&format!("{}{namespace}:{AGENT}", crds::names::USERNAME_PREFIX));
    let pod = json!({"containers": [{"name": "web", "image": "checkout:2.3.1"}], "automountServiceAccountToken": false});
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {"ports": [{"port": 80}]}});
    let rules = if namespace.contains("helm") { releases(namespace) } else { work(namespace) };
    site.apply(&json!([
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity", "metadata": meta(AGENT), "spec": {
            "subjects": [{"name": "in-cluster", "type": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": AGENT}}],
            "target": {"type": "InCluster"}, "limits": {"requestsPerSecond": 200}}},
        policy(namespace, namespace, rules),
        policy(&format!("{namespace}-window"), namespace, window(namespace)),
        binding(namespace, "edit", &agent),
        binding(namespace, "sallyport-approver", &user(ALICE)),
        {"apiVersion": "v1", "kind": "Secret", "metadata": meta("db"), "data": {"password": STANDARD.encode(CANARY)}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("first"), "data": {"text": "first"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta("web"), "spec": pod},
        service("paid"), service("once"),
    ]))?;
    let wait = ["wait", "--timeout=90s", "-n", namespace];
    for (condition, object) in [
        ("--for=condition=Ready", format!("agentidentity/{AGENT}")),
        ("--for=condition=Programmed", format!("accesspolicy/{namespace}")),
        ("--for=condition=Programmed", format!("accesspolicy/{namespace}-window")),
    ] {
        site.admin(&[&wait[..], &[condition, &object]].concat())?;
    }
    Ok(())
}

fn policy(name: &str, namespace: &str, mut spec: Value) -> Value {
    spec["agents"] = json!([{"namespace": namespace}]);
    json!({"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": name}, "spec": spec})
}

fn work(namespace: &str) -> Value {
    let entry = |group: &str, resources: &[&str], verbs: &[&str]| json!({"namespaces": [namespace], "apiGroups": [group], "resources": resources, "verbs": verbs});
    let read = ["get", "list", "watch"];
    json!({
        "rules": [
            {"name": "read", "effect": "Allow", "match": [
                entry("", &["secrets", "pods"], &read),
                {"namespaces": [CROWD], "apiGroups": [""], "resources": ["configmaps"], "verbs": read},
            ]},
            {"name": "work", "effect": "Allow", "match": [
                entry("", &["configmaps"], &["*"]),
                entry("apps", &["deployments"], &["get", "list", "watch", "create", "update", "patch"]),
            ]},
            {"name": "ask", "effect": "RequireApproval", "message": "A human looks at what is deleted.",
             "match": [entry("apps", &["deployments"], &["delete"])]},
            {"name": "services", "effect": "Deny", "message": DENIED, "match": [entry("", &["services"], &["delete"])]},
        ],
        "approval": {"holdSeconds": 3},
    })
}

/// What helm needs to keep a release of the small chart: everything but Secrets, and deletes are not held.
fn releases(namespace: &str) -> Value {
    let all = json!({"namespaces": [namespace], "apiGroups": ["", "apps"], "resources": ["configmaps", "deployments"], "verbs": ["*"]});
    let read = json!({"namespaces": [namespace], "apiGroups": ["", "apps"], "resources": ["secrets", "pods", "replicasets"], "verbs": ["get", "list", "watch", "create"]});
    json!({"rules": [{"name": "releases", "effect": "Allow", "match": [all, read]}]})
}

fn window(namespace: &str) -> Value {
    let services = json!({"namespaces": [namespace], "apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]});
    json!({"rules": [{"name": "services", "effect": "Allow", "match": [services]}], "jit": {"mode": "Required", "maxWindowSeconds": 3600}})
}
