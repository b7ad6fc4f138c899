//! The single words of an entry: resources, groups, names, namespaces, paths.

use crate::issues::Issues;
use crate::matcher::{Namespaces, ResourcePattern, UrlPattern};

pub(super) fn url(word: &str) -> Result<UrlPattern, String> {
    let (prefix, is_prefix) = match word.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (word, false),
    };
    let rooted = prefix.starts_with('/') || (is_prefix && prefix.is_empty());
    if !rooted || prefix.contains('*') {
        return Err(format!("`{word}` must start with '/'; '*' may be used only as the last character"));
    }
    Ok(if is_prefix { UrlPattern::Prefix(prefix.into()) } else { UrlPattern::Exact(prefix.into()) })
}

pub(super) fn resource(word: &str) -> Result<ResourcePattern, String> {
    let named = |part: &str| part != "*" && is_label(part);
    let parts: Vec<&str> = word.split('/').collect();
    match parts.as_slice() {
        ["*"] => Ok(ResourcePattern::Any),
        [name] if named(name) => Ok(ResourcePattern::Exact { resource: (*name).into(), subresource: None }),
        ["*", subresource] if named(subresource) => {
            Ok(ResourcePattern::SubresourceOfAny((*subresource).into()))
        }
        [name, "*"] if named(name) => Ok(ResourcePattern::SubresourcesOf((*name).into())),
        [name, subresource] if named(name) && named(subresource) => {
            Ok(ResourcePattern::Exact { resource: (*name).into(), subresource: Some((*subresource).into()) })
        }
        _ => Err(format!(
            "`{word}` is not a resource; write the lower-case plural name, `name/subresource`, `name/*`, `*/subresource` or `*`, and the group in `apiGroups`"
        )),
    }
}

pub(super) fn group(word: &str) -> Result<Box<str>, String> {
    if word.is_empty() || word.split('.').all(is_label) {
        return Ok(word.into());
    }
    Err(format!(
        "`{word}` is not an API group; write it without version, \"\" for the core group, or `*` alone"
    ))
}

pub(super) fn object_name(word: &str) -> Result<Box<str>, String> {
    if word.is_empty() || word.contains(['*', '/']) {
        return Err(format!("`{word}` is not an object name; names are exact"));
    }
    Ok(word.into())
}

pub(super) fn namespaces(words: &[String], path: &str, issues: &mut Issues) -> Namespaces {
    let mut namespaces = Namespaces::default();
    for (at, word) in words.iter().enumerate() {
        match word.strip_suffix('*') {
            None if word.is_empty() => namespaces.cluster = true,
            None if is_label(word) => namespaces.literals.push(word.as_str().into()),
            Some(prefix) if prefix.is_empty() || is_label_prefix(prefix) => {
                namespaces.prefixes.push(prefix.into());
            }
            Some(_) | None => issues.invalid(
                format!("{path}.namespaces[{at}]"),
                format!("`{word}` is not a namespace; write its name, a prefix and `*`, or \"\" for the cluster scope"),
            ),
        }
    }
    namespaces
}

pub(super) fn is_label(word: &str) -> bool {
    is_label_prefix(word) && !word.ends_with('-')
}

pub(super) fn is_label_prefix(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('-')
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
