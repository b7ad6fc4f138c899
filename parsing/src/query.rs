//! The query: every key known, every value checked, written back in one form (P9, P13).

use std::collections::BTreeMap;

use http::StatusCode;

use crate::percent;
use crate::refusal::Refused;
use crate::selector::{FieldSelector, LabelSelector, SelectorError};
use crate::target::{Method, Path, ResourcePath, Target, is_label};

/// Why a query is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// P9: an empty pair, as in `a=1&&b=2`.
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

/// What a value must be.
#[derive(Clone, Copy)]
enum Shape {
    Flag,
    /// A flag that may stand alone, as in `/livez?verbose`.
    BareFlag,
    Number,
    DryRun,
    Labels,
    Fields,
    /// Visible ASCII; empty means absent.
    Text,
    Label,
    Duration,
    Moment,
    OneOf(&'static [&'static str], &'static str),
    /// May repeat; any text without NUL.
    Argument,
    /// May repeat.
    Ports,
    /// May repeat; visible ASCII.
    Texts,
    /// Accepted and dropped (B11).
    Dropped,
}

use Shape::{
    Argument, BareFlag, Dropped, DryRun, Duration, Fields, Flag, Label, Labels, Moment, Number, OneOf, Ports,
    Text, Texts,
};

type Key = (&'static str, Shape);

const ANY: &[Key] = &[("pretty", Dropped), ("timeout", Duration)];
const OBJECT: &[Key] = &[
    ("includeObject", OneOf(&["None", "Metadata", "Object"], "`None`, `Metadata` or `Object`")),
    ("resourceVersion", Text),
];
const LIST: &[Key] = &[
    ("allowWatchBookmarks", Flag),
    ("continue", Text),
    ("fieldSelector", Fields),
    ("labelSelector", Labels),
    ("limit", Number),
    ("resourceVersionMatch", OneOf(&["Exact", "NotOlderThan"], "`Exact` or `NotOlderThan`")),
    ("sendInitialEvents", Flag),
    ("timeoutSeconds", Number),
];
const WATCH: &[Key] = &[("watch", Flag)];
const WRITE: &[Key] = &[
    ("dryRun", DryRun),
    ("fieldManager", Text),
    ("fieldValidation", OneOf(&["Ignore", "Warn", "Strict"], "`Ignore`, `Warn` or `Strict`")),
];
const PATCH: &[Key] = &[("force", Flag)];
/// The keys that a `DeleteOptions` body carries as well (B99).
const DELETE: &[Key] = &[
    ("dryRun", DryRun),
    ("gracePeriodSeconds", Number),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", Flag),
    ("orphanDependents", Flag),
    (
        "propagationPolicy",
        OneOf(&["Orphan", "Background", "Foreground"], "`Orphan`, `Background` or `Foreground`"),
    ),
];
const LOG: &[Key] = &[
    ("container", Label),
    ("follow", Flag),
    ("insecureSkipTLSVerifyBackend", Flag),
    ("limitBytes", Number),
    ("previous", Flag),
    ("sinceSeconds", Number),
    ("sinceTime", Moment),
    ("stream", OneOf(&["All", "Stdout", "Stderr"], "`All`, `Stdout` or `Stderr`")),
    ("tailLines", Number),
    ("timestamps", Flag),
];
const STREAM: &[Key] =
    &[("container", Label), ("stderr", Flag), ("stdin", Flag), ("stdout", Flag), ("tty", Flag)];
const EXEC: &[Key] = &[("command", Argument)];
const PORT_FORWARD: &[Key] = &[("ports", Ports)];
const OPENAPI: &[Key] = &[("hash", Text)];
const HEALTH: &[Key] = &[("exclude", Texts), ("verbose", BareFlag)];
const OWN: &[Key] = &[
    ("name", Text),
    ("namespace", Label),
    ("path", Text),
    ("resource", Text),
    ("subresource", Label),
    ("timeoutSeconds", Number),
    ("verb", Text),
];

const EVERY: [&[Key]; 14] =
    [ANY, OBJECT, LIST, WATCH, WRITE, PATCH, DELETE, LOG, STREAM, EXEC, PORT_FORWARD, OPENAPI, HEALTH, OWN];

/// Which keys a request takes.
fn keys(target: &Target) -> Option<Vec<&'static [Key]>> {
    let path = match &target.path {
        Path::NonResource(segments) => return Some(non_resource_keys(segments)),
        Path::Resource(path) => path,
    };
    let sub = path.subresource.as_deref();
    if path.is_connect() {
        return match sub {
            Some("exec") => Some(vec![ANY, STREAM, EXEC]),
            Some("attach") => Some(vec![ANY, STREAM]),
            Some("portforward") => Some(vec![ANY, PORT_FORWARD]),
            Some(_) | None => None,
        };
    }
    Some(match target.method {
        Method::Get if is_log(path) => vec![ANY, LOG],
        Method::Get if path.name.is_some() => vec![ANY, OBJECT],
        Method::Get => vec![ANY, OBJECT, LIST, WATCH],
        Method::Post | Method::Put => vec![ANY, WRITE],
        Method::Patch => vec![ANY, WRITE, PATCH],
        Method::Delete if path.name.is_some() => vec![ANY, DELETE],
        Method::Delete => vec![ANY, DELETE, OBJECT, LIST],
    })
}

fn is_log(path: &ResourcePath) -> bool {
    path.group.is_empty() && path.resource == "pods" && path.subresource.as_deref() == Some("log")
}

fn non_resource_keys(segments: &[String]) -> Vec<&'static [Key]> {
    match segments.first().map(String::as_str) {
        Some("api" | "apis" | "version") => vec![ANY],
        Some("openapi") => vec![ANY, OPENAPI],
        Some("sallyport") => vec![ANY, OWN],
        Some(_) | None => vec![ANY, HEALTH],
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
            Flag | BareFlag | Number | DryRun | Text | Label | Duration | Moment | OneOf(..) | Argument
            | Ports | Texts | Dropped => {
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

fn canonical(key: &'static str, shape: Shape, value: String) -> Result<String, QueryError> {
    let must =
        |holds: bool, what: &'static str| if holds { Ok(()) } else { Err(QueryError::Value(key, what)) };
    match shape {
        Flag | BareFlag => match value.as_str() {
            "true" | "True" | "TRUE" | "1" | "t" | "T" => return Ok("true".to_owned()),
            // `f` and `F` are true to the API server, so they are refused.
            "false" | "False" | "FALSE" | "0" => return Ok("false".to_owned()),
            "" if matches!(shape, BareFlag) => return Ok("true".to_owned()),
            _ => must(false, "`true` or `false`")?,
        },
        Number => {
            return number(&value)
                .map(|n| n.to_string())
                .ok_or(QueryError::Value(key, "a whole number, not negative"));
        }
        Ports => {
            let port = number(&value).filter(|n| (1..=65_535).contains(n));
            return port.map(|n| n.to_string()).ok_or(QueryError::Value(key, "a port"));
        }
        DryRun => must(value == "All", "`All`")?,
        Label => must(is_label(&value), "a DNS label")?,
        Duration => must(is_duration(&value), "a duration such as `30s`")?,
        Moment => must(is_moment(&value), "a time such as `2026-11-20T14:00:00Z`")?,
        OneOf(values, what) => must(values.contains(&value.as_str()), what)?,
        Argument => must(!value.contains('\0'), "text without NUL")?,
        Texts => must(!value.is_empty() && is_text(&value), "visible ASCII")?,
        Text => must(is_text(&value), "visible ASCII of at most 4096 characters")?,
        Dropped => return Ok(String::new()),
        Labels | Fields => {}
    }
    Ok(value)
}

fn number(value: &str) -> Option<i64> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    if digits { value.parse().ok() } else { None }
}

fn is_text(value: &str) -> bool {
    value.len() <= 4096 && value.bytes().all(|b| b.is_ascii_graphic())
}

/// Go's `time.ParseDuration` without sign and fraction.
fn is_duration(value: &str) -> bool {
    let mut rest = value;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = rest.len() - unit.len();
        let Some(after) = ["ms", "us", "ns", "s", "m", "h"].iter().find_map(|u| unit.strip_prefix(u)) else {
            return value == "0";
        };
        if digits == 0 || digits > 12 {
            return false;
        }
        rest = after;
    }
    !value.is_empty()
}

fn is_moment(value: &str) -> bool {
    (20..=40).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit() || b"-:TZ.+".contains(&b))
}
