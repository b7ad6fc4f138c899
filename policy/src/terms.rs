//! On which terms a human decides: who, how many, and until when.

use std::sync::Arc;

/// One entry of `approval.approvers`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Approver {
    /// This user.
    User(String),
    /// Everyone in this group.
    Group(String),
    /// This ServiceAccount; the only way in which one may approve (ruling on who may approve).
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// One policy's `approval`, with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Approval {
    pub(crate) approvers: Arc<[Approver]>,
    pub(crate) min_approvals: u32,
    pub(crate) hold_seconds: u32,
    pub(crate) review_deadline_seconds: u32,
    pub(crate) use_deadline_seconds: u32,
    /// `serverDryRun: Allow`.
    pub(crate) dry_run_is_free: bool,
}

/// One policy's `jit` of mode Required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jit {
    pub(crate) max_window_seconds: u32,
    /// `approval: Automatic`: time-boxed without a human.
    pub(crate) automatic: bool,
}

/// What one matched policy asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTerms {
    /// Name of the AccessPolicy.
    pub policy: Arc<str>,
    /// Its compiled generation.
    pub generation: i64,
    /// The rules of it that spoke, sorted; none for a window.
    pub rules: Vec<Arc<str>>,
    /// Distinct people who must approve; 0 where `jit.approval` is Automatic.
    pub min_approvals: u32,
    /// Who may; empty = everyone who holds RBAC verb `approve`.
    pub approvers: Arc<[Approver]>,
}

/// The merged terms of every matched policy: each policy's quorum must hold, the shortest times win. Sorted by
/// policy name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What each policy asks for.
    pub policies: Vec<PolicyTerms>,
    /// How long a request is held open, in seconds.
    pub hold_seconds: u32,
    /// From creation to the last moment of a decision, in seconds.
    pub review_deadline_seconds: u32,
    /// From the approval to the last moment of use, in seconds (SingleRequest).
    pub use_deadline_seconds: u32,
    /// Longest window, in seconds (Window); `None` for a SingleRequest.
    pub max_window_seconds: Option<u32>,
}

impl Terms {
    /// Whether some policy restricts who may approve by group, so that a reviewer's groups matter.
    pub fn names_groups(&self) -> bool {
        self.group_names().next().is_some()
    }

    /// The groups that some policy's approvers name: those of a reviewer's groups that a review must be stamped with.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.policies.iter().flat_map(|policy| policy.approvers.iter()).filter_map(
            |approver| match approver {
                Approver::Group(name) => Some(name.as_str()),
                Approver::User(_) | Approver::ServiceAccount { .. } => None,
            },
        )
    }

    /// Whether no policy asks for a human.
    pub fn is_automatic(&self) -> bool {
        self.policies.iter().all(|policy| policy.min_approvals == 0)
    }

    /// Both: each policy's quorum, the shortest times.
    pub(crate) fn and(mut self, other: Terms) -> Terms {
        self.policies.extend(other.policies);
        self.policies.sort_by(|a, b| a.policy.cmp(&b.policy));
        Terms {
            policies: self.policies,
            hold_seconds: self.hold_seconds.min(other.hold_seconds),
            review_deadline_seconds: self.review_deadline_seconds.min(other.review_deadline_seconds),
            use_deadline_seconds: self.use_deadline_seconds.min(other.use_deadline_seconds),
            max_window_seconds: [self.max_window_seconds, other.max_window_seconds]
                .into_iter()
                .flatten()
                .min(),
        }
    }
}
