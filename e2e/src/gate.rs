//! Operator and proxies as processes in front of a control plane, each as its own ServiceAccount with the RBAC of the chart.
//!
//! *Expected flow*: [`Gate::start`] applies the CRDs and the chart's RBAC, webhook and admission manifests, mints the two
//! ServiceAccounts' tokens, starts one operator and the proxies, and returns when all of them are ready. *Assumptions*: the
//! programs are built (`cargo build --workspace --bins`); else the error says so.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use crate::balancer::Balancer;
use crate::chart;
use crate::control_plane::{ControlPlane, base_env, free_ports};
use crate::relay::Relay;
use crate::supervision::{Process, Sign};
use crate::{eventually, wire};

/// Namespace of operator and proxies.
pub const SYSTEM: &str = "sallyport-system";
const READY_WITHIN: Duration = Duration::from_secs(90);
const TEMPLATES: [&str; 3] = ["rbac", "webhook", "admission"];

/// How a gate is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many operators; more than one stand behind a [`Balancer`], as behind a Service.
    pub operators: usize,
    /// How many proxies.
    pub proxies: usize,
    /// Whether each proxy reaches the API server through a [`Relay`] of its own.
    pub relayed: bool,
    /// More flags for the operator.
    pub operator_flags: Vec<String>,
    /// More flags for each proxy.
    pub proxy_flags: Vec<String>,
    /// More environment for each proxy.
    pub proxy_env: BTreeMap<String, String>,
    /// Where proxies keep recordings; a folder of the control plane's where it is not given.
    pub store: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            operators: 1,
            proxies: 2,
            relayed: false,
            operator_flags: Vec::new(),
            proxy_flags: Vec::new(),
            proxy_env: BTreeMap::new(),
            store: None,
        }
    }
}

/// A running gate. Cheap to clone; ends with its control plane.
#[derive(Clone)]
pub struct Gate(Arc<Inner>);

struct Inner {
    plane: ControlPlane,
    operators: Vec<Program>,
    proxies: Vec<Proxy>,
}

/// One proxy of a gate.
pub struct Proxy {
    program: Program,
    port: u16,
    relay: Option<Relay>,
}

/// A program of this workspace that can be killed and started anew with the same flags.
pub struct Program {
    plane: ControlPlane,
    name: String,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    kubeconfig: PathBuf,
    admin_port: u16,
    process: Mutex<Process>,
}

impl Gate {
    /// Starts operator and proxies in front of `plane` and waits until they are ready.
    ///
    /// # Errors
    /// When a program is not built, a manifest is refused, or a program is not ready in 90 s.
    pub fn start(plane: &ControlPlane, setup: Setup) -> anyhow::Result<Self> {
        let gate = Self::start_without_waiting(plane, setup)?;
        let started = gate.clone();
        crate::block_on(move || async move { started.ready().await })?;
        Ok(gate)
    }

    /// The same without waiting for readiness.
    ///
    /// # Errors
    /// As [`Gate::start`].
    pub fn start_without_waiting(plane: &ControlPlane, setup: Setup) -> anyhow::Result<Self> {
        let plane = plane.clone();
        crate::block_on(move || async move {
            install(&plane).await?;
            let mut proxies = Vec::new();
            for index in 0..setup.proxies {
                proxies.push(Proxy::start(&plane, index, &setup).await?);
            }
            let url = proxies.first().map_or_else(|| "https://127.0.0.1:1".to_owned(), Proxy::url);
            let operators = start_operators(&plane, &url, &setup).await?;
            Ok(Self(Arc::new(Inner { plane, operators, proxies })))
        })
    }

    /// Waits until the operator, every proxy and the webhook's certificate are ready.
    ///
    /// # Errors
    /// When one is not in 90 s.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for operator in self.operators() {
            operator.ready().await?;
        }
        for proxy in self.proxies() {
            proxy.program().ready().await?;
        }
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.plane().admin().await?);
        eventually("the webhook's caBundle", READY_WITHIN, async || {
            let found = webhooks.list(&kube::api::ListParams::default()).await?;
            let all = found.items.iter().flat_map(|one| one.webhooks.iter().flatten());
            let trusted = all.map(|webhook| webhook.client_config.ca_bundle.is_some()).collect::<Vec<_>>();
            Ok((!trusted.is_empty() && trusted.iter().all(|&is| is)).then_some(()))
        })
        .await
    }

    /// The control plane behind.
    pub fn plane(&self) -> &ControlPlane {
        &self.0.plane
    }

    /// The operator; the first, where there are several.
    pub fn operator(&self) -> &Program {
        &self.0.operators[0]
    }

    /// The operators.
    pub fn operators(&self) -> &[Program] {
        &self.0.operators
    }

    /// The proxies.
    pub fn proxies(&self) -> &[Proxy] {
        &self.0.proxies
    }

    /// URL of each proxy.
    pub fn urls(&self) -> Vec<String> {
        self.proxies().iter().map(Proxy::url).collect()
    }

    /// Folder where all proxies keep recordings.
    pub fn recordings(&self) -> PathBuf {
        recordings(self.plane())
    }

    /// The certificate authority that agents trust, PEM, as the operator published it.
    ///
    /// # Errors
    /// When it is not published.
    pub async fn ca(&self) -> anyhow::Result<String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.plane().admin().await?, SYSTEM);
        eventually("ConfigMap sallyport-ca", READY_WITHIN, async || {
            let map = maps.get_opt(crds::names::CA_CONFIG_MAP).await?;
            Ok(map.and_then(|map| map.data?.remove("ca.crt")))
        })
        .await
    }
}

impl Proxy {
    async fn start(plane: &ControlPlane, index: usize, setup: &Setup) -> anyhow::Result<Self> {
        let [port, admin_port] = free_ports()?;
        let relay = setup.relayed.then(|| Relay::start(api_address(plane)?)).transpose()?;
        let server = match &relay {
            Some(relay) => format!("https://127.0.0.1:{}", relay.port()),
            None => plane.server().to_owned(),
        };
        let name = format!("proxy-{index}");
        let spool = plane.scratch().join("spool").join(&name);
        std::fs::create_dir_all(&spool)?;
        std::fs::create_dir_all(recordings(plane))?;
        let mut argv = flags(
            plane,
            "sallyport-proxy",
            &[
                ("namespace", SYSTEM.to_owned()),
                ("replica", name.clone()),
                ("bind", format!("127.0.0.1:{port}")),
                ("admin-bind", format!("127.0.0.1:{admin_port}")),
                (
                    "store",
                    setup.store.clone().unwrap_or_else(|| format!("file://{}", recordings(plane).display())),
                ),
                ("spool", spool.display().to_string()),
            ],
        )?;
        argv.extend(setup.proxy_flags.iter().cloned());
        let account = crds::names::PROXY_SERVICE_ACCOUNT;
        let kubeconfig = plane.service_account_kubeconfig_to(&server, SYSTEM, account).await?;
        let env = setup.proxy_env.clone();
        Ok(Self { program: Program::start(plane, &name, argv, env, kubeconfig, admin_port)?, port, relay })
    }

    /// The process, its admin port and its end.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// URL where agents reach it.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Port where agents reach it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The relay between it and the API server, in a relayed [`Setup`].
    ///
    /// # Errors
    /// In any other setup.
    pub fn relay(&self) -> anyhow::Result<&Relay> {
        self.relay.as_ref().context("this gate was not set up with relays")
    }
}

impl Program {
    fn start(
        plane: &ControlPlane,
        name: &str,
        argv: Vec<String>,
        env: BTreeMap<String, String>,
        kubeconfig: PathBuf,
        admin_port: u16,
    ) -> anyhow::Result<Self> {
        let process = Mutex::new(run(plane, name, &argv, &env, &kubeconfig)?);
        Ok(Self { plane: plane.clone(), name: name.to_owned(), argv, env, kubeconfig, admin_port, process })
    }

    /// The running (or last) process.
    pub fn process(&self) -> Process {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Port of `/livez`, `/readyz` and `/metrics`.
    pub fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Its own kubeconfig: the credential that it uses towards the API server.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.process().kill()
    }

    /// Asks it to end (SIGTERM) and waits; returns the exit code.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn stop(&self, limit: Duration) -> anyhow::Result<i32> {
        let process = self.process();
        process.signal(Sign::Term)?;
        process.wait(limit)
    }

    /// Starts it again with the same flags and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in 90 s.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let old = self.process();
        if old.ended()?.is_none() {
            old.kill()?;
        }
        let new = run(&self.plane, &self.name, &self.argv, &self.env, &self.kubeconfig)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.ready().await
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// When it does not in 90 s, or the process ended: with the last lines of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let process = self.process();
        let what = format!("{} to be ready", self.name);
        let ready = eventually(&what, READY_WITHIN, async || {
            if let Some(code) = process.ended()? {
                bail!("{} ended with {code}", self.name);
            }
            let answer = wire::get_plain(self.admin_port, "/readyz").await;
            Ok(answer.is_ok_and(|answer| answer.code == 200).then_some(()))
        });
        ready.await.with_context(|| process.last_words())
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        Ok(wire::get_plain(self.admin_port, "/metrics").await?.text())
    }
}

async fn start_operators(
    plane: &ControlPlane,
    proxy_url: &str,
    setup: &Setup,
) -> anyhow::Result<Vec<Program>> {
    let mut ports: Vec<[u16; 2]> = Vec::new();
    for _ in 0..setup.operators {
        ports.push(free_ports()?);
    }
    let webhook_url = match ports.as_slice() {
        [[alone, _admin]] => format!("https://127.0.0.1:{alone}"),
        _ => Balancer::before(ports.iter().map(|&[port, admin]| (port, admin)))?.url(),
    };
    let mut operators = Vec::new();
    for (index, &[port, admin_port]) in ports.iter().enumerate() {
        let name = if index == 0 { "operator".to_owned() } else { format!("operator-{index}") };
        let mut argv = flags(
            plane,
            "sallyport-operator",
            &[
                ("namespace", SYSTEM.to_owned()),
                ("replica-id", name.clone()),
                ("proxy-url", proxy_url.to_owned()),
                ("webhook-bind", format!("127.0.0.1:{port}")),
                ("webhook-url", webhook_url.clone()),
                ("admin-bind", format!("127.0.0.1:{admin_port}")),
                ("extra-san", "127.0.0.1".to_owned()),
                ("extra-san", "localhost".to_owned()),
            ],
        )?;
        argv.extend(setup.operator_flags.iter().cloned());
        let account = crds::names::OPERATOR_SERVICE_ACCOUNT;
        let kubeconfig = plane.service_account_kubeconfig(SYSTEM, account).await?;
        operators.push(Program::start(plane, &name, argv, BTreeMap::new(), kubeconfig, admin_port)?);
    }
    Ok(operators)
}

/// What a cluster administrator installs: CRDs, the system namespace, and the chart's own manifests.
///
/// # Errors
/// When the API server refuses one.
pub async fn install(plane: &ControlPlane) -> anyhow::Result<()> {
    plane.named_namespace(SYSTEM).await?;
    plane.apply(&chart::manifests("crds")?)?;
    plane.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?.success()?;
    for folder in TEMPLATES {
        plane.apply(&chart::manifests(folder)?)?;
    }
    Ok(())
}

fn recordings(plane: &ControlPlane) -> PathBuf {
    plane.scratch().join("recordings")
}

/// Where the API server listens, for a [`Relay`] to it.
///
/// # Errors
/// When its URL names no port on loopback.
pub fn api_address(plane: &ControlPlane) -> anyhow::Result<SocketAddr> {
    let (_, port) = plane.server().rsplit_once(':').context("the server's URL has a port")?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse()?)))
}

fn flags(plane: &ControlPlane, program: &str, flags: &[(&str, String)]) -> anyhow::Result<Vec<String>> {
    let program = kept(plane, program)?.display().to_string();
    let flags = flags.iter().flat_map(|(name, value)| [format!("--{name}"), value.clone()]);
    Ok(std::iter::once(program).chain(flags).collect())
}

/// The program as it is now, for restarts too, whatever is built meanwhile; where it cannot be linked, the built one.
fn kept(plane: &ControlPlane, name: &str) -> anyhow::Result<PathBuf> {
    let built = crate::program(name)?;
    let folder = plane.scratch().join("bin");
    std::fs::create_dir_all(&folder)?;
    let kept = folder.join(name);
    let linked = kept.exists() || std::fs::hard_link(&built, &kept).is_ok();
    Ok(if linked { kept } else { built })
}

fn run(
    plane: &ControlPlane,
    name: &str,
    argv: &[String],
    more: &BTreeMap<String, String>,
    kubeconfig: &Path,
) -> anyhow::Result<Process> {
    let mut env: BTreeMap<String, String> = base_env();
    env.extend(more.clone());
    env.insert("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
    env.insert(
        "RUST_LOG".to_owned(),
        std::env::var("SALLYPORT_E2E_RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
    );
    env.insert("RUST_BACKTRACE".to_owned(), "1".to_owned());
    plane.supervisor().run(name, argv.to_vec(), env)
}
