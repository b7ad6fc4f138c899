//! Conditions of identities and policies: from a verdict and its progress to words.

use crds::ConditionStatus;
use policy::shard::Shard;
use serde_json::{Map, Value, json};

use crate::bypass::Reason;
use crate::plan::{IdentityVerdict, Plan, PolicyVerdict, Refusal};
use crate::programmed::{Progress, Shards};
use crate::status::{Owned, Said, Wish};

const POLICIES_SHOWN: usize = 64;
const FINDINGS_SHOWN: usize = 8;
const MESSAGE_CHARACTERS: usize = 4096;

/// The operator's part of an AgentIdentity's status. `TargetReachable` is the proxies'.
pub const IDENTITY: Owned = Owned {
    kind: "AgentIdentity",
    plural: "agentidentities",
    fields: &[
        "observedGeneration",
        "username",
        "groups",
        "endpoint",
        "kubeconfigRef",
        "eks",
        "policyCount",
        "policies",
    ],
    conditions: &["Ready", "Accepted", "Programmed", "BypassDetected"],
};

/// The operator's part of an AccessPolicy's status.
pub const POLICY: Owned = Owned {
    kind: "AccessPolicy",
    plural: "accesspolicies",
    fields: &["observedGeneration", "matchedAgents"],
    conditions: &["Ready", "Accepted", "Programmed", "NoAgents", "Incomplete"],
};

/// The shards among `names` with the hashes that they should have.
pub fn wanted_shards<'a>(plan: &Plan, names: impl IntoIterator<Item = &'a String>) -> Shards {
    names.into_iter().filter_map(|name| Some((name.clone(), Shard::hash(plan.shards.get(name)?)))).collect()
}

/// What the proxies found out about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing yet.
    Unknown,
    /// An impersonated request was accepted.
    Reachable,
    /// It was not.
    Unreachable,
}

/// What an AgentIdentity's status should say.
pub struct IdentityFacts<'a> {
    /// What became of it.
    pub verdict: &'a IdentityVerdict,
    /// How far its shard has got; none when nothing of it is published.
    pub progress: Option<Progress>,
    /// Hash of its shard.
    pub shard_hash: Option<&'a str>,
    /// `TargetReachable`, as the proxies wrote it.
    pub reach: Reach,
    /// `spec.suspend`.
    pub suspended: bool,
    /// URL of the gate.
    pub endpoint: &'a str,
    /// ConfigMap with the kubeconfig, where it is published.
    pub kubeconfig: Option<&'a str>,
    /// The ways past the gate, in a word and in words, if there are any.
    pub bypass: Option<(Reason, String)>,
    /// `status.eks.externalID`, with an EKS target.
    pub external_id: Option<String>,
}

/// Puts the facts into words.
pub fn identity_wish(facts: &IdentityFacts<'_>) -> Wish {
    let verdict = facts.verdict;
    let accepted = accepted(verdict.refusal.as_ref());
    let programmed = match &facts.progress {
        None => Said::no("Programmed", "Reconciling", "nothing of this identity is in force"),
        Some(progress) => {
            let at = facts.shard_hash.map(short).unwrap_or_default();
            progress_said(progress, verdict.refusal.is_some(), &at)
        }
    };
    let ready = identity_ready(facts, &accepted, &programmed);
    let mut fields = Map::new();
    fields.insert("username".to_owned(), json!(verdict.username));
    fields.insert("groups".to_owned(), json!(verdict.groups));
    fields.insert("endpoint".to_owned(), json!(facts.endpoint));
    fields.insert("policyCount".to_owned(), json!(verdict.policies.len()));
    if !verdict.policies.is_empty() {
        let shown: Vec<_> = verdict.policies.iter().take(POLICIES_SHOWN).collect();
        fields.insert("policies".to_owned(), json!(shown));
    }
    if let Some(name) = facts.kubeconfig {
        fields.insert("kubeconfigRef".to_owned(), json!({"name": name}));
    }
    if let Some(external_id) = &facts.external_id {
        fields.insert("eks".to_owned(), json!({"externalID": external_id}));
    }
    let mut said = vec![ready, accepted, programmed];
    // Only where it is true (GEP-1364).
    let bypass = facts.bypass.clone();
    said.extend(bypass.map(|(reason, message)| Said::yes("BypassDetected", reason.as_str(), message)));
    Wish { fields, said }
}

fn identity_ready(facts: &IdentityFacts<'_>, accepted: &Said, programmed: &Said) -> Said {
    if facts.suspended {
        return Said::no("Ready", "Suspended", "every request is refused while `spec.suspend` is true");
    }
    if accepted.status != ConditionStatus::True {
        return Said::no("Ready", "NotAccepted", accepted.message.clone());
    }
    if programmed.status != ConditionStatus::True {
        return Said::no("Ready", "NotProgrammed", programmed.message.clone());
    }
    match facts.reach {
        Reach::Reachable => Said::yes("Ready", "Ready", ""),
        Reach::Unreachable => Said::no("Ready", "TargetUnreachable", "see condition TargetReachable"),
        Reach::Unknown => {
            Said::unknown("Ready", "Reconciling", "no proxy has made a request for this identity yet")
        }
    }
}

/// What an AccessPolicy's status should say.
pub fn policy_wish(verdict: &PolicyVerdict, progress: &Progress) -> Wish {
    let accepted = accepted(verdict.refusal.as_ref());
    let behind = verdict.refusal.is_some() || verdict.held_back;
    let programmed = match progress_said(progress, behind, "") {
        Said { status: ConditionStatus::True, message, .. } if verdict.audit_only => {
            Said::yes("Programmed", "AuditOnly", message)
        }
        said => said,
    };
    let ready = if accepted.status != ConditionStatus::True {
        Said::no("Ready", "NotAccepted", accepted.message.clone())
    } else if programmed.status != ConditionStatus::True {
        Said::no("Ready", "NotProgrammed", programmed.message.clone())
    } else {
        Said::yes("Ready", "Ready", "")
    };
    let mut said = vec![ready, accepted, programmed];
    if verdict.matched == 0 {
        said.push(Said::yes("NoAgents", "NoAgentMatched", "no AgentIdentity is selected by `spec.agents`"));
    }
    if !verdict.findings.is_empty() {
        said.push(Said::yes("Incomplete", "LintFindings", incomplete(&verdict.findings)));
    }
    let fields = Map::from_iter([("matchedAgents".to_owned(), Value::from(verdict.matched))]);
    Wish { fields, said }
}

fn incomplete(findings: &[String]) -> String {
    let shown = findings.iter().take(FINDINGS_SHOWN).cloned().collect::<Vec<_>>().join("; ");
    let further = findings.len().saturating_sub(FINDINGS_SHOWN);
    let rest = if further > 0 { format!("; and {further} more") } else { String::new() };
    format!("{shown}{rest}. The effect is the same by the open route, unless another policy closes it")
}

fn accepted(refusal: Option<&Refusal>) -> Said {
    match refusal {
        None => Said::yes("Accepted", "Accepted", ""),
        Some(refusal) => {
            let message: String = refusal.message.chars().take(MESSAGE_CHARACTERS).collect();
            Said::no("Accepted", refusal.reason, message)
        }
    }
}

fn progress_said(progress: &Progress, behind: bool, at: &str) -> Said {
    match progress {
        Progress::NoProxy => Said::no("Programmed", "NoProxyReady", "no proxy is alive"),
        Progress::Running { .. } if behind => {
            Said::no("Programmed", "Reconciling", "this generation is not in force")
        }
        Progress::Running { running, proxies } => {
            let message = format!("{running}/{proxies} proxies{at}");
            if progress.is_complete() {
                Said::yes("Programmed", "Programmed", message)
            } else {
                Said::no("Programmed", "Reconciling", message)
            }
        }
    }
}

fn short(hash: &str) -> String {
    let digits = hash.strip_prefix("sha256:").unwrap_or(hash);
    format!(" at {}", digits.chars().take(12).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Progress = Progress::Running { running: 2, proxies: 2 };
    const LAGGING: Progress = Progress::Running { running: 1, proxies: 2 };

    fn ready(refused: bool, progress: Option<Progress>, reach: Reach, suspended: bool) -> (String, String) {
        let refusal = refused.then(|| Refusal { reason: "SubjectConflict", message: "older".into() });
        let verdict = IdentityVerdict { refusal, ..IdentityVerdict::default() };
        let facts = IdentityFacts {
            verdict: &verdict,
            progress,
            shard_hash: Some("sha256:0123456789abcdef"),
            reach,
            suspended,
            endpoint: "https://gate",
            kubeconfig: None,
            bypass: None,
            external_id: None,
        };
        let said = identity_wish(&facts).said.remove(0);
        (format!("{:?}", said.status), said.reason.to_owned())
    }

    #[test]
    fn ready_needs_everything() {
        let table = [
            (false, Some(RUNNING), Reach::Reachable, false, "True", "Ready"),
            (false, Some(RUNNING), Reach::Unknown, false, "Unknown", "Reconciling"),
            (false, Some(RUNNING), Reach::Unreachable, false, "False", "TargetUnreachable"),
            (false, Some(LAGGING), Reach::Reachable, false, "False", "NotProgrammed"),
            (false, Some(Progress::NoProxy), Reach::Reachable, false, "False", "NotProgrammed"),
            (true, Some(RUNNING), Reach::Reachable, false, "False", "NotAccepted"),
            (true, None, Reach::Unknown, false, "False", "NotAccepted"),
            (false, Some(RUNNING), Reach::Reachable, true, "False", "Suspended"),
        ];
        for (refused, progress, reach, suspended, status, reason) in table {
            let got = ready(refused, progress.clone(), reach, suspended);
            assert_eq!(
                got,
                (status.to_owned(), reason.to_owned()),
                "{refused} {progress:?} {reach:?} {suspended}"
            );
        }
    }

    #[test]
    fn a_policy_that_only_audits_says_so_and_one_held_back_is_not_programmed() {
        let audit = PolicyVerdict { audit_only: true, matched: 1, ..PolicyVerdict::default() };
        assert_eq!(policy_wish(&audit, &RUNNING).said[2].reason, "AuditOnly");
        let held_back = PolicyVerdict { held_back: true, matched: 1, ..PolicyVerdict::default() };
        assert_eq!(policy_wish(&held_back, &RUNNING).said[0].reason, "NotProgrammed");
        let nobody = policy_wish(&PolicyVerdict::default(), &RUNNING);
        assert_eq!(nobody.said[3].kind, "NoAgents");
    }

    #[test]
    fn findings_are_shown_up_to_a_bound_and_keep_a_policy_ready() {
        let findings: Vec<String> = (0..10).map(|at| format!("rule `r{at}` leaves a route open")).collect();
        let said =
            policy_wish(&PolicyVerdict { findings, matched: 1, ..PolicyVerdict::default() }, &RUNNING).said;
        assert_eq!(said[0].reason, "Ready");
        assert_eq!((said[3].kind, said[3].reason), ("Incomplete", "LintFindings"));
        assert!(said[3].message.contains("`r7` leaves a route open; and 2 more."), "{}", said[3].message);
        assert!(!said[3].message.contains("`r8`"), "{}", said[3].message);
    }
}
