//! Who may review a grant, and for which policy a review counts.

use std::collections::HashSet;

use crds::access_grant::UNAUTHENTICATED_REVIEWER;
use crds::names;

use crate::aws;
use crate::subject::{SERVICE_ACCOUNT_PREFIX, Subject};
use crate::terms::{Approver, PolicyTerms, Terms};

/// Why a user may not review a grant (ruling on who may approve, D07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No user, anonymous, or a review that no webhook stamped.
    #[error("an unauthenticated user may not review")]
    Unauthenticated,
    /// An agent, by its impersonated user or by a subject of any AgentIdentity.
    #[error("an agent may not review")]
    Agent,
    /// Whoever asked for the grant.
    #[error("the requester may not review their own request")]
    Requester,
    /// The proxy.
    #[error("the proxy may not review")]
    Proxy,
    /// The operator.
    #[error("the operator may not review")]
    Operator,
    /// A node.
    #[error("a node may not review")]
    Node,
    /// In the `approvers` of no policy that asks for this approval; a ServiceAccount must be named there.
    #[error("the policies that ask for this approval do not name you in `approvers`")]
    NotAnApprover,
}

/// The users who may review nothing. Both operator and proxy build one from the identities they know.
#[derive(Clone, Debug, Default)]
pub struct Outsiders {
    proxy: String,
    operator: String,
    agents: HashSet<String>,
}

impl Outsiders {
    /// From the system namespace and every subject of every AgentIdentity ([`crate::bundle::Bundle::subjects`]).
    pub fn new<'a>(system_namespace: &str, subjects: impl IntoIterator<Item = &'a Subject>) -> Outsiders {
        let account = |name: &str| format!("{SERVICE_ACCOUNT_PREFIX}{system_namespace}:{name}");
        Outsiders {
            proxy: account(names::PROXY_SERVICE_ACCOUNT),
            operator: account(names::OPERATOR_SERVICE_ACCOUNT),
            agents: subjects.into_iter().map(Subject::username).collect(),
        }
    }

    /// Whether a user is outside every review of a grant that `requester` asked for.
    ///
    /// # Errors
    /// [`Unfit`]: which separation the user breaks.
    pub fn check(&self, reviewer: &str, requester: Option<&str>) -> Result<(), Unfit> {
        if matches!(reviewer, "" | UNAUTHENTICATED_REVIEWER | "system:anonymous") {
            return Err(Unfit::Unauthenticated);
        }
        if reviewer == self.proxy {
            return Err(Unfit::Proxy);
        }
        if reviewer == self.operator {
            return Err(Unfit::Operator);
        }
        // EKS names a role so where nobody chose another name (D09).
        let role = aws::assumed_role(reviewer).map(|session| session.role).or_else(|| aws::role(reviewer));
        let is_agent = |name: &str| self.agents.contains(name);
        if reviewer.starts_with("sallyport:")
            || is_agent(reviewer)
            || role.is_some_and(|role| is_agent(&role))
        {
            return Err(Unfit::Agent);
        }
        if requester == Some(reviewer) {
            return Err(Unfit::Requester);
        }
        if reviewer.starts_with("system:node:") {
            return Err(Unfit::Node);
        }
        Ok(())
    }

    /// The check of a new review at admission, beside RBAC verb `approve`: separation, and that some policy's
    /// `approvers` let the author in. Returns those of the author's groups that the review must be stamped with.
    ///
    /// # Errors
    /// [`Unfit`], to be shown to the author.
    pub fn admit(
        &self,
        author: &str,
        groups: &[String],
        requester: Option<&str>,
        terms: &Terms,
    ) -> Result<Vec<String>, Unfit> {
        self.check(author, requester)?;
        if !terms.policies.iter().any(|policy| counts_for(policy, author, groups)) {
            return Err(Unfit::NotAnApprover);
        }
        let named: HashSet<&str> = terms.group_names().collect();
        let mut stamp: Vec<String> =
            groups.iter().filter(|group| named.contains(group.as_str())).cloned().collect();
        stamp.sort();
        stamp.dedup();
        Ok(stamp)
    }
}

/// Whether a review of this user counts towards the policy's quorum.
pub(crate) fn counts_for(policy: &PolicyTerms, reviewer: &str, groups: &[String]) -> bool {
    if reviewer.starts_with(SERVICE_ACCOUNT_PREFIX) {
        return policy.approvers.iter().any(|approver| match approver {
            Approver::ServiceAccount { namespace, name } => {
                reviewer.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|rest| rest.split_once(':'))
                    == Some((namespace, name))
            }
            Approver::User(_) | Approver::Group(_) => false,
        });
    }
    policy.approvers.is_empty()
        || policy.approvers.iter().any(|approver| match approver {
            Approver::User(name) => name == reviewer,
            Approver::Group(name) => groups.contains(name),
            Approver::ServiceAccount { .. } => false,
        })
}
