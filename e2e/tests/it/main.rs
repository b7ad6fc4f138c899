//! Integration tests against a real kube-apiserver. One binary, one shared control plane; each test takes its own namespace.

mod admission;
mod answers;
mod aws;
mod aws_role;
mod boundary;
mod bypass;
mod caller;
mod canary;
mod certificates;
mod chart;
mod clock;
mod drain;
mod estate;
mod gate;
mod ground;
mod hold;
mod leader;
mod logs;
mod manifests;
mod mask;
mod oidc;
mod operator;
mod past;
mod plugin;
mod protobuf;
mod reading;
mod record;
mod recovery;
mod relay;
mod reviews;
mod secrets;
mod service_account;
mod spine;
mod storage;
mod targets;
mod window;
mod words;

use std::sync::OnceLock;

use e2e::aws::EksCluster;
use e2e::{Aws, ControlPlane, Gate, Setup};

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

/// A gate of its own for tests that pause it, or that need one without the baseline and with room for few requests of an agent.
pub fn fragile() -> anyhow::Result<Gate> {
    static FRAGILE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || {
        let setup = Setup {
            proxies: 1,
            operator_flags: vec!["--baseline-policy=false".to_owned()],
            proxy_flags: vec!["--max-requests-per-agent=3".to_owned()],
            ..Setup::default()
        };
        Gate::start(&ControlPlane::start()?, setup)
    };
    let gate = FRAGILE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no fragile gate: {error}"))
}

/// AWS, shared too.
pub fn aws() -> anyhow::Result<Aws> {
    static AWS: OnceLock<Result<Aws, String>> = OnceLock::new();
    let start = || Aws::start(plane()?.supervisor());
    let aws = AWS.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    aws.clone().map_err(|error| anyhow::anyhow!("no AWS: {error}"))
}

/// The EKS cluster `prod-use2` of account 444455556666 in us-east-2, shared too.
pub fn eks() -> anyhow::Result<EksCluster> {
    static EKS: OnceLock<Result<EksCluster, String>> = OnceLock::new();
    let start = || EksCluster::start(&aws()?, "444455556666", "us-east-2", "prod-use2");
    let eks = EKS.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    eks.clone().map_err(|error| anyhow::anyhow!("no EKS cluster: {error}"))
}
