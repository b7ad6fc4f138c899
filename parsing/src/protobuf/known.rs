//! JSON against the table: fields that Kubernetes does not know, and what may be left out (B103, appendix 4).

use serde_json::Value;

use super::schema::{MessageId, Often, Place, SCHEMA, Type};

/// The path of a field that the table does not have, as in `.spec.containers[0].colour`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown(pub String);

/// Longest path that is told, in characters.
const LONGEST_PATH: usize = 256;

/// Refuses keys of an object of a known kind that are none of its fields. Kinds that are not in the table pass: custom
/// resources, and what newer servers serve.
///
/// `strategic`: the directives of strategic merge patches are fields too.
pub(crate) fn check_patch(
    api_version: &str,
    kind: &str,
    value: &Value,
    strategic: bool,
) -> Result<(), Unknown> {
    let Some(id) = SCHEMA.kind(api_version, kind) else { return Ok(()) };
    Check { strategic, path: String::new() }.value(Type::Message(id), value)
}

/// As [`check_patch`], for one operation of a JSON patch.
pub(crate) fn check_pointer(api_version: &str, kind: &str, operation: &Value) -> Result<(), Unknown> {
    let Some(id) = SCHEMA.kind(api_version, kind) else { return Ok(()) };
    let root = Place { often: Often::Once, kind: Type::Message(id) };
    let at =
        |key: &str| operation.get(key).and_then(Value::as_str).map(|pointer| (pointer, find(root, pointer)));
    let Some((pointer, place)) = at("path") else { return Ok(()) };
    let place = place?;
    if let Some((_, from)) = at("from")
        && !from?.holds_as(place)
    {
        return Err(Unknown(pointer.chars().take(LONGEST_PATH).collect()));
    }
    let mut check = Check { strategic: false, path: pointer.to_owned() };
    operation.get("value").map_or(Ok(()), |value| check.place(place, value))
}

/// What stands at a JSON pointer.
fn find(root: Place, pointer: &str) -> Result<Place, Unknown> {
    let mut place = root;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let inner = match (place.often, place.kind) {
            (_, Type::Json) => return Ok(place),
            (Often::List | Often::Map, kind) => Some(Place { often: Often::Once, kind }),
            (Often::Once | Often::Maybe, Type::Message(id)) => key(id, &token),
            (Often::Once | Often::Maybe, Type::Texts) => Some(Place { often: Often::Once, kind: Type::Text }),
            (Often::Once | Often::Maybe, Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrTexts) => {
                let item = Place { often: Often::Once, kind: place.kind };
                let is_item = token == "-" || token.bytes().all(|byte| byte.is_ascii_digit());
                if is_item { Some(item) } else { key(SCHEMA.props(), &token) }
            }
            (Often::Once | Often::Maybe, _) => None,
        };
        place = inner.ok_or_else(|| Unknown(pointer.chars().take(LONGEST_PATH).collect()))?;
    }
    Ok(place)
}

fn key(id: MessageId, key: &str) -> Option<Place> {
    SCHEMA.message(id)?.key(key)
}

impl Type {
    /// The message whose fields an object of this type has; `None` for what has no fields of a known name.
    fn nested(self) -> Option<MessageId> {
        match self {
            Type::Message(id) => Some(id),
            Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrTexts => Some(SCHEMA.props()),
            Type::Text
            | Type::Bool
            | Type::Int32
            | Type::Int64
            | Type::Double
            | Type::Bytes
            | Type::Time
            | Type::MicroTime
            | Type::Quantity
            | Type::IntOrString
            | Type::Json
            | Type::Texts => None,
        }
    }
}

impl Place {
    /// Whether what stands here has the fields that it may have there.
    fn holds_as(self, there: Self) -> bool {
        let many = |place: Self| match place.often {
            Often::Once | Often::Maybe => None,
            Often::List | Often::Map => Some(place.often),
        };
        there.kind == Type::Json || (self.kind == there.kind && many(self) == many(there))
    }
}

struct Check {
    strategic: bool,
    path: String,
}

impl Check {
    fn place(&mut self, place: Place, value: &Value) -> Result<(), Unknown> {
        let length = self.path.len();
        match (place.often, value) {
            (Often::List, Value::Array(items)) => {
                for (at, item) in items.iter().enumerate() {
                    self.path.push_str(&format!("[{at}]"));
                    self.value(place.kind, item)?;
                    self.path.truncate(length);
                }
            }
            (Often::Map, Value::Object(map)) => {
                for (key, value) in map {
                    self.push(key);
                    self.value(place.kind, value)?;
                    self.path.truncate(length);
                }
            }
            // Another type than the field's: the API server refuses it, but may read what is in it first.
            (Often::List | Often::Map | Often::Once | Often::Maybe, value) => {
                self.value(place.kind, value)?
            }
        }
        Ok(())
    }

    fn value(&mut self, kind: Type, value: &Value) -> Result<(), Unknown> {
        let Some(id) = kind.nested() else { return Ok(()) };
        let length = self.path.len();
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    self.push(name);
                    let place = key(id, name);
                    match place {
                        Some(place) => self.place(place, value)?,
                        None if self.strategic && is_directive(id, name) => {}
                        None => return Err(self.unknown()),
                    }
                    self.path.truncate(length);
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.value(kind, item)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn push(&mut self, key: &str) {
        let bare = !key.is_empty()
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$'));
        if bare {
            self.path.push('.');
            self.path.push_str(key);
        } else {
            self.path.push_str(&format!("['{}']", key.escape_default()));
        }
    }

    fn unknown(&self) -> Unknown {
        Unknown(self.path.chars().take(LONGEST_PATH).collect())
    }
}

/// A directive of a strategic merge patch, on a field that there is.
fn is_directive(id: MessageId, name: &str) -> bool {
    match name.split_once('/') {
        None => matches!(name, "$patch" | "$retainKeys"),
        Some(("$setElementOrder" | "$deleteFromPrimitiveList", field)) => key(id, field).is_some(),
        Some(_) => false,
    }
}

/// Leaves out of an object of a known kind what the API server reads as if it were not there: null, and a zero value
/// where absent and zero are one. Two objects of one meaning become one; objects of two meanings stay two.
pub fn normalise(object: &mut Value) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    if let Some(id) = SCHEMA.kind(text("apiVersion"), text("kind")) {
        normalise_value(Type::Message(id), object);
    }
}

fn normalise_place(place: Place, value: &mut Value) {
    match (place.often, &mut *value) {
        (Often::List, Value::Array(items)) => {
            items.iter_mut().for_each(|item| normalise_value(place.kind, item));
        }
        (Often::Map, Value::Object(map)) => {
            map.values_mut().for_each(|value| normalise_value(place.kind, value));
        }
        (Often::List | Often::Map, _) => {}
        (Often::Once | Often::Maybe, value) => normalise_value(place.kind, value),
    }
}

fn normalise_value(kind: Type, value: &mut Value) {
    let Some(id) = kind.nested() else { return };
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let Some(place) = key(id, name) else { return true };
            normalise_place(place, value);
            !place.says_nothing(value)
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| normalise_value(kind, item)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
