//! The files of `tests/cases` (policies, acts, expected verdicts) and `tests/rejected` (specs, expected issues).

use std::fs;
use std::path::PathBuf;

use policy::decision::{Authority, Verdict};
use policy::validate;
use serde::Deserialize;
use serde_json::Value;

use crate::support::{PolicyText, action, agent, decide_with, window_grant, windows, yaml};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    policies: Vec<PolicyText>,
    /// Patches of an approved Window grant, one for each open window.
    #[serde(default)]
    windows: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The act.
    act: String,
    /// Denied, Approval, Allowed, Window, Nothing, DryRun, BuiltIn, InWindow, Broken.
    is: String,
    /// The leading rule.
    by: Option<String>,
    /// Namespaces left out.
    #[serde(default)]
    without: Vec<String>,
    /// Masking rules of the answer, by name.
    masks: Option<Vec<String>>,
    /// What Audit policies would make of it.
    would: Option<String>,
}

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Suspended => "Suspended",
        Verdict::Broken(_) => "Broken",
        Verdict::Denied => "Denied",
        Verdict::NeedsApproval(_) => "Approval",
        Verdict::Allowed(Authority::BuiltIn) => "BuiltIn",
        Verdict::Allowed(Authority::Rule) => "Allowed",
        Verdict::Allowed(Authority::DryRun) => "DryRun",
        Verdict::Allowed(Authority::Window { .. }) => "InWindow",
        Verdict::Allowed(Authority::Approval { .. }) => "Approved",
        Verdict::NeedsWindow { .. } => "Window",
        Verdict::NotAllowed => "Nothing",
    }
}

#[test]
fn every_case_is_decided_as_its_file_says() {
    for file in files("cases") {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let table: Table = yaml(&fs::read_to_string(&file).unwrap());
        let agent = agent(&table.policies);
        let grants: Vec<_> = table.windows.iter().map(|patch| window_grant("w", patch.clone())).collect();
        let windows = windows(&agent, &grants);
        for case in table.cases {
            let at = format!("{name}: {}", case.act);
            let mut decision = decide_with(&agent, &action(&case.act), &windows);
            assert_eq!(word(decision.verdict()), case.is, "{at}");
            assert_eq!(
                decision.take_permit().is_some(),
                matches!(decision.verdict(), Verdict::Allowed(_)),
                "{at}"
            );
            assert!(decision.take_permit().is_none(), "{at}: a permit is taken once");
            let by = decision.leading_rule().map(ToString::to_string);
            if case.by.is_some() {
                assert_eq!(by, case.by, "{at}");
            }
            let without: Vec<&str> =
                decision.obligations().excluded_namespaces.iter().map(|ns| &**ns).collect();
            assert_eq!(without, case.without, "{at}");
            if let Some(masks) = case.masks {
                let mut found: Vec<&str> =
                    decision.obligations().masks.iter().map(|mask| &*mask.name).collect();
                found.dedup();
                assert_eq!(found, masks, "{at}");
            }
            let would = decision.would_have().map(|would| word(&would.verdict).to_owned());
            assert_eq!(would, case.would, "{at}");
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rejected {
    spec: Value,
    issues: Vec<String>,
    reason: String,
}

#[test]
fn what_does_not_compile_says_where_and_why() {
    for file in files("rejected") {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for (at, case) in yaml::<Vec<Rejected>>(&fs::read_to_string(&file).unwrap()).into_iter().enumerate() {
            let spec = PolicyText { name: "p".into(), generation: 1, spec: case.spec }.spec();
            let issues = validate::policy(&spec).expect_err(&format!("{name}[{at}]"));
            let found: Vec<String> = issues.all().iter().map(ToString::to_string).collect();
            assert_eq!(found, case.issues, "{name}[{at}]");
            assert_eq!(issues.reason().as_str(), case.reason, "{name}[{at}]");
        }
    }
}
