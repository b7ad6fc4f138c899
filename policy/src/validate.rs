//! What is wrong with a manifest that the schema lets through, or uses what is not built yet.

use std::fmt;

use crds::AgentIdentitySpec;
use crds::access_grant::{ApprovalMode, Window};
use crds::access_policy::{
    AccessPolicySpec, FailurePolicy, Mask, MaskType, Recording, RecordingLevel, RecordingStreams, Replacement,
};
use crds::agent_identity::{SubjectType, TargetType};
use crds::selector::RequestMatch;

use crate::compile;
use crate::matcher::Matcher;

/// The reason of condition `Accepted` that an issue gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IssueReason {
    /// A word that can never match, or does not parse.
    InvalidPattern,
    /// In the schema, not yet in the program (ruling on fields whose feature is not built).
    NotSupportedYet,
}

impl IssueReason {
    /// The reason token.
    pub const fn as_str(self) -> &'static str {
        match self {
            IssueReason::InvalidPattern => "InvalidPattern",
            IssueReason::NotSupportedYet => "NotSupportedYet",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The field, such as `spec.rules[2].match[0].verbs[1]`.
    pub path: String,
    /// What kind of thing it is.
    pub reason: IssueReason,
    /// What to do about it.
    pub message: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong; never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issues(Vec<Issue>);

impl Issues {
    /// The issues in the order of the fields.
    pub fn all(&self) -> &[Issue] {
        &self.0
    }

    /// The reason for condition `Accepted`: what is wrong comes before what is not built.
    pub fn reason(&self) -> IssueReason {
        self.0.iter().map(|issue| issue.reason).min().unwrap_or(IssueReason::NotSupportedYet)
    }

    pub(crate) fn invalid(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Issue {
            path: path.into(),
            reason: IssueReason::InvalidPattern,
            message: message.into(),
        });
    }

    pub(crate) fn unsupported(&mut self, path: impl Into<String>, what: &str) {
        self.0.push(Issue {
            path: path.into(),
            reason: IssueReason::NotSupportedYet,
            message: format!("{what} is not supported yet"),
        });
    }

    pub(crate) fn into_result(self) -> Result<(), Issues> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Issues {
    /// The issues, joined by `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            issue.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

/// Whether a policy compiles.
///
/// # Errors
/// Every issue, each with its field path.
pub fn policy(spec: &AccessPolicySpec) -> Result<(), Issues> {
    compile::policy("", 0, spec).map(|_| ())
}

/// Whether an identity uses only what is built: ServiceAccount subjects and the gate's own cluster.
///
/// # Errors
/// Every issue, each with its field path.
pub fn identity(spec: &AgentIdentitySpec) -> Result<(), Issues> {
    let mut issues = Issues::default();
    for (at, subject) in spec.subjects.iter().enumerate() {
        let path = format!("spec.subjects[{at}]");
        match subject.r#type {
            SubjectType::ServiceAccount if subject.service_account.is_none() => {
                issues
                    .invalid(format!("{path}.serviceAccount"), "must be set when `type` is 'ServiceAccount'");
            }
            SubjectType::ServiceAccount => {}
            SubjectType::Oidc => issues.unsupported(format!("{path}.type"), "subject type `OIDC`"),
            SubjectType::AwsIamRole => {
                issues.unsupported(format!("{path}.type"), "subject type `AWSIAMRole`")
            }
        }
    }
    match spec.target.r#type {
        TargetType::InCluster => {}
        TargetType::Eks => issues.unsupported("spec.target.type", "target type `EKS`"),
        TargetType::Static => issues.unsupported("spec.target.type", "target type `Static`"),
    }
    for (at, group) in spec.target.in_cluster.iter().flat_map(|target| &target.groups).enumerate() {
        if !group.starts_with("sallyport:") {
            issues.invalid(format!("spec.target.inCluster.groups[{at}]"), "must start with 'sallyport:'");
        }
    }
    issues.into_result()
}

/// What a window opens: `None` is everything that the policies offer.
///
/// # Errors
/// Every issue, each with its field path: a mode that is not built, a rule that does not compile.
pub fn window(window: &Window) -> Result<Option<Vec<Matcher>>, Issues> {
    let mut issues = Issues::default();
    match window.approval_mode {
        ApprovalMode::PerRequest => {}
        ApprovalMode::PreApproved => issues.unsupported("spec.window.approvalMode", "`PreApproved`"),
    }
    let rules = compile::entries(&window.rules, "spec.window.rules", &mut issues);
    issues.into_result()?;
    Ok(if window.rules.is_empty() { None } else { Some(rules) })
}

pub(crate) fn recording(recording: &Recording, issues: &mut Issues) {
    match recording.level {
        RecordingLevel::Metadata | RecordingLevel::Request => {}
        RecordingLevel::RequestResponse => {
            issues.unsupported("spec.recording.level", "level `RequestResponse`")
        }
    }
    match recording.streams {
        RecordingStreams::Full => {}
        RecordingStreams::Input => issues.unsupported("spec.recording.streams", "`Input`"),
        RecordingStreams::None => issues.unsupported("spec.recording.streams", "`None`"),
    }
    match recording.failure_policy {
        FailurePolicy::Fail => {}
        FailurePolicy::Ignore => issues.unsupported("spec.recording.failurePolicy", "`Ignore`"),
    }
}

pub(crate) fn mask(mask: &Mask, path: &str, issues: &mut Issues) {
    match mask.r#type {
        MaskType::Fields if mask.fields.is_none() => {
            issues.invalid(format!("{path}.fields"), "must be set when `type` is 'Fields'");
        }
        MaskType::Fields => {}
        MaskType::Patterns => issues.unsupported(format!("{path}.type"), "masking type `Patterns`"),
        MaskType::KnownSecrets => issues.unsupported(format!("{path}.type"), "masking type `KnownSecrets`"),
    }
    match mask.replacement {
        Replacement::Placeholder => {}
        Replacement::Hash => issues.unsupported(format!("{path}.replacement"), "`Hash`"),
    }
}

pub(crate) fn entry(entry: &RequestMatch, path: &str, issues: &mut Issues) {
    if entry.namespace_selector.is_some() {
        issues.unsupported(format!("{path}.namespaceSelector"), "`namespaceSelector`");
    }
    if entry.resources.is_some() == entry.non_resource_urls.is_some() {
        issues.invalid(path, "exactly one of `resources` and `nonResourceURLs` must be set");
    }
    if entry.resources.is_some() && entry.api_groups.is_none() {
        issues.invalid(path, "`apiGroups` must be set when `resources` is set (use \"\" for the core group)");
    }
    let narrowed = entry.api_groups.is_some() || entry.namespaces.is_some() || entry.resource_names.is_some();
    if entry.non_resource_urls.is_some() && narrowed {
        issues.invalid(path, "only `verbs` may be combined with `nonResourceURLs`");
    }
    let lists = [
        ("namespaces", entry.namespaces.as_ref()),
        ("apiGroups", entry.api_groups.as_ref()),
        ("resources", entry.resources.as_ref()),
        ("resourceNames", entry.resource_names.as_ref()),
        ("nonResourceURLs", entry.non_resource_urls.as_ref()),
        ("verbs", Some(&entry.verbs)),
    ];
    for (field, list) in lists {
        if list.is_some_and(|list| list.is_empty()) {
            issues.invalid(format!("{path}.{field}"), "must name at least one");
        }
    }
}
