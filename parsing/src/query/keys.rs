//! Which keys a request takes, and what their values must be (P9).

use super::QueryError;
use crate::target::{Method, Path, ResourcePath, Target, is_label};

/// What a value must be.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    Flag,
    /// A flag that may not be set.
    Unset,
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
    Text, Texts, Unset,
};

pub(super) type Key = (&'static str, Shape);

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
pub(super) const DELETE: &[Key] = &[
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
    // The log would be whatever stands between the API server and the kubelet says.
    ("insecureSkipTLSVerifyBackend", Unset),
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

pub(super) const EVERY: [&[Key]; 14] =
    [ANY, OBJECT, LIST, WATCH, WRITE, PATCH, DELETE, LOG, STREAM, EXEC, PORT_FORWARD, OPENAPI, HEALTH, OWN];

/// Which keys a request takes.
pub(super) fn keys(target: &Target) -> Option<Vec<&'static [Key]>> {
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

/// The one form of a value.
pub(super) fn canonical(key: &'static str, shape: Shape, value: String) -> Result<String, QueryError> {
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
        Unset => {
            must(
                matches!(value.as_str(), "false" | "False" | "FALSE" | "0"),
                "absent: the gate reads logs of verified kubelets only",
            )?;
            return Ok("false".to_owned());
        }
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
