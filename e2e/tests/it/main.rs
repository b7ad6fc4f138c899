//! Integration tests against a real kube-apiserver. One binary, one shared control plane; each test takes its own namespace.

mod admission;
mod answers;
mod boundary;
mod bypass;
mod caller;
mod certificates;
mod chart;
mod drain;
mod estate;
mod gate;
mod ground;
mod hold;
mod leader;
mod logs;
mod manifests;
mod mask;
mod operator;
mod plugin;
mod record;
mod recovery;
mod relay;
mod reviews;
mod spine;
mod storage;
mod window;

use std::sync::OnceLock;

use e2e::{ControlPlane, Gate, Setup};

/// The control plane that tests share; started by the first that asks.
pub fn plane() -> anyhow::Result<ControlPlane> {
    static PLANE: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    let plane = PLANE.get_or_init(|| ControlPlane::start().map_err(|error| format!("{error:#}")));
    plane.clone().map_err(|error| anyhow::anyhow!("no control plane: {error}"))
}

/// Operator and two proxies in front of [`plane`], shared too.
pub fn gate() -> anyhow::Result<Gate> {
    static GATE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || Gate::start(&plane()?, Setup::default());
    let gate = GATE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no gate: {error}"))
}
