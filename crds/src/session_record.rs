//! SessionRecord: the index card of one session; the bytes are in object storage.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access_grant::ReviewDecision;
use crate::access_policy::RecordingLevel;
use crate::agent_identity::{SubjectType, TargetType};
use crate::condition::Condition;
use crate::text::{LABEL_PATTERN, SAFE_TEXT_MESSAGE, SAFE_TEXT_RULE, SHA256_PATTERN};

/// spec holds the facts that are fixed when the session starts; it is immutable.
/// Example: {agentRef: {name: claude-code}, level: Request, startTime: "2026-11-20T14:30:02Z"}.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "SessionRecord",
    plural = "sessionrecords",
    namespaced,
    status = "SessionRecordStatus",
    derive = "PartialEq",
    doc = "SessionRecord is the index card of one session: everything that one subject did as one AgentIdentity until it fell silent. The bytes are in object storage.",
    shortname = "srec",
    category = "sallyport",
    selectable = ".spec.agentRef.name",
    selectable = ".spec.target.type",
    selectable = ".spec.subject.type",
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agentRef.name"),
    printcolumn(name = "Started", type_ = "date", json_path = ".spec.startTime"),
    printcolumn(name = "Requests", type_ = "integer", json_path = ".status.requests.total"),
    printcolumn(name = "Denied", type_ = "integer", json_path = ".status.requests.denied"),
    printcolumn(name = "Approved", type_ = "integer", json_path = ".status.requests.approved"),
    printcolumn(name = "Masked", type_ = "integer", json_path = ".status.maskedValues"),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].reason"#
    ),
    printcolumn(
        name = "Recorded",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Recorded")].status"#
    ),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.type", priority = 1),
    printcolumn(name = "Subject", type_ = "string", json_path = ".spec.subject.name", priority = 1),
    printcolumn(name = "URI", type_ = "string", json_path = ".status.recording.uri", priority = 1),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self == oldSelf",
    "message": "the facts of a session are immutable"
}]))]
pub struct SessionRecordSpec {
    /// agentRef names the AgentIdentity and pins its uid. Example: {name: claude-code, uid: 3b0c6a52-8a3e-4a5b-9c54-1f6f2d1f0b11}.
    pub agent_ref: SessionAgentRef,
    /// subject is who authenticated. Example: {name: in-cluster, type: ServiceAccount, id: "system:serviceaccount:agents:claude-code"}.
    pub subject: SessionSubject,
    /// client is where the first request came from; unset where it is not known. Example: {address: 10.0.12.7, userAgent: kubectl/v1.33.1}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SessionClient>,
    /// target is the cluster that requests went to. Example: {type: InCluster, server: "https://10.100.0.1"}.
    pub target: SessionTarget,
    /// username is the user that the target's audit log names. Example: "sallyport:agent:agents:claude-code".
    #[schemars(length(min = 1, max = 512))]
    pub username: String,
    /// level is the recording level at the start: Metadata, Request or RequestResponse. Example: Request.
    pub level: RecordingLevel,
    /// startTime is when the session began, in RFC 3339. Example: "2026-11-20T14:30:02Z".
    pub start_time: Time,
}

/// SessionAgentRef names an AgentIdentity in the same namespace and pins its uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAgentRef {
    /// name is the AgentIdentity's name. Example: claude-code.
    #[schemars(length(min = 1, max = 40), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// uid is the AgentIdentity's uid, so that a later one of the same name is told apart. Example: 3b0c6a52-8a3e-4a5b-9c54-1f6f2d1f0b11.
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
}

/// SessionSubject is who authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionSubject {
    /// name is the subject's name within the AgentIdentity. Example: in-cluster.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// type is the subject's type: ServiceAccount, OIDC or AWSIAMRole. Example: ServiceAccount.
    pub r#type: SubjectType,
    /// id is the authenticated principal. Example: "system:serviceaccount:agents:claude-code".
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    pub id: String,
}

/// SessionClient is where the first request came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionClient {
    /// address is the client's IP address. Default: "". Example: 10.0.12.7.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// userAgent is what the client calls itself; do not trust it. Default: "". Example: kubectl/v1.33.1.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
}

/// SessionTarget is the cluster that requests went to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionTarget {
    /// type is the target's type: InCluster, EKS or Static. Example: InCluster.
    pub r#type: TargetType,
    /// server is the API server's URL, of an EKS cluster its ARN. Example: "https://10.100.0.1".
    #[schemars(length(min = 1, max = 2048))]
    pub server: String,
}

/// status is small and bounded; each proxy owns its entry of replicas.
/// Example: {requests: {total: 41, denied: 1}, maskedValues: 17}.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecordStatus {
    /// observedGeneration is the metadata.generation that this status belongs to. Example: 1.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// lastActivityTime is when the last request came, in RFC 3339. Example: "2026-11-20T14:33:40Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Time>,
    /// endTime is when the session ended, in RFC 3339; unset while it is active. Example: "2026-11-20T14:48:40Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// requests counts the requests by what became of them. Example: {total: 41, allowed: 38, denied: 1, approved: 1, pending: 1}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// streams counts exec, attach and port-forward streams. Example: 1.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<i64>,
    /// maskedValues counts the values that were masked. Example: 17.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked_values: Option<i64>,
    /// grants are the first 32 grants that were decided in this session.
    /// Example: [{name: claude-code-7f3kq, decision: Approved, reviewer: alice@example.com}].
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<SessionGrant>,
    /// highlights are the first 32 writes and refusals. Example: [{id: 01JD9Z6T3E4, requestTime: "2026-11-20T14:31:02Z",
    /// decision: PolicyDenied, summary: delete namespaces/payments, rule: sallyport-baseline/no-namespace-delete}].
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub highlights: Vec<Highlight>,
    /// truncated says that grants or highlights had more than 32 entries. Default: false. Example: true.
    #[serde(default)]
    pub truncated: bool,
    /// recording says where the bytes are. Example: {uri: "s3://acme-sallyport/agents/claude-code/", segments: 3}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingLocation>,
    /// replicas are the proxies that served the session, at most 64, each with a hash chain of its own.
    /// Example: [{name: sallyport-proxy-7d9f, requests: {total: 20}, recording: {segments: 2}}].
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<ReplicaRecord>,
    /// conditions are Active and Recorded. Example: [{type: Active, status: "False", reason: IdleTimeout}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// RequestCounts counts requests by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestCounts {
    /// total counts all requests. Default: 0. Example: 41.
    #[schemars(range(min = 0))]
    pub total: i64,
    /// allowed counts the requests that a rule allowed. Default: 0. Example: 38.
    #[schemars(range(min = 0))]
    pub allowed: i64,
    /// denied counts the requests that were refused. Default: 0. Example: 1.
    #[schemars(range(min = 0))]
    pub denied: i64,
    /// approved counts the requests that ran after an approval. Default: 0. Example: 1.
    #[schemars(range(min = 0))]
    pub approved: i64,
    /// pending counts the answers that told the agent to wait for a human. Default: 0. Example: 1.
    #[schemars(range(min = 0))]
    pub pending: i64,
    /// dryRun counts the server-side dry runs. Default: 0. Example: 2.
    #[schemars(range(min = 0))]
    pub dry_run: i64,
}

/// SessionGrant is a grant that was decided in the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionGrant {
    /// name is the AccessGrant's name. Example: claude-code-7f3kq.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// decision is Approved, Denied or Revoked; unset while undecided. Example: Approved.
    // `with`: the rewriter of optional enumerations would lose this description.
    #[schemars(with = "ReviewDecision")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<ReviewDecision>,
    /// reviewer is who decided; unset for a window that opened by itself. Example: alice@example.com.
    #[schemars(length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewer: Option<String>,
}

/// Highlight is one write or refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Highlight {
    /// id is the request's id, as in the agent's error message and in the target's audit log. Example: 01JD9Z6T3E4.
    #[schemars(length(min = 1, max = 64))]
    pub id: String,
    /// requestTime is when the request came, in RFC 3339. Example: "2026-11-20T14:31:02Z".
    pub request_time: Time,
    /// decision is the decision or the reason of the refusal. Example: PolicyDenied.
    #[schemars(length(min = 1, max = 64))]
    pub decision: String,
    /// summary is the request in one line. Example: delete namespaces/payments.
    #[schemars(length(max = 1024))]
    pub summary: String,
    /// rule is policy and rule that decided. Default: none. Example: sallyport-baseline/no-namespace-delete.
    #[schemars(length(max = 320))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// grant is the AccessGrant that the request ran under or waits for. Default: none. Example: claude-code-7f3kq.
    #[schemars(length(max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

/// RecordingLocation says where the bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordingLocation {
    /// uri is the folder of the recording in object storage. Example: "s3://acme-sallyport/agents/claude-code-20261120-9k2d/".
    #[schemars(length(max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// sizeBytes is the size in bytes of what was uploaded. Default: 0. Example: 184220.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub size_bytes: i64,
    /// segments is the number of segments that were uploaded. Default: 0. Example: 3.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub segments: i64,
    /// rootHash is the head of the hash chain over the segments; `kubectl sallyport verify` computes it again.
    /// Example: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_hash: Option<String>,
}

/// ReplicaRecord is what one proxy served of the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaRecord {
    /// name is the proxy's replica id. Example: sallyport-proxy-7d9f.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// requests counts this replica's requests. Default: all 0. Example: {total: 20, allowed: 20}.
    #[serde(default)]
    pub requests: RequestCounts,
    /// streams counts this replica's streams. Default: 0. Example: 1.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub streams: i64,
    /// maskedValues counts the values that this replica masked. Default: 0. Example: 17.
    #[schemars(range(min = 0))]
    #[serde(default)]
    pub masked_values: i64,
    /// lastActivityTime is when this replica served its last request, in RFC 3339. Example: "2026-11-20T14:33:40Z".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Time>,
    /// recording is this replica's own hash chain. Example: {sizeBytes: 184220, segments: 2}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingLocation>,
    /// closed says that this replica's chain has its final seal. Default: false. Example: true.
    #[serde(default)]
    pub closed: bool,
    /// uploadError says why this replica's segments do not reach the store at the moment; unset while they do.
    /// Example: "the bucket does not answer".
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_error: Option<String>,
}
