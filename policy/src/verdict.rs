//! The outcome of a decision, and what it obliges to.

use std::sync::Arc;

use jiff::Timestamp;

use crate::mask::MaskRule;
use crate::rule::{Level, RuleId};
use crate::terms::Terms;

/// Why an act may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Discovery and the other paths that are always open (ruling on non-resource paths).
    BuiltIn,
    /// An Allow rule.
    Rule,
    /// A RequireApproval rule whose policy lets a server-side dry run pass, where the object may be read (H6).
    DryRun,
    /// An Allow rule of a policy with `jit.mode: Required`, inside this window.
    Window {
        /// Name of the AccessGrant.
        grant: Arc<str>,
        /// Absolute end of the window.
        until: Timestamp,
    },
    /// A RequireApproval rule and this approved grant.
    Approval {
        /// Name of the AccessGrant.
        grant: Arc<str>,
        /// Who approved, in order of review.
        by: Vec<String>,
        /// The approval must be used before this.
        until: Timestamp,
    },
}

/// A policy that never compiled and therefore denies everything for the identities it selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BrokenPolicy {
    /// Name of the AccessPolicy.
    pub policy: Arc<str>,
    /// What is wrong with it: field path, position, reason.
    pub message: Arc<str>,
}

/// The outcome, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The identity is suspended.
    Suspended,
    /// A policy that selects the identity cannot be understood.
    Broken(BrokenPolicy),
    /// A Deny rule, or a built-in.
    Denied,
    /// A RequireApproval rule; the terms are those of every policy whose rule matched.
    NeedsApproval(Terms),
    /// It may run.
    Allowed(Authority),
    /// Only Allow rules of policies with `jit.mode: Required`, and no open window covers the act.
    NeedsWindow {
        /// Longest window that may be asked for, in seconds.
        max_window_seconds: u32,
    },
    /// Nothing matched.
    NotAllowed,
}

/// What the answer owes, whoever sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obligations {
    /// Union of the masking rules that may concern the answer, sorted, without doubles.
    pub masks: Vec<Arc<MaskRule>>,
    /// Highest recording level among the identity's policies.
    pub level: Level,
    /// Namespaces to take out of a cluster-wide list or watch, each as `metadata.namespace!=<ns>` in the
    /// fieldSelector (ruling on `-A`); sorted, without doubles.
    pub excluded_namespaces: Vec<Box<str>>,
}

/// What the policies in Audit mode would have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WouldHave {
    /// The verdict with every Audit policy enforced.
    pub verdict: Verdict,
    /// The Audit rules that matched, sorted.
    pub rules: Vec<Arc<RuleId>>,
}
