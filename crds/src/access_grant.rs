//! AccessGrant: one time-boxed permission, a window or the approval of a single request.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agent_identity::SubjectType;
use crate::condition::Condition;
use crate::selector::RequestMatch;
use crate::text::{
    LABEL_PATTERN, SAFE_TEXT_MESSAGE, SAFE_TEXT_RULE, SAFE_TEXTS_RULE, SHA256_PATTERN, UNION_MESSAGE,
};

/// The reviewer of a review that no webhook has stamped yet; it never counts.
pub const UNAUTHENTICATED_REVIEWER: &str = "unauthenticated";

/// spec is what is asked for and what reviewers said; only reviews may change after creation.
/// Example: {agentRef: {name: claude-code}, type: Window, reason: "Roll back checkout, INC-4312", window: {durationSeconds: 1800}}.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AccessGrant",
    plural = "accessgrants",
    namespaced,
    status = "AccessGrantStatus",
    derive = "PartialEq",
    doc = "AccessGrant is one time-boxed permission: a Window that an agent asked for, or the approval of a SingleRequest that the proxy holds. Humans patch spec.reviews.",
    shortname = "agrant",
    category = "sallyport",
    selectable = ".spec.agentRef.name",
    selectable = ".spec.type",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agentRef.name"),
    printcolumn(name = "Request", type_ = "string", json_path = ".status.summary"),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].reason"#
    ),
    printcolumn(name = "Reviewer", type_ = "string", json_path = ".spec.reviews[0].reviewer"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expirationTime"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Session",
        type_ = "string",
        json_path = r".metadata.labels.sallyport\.dev/session",
        priority = 1
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(self.type == 'Window') == has(self.window) && (self.type == 'SingleRequest') == has(self.request)",
        "message": UNION_MESSAGE
    },
    {
        "rule": "self.agentRef == oldSelf.agentRef && self.type == oldSelf.type && self.reason == oldSelf.reason && has(self.window) == has(oldSelf.window) && (!has(self.window) || self.window == oldSelf.window) && has(self.request) == has(oldSelf.request) && (!has(self.request) || self.request == oldSelf.request) && has(self.requestedBy) == has(oldSelf.requestedBy) && (!has(self.requestedBy) || self.requestedBy == oldSelf.requestedBy)",
        "message": "only `reviews` may change after creation; what is approved is what was asked"
    },
    {
        "rule": "self.type != 'Window' || size(self.reason) > 0",
        "message": "`reason` must be set when `type` is 'Window'"
    },
    {
        "rule": "!has(oldSelf.reviews) || oldSelf.reviews.all(o, has(self.reviews) && self.reviews.exists(n, n == o))",
        "message": "a review may not be changed or removed; add a new one"
    },
    {
        "rule": "!has(self.reviews) || !self.reviews.exists(r, r.decision == 'Revoked') || self.reviews.exists(r, r.decision == 'Approved')",
        "message": "only an approved grant can be revoked; use 'Denied'"
    },
    {
        "rule": "!has(self.reviews) || self.reviews.all(r, !has(r.durationSeconds) || (has(self.window) && r.durationSeconds <= self.window.durationSeconds))",
        "message": "a reviewer may shorten a window but not lengthen it"
    }
]))]
pub struct AccessGrantSpec {
    /// agentRef names the AgentIdentity in this namespace that the grant is for. Immutable. Example: {name: claude-code}.
    pub agent_ref: AgentRef,
    /// type names the member that is set: Window or SingleRequest. Immutable. Example: Window.
    pub r#type: GrantType,
    /// reason says in one sentence what for and why; the agent wrote it, so do not trust it. Required with a Window, at
    /// most 512 characters. Immutable. Default: "". Example: "Roll back checkout to 2.3.0, INC-4312".
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default)]
    pub reason: String,
    /// requestedBy says who asked; stamped from the authenticated request and immutable.
    /// Example: {username: "sallyport:agent:agents:claude-code", subject: {name: in-cluster, type: ServiceAccount}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<RequestedBy>,
    /// window is set when type is Window. Immutable. Example: {durationSeconds: 1800}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// request is set when type is SingleRequest: exactly what will run. Immutable.
    /// Example: {verb: delete, apiGroup: apps, apiVersion: v1, resource: deployments, namespace: payments, name: web}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<GrantRequest>,
    /// reviews are what humans decided, at most 16; a review is added by a patch and never changed or removed.
    /// Default: none. Example: [{decision: Approved}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["reviewer", "decision"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviews: Vec<Review>,
}

/// AgentRef names an AgentIdentity in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentRef {
    /// name is the AgentIdentity's name. Example: claude-code.
    #[schemars(length(min = 1, max = 40), regex(pattern = LABEL_PATTERN))]
    pub name: String,
}

/// GrantType names the member of a grant that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GrantType {
    /// A stretch of time in which rules are live.
    Window,
    /// One request, once.
    SingleRequest,
}

/// RequestedBy says who asked for the grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestedBy {
    /// username is the user who asked; an agent's is derived from its identity. Example: "sallyport:agent:agents:claude-code".
    #[schemars(length(min = 1, max = 512))]
    pub username: String,
    /// subject is the subject of the AgentIdentity that asked; unset when a human asked at the API server.
    /// Example: {name: in-cluster, type: ServiceAccount}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectRef>,
}

/// SubjectRef names one subject of an AgentIdentity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectRef {
    /// name is the subject's name within the AgentIdentity. Example: in-cluster.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// type is the subject's type: ServiceAccount, OIDC or AWSIAMRole. Example: ServiceAccount.
    pub r#type: SubjectType,
}

/// Window is a stretch of time that an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.approvalMode) || self.approvalMode != 'PreApproved' || (has(self.rules) && size(self.rules) > 0 && self.rules.all(r, has(r.resources) && has(r.apiGroups) && has(r.namespaces) && (r.verbs + r.resources + r.apiGroups + r.namespaces).all(x, !x.contains('*'))))",
    "message": "'PreApproved' needs `rules` that name verbs, apiGroups, resources and namespaces without '*'"
}]))]
pub struct Window {
    /// durationSeconds is the window's length in seconds, from approval or from startTime; 60 to 86400, and at most the
    /// policy's jit.maxWindowSeconds. Example: 1800.
    #[schemars(range(min = 60, max = 86400))]
    pub duration_seconds: i32,
    /// startTime is when a planned window opens, in RFC 3339. Default: at approval. Example: "2026-11-21T02:00:00Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// rules narrow what the window opens, at most 16 entries. Default: everything that the policies offer.
    /// Example: [{namespaces: [payments], apiGroups: [apps], resources: [deployments], resourceNames: [checkout], verbs: [patch]}].
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RequestMatch>,
    /// approvalMode is PerRequest when RequireApproval rules still ask each time, or PreApproved when requests that match
    /// rules need no further approval inside the window. Default: PerRequest. Example: PreApproved.
    #[serde(default)]
    pub approval_mode: ApprovalMode,
}

/// ApprovalMode says whether RequireApproval rules ask inside a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalMode {
    /// They ask each time.
    #[default]
    PerRequest,
    /// What the window's rules name was approved with the window.
    PreApproved,
}

/// GrantRequest is exactly what will run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.resource) != has(self.path) && has(self.resource) == has(self.apiVersion)",
    "message": "set either `apiVersion`+`resource` or `path`"
}]))]
pub struct GrantRequest {
    /// verb is the Kubernetes request verb. Example: delete.
    #[schemars(length(min = 1, max = 32))]
    pub verb: String,
    /// apiGroup is the API group; "" is the core group. Default: "". Example: apps.
    #[schemars(length(max = 253))]
    #[serde(default)]
    pub api_group: String,
    /// apiVersion is the version within the group; unset for a path. Example: v1.
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// resource is the plural resource name; unset for a path. Example: deployments.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// subresource is the part after the name. Default: none. Example: scale.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
    /// path is the path of a request that is not about a resource. Default: none. Example: /metrics.
    #[schemars(length(min = 1, max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// namespace is the namespace; unset in the cluster scope. Example: payments.
    #[schemars(length(min = 1, max = 63))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// name is the object's name; unset for a collection and with generateName. Example: web.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// generateName is the prefix of the name that the server makes up; unset where the object has a name of its own. One approval covers
    /// one creation. Example: job-.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// uid is the uid of the object that was looked at; unset where there is none yet. Execution demands the same. Example: 0f6d2f0e-6f0a-4c1e-9f60-7f0d5f1f9a11.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// query is the request's query in canonical form, with dryRun if there is one. Default: none. Example: "propagationPolicy=Background".
    #[schemars(length(min = 1, max = 4096), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// contentType is the media type of the body, which says how a patch is read. Default: none.
    /// Example: application/merge-patch+json.
    #[schemars(length(min = 1, max = 128), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// bodyDigest is the SHA-256 of the body in canonical form; unset without a body.
    /// Example: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<String>,
    /// objectHash is a keyed SHA-256 of the object that was looked at, without status, managedFields, resourceVersion and
    /// generation; unset where there is none yet. A changed object voids the approval.
    /// Example: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_hash: Option<String>,
    /// fingerprint is the SHA-256 over everything that makes two commands the same command.
    /// Example: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    pub fingerprint: String,
    /// command is the argument list of an exec, at most 128 entries. Default: none. Example: [ls, -l].
    #[schemars(
        length(max = 128),
        inner(length(max = 4096)),
        extend("x-kubernetes-list-type" = "atomic"),
        extend("x-kubernetes-validations" = [{"rule": SAFE_TEXTS_RULE, "message": SAFE_TEXT_MESSAGE}])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// userAgent is what the client calls itself; do not trust it. Default: none. Example: kubectl/v1.33.1.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// Review is what one human decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// reviewer is the authenticated user who reviewed; stamped, it cannot be chosen. "unauthenticated" until it is
    /// stamped, and then it never counts. Default: unauthenticated. Example: alice@example.com.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default = "unauthenticated")]
    pub reviewer: String,
    /// decision is Approved, Denied or Revoked. Example: Approved.
    pub decision: ReviewDecision,
    /// note is shown to the agent in quotes; at most 512 characters. Default: none. Example: "ok, canary looks fine".
    #[schemars(length(max = 512), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// durationSeconds shortens the window, in seconds, 60 to 86400; only with a Window. Default: as asked. Example: 900.
    #[schemars(range(min = 60, max = 86400))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<i32>,
    /// groups are those of the reviewer's groups that the policies' approvers name; stamped, they cannot be chosen.
    /// Default: none. Example: [payments-oncall].
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// reviewTime is when the review was made, in RFC 3339; stamped. Example: "2026-11-20T14:32:10Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_time: Option<Time>,
}

fn unauthenticated() -> String {
    UNAUTHENTICATED_REVIEWER.to_owned()
}

/// ReviewDecision is what a reviewer decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReviewDecision {
    /// It may run.
    Approved,
    /// It may not run.
    Denied,
    /// It may no longer run.
    Revoked,
}

/// status is what operator and proxy made of the reviews; decisions are taken from spec.reviews, never from here.
/// Example: {summary: delete deployments.apps/web -n payments, expirationTime: "2026-11-20T15:31:40Z"}.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessGrantStatus {
    /// observedGeneration is the metadata.generation that this status belongs to. Example: 2.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// summary is the request in one line. Example: "delete deployments.apps/web -n payments".
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// policies are those that must be satisfied, and how far each is.
    /// Example: [{name: payments-agents, generation: 5, rules: [ask-before-change], minApprovals: 1, approvals: 1}].
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<GrantPolicy>,
    /// preview is what the target's own dry run says would happen, masked, at most 8 KiB.
    /// Example: {format: UnifiedDiff, text: "- deployment.apps/web (3 replicas)"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// reviewDeadlineTime is when an undecided grant expires, in RFC 3339. Example: "2026-11-20T15:31:40Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_deadline_time: Option<Time>,
    /// useDeadlineTime is when an approved and unused grant expires, in RFC 3339. Example: "2026-11-20T14:42:10Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_deadline_time: Option<Time>,
    /// windowStartTime is when the window opened or opens, in RFC 3339. Example: "2026-11-20T14:32:10Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start_time: Option<Time>,
    /// expirationTime is whichever deadline applies now, for a window its end, in RFC 3339. Example: "2026-11-20T14:42:10Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// uses counts the requests that ran under this grant. Example: 1.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<i64>,
    /// consumedBy is the id of the one request that used this grant up; written before the request is forwarded.
    /// Example: 01JD9Z8QH7V3M5T8W2K4N6P9RX.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed_by: Option<String>,
    /// consumedTime is when the grant was used up, in RFC 3339. Example: "2026-11-20T14:32:15Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed_time: Option<Time>,
    /// conditions are Approved, Decided and Active. Example: [{type: Decided, status: "True", reason: Approved}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// GrantPolicy is one policy that must be satisfied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantPolicy {
    /// name is the AccessPolicy's name. Example: payments-agents.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// generation is the policy's metadata.generation at the time of asking. Example: 5.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// rules are the names of the rules that ask. Example: [ask-before-change].
    #[schemars(length(max = 128), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// minApprovals is the number of approvals that the policy needs. Example: 1.
    #[schemars(range(min = 0, max = 5))]
    pub min_approvals: i32,
    /// approvals is the number of approvals that count for the policy. Default: 0. Example: 1.
    #[schemars(range(min = 0, max = 16))]
    #[serde(default)]
    pub approvals: i32,
}

/// Preview is what would happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// format is UnifiedDiff, or Text. Example: UnifiedDiff.
    pub format: PreviewFormat,
    /// text is the preview itself, masked and escaped, at most 8192 characters. Example: "- deployment.apps/web (3 replicas)".
    #[schemars(length(max = 8192))]
    pub text: String,
}

/// PreviewFormat says how to read a preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PreviewFormat {
    /// Lines that begin with `-`, `+` or a blank.
    UnifiedDiff,
    /// A sentence, for instance that the effect cannot be previewed.
    Text,
}
