//! etcd, kube-apiserver and kube-controller-manager as plain processes on loopback.
//!
//! *Expected flow*: [`ControlPlane::start`] makes keys, starts the three, and returns when the API server is ready and
//! namespaces get their `default` ServiceAccount (about 5 s). *Guarantees*: everything is gone when the last clone is dropped or
//! this process ends in any way; no port but loopback is opened. *Errors*: the message holds the last lines of the program's log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::audit::Audit;
use crate::kubeconfig::{Kubeconfig, Login};
use crate::kubectl::{Output, Version, kubectl, kubectl_stdin};
use crate::pki::{Authority, Pair, token_keys};
use crate::supervision::{Process, Sign, Supervisor};
use crate::tools::Tools;

/// A running control plane. Cheap to clone; ends with the last clone.
#[derive(Clone)]
pub struct ControlPlane(Arc<Inner>);

struct Inner {
    supervisor: Supervisor,
    server: String,
    authority: Authority,
    admin: PathBuf,
    audit: Audit,
    etcd: Process,
    api_server: Mutex<Process>,
    api_argv: Vec<String>,
    manager: Process,
    count: AtomicUsize,
}

/// The cluster administrator's user name, member of `system:masters`.
pub const ADMIN: &str = "e2e-admin";
const READY_WITHIN: Duration = Duration::from_secs(60);
const ATTEMPTS: usize = 3;
const FIRST_PORT: u16 = 12_000;
const PORTS: u32 = 20_000;

impl ControlPlane {
    /// Starts one; blocks until it is ready. May be called inside or outside an async runtime.
    ///
    /// # Errors
    /// When a program is missing or does not become ready in 60 s.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with more flags for the API server.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn start_with(more: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            // A free port is only free until somebody else takes it: start anew then.
            match Self::start_once(more) {
                Err(error)
                    if attempt < ATTEMPTS && format!("{error:#}").contains("address already in use") =>
                {
                    attempt += 1
                }
                outcome => return outcome,
            }
        }
    }

    fn start_once(more: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let supervisor = Supervisor::start()?;
        let files = Files::write(supervisor.scratch(), &[])?;
        let [client, peer, api, manager] = free_ports()?;
        let server = format!("https://127.0.0.1:{api}");
        let mut api_flags = vec![
            ("advertise-address", "127.0.0.1".to_owned()),
            ("bind-address", "127.0.0.1".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
        ];
        api_flags.extend_from_slice(more);
        Self::start_at(Site {
            supervisor,
            files,
            inside: server.clone(),
            server,
            ports: Ports { client, peer, api, manager },
            api_flags,
        })
    }

    pub(crate) fn start_at(site: Site) -> anyhow::Result<Self> {
        let Site { supervisor, files, server, inside, ports, api_flags } = site;
        let tools = Tools::get()?;
        let etcd_url = format!("http://127.0.0.1:{}", ports.client);
        let login = |to: &str, pair: &Pair| Kubeconfig::new(to, files.authority.cert(), Login::cert(pair));
        let admin = login(&server, &files.authority.client(ADMIN, Some("system:masters"))?);
        let admin = admin.write(&files.folder, "admin")?;
        let manager = login(&inside, &files.authority.client("system:kube-controller-manager", None)?);
        let manager = manager.write(&files.folder, "controller-manager")?;

        let etcd = supervisor.run("etcd", files.etcd(&tools.etcd, &etcd_url, ports.peer), base_env())?;
        let api_argv = files.api_server(&tools.kube_apiserver, &etcd_url, ports.api, &api_flags);
        let api_server = supervisor.run("kube-apiserver", api_argv.clone(), base_env())?;
        let audit = Audit::new(files.audit_log.clone(), admin.clone());
        let argv = files.controller_manager(&tools.kube_controller_manager, &manager, ports.manager);
        let first = (etcd.clone(), api_server.clone());
        let ready = admin.clone();
        crate::block_on(move || async move { wait_for_api_server(&ready, [&first.0, &first.1]).await })?;
        let manager = supervisor.run("kube-controller-manager", argv, base_env())?;
        let inner = Inner {
            supervisor,
            server,
            authority: files.authority,
            admin,
            audit,
            etcd,
            api_server: Mutex::new(api_server),
            api_argv,
            manager,
            count: AtomicUsize::new(0),
        };
        let plane = Self(Arc::new(inner));
        let ready = plane.clone();
        crate::block_on(move || async move { ready.wait_for_service_accounts().await })?;
        Ok(plane)
    }

    /// URL of the API server.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// The certificate authority of the API server, PEM.
    pub fn ca(&self) -> &str {
        self.0.authority.cert()
    }

    /// Folder for files that should vanish with the control plane.
    pub fn scratch(&self) -> &Path {
        self.0.supervisor.scratch()
    }

    /// The supervisor, to run more processes that vanish with the control plane.
    pub fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }

    /// The witness of what reached the API server.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// The API server's process, the last that was started.
    pub fn api_server(&self) -> Process {
        self.0.api_server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the API server and starts it anew; blocks until it is ready. May be called inside or outside an async runtime.
    ///
    /// # Errors
    /// When it does not end in 60 s or does not become ready in another 60 s.
    pub fn restart_api_server(&self) -> anyhow::Result<()> {
        let old = self.api_server();
        old.signal(Sign::Term)?;
        old.wait(READY_WITHIN)?;
        let new = self.0.supervisor.run("kube-apiserver", self.0.api_argv.clone(), base_env())?;
        *self.0.api_server.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        let (admin, etcd) = (self.0.admin.clone(), self.0.etcd.clone());
        crate::block_on(move || async move { wait_for_api_server(&admin, [&etcd, &new]).await })
    }

    /// kube-controller-manager's process.
    pub fn controller_manager(&self) -> &Process {
        &self.0.manager
    }

    /// etcd's process.
    pub fn etcd(&self) -> &Process {
        &self.0.etcd
    }

    /// Kubeconfig file of [`ADMIN`].
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.0.admin
    }

    /// A client of [`ADMIN`], bound to the current async runtime.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn admin(&self) -> anyhow::Result<Client> {
        Kubeconfig::client(&self.0.admin).await
    }

    /// Kubeconfig file of any user, straight to the API server, proven by a client certificate.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn user_kubeconfig(&self, user: &str, group: Option<&str>) -> anyhow::Result<PathBuf> {
        let pair = self.0.authority.client(user, group)?;
        let name = format!("user-{}", self.next());
        Kubeconfig::new(self.server(), self.ca(), Login::cert(&pair))
            .write(&self.scratch().join("files"), &name)
    }

    /// A client of any user, proven by a client certificate, bound to the current async runtime.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub async fn user(&self, user: &str, group: Option<&str>) -> anyhow::Result<Client> {
        Kubeconfig::client(&self.user_kubeconfig(user, group)?).await
    }

    /// Makes a namespace `<prefix>-<number>` that no other test has; returns when its ServiceAccount `default` is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, prefix: &str) -> anyhow::Result<String> {
        let name = format!("{prefix}-{}", self.next());
        self.named_namespace(&name).await?;
        Ok(name)
    }

    /// Makes the namespace `name` if it is not there; returns when its ServiceAccount `default` is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn named_namespace(&self, name: &str) -> anyhow::Result<()> {
        let client = self.admin().await?;
        let meta = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata: meta, ..Namespace::default() };
        if Api::<Namespace>::all(client.clone()).get_opt(name).await?.is_none() {
            Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
        let what = format!("ServiceAccount default in {name}");
        crate::eventually(&what, READY_WITHIN, async || {
            Ok(accounts.get_opt("default").await?.map(|_account| ()))
        })
        .await
    }

    /// Makes a ServiceAccount if it is not there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, namespace);
        if accounts.get_opt(name).await?.is_none() {
            let meta = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
            let account = ServiceAccount { metadata: meta, ..ServiceAccount::default() };
            accounts.create(&PostParams::default(), &account).await?;
        }
        Ok(())
    }

    /// A ServiceAccount's token from TokenRequest. No `audiences`: the API server's own. The API server takes 600 s at least.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn token(
        &self,
        namespace: &str,
        name: &str,
        audiences: &[&str],
        seconds: i64,
    ) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, namespace);
        let audiences = audiences.iter().map(|&audience| audience.to_owned()).collect();
        let spec =
            TokenRequestSpec { audiences, expiration_seconds: Some(seconds), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
        Ok(answer.status.context("a TokenRequest has a status")?.token)
    }

    /// Kubeconfig file of a ServiceAccount, straight to the API server, with its token in a file (good for a day).
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        self.service_account_kubeconfig_to(self.server(), namespace, name).await
    }

    /// The same, but to another address (a relay) that ends at this API server.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn service_account_kubeconfig_to(
        &self,
        server: &str,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<PathBuf> {
        let token = self.token(namespace, name, &[], 86_400).await?;
        let file = format!("{namespace}-{name}-{}", self.next());
        let folder = self.scratch().join("files");
        let token_file = folder.join(format!("{file}.token"));
        std::fs::write(&token_file, token)?;
        Kubeconfig::new(server, self.ca(), Login::TokenFile(token_file))
            .in_namespace(namespace)
            .write(&folder, &file)
    }

    /// Runs the newest kubectl as [`ADMIN`].
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<Output> {
        kubectl(Version::New, self.admin_kubeconfig(), args)
    }

    /// Applies manifests (YAML or JSON) as [`ADMIN`], server-side.
    ///
    /// # Errors
    /// When the API server refuses one; the message is kubectl's.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        kubectl_stdin(Version::New, self.admin_kubeconfig(), &args, manifests)?.success()
    }

    /// A number that this control plane has not given before.
    pub fn next(&self) -> usize {
        self.0.count.fetch_add(1, Ordering::Relaxed)
    }

    async fn wait_for_service_accounts(&self) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, "default");
        let what = "ServiceAccount default";
        let found = crate::eventually(what, READY_WITHIN, async || {
            if self.0.manager.ended()?.is_some() {
                bail!("kube-controller-manager ended");
            }
            Ok(accounts.get_opt("default").await?.map(|_account| ()))
        });
        found.await.with_context(|| self.0.manager.last_words())
    }
}

async fn wait_for_api_server(admin: &Path, processes: [&Process; 2]) -> anyhow::Result<()> {
    let client = Kubeconfig::client(admin).await?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        if client.request_text(request).await.is_ok_and(|text| text == "ok") {
            return Ok(());
        }
        for process in processes {
            if process.ended()?.is_some() || Instant::now() > deadline {
                bail!("the API server did not become ready; {}", process.last_words());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where a control plane runs, and how it is reached.
pub(crate) struct Site {
    /// Runs its programs, in namespaces of their own or not.
    pub supervisor: Supervisor,
    /// What it reads, in the supervisor's scratch folder.
    pub files: Files,
    /// URL of the API server for this process and its children.
    pub server: String,
    /// URL of the API server for the programs beside it.
    pub inside: String,
    /// On loopback, but for the API server's.
    pub ports: Ports,
    /// Flags of the API server that depend on the place: addresses, the kubelet.
    pub api_flags: Vec<(&'static str, String)>,
}

/// Ports of the control plane's programs.
pub(crate) struct Ports {
    /// etcd, for the API server.
    pub client: u16,
    /// etcd, for other members; there are none.
    pub peer: u16,
    /// The API server.
    pub api: u16,
    /// kube-controller-manager.
    pub manager: u16,
}

/// Ports of loopback that nobody listens on and nobody is given: below those that outgoing connections take (32768 and up on
/// Linux), never twice by this process, and begun at a place of its own by each process.
///
/// # Errors
/// When none is left.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(977)));
    let mut ports = [0; N];
    for port in &mut ports {
        let free = std::iter::repeat_with(|| {
            u16::try_from(next.fetch_add(1, Ordering::Relaxed) % PORTS).map(|at| FIRST_PORT + at)
        });
        let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let found = free.take(PORTS as usize).filter_map(Result::ok).find(is_free);
        *port = found.context("no free port on loopback")?;
    }
    Ok(ports)
}

/// What every program of the control plane gets for an environment. They live for minutes, many at once on few cores: collecting
/// garbage more rarely saves an eighth of an API server's time.
pub fn base_env() -> BTreeMap<String, String> {
    let kept =
        ["PATH", "TMPDIR"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)));
    kept.chain([("GOGC".to_owned(), "400".to_owned())]).collect()
}

const AUDIT_POLICY: &str = include_str!("audit-policy.yaml");

/// The files that the control plane reads.
pub(crate) struct Files {
    /// The folder.
    pub folder: PathBuf,
    /// Signs all certificates.
    pub authority: Authority,
    audit_log: PathBuf,
}

impl Files {
    /// Writes them into a new folder below `scratch`; the API server's certificate is good for `names` too.
    pub(crate) fn write(scratch: &Path, names: &[&str]) -> anyhow::Result<Self> {
        let folder = scratch.join("files");
        std::fs::create_dir(&folder)?;
        let authority = Authority::new("e2e-ca")?;
        let own = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let server = authority.server("kube-apiserver", &[&own, names].concat())?;
        let (token_key, token_public) = token_keys()?;
        for (name, text) in [
            ("ca.crt", authority.cert()),
            ("server.crt", &server.cert),
            ("server.key", &server.key),
            ("token.key", &token_key),
            ("token.pub", &token_public),
            ("audit-policy.yaml", AUDIT_POLICY),
        ] {
            std::fs::write(folder.join(name), text)?;
        }
        Ok(Self { audit_log: scratch.join("audit.log"), folder, authority })
    }

    /// Path of one of them.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn etcd(&self, program: &Path, url: &str, peer_port: u16) -> Vec<String> {
        let peer = format!("http://127.0.0.1:{peer_port}");
        argv(
            program,
            &[
                ("name", "e2e".to_owned()),
                ("data-dir", self.file("etcd")),
                ("listen-client-urls", url.to_owned()),
                ("advertise-client-urls", url.to_owned()),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", format!("e2e={peer}")),
                ("unsafe-no-fsync", "true".to_owned()),
                ("log-level", "warn".to_owned()),
            ],
        )
    }

    fn api_server(&self, program: &Path, etcd_url: &str, port: u16, more: &[(&str, String)]) -> Vec<String> {
        let mut words = argv(
            program,
            &[
                ("secure-port", port.to_string()),
                ("etcd-servers", etcd_url.to_owned()),
                ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
                ("authorization-mode", "Node,RBAC".to_owned()),
                ("client-ca-file", self.file("ca.crt")),
                ("tls-cert-file", self.file("server.crt")),
                ("tls-private-key-file", self.file("server.key")),
                ("service-account-key-file", self.file("token.pub")),
                ("service-account-signing-key-file", self.file("token.key")),
                // Its own discovery document is to be found there (behind the control plane's authority).
                ("service-account-issuer", format!("https://127.0.0.1:{port}")),
                ("audit-policy-file", self.file("audit-policy.yaml")),
                ("audit-log-path", self.audit_log.display().to_string()),
                ("audit-log-maxsize", "4000".to_owned()),
                ("profiling", "false".to_owned()),
                // Else open watches hold up its end for a minute.
                ("shutdown-watch-termination-grace-period", "2s".to_owned()),
            ],
        );
        words.extend(more.iter().map(|(name, value)| format!("--{name}={value}")));
        words
    }

    fn controller_manager(&self, program: &Path, kubeconfig: &Path, port: u16) -> Vec<String> {
        let kubeconfig = kubeconfig.display().to_string();
        argv(
            program,
            &[
                ("kubeconfig", kubeconfig.clone()),
                ("authentication-kubeconfig", kubeconfig.clone()),
                ("authorization-kubeconfig", kubeconfig),
                ("bind-address", "127.0.0.1".to_owned()),
                ("secure-port", port.to_string()),
                ("cert-dir", self.file("controller-manager")),
                ("leader-elect", "false".to_owned()),
                ("use-service-account-credentials", "true".to_owned()),
                ("service-account-private-key-file", self.file("token.key")),
                ("root-ca-file", self.file("ca.crt")),
                ("concurrent-gc-syncs", "2".to_owned()),
            ],
        )
    }
}

/// A command line of a Kubernetes program.
pub(crate) fn argv(program: &Path, flags: &[(&str, String)]) -> Vec<String> {
    let program = program.display().to_string();
    std::iter::once(program).chain(flags.iter().map(|(name, value)| format!("--{name}={value}"))).collect()
}
