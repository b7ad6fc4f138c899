//! The options of a delete: from query or body, never both; sent in the body only (B99).

use http::StatusCode;
use serde_json::{Map, Value};

use crate::query::Query;
use crate::refusal::Refused;

/// Why delete options are not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The server would ignore the query.
    #[error("delete options are in the query and in the body; the server would read the body only")]
    BothPlaces,
    /// Not an object, or of another kind.
    #[error("the body of a delete must be `DeleteOptions`")]
    Kind,
    /// A field that is none.
    #[error("`DeleteOptions` has an unknown field; fields are case-sensitive")]
    UnknownField,
    /// A value that the field cannot have.
    #[error("`{0}` of `DeleteOptions` has a bad value")]
    Value(&'static str),
}

impl Refused for OptionsError {
    fn rule(&self) -> &'static str {
        "B99"
    }

    fn code(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// How dependents are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go later.
    Background,
    /// They go first.
    Foreground,
}

impl Propagation {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Orphan, Self::Background, Self::Foreground].into_iter().find(|word| word.as_str() == text)
    }
}

/// `DeleteOptions` of `meta.k8s.io/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeleteOptions {
    /// Seconds; not negative.
    pub grace_period_seconds: Option<i64>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this resourceVersion.
    pub resource_version: Option<String>,
    /// Older word for [`Propagation::Orphan`].
    pub orphan_dependents: Option<bool>,
    /// How dependents are treated.
    pub propagation: Option<Propagation>,
    /// Nothing is persisted.
    pub dry_run: bool,
    /// Delete even what cannot be read from storage.
    pub ignore_store_read_error: Option<bool>,
}

const IGNORE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

impl DeleteOptions {
    /// From the query's own keys.
    pub(crate) fn from_query(query: &Query) -> Self {
        let flag = |key| query.get(key).map(|value| value == "true");
        Self {
            grace_period_seconds: query.get("gracePeriodSeconds").and_then(|text| text.parse().ok()),
            uid: None,
            resource_version: None,
            orphan_dependents: flag("orphanDependents"),
            propagation: query.get("propagationPolicy").and_then(Propagation::read),
            dry_run: query.is_dry_run(),
            ignore_store_read_error: flag(IGNORE),
        }
    }

    /// From a JSON body. `api_version` is that of the URL: typed clients write it here.
    ///
    /// # Errors
    /// If it is not `DeleteOptions` to the letter.
    pub fn from_json(value: Value, api_version: &str) -> Result<Self, OptionsError> {
        let Value::Object(mut map) = value else { return Err(OptionsError::Kind) };
        check_kind(&mut map, api_version)?;
        let mut preconditions = match map.remove("preconditions") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(OptionsError::Value("preconditions")),
        };
        let options = Self {
            grace_period_seconds: number(&mut map, "gracePeriodSeconds")?,
            uid: text(&mut preconditions, "uid")?,
            resource_version: text(&mut preconditions, "resourceVersion")?,
            orphan_dependents: flag(&mut map, "orphanDependents")?,
            propagation: propagation(text(&mut map, "propagationPolicy")?)?,
            dry_run: dry_run(map.remove("dryRun"))?,
            ignore_store_read_error: flag(&mut map, IGNORE)?,
        };
        if map.is_empty() && preconditions.is_empty() { Ok(options) } else { Err(OptionsError::UnknownField) }
    }

    /// The body to send, without `kind`, as kubectl sends it. An object without keys if there are no options.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        let mut put =
            |key: &str, value: Option<Value>| value.and_then(|value| map.insert(key.to_owned(), value));
        let mut preconditions = Map::new();
        if let Some(uid) = &self.uid {
            preconditions.insert("uid".to_owned(), uid.as_str().into());
        }
        if let Some(version) = &self.resource_version {
            preconditions.insert("resourceVersion".to_owned(), version.as_str().into());
        }
        put("gracePeriodSeconds", self.grace_period_seconds.map(Value::from));
        put("preconditions", (!preconditions.is_empty()).then_some(Value::Object(preconditions)));
        put("orphanDependents", self.orphan_dependents.map(Value::from));
        put("propagationPolicy", self.propagation.map(|word| word.as_str().into()));
        put("dryRun", self.dry_run.then(|| Value::from(vec!["All"])));
        put(IGNORE, self.ignore_store_read_error.map(Value::from));
        Value::Object(map)
    }
}

fn check_kind(map: &mut Map<String, Value>, api_version: &str) -> Result<(), OptionsError> {
    let kind = map.remove("kind").unwrap_or_else(|| "DeleteOptions".into());
    let version = map.remove("apiVersion").unwrap_or_else(|| "v1".into());
    let known =
        version.as_str().is_some_and(|version| [api_version, "v1", "meta.k8s.io/v1"].contains(&version));
    if known && kind == "DeleteOptions" { Ok(()) } else { Err(OptionsError::Kind) }
}

fn number(map: &mut Map<String, Value>, key: &'static str) -> Result<Option<i64>, OptionsError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_i64().filter(|n| *n >= 0).map(Some).ok_or(OptionsError::Value(key)),
    }
}

fn flag(map: &mut Map<String, Value>, key: &'static str) -> Result<Option<bool>, OptionsError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_bool().map(Some).ok_or(OptionsError::Value(key)),
    }
}

fn text(map: &mut Map<String, Value>, key: &'static str) -> Result<Option<String>, OptionsError> {
    match map.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(OptionsError::Value(key)),
    }
}

fn propagation(text: Option<String>) -> Result<Option<Propagation>, OptionsError> {
    match text {
        None => Ok(None),
        Some(text) => Propagation::read(&text).map(Some).ok_or(OptionsError::Value("propagationPolicy")),
    }
}

fn dry_run(value: Option<Value>) -> Result<bool, OptionsError> {
    let items = match value {
        None | Some(Value::Null) => return Ok(false),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(OptionsError::Value("dryRun")),
    };
    let words: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    words.and_then(|words| all(&words)).ok_or(OptionsError::Value("dryRun"))
}

/// `All` is the only word; an empty list is no dry run.
fn all(words: &[String]) -> Option<bool> {
    match words {
        [] => Some(false),
        [word] if word == "All" => Some(true),
        _ => None,
    }
}
