//! AgentIdentity: who an agent is, and which cluster it reaches.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::text::{
    LABEL_PATTERN, ROLE_ARN_MESSAGE, ROLE_ARN_RULE, SAFE_TEXT_MESSAGE, SAFE_TEXT_RULE, SUBDOMAIN_PATTERN,
    UNION_MESSAGE,
};

// The root's own rule: the derive writes rules only below the root, so `definition` adds this one.
pub(crate) const NAME_RULE: &str =
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";
pub(crate) const NAME_MESSAGE: &str = "the name must be a DNS label of at most 40 characters (it becomes part of labels and of a role session name)";

/// spec says who may authenticate as this agent and which cluster its requests reach.
/// Example: {subjects: [{name: in-cluster, type: ServiceAccount, serviceAccount: {namespace: agents, name: claude-code}}],
/// target: {type: InCluster}}.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AgentIdentity",
    plural = "agentidentities",
    namespaced,
    status = "AgentIdentityStatus",
    derive = "PartialEq",
    doc = "AgentIdentity says who an agent is (its subjects) and which cluster it reaches (its target). Its grants and records live in the same namespace.",
    shortname = "agid",
    category = "sallyport",
    selectable = ".spec.target.type",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.type"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.policyCount"),
    printcolumn(name = "Username", type_ = "string", json_path = ".status.username", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentitySpec {
    /// description is shown to approvers; at most 256 characters, without control characters. Default: "".
    /// Example: "Claude Code, payments on-call automation".
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// suspend is the kill switch: while true every request is refused with AgentSuspended and open streams are cut
    /// within 500 ms. Default: false. Example: true.
    #[serde(default)]
    pub suspend: bool,
    /// subjects are those who may authenticate as this agent, 1 to 16; one subject belongs to one AgentIdentity.
    /// Example: [{name: in-cluster, type: ServiceAccount, serviceAccount: {namespace: agents, name: claude-code}}].
    #[schemars(
        length(min = 1, max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub subjects: Vec<Subject>,
    /// target is the cluster that requests go to; its type and coordinates are immutable. Example: {type: InCluster}.
    pub target: Target,
    /// session says when a session ends. Default: 900 seconds of silence, 28800 seconds in all.
    /// Example: {idleTimeoutSeconds: 600}.
    #[serde(default)]
    pub session: SessionSettings,
    /// limits bound what a runaway agent can do to the gate and to approvers. Default: 50 requests per second, 5 pending
    /// grants, 10 streams. Example: {maxPendingGrants: 2}.
    #[serde(default)]
    pub limits: Limits,
}

/// Subject is one way to authenticate as the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.type == 'ServiceAccount') == has(self.serviceAccount) && (self.type == 'OIDC') == has(self.oidc) && (self.type == 'AWSIAMRole') == has(self.awsIAMRole)",
    "message": UNION_MESSAGE
}]))]
pub struct Subject {
    /// name tells the subjects of one agent apart; it is written into grants and records. Example: in-cluster.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// type names the member that is set: ServiceAccount, OIDC or AWSIAMRole. Example: ServiceAccount.
    pub r#type: SubjectType,
    /// serviceAccount is set when type is ServiceAccount. Example: {namespace: agents, name: claude-code}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSubject>,
    /// oidc is set when type is OIDC. Example: {issuer: {url: "https://token.actions.githubusercontent.com",
    /// audiences: [sallyport]}, claimValidationRules: [{claim: sub, requiredValue: "repo:acme/payments:ref:refs/heads/main"}]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcSubject>,
    /// awsIAMRole is set when type is AWSIAMRole. Example: {arn: "arn:aws:iam::111122223333:role/claude-code-runner"}.
    #[serde(rename = "awsIAMRole", default, skip_serializing_if = "Option::is_none")]
    pub aws_iam_role: Option<AwsIamRoleSubject>,
}

/// SubjectType names the member of a subject that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SubjectType {
    /// A Kubernetes ServiceAccount token with audience `sallyport`.
    ServiceAccount,
    /// An OpenID Connect token.
    #[serde(rename = "OIDC")]
    Oidc,
    /// An AWS IAM role, by `aws eks get-token`.
    #[serde(rename = "AWSIAMRole")]
    AwsIamRole,
}

/// ServiceAccountSubject is a Kubernetes ServiceAccount of the cluster that the gate runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSubject {
    /// namespace is the ServiceAccount's namespace. Example: agents.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub namespace: String,
    /// name is the ServiceAccount's name; its token must carry the audience "sallyport". Example: claude-code.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
}

/// OidcSubject is an identity that an OpenID Connect issuer vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcSubject {
    /// issuer says whose tokens are taken. Example: {url: "https://token.actions.githubusercontent.com", audiences: [sallyport]}.
    pub issuer: OidcIssuer,
    /// claimValidationRules must all hold, 1 to 16; one of them must pin claim sub or be an expression, because an
    /// issuer is shared by many. Example: [{claim: sub, requiredValue: "repo:acme/payments:environment:production"}].
    #[schemars(
        length(min = 1, max = 16),
        extend("x-kubernetes-list-type" = "atomic"),
        extend("x-kubernetes-validations" = [{
            "rule": "self.exists(r, (has(r.claim) && r.claim == 'sub') || has(r.expression))",
            "message": "at least one rule must pin claim 'sub' or be an `expression`"
        }])
    )]
    pub claim_validation_rules: Vec<ClaimValidationRule>,
}

/// OidcIssuer says whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OidcIssuer {
    /// url is the issuer's URL, exactly as in claim iss. Example: "https://token.actions.githubusercontent.com".
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https://')",
        "message": "must be an https URL"
    }]))]
    pub url: String,
    /// audiences are those of which a token must carry one, 1 to 16. Example: [sallyport].
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub audiences: Vec<String>,
    /// certificateAuthority is the PEM of the only authorities that the issuer's certificate may come from. Default: those that
    /// the proxy's system trusts. Example: "-----BEGIN CERTIFICATE-----".
    #[schemars(length(min = 1, max = 65536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
}

/// ClaimValidationRule is one thing that must hold for a token's claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.claim) != has(self.expression) && has(self.claim) == has(self.requiredValue)",
    "message": "set either `claim`+`requiredValue` or `expression`"
}]))]
pub struct ClaimValidationRule {
    /// claim is the name of a claim. Set either claim and requiredValue, or expression. Example: sub.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// requiredValue is the value that the claim must have; unset with expression. Example: "repo:acme/payments:environment:production".
    #[schemars(length(max = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_value: Option<String>,
    /// expression is CEL over claims that must be true; unset with claim. Example: "claims.repository_owner_id == '1234567'".
    #[schemars(length(min = 1, max = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// message is what a refused token's owner reads. Default: the expression, or the claim's name. Example: "token must come from the acme organisation".
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// AwsIamRoleSubject is an AWS IAM role that presents itself with `aws eks get-token`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsIamRoleSubject {
    /// arn is the role's ARN, never that of an STS session. Example: "arn:aws:iam::111122223333:role/claude-code-runner".
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{"rule": ROLE_ARN_RULE, "message": ROLE_ARN_MESSAGE}]))]
    pub arn: String,
}

/// Target is the cluster that requests go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(self.type == 'EKS') == has(self.eks) && (self.type == 'Static') == has(self.static) && (self.type == 'InCluster' || !has(self.inCluster))",
        "message": UNION_MESSAGE
    },
    {
        "rule": "self.type == oldSelf.type && (!has(self.eks) || (has(oldSelf.eks) && self.eks.clusterName == oldSelf.eks.clusterName && self.eks.region == oldSelf.eks.region)) && (!has(self.static) || (has(oldSelf.static) && self.static.server == oldSelf.static.server))",
        "message": "the target cluster is immutable; create a new AgentIdentity"
    }
]))]
pub struct Target {
    /// type names the member that is set: InCluster (the gate's own cluster), EKS or Static. Immutable. Example: InCluster.
    pub r#type: TargetType,
    /// inCluster may be set when type is InCluster. Default: no further groups. Example: {groups: ["sallyport:payments-agents"]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_cluster: Option<InClusterTarget>,
    /// eks is set when type is EKS. Example: {clusterName: prod-use1, region: us-east-1,
    /// roleARN: "arn:aws:iam::444455556666:role/sallyport-payments"}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eks: Option<EksTarget>,
    /// static is set when type is Static. Example: {server: "https://k8s.example.internal:6443",
    /// caBundle: LS0tLS1CRUdJTg==, tokenSecretRef: {name: edge-token, key: token}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#static: Option<StaticTarget>,
}

/// TargetType names the member of a target that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetType {
    /// The cluster that the gate runs in.
    InCluster,
    /// An EKS cluster, through an IAM role.
    #[serde(rename = "EKS")]
    Eks,
    /// Any cluster, by URL and token.
    Static,
}

/// InClusterTarget is the cluster that the gate runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InClusterTarget {
    /// groups are impersonated besides sallyport:agents and sallyport:agents:<namespace>; each starts with "sallyport:".
    /// Default: none. Example: ["sallyport:payments-agents"].
    #[schemars(
        length(max = 16),
        inner(length(min = 11, max = 256)),
        extend("x-kubernetes-list-type" = "set"),
        extend("x-kubernetes-validations" = [{
            "rule": "self.all(g, g.startsWith('sallyport:'))",
            "message": "must start with 'sallyport:'"
        }])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// EksTarget is an EKS cluster that the proxy reaches through an IAM role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EksTarget {
    /// clusterName is the EKS cluster's name. Immutable. Example: prod-use1.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[0-9A-Za-z][A-Za-z0-9_-]*$"))]
    pub cluster_name: String,
    /// region is the AWS region of the cluster. Immutable. Example: us-east-1.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z]{2}(-[a-z]+)+-[0-9]+$"))]
    pub region: String,
    /// roleARN is the role that the proxy assumes, with external ID "sallyport/<hub>/<namespace>/<name>" and role session
    /// name "<namespace>.<name>". Example: "arn:aws:iam::444455556666:role/sallyport-payments".
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{"rule": ROLE_ARN_RULE, "message": ROLE_ARN_MESSAGE}]))]
    #[serde(rename = "roleARN")]
    pub role_arn: String,
}

/// StaticTarget is a cluster by URL, certificate authority and token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StaticTarget {
    /// server is the API server's URL. Immutable. Example: "https://k8s.example.internal:6443".
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^https://')",
        "message": "must be an https URL"
    }]))]
    pub server: String,
    /// caBundle is the PEM of the API server's certificate authority, in base64. Example: LS0tLS1CRUdJTg==.
    #[schemars(length(min = 1, max = 65536), extend("format" = "byte"))]
    pub ca_bundle: String,
    /// tokenSecretRef names the Secret in this namespace that holds the token. Example: {name: edge-token, key: token}.
    pub token_secret_ref: SecretKeyRef,
}

/// SecretKeyRef names one key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// name is the Secret's name. Example: edge-token.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN_PATTERN))]
    pub name: String,
    /// key is the key within the Secret. Example: token.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// SessionSettings says when a session ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionSettings {
    /// idleTimeoutSeconds ends a session after this much silence, in seconds, 60 to 86400. Default: 900. Example: 600.
    #[schemars(range(min = 60, max = 86400))]
    pub idle_timeout_seconds: i32,
    /// maxDurationSeconds ends a session after this long, in seconds, 60 to 604800. Default: 28800. Example: 3600.
    #[schemars(range(min = 60, max = 604800))]
    pub max_duration_seconds: i32,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { idle_timeout_seconds: 900, max_duration_seconds: 28800 }
    }
}

/// Limits bound what one agent may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// requestsPerSecond bounds the requests per second; what exceeds it gets 429 with Retry-After 1. 1 to 10000.
    /// Default: 50. Example: 20.
    #[schemars(range(min = 1, max = 10000))]
    pub requests_per_second: i32,
    /// maxPendingGrants bounds the grants that wait for review, to spare approvers; what exceeds it is refused with
    /// TooManyPendingApprovals. 1 to 100. Default: 5. Example: 2.
    #[schemars(range(min = 1, max = 100))]
    pub max_pending_grants: i32,
    /// maxConcurrentStreams bounds the watches and streams that are open at once. 1 to 1000. Default: 10. Example: 4.
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_streams: i32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_per_second: 50, max_pending_grants: 5, max_concurrent_streams: 10 }
    }
}

/// status is what the operator and the proxies observed. Example: {username: "sallyport:agent:agents:claude-code", policyCount: 2}.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentIdentityStatus {
    /// observedGeneration is the metadata.generation that this status belongs to. Example: 3.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// username is the user that native RBAC and the audit log of the target see. Example: "sallyport:agent:agents:claude-code".
    #[schemars(length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// groups are the groups that are impersonated with the username. Example: ["sallyport:agents", "sallyport:agents:agents"].
    #[schemars(length(max = 32), inner(length(max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// endpoint is the URL of the gate for this agent. Example: "https://sallyport-proxy.sallyport-system.svc".
    #[schemars(length(max = 2048))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// kubeconfigRef names the ConfigMap of this namespace that holds a kubeconfig without credentials.
    /// Example: {name: claude-code-kubeconfig}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig_ref: Option<LocalRef>,
    /// eks is what the owner of the target role needs to know; only with an EKS target.
    /// Example: {externalID: sallyport/hub-prod/agents/claude-code}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eks: Option<EksStatus>,
    /// accessEntries are the EKS access entries, as the proxies found them, that let a role of this agent's subjects into a cluster
    /// past the gate; at most 64. Example: [{clusterName: prod-use2, region: us-east-2, principalARN:
    /// "arn:aws:iam::111122223333:role/claude-code-runner"}].
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access_entries: Vec<EksAccessEntry>,
    /// policyCount is the number of policies that select this agent. Example: 2.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_count: Option<i32>,
    /// policies are the first 64 policies that select this agent. Example: [{name: payments-agents, mode: Enforce}].
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyRef>,
    /// conditions are Ready, Accepted, TargetReachable, Programmed, and BypassDetected only when it is True.
    /// Example: [{type: Ready, status: "True", reason: Ready}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// LocalRef names an object in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalRef {
    /// name is the object's name. Example: claude-code.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// EksStatus is what the owner of the target role needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EksStatus {
    /// externalID is what the target role's trust policy must demand as sts:ExternalId. Example: sallyport/hub-prod/agents/claude-code.
    #[schemars(length(min = 1, max = 1224))]
    #[serde(rename = "externalID")]
    pub external_id: String,
}

/// EksAccessEntry is an access entry of a role in an EKS cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EksAccessEntry {
    /// clusterName is the name of the EKS cluster. Example: prod-use2.
    #[schemars(length(min = 1, max = 100), regex(pattern = "^[0-9A-Za-z][A-Za-z0-9_-]*$"))]
    pub cluster_name: String,
    /// region is the cluster's AWS region. Example: us-east-2.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z]{2}(-[a-z]+)+-[0-9]+$"))]
    pub region: String,
    /// account is the cluster's AWS account; not set for the gate's own cluster. Example: "444455556666".
    #[schemars(length(min = 12, max = 12), regex(pattern = "^[0-9]{12}$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// principalARN is the role as the access entry names it. Example: "arn:aws:iam::111122223333:role/claude-code-runner".
    #[schemars(length(min = 1, max = 2048), regex(pattern = "^arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+$"))]
    #[serde(rename = "principalARN")]
    pub principal_arn: String,
}

/// PolicyRef names a policy that selects this agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRef {
    /// name is the AccessPolicy's name. Example: payments-agents.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// mode is the policy's mode: Enforce or Audit. Example: Enforce.
    pub mode: crate::access_policy::PolicyMode,
}
