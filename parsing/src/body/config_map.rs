//! A ConfigMap's protobuf message as the object that it would be in JSON (A3).
//!
//! The one kind that is stored and read in protobuf: helm keeps its releases there, client-go and kubectl >= 1.32 write it so. Numbers
//! as in the API's generated.proto; what is not known there is refused. Strings that are empty, zero times and zero numbers are absent,
//! as Go writes every field of these messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::json;
use crate::protobuf::{Envelope, Fields, ProtobufError};

use super::BodyError;

/// The kind that is read, as an envelope names it.
pub(super) fn is_one(envelope: &Envelope<'_>) -> bool {
    envelope.api_version == "v1" && envelope.kind == "ConfigMap"
}

/// The object of an envelope that [`is_one`].
pub(super) fn read(envelope: &Envelope<'_>) -> Result<Value, BodyError> {
    let mut fields = Fields::read(envelope.raw)?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), envelope.api_version.as_str().into());
    object.insert("kind".to_owned(), envelope.kind.as_str().into());
    object.insert("metadata".to_owned(), metadata(fields.message(1)?.unwrap_or_default())?);
    put(&mut object, "data", pairs(&mut fields, 2, text)?);
    put(&mut object, "binaryData", pairs(&mut fields, 3, |bytes| Ok(STANDARD.encode(bytes)))?);
    put(&mut object, "immutable", fields.flag(4)?);
    fields.finish()?;
    Ok(Value::Object(object))
}

fn metadata(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut fields = Fields::read(bytes)?;
    let mut object = Map::new();
    for (tag, key) in [
        (1, "name"),
        (2, "generateName"),
        (3, "namespace"),
        (4, "selfLink"),
        (5, "uid"),
        (6, "resourceVersion"),
    ] {
        put(&mut object, key, word(&mut fields, tag)?);
    }
    put(&mut object, "generation", fields.number(7)?.filter(|number| *number != 0));
    put(&mut object, "creationTimestamp", time(fields.message(8)?, 8)?);
    put(&mut object, "deletionTimestamp", time(fields.message(9)?, 9)?);
    put(&mut object, "deletionGracePeriodSeconds", fields.number(10)?);
    put(&mut object, "labels", pairs(&mut fields, 11, text)?);
    put(&mut object, "annotations", pairs(&mut fields, 12, text)?);
    put(&mut object, "ownerReferences", list(fields.messages(13)?, owner)?);
    let finalizers = fields.texts(14)?;
    put(&mut object, "finalizers", (!finalizers.is_empty()).then_some(finalizers));
    put(&mut object, "managedFields", list(fields.messages(17)?, managed)?);
    fields.finish()?;
    Ok(Value::Object(object))
}

fn owner(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut fields = Fields::read(bytes)?;
    let mut object = Map::new();
    for (tag, key) in [(1, "kind"), (3, "name"), (4, "uid"), (5, "apiVersion")] {
        put(&mut object, key, word(&mut fields, tag)?);
    }
    put(&mut object, "controller", fields.flag(6)?);
    put(&mut object, "blockOwnerDeletion", fields.flag(7)?);
    fields.finish()?;
    Ok(Value::Object(object))
}

fn managed(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut fields = Fields::read(bytes)?;
    let mut object = Map::new();
    for (tag, key) in
        [(1, "manager"), (2, "operation"), (3, "apiVersion"), (6, "fieldsType"), (8, "subresource")]
    {
        put(&mut object, key, word(&mut fields, tag)?);
    }
    put(&mut object, "time", time(fields.message(4)?, 4)?);
    if let Some(bytes) = fields.message(7)? {
        let mut wrapped = Fields::read(bytes)?;
        let raw = wrapped.message(1)?.unwrap_or_default();
        wrapped.finish()?;
        put(&mut object, "fieldsV1", if raw.is_empty() { None } else { Some(json::read(raw)?) });
    }
    fields.finish()?;
    Ok(Value::Object(object))
}

/// RFC 3339 in whole seconds, as the API writes it.
fn time(bytes: Option<&[u8]>, tag: u32) -> Result<Option<String>, ProtobufError> {
    let mut fields = Fields::read(bytes.unwrap_or_default())?;
    let (seconds, nanos) = (fields.number(1)?.unwrap_or(0), fields.number(2)?.unwrap_or(0));
    fields.finish()?;
    if (seconds, nanos) == (0, 0) {
        return Ok(None);
    }
    let time = jiff::Timestamp::from_second(seconds).map_err(|_| ProtobufError::Value(tag))?;
    Ok(Some(time.to_string()))
}

/// A map field; a key that stands twice is refused, as in JSON.
fn pairs(
    fields: &mut Fields<'_>,
    tag: u32,
    value: fn(&[u8]) -> Result<String, ProtobufError>,
) -> Result<Option<Value>, ProtobufError> {
    let mut map = Map::new();
    for entry in fields.messages(tag)? {
        let mut entry = Fields::read(entry)?;
        let key = entry.text(1)?;
        let value = value(entry.message(2)?.unwrap_or_default())?;
        entry.finish()?;
        if map.insert(key, value.into()).is_some() {
            return Err(ProtobufError::Doubled(tag));
        }
    }
    Ok((!map.is_empty()).then_some(Value::Object(map)))
}

fn list(
    messages: Vec<&[u8]>,
    read: fn(&[u8]) -> Result<Value, BodyError>,
) -> Result<Option<Value>, BodyError> {
    let items = messages.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok((!items.is_empty()).then_some(Value::Array(items)))
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Wire)
}

fn word(fields: &mut Fields<'_>, tag: u32) -> Result<Option<String>, ProtobufError> {
    Ok(Some(fields.text(tag)?).filter(|text| !text.is_empty()))
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}
