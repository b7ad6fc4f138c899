//! The API server's own resolver as a program: built once from pinned modules, asked by lines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::corpus::Line;

/// What the API server makes of a request line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Reading {
    /// `net/http` or the resolver does not read it.
    pub error: bool,
    pub resource: bool,
    pub verb: String,
    pub path: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub sub: String,
    pub namespace: String,
    pub name: String,
    /// As `net/url` decodes it: broken pairs are left out.
    pub query: Option<BTreeMap<String, Vec<String>>>,
    pub fields: Option<BTreeSet<String>>,
    pub labels: Option<BTreeSet<String>>,
}

/// Asks the resolver about all lines, in one process.
pub fn ask(lines: &[Line]) -> Vec<Reading> {
    let program = program();
    let mut child = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the resolver");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text: String = lines.iter().map(|(method, target)| format!("{method} {target}\n")).collect();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("its answers");
    writer.join().expect("no panic").expect("written");
    assert!(output.status.success(), "the resolver failed: {}", output.status);
    let answers = String::from_utf8(output.stdout).expect("JSON lines");
    let readings: Vec<Reading> =
        answers.lines().map(|line| serde_json::from_str(line).expect("a reading")).collect();
    assert_eq!(readings.len(), lines.len(), "an answer for each line");
    readings
}

fn program() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/tools/build.sh");
    let output =
        Command::new(script).arg("request-info").stderr(Stdio::inherit()).output().expect("build.sh runs");
    assert!(output.status.success(), "the resolver was not built: {}", output.status);
    let line = String::from_utf8(output.stdout).expect("text");
    let path = line.trim().strip_prefix("request-info=").expect("its path");
    PathBuf::from(path)
}
