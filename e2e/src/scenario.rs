//! The newcomer's first half hour: the namespaces, the three YAML files, and the agent that comes of them.

use std::path::{Path, PathBuf};

use crate::agent::Agent;
use crate::gate::Gate;

/// The password in Secret `payments/db`: no answer to an agent may hold it.
pub const CANARY: &str = "canary-3f9c1e7a5b-hunter2";
/// The agents' namespace.
pub const AGENTS: &str = "agents";
/// The team's namespace.
pub const PAYMENTS: &str = "payments";
/// The agent, and its ServiceAccount.
pub const CLAUDE_CODE: &str = "claude-code";

/// A manifest of the first half hour: `world`, `identity`, `policy`, `rbac`, or one of the demo's.
pub fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/first-half-hour").join(format!("{name}.yaml"))
}

/// Applies the world and the three YAML files with `kubectl apply`, as a person would, and waits until the agent is Ready.
///
/// # Errors
/// When the API server refuses one or the agent is not Ready in 90 s.
pub async fn settle(gate: &Gate) -> anyhow::Result<Agent> {
    let plane = gate.plane();
    for name in ["world", "identity", "policy", "rbac"] {
        let path = manifest(name).display().to_string();
        plane.kubectl(&["apply", "-f", &path])?.success()?;
    }
    let object = format!("agentidentity/{CLAUDE_CODE}");
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=90s", "-n", AGENTS, &object])?.success()?;
    gate.existing_agent(AGENTS, CLAUDE_CODE, CLAUDE_CODE).await
}
