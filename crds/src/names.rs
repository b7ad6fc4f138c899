//! Names that operator, proxy and people share: one place, so that two programs never spell one thing twice.

/// API group.
pub const GROUP: &str = "sallyport.dev";
/// API version.
pub const VERSION: &str = "v1alpha1";
/// Default namespace of operator and proxy.
pub const SYSTEM_NAMESPACE: &str = "sallyport-system";
/// What precedes the installation's name in the place of an EKS cluster's, where an agent signs its token for the gate. A
/// cluster's name has no dot.
pub const AWS_CLUSTER_PREFIX: &str = "sallyport.";
/// Default name of an installation, as AWS is told it.
pub const HUB: &str = "default";
/// Role and RoleBinding in an agents' namespace that let the proxy read the tokens that Static targets name; only the
/// operator writes them.
pub const TOKENS_ROLE: &str = "sallyport-proxy-tokens";
/// ServiceAccount of the operator.
pub const OPERATOR_SERVICE_ACCOUNT: &str = "sallyport-operator";
/// ServiceAccount of the proxy.
pub const PROXY_SERVICE_ACCOUNT: &str = "sallyport-proxy";
/// ClusterRole that lists the identities which the proxy may impersonate; only the operator writes its rules.
pub const IMPERSONATOR_CLUSTER_ROLE: &str = "sallyport-proxy-impersonator";
/// Secret with the proxy's serving certificate (`tls.crt`, `tls.key`, `ca.crt`).
pub const PROXY_TLS_SECRET: &str = "sallyport-proxy-tls";
/// Secret with the webhook's serving certificate.
pub const WEBHOOK_TLS_SECRET: &str = "sallyport-webhook-tls";
/// Secret with the key that approvals are bound with ([`BINDING_KEY`]); only operator and proxy read it.
pub const BINDING_KEY_SECRET: &str = "sallyport-binding-key";
/// Key of the random bytes in [`BINDING_KEY_SECRET`].
pub const BINDING_KEY: &str = "key";
/// Secret with the certificate authority's key; only the operator reads it.
pub const CA_SECRET: &str = "sallyport-ca";
/// ConfigMap that publishes the certificate authority (`ca.crt`).
pub const CA_CONFIG_MAP: &str = "sallyport-ca";
/// The visible bootstrap policy.
pub const BASELINE_POLICY: &str = "sallyport-baseline";
/// Audience that a ServiceAccount token must carry.
pub const TOKEN_AUDIENCE: &str = "sallyport";
/// Prefix of every impersonated user name: `sallyport:agent:<namespace>:<name>`.
pub const USERNAME_PREFIX: &str = "sallyport:agent:";
/// Group of every agent; `sallyport:agents:<namespace>` is added to it.
pub const AGENTS_GROUP: &str = "sallyport:agents";

/// Label on live-config ConfigMaps: [`SHARD_AGENT`] or [`SHARD_GUARDRAILS`].
pub const LABEL_SHARD: &str = "sallyport.dev/shard";
/// Shard of one AgentIdentity.
pub const SHARD_AGENT: &str = "agent";
/// Shard of the cluster-wide policies.
pub const SHARD_GUARDRAILS: &str = "guardrails";
/// Key of a shard's JSON in its ConfigMap.
pub const SHARD_KEY: &str = "shard.json";
/// Annotation: `sha256:<hex>` of the shard's JSON (on shards), of the bundle in force (on proxy Leases).
pub const ANNOTATION_HASH: &str = "sallyport.dev/hash";
/// Label on proxy Leases.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Value of [`LABEL_COMPONENT`] on proxy Leases.
pub const COMPONENT_PROXY: &str = "proxy";
/// Label on everything that operator or proxy create.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "sallyport";
/// Label: the agent's name.
pub const LABEL_AGENT: &str = "sallyport.dev/agent";
/// Label: the session's name.
pub const LABEL_SESSION: &str = "sallyport.dev/session";
/// Label: the grant's type.
pub const LABEL_TYPE: &str = "sallyport.dev/type";
/// Label: the subject's name.
pub const LABEL_SUBJECT: &str = "sallyport.dev/subject";
/// Label: the target's type.
pub const LABEL_TARGET_TYPE: &str = "sallyport.dev/target-type";
/// Annotation on the baseline: `"false"` hands it to the administrator.
pub const ANNOTATION_AUTOUPDATE: &str = "sallyport.dev/autoupdate";
/// Impersonated `extra` key that carries the session's name into the API server's audit log.
pub const EXTRA_SESSION: &str = "sallyport.dev/session";
/// Impersonated `extra` key that carries the request id into the API server's audit log.
pub const EXTRA_REQUEST_ID: &str = "sallyport.dev/request-id";
/// Service in front of the proxies.
pub const PROXY_SERVICE: &str = "sallyport-proxy";
/// Service in front of the operator's admission webhook.
pub const WEBHOOK_SERVICE: &str = "sallyport-webhook";
/// Name of the MutatingWebhookConfiguration and of the ValidatingWebhookConfiguration.
pub const WEBHOOK_CONFIGURATION: &str = "sallyport";
