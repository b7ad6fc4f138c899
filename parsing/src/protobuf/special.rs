//! Types that have a form of their own in JSON.

use serde_json::{Number, Value};

use super::decode::Spot;
use super::wire::{self, Wire};
use super::{Place, ProtobufError};
use crate::protobuf::schema::{Often, Type};

pub(super) fn flag(number: i64, spot: Spot) -> Result<bool, ProtobufError> {
    match number {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(spot.bad()),
    }
}

/// The first second of year 1, which Go means by no time.
const NO_TIME: i64 = -62_135_596_800;

/// RFC 3339 in whole seconds, or with six digits. What is finer is dropped, as the API server drops it.
pub(super) fn time(bytes: &[u8], micro: bool, spot: Spot) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let [seconds, nanos] = wire::fields(bytes, "meta/v1.Timestamp")?;
    let number = |wire: Option<Wire<'_>>| match wire {
        None => Ok(0),
        Some(Wire::Varint(number)) => Ok(number.cast_signed()),
        Some(Wire::Fixed64(_) | Wire::Bytes(_)) => Err(spot.wire_type()),
    };
    let (seconds, nanos) = (number(seconds)?, number(nanos)?);
    let nanos = i32::try_from(nanos).ok().filter(|nanos| (0..1_000_000_000).contains(nanos));
    let nanos =
        if micro { nanos.ok_or(spot.bad())? / 1000 * 1000 } else { nanos.ok_or(spot.bad()).map(|_| 0)? };
    if (seconds, nanos) == (NO_TIME, 0) {
        return Ok(Value::Null);
    }
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| spot.bad())?;
    if seconds < NO_TIME {
        return Err(spot.bad());
    }
    Ok(if micro { format!("{time:.6}") } else { time.to_string() }.into())
}

/// The API server reads its grammar.
pub(super) fn quantity(bytes: &[u8], spot: Spot) -> Result<Value, ProtobufError> {
    let [text] = wire::strings(bytes, "resource.Quantity")?;
    let text = text.unwrap_or(b"0");
    if text.is_empty() {
        return Err(spot.bad());
    }
    std::str::from_utf8(text).map(Value::from).map_err(|_| spot.bad())
}

pub(super) fn int_or_string(bytes: &[u8], spot: Spot) -> Result<Value, ProtobufError> {
    let [kind, number, text] = wire::fields(bytes, "intstr.IntOrString")?;
    let varint = |wire: Option<Wire<'_>>| match wire {
        None => Ok(0),
        Some(Wire::Varint(number)) => Ok(number.cast_signed()),
        Some(Wire::Fixed64(_) | Wire::Bytes(_)) => Err(spot.wire_type()),
    };
    let number = i32::try_from(varint(number)?).map_err(|_| spot.bad())?;
    let text = match text {
        None => "",
        Some(Wire::Bytes(bytes)) => std::str::from_utf8(bytes).map_err(|_| spot.bad())?,
        Some(Wire::Varint(_) | Wire::Fixed64(_)) => return Err(spot.wire_type()),
    };
    match (varint(kind)?, number, text) {
        (0, number, "") => Ok(number.into()),
        (1, 0, text) => Ok(text.into()),
        // One of the two would be dropped.
        _ => Err(spot.bad()),
    }
}

/// `{items}`: a list of texts.
pub(super) fn texts(mut bytes: &[u8], spot: Spot) -> Result<Value, ProtobufError> {
    let mut items = Vec::new();
    while let Some((number, wire)) = wire::next(&mut bytes)? {
        match (number, wire) {
            (1, Wire::Bytes(item)) => {
                items.push(std::str::from_utf8(item).map(Value::from).map_err(|_| spot.bad())?);
            }
            (1, Wire::Varint(_) | Wire::Fixed64(_)) => return Err(spot.wire_type()),
            (_, Wire::Bytes(_) | Wire::Varint(_) | Wire::Fixed64(_)) => return Err(spot.bad()),
        }
    }
    Ok(Value::Array(items))
}

impl Place {
    /// Whether the API server reads the same if the value is left out here.
    pub(super) fn says_nothing(self, value: &Value) -> bool {
        value.is_null() || (self.often == Often::Once && self.kind.is_zero(value))
    }
}

impl Type {
    fn is_zero(self, value: &Value) -> bool {
        let is_0 = || value.as_number().is_some_and(|number| *number == Number::from(0));
        match self {
            Self::Text | Self::Bytes => value == "",
            Self::Bool => value == false,
            Self::Int32 | Self::Int64 | Self::Double | Self::IntOrString => is_0(),
            Self::Quantity => value == "0",
            Self::Message(_) => value.as_object().is_some_and(serde_json::Map::is_empty),
            Self::Time
            | Self::MicroTime
            | Self::Json
            | Self::Texts
            | Self::SchemaOrBool
            | Self::SchemaOrArray
            | Self::SchemaOrTexts => false,
        }
    }
}
