//! What expressions are asked about: a small JSON document, bound once.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value;
use cel::objects::{Key, Map};

/// Most entries of one list or object.
pub const MAX_LIST: usize = 256;
/// Most values in all.
pub const MAX_VALUES: usize = 4096;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 16;

/// A document within bounds. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Document(Value);

/// Why a document is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A list or object with more than [`MAX_LIST`] entries.
    #[error("a list or object has more than {MAX_LIST} entries")]
    TooLong,
    /// More than [`MAX_VALUES`].
    #[error("there are more than {MAX_VALUES} values")]
    TooMany,
    /// Deeper than [`MAX_DEPTH`].
    #[error("values are nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

impl Document {
    /// Binds a document. Integers become CEL's `int`, other numbers `double`.
    ///
    /// # Errors
    /// [`DocumentError`]: it is too large to be asked about.
    pub fn new(json: &serde_json::Value) -> Result<Document, DocumentError> {
        let mut left = MAX_VALUES;
        convert(json, 0, &mut left).map(Document)
    }

    pub(super) fn value(&self) -> Value {
        self.0.clone()
    }
}

fn convert(json: &serde_json::Value, depth: usize, left: &mut usize) -> Result<Value, DocumentError> {
    *left = left.checked_sub(1).ok_or(DocumentError::TooMany)?;
    if depth > MAX_DEPTH {
        return Err(DocumentError::TooDeep);
    }
    let deeper = depth.saturating_add(1);
    Ok(match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(one) => Value::Bool(*one),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => Value::Int(integer),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(list) => {
            fits(list.len())?;
            let list: Result<Vec<Value>, DocumentError> =
                list.iter().map(|one| convert(one, deeper, left)).collect();
            Value::List(Arc::new(list?))
        }
        serde_json::Value::Object(object) => {
            fits(object.len())?;
            let mut map = HashMap::with_capacity(object.len());
            for (key, value) in object {
                map.insert(Key::String(Arc::new(key.clone())), convert(value, deeper, left)?);
            }
            Value::Map(Map { map: Arc::new(map) })
        }
    })
}

fn fits(count: usize) -> Result<(), DocumentError> {
    if count > MAX_LIST { Err(DocumentError::TooLong) } else { Ok(()) }
}
