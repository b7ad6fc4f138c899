//! The pages' commands, typed in their order with stock kubectl against a real API server, and what they say.
//!
//! A `console` block is a dialogue: a line that begins with `agent$`, `alice$` or `admin$` is typed by that person, lines that begin
//! with `>` continue it, the rest is what they read. A block with `file: NAME` after its language is a file that the reader makes. A
//! block with `not-run: WHY` is shown only; they are counted and printed. Each page begins in the world of the first half hour.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use e2e::{Agent, Gate, Tools, program, scenario, workspace_root};

use crate::expect::Names;
use crate::page::{Block, Page, docs};
use crate::shell::Shell;

/// The pages that are played, in the order of the book; on them nothing may go unplayed without saying why.
const PLAYED: [&str; 10] = [
    "README.md",
    "docs/first-half-hour.md",
    "docs/identities.md",
    "docs/policies.md",
    "docs/masking.md",
    "docs/approvals.md",
    "docs/refusals.md",
    "docs/agents.md",
    "docs/bypass.md",
    "docs/troubleshooting.md",
];
const PROMPTS: [&str; 3] = ["agent$ ", "alice$ ", "admin$ "];
/// What a reader would type again if the answer is not there yet.
const LOOKS: [&str; 8] = [
    "kubectl get ",
    "kubectl describe ",
    "kubectl explain ",
    "kubectl auth can-i",
    "kubectl sallyport pending",
    "kubectl sallyport explain",
    "kubectl sallyport replay",
    "kubectl sallyport verify",
];
const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(90);

/// One command and what the page shows of its answer.
struct Step {
    who: &'static str,
    command: String,
    shown: String,
    line: usize,
}

#[tokio::test]
async fn the_commands_of_the_pages_say_what_the_pages_say() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let _alone = super::world().await;
    let agent = scenario::settle(&gate).await?;
    let only = std::env::var("SALLYPORT_DOCS_PAGE").ok();
    let mut failures = Vec::new();
    for path in PLAYED {
        if only.as_ref().is_some_and(|only| !path.contains(only)) {
            continue;
        }
        let started = Instant::now();
        let page = Page::read(path)?;
        match play(&gate, &agent, &page) {
            Ok(count) => println!("{path}: {count} commands in {:.1} s", started.elapsed().as_secs_f32()),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

#[test]
fn what_is_not_run_says_why() -> anyhow::Result<()> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut played = 0;
    for path in docs()?.iter().map(String::as_str).chain(["README.md"]) {
        let page = Page::read(path)?;
        for block in page.blocks.iter().filter(|block| is_dialogue(block)) {
            if let Some(why) = block.not_run() {
                ensure!(!why.is_empty(), "{path}:{}: `not-run:` needs a reason", block.line);
                *reasons.entry(why.to_owned()).or_default() += 1;
            } else if PLAYED.contains(&path) {
                ensure!(
                    PROMPTS.iter().any(|prompt| block.text.starts_with(prompt)),
                    "{path}:{}: a block that is run begins with one of {PROMPTS:?}; else say `not-run: why`",
                    block.line
                );
                played += 1;
            } else {
                *reasons.entry(format!("{path} is not played")).or_default() += 1;
            }
        }
    }
    println!("{played} blocks are run; not run:");
    for (why, count) in &reasons {
        println!("  {count} {why}");
    }
    ensure!(played > 20, "only {played} blocks are run");
    Ok(())
}

#[tokio::test]
async fn every_whole_manifest_that_no_command_applies_is_accepted_by_the_api_server() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let _alone = super::world().await;
    let mut count = 0;
    scenario::settle(&gate).await?;
    for path in docs()? {
        let page = Page::read(&path)?;
        for block in page.blocks.iter().filter(|block| block.language == "yaml" && block.note.is_empty()) {
            let whole = block.text.contains("apiVersion:") && block.text.contains("kind:");
            if !whole {
                continue;
            }
            let file = gate.plane().scratch().join("manifest.yaml");
            std::fs::write(&file, &block.text)?;
            let name = file.display().to_string();
            gate.plane()
                .kubectl(&["apply", "--dry-run=server", "-f", &name])?
                .success()
                .with_context(|| format!("{path}:{}", block.line))?;
            count += 1;
        }
    }
    ensure!(count > 0, "no manifest was found");
    Ok(())
}

fn is_dialogue(block: &Block) -> bool {
    ["console", "sh", "bash", "shell"].contains(&block.language.as_str())
}

/// Plays one page; how many commands were typed.
fn play(gate: &Gate, agent: &Agent, page: &Page) -> anyhow::Result<usize> {
    begin_anew(gate)?;
    let folder = desk(gate, &page.path)?;
    let mut shells: BTreeMap<&str, Shell> = BTreeMap::new();
    let mut names = Names::default();
    let mut count = 0;
    for block in &page.blocks {
        if let Some(file) = block.file() {
            std::fs::write(folder.join(file), &block.text)?;
        }
        if !is_dialogue(block) || block.not_run().is_some() {
            continue;
        }
        for step in steps(block).with_context(|| page.path.clone())? {
            if !shells.contains_key(step.who) {
                shells.insert(step.who, enter(gate, agent, step.who, &folder)?);
            }
            let shell = shells.get_mut(step.who).context("the shell was just opened")?;
            take(&step, shell, &mut names).with_context(|| format!("{}:{}", page.path, step.line))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Types a command until it says what is shown: once, or again if it only looks.
fn take(step: &Step, shell: &mut Shell, names: &mut Names) -> anyhow::Result<()> {
    let command = names.fill(&step.command);
    let looks = LOOKS.iter().any(|look| command.starts_with(look));
    let deadline = Instant::now() + SOON;
    loop {
        let said = shell.types(&command, PATIENCE)?;
        let fits =
            if step.shown.is_empty() { said.code == 0 } else { names.agree(&step.shown, &said.text)? };
        if fits {
            return Ok(());
        }
        if !looks || Instant::now() > deadline {
            bail!("{}{command}\nshown:\n{}\nsaid ({}):\n{}\n", step.who, step.shown, said.code, said.text);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn steps(block: &Block) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, text) in block.text.lines().enumerate() {
        let line = block.line + 1 + index;
        let typed = PROMPTS.iter().find_map(|who| Some((*who, text.strip_prefix(who)?)));
        if let Some((who, command)) = typed {
            steps.push(Step { who, command: command.to_owned(), shown: String::new(), line });
            continue;
        }
        let step = steps.last_mut().with_context(|| format!("line {line} answers nobody"))?;
        match text.strip_prefix("> ") {
            Some(more) if step.shown.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
            }
            _ => {
                step.shown.push_str(text);
                step.shown.push('\n');
            }
        }
    }
    Ok(steps)
}

/// A shell as this person has it after `. target/up/env`.
fn enter(gate: &Gate, agent: &Agent, who: &str, folder: &Path) -> anyhow::Result<Shell> {
    let plane = gate.plane();
    let kubeconfig = match who {
        "agent$ " => agent.kubeconfig(0).to_owned(),
        "alice$ " => plane.user_kubeconfig("alice@example.com", None)?,
        _ => plane.admin_kubeconfig().to_owned(),
    };
    let path = format!("{}:{}", folder.join(".bin").display(), std::env::var("PATH")?);
    let variables = [
        ("PATH".to_owned(), path),
        ("RECORDINGS".to_owned(), gate.recordings().display().to_string()),
        ("AGENT_TOKEN_FILE".to_owned(), agent.token_file().display().to_string()),
        ("AGENT_KUBECONFIG".to_owned(), agent.kubeconfig(0).display().to_string()),
        ("ADMIN_KUBECONFIG".to_owned(), plane.admin_kubeconfig().display().to_string()),
        ("GATE_URL".to_owned(), gate.urls().remove(0)),
    ];
    Shell::start(folder, &kubeconfig, &variables)
}

/// A folder for the page's files, with `e2e` as in a clone and the tools under the names that people type.
fn desk(gate: &Gate, page: &str) -> anyhow::Result<PathBuf> {
    let folder = gate.plane().scratch().join("desk").join(page.replace(['/', '.'], "-"));
    let tools = folder.join(".bin");
    std::fs::create_dir_all(&tools)?;
    symlink(&Tools::get()?.kubectl, tools.join("kubectl"))?;
    symlink(program("kubectl-sallyport")?, tools.join("kubectl-sallyport"))?;
    symlink(workspace_root().join("e2e"), folder.join("e2e"))?;
    Ok(folder)
}

/// The world of the first half hour, without what an earlier page left in it.
fn begin_anew(gate: &Gate) -> anyhow::Result<()> {
    let plane = gate.plane();
    let run = |args: &[&str]| plane.kubectl(args)?.success().with_context(|| args.join(" "));
    let others = run(&["get", "accesspolicies,agentidentities", "-A", "-o", "name"])?;
    let ours = ["/sallyport-baseline", "/payments-agents", "/claude-code"];
    for name in others.lines().filter(|name| !ours.iter().any(|known| name.ends_with(known))) {
        run(&["delete", name, "-n", scenario::AGENTS])?;
    }
    run(&["delete", "accessgrants", "--all", "-n", scenario::AGENTS])?;
    for name in ["world", "identity", "policy", "rbac", "alice"] {
        run(&["apply", "-f", &scenario::manifest(name).display().to_string()])?;
    }
    let resume = r#"{"spec":{"suspend":false}}"#;
    run(&["patch", "agentidentity", "claude-code", "-n", scenario::AGENTS, "--type=merge", "-p", resume])?;
    run(&["wait", "--for=condition=Programmed", "accesspolicy/payments-agents", "--timeout=60s"])?;
    let ready = [
        "wait",
        "--for=condition=Ready",
        "agentidentity/claude-code",
        "-n",
        scenario::AGENTS,
        "--timeout=60s",
    ];
    run(&ready).map(|_said| ())
}
