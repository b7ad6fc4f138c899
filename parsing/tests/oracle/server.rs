//! The API server's own readers as a program: built once from pinned modules, asked by lines.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;

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

/// What the API server makes of a body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
#[derive(Default)]
pub struct Decoded {
    /// Why it is none.
    pub error: String,
    pub json: serde_json::Value,
}

/// Asks one of the readers about all lines, in one process.
pub fn ask<T: DeserializeOwned>(reader: &str, lines: &[String]) -> Vec<T> {
    let mut command = Command::new(program());
    let command = command.arg(reader).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the reader");
    let mut stdin = child.stdin.take().expect("a pipe");
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("its answers");
    writer.join().expect("no panic").expect("written");
    assert!(output.status.success(), "the reader failed: {}", output.status);
    let answers = String::from_utf8(output.stdout).expect("JSON lines");
    let answers: Vec<T> =
        answers.lines().map(|line| serde_json::from_str(line).expect("an answer")).collect();
    assert_eq!(answers.len(), lines.len(), "an answer for each line");
    answers
}

fn program() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/tools/build.sh");
    let output =
        Command::new(script).arg("api-reader").stderr(Stdio::inherit()).output().expect("build.sh runs");
    assert!(output.status.success(), "the reader was not built: {}", output.status);
    let line = String::from_utf8(output.stdout).expect("text");
    PathBuf::from(line.trim().strip_prefix("api-reader=").expect("its path"))
}
