//! One committed file of texts: what each kubectl printed, without what changes from run to run.

use std::path::PathBuf;

use e2e::{Output, Version};
use regex::Regex;

use super::super::estate::Estate;

const NAMES: [&str; 3] = ["1.29", "1.33", "1.36"];

/// The texts of one test.
pub struct Page<'a> {
    file: PathBuf,
    estate: &'a Estate,
    text: String,
}

impl<'a> Page<'a> {
    pub fn new(name: &str, estate: &'a Estate) -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/snapshots/{name}.txt"));
        Self { file, estate, text: String::new() }
    }

    /// Runs kubectl as the agent in its namespace, each version once.
    pub fn tell(&mut self, title: &str, args: &[&str]) -> anyhow::Result<()> {
        self.tell_stdin(title, args, "")
    }

    /// The same with text on its standard input.
    pub fn tell_stdin(&mut self, title: &str, args: &[&str], stdin: &str) -> anyhow::Result<()> {
        let estate = self.estate;
        let here = ["-n", estate.namespace.as_str()];
        // What follows `--` is another's command line.
        let all = if args.contains(&"--") { [&here[..], args].concat() } else { [args, &here].concat() };
        let agent = &estate.agent;
        self.tell_with(title, args, |version| agent.kubectl_with(version, 0, &all, stdin))
    }

    /// Runs something of its own, each version once.
    pub fn tell_with(
        &mut self,
        title: &str,
        args: &[&str],
        say: impl Fn(Version) -> anyhow::Result<Output>,
    ) -> anyhow::Result<()> {
        let said = super::by_each(say)?;
        self.told(title, args, &said);
        Ok(())
    }

    /// Writes down what was said, once for all versions that say the same.
    pub fn told(&mut self, title: &str, args: &[&str], said: &[Output]) {
        let quoted: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        let command = self.steady(&quoted.join(" "));
        self.text.push_str(&format!("## {title}\n$ kubectl {command}\n"));
        let texts: Vec<String> = said.iter().map(|out| self.printed(out)).collect();
        let mut seen: Vec<&str> = Vec::new();
        for text in &texts {
            if seen.contains(&text.as_str()) {
                continue;
            }
            let same: Vec<&str> = NAMES
                .into_iter()
                .zip(&texts)
                .filter(|(_, other)| *other == text)
                .map(|(name, _)| name)
                .collect();
            self.text.push_str(&format!("[{}]\n{text}", same.join(" ")));
            seen.push(text);
        }
        self.text.push('\n');
    }

    fn printed(&self, out: &Output) -> String {
        let stream = |name: &str, text: &str| {
            let steady = self.steady(text);
            let lines: Vec<&str> = steady.trim_end().lines().collect();
            lines.iter().map(|line| format!("{name} {line}").trim_end().to_owned() + "\n").collect::<String>()
        };
        format!("{}{}exit {}\n", stream("out|", &out.stdout), stream("err|", &out.stderr), out.code)
    }

    /// The text without ids, times, names and numbers of this run.
    fn steady(&self, text: &str) -> String {
        let mut text = text.replace(&self.estate.namespace, "agents");
        for url in self.estate.gate.urls() {
            text = text.replace(&url, "https://gate");
        }
        text = text.replace(self.estate.gate.plane().server(), "https://apiserver");
        for (pattern, word) in [
            (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "<id>"),
            (r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
            (r"\bagent-20\d{6}-[a-z0-9]+\b", "<session>"),
            (r"\bagent-[a-z2-7]{10}\b", "<grant>"),
            (r"\bagent-[bcdfghjklmnpqrstvwxz2456789]{5}\b", "<window>"),
            (r"[EW]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ", "<klog> "),
            (r"memcache\.go:\d+", "memcache.go"),
            (r"\bweb-(v129|v133|new)\b", "web"),
            (r"\bbroken-\d+\b", "broken"),
            (r"closes in \d+[ms]", "closes in <minutes>"),
        ] {
            if let Ok(pattern) = Regex::new(pattern) {
                text = pattern.replace_all(&text, word).into_owned();
            }
        }
        text
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds the texts against the file.
    pub fn finish(self) -> anyhow::Result<()> {
        if std::env::var_os("SALLYPORT_WRITE_SNAPSHOTS").is_some() {
            return Ok(std::fs::write(&self.file, &self.text)?);
        }
        let wanted = std::fs::read_to_string(&self.file).unwrap_or_default();
        if wanted == self.text {
            return Ok(());
        }
        let differs = wanted.lines().zip(self.text.lines()).position(|(one, other)| one != other);
        let at = differs.unwrap_or(wanted.lines().count().min(self.text.lines().count()));
        let around =
            |text: &str| text.lines().skip(at.saturating_sub(6)).take(14).collect::<Vec<_>>().join("\n");
        anyhow::bail!(
            "{} differs at line {}; SALLYPORT_WRITE_SNAPSHOTS=1 writes it anew\n--- committed\n{}\n--- said now\n{}",
            self.file.display(),
            at + 1,
            around(&wanted),
            around(&self.text)
        )
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@".contains(c);
    if arg.chars().all(plain) { arg.to_owned() } else { format!("'{arg}'") }
}
