//! The CustomResourceDefinitions as the chart ships them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use kube_core::CustomResourceExt;

use crate::agent_identity::{NAME_MESSAGE, NAME_RULE};
use crate::{AccessGrant, AccessPolicy, AgentIdentity, SessionRecord};

/// All four definitions, in alphabetical order of their kinds: what `crds/yaml` holds and the chart installs.
///
/// It differs from `Kind::crd()` in three ways: AgentIdentity has its rule on the name, no field is nullable (so that
/// `null` means absent, and `has()` in a rule cannot be deceived by it), and descriptions are one line per paragraph.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut identity = AgentIdentity::crd();
    for root in roots(&mut identity) {
        root.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
            rule: NAME_RULE.to_owned(),
            message: Some(NAME_MESSAGE.to_owned()),
            ..ValidationRule::default()
        });
    }
    let mut definitions = vec![AccessGrant::crd(), AccessPolicy::crd(), identity, SessionRecord::crd()];
    for definition in &mut definitions {
        roots(definition).for_each(tidy);
    }
    definitions
}

/// The file name of a definition in `crds/yaml`, for instance `accessgrant.yaml`.
pub fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}.yaml", definition.spec.names.kind.to_lowercase())
}

fn roots(definition: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    definition
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(description) = &mut schema.description {
        *description = description
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "))
            .collect::<Vec<_>>()
            .join("\n\n");
    }
    schema.properties.iter_mut().flatten().for_each(|(_, property)| tidy(property));
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
