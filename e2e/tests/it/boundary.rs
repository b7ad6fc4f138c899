//! `check-boundary` with the very objects of `helm test`: it holds where the gate stands, and sees each wall that is gone.

use std::path::Path;
use std::process::Command;

use e2e::chart::manifests;
use e2e::gate::SYSTEM;
use e2e::{ControlPlane, Gate, Output, Setup};
use serde_json::{Value, json};

const AGENTS: &str = "sallyport-check";

struct Helm {
    gate: Gate,
    kubeconfig: std::path::PathBuf,
    folder: std::path::PathBuf,
}

impl Helm {
    /// What `helm test` makes before its pod, and what that pod mounts.
    async fn prepare(gate: &Gate) -> anyhow::Result<Self> {
        let plane = gate.plane();
        let (pods, others): (Vec<Value>, Vec<Value>) = manifests("tests")?
            .split("\n---\n")
            .map(|one| serde_saphyr::from_str::<Value>(one).map_err(anyhow::Error::from))
            .collect::<anyhow::Result<Vec<_>>>()?
            .into_iter()
            .filter(|one| one["kind"].is_string())
            .partition(|one| one["kind"] == "Pod");
        assert_eq!(pods.len(), 1);
        plane.named_namespace(AGENTS).await?;
        plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": others}).to_string())?;
        let kubeconfig = plane.service_account_kubeconfig(SYSTEM, AGENTS).await?;
        let folder = plane.scratch().join("check");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("ca.crt"), gate.ca().await?)?;
        let token = plane.token(SYSTEM, AGENTS, &[crds::names::TOKEN_AUDIENCE], 600).await?;
        std::fs::write(folder.join("token"), token)?;
        Ok(Self { gate: gate.clone(), kubeconfig, folder })
    }

    fn check(&self, within: &str) -> anyhow::Result<Output> {
        self.check_with(&self.folder.join("ca.crt"), &self.folder.join("token"), within)
    }

    fn check_with(&self, ca: &Path, token: &Path, within: &str) -> anyhow::Result<Output> {
        let url = self.gate.urls().remove(0);
        let out = Command::new(e2e::program("kubectl-sallyport")?)
            .args(["check-boundary", "-n", AGENTS, "--agent", "agent", "--account", "agent"])
            .args(["--gate", &url, "--within", within])
            .arg("--gate-ca")
            .arg(ca)
            .arg("--stranger-token")
            .arg(token)
            .env_clear()
            .env("KUBECONFIG", &self.kubeconfig)
            .output()?;
        let text = |bytes: Vec<u8>| String::from_utf8(bytes);
        Ok(Output {
            stdout: text(out.stdout)?,
            stderr: text(out.stderr)?,
            code: out.status.code().unwrap_or(-1),
        })
    }
}

#[track_caller]
fn fails(out: &Output, check: &str, why: &str) {
    assert_eq!(out.code, 1, "{out:?}");
    let line = out.stdout.lines().find(|line| line.starts_with(&format!("FAILED  {check}")));
    assert!(line.is_some_and(|line| line.contains(why)), "no `{why}` for `{check}` in:\n{}", out.stdout);
    assert!(out.stderr.contains("the boundary does not hold: "), "{out:?}");
}

#[tokio::test]
async fn the_boundary_holds_and_each_missing_wall_is_seen() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let helm = Helm::prepare(&gate).await?;
    let good = helm.check("60")?;
    assert_eq!(good.code, 0, "{good:?}");
    assert_eq!(good.stdout.lines().filter(|line| line.starts_with("ok      ")).count(), 5, "{good:?}");
    assert!(good.stdout.ends_with("the boundary holds\n"), "{good:?}");
    assert!(good.stdout.contains("segments in file:///"), "{good:?}");
    let grants = plane.kubectl(&["get", "accessgrants", "-n", AGENTS, "-o", "name"])?.success()?;
    assert_eq!(grants, "", "it asks with dry runs");

    let agent = helm.folder.join("agent");
    std::fs::write(&agent, plane.token(AGENTS, "agent", &[crds::names::TOKEN_AUDIENCE], 600).await?)?;
    let known = helm.check_with(&helm.folder.join("ca.crt"), &agent, "3")?;
    fails(&known, "an account that no AgentIdentity names", "it was let through with 200");

    let other = helm.folder.join("other.crt");
    std::fs::write(&other, plane.ca())?;
    let foreign = helm.check_with(&other, &helm.folder.join("token"), "2")?;
    fails(&foreign, "a request without a token", "the gate cannot be reached");

    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "everything"},
        "spec": {"agents": [{"namespace": AGENTS}], "rules": [{"name": "all", "effect": "Allow", "match": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        ]}]},
    });
    let edit = ["create", "rolebinding", "agent", "--clusterrole=edit", "-n", AGENTS];
    plane.kubectl(&[&edit[..], &["--user=sallyport:agent:sallyport-check:agent"]].concat())?.success()?;
    plane.apply(&policy.to_string())?;
    let wait = ["wait", "--for=condition=Programmed", "accesspolicy/everything", "--timeout=60s"];
    plane.kubectl(&wait)?.success()?;
    fails(&helm.check("3")?, "what no policy allows", "it was let through with 200");

    let approver = ["create", "rolebinding", "approver", "--clusterrole=sallyport-approver", "-n", AGENTS];
    let account = format!("--serviceaccount={SYSTEM}:{AGENTS}");
    plane.kubectl(&[&approver[..], &[&account]].concat())?.success()?;
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        plane.kubectl(&["delete", kind, crds::names::WEBHOOK_CONFIGURATION])?.success()?;
    }
    plane.kubectl(&["delete", "validatingadmissionpolicybinding", "sallyport-grants"])?.success()?;
    let open = e2e::eventually(
        "the API server to forget the walls",
        std::time::Duration::from_secs(30),
        async || {
            let out = helm.check("2")?;
            Ok(out.stdout.contains("was accepted").then_some(out))
        },
    );
    fails(&open.await?, "nobody reviews their own grant", "was accepted");
    Ok(())
}
