//! Where the gate is: started here, or one that stands already and is told by an env file (`make up`, `make e2e-up`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::kubectl::{Output, Version};
use e2e::{Audit, ControlPlane, Gate, Setup, kubectl_stdin, program};

/// Environment variable with the path of such a file.
pub const ENV_FILE: &str = "SALLYPORT_E2E_ENV";
/// The user who approves.
pub const ALICE: &str = "alice@example.com";

/// What a test needs to know of an installed gate; nothing in it depends on how it was installed.
pub struct Site {
    /// Kubeconfig of the cluster's administrator, straight to the API server.
    pub admin: PathBuf,
    /// URLs of the proxies.
    pub gates: Vec<String>,
    /// File with the CA that agents trust.
    pub ca: PathBuf,
    /// The API server's own witness.
    pub audit: Audit,
    /// URL of the recordings' store.
    pub store: String,
    /// Folder for kubeconfigs and tokens.
    pub scratch: tempfile::TempDir,
    plugin: PathBuf,
    _own: Option<Gate>,
}

impl Site {
    /// The gate of the env file, or one of our own.
    pub fn open() -> anyhow::Result<Self> {
        match std::env::var_os(ENV_FILE) {
            Some(path) => Self::standing(PathBuf::from(path)),
            None => Self::started(),
        }
    }

    fn started() -> anyhow::Result<Self> {
        let plane = ControlPlane::start()?;
        let gate = Gate::start(&plane, Setup::default())?;
        let ca = plane.scratch().join("gate-ca.crt");
        let runtime = tokio::runtime::Runtime::new()?;
        std::fs::write(&ca, runtime.block_on(gate.ca())?)?;
        Ok(Self {
            admin: plane.admin_kubeconfig().to_owned(),
            gates: gate.urls(),
            ca,
            audit: Audit::new(plane.audit().path().to_owned(), plane.admin_kubeconfig().to_owned()),
            store: format!("file://{}", gate.recordings().display()),
            scratch: tempfile::tempdir()?,
            plugin: program("kubectl-sallyport")?,
            _own: Some(gate),
        })
    }

    fn standing(path: PathBuf) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("no env file `{}`", path.display()))?;
        let lines = text.lines().filter_map(|line| line.trim().split_once('='));
        let said: BTreeMap<_, _> = lines.map(|(name, value)| (name, value.trim_matches('\''))).collect();
        let of = |name: &str| {
            said.get(name).copied().with_context(|| format!("{} names no {name}", path.display()))
        };
        let admin = PathBuf::from(of("ADMIN_KUBECONFIG")?);
        let store = match said.get("STORE") {
            Some(url) => (*url).to_owned(),
            None => format!("file://{}", of("RECORDINGS")?),
        };
        Ok(Self {
            gates: of("GATE_URLS")?.split_whitespace().map(str::to_owned).collect(),
            ca: PathBuf::from(of("GATE_CA")?),
            audit: Audit::new(PathBuf::from(of("AUDIT_LOG")?), admin.clone()),
            admin,
            store,
            scratch: tempfile::tempdir()?,
            plugin: PathBuf::from(of("KUBECTL_SALLYPORT")?),
            _own: None,
        })
    }

    /// kubectl as the administrator.
    pub fn admin(&self, args: &[&str]) -> anyhow::Result<String> {
        self.admin_with(args, "")?.success()
    }

    /// The same with text on its standard input, and whatever it says.
    pub fn admin_with(&self, args: &[&str], stdin: &str) -> anyhow::Result<Output> {
        kubectl_stdin(Version::New, &self.admin, args, stdin)
    }

    /// Applies objects.
    pub fn apply(&self, objects: &serde_json::Value) -> anyhow::Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        self.admin_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &list)?.success()?;
        Ok(())
    }

    /// One review of a grant, by the one-line patch, as Alice.
    pub fn review(&self, namespace: &str, grant: &str, decision: &str) -> anyhow::Result<()> {
        let patch = serde_json::json!({"spec": {"reviews": [{"decision": decision}]}}).to_string();
        let who = format!("--as={ALICE}");
        self.admin(&["patch", "accessgrant", grant, "-n", namespace, "--type=merge", "-p", &patch, &who])?;
        Ok(())
    }

    /// Every event of every session of a namespace's agents, as the recordings in the store tell it.
    pub fn recorded(&self, namespace: &str) -> anyhow::Result<Vec<serde_json::Value>> {
        let names = self.admin(&[
            "get",
            "sessionrecords",
            "-n",
            namespace,
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ])?;
        let mut events = Vec::new();
        for name in names.split_whitespace() {
            let out = Command::new(&self.plugin)
                .args(["replay", name, "-n", namespace, "-o", "json", "--store", &self.store])
                .env("KUBECONFIG", &self.admin)
                .output()?;
            let said = String::from_utf8_lossy(&out.stderr);
            // The card is there before the first segment is in the store.
            if said.contains("nothing is recorded under") {
                continue;
            }
            ensure!(out.status.success(), "replay of {name}: {said}");
            for line in String::from_utf8(out.stdout)?.lines() {
                events.push(serde_json::from_str(line)?);
            }
        }
        Ok(events)
    }
}
