//! Kubernetes' protobuf envelope, and a reader of messages that refuses what it does not know (A3, B04).

use std::collections::BTreeMap;

use http::StatusCode;
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::refusal::Refused;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// Why a message is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// No `k8s\0` in front.
    #[error("the protobuf body has no Kubernetes envelope")]
    Envelope,
    /// The bytes are no message.
    #[error("the protobuf body does not decode")]
    Wire,
    /// A field that this gate does not know.
    #[error("the protobuf body has the unknown field {0}")]
    UnknownField(u32),
    /// A field that may occur once occurs twice.
    #[error("the protobuf body has field {0} twice")]
    Doubled(u32),
    /// Another content type or encoding inside the envelope.
    #[error("the protobuf envelope holds something else than protobuf")]
    Nested,
    /// A value that the field cannot have.
    #[error("the protobuf body has a bad value in field {0}")]
    Value(u32),
}

impl Refused for ProtobufError {
    fn rule(&self) -> &'static str {
        "A3"
    }

    fn code(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

#[derive(Clone, Copy, Debug)]
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of one message. Each is taken once; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    fields: BTreeMap<u32, Vec<Field<'a>>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn read(mut bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut fields: BTreeMap<u32, Vec<Field<'a>>> = BTreeMap::new();
        while bytes.has_remaining() {
            let (tag, wire) = decode_key(&mut bytes).map_err(|_| ProtobufError::Wire)?;
            let field = match wire {
                WireType::Varint => {
                    Field::Number(decode_varint(&mut bytes).map_err(|_| ProtobufError::Wire)?)
                }
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes).map_err(|_| ProtobufError::Wire)?;
                    let length = usize::try_from(length).map_err(|_| ProtobufError::Wire)?;
                    let (head, tail) = bytes.split_at_checked(length).ok_or(ProtobufError::Wire)?;
                    bytes = tail;
                    Field::Bytes(head)
                }
                WireType::ThirtyTwoBit
                | WireType::SixtyFourBit
                | WireType::StartGroup
                | WireType::EndGroup => {
                    return Err(ProtobufError::Wire);
                }
            };
            fields.entry(tag).or_default().push(field);
        }
        Ok(Self { fields })
    }

    fn one(&mut self, tag: u32) -> Result<Option<Field<'a>>, ProtobufError> {
        match self.fields.remove(&tag).as_deref() {
            None => Ok(None),
            Some([field]) => Ok(Some(*field)),
            Some(_) => Err(ProtobufError::Doubled(tag)),
        }
    }

    pub(crate) fn message(&mut self, tag: u32) -> Result<Option<&'a [u8]>, ProtobufError> {
        match self.one(tag)? {
            None => Ok(None),
            Some(Field::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Field::Number(_)) => Err(ProtobufError::Wire),
        }
    }

    /// A string; absent and empty are one, as everywhere in the API.
    pub(crate) fn text(&mut self, tag: u32) -> Result<String, ProtobufError> {
        let bytes = self.message(tag)?.unwrap_or_default();
        let text = std::str::from_utf8(bytes).map_err(|_| ProtobufError::Value(tag))?;
        Ok(text.to_owned())
    }

    pub(crate) fn texts(&mut self, tag: u32) -> Result<Vec<String>, ProtobufError> {
        let text = |field| match field {
            Field::Bytes(bytes) => {
                std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| ProtobufError::Value(tag))
            }
            Field::Number(_) => Err(ProtobufError::Wire),
        };
        self.fields.remove(&tag).unwrap_or_default().into_iter().map(text).collect()
    }

    /// The entries of a repeated message.
    pub(crate) fn messages(&mut self, tag: u32) -> Result<Vec<&'a [u8]>, ProtobufError> {
        let message = |field| match field {
            Field::Bytes(bytes) => Ok(bytes),
            Field::Number(_) => Err(ProtobufError::Wire),
        };
        self.fields.remove(&tag).unwrap_or_default().into_iter().map(message).collect()
    }

    pub(crate) fn number(&mut self, tag: u32) -> Result<Option<i64>, ProtobufError> {
        match self.one(tag)? {
            None => Ok(None),
            // Two's complement is how the format writes negative numbers.
            Some(Field::Number(number)) => Ok(Some(i64::from_ne_bytes(number.to_ne_bytes()))),
            Some(Field::Bytes(_)) => Err(ProtobufError::Wire),
        }
    }

    pub(crate) fn flag(&mut self, tag: u32) -> Result<Option<bool>, ProtobufError> {
        match self.number(tag)? {
            None => Ok(None),
            Some(0) => Ok(Some(false)),
            Some(1) => Ok(Some(true)),
            Some(_) => Err(ProtobufError::Value(tag)),
        }
    }

    pub(crate) fn finish(self) -> Result<(), ProtobufError> {
        match self.fields.into_keys().next() {
            None => Ok(()),
            Some(tag) => Err(ProtobufError::UnknownField(tag)),
        }
    }
}

/// What an envelope says and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The object's message.
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens an envelope.
    ///
    /// # Errors
    /// If it is none, or holds something that is no protobuf.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let inner = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Envelope)?;
        let mut unknown = Fields::read(inner)?;
        let mut type_meta = Fields::read(unknown.message(1)?.unwrap_or_default())?;
        let raw = unknown.message(2)?.unwrap_or_default();
        let nested = !unknown.text(3)?.is_empty() || !matches!(unknown.text(4)?.as_str(), "" | MEDIA_TYPE);
        unknown.finish()?;
        let envelope = Self { api_version: type_meta.text(1)?, kind: type_meta.text(2)?, raw };
        type_meta.finish()?;
        if nested { Err(ProtobufError::Nested) } else { Ok(envelope) }
    }

    /// Closes an envelope around a message.
    pub fn close(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
        let type_meta = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let unknown = Unknown { type_meta: Some(type_meta), raw: message.encode_to_vec() };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&unknown.encode_to_vec());
        out
    }
}

#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}
