//! The words: the four kinds of `sallyport.dev/v1alpha1`, as Rust types without behaviour.

#![allow(
    clippy::duplicated_attributes,
    reason = "the lint takes the columns of one kind for each other: their arguments look alike"
)]

pub mod access_grant;
pub mod access_policy;
pub mod agent_identity;
pub mod condition;
pub mod definition;
pub mod names;
pub mod selector;
pub mod session_record;
mod text;

pub use access_grant::{AccessGrant, AccessGrantSpec, AccessGrantStatus};
pub use access_policy::{AccessPolicy, AccessPolicySpec, AccessPolicyStatus};
pub use agent_identity::{AgentIdentity, AgentIdentitySpec, AgentIdentityStatus};
pub use condition::{Condition, ConditionStatus};
pub use session_record::{SessionRecord, SessionRecordSpec, SessionRecordStatus};
