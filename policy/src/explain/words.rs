//! The small pieces of sentences that every text shares.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::action::{Action, ResourceAction, Scope};

/// A moment as people and conditions write it: `2026-11-20T15:31:40Z`.
pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Somebody else's text in quotes, on one line, with nothing in it that could steer a terminal.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if steers_a_terminal(c) => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\u{{{:x}}}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What a terminal obeys, and what a reader does not see while a program reads it: controls, direction marks, joiners, tag
/// characters (B114, D20).
pub(crate) fn steers_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Somebody else's word as code in a markdown text: it can neither end the code nor steer anything.
pub(crate) fn code(text: &str) -> String {
    let mut code = String::from("`");
    for c in text.chars() {
        match c {
            '`' => code.push('\''),
            c if steers_a_terminal(c) => {
                // Writing to a String cannot fail.
                let _ = write!(code, "\\u{{{:x}}}", u32::from(c));
            }
            c => code.push(c),
        }
    }
    code.push('`');
    code
}

/// A policy author's message on one line.
pub(crate) fn one_line(text: &str) -> String {
    let cleaned: String = text.chars().map(|c| if steers_a_terminal(c) { ' ' } else { c }).collect();
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `deployments.apps "web"`, `nodes`, `path "/metrics"`: what a sentence is about.
pub(crate) fn object(action: &Action) -> String {
    match action {
        Action::NonResource { path, .. } => format!("path {}", quoted(path)),
        Action::Resource(action) => match &action.name {
            Some(name) => format!("{} \"{name}\"", action.group_resource()),
            None => action.group_resource(),
        },
    }
}

/// `delete`, or `create pods/exec` where a subresource matters.
pub(crate) fn deed(action: &Action) -> String {
    match action {
        Action::NonResource { verb, .. } => verb.clone(),
        Action::Resource(ResourceAction { verb, subresource: None, .. }) => verb.to_string(),
        Action::Resource(action) => format!("{} {}", action.verb, action.qualified_resource()),
    }
}

/// `list nodes`, `create pods/exec`, `get /metrics`.
pub(crate) fn full_deed(action: &Action) -> String {
    match action {
        Action::NonResource { verb, path } => format!("{verb} {path}"),
        Action::Resource(action) => match &action.subresource {
            None => format!("{} {}", action.verb, action.group_resource()),
            Some(_) => format!("{} {}", action.verb, action.qualified_resource()),
        },
    }
}

/// ` -n payments`, where the act has a namespace.
pub(crate) fn namespace_flag(action: &Action) -> String {
    match action {
        Action::Resource(ResourceAction { scope: Scope::Namespace(namespace), .. }) => {
            format!(" -n {namespace}")
        }
        Action::Resource(_) | Action::NonResource { .. } => String::new(),
    }
}

/// `policy "payments-agents" rule "ask-before-change"`.
pub(crate) fn source(policy: &str, rule: &str) -> String {
    format!("policy \"{policy}\" rule \"{rule}\"")
}
