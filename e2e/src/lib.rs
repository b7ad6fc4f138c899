//! The local cluster: a real Kubernetes control plane, operator and proxies as processes that vanish with the test.

pub mod audit;
pub mod control_plane;
pub mod kubeconfig;
pub mod kubectl;
pub mod pki;
pub mod supervision;
pub mod tools;

use std::time::{Duration, Instant};

pub use audit::{Audit, Filter};
pub use control_plane::ControlPlane;
pub use kubectl::{Output, Version, kubectl, kubectl_stdin};
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
