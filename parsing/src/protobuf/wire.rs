//! The wire format: one field after another, and nothing else.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::ProtobufError;

/// A field's value as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// Takes the next field off `bytes`; none at the end.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u32, Wire<'a>)>, ProtobufError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (number, wire) = decode_key(bytes).map_err(|_| ProtobufError::Wire)?;
    let value = match wire {
        WireType::Varint => Wire::Varint(decode_varint(bytes).map_err(|_| ProtobufError::Wire)?),
        WireType::SixtyFourBit => Wire::Fixed64(bytes.try_get_u64_le().map_err(|_| ProtobufError::Wire)?),
        WireType::LengthDelimited => {
            let length = decode_varint(bytes).map_err(|_| ProtobufError::Wire)?;
            let length = usize::try_from(length).map_err(|_| ProtobufError::Wire)?;
            let (head, tail) = bytes.split_at_checked(length).ok_or(ProtobufError::Wire)?;
            *bytes = tail;
            Wire::Bytes(head)
        }
        WireType::ThirtyTwoBit | WireType::StartGroup | WireType::EndGroup => {
            return Err(ProtobufError::Wire);
        }
    };
    Ok(Some((number, value)))
}

/// The fields of a small message of the given name, by number from 1; each at most once, and no others.
pub(super) fn fields<'a, const N: usize>(
    mut bytes: &'a [u8],
    message: &'static str,
) -> Result<[Option<Wire<'a>>; N], ProtobufError> {
    let mut found = [None; N];
    while let Some((number, value)) = next(&mut bytes)? {
        let place = (number as usize).checked_sub(1).and_then(|at| found.get_mut(at));
        let place = place.ok_or(ProtobufError::UnknownField(message, number))?;
        if place.replace(value).is_some() {
            return Err(ProtobufError::Doubled(message, number));
        }
    }
    Ok(found)
}

/// As [`fields`], where all are length-delimited.
pub(super) fn strings<'a, const N: usize>(
    bytes: &'a [u8],
    message: &'static str,
) -> Result<[Option<&'a [u8]>; N], ProtobufError> {
    let mut out = [None; N];
    for (at, (field, place)) in fields::<N>(bytes, message)?.into_iter().zip(&mut out).enumerate() {
        *place = match field {
            None => None,
            Some(Wire::Bytes(bytes)) => Some(bytes),
            Some(Wire::Varint(_) | Wire::Fixed64(_)) => {
                let number = u32::try_from(at).unwrap_or(u32::MAX).saturating_add(1);
                return Err(ProtobufError::WireType(message, number));
            }
        };
    }
    Ok(out)
}
