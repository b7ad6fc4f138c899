//! The lists of `aws-auth`: which of their entries can mean a role.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

/// A key of the ConfigMap whose value is a list of mappings, as text in YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Roles.
    MapRoles,
    /// Users; a role that is named here is taken too.
    MapUsers,
    /// Accounts, whose every principal is let in.
    MapAccounts,
}

impl List {
    /// The key.
    pub fn as_str(self) -> &'static str {
        match self {
            List::MapRoles => "mapRoles",
            List::MapUsers => "mapUsers",
            List::MapAccounts => "mapAccounts",
        }
    }

    /// Fields of a mapping that name whom it means: one exactly, and by wildcards.
    fn fields(self) -> Option<(&'static str, &'static str)> {
        match self {
            List::MapRoles => Some(("rolearn", "rolearnlike")),
            List::MapUsers => Some(("userarn", "userarnlike")),
            List::MapAccounts => None,
        }
    }
}

/// What lets a role in, or may.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mapping {
    /// An entry of a list.
    Entry {
        /// Which list.
        list: List,
        /// The entry as it is written: `rolearn arn:aws:iam::111122223333:role/x`.
        entry: String,
    },
    /// A list that is not understood: whoever reads it otherwise may find the role in it.
    Unread(List),
}

/// Whom an entry means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    /// A role, in the form of [`policy::aws::role`].
    Role(String),
    /// Whatever this pattern of `*` and `?` takes, in lower case.
    Like(String),
    /// Every principal of an account.
    Account(String),
}

/// The lists as far as a role can be meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    entries: Vec<(List, Whom, String)>,
    unread: Vec<List>,
}

impl Lists {
    pub(super) fn read(map: &ConfigMap) -> Self {
        map.data.as_ref().map(Self::of_data).unwrap_or_default()
    }

    fn of_data(data: &BTreeMap<String, String>) -> Self {
        let mut lists = Self::default();
        for list in [List::MapRoles, List::MapUsers, List::MapAccounts] {
            let text = data.get(list.as_str()).map(|text| text.trim()).unwrap_or_default();
            // What aws-iam-authenticator takes for empty.
            if matches!(text, "" | "``" | "\"\"") {
                continue;
            }
            let read = match list.fields() {
                Some(fields) => mappings(text, fields),
                None => accounts(text),
            };
            match read {
                Some(read) => lists.entries.extend(read.into_iter().map(|(whom, entry)| (list, whom, entry))),
                None => lists.unread.push(list),
            }
        }
        lists
    }

    /// What lets one of these roles in.
    pub(super) fn of(&self, roles: &[String]) -> Vec<Mapping> {
        let meant = |whom: &Whom| roles.iter().any(|role| whom.means(role));
        let entries = self.entries.iter().filter(|(_, whom, _)| meant(whom));
        let entries = entries.map(|(list, _, entry)| Mapping::Entry { list: *list, entry: entry.clone() });
        entries.chain(self.unread.iter().map(|list| Mapping::Unread(*list))).collect()
    }
}

impl Whom {
    fn means(&self, role: &str) -> bool {
        match self {
            Whom::Role(named) => named == role,
            Whom::Like(pattern) => is_like(role.as_bytes(), pattern.as_bytes()),
            Whom::Account(account) => role.split(':').nth(4) == Some(account),
        }
    }
}

/// `None` where the text, or one entry, is not what such a list is made of.
fn mappings(text: &str, (exactly, like): (&str, &str)) -> Option<Vec<(Whom, String)>> {
    let mut read = Vec::new();
    for entry in serde_saphyr::from_str::<Option<Vec<Value>>>(text).ok()?.unwrap_or_default() {
        let fields = match entry {
            // What Go decodes as a mapping of nobody.
            Value::Null => continue,
            Value::Object(fields) => fields,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => return None,
        };
        for (name, value) in &fields {
            // Go's decoder does not tell upper from lower case in names of fields.
            let field = name.to_ascii_lowercase();
            let is_known = field == exactly || field == like || field == "sso";
            match value {
                Value::Null => {}
                Value::String(arn) if field == exactly => {
                    // A user, or what is no ARN, lets no role in. The authenticator compares in lower case.
                    let role = policy::aws::role(&arn.to_ascii_lowercase());
                    read.extend(role.map(|role| (Whom::Role(role), format!("{field} {arn}"))));
                }
                Value::String(arn) if field == like => {
                    read.push((Whom::Like(arn.to_ascii_lowercase()), format!("{field} {arn}")));
                }
                Value::Object(sso) if field == "sso" => read.push(of_permission_set(sso)?),
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)
                    if is_known =>
                {
                    return None;
                }
                // Whom it becomes.
                Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                }
            }
        }
    }
    Some(read)
}

/// The roles that IAM Identity Center makes for a permission set: `AWSReservedSSO_<set>_<random>`.
fn of_permission_set(sso: &serde_json::Map<String, Value>) -> Option<(Whom, String)> {
    let of = |wanted: &str| {
        let mut found = sso.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| text_of(value))
    };
    let (set, account) = (of("permissionSetName")??, of("accountID")??);
    let partition = of("partition").unwrap_or_else(|| Some("aws".to_owned()))?;
    let pattern = format!("arn:{partition}:iam::{account}:role/awsreservedsso_{set}_*").to_ascii_lowercase();
    Some((Whom::Like(pattern), format!("sso permissionSetName {set} of account {account}")))
}

fn accounts(text: &str) -> Option<Vec<(Whom, String)>> {
    let listed = serde_saphyr::from_str::<Option<Vec<Value>>>(text).ok()?.unwrap_or_default();
    let account = |value: &Value| {
        let account = text_of(value)?;
        Some((Whom::Account(account.clone()), format!("account {account}")))
    };
    listed.iter().filter(|value| !value.is_null()).map(account).collect()
}

/// An account is text, and written without quotes a number, which has lost its zeros.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(format!("{:0>12}", number.as_u64()?)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether the pattern takes the whole text: `*` is any characters, `?` is one.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut of, mut star) = (0, 0, None);
    while at < text.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(&one) if one == b'?' || Some(&one) == text.get(at) => {
                at += 1;
                of += 1;
            }
            Some(_) | None => match &mut star {
                // The last star takes one character more.
                Some((after, taken)) => {
                    *taken += 1;
                    (of, at) = (*after + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(of).all(|&rest| rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::111122223333:role/claude-code-runner";

    fn found(list: &str, text: &str) -> Vec<Mapping> {
        let data = BTreeMap::from([(list.to_owned(), text.to_owned())]);
        Lists::of_data(&data).of(&[ROLE.to_owned()])
    }

    fn entry(list: List, entry: &str) -> Vec<Mapping> {
        vec![Mapping::Entry { list, entry: entry.to_owned() }]
    }

    #[test]
    fn b113_a_role_is_found_however_the_list_is_written() {
        let block = "- rolearn: arn:aws:iam::111122223333:role/nodes\n  username: system:node:{{EC2PrivateDNSName}}\n  groups:\n  - system:nodes\n\
                     # the agent\n- groups: [system:masters]\n  rolearn: arn:aws:iam::111122223333:role/claude-code-runner\n  username: agent\n";
        let arn = |arn: &str| format!("rolearn {arn}");
        for (text, named) in [
            (block.to_owned(), ROLE.to_owned()),
            (format!("[{{rolearn: '{ROLE}', username: x}}]"), ROLE.to_owned()),
            (format!(r#"[{{"rolearn":"{ROLE}","username":"x","groups":[]}}]"#), ROLE.to_owned()),
            (format!("- {{RoleARN: {ROLE}}}"), ROLE.to_owned()),
            (format!("- rolearn: >-\n    {ROLE}\n"), ROLE.to_owned()),
            (format!("---\n- &it\n  rolearn: {ROLE}\n"), ROLE.to_owned()),
            (format!("- null\n- rolearn: {ROLE}\n  groups: null\n"), ROLE.to_owned()),
            (
                "- rolearn: arn:aws:iam::111122223333:role/team/payments/Claude-Code-Runner\n".to_owned(),
                "arn:aws:iam::111122223333:role/team/payments/Claude-Code-Runner".to_owned(),
            ),
            (
                "- rolearn: ARN:AWS:IAM::111122223333:ROLE/CLAUDE-CODE-RUNNER\n".to_owned(),
                "ARN:AWS:IAM::111122223333:ROLE/CLAUDE-CODE-RUNNER".to_owned(),
            ),
        ] {
            assert_eq!(found("mapRoles", &text), entry(List::MapRoles, &arn(&named)), "{text}");
        }
    }

    #[test]
    fn b113_patterns_users_and_accounts_let_a_role_in_too() {
        for (list, text, expected) in [
            ("mapUsers", format!("- userarn: {ROLE}\n"), entry(List::MapUsers, &format!("userarn {ROLE}"))),
            (
                "mapRoles",
                "- rolearnlike: arn:aws:iam::*:role/claude-*".to_owned(),
                entry(List::MapRoles, "rolearnlike arn:aws:iam::*:role/claude-*"),
            ),
            ("mapRoles", "- rolearnlike: arn:aws:iam::*:role/other-*".to_owned(), Vec::new()),
            (
                "mapAccounts",
                "- \"111122223333\"".to_owned(),
                entry(List::MapAccounts, "account 111122223333"),
            ),
            ("mapAccounts", "- 111122223333".to_owned(), entry(List::MapAccounts, "account 111122223333")),
            ("mapAccounts", "- \"444455556666\"".to_owned(), Vec::new()),
        ] {
            assert_eq!(found(list, &text), expected, "{text}");
        }
        let sso = "- sso: {permissionSetName: Agents, accountID: \"000011112222\"}";
        let data = BTreeMap::from([("mapRoles".to_owned(), sso.to_owned())]);
        let of = |role: &str| Lists::of_data(&data).of(&[role.to_owned()]).len();
        assert_eq!(of("arn:aws:iam::000011112222:role/awsreservedsso_agents_0123456789abcdef"), 1);
        assert_eq!(of("arn:aws:iam::000011112222:role/awsreservedsso_people_0123456789abcdef"), 0);
    }

    #[test]
    fn another_role_account_or_partition_is_not_meant() {
        for arn in [
            "arn:aws:iam::111122223333:role/claude-code-runner-2",
            "arn:aws:iam::444455556666:role/claude-code-runner",
            "arn:aws-cn:iam::111122223333:role/claude-code-runner",
            "arn:aws:iam::111122223333:user/claude-code-runner",
            "arn:aws:sts::111122223333:assumed-role/claude-code-runner/x",
            "claude-code-runner",
        ] {
            assert_eq!(found("mapRoles", &format!("- rolearn: {arn}\n")), [], "{arn}");
        }
        for empty in ["", " \n", "``", "\"\"", "[]", "null", "# nobody\n[]\n"] {
            assert_eq!(found("mapRoles", empty), [], "{empty:?}");
        }
    }

    #[test]
    fn b113_what_is_not_understood_may_let_the_role_in() {
        for text in [
            "- rolearn: [",
            "rolearn: x",
            "a text",
            "- a text",
            "- rolearn: [arn]",
            "- sso: {permissionSetName: x}",
            "- sso: x",
            "- rolearn: {{role}}",
            "[]\n---\n[]\n",
        ] {
            assert_eq!(found("mapRoles", text), [Mapping::Unread(List::MapRoles)], "{text}");
        }
        assert_eq!(found("mapAccounts", "- [x]"), [Mapping::Unread(List::MapAccounts)]);
    }

    #[test]
    fn wildcards_are_those_of_iam() {
        for (text, pattern, is) in [
            ("abc", "abc", true),
            ("abc", "a?c", true),
            ("abc", "*", true),
            ("abc", "a*", true),
            ("abc", "*c", true),
            ("abcbd", "a*b?", true),
            ("abc", "ab", false),
            ("abc", "a?", false),
            ("abc", "abcd", false),
            ("", "*", true),
            ("", "?", false),
        ] {
            assert_eq!(is_like(text.as_bytes(), pattern.as_bytes()), is, "{text} {pattern}");
        }
    }
}
