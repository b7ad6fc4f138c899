//! Integration tests against a real kube-apiserver. One binary, one shared control plane; each test takes its own namespace.

mod ground;

use std::sync::OnceLock;

use e2e::ControlPlane;

/// The control plane that tests share; started by the first that asks.
pub fn plane() -> anyhow::Result<ControlPlane> {
    static PLANE: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    let plane = PLANE.get_or_init(|| ControlPlane::start().map_err(|error| format!("{error:#}")));
    plane.clone().map_err(|error| anyhow::anyhow!("no control plane: {error}"))
}
