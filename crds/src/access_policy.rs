//! AccessPolicy: what the selected agents may do, what needs a human, what is masked and recorded.

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::selector::{LabelSelector, RequestMatch};
use crate::text::{LABEL_PATTERN, SAFE_TEXT_MESSAGE, SAFE_TEXT_RULE, UNION_MESSAGE};

/// spec says which agents the policy binds and what it decides for them.
/// Example: {agents: [{namespace: agents}], rules: [{name: read, effect: Allow, match: [{apiGroups: [""], resources: [pods], verbs: [get]}]}]}.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    status = "AccessPolicyStatus",
    derive = "PartialEq",
    doc = "AccessPolicy says what the selected agents may do, what needs a human, what is masked and what is recorded. Deny beats RequireApproval beats Allow; what nothing allows is refused.",
    shortname = "accpol",
    category = "sallyport",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.matchedAgents"),
    printcolumn(name = "JIT", type_ = "string", json_path = ".spec.jit.mode"),
    printcolumn(name = "Recording", type_ = "string", json_path = ".spec.recording.level"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.approval) || self.rules.exists(r, r.effect == 'RequireApproval') || (has(self.jit) && self.jit.mode == 'Required')",
    "message": "`approval` may not be set when nothing in this policy needs approval"
}]))]
pub struct AccessPolicySpec {
    /// mode is Enforce, or Audit: then the policy is evaluated and recorded as "would have", and never contributes to a
    /// decision. Default: Enforce. Example: Audit.
    #[serde(default)]
    pub mode: PolicyMode,
    /// agents are the identities that this policy binds, 1 to 32 entries, any of which may select.
    /// Example: [{namespace: agents, selector: {matchLabels: {team: payments}}}].
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub agents: Vec<AgentSelector>,
    /// rules are a set, 1 to 128: their order has no meaning. Example: [{name: read, effect: Allow,
    /// match: [{namespaces: [payments], apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]}].
    #[schemars(
        length(min = 1, max = 128),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rules: Vec<Rule>,
    /// approval says how requests under RequireApproval rules, and windows, get decided. Default: anyone with the RBAC verb
    /// approve, one approval, 45 seconds of hold. Example: {approvers: [{kind: Group, name: payments-oncall}]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// jit says whether this policy's Allow rules need an open window. Default: NotRequired. Example: {mode: Required}.
    #[serde(default)]
    pub jit: Jit,
    /// masking hides values in everything that leaves, at most 64 entries; the union over all matching policies, and
    /// nothing can unmask. Default: none. Example: [{name: pod-env, type: Fields,
    /// fields: {paths: [".spec.containers[*].env[*].value"]}}].
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masking: Vec<Mask>,
    /// recording says how much is recorded; the highest level among the matching policies wins. Default: level Request,
    /// streams Full, failurePolicy Fail. Example: {level: Metadata}.
    #[serde(default)]
    pub recording: Recording,
}

/// PolicyMode says whether a policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// The policy contributes to decisions.
    #[default]
    Enforce,
    /// The policy is evaluated and recorded, and decides nothing.
    Audit,
}

/// AgentSelector selects agents of one namespace, or of every namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.name) && has(self.selector)) && !(self.__namespace__ == '*' && has(self.name))",
    "message": "at most one of `name` and `selector` may be set; `name` may not be set when `namespace` is '*'"
}]))]
pub struct AgentSelector {
    /// namespace is the agents' namespace, named in full; "*" is every namespace (for guardrails). Example: agents.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"))]
    pub namespace: String,
    /// name is one AgentIdentity's name. Default: all in the namespace. Example: claude-code.
    #[schemars(length(min = 1, max = 40), regex(pattern = LABEL_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// selector selects AgentIdentities by their labels. Default: all in the namespace. Example: {matchLabels: {team: payments}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Rule decides requests that match it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// name names the rule in refusals and records. Example: ask-before-change.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// effect is Allow, RequireApproval or Deny. Example: Allow.
    pub effect: Effect,
    /// message is shown to the agent and to the approver. Default: none. Example: "Changes to production workloads need a human."
    #[schemars(length(max = 1024), extend("x-kubernetes-validations" = [{"rule": SAFE_TEXT_RULE, "message": SAFE_TEXT_MESSAGE}]))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// match are the requests that the rule decides, 1 to 16 entries, any of which may match.
    /// Example: [{namespaces: [payments], apiGroups: [apps], resources: [deployments], verbs: [delete]}].
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub r#match: Vec<RequestMatch>,
    /// exclude are requests that the rule leaves alone, at most 16 entries; exclude wins over match inside this one rule.
    /// Default: none. Example: [{apiGroups: [apps], resources: [deployments], resourceNames: [checkout-canary], verbs: [patch]}].
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<RequestMatch>,
    /// matchConditions are CEL expressions that must all be true, at most 16; evaluated only after match. Default: none.
    /// Example: [{name: harmless-argv, expression: "!exec.tty && exec.command[0] in ['ls', 'ps']"}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_conditions: Vec<MatchCondition>,
}

/// Effect is what a rule does with a request that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Effect {
    /// The request may run.
    Allow,
    /// The request may run after a human approved it.
    RequireApproval,
    /// The request is refused, whatever else allows it.
    Deny,
}

/// MatchCondition is a CEL expression with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchCondition {
    /// name names the condition in records. Example: harmless-argv.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// expression is CEL over request, object, oldObject, exec, options, agent and now; an error makes Deny and
    /// RequireApproval match and Allow not match. Example: "!exec.tty && exec.command[0] in ['ls', 'ps']".
    #[schemars(length(min = 1, max = 4096))]
    pub expression: String,
}

/// Approval says how approvals get decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Approval {
    /// approvers are those who may review, at most 32. Default: anyone who holds the RBAC verb approve on accessgrants in
    /// the grant's namespace; that verb is needed in any case. Example: [{kind: Group, name: payments-oncall}].
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Approver>,
    /// minApprovals is the number of distinct reviewers who must approve, 1 to 5. Default: 1. Example: 2.
    #[schemars(range(min = 1, max = 5))]
    pub min_approvals: i32,
    /// holdSeconds is how long, in seconds, the proxy keeps a request open while it waits; 0 answers at once. 0 to 300.
    /// Default: 45. Example: 0.
    #[schemars(range(min = 0, max = 300))]
    pub hold_seconds: i32,
    /// reviewDeadlineSeconds is how long, in seconds, a request may wait for review before it expires. 60 to 604800.
    /// Default: 3600. Example: 900.
    #[schemars(range(min = 60, max = 604800))]
    pub review_deadline_seconds: i32,
    /// useDeadlineSeconds is how long, in seconds, an approval may stay unused before it expires. 10 to 86400.
    /// Default: 600. Example: 120.
    #[schemars(range(min = 10, max = 86400))]
    pub use_deadline_seconds: i32,
    /// serverDryRun is Allow when the agent may first try the change with --dry-run=server, else RequireApproval.
    /// Default: Allow. Example: RequireApproval.
    pub server_dry_run: ServerDryRun,
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            approvers: Vec::new(),
            min_approvals: 1,
            hold_seconds: 45,
            review_deadline_seconds: 3600,
            use_deadline_seconds: 600,
            server_dry_run: ServerDryRun::Allow,
        }
    }
}

/// Approver is an RBAC subject that may review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.kind == 'ServiceAccount') == has(self.__namespace__)",
    "message": "`namespace` must be set exactly when `kind` is 'ServiceAccount'"
}]))]
pub struct Approver {
    /// kind is User, Group or ServiceAccount. Example: Group.
    pub kind: ApproverKind,
    /// name is the user's, group's or ServiceAccount's name. Example: payments-oncall.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// namespace is the ServiceAccount's namespace; set exactly when kind is ServiceAccount. Example: argocd.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// ApproverKind is the kind of an RBAC subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ApproverKind {
    /// A user name.
    User,
    /// A group name.
    Group,
    /// A ServiceAccount.
    ServiceAccount,
}

/// ServerDryRun says whether a dry run needs the approval too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServerDryRun {
    /// A dry run runs without approval.
    #[default]
    Allow,
    /// A dry run needs approval like the change itself.
    RequireApproval,
}

/// Jit says whether Allow rules need an open window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Jit {
    /// mode is Required when this policy's Allow rules hold only inside an open window, else NotRequired.
    /// Default: NotRequired. Example: Required.
    pub mode: JitMode,
    /// maxWindowSeconds is the longest window, in seconds, 60 to 86400. Default: 3600. Example: 1800.
    #[schemars(range(min = 60, max = 86400))]
    pub max_window_seconds: i32,
    /// approval is Required when a human opens the window, or Automatic: time-boxed without a human, still recorded.
    /// Default: Required. Example: Automatic.
    pub approval: JitApproval,
}

impl Default for Jit {
    fn default() -> Self {
        Self { mode: JitMode::NotRequired, max_window_seconds: 3600, approval: JitApproval::Required }
    }
}

/// JitMode says whether a window is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JitMode {
    /// Allow rules hold at any time.
    #[default]
    NotRequired,
    /// Allow rules hold only inside an open window.
    Required,
}

/// JitApproval says who opens a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JitApproval {
    /// A human opens it.
    #[default]
    Required,
    /// It opens when it is asked for.
    Automatic,
}

/// Mask hides values in everything that leaves the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.type == 'Fields') == has(self.fields) && (self.type == 'Patterns') == has(self.patterns) && (self.type == 'KnownSecrets') == has(self.knownSecrets)",
    "message": UNION_MESSAGE
}]))]
pub struct Mask {
    /// name stands in the placeholder: [MASKED:<name>]. Example: pod-env.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// type names the member that is set: Fields, Patterns or KnownSecrets. Example: Fields.
    pub r#type: MaskType,
    /// match are the requests whose answers are masked, 1 to 16 entries. Default: every request.
    /// Example: [{apiGroups: ["", apps], resources: ["*"], verbs: ["*"]}].
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#match: Option<Vec<RequestMatch>>,
    /// fields is set when type is Fields. Example: {paths: [".spec.containers[*].env[*].value"]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<FieldsMask>,
    /// patterns is set when type is Patterns. Example: {detectors: [AWSAccessKey, JWT]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patterns: Option<PatternsMask>,
    /// knownSecrets is set when type is KnownSecrets. Example: {namespaces: [payments]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_secrets: Option<KnownSecretsMask>,
    /// replacement is Placeholder for [MASKED:<name>], or Hash to add six hexadecimal digits of an HMAC that differs per
    /// session: equality is visible, the value is not. Default: Placeholder. Example: Hash.
    #[serde(default)]
    pub replacement: Replacement,
}

/// MaskType names the member of a mask that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MaskType {
    /// Values at given paths.
    Fields,
    /// Text that looks like a credential.
    Patterns,
    /// Values of real Secrets, wherever they turn up.
    KnownSecrets,
}

/// Replacement is what stands in a masked value's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Replacement {
    /// `[MASKED:<name>]`.
    #[default]
    Placeholder,
    /// `[MASKED:<name>:<hmac>]`.
    Hash,
}

/// FieldsMask masks the values at given paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldsMask {
    /// paths are field paths from the object's root, 1 to 64; [*] is every entry of a list, .* every key of a map.
    /// Example: [".spec.containers[*].env[*].value", ".data.*"].
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 2, max = 512), regex(pattern = r"^\.")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub paths: Vec<String>,
}

/// PatternsMask masks text that looks like a credential.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatternsMask {
    /// detectors are built-in patterns. Default: none. Example: [AWSAccessKey, PrivateKey, JWT, GitHubToken, BasicAuthURL].
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detectors: Vec<Detector>,
    /// regexes are RE2 expressions of your own, at most 32 of 512 characters. Default: none. Example: ["(?i)stripe_sk_[a-z0-9]{16,}"].
    #[schemars(length(max = 32), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regexes: Vec<String>,
}

/// Detector is a built-in pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Detector {
    /// An AWS access key id or secret.
    #[serde(rename = "AWSAccessKey")]
    AwsAccessKey,
    /// A PEM private key.
    PrivateKey,
    /// A JSON web token.
    #[serde(rename = "JWT")]
    Jwt,
    /// A GitHub token.
    GitHubToken,
    /// A URL with a user name and a password.
    #[serde(rename = "BasicAuthURL")]
    BasicAuthUrl,
}

/// KnownSecretsMask masks the values of real Secrets, raw and in base64, wherever they turn up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KnownSecretsMask {
    /// namespaces are those whose Secrets are known, 1 to 32. Example: [payments].
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// minLength is the length in bytes below which a value is not looked for, 4 to 1024. Default: 8. Example: 12.
    #[schemars(range(min = 4, max = 1024))]
    #[serde(default = "default_min_length")]
    pub min_length: i32,
}

fn default_min_length() -> i32 {
    8
}

/// Recording says how much is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recording {
    /// level is Metadata, Request (with request bodies) or RequestResponse (with both bodies, after masking).
    /// Default: Request. Example: Metadata.
    pub level: RecordingLevel,
    /// streams is Full, Input or None: what is kept of exec, attach and port-forward. Default: Full. Example: Input.
    pub streams: RecordingStreams,
    /// failurePolicy is Fail when a request that cannot be recorded must not run, else Ignore. Default: Fail. Example: Ignore.
    pub failure_policy: FailurePolicy,
}

/// RecordingLevel says what is kept of a request, in the audit log's words.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum RecordingLevel {
    /// Who did what to which object, with which decision.
    Metadata,
    /// The request's body too.
    #[default]
    Request,
    /// The response's body too.
    RequestResponse,
}

/// RecordingStreams says what is kept of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RecordingStreams {
    /// Input and output.
    #[default]
    Full,
    /// Input only.
    Input,
    /// Nothing but the fact.
    None,
}

/// FailurePolicy says what happens when recording fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailurePolicy {
    /// The request does not run.
    #[default]
    Fail,
    /// The request runs unrecorded.
    Ignore,
}

/// status is what the operator observed. Example: {observedGeneration: 5, matchedAgents: 3}.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyStatus {
    /// observedGeneration is the metadata.generation that this status belongs to. Example: 5.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// matchedAgents is the number of AgentIdentities that this policy selects. Example: 3.
    #[schemars(range(min = 0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_agents: Option<i32>,
    /// conditions are Ready, Accepted, Programmed, and NoAgents and Incomplete only when they are True.
    /// Example: [{type: Accepted, status: "True", reason: Accepted}].
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
