//! The query: every key known, every value checked, written back in one form (P9, P13).

use std::collections::BTreeMap;

use http::StatusCode;

use crate::percent;
use crate::refusal::Refused;
use crate::selector::{FieldSelector, LabelSelector, SelectorError};
use crate::target::{Path, Target};

mod keys;

use keys::Shape::{
    Argument, BareFlag, Dropped, DryRun, Duration, Fields, Flag, Label, Labels, Moment, Number, OneOf, Ports,
    Text, Texts, Unset,
};
use keys::{DELETE, EVERY, Key, Shape, canonical, keys};

/// Why a query is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// P9: an empty pair, as in `a=1&&b=2`; not one in front.
    #[error("the query has an empty pair")]
    EmptyPair,
    /// P9.
    #[error("the query has a broken percent escape or a value that is no UTF-8")]
    Escape,
    /// P9: an escape, an upper-case variant or anything else that is no plain key.
    #[error("the query has an unknown key; keys are case-sensitive and never escaped")]
    UnknownKey,
    /// P9: known, but this request does not take it.
    #[error("`{0}` does not belong to this request")]
    Misplaced(&'static str),
    /// P9.
    #[error("`{0}` occurs twice")]
    Duplicate(&'static str),
    /// P9.
    #[error("`{0}` must be {1}")]
    Value(&'static str, &'static str),
    /// P13.
    #[error("`{0}`: {1}")]
    Selector(&'static str, SelectorError),
    /// P13.
    #[error("`dryRun` has no meaning on a stream")]
    ConnectDryRun,
}

impl Refused for QueryError {
    fn rule(&self) -> &'static str {
        match self {
            Self::EmptyPair
            | Self::Escape
            | Self::UnknownKey
            | Self::Misplaced(_)
            | Self::Duplicate(_)
            | Self::Value(..) => "P9",
            Self::Selector(..) | Self::ConnectDryRun => "P13",
        }
    }

    fn code(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// A query that obeys P9: decoded, typed where it matters, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    values: BTreeMap<&'static str, Vec<String>>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

/// Reads the raw query of a target.
///
/// # Errors
/// The first pair that breaks P9 or P13. The query of `*/proxy` belongs to the workload and is dropped, because no
/// such request is forwarded.
pub fn read(raw: Option<&str>, target: &Target) -> Result<Query, QueryError> {
    let mut query = Query::default();
    let raw = raw.unwrap_or_default();
    let Some(known) = keys(target) else {
        let dry_run = raw.split('&').any(|pair| pair == "dryRun" || pair.starts_with("dryRun="));
        return if dry_run { Err(QueryError::ConnectDryRun) } else { Ok(query) };
    };
    // kube-rs writes `?&limit=1`. It means nothing to the API server, and none of the client's bytes are forwarded (H2).
    let raw = raw.strip_prefix('&').unwrap_or(raw);
    if raw.is_empty() {
        return Ok(query);
    }
    let connect = matches!(&target.path, Path::Resource(path) if path.is_connect());
    for pair in raw.split('&') {
        if pair.is_empty() {
            return Err(QueryError::EmptyPair);
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, shape) = find(key, &known, connect)?;
        let value = percent::decode_value(value).map_err(|_| QueryError::Escape)?;
        query.add(key, shape, value)?;
    }
    Ok(query)
}

fn find(raw: &str, known: &[&'static [Key]], connect: bool) -> Result<Key, QueryError> {
    let named = |keys: &&'static [Key]| keys.iter().find(|(key, _)| *key == raw).copied();
    if let Some(key) = known.iter().find_map(named) {
        return Ok(key);
    }
    match EVERY.iter().find_map(named) {
        Some(("dryRun", _)) if connect => Err(QueryError::ConnectDryRun),
        Some((key, _)) => Err(QueryError::Misplaced(key)),
        None => Err(QueryError::UnknownKey),
    }
}

impl Query {
    fn add(&mut self, key: &'static str, shape: Shape, value: String) -> Result<(), QueryError> {
        let repeats = matches!(shape, Argument | Ports | Texts);
        let seen = self.values.contains_key(key)
            || (key == "labelSelector" && self.labels.is_some())
            || (key == "fieldSelector" && self.fields.is_some());
        if seen && !repeats {
            return Err(QueryError::Duplicate(key));
        }
        match shape {
            Labels => {
                let selector =
                    if value.is_empty() { Ok(LabelSelector::default()) } else { LabelSelector::read(&value) };
                self.labels = Some(selector.map_err(|error| QueryError::Selector(key, error))?);
            }
            Fields => {
                let selector =
                    if value.is_empty() { Ok(FieldSelector::default()) } else { FieldSelector::read(&value) };
                self.fields = Some(selector.map_err(|error| QueryError::Selector(key, error))?);
            }
            Flag | Unset | BareFlag | Number | DryRun | Text | Label | Duration | Moment | OneOf(..)
            | Argument | Ports | Texts | Dropped => {
                let value = canonical(key, shape, value)?;
                self.values.entry(key).or_default().push(value);
            }
        }
        Ok(())
    }

    /// The value of a key that occurs at most once. None if it is absent or empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values
            .get(key)
            .and_then(|values| values.first())
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Every value of a key that may repeat, in order (E12).
    pub fn all(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a boolean key is true.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    /// Whether the server is asked not to persist. For a delete with a body see [`crate::options`] (B99).
    pub fn is_dry_run(&self) -> bool {
        self.get("dryRun").is_some()
    }

    /// The label selector, if it has terms.
    pub fn labels(&self) -> Option<&LabelSelector> {
        self.labels.as_ref().filter(|selector| selector.terms().next().is_some())
    }

    /// The field selector, if it has terms.
    pub fn fields(&self) -> Option<&FieldSelector> {
        self.fields.as_ref().filter(|selector| selector.terms().next().is_some())
    }

    /// Adds `metadata.namespace!=<namespace>` for each (ruling `-A`).
    pub fn exclude_namespaces<'a>(&mut self, namespaces: impl IntoIterator<Item = &'a str>) {
        for namespace in namespaces {
            self.fields.get_or_insert_default().exclude_namespace(namespace);
        }
    }

    /// Adds `path=value` to the fieldSelector, beside whatever the client asks for.
    pub fn require_field(&mut self, path: &str, value: &str) {
        self.fields.get_or_insert_default().require(path, value);
    }

    /// Whether a key is there that a `DeleteOptions` body carries as well (B99).
    pub(crate) fn has_delete_options(&self) -> bool {
        DELETE.iter().any(|(key, _)| self.values.contains_key(key))
    }

    /// Takes the keys that move into a `DeleteOptions` body (B99).
    pub(crate) fn take_delete_options(&mut self) -> Self {
        let values = DELETE.iter().filter_map(|(key, _)| self.values.remove_entry(key)).collect();
        Self { values, ..Self::default() }
    }

    /// Decoded pairs in canonical order, for the record and for conditions.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let plain =
            self.values.iter().flat_map(|(key, values)| values.iter().map(|value| (*key, value.clone())));
        let mut pairs: Vec<_> = plain.filter(|(key, value)| *key != "pretty" && !value.is_empty()).collect();
        pairs.extend(self.fields().map(|selector| ("fieldSelector", selector.to_string())));
        pairs.extend(self.labels().map(|selector| ("labelSelector", selector.to_string())));
        pairs.sort_by_key(|(key, _)| *key);
        pairs
    }

    /// The canonical query without `?`; empty if there is nothing (P10).
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        for (key, value) in self.pairs() {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(key);
            out.push('=');
            percent::encode(&value, &mut out);
        }
        out
    }
}
