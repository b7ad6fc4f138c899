//! The generated manifests are fresh, every field explains itself, and nothing in a schema is unbounded.

#[path = "../examples/generate.rs"]
#[allow(dead_code, reason = "the example's main")]
mod generate;

use crds::definition;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

#[test]
fn generated_manifests_are_fresh() {
    for (path, text) in generate::files().expect("the definitions are YAML") {
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == text,
            "{} is stale; renew it with: cargo run -p sallyport-crds --example generate",
            path.display()
        );
    }
}

#[test]
fn every_field_explains_itself() {
    let mut faults = Vec::new();
    walk(&mut |path, name, schema| {
        let description = schema.description.as_deref().unwrap_or_default();
        if !description.starts_with(&format!("{name} ")) {
            faults.push(format!("{path}: the description must begin with `{name} `: {description:?}"));
        }
        // A field that a user sets without a default has an example; so does every other one.
        if !description.contains("Example: ") && !matches!(name, "spec" | "status") {
            faults.push(format!("{path}: no example"));
        }
        if schema.default.is_some() && !description.contains("Default: ") {
            faults.push(format!("{path}: the default is not told"));
        }
        if name.ends_with("Seconds") && !description.contains("seconds") {
            faults.push(format!("{path}: the unit is not told"));
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn nothing_is_unbounded() {
    let mut faults = Vec::new();
    walk(&mut |path, _, schema| unbounded(path, schema, &mut faults));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn required_and_defaulted_exclude_each_other() {
    let mut faults = Vec::new();
    walk(&mut |path, _, schema| {
        for name in schema.required.iter().flatten() {
            let property = schema.properties.as_ref().and_then(|all| all.get(name));
            if property.is_none_or(|one| one.default.is_some()) {
                faults.push(format!("{path}.{name}"));
            }
        }
        if schema.nullable.is_some() {
            faults.push(format!("{path}: nullable"));
        }
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn unbounded(path: &str, schema: &JSONSchemaProps, faults: &mut Vec<String>) {
    let bounded = match schema.type_.as_deref() {
        Some("string") => {
            schema.max_length.is_some()
                || schema.enum_.is_some()
                || schema.format.as_deref() == Some("date-time")
        }
        Some("array") => schema.max_items.is_some() && schema.x_kubernetes_list_type.is_some(),
        Some("integer") => {
            let counter = path.contains(".status.") || path.ends_with("observedGeneration");
            schema.minimum.is_some() && (counter || schema.maximum.is_some())
        }
        Some("object") => schema.properties.is_some() || schema.max_properties.is_some(),
        Some("boolean") => true,
        _ => false,
    };
    if !bounded {
        faults.push(format!("{path}: {:?} without a bound", schema.type_));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        unbounded(&format!("{path}[*]"), items, faults);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        unbounded(&format!("{path}.*"), values, faults);
    }
}

/// Visits every named field of every kind with its path and name.
fn walk(visit: &mut dyn FnMut(&str, &str, &JSONSchemaProps)) {
    for one in definition::all() {
        for version in &one.spec.versions {
            let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            descend(&one.spec.names.kind, schema.expect("every version has a schema"), visit);
        }
    }
}

fn descend(path: &str, schema: &JSONSchemaProps, visit: &mut dyn FnMut(&str, &str, &JSONSchemaProps)) {
    for (name, property) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, name, property);
        descend(&path, property, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        descend(path, items, visit);
    }
}
