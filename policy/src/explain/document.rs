//! `GET /sallyport/v1/explain`: one decision and every rule that matched.

use std::sync::Arc;

use serde::Serialize;

use super::can_i::can_i;
use crate::decision::{Authority, Decision, Verdict};
use crate::grant::summary;
use crate::mask::MaskRule;
use crate::rule::{Level, RuleId};
use crate::terms::Terms;

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainDocument {
    /// The act in one line.
    pub request: String,
    /// Allowed, or the reason token of the refusal: PolicyDenied, ApprovalPending, WindowRequired, NotAllowed, ...
    pub decision: &'static str,
    /// Why it may run: BuiltIn, Rule, DryRun, Window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<&'static str>,
    /// The sentence of `kubectl auth can-i`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Every rule that matched, the deciding ones first.
    pub rules: Vec<RuleId>,
    /// What a human would have to agree to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approval: Vec<ApprovalWords>,
    /// What would be masked in the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub masks: Vec<MaskWords>,
    /// Namespaces that would be left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_namespaces: Vec<String>,
    /// What Kubernetes RBAC on the target says to it: `allows`, `denies` or `unknown`; asked where policy does not
    /// refuse it and the gate becomes the agent there.
    #[serde(rename = "targetRBAC", skip_serializing_if = "Option::is_none")]
    pub target_rbac: Option<&'static str>,
    /// How much is recorded.
    pub recording: Level,
    /// What policies in Audit mode would change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have: Option<WouldHaveWords>,
}

/// One policy's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalWords {
    /// Name of the AccessPolicy.
    pub policy: String,
    /// Distinct people.
    pub min_approvals: u32,
    /// Whether only named approvers count.
    pub restricted: bool,
}

/// One masking rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MaskWords {
    /// Name of the AccessPolicy.
    pub policy: String,
    /// Name of the rule, as it stands in the placeholder.
    pub rule: String,
    /// Its paths.
    pub paths: Vec<String>,
}

/// What Audit policies would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WouldHaveWords {
    /// As [`ExplainDocument::decision`].
    pub decision: &'static str,
    /// Their rules that matched.
    pub rules: Vec<RuleId>,
}

/// The document for a decision.
pub fn explain(decision: &Decision) -> ExplainDocument {
    let obligations = decision.obligations();
    ExplainDocument {
        request: summary(decision.action()),
        decision: token(decision.verdict()),
        authority: authority(decision.verdict()),
        reason: can_i(decision).reason,
        rules: decision.rules().iter().chain(decision.narrowed_by()).map(|rule| (**rule).clone()).collect(),
        approval: decision.terms().map(approval).unwrap_or_default(),
        masks: masks(&obligations.masks),
        excluded_namespaces: obligations
            .excluded_namespaces
            .iter()
            .map(|namespace| namespace.to_string())
            .collect(),
        target_rbac: None,
        recording: obligations.level,
        would_have: decision.would_have().map(|would| WouldHaveWords {
            decision: token(&would.verdict),
            rules: would.rules.iter().map(|rule| (**rule).clone()).collect(),
        }),
    }
}

/// One entry for each rule, also where it holds by what it implies for this kind as well as by its own words.
fn masks(rules: &[Arc<MaskRule>]) -> Vec<MaskWords> {
    let mut words: Vec<MaskWords> = Vec::new();
    for mask in rules {
        let paths = mask.paths.iter().map(ToString::to_string);
        match words.iter_mut().find(|word| word.policy == *mask.policy && word.rule == *mask.name) {
            Some(word) => word.paths.extend(paths),
            None => words.push(MaskWords {
                policy: mask.policy.to_string(),
                rule: mask.name.to_string(),
                paths: paths.collect(),
            }),
        }
    }
    for word in &mut words {
        word.paths.sort();
        word.paths.dedup();
    }
    words
}

fn approval(terms: &Terms) -> Vec<ApprovalWords> {
    let policies = terms.policies.iter();
    policies
        .map(|policy| ApprovalWords {
            policy: policy.policy.to_string(),
            min_approvals: policy.min_approvals,
            restricted: !policy.approvers.is_empty(),
        })
        .collect()
}

fn token(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Suspended => "AgentSuspended",
        Verdict::Broken(_) => "PolicyBroken",
        Verdict::Denied => "PolicyDenied",
        Verdict::NeedsApproval(_) => "ApprovalPending",
        Verdict::Allowed(_) => "Allowed",
        Verdict::NeedsWindow { .. } => "WindowRequired",
        Verdict::NotAllowed => "NotAllowed",
    }
}

fn authority(verdict: &Verdict) -> Option<&'static str> {
    let Verdict::Allowed(authority) = verdict else {
        return None;
    };
    Some(match authority {
        Authority::BuiltIn => "BuiltIn",
        Authority::Rule => "Rule",
        Authority::DryRun => "DryRun",
        Authority::Window { .. } => "Window",
        Authority::Approval { .. } => "Approval",
    })
}
