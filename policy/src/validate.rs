//! What is wrong with a manifest that the schema lets through, or uses what is not built yet.

use crds::AccessPolicySpec;
use crds::AgentIdentitySpec;
use crds::access_grant::{ApprovalMode, Window};
use crds::agent_identity::{StaticTarget, SubjectType, TargetType};

use crate::compile;
use crate::matcher::Matcher;
use crate::oidc;

pub use crate::issues::{Issue, IssueReason, Issues};

/// Whether a policy compiles.
///
/// # Errors
/// Every issue, each with its field path.
pub fn policy(spec: &AccessPolicySpec) -> Result<(), Issues> {
    compile::policy("", 0, spec).map(|_| ())
}

/// Whether an identity uses only what is built, and its expressions compile.
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
            SubjectType::Oidc => match &subject.oidc {
                Some(oidc) => oidc::validate(&format!("{path}.oidc"), oidc, &mut issues),
                None => issues.invalid(format!("{path}.oidc"), "must be set when `type` is 'OIDC'"),
            },
            SubjectType::AwsIamRole => {
                let role = subject.aws_iam_role.as_ref();
                if role.and_then(|role| crate::aws::role(&role.arn)).is_none() {
                    issues.invalid(format!("{path}.awsIAMRole.arn"), "must be the ARN of an IAM role");
                }
            }
        }
    }
    match spec.target.r#type {
        TargetType::InCluster => {}
        TargetType::Eks if spec.target.eks.is_none() => {
            issues.invalid("spec.target.eks", "must be set when `type` is 'EKS'");
        }
        TargetType::Eks => {}
        TargetType::Static => check_static(spec.target.r#static.as_ref(), &mut issues),
    }
    for (at, group) in spec.target.in_cluster.iter().flat_map(|target| &target.groups).enumerate() {
        if !group.starts_with("sallyport:") {
            issues.invalid(format!("spec.target.inCluster.groups[{at}]"), "must start with 'sallyport:'");
        }
    }
    issues.into_result()
}

fn check_static(target: Option<&StaticTarget>, issues: &mut Issues) {
    let Some(target) = target else {
        issues.invalid("spec.target.static", "must be set when `type` is 'Static'");
        return;
    };
    let rest = target.server.strip_prefix("https://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    let is_plain = target.server.chars().all(|c| c.is_ascii_graphic() && !"@?#\\".contains(c));
    if host.is_empty() || host.starts_with(':') || !is_plain {
        let what = "must be an https URL of a host, without user, query or fragment";
        issues.invalid("spec.target.static.server", what);
    }
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
