//! A compiled rule and the identity by which decisions, records and refusals name it.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::mask::MaskRule;
use crate::matcher::Matcher;
use crate::terms::{Approval, Jit};

/// What a rule does to an act that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Effect {
    /// Refuses it; nothing can change that.
    Deny,
    /// Lets it run once a human has approved it.
    RequireApproval,
    /// Lets it run.
    Allow,
}

impl Effect {
    /// The word of `spec.rules[].effect`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Effect::Deny => "Deny",
            Effect::RequireApproval => "RequireApproval",
            Effect::Allow => "Allow",
        }
    }

    /// Whether the effect only takes away. Restrictive rules match what a request *may* touch, permissive ones only
    /// where *everything* it may touch is named.
    pub const fn is_restrictive(self) -> bool {
        match self {
            Effect::Deny | Effect::RequireApproval => true,
            Effect::Allow => false,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a policy takes part in decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Mode {
    /// It does.
    Enforce,
    /// It is only recorded what it would have done.
    Audit,
}

/// The name of one rule of one generation of one policy. Ordered by policy, then rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleId {
    /// Name of the AccessPolicy.
    pub policy: Arc<str>,
    /// Name of the rule in it.
    pub rule: Arc<str>,
    /// `metadata.generation` of the policy that was compiled.
    pub generation: i64,
    /// What the rule does.
    pub effect: Effect,
    /// Whether its policy takes part.
    pub mode: Mode,
    /// The rule's `message`, for the agent and the approver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Arc<str>>,
}

impl fmt::Display for RuleId {
    /// `policy/rule`, as records and causes write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.policy, self.rule)
    }
}

/// How much of a request is recorded. Ordered: the highest of the matching policies wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// Who, what, when, and how it ended.
    #[default]
    Metadata,
    /// Also the request's body.
    Request,
}

/// One rule, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledRule {
    pub(crate) id: Arc<RuleId>,
    pub(crate) matches: Vec<Matcher>,
    pub(crate) exclude: Vec<Matcher>,
}

/// One masking rule, ready to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledMask {
    pub(crate) rule: Arc<MaskRule>,
    pub(crate) matches: Vec<Matcher>,
    /// Whether no author wrote it, but another rule implies it (B26).
    pub(crate) implied: bool,
}

/// One policy that compiled: a shorter word for what its author wrote, never a shorter policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPolicy {
    pub(crate) name: Arc<str>,
    pub(crate) generation: i64,
    pub(crate) mode: Mode,
    pub(crate) rules: Vec<Arc<CompiledRule>>,
    pub(crate) approval: Approval,
    pub(crate) jit: Option<Jit>,
    pub(crate) masks: Vec<Arc<CompiledMask>>,
    pub(crate) level: Level,
}

impl CompiledPolicy {
    /// Name of the AccessPolicy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The compiled generation.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// Whether the policy takes part in decisions.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}
