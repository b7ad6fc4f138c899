//! The acts of the demo, in the order of the first half hour.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::scenario::{AGENTS, CANARY, manifest};
use e2e::{Filter, Gate};

use crate::stage::{Actor, Said, act, say};

/// Everybody who is on stage.
pub struct Stage {
    /// A cluster administrator, straight to the API server.
    pub admin: Actor,
    /// A reviewer, straight to the API server.
    pub alice: Actor,
    /// The AI agent, through the gate.
    pub agent: Actor,
    /// Operator and proxies.
    pub gate: Gate,
    /// The agent's user name.
    pub username: String,
    /// For the audit log.
    pub runtime: tokio::runtime::Runtime,
}

const SOON: Duration = Duration::from_secs(30);
const WINDOW_SECONDS: u64 = 60;
const DELETE_WEB: &str = "kubectl delete deploy web -n payments";
const TURN_REFUNDS_ON: &str =
    r#"kubectl patch configmap flags -n payments --type=merge -p '{"data":{"refunds":"on"}}'"#;

/// What an administrator applies: the world as it was, and the three files that make an agent.
pub fn the_three_files(admin: &Actor) -> anyhow::Result<()> {
    act("Three YAML files make an agent");
    apply(admin, "world")?;
    for name in ["identity", "policy", "rbac", "alice"] {
        apply(admin, name)?;
    }
    let wait = "kubectl wait --for=condition=Ready agentidentity/claude-code -n agents --timeout=60s";
    admin
        .types(wait)?
        .well("Ready means that a proxy has made a request as this agent", &["condition met"])?;
    Ok(())
}

fn apply(admin: &Actor, name: &str) -> anyhow::Result<()> {
    admin.types(&format!("kubectl apply -f {}", shown(name)))?.well("applied", &["created"]).map(|_said| ())
}

/// A manifest's path as typed at the root of the workspace.
fn shown(name: &str) -> String {
    let path = manifest(name);
    path.strip_prefix(e2e::workspace_root()).unwrap_or(&path).display().to_string()
}

impl Stage {
    /// Plays every act; the first step that does not do what it says ends it.
    pub fn play(&self) -> anyhow::Result<()> {
        self.who_am_i()?;
        self.reading()?;
        self.everywhere()?;
        self.denied()?;
        self.held()?;
        self.window()?;
        self.suspended()?;
        self.remembered()
    }

    fn who_am_i(&self) -> anyhow::Result<()> {
        act("The agent: a stock kubectl, a projected token, a kubeconfig without a secret in it");
        let said = self.agent("kubectl auth whoami")?;
        said.well("the API server knows it by this name", &[&self.username, "sallyport.dev/session"])?;
        let config = std::fs::read_to_string(self.kubeconfig()?)?;
        ensure!(
            config.contains("certificate-authority-data"),
            "the kubeconfig holds no certificate authority"
        );
        ensure!(!config.contains("insecure-skip-tls-verify"), "the kubeconfig skips verification");
        Ok(())
    }

    fn reading(&self) -> anyhow::Result<()> {
        act("Reading is allowed; secrets come masked");
        self.agent("kubectl get deploy -n payments")?.well("an allowed list", &["web"])?;
        let password = "kubectl get secret db -n payments -o jsonpath='{.data.password}' | base64 -d; echo";
        self.agent(password)?.well("a placeholder, not the password", &["[MASKED:"])?;
        self.agent("kubectl get secret db -n payments -o yaml")?
            .well("the copy in last-applied is masked too", &["kind: Secret"])?;
        Ok(())
    }

    fn everywhere(&self) -> anyhow::Result<()> {
        act("-A: allowed in one namespace is not allowed everywhere");
        self.agent("kubectl get pods -A")?.badly("nobody allowed this", &["(NotAllowed)"])?;
        say("an administrator adds a policy: pods everywhere, but kube-system is not for agents");
        apply(&self.admin, "read-all")?;
        self.programmed("read-all")?;
        self.agent("kubectl get pods -A")?
            .well("the list is narrowed, and says so", &["Warning: sallyport", "payments"])?
            .without(&["not-for-agents"])?;
        Ok(())
    }

    fn denied(&self) -> anyhow::Result<()> {
        act("Denied is denied, and says that it is final");
        self.agent("kubectl delete namespace payments")?.badly(
            "the baseline policy denies it",
            &["(PolicyDenied)", "final:   yes", "sallyport-baseline"],
        )?;
        self.agent("kubectl auth can-i delete deploy/web -n payments")?
            .badly("it can ask before it acts", &["no - needs human approval"])?;
        Ok(())
    }

    fn held(&self) -> anyhow::Result<()> {
        act("A delete waits for a human, then runs once");
        let mut delete = self.agent.starts(DELETE_WEB)?;
        say("... the command hangs; meanwhile, the human:");
        let first = self.waiting_grant()?;
        ensure!(delete.runs()?, "the delete did not wait: {}", delete.so_far());
        self.alice
            .types("kubectl get accessgrants -A")?
            .well("a request waits for review", &["WaitingForReview"])?;
        self.review(&first, "Approved", None)?;
        say("the agent's command goes on:");
        let said = delete
            .ends(SOON)?
            .well("approved, and ran once", &["deleted", "approved by alice@example.com"])?;
        self.check_canary(&said)?;
        ensure!(
            self.deletes_seen()? == 1,
            "the API server's audit log has {} deletes by the agent",
            self.deletes_seen()?
        );
        println!("  ok: the API server's own audit log has exactly one delete, as {}\n", self.username);

        say("somebody deploys web again; the same command is a new request");
        self.admin
            .types(&format!("kubectl apply -f {}", shown("world")))?
            .well("web is back", &["deployment.apps/web created"])?;
        let delete = self.agent.starts(DELETE_WEB)?;
        let second = self.waiting_grant()?;
        ensure!(first != second, "the used grant was used again");
        self.review(&second, "Denied", Some("use the canary first"))?;
        let said = delete.ends(SOON)?;
        said.badly("held anew, and denied this time", &["(ApprovalDenied)", "use the canary first"])?;
        ensure!(self.deletes_seen()? == 1, "a denied delete reached the API server");
        Ok(())
    }

    fn window(&self) -> anyhow::Result<()> {
        act("A window: asked for by the agent, approved by a human, and then it ends");
        apply(&self.admin, "windows")?;
        self.programmed("payments-write")?;
        self.agent(TURN_REFUNDS_ON)?.badly("only inside a window", &["(WindowRequired)"])?;
        let ask = format!(
            r#"echo '{{"apiVersion":"sallyport.dev/v1alpha1","kind":"AccessGrant","metadata":{{"generateName":"claude-code-","namespace":"agents"}},"spec":{{"agentRef":{{"name":"claude-code"}},"type":"Window","reason":"Turn refunds on, INC-4312","window":{{"durationSeconds":{WINDOW_SECONDS}}}}}}}' | kubectl create -f -"#
        );
        let said = self.agent(&ask)?.well("asked for", &["created"])?;
        let name = said
            .text()
            .split_once("accessgrant.sallyport.dev/")
            .and_then(|(_, rest)| rest.split_whitespace().next());
        let name = name.context("kubectl create names the grant")?.to_owned();
        self.review(&name, "Approved", None)?;
        let approved = Instant::now();
        let wait = format!("kubectl wait --for=condition=Decided accessgrant/{name} -n agents --timeout=30s");
        self.agent(&wait)?.well("decided", &["condition met"])?;
        self.agent(TURN_REFUNDS_ON)?.well("inside the window it runs", &["patched"])?;
        let mut watch = self.agent.starts("kubectl get services -n payments --watch")?;
        say(&format!("... the watch stays open; the window ends {WINDOW_SECONDS} s after its approval"));
        std::thread::sleep(Duration::from_secs(2));
        ensure!(watch.runs()?, "the watch did not stay open: {}", watch.so_far());
        let said = watch.ends(Duration::from_secs(WINDOW_SECONDS + 15))?;
        let open = approved.elapsed();
        self.check_canary(&said)?;
        said.said("cut at the window's end, with a true error", &["Failure", "WindowRequired"])?;
        let late = open.abs_diff(Duration::from_secs(WINDOW_SECONDS));
        ensure!(late < Duration::from_secs(2), "the watch was cut {open:?} after the approval");
        self.agent(TURN_REFUNDS_ON)?.badly("and the next request needs a new one", &["(WindowRequired)"])?;
        Ok(())
    }

    fn suspended(&self) -> anyhow::Result<()> {
        act("The kill switch");
        let patch = |value| {
            format!(
                r#"kubectl patch agentidentity claude-code -n agents --type=merge -p '{{"spec":{{"suspend":{value}}}}}'"#
            )
        };
        self.admin.types(&patch(true))?.well("suspended", &["patched"])?;
        std::thread::sleep(Duration::from_millis(500));
        self.agent("kubectl get deploy -n payments")?
            .badly("everything is refused", &["(AgentSuspended)"])?;
        self.admin.types(&patch(false))?.well("resumed", &["patched"])?;
        std::thread::sleep(Duration::from_millis(500));
        self.agent("kubectl get deploy -n payments")?.well("and works again", &["web"])?;
        Ok(())
    }

    fn remembered(&self) -> anyhow::Result<()> {
        act("Everything is written down, and cannot be rewritten");
        let oldest = "kubectl get sessionrecords -n agents --sort-by=.spec.startTime -o jsonpath='{.items[0].metadata.name}'";
        let session = self.alice.learns(oldest, SOON)?;
        let store = self.gate.recordings();
        // Reads and refusals are sealed into the store within a second, writes at once; a suspension ends the session.
        let all = format!(
            "for session in $(kubectl get sessionrecords -n agents -o name); do \
               kubectl sallyport replay ${{session#*/}} -n agents --store file://{}; done | grep AgentSuspended || true",
            store.display()
        );
        self.alice.learns(&all, SOON)?;
        let listed = self.alice.types("kubectl get sessionrecords -n agents")?;
        listed.well("who, since when, how much, how it ended", &[&session, "claude-code"])?;
        let deed = |verb: &str, store: &Path| {
            format!("kubectl sallyport {verb} {session} -n agents --store file://{}", store.display())
        };
        self.alice.types(&deed("replay", &store))?.well(
            "what was asked, what was decided, what came of it",
            &[
                "PolicyDenied",
                "Approved by alice@example.com",
                "WindowRequired",
                "delete deployments.apps/web",
            ],
        )?;
        self.alice
            .types(&deed("verify", &store))?
            .well("the chain of hashes is whole", &["hash chain ok"])?;
        let forged = store.with_file_name("recordings-forged");
        self.alice.asks(&format!("cp -r {} {}", store.display(), forged.display()))?;
        let changed = flip_one_byte(&forged.join(AGENTS).join(&session))?;
        say(&format!("one byte is flipped in a copy: {changed}"));
        self.alice.types(&deed("verify", &forged))?.badly("and verify finds it", &[])?;
        Ok(())
    }

    /// The agent types; nothing it reads may hold the secret.
    fn agent(&self, command: &str) -> anyhow::Result<Said> {
        let said = self.agent.types(command)?;
        self.check_canary(&said)?;
        Ok(said)
    }

    fn check_canary(&self, said: &Said) -> anyhow::Result<()> {
        use base64::Engine;
        let encoded = base64::engine::general_purpose::STANDARD.encode(CANARY);
        ensure!(
            !said.text().contains(CANARY) && !said.text().contains(&encoded),
            "the agent has read the secret"
        );
        Ok(())
    }

    fn waiting_grant(&self) -> anyhow::Result<String> {
        let waiting = r#"kubectl get accessgrants -n agents -o jsonpath='{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Active")].reason}{"\n"}{end}' | awk '$2 == "WaitingForReview" { print $1; exit }'"#;
        self.alice.learns(waiting, SOON)
    }

    fn review(&self, grant: &str, decision: &str, note: Option<&str>) -> anyhow::Result<()> {
        let note = note.map_or_else(String::new, |note| format!(r#","note":"{note}""#));
        let patch = format!(
            r#"kubectl patch accessgrant {grant} -n agents --type=merge -p '{{"spec":{{"reviews":[{{"decision":"{decision}"{note}}}]}}}}'"#
        );
        self.alice.types(&patch)?.well("reviewed with one plain patch", &["patched"]).map(|_said| ())
    }

    fn programmed(&self, policy: &str) -> anyhow::Result<()> {
        let wait = format!("kubectl wait --for=condition=Programmed accesspolicy/{policy} --timeout=30s");
        self.admin.types(&wait)?.well("every proxy runs it", &["condition met"]).map(|_said| ())
    }

    fn deletes_seen(&self) -> anyhow::Result<usize> {
        let filter =
            Filter::ran_as(&self.username).verb("delete").resource("deployments").namespace("payments");
        Ok(self.runtime.block_on(self.gate.plane().audit().requests(&filter))?.len())
    }

    fn kubeconfig(&self) -> anyhow::Result<String> {
        self.agent.asks("echo $KUBECONFIG")
    }
}

/// Flips one bit in the middle of the largest file below `folder`; says which byte of which file.
fn flip_one_byte(folder: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.metadata()?.len(), entry.path()));
            }
        }
    }
    let (length, path) = files.into_iter().max().context("there is no recording")?;
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("the recording is empty")? ^= 1;
    std::fs::write(&path, bytes)?;
    let shown = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
    Ok(format!("byte {middle} of {length} in {shown}"))
}
