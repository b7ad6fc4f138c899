//! Who proved what: the authenticated subject that a bundle looks up.

use crds::agent_identity::{Subject as Declared, SubjectType};

/// An authenticated subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A Kubernetes ServiceAccount, proven by a token with audience `sallyport`.
    ServiceAccount {
        /// Namespace of the ServiceAccount.
        namespace: String,
        /// Name of the ServiceAccount.
        name: String,
    },
    /// Whom an OpenID Connect issuer vouches for. Which agent it is, the claims of its token decide ([`crate::oidc`]).
    Oidc {
        /// Claim `iss`.
        issuer: String,
        /// Claim `sub`.
        sub: String,
    },
    /// An AWS IAM role, proven by a presigned GetCallerIdentity that STS answers.
    AwsIamRole {
        /// The role in the one form of [`crate::aws::role`].
        arn: String,
    },
}

/// Prefix of every ServiceAccount's user name.
pub(crate) const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

impl Subject {
    /// The one subject that an entry of `AgentIdentity.spec.subjects` names; `None` where it describes several, or none.
    pub fn named_by(entry: &Declared) -> Option<Subject> {
        if let Some(role) = &entry.aws_iam_role {
            return crate::aws::role(&role.arn).map(|arn| Subject::AwsIamRole { arn });
        }
        let account = entry.service_account.as_ref()?;
        Some(Subject::ServiceAccount { namespace: account.namespace.clone(), name: account.name.clone() })
    }

    /// Reads `system:serviceaccount:<namespace>:<name>`; `None` for every other user name.
    pub fn from_username(username: &str) -> Option<Subject> {
        let (namespace, name) = username.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
        if namespace.is_empty() || name.is_empty() || name.contains(':') {
            return None;
        }
        Some(Subject::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The user name that kube-apiserver gives this subject (an OIDC one by its default prefix, the issuer and `#`).
    pub fn username(&self) -> String {
        match self {
            Subject::ServiceAccount { namespace, name } => {
                format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
            }
            Subject::Oidc { issuer, sub } => format!("{issuer}#{sub}"),
            Subject::AwsIamRole { arn } => arn.clone(),
        }
    }

    /// The type of the entry that names it.
    pub fn subject_type(&self) -> SubjectType {
        match self {
            Subject::ServiceAccount { .. } => SubjectType::ServiceAccount,
            Subject::Oidc { .. } => SubjectType::Oidc,
            Subject::AwsIamRole { .. } => SubjectType::AwsIamRole,
        }
    }
}
