//! Words from a decision that was made: refusals, warnings, can-i, access and explain documents. Nothing is evaluated.

mod access;
mod approval;
mod body;
mod can_i;
mod document;
mod grant;
mod instructions;
mod reason;
mod refusal;
mod warning;
mod words;

pub use access::{AccessDocument, AgentWords, EntryWords, OpenWindowWords, RuleWords, WindowWords, access};
pub use approval::{
    GrantWords, approval_denied, approval_expired, approval_pending, approval_void, too_many_pending,
};
pub use body::{
    change_needs_approval, gate_denies, masked_value_in_write, not_supported, stream_denied, tells_masked,
};
pub use can_i::{AccessAnswer, NonResourceRule, ResourceRule, RulesAnswer, can_i, list_rules};
pub use document::{ApprovalWords, ExplainDocument, MaskWords, WouldHaveWords, explain};
pub use grant::{GrantDocument, gone_grant, grant};
pub use instructions::{MOST_INSTRUCTIONS, instructions};
pub use reason::{LATER, Reason};
pub use refusal::{Cause, Refusal, refuse};
pub use warning::{approved, masked, narrowed, target_refused, target_refuses_too, window_closes};
pub use words::{quoted, stamp};
