//! What an entry, a mask or a recording may hold, beyond its single words.

use crds::access_policy::{
    FailurePolicy, Mask, MaskType, Recording, RecordingLevel, RecordingStreams, Replacement,
};
use crds::selector::RequestMatch;

use crate::issues::Issues;

pub(super) fn recording(recording: &Recording, issues: &mut Issues) {
    match recording.level {
        RecordingLevel::Metadata | RecordingLevel::Request => {}
        RecordingLevel::RequestResponse => {
            issues.unsupported("spec.recording.level", "level `RequestResponse`")
        }
    }
    match recording.streams {
        RecordingStreams::Full => {}
        RecordingStreams::Input => issues.unsupported("spec.recording.streams", "`Input`"),
        RecordingStreams::None => issues.unsupported("spec.recording.streams", "`None`"),
    }
    match recording.failure_policy {
        FailurePolicy::Fail => {}
        FailurePolicy::Ignore => issues.unsupported("spec.recording.failurePolicy", "`Ignore`"),
    }
}

pub(super) fn mask(mask: &Mask, path: &str, issues: &mut Issues) {
    match mask.r#type {
        MaskType::Fields if mask.fields.is_none() => {
            issues.invalid(format!("{path}.fields"), "must be set when `type` is 'Fields'");
        }
        MaskType::Fields => {}
        MaskType::Patterns => issues.unsupported(format!("{path}.type"), "masking type `Patterns`"),
        MaskType::KnownSecrets => issues.unsupported(format!("{path}.type"), "masking type `KnownSecrets`"),
    }
    match mask.replacement {
        Replacement::Placeholder => {}
        Replacement::Hash => issues.unsupported(format!("{path}.replacement"), "`Hash`"),
    }
}

pub(super) fn entry(entry: &RequestMatch, path: &str, issues: &mut Issues) {
    if entry.namespace_selector.is_some() {
        issues.unsupported(format!("{path}.namespaceSelector"), "`namespaceSelector`");
    }
    if entry.resources.is_some() == entry.non_resource_urls.is_some() {
        issues.invalid(path, "exactly one of `resources` and `nonResourceURLs` must be set");
    }
    if entry.resources.is_some() && entry.api_groups.is_none() {
        issues.invalid(path, "`apiGroups` must be set when `resources` is set (use \"\" for the core group)");
    }
    let narrowed = entry.api_groups.is_some() || entry.namespaces.is_some() || entry.resource_names.is_some();
    if entry.non_resource_urls.is_some() && narrowed {
        issues.invalid(path, "only `verbs` may be combined with `nonResourceURLs`");
    }
    let lists = [
        ("namespaces", entry.namespaces.as_ref()),
        ("apiGroups", entry.api_groups.as_ref()),
        ("resources", entry.resources.as_ref()),
        ("resourceNames", entry.resource_names.as_ref()),
        ("nonResourceURLs", entry.non_resource_urls.as_ref()),
        ("verbs", Some(&entry.verbs)),
    ];
    for (field, list) in lists {
        if list.is_some_and(|list| list.is_empty()) {
            issues.invalid(format!("{path}.{field}"), "must name at least one");
        }
    }
}
