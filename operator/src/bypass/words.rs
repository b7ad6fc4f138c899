//! The condition's message: each way past the gate with the command that removes it, ready for a shell.

use std::fmt::Write as _;

use crds::agent_identity::EksAccessEntry;

use super::aws_auth::{NAME, NAMESPACE};
use super::bindings::kind_of;
use super::{Holder, Mapping, Route, Ways};

/// Ways of each kind that are told one by one.
const SHOWN: usize = 5;
/// Subjects of one binding that are named.
const NAMED: usize = 3;
/// Characters of a name, of a role's ARN say, that are shown in a comment.
const LONGEST: usize = 600;

/// The message: one line for each way, which is a command and a comment.
pub fn message(ways: &Ways) -> String {
    let Ways { bindings, entries, mappings } = ways;
    let mut kinds = Vec::new();
    if !bindings.is_empty() {
        kinds.push("RBAC gives this agent's own subject more than discovery");
    }
    if !entries.is_empty() {
        kinds.push("an EKS access entry lets this agent's own role into a cluster");
    }
    if mappings.iter().any(|mapping| matches!(mapping, Mapping::Entry { .. })) {
        kinds.push("ConfigMap aws-auth lets this agent's own role into this cluster");
    } else if !mappings.is_empty() {
        kinds
            .push("ConfigMap aws-auth is not understood and may let this agent's own role into this cluster");
    }
    let lines: Vec<String> = (bindings.iter().take(SHOWN).map(|route| line(&command(route), &reason(route))))
        .chain(entries.iter().take(SHOWN).map(of_entry))
        .chain(mappings.iter().take(SHOWN).map(of_mapping))
        .collect();
    let count = ways.count();
    let counted = if count == 1 { "1 way".to_owned() } else { format!("{count} ways") };
    let mut text = format!("{counted} past the gate: {}. To remove:{}", kinds.join("; "), lines.concat());
    if let Some(more) = count.checked_sub(lines.len()).filter(|more| *more > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n# and {more} more, told when these are gone");
    }
    text
}

fn line(command: &str, comment: &str) -> String {
    format!("\n{command}   # {comment}")
}

/// Any entry is a way: without groups and access policies the role is still `system:authenticated`.
fn of_entry(entry: &EksAccessEntry) -> String {
    let EksAccessEntry { cluster_name, region, account, principal_arn } = entry;
    let [cluster, region, principal] = [cluster_name, region, principal_arn].map(|word| shell(word));
    let command = format!(
        "aws eks delete-access-entry --cluster-name {cluster} --region {region} --principal-arn {principal}"
    );
    let whose = account.as_deref().map_or_else(
        || "the cluster that the gate runs in".to_owned(),
        |account| format!("in account {}", visible(account)),
    );
    line(&command, &whose)
}

/// The lists are other people's too, node roles among them: nothing is rewritten, a person takes one entry out.
fn of_mapping(mapping: &Mapping) -> String {
    let comment = match mapping {
        Mapping::Entry { list, entry } => format!("take {} out of {}", visible(entry), list.as_str()),
        Mapping::Unread(list) => {
            format!("{} is no list of mappings that can be read: mend it", list.as_str())
        }
    };
    line(&format!("kubectl edit configmap/{NAME} -n {NAMESPACE}"), &comment)
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
    text.chars().take(LONGEST).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
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
    use super::super::{BindingKey, List, RoleRef};
    use super::*;

    fn route(namespace: Option<&str>, name: &str, holders: &[(usize, Holder)], subjects: usize) -> Route {
        Route {
            binding: BindingKey { namespace: namespace.map(str::to_owned), name: name.to_owned() },
            role: RoleRef { of_cluster: true, name: "edit".to_owned() },
            holders: holders.to_vec(),
            subjects,
        }
    }

    fn bound(routes: &[Route]) -> String {
        message(&Ways { bindings: routes.to_vec(), ..Ways::default() })
    }

    fn entry(account: Option<&str>, principal: &str) -> EksAccessEntry {
        EksAccessEntry {
            cluster_name: "prod-use2".to_owned(),
            region: "us-east-2".to_owned(),
            account: account.map(str::to_owned),
            principal_arn: principal.to_owned(),
        }
    }

    fn account() -> Holder {
        Holder::Account { namespace: "agents".to_owned(), name: "claude-code".to_owned() }
    }

    #[test]
    fn a_binding_of_the_agent_alone_is_deleted_and_others_keep_theirs() {
        let whole = route(None, "agents:edit", &[(0, account())], 1);
        assert_eq!(
            bound(&[whole]),
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
            assert_eq!(bound(&[route]).lines().count(), 2);
        }
    }

    #[test]
    fn many_ways_are_counted() {
        let routes: Vec<Route> =
            (0..8).map(|at| route(None, &format!("b{at}"), &[(0, account())], 1)).collect();
        let text = bound(&routes);
        assert!(
            text.starts_with("8 ways past the gate")
                && text.ends_with("# and 3 more, told when these are gone")
        );
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn b113_an_access_entry_is_deleted_by_the_exact_command() {
        let runner = "arn:aws:iam::111122223333:role/team/claude-code-runner";
        let found = Ways {
            entries: vec![entry(Some("444455556666"), runner), entry(None, runner)],
            ..Ways::default()
        };
        assert_eq!(
            message(&found),
            "2 ways past the gate: an EKS access entry lets this agent's own role into a cluster. To remove:\n\
             aws eks delete-access-entry --cluster-name prod-use2 --region us-east-2 --principal-arn \
             arn:aws:iam::111122223333:role/team/claude-code-runner   # in account 444455556666\n\
             aws eks delete-access-entry --cluster-name prod-use2 --region us-east-2 --principal-arn \
             arn:aws:iam::111122223333:role/team/claude-code-runner   # the cluster that the gate runs in"
        );
        let strange = entry(None, "arn:aws:iam::111122223333:role/$(reboot)'/x");
        let text = message(&Ways { entries: vec![strange], ..Ways::default() });
        assert!(
            text.contains(r"--principal-arn 'arn:aws:iam::111122223333:role/$(reboot)'\''/x'   #"),
            "d20: {text}"
        );
    }

    #[test]
    fn b113_several_kinds_are_all_told_and_the_first_gives_the_reason() {
        let mapping = |entry: &str| Mapping::Entry { list: List::MapRoles, entry: entry.to_owned() };
        let all = Ways {
            bindings: vec![route(None, "edit", &[(0, account())], 1)],
            entries: vec![entry(None, "arn:aws:iam::111122223333:role/x")],
            mappings: vec![mapping("rolearn arn:aws:iam::111122223333:role/x"), mapping("a\n\u{202e}")],
        };
        let text = message(&all);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "4 ways past the gate: RBAC gives this agent's own subject more than discovery; an EKS access entry lets this \
             agent's own role into a cluster; ConfigMap aws-auth lets this agent's own role into this cluster. To remove:"
        );
        assert_eq!(
            lines[3],
            "kubectl edit configmap/aws-auth -n kube-system   # take rolearn arn:aws:iam::111122223333:role/x out of mapRoles"
        );
        assert!(lines.len() == 5 && lines[4].ends_with("# take a?? out of mapRoles"), "d20: {text}");
        let reason = |ways: Ways| ways.reason().map(super::super::Reason::as_str);
        assert_eq!(reason(all.clone()), Some("RBACBinding"));
        let without = Ways { bindings: Vec::new(), ..all.clone() };
        assert_eq!(reason(without.clone()), Some("EKSAccessEntry"));
        assert_eq!(reason(Ways { entries: Vec::new(), ..without }), Some("AWSAuthConfigMap"));
        assert_eq!(reason(Ways::default()), None);

        let many = Ways { mappings: vec![Mapping::Unread(List::MapRoles); 7], ..all };
        let text = message(&many);
        assert!(
            text.contains("aws-auth is not understood and may let")
                && text.ends_with("# and 2 more, told when these are gone"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 9);
    }
}
