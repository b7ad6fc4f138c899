//! A condition: one observation about an object, as `metav1.Condition` has it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::REASON_PATTERN;

/// Condition is one observation about the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// type is the name of the condition in CamelCase. Example: Ready.
    #[schemars(length(min = 1, max = 316))]
    pub r#type: String,
    /// status says whether the condition holds: True, False or Unknown. Example: "True".
    pub status: ConditionStatus,
    /// observedGeneration is the metadata.generation that the condition was set for. Default: 0. Example: 3.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// lastTransitionTime is when the status last changed, in RFC 3339. Example: "2026-11-20T14:00:00Z".
    pub last_transition_time: Time,
    /// reason is one CamelCase word for why the status is what it is. Example: NotAccepted.
    #[schemars(length(min = 1, max = 1024), regex(pattern = REASON_PATTERN))]
    pub reason: String,
    /// message is a sentence for people; it may be empty. Example: "2/2 proxies at revision 41".
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// ConditionStatus is True, False or Unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It is not known.
    Unknown,
}
