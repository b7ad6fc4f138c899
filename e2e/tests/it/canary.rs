//! H3: a pod's environment, a ConfigMap and a custom field, each behind one `Fields` rule, in no answer of any kubectl command.

mod commands;
mod objects;
mod raw;

use std::path::{Path, PathBuf};

use e2e::kubectl::kubectl_stdin;
use e2e::{Agent, Gate, Output, Version};

use objects::{Ground, forms, ground, placeholders};

const VERSIONS: [Version; 3] = Version::READERS;

/// One kubectl with its agent's and its administrator's kubeconfig, and a namespace for each.
struct Bench {
    version: Version,
    agent: PathBuf,
    admin: PathBuf,
    ground: Ground,
}

impl Bench {
    fn new(gate: &Gate, agent: &Agent, at: usize, ground: Ground) -> anyhow::Result<Self> {
        let folder = gate.plane().scratch().join(format!("canary-{}", gate.plane().next()));
        std::fs::create_dir_all(&folder)?;
        let (of_agent, of_admin) = (folder.join("agent.kubeconfig"), folder.join("admin.kubeconfig"));
        let urls = gate.urls();
        agent.write_kubeconfig(&of_agent, &urls[at % urls.len()])?;
        std::fs::copy(gate.plane().admin_kubeconfig(), &of_admin)?;
        Ok(Self { version: VERSIONS[at], agent: of_agent, admin: of_admin, ground })
    }

    fn run(&self, kubeconfig: &Path, namespace: &str, command: &commands::Command) -> anyhow::Result<Output> {
        let line = self.ground.fill(command.line, namespace);
        let everywhere = command.line.contains(" -A") || command.line.contains("--raw");
        let scope = if everywhere { Vec::new() } else { vec!["-n", namespace] };
        let words: Vec<&str> = line.split_whitespace().collect();
        // What follows `--` is not kubectl's.
        let end = words.iter().position(|word| *word == "--").unwrap_or(words.len());
        let args = [&words[..end], &scope[..], &["-v=10"], &words[end..]].concat();
        kubectl_stdin(self.version, kubeconfig, &args, &self.ground.fill(command.stdin, namespace))
    }

    /// Runs a command behind the mask; what is wrong with it, if something is.
    fn judge(&self, command: &commands::Command) -> anyhow::Result<Vec<String>> {
        let masked = self.run(&self.agent, &self.ground.masked, command)?;
        let all = format!("{}{}", masked.stdout, masked.stderr);
        let what = format!("{:?} kubectl {}", self.version, command.line);
        let mut wrong = Vec::new();
        if let Some(leak) = leak(&all) {
            wrong.push(format!("{what}: LEAKS {leak}"));
        }
        if !placeholders().iter().any(|text| all.contains(text)) && !all.contains("withheld by sallyport") {
            wrong.push(format!("{what}: shows no placeholder: {}", tail(&all)));
        }
        Ok(wrong)
    }

    /// Runs a command without the mask, where it must show the canary; whether it does so on stdout.
    fn control(&self, command: &commands::Command) -> anyhow::Result<Result<bool, String>> {
        let out = self.run(&self.admin, &self.ground.open, command)?;
        let on_stdout = leak(&out.stdout).is_some();
        if on_stdout || leak(&out.stderr).is_some() {
            return Ok(Ok(on_stdout));
        }
        let (what, said) = (command.line, tail(&format!("{}{}", out.stdout, out.stderr)));
        Ok(Err(format!(
            "{:?} kubectl {what}: proves nothing, for it shows nothing unmasked either: {said}",
            self.version
        )))
    }

    /// Every command behind the mask; unmasked, each version takes its third of them, which is as much as a test run has time for.
    fn play(&self, at: usize) -> anyhow::Result<Played> {
        let commands = commands::all();
        assert!(commands.len() >= 110, "the table is whole");
        let mut played = Played { unmasked: 0, on_stdout: 0, wrong: Vec::new() };
        for (index, command) in commands.iter().enumerate() {
            if index % VERSIONS.len() == at {
                played.unmasked += 1;
                match self.control(command)? {
                    Ok(on_stdout) => played.on_stdout += usize::from(on_stdout),
                    Err(wrong) => played.wrong.push(wrong),
                }
            }
            played.wrong.extend(self.judge(command)?);
        }
        Ok(played)
    }
}

/// How a version fared.
struct Played {
    unmasked: usize,
    on_stdout: usize,
    wrong: Vec<String>,
}

/// The first form of the canary in a text, with what stands around it.
fn leak(text: &str) -> Option<String> {
    forms().iter().find_map(|form| {
        let at = text.find(form)?;
        let around = text.as_bytes().get(at.saturating_sub(200)..(at + 60).min(text.len()))?;
        Some(String::from_utf8_lossy(around).into_owned())
    })
}

fn tail(text: &str) -> String {
    let from = text.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
    text[from..].to_owned()
}

#[tokio::test]
async fn h3_no_command_of_kubectl_1_29_1_33_or_1_36_shows_a_masked_field() -> anyhow::Result<()> {
    let (gate, agent, grounds) = ground(VERSIONS.len(), true).await?;
    let mut running = Vec::new();
    for (at, ground) in grounds.into_iter().enumerate() {
        let bench = Bench::new(&gate, &agent, at, ground)?;
        running.push(tokio::task::spawn_blocking(move || bench.play(at)));
    }
    let mut all = Played { unmasked: 0, on_stdout: 0, wrong: Vec::new() };
    for job in running {
        let played = job.await??;
        all.unmasked += played.unmasked;
        all.on_stdout += played.on_stdout;
        all.wrong.extend(played.wrong);
    }
    println!("{} commands show the value unmasked, {} of them on stdout", all.unmasked, all.on_stdout);
    assert_eq!(all.unmasked, commands::all().len());
    assert!(all.wrong.is_empty(), "{} wrong:\n{}", all.wrong.len(), all.wrong.join("\n---\n"));
    Ok(())
}
