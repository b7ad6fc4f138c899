//! Routes around a restrictive rule that its policy leaves open.

use policy::lint::lint;

use crate::support::yaml;

fn findings(rules: &str) -> Vec<String> {
    let text = format!("agents: [{{namespace: agents}}]\nrules:\n{rules}");
    let compiled = policy::compile::policy("p", 1, &yaml(&text)).unwrap();
    lint(&compiled).iter().map(ToString::to_string).collect()
}

#[test]
fn a_route_with_the_same_effect_is_found_where_the_policy_leaves_it_open() {
    let table: &[(&str, &[&str])] = &[
        (
            r#"- {name: r, effect: Deny, match: [{apiGroups: [""], resources: [pods], verbs: [delete, deletecollection]}]}"#,
            &["rule `r` restricts `delete pods` but not `create pods/eviction`"],
        ),
        (
            r#"- {name: r, effect: Deny, match: [{apiGroups: [""], resources: [pods, pods/eviction], verbs: [create, delete, deletecollection]}]}"#,
            &[],
        ),
        (
            r#"- {name: r, effect: RequireApproval, match: [{namespaces: [a], apiGroups: [apps], resources: [deployments], verbs: [patch, delete]}]}"#,
            &[
                "rule `r` restricts `delete deployments (apps)` but not `deletecollection deployments (apps)`",
                "rule `r` restricts `patch deployments (apps)` but not `update deployments (apps)`",
                "rule `r` restricts `patch deployments (apps)` but not `patch deployments/scale (apps)`",
            ],
        ),
        (
            r#"- {name: r, effect: Deny, match: [{namespaces: ["team-*"], apiGroups: [""], resources: [secrets], verbs: [get]}]}"#,
            &[
                "rule `r` restricts `get secrets` but not `list secrets`",
                "rule `r` restricts `get secrets` but not `watch secrets`",
            ],
        ),
        (
            r#"- {name: r, effect: Deny, match: [{apiGroups: [""], resources: [pods/exec], verbs: [create]}]}"#,
            &[
                "rule `r` restricts `create pods/exec` but not `create pods/attach`",
                "rule `r` restricts `create pods/exec` but not `patch pods/ephemeralcontainers`",
            ],
        ),
    ];
    for (rules, expected) in table {
        assert_eq!(&findings(rules), expected, "{rules}");
    }
}

#[test]
fn silence_is_no_so_what_nothing_allows_is_no_open_route() {
    let deny = r#"- {name: r, effect: Deny, match: [{apiGroups: [""], resources: [pods], verbs: [delete, deletecollection]}]}"#;
    let reads = r#"- {name: a, effect: Allow, match: [{apiGroups: [""], resources: [pods], verbs: [get]}]}"#;
    let evictions =
        r#"- {name: a, effect: Allow, match: [{apiGroups: [""], resources: [pods/*], verbs: [create]}]}"#;
    assert!(findings(&format!("{deny}\n{reads}")).is_empty());
    assert_eq!(
        findings(&format!("{deny}\n{evictions}")),
        ["rule `r` restricts `delete pods` but not `create pods/eviction`"]
    );
}

#[test]
fn another_rule_of_the_policy_closes_the_route_and_an_exclusion_opens_it() {
    let deny = r#"- {name: r, effect: Deny, match: [{apiGroups: [""], resources: [pods], verbs: [delete, deletecollection]}]}"#;
    let other = r#"- {name: o, effect: RequireApproval, match: [{apiGroups: [""], resources: [pods/eviction], verbs: [create]}]}"#;
    let holed = r#"- {name: o, effect: Deny, match: [{apiGroups: [""], resources: [pods/eviction], verbs: [create]}], exclude: [{apiGroups: [""], resources: [pods/eviction], verbs: [create]}]}"#;
    assert!(findings(&format!("{deny}\n{other}")).is_empty());
    assert_eq!(findings(&format!("{deny}\n{holed}")).len(), 1);
}
