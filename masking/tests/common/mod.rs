//! A naive masker over a parsed tree, a printer that spells JSON in odd ways, and shorthands.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test may fail this way")]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use masking::LAST_APPLIED;
use masking::{
    COPIES, Cells, Encoding, Expectation, FieldPath, FieldRule, Form, GroupKind, MaskError, Masker, Plans,
    Segment, Which, placeholder,
};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Reads `.a.b[*].*`.
pub fn path_of(text: &str) -> FieldPath {
    let dotted = text.replace("[*]", ".[*]");
    let segment = |key: &str| match key {
        "*" => Segment::AnyKey,
        "[*]" => Segment::Items,
        key => Segment::Field(key.to_owned()),
    };
    FieldPath::new(dotted.split('.').skip(1).map(segment).collect()).unwrap()
}

pub fn rule(name: &str, group: &str, kind: &str, path: &str) -> FieldRule {
    FieldRule {
        name: name.into(),
        group: if group == "*" { Which::Any } else { Which::is(group) },
        kind: if kind == "*" { Which::Any } else { Which::is(kind) },
        path: path_of(path),
        encoding: Encoding::Text,
    }
}

/// The rules that every test knows: Secrets as the baseline has them, container environments, a custom kind.
pub fn plans() -> Arc<Plans> {
    let mut rules = vec![
        rule("secret-data", "", "Secret", ".data.*"),
        rule("secret-data", "", "Secret", ".stringData.*"),
        rule("pod-env", "", "Pod", ".spec.containers[*].env[*].value"),
        rule("pod-env", "apps", "Deployment", ".spec.template.spec.containers[*].env[*].value"),
        rule("vault", "example.com", "Vault", ".spec.password"),
        rule("vault", "example.com", "Vault", ".data"),
    ];
    let (revision, template) = ("ControllerRevision", ".data.spec.template");
    for list in ["containers", "initContainers"] {
        rules.push(rule("pod-env", "apps", revision, &format!("{template}.spec.{list}[*].env[*].value")));
    }
    rules.push(rule("pod-env", "apps", revision, &format!("{template}.metadata.annotations.*")));
    let cron = ".spec.jobTemplate.spec.template.spec.containers[*].env[*].value";
    rules.push(rule("pod-env", "batch", "CronJob", cron));
    rules.push(rule("block", "example.com", "BlockList", ".spec.secret"));
    Arc::new(Plans::compile(rules).unwrap())
}

pub fn expect(group: &str, kind: &str, form: Form) -> Expectation {
    Expectation { kind: GroupKind::new(group, kind), also: Vec::new(), form, cells: Cells::Keep }
}

/// Masks in one go.
pub fn mask(plans: &Arc<Plans>, expectation: &Expectation, input: &[u8]) -> Result<Vec<u8>, MaskError> {
    mask_in_chunks(plans, expectation, input, usize::MAX)
}

pub fn mask_in_chunks(
    plans: &Arc<Plans>,
    expectation: &Expectation,
    input: &[u8],
    size: usize,
) -> Result<Vec<u8>, MaskError> {
    let mut masker = Masker::new(plans.clone(), expectation.clone())?;
    let mut out = Vec::new();
    for chunk in input.chunks(size) {
        masker.push(chunk, &mut out)?;
    }
    masker.finish()?;
    Ok(out)
}

/// What is known about the place of a value.
#[derive(Clone, PartialEq)]
pub enum At {
    Key(String),
    Index,
}

fn covers(path: &[Segment], at: &[At]) -> bool {
    path.len() == at.len()
        && path.iter().zip(at).all(|pair| match pair {
            (Segment::Field(key), At::Key(found)) => key == found,
            (Segment::AnyKey, At::Key(_)) | (Segment::Items, At::Index) => true,
            _ => false,
        })
}

fn keys(at: &[At]) -> Vec<&str> {
    at.iter().map(|at| if let At::Key(key) = at { key.as_str() } else { "" }).collect()
}

/// The object of a kind, masked by looking at every path again.
pub fn reference(rules: &[FieldRule], group: &str, kind: &str, value: &Value) -> Value {
    let mine: Vec<FieldRule> = rules
        .iter()
        .filter(|r| r.group == Which::Any || r.group == Which::is(group))
        .filter(|r| r.kind == Which::Any || r.kind == Which::is(kind))
        .cloned()
        .collect();
    if mine.is_empty() {
        return value.clone();
    }
    Reference { rules: mine, group, kind, nested: false }.at(value, &mut Vec::new())
}

struct Reference<'a> {
    rules: Vec<FieldRule>,
    group: &'a str,
    kind: &'a str,
    nested: bool,
}

impl Reference<'_> {
    fn masked(&self, at: &[At]) -> Option<&FieldRule> {
        let copy = |at: &[At]| match keys(at)[..] {
            ["metadata", "annotations", name] => COPIES.contains(&name),
            _ => false,
        };
        (1..=at.len()).find_map(|end| {
            let named = self.rules.iter().find(|r| covers(r.path.segments(), &at[..end]));
            named.or_else(|| copy(&at[..end]).then(|| &self.rules[0]))
        })
    }

    fn text(&self, rule: &FieldRule, at: &[At]) -> Value {
        let bytes = matches!(
            (self.group, self.kind, keys(at)[..].first(), at.len()),
            ("", "Secret", Some(&"data"), 2) | ("", "ConfigMap", Some(&"binaryData"), 2)
        ) && matches!(at[1], At::Key(_));
        let text = placeholder(&rule.name);
        if bytes || rule.encoding == Encoding::Base64 { STANDARD.encode(text).into() } else { text.into() }
    }

    fn at(&self, value: &Value, at: &mut Vec<At>) -> Value {
        if keys(at) == ["metadata", "managedFields"] {
            return Value::Array(Vec::new());
        }
        if matches!(keys(at)[..], ["kind"] | ["apiVersion"]) {
            return value.clone();
        }
        let rule = self.masked(at);
        if keys(at) == ["metadata", "annotations", LAST_APPLIED] && rule.is_none() && !value.is_null() {
            return self.last_applied(value);
        }
        match (value, rule) {
            (Value::Object(members), _) => {
                let mut masked = Map::new();
                for (key, value) in members {
                    at.push(At::Key(key.clone()));
                    masked.insert(key.clone(), self.at(value, at));
                    at.pop();
                }
                Value::Object(masked)
            }
            (Value::Array(elements), _) => {
                at.push(At::Index);
                let masked = elements.iter().map(|e| self.at(e, at)).collect();
                at.pop();
                Value::Array(masked)
            }
            (Value::Null, _) | (_, None) => value.clone(),
            (Value::Bool(_), Some(_)) => false.into(),
            (Value::Number(_), Some(_)) => 0.into(),
            (Value::String(_), Some(rule)) => self.text(rule, at),
        }
    }

    fn last_applied(&self, value: &Value) -> Value {
        let whole = || Value::String(placeholder(&self.rules[0].name));
        let Value::String(text) = value else { return blunt(value, &placeholder(&self.rules[0].name)) };
        if self.nested {
            return whole();
        }
        let Ok(inner @ Value::Object(_)) = serde_json::from_str::<Value>(text) else { return whole() };
        let group = match &inner["apiVersion"] {
            Value::Null if inner.get("apiVersion").is_none() => self.group,
            Value::String(version) => version.split_once('/').map_or("", |(group, _)| group),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                return whole();
            }
        };
        if group != self.group || inner["kind"].as_str() != Some(self.kind) {
            return whole();
        }
        let nested = Reference { rules: self.rules.clone(), nested: true, ..*self };
        Value::String(nested.at(&inner, &mut Vec::new()).to_string())
    }
}

fn blunt(value: &Value, text: &str) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => false.into(),
        Value::Number(_) => 0.into(),
        Value::String(_) => text.into(),
        Value::Array(elements) => elements.iter().map(|e| blunt(e, text)).collect(),
        Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), blunt(v, text))).collect(),
    }
}

/// Parses last-applied annotations too, so that two ways of writing the same are equal.
pub fn settled(value: &Value) -> Value {
    match value {
        Value::Array(elements) => elements.iter().map(settled).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(key, value)| {
                let inner = value.as_str().filter(|_| key == LAST_APPLIED);
                let inner = inner.and_then(|text| serde_json::from_str(text).ok());
                (key.clone(), inner.unwrap_or_else(|| settled(value)))
            })
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Writes JSON with odd spellings chosen by `seed`: white space, escapes, key order.
pub struct Printer {
    pub seed: u64,
    pub shuffle: bool,
    pub out: String,
}

impl Printer {
    pub fn print(value: &Value, seed: u64, shuffle: bool) -> String {
        let mut printer = Printer { seed: seed | 1, shuffle, out: String::new() };
        printer.value(value);
        printer.out
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % sides
    }

    fn white(&mut self) {
        for _ in 0..self.roll(9).saturating_sub(6) {
            let white = [" ", "\n", "\t", "\r"][self.roll(4) as usize];
            self.out.push_str(white);
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            let plain = c >= ' ' && c != '"' && c != '\\';
            if plain && self.roll(6) != 0 {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                self.out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        self.out.push('"');
    }

    fn value(&mut self, value: &Value) {
        self.white();
        match value {
            Value::Object(members) => {
                self.out.push('{');
                let mut members: Vec<_> = members.iter().collect();
                if self.shuffle && members.len() > 1 {
                    let by = self.roll(members.len() as u64) as usize;
                    members.rotate_left(by);
                }
                for (at, (key, value)) in members.into_iter().enumerate() {
                    if at > 0 {
                        self.out.push(',');
                    }
                    self.white();
                    self.text(key);
                    self.white();
                    self.out.push(':');
                    self.value(value);
                }
                self.white();
                self.out.push('}');
            }
            Value::Array(elements) => {
                self.out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        self.out.push(',');
                    }
                    self.value(element);
                }
                self.white();
                self.out.push(']');
            }
            Value::String(text) => self.text(text),
            Value::Null | Value::Bool(_) | Value::Number(_) => self.out.push_str(&value.to_string()),
        }
        self.white();
    }
}
