//! A message becomes the JSON object that it is (A3).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::schema::{Field, MessageId, Often, SCHEMA, Type};
use super::wire::{self, Wire};
use super::{ProtobufError, special};
use crate::json;

/// Reads a message.
pub(super) fn message(id: MessageId, bytes: &[u8]) -> Result<Map<String, Value>, ProtobufError> {
    Decoder { values: 4 }.message(id, bytes, 0)
}

/// Where a value stands, for what is said about it.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    message: &'static str,
    number: u32,
}

impl Spot {
    /// A value that the field cannot have.
    pub(super) const fn bad(self) -> ProtobufError {
        ProtobufError::Value(self.message, self.number)
    }

    pub(super) const fn wire_type(self) -> ProtobufError {
        ProtobufError::WireType(self.message, self.number)
    }

    const fn doubled(self) -> ProtobufError {
        ProtobufError::Doubled(self.message, self.number)
    }

    fn json(self, bytes: &[u8]) -> Result<Value, ProtobufError> {
        json::read(bytes).map_err(|error| ProtobufError::Json(self.message, self.number, error))
    }
}

/// Reads within the limits of the JSON that comes out: what it makes is read again.
pub(super) struct Decoder {
    /// Each value, and the list or map that it may have opened.
    values: usize,
}

impl Decoder {
    fn count(&mut self, more: usize) -> Result<(), ProtobufError> {
        self.values += more;
        if self.values > json::MAX_VALUES { Err(ProtobufError::TooMany) } else { Ok(()) }
    }

    pub(super) fn message(
        &mut self,
        id: MessageId,
        mut bytes: &[u8],
        depth: usize,
    ) -> Result<Map<String, Value>, ProtobufError> {
        too_deep(depth + 2)?;
        let message = SCHEMA.message(id).ok_or(ProtobufError::Wire)?;
        let (mut object, mut seen) = (Map::new(), 0_u128);
        while let Some((number, wire)) = wire::next(&mut bytes)? {
            let (at, field) =
                message.number(number).ok_or(ProtobufError::UnknownField(message.name, number))?;
            let spot = Spot { message: message.name, number };
            let once = matches!(field.place.often, Often::Once | Often::Maybe);
            if once && seen & (1 << at) != 0 {
                return Err(spot.doubled());
            }
            seen |= 1 << at;
            self.field(*field, wire, spot, depth, &mut object)?;
        }
        Ok(object)
    }

    fn field(
        &mut self,
        field: Field,
        wire: Wire<'_>,
        spot: Spot,
        depth: usize,
        object: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        let kind = field.place.kind;
        match field.place.often {
            Often::Once | Often::Maybe => {
                let value = self.value(kind, wire, spot, depth)?;
                if field.inline
                    && let Value::Object(inner) = value
                {
                    object.extend(inner);
                } else if !field.place.says_nothing(&value) {
                    object.insert(field.key.to_owned(), value);
                }
            }
            Often::List => {
                let item = self.value(kind, wire, spot, depth + 1)?;
                let list = object.entry(field.key).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().ok_or(spot.bad())?.push(item);
            }
            Often::Map => {
                let Wire::Bytes(bytes) = wire else { return Err(spot.wire_type()) };
                let (key, value) = self.entry(kind, bytes, spot, depth + 1)?;
                let map = object.entry(field.key).or_insert_with(|| Value::Object(Map::new()));
                if map.as_object_mut().ok_or(spot.bad())?.insert(key, value).is_some() {
                    return Err(spot.doubled());
                }
            }
        }
        Ok(())
    }

    /// One entry of a map: key and value, either absent if it is empty.
    fn entry(
        &mut self,
        kind: Type,
        bytes: &[u8],
        spot: Spot,
        depth: usize,
    ) -> Result<(String, Value), ProtobufError> {
        let [key, value] = wire::fields(bytes, spot.message)?;
        let key = text(key.unwrap_or(Wire::Bytes(&[])), spot)?;
        let value = self.value(kind, value.unwrap_or(kind.nothing()), spot, depth)?;
        Ok((key, value))
    }

    pub(super) fn value(
        &mut self,
        kind: Type,
        wire: Wire<'_>,
        spot: Spot,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        self.count(2)?;
        let number = || match wire {
            // Two's complement is how the format writes negative numbers.
            Wire::Varint(number) => Ok(number.cast_signed()),
            Wire::Fixed64(_) | Wire::Bytes(_) => Err(spot.wire_type()),
        };
        let bytes = || match wire {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Varint(_) | Wire::Fixed64(_) => Err(spot.wire_type()),
        };
        Ok(match kind {
            Type::Text => text(wire, spot)?.into(),
            Type::Bool => special::flag(number()?, spot)?.into(),
            Type::Int32 => i32::try_from(number()?).map_err(|_| spot.bad())?.into(),
            Type::Int64 => number()?.into(),
            Type::Double => double(wire, spot)?,
            Type::Bytes => STANDARD.encode(bytes()?).into(),
            Type::Time => special::time(bytes()?, false, spot)?,
            Type::MicroTime => special::time(bytes()?, true, spot)?,
            Type::Quantity => special::quantity(bytes()?, spot)?,
            Type::IntOrString => special::int_or_string(bytes()?, spot)?,
            Type::Json => self.json(bytes()?, spot, depth)?,
            Type::Texts => self.counted(special::texts(bytes()?, spot)?, depth)?,
            Type::SchemaOrBool => self.schema_or_bool(bytes()?, spot, depth)?,
            Type::SchemaOrArray => self.schema_or_array(bytes()?, spot, depth)?,
            Type::SchemaOrTexts => self.schema_or_texts(bytes()?, spot, depth)?,
            Type::Message(id) => Value::Object(self.message(id, bytes()?, depth + 1)?),
        })
    }

    /// `{raw}`: JSON text, and nothing else (a nested protobuf message or CBOR is refused).
    fn json(&mut self, bytes: &[u8], spot: Spot, depth: usize) -> Result<Value, ProtobufError> {
        let [raw] = wire::strings(bytes, spot.message)?;
        let Some(raw) = raw.filter(|raw| !raw.is_empty()) else { return Ok(Value::Null) };
        self.counted(spot.json(raw)?, depth)
    }

    fn counted(&mut self, value: Value, depth: usize) -> Result<Value, ProtobufError> {
        let (values, height) = size(&value);
        self.count(values)?;
        too_deep(depth + 1 + height)?;
        Ok(value)
    }

    /// One that is a schema allows by that.
    fn schema_or_bool(&mut self, bytes: &[u8], spot: Spot, depth: usize) -> Result<Value, ProtobufError> {
        let [allows, schema] = wire::fields(bytes, spot.message)?;
        let allows = match allows {
            None => false,
            Some(Wire::Varint(number)) => special::flag(number.cast_signed(), spot)?,
            Some(Wire::Fixed64(_) | Wire::Bytes(_)) => return Err(spot.wire_type()),
        };
        match schema {
            None => Ok(allows.into()),
            Some(wire) => self.value(Type::Message(SCHEMA.props()), wire, spot, depth),
        }
    }

    fn schema_or_array(&mut self, bytes: &[u8], spot: Spot, depth: usize) -> Result<Value, ProtobufError> {
        let props = Type::Message(SCHEMA.props());
        self.either(bytes, props, spot, depth)
    }

    fn schema_or_texts(&mut self, bytes: &[u8], spot: Spot, depth: usize) -> Result<Value, ProtobufError> {
        self.either(bytes, Type::Text, spot, depth)
    }

    /// A schema in field 1, or a list in field 2.
    fn either(
        &mut self,
        mut bytes: &[u8],
        item: Type,
        spot: Spot,
        depth: usize,
    ) -> Result<Value, ProtobufError> {
        let (mut schema, mut list) = (None, Vec::new());
        while let Some((number, wire)) = wire::next(&mut bytes)? {
            match number {
                1 if schema.is_none() => {
                    schema = Some(self.value(Type::Message(SCHEMA.props()), wire, spot, depth)?);
                }
                1 => return Err(spot.doubled()),
                2 => list.push(self.value(item, wire, spot, depth)?),
                _ => return Err(ProtobufError::UnknownField(spot.message, number)),
            }
        }
        match (schema, list.is_empty()) {
            (schema, true) => Ok(schema.unwrap_or(Value::Null)),
            (None, false) => Ok(Value::Array(list)),
            (Some(_), false) => Err(spot.bad()),
        }
    }
}

impl Type {
    /// What stands for a value that a map's entry leaves out.
    const fn nothing(self) -> Wire<'static> {
        match self {
            Self::Bool | Self::Int32 | Self::Int64 => Wire::Varint(0),
            Self::Double => Wire::Fixed64(0),
            Self::Text
            | Self::Bytes
            | Self::Time
            | Self::MicroTime
            | Self::Quantity
            | Self::IntOrString
            | Self::Json
            | Self::Texts
            | Self::SchemaOrBool
            | Self::SchemaOrArray
            | Self::SchemaOrTexts
            | Self::Message(_) => Wire::Bytes(&[]),
        }
    }
}

fn text(wire: Wire<'_>, spot: Spot) -> Result<String, ProtobufError> {
    let Wire::Bytes(bytes) = wire else { return Err(spot.wire_type()) };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| spot.bad())
}

/// As Go writes a float that is a whole number.
#[allow(clippy::cast_possible_truncation, reason = "only whole numbers that an i64 holds exactly")]
fn double(wire: Wire<'_>, spot: Spot) -> Result<Value, ProtobufError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Wire::Fixed64(bits) = wire else { return Err(spot.wire_type()) };
    let number = f64::from_bits(bits);
    if number.fract() == 0.0 && number.abs() <= EXACT {
        let negative_zero = number == 0.0 && number.is_sign_negative();
        return if negative_zero { Err(spot.bad()) } else { Ok((number as i64).into()) };
    }
    Number::from_f64(number).map(Value::Number).ok_or(spot.bad())
}

const fn too_deep(depth: usize) -> Result<(), ProtobufError> {
    if depth > json::MAX_DEPTH { Err(ProtobufError::TooDeep) } else { Ok(()) }
}

/// How many values there are, and how far they nest.
fn size(value: &Value) -> (usize, usize) {
    let all = |(values, height): (usize, usize), inner: &Value| {
        let (more, deep) = size(inner);
        (values + more, height.max(deep + 1))
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (1, 0),
        Value::Array(items) => items.iter().fold((1, 0), all),
        Value::Object(map) => map.values().fold((1, 0), all),
    }
}
