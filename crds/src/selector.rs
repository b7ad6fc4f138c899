//! What selects: labels of objects, and entries that match requests by their metadata.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// LabelSelector selects objects by labels; matchLabels and matchExpressions are AND-ed, an empty selector selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// matchLabels are key-value pairs that must all be present. Default: none. Example: {team: payments}.
    #[schemars(schema_with = "label_map")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// matchExpressions are requirements that must all hold. Default: none.
    /// Example: [{key: tier, operator: In, values: [prod]}].
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelSelectorRequirement>,
}

/// LabelSelectorRequirement compares the value of one label with a set of values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && size(self.values) > 0)",
    "message": "`values` must be set exactly when `operator` is 'In' or 'NotIn'"
}]))]
pub struct LabelSelectorRequirement {
    /// key is the label's key. Example: tier.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// operator relates the key to the values: In, NotIn, Exists or DoesNotExist. Example: In.
    pub operator: LabelSelectorOperator,
    /// values is the set to compare with; only In and NotIn have one. Default: none. Example: [prod].
    #[schemars(length(max = 32), inner(length(max = 63)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// LabelSelectorOperator relates a label to a set of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelSelectorOperator {
    /// The value is in the set.
    In,
    /// The label is missing, or its value is not in the set.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

/// RequestMatch names requests by their metadata, in RBAC's words: all fields must match, each by any of its values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.resources) != has(self.nonResourceURLs)",
        "message": "exactly one of `resources` and `nonResourceURLs` must be set"
    },
    {
        "rule": "!has(self.resources) || has(self.apiGroups)",
        "message": "`apiGroups` must be set when `resources` is set (use \"\" for the core group)"
    },
    {
        "rule": "!has(self.nonResourceURLs) || (!has(self.apiGroups) && !has(self.namespaces) && !has(self.namespaceSelector) && !has(self.resourceNames))",
        "message": "only `verbs` may be combined with `nonResourceURLs`"
    }
]))]
pub struct RequestMatch {
    /// namespaces are the namespaces a request touches; "" is the cluster scope, a trailing "*" matches a prefix.
    /// Default: every namespace and the cluster scope. Example: [payments, "pay-*"].
    #[schemars(
        length(min = 1, max = 64),
        inner(length(max = 63), regex(pattern = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?|[a-z0-9][-a-z0-9]*\*|\*)?$")),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// namespaceSelector selects namespaces of the target cluster by their labels. Default: every namespace.
    /// Example: {matchLabels: {env: prod}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// apiGroups are the API groups; "" is the core group, "*" is every group. Required with resources. Example: ["", apps].
    #[schemars(length(min = 1, max = 64), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_groups: Option<Vec<String>>,
    /// resources are plural resource names, with a subresource after a slash; "*", "*/scale" and "pods/*" are
    /// wildcards. Exactly one of resources and nonResourceURLs is set. Example: [pods, pods/log, deployments/scale].
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<String>>,
    /// resourceNames are names of single objects. Default: every object. Example: [checkout].
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_names: Option<Vec<String>>,
    /// nonResourceURLs are paths that are not resources; "*" only as the last character. Exactly one of resources and
    /// nonResourceURLs is set. Example: [/metrics, "/healthz/*"].
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 128)),
        extend("x-kubernetes-list-type" = "atomic"),
        extend("x-kubernetes-validations" = [{
            "rule": r"self.all(u, u.matches(r'^(\*|/[^*]*\*?)$'))",
            "message": "must start with '/'; '*' may be used only as the last character"
        }])
    )]
    #[serde(rename = "nonResourceURLs", default, skip_serializing_if = "Option::is_none")]
    pub non_resource_urls: Option<Vec<String>>,
    /// verbs are request verbs; "*" is every verb. pods/exec, pods/attach and pods/portforward have only the verb
    /// create. Never defaulted. Example: [get, list, watch].
    #[schemars(schema_with = "verb_list")]
    pub verbs: Vec<String>,
}

fn label_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63}
    })
}

// An enumeration, because a misspelt verb in a Deny rule would silently match nothing.
fn verb_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "enum": [
                "*", "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection",
                "head", "options", "post", "put"
            ]
        }
    })
}
