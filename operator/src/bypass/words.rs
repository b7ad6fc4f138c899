//! The condition's message: each way past the gate with the command that removes it, ready for a shell.

use std::fmt::Write as _;

use super::bindings::kind_of;
use super::{Holder, Route};

/// Ways that are told one by one.
const SHOWN: usize = 5;
/// Subjects of one binding that are named.
const NAMED: usize = 3;

/// The message: one line for each way, which is a command and a comment.
pub fn message(routes: &[Route]) -> String {
    let ways = if routes.len() == 1 { "1 way".to_owned() } else { format!("{} ways", routes.len()) };
    let mut text =
        format!("{ways} past the gate: RBAC gives this agent's own subject more than discovery. To remove:");
    for route in routes.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}   # {}", command(route), reason(route));
    }
    if let Some(more) = routes.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let _ = write!(text, "\n# and {more} more, told when these are gone");
    }
    text
}

/// Deletes the binding where it means nobody else, and takes the agent out of it where it does. The tests make the patch
/// fail where the list is another by now.
fn command(route: &Route) -> String {
    let object = shell(&format!("{}/{}", kind_of(&route.binding).to_lowercase(), route.binding.name));
    let namespace =
        route.binding.namespace.as_deref().map(|ns| format!(" -n {}", shell(ns))).unwrap_or_default();
    if route.holders.len() >= route.subjects {
        return format!("kubectl delete {object}{namespace}");
    }
    // From the end, so that what is removed moves nothing that is still to be removed.
    let steps = route.holders.iter().rev().flat_map(|(at, holder)| {
        let name = match holder {
            Holder::Account { name, .. } | Holder::User(name) | Holder::Group(name) => name,
        };
        let path = format!("/subjects/{at}");
        [
            serde_json::json!({"op": "test", "path": format!("{path}/name"), "value": name}),
            serde_json::json!({"op": "remove", "path": path}),
        ]
    });
    let patch = serde_json::Value::from_iter(steps).to_string();
    format!("kubectl patch {object}{namespace} --type=json -p {}", shell(&patch))
}

/// Why it is one, in words that cannot end a comment.
fn reason(route: &Route) -> String {
    let named: Vec<String> = route.holders.iter().take(NAMED).map(|(_, holder)| whom(holder)).collect();
    let kind = if route.role.of_cluster { "ClusterRole" } else { "Role" };
    format!("{} has {kind} {}", named.join(" and "), visible(&route.role.name))
}

fn whom(holder: &Holder) -> String {
    match holder {
        Holder::Account { namespace, name } => {
            format!("ServiceAccount {}/{}", visible(namespace), visible(name))
        }
        Holder::User(name) if name == "system:anonymous" => "everybody without a token".to_owned(),
        Holder::User(name) => format!("user {}", visible(name)),
        Holder::Group(name) if name == "system:unauthenticated" => "everybody without a token".to_owned(),
        Holder::Group(name) => format!("group {}", visible(name)),
    }
}

fn visible(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) || (c.is_ascii_graphic()) { c } else { '?' }).collect()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._:/@".contains(c)
}

/// One word for a shell, whatever somebody named a binding.
fn shell(text: &str) -> String {
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut word = String::from("$'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            c if c == ' ' || c.is_ascii_graphic() => word.push(c),
            c => {
                let _ = write!(word, "\\U{:08x}", u32::from(c));
            }
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::super::{BindingKey, RoleRef};
    use super::*;

    fn route(namespace: Option<&str>, name: &str, holders: &[(usize, Holder)], subjects: usize) -> Route {
        Route {
            binding: BindingKey { namespace: namespace.map(str::to_owned), name: name.to_owned() },
            role: RoleRef { of_cluster: true, name: "edit".to_owned() },
            holders: holders.to_vec(),
            subjects,
        }
    }

    fn account() -> Holder {
        Holder::Account { namespace: "agents".to_owned(), name: "claude-code".to_owned() }
    }

    #[test]
    fn a_binding_of_the_agent_alone_is_deleted_and_others_keep_theirs() {
        let whole = route(None, "agents:edit", &[(0, account())], 1);
        assert_eq!(
            message(&[whole]),
            "1 way past the gate: RBAC gives this agent's own subject more than discovery. To remove:\n\
             kubectl delete clusterrolebinding/agents:edit   # ServiceAccount agents/claude-code has ClusterRole edit"
        );
        let group = Holder::Group("system:serviceaccounts:agents".to_owned());
        let shared = route(Some("payments"), "team", &[(1, account()), (3, group)], 4);
        assert_eq!(
            command(&shared),
            r#"kubectl patch rolebinding/team -n payments --type=json -p '[{"op":"test","path":"/subjects/3/name","value":"system:serviceaccounts:agents"},{"op":"remove","path":"/subjects/3"},{"op":"test","path":"/subjects/1/name","value":"claude-code"},{"op":"remove","path":"/subjects/1"}]'"#
        );
    }

    #[test]
    fn d20_a_name_cannot_add_to_the_command() {
        for (name, word) in [
            ("a'; reboot", r"'clusterrolebinding/a'\''; reboot'"),
            ("$(reboot)", "'clusterrolebinding/$(reboot)'"),
            ("a\n# b\u{202e}", "$'clusterrolebinding/a\\U0000000a# b\\U0000202e'"),
        ] {
            let route = route(None, name, &[(0, account())], 1);
            assert_eq!(command(&route), format!("kubectl delete {word}"));
            assert_eq!(message(&[route]).lines().count(), 2);
        }
    }

    #[test]
    fn many_ways_are_counted() {
        let routes: Vec<Route> =
            (0..8).map(|at| route(None, &format!("b{at}"), &[(0, account())], 1)).collect();
        let text = message(&routes);
        assert!(
            text.starts_with("8 ways past the gate")
                && text.ends_with("# and 3 more, told when these are gone")
        );
        assert_eq!(text.lines().count(), 7);
    }
}
