//! The local cluster: a real Kubernetes control plane, operator and proxies as processes that vanish with the test.
//!
//! | you want | you take |
//! | --- | --- |
//! | etcd, kube-apiserver, kube-controller-manager | [`ControlPlane::start`] (ready in 5 s; gone without a trace) |
//! | a namespace of your own | [`ControlPlane::namespace`] |
//! | to act as an administrator, a person, a ServiceAccount | [`ControlPlane::admin`], [`ControlPlane::user`], [`ControlPlane::service_account_kubeconfig`] |
//! | to apply manifests | [`ControlPlane::apply`]; those of the chart: [`chart::manifests`] |
//! | helm | [`chart::helm`] |
//! | stock kubectl, new or old | [`kubectl`], [`kubectl_stdin`] |
//! | to know what reached the API server, as whom | [`ControlPlane::audit`], [`Audit::requests`], [`Filter`] |
//! | operator and proxies in front of it | [`Gate::start`] with a [`Setup`] |
//! | an agent | [`Gate::agent`]: [`Agent::kubectl`], [`Agent::client`], [`Agent::send`] for raw bytes |
//! | to kill, stop, restart a program | [`gate::Program`] of [`Gate::operator`] and [`gate::Proxy::program`] |
//! | a container's log, made on command | [`fake_kubelet::FakeKubelet`] |
//! | an issuer of OIDC tokens, forged ones too, or one that fails | [`oidc::FakeIssuer`] |
//! | a real Keycloak, with a SAML login | [`oidc::Keycloak`] |
//! | steady load of several agents, and whether all of it was recorded | [`load::Load`], [`load::unrecorded`] |
//! | what a Service is to the proxies | [`balancer::Balancer`] |
//! | a real S3 server, with Object Lock or without, that dies on command | [`S3::start`] |
//! | several operators behind such a one | [`Setup::operators`], [`Gate::operators`] |
//! | AWS: STS, EKS, the stock `aws` command, an EKS cluster | [`aws::Aws::start`], [`aws::EksCluster::start`] |
//! | a network that stalls | [`Setup::relayed`], [`gate::Proxy::relay`] |
//! | a whole node with pods | [`Node::start`]; [`Node::plane`], [`Node::import`], [`Node::in_namespace`], [`Node::forward_service`] |
//! | the chart installed, from images, on a node or another cluster | [`cluster::Cluster`], [`install::Images`], [`install::Release`] |
//! | an agent in a pod | [`pod::AgentPod`] |
//! | to wait for something | [`eventually`] |
//!
//! Clients are bound to the async runtime that made them: take a new one in each test. In `tests/it`, `super::plane()` and
//! `super::gate()` are shared by all tests of the run; a test that kills something starts its own. `SALLYPORT_E2E_LOGS=dir` keeps
//! the programs' logs.

pub mod agent;
pub mod audit;
pub mod aws;
pub mod balancer;
pub mod chart;
pub mod cluster;
pub mod control_plane;
pub mod fake_kubelet;
pub mod gate;
pub mod image;
pub mod install;
pub mod kubeconfig;
pub mod kubectl;
pub mod load;
pub mod node;
pub mod oci;
pub mod oidc;
pub mod pki;
pub mod pod;
pub mod relay;
pub mod s3;
pub mod scenario;
pub mod standing;
pub mod supervision;
pub mod tools;
pub mod wire;

use std::time::{Duration, Instant};

pub use agent::Agent;
pub use audit::{Audit, Filter};
pub use aws::Aws;
pub use control_plane::ControlPlane;
pub use gate::{Gate, Setup};
pub use kubectl::{Output, Version, kubectl, kubectl_stdin};
pub use node::Node;
pub use s3::S3;
pub use supervision::{Process, Sign, Supervisor};
pub use tools::{Tools, program, workspace_root};

/// Asks again and again until `probe` finds something; the pause between grows from 5 ms to 200 ms.
///
/// # Errors
/// When `probe` fails, or finds nothing in `limit`.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited {limit:?} in vain for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Makes aws-lc-rs the process's TLS provider; harmless when repeated.
pub fn install_crypto() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Runs `work` to its end on a thread with a runtime of its own, so that it may be called inside or outside another.
///
/// # Errors
/// What `work` fails with.
pub(crate) fn block_on<T: Send + 'static, F: Future<Output = anyhow::Result<T>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> anyhow::Result<T> {
    let run = move || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work());
    std::thread::spawn(run).join().map_err(|_panic| anyhow::anyhow!("the harness panicked"))?
}
