//! Kubernetes' protobuf envelope, and the object in it as the JSON that it would be (A3, B04).
//!
//! An object is read by a table of every message and field that Kubernetes' own clients know. What is not in it, what occurs
//! twice where it may occur once, and a value that no client writes are refused: nothing is dropped silently.

use http::StatusCode;
use prost::Message;
use serde_json::Value;

use crate::json::JsonError;
use crate::refusal::Refused;

mod decode;
mod known;
mod schema;
mod special;
mod wire;

pub use known::normalise;
pub(crate) use known::{Unknown, check_patch, check_pointer};
pub(crate) use schema::{Place, SCHEMA};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// Why a message is not read. A message is named as in Kubernetes' Go types: `core/v1.PodSpec`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// No `k8s\0` in front.
    #[error("the protobuf body has no Kubernetes envelope")]
    Envelope,
    /// The bytes are no message.
    #[error("the protobuf body does not decode")]
    Wire,
    /// A kind that is not in the table.
    #[error("protobuf bodies of kind `{0}` are not known here, and what cannot be read is not forwarded")]
    UnknownKind(String),
    /// A field that is not in the table.
    #[error("the protobuf body has the unknown field {1} in `{0}`")]
    UnknownField(&'static str, u32),
    /// A field in another encoding than its type's.
    #[error("the protobuf body has field {1} of `{0}` in another type")]
    WireType(&'static str, u32),
    /// A field that may occur once occurs twice, or a key of a map does.
    #[error("the protobuf body has field {1} of `{0}` twice")]
    Doubled(&'static str, u32),
    /// A value that the field cannot have.
    #[error("the protobuf body has a bad value in field {1} of `{0}`")]
    Value(&'static str, u32),
    /// Another content type or encoding inside the envelope.
    #[error("the protobuf envelope holds something else than protobuf")]
    Nested,
    /// JSON inside the message that is not read.
    #[error("in field {1} of `{0}` of the protobuf body: {2}")]
    Json(&'static str, u32, JsonError),
    /// Nested too deeply.
    #[error("the protobuf body is nested deeper than {max}", max = crate::json::MAX_DEPTH)]
    TooDeep,
    /// Too many values.
    #[error("the protobuf body has more than {max} values", max = crate::json::MAX_VALUES)]
    TooMany,
}

impl Refused for ProtobufError {
    fn rule(&self) -> &'static str {
        match self {
            Self::UnknownField(..) => "B103",
            Self::Envelope
            | Self::Wire
            | Self::UnknownKind(_)
            | Self::WireType(..)
            | Self::Doubled(..)
            | Self::Value(..)
            | Self::Nested
            | Self::Json(..)
            | Self::TooDeep
            | Self::TooMany => "A3",
        }
    }

    fn code(&self) -> StatusCode {
        match self {
            Self::UnknownKind(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Envelope
            | Self::Wire
            | Self::UnknownField(..)
            | Self::WireType(..)
            | Self::Doubled(..)
            | Self::Value(..)
            | Self::Nested
            | Self::Json(..)
            | Self::TooDeep
            | Self::TooMany => StatusCode::BAD_REQUEST,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            Self::UnknownKind(_) => Some(
                "send the object as JSON: kubectl create -f and kubectl apply -f do; in client-go set ContentType to \
                 application/json",
            ),
            Self::UnknownField(..) => Some(
                "leave the field out, or ask for a newer version of this gate: it refuses fields that it does not know",
            ),
            Self::Envelope
            | Self::Wire
            | Self::WireType(..)
            | Self::Doubled(..)
            | Self::Value(..)
            | Self::Nested
            | Self::Json(..)
            | Self::TooDeep
            | Self::TooMany => None,
        }
    }
}

/// What an envelope says and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: &'a str,
    /// `kind` of the object.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
}

const TYPE_META: &str = "runtime.TypeMeta";
const UNKNOWN: &str = "runtime.Unknown";

impl<'a> Envelope<'a> {
    /// Opens an envelope.
    ///
    /// # Errors
    /// If it is none, or holds something that is no protobuf.
    pub fn open(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let inner = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Envelope)?;
        let [type_meta, raw, encoding, content] = wire::strings(inner, UNKNOWN)?;
        let [api_version, kind] = wire::strings(type_meta.unwrap_or_default(), TYPE_META)?;
        let text = |bytes: Option<&'a [u8]>, message, number| {
            std::str::from_utf8(bytes.unwrap_or_default()).map_err(|_| ProtobufError::Value(message, number))
        };
        if !encoding.unwrap_or_default().is_empty() || !matches!(text(content, UNKNOWN, 4)?, "" | MEDIA_TYPE)
        {
            return Err(ProtobufError::Nested);
        }
        Ok(Self {
            api_version: text(api_version, TYPE_META, 1)?,
            kind: text(kind, TYPE_META, 2)?,
            raw: raw.unwrap_or_default(),
        })
    }

    /// The object, as the JSON that a client would have sent: fields that have their zero value and no presence of their
    /// own are left out, as an object that a person writes leaves them out.
    ///
    /// # Errors
    /// If the kind is not in the table, or the message is not one to the letter.
    pub fn object(&self) -> Result<Value, ProtobufError> {
        self.object_as(self.api_version)
    }

    /// As [`Self::object`], with the table's apiVersion of the kind: delete options come under any.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn object_as(&self, api_version: &str) -> Result<Value, ProtobufError> {
        let message = SCHEMA.kind(api_version, self.kind).ok_or_else(|| {
            let shown = self.kind.chars().filter(char::is_ascii_alphanumeric).take(63).collect();
            ProtobufError::UnknownKind(shown)
        })?;
        let mut object = decode::message(message, self.raw)?;
        object.insert("apiVersion".to_owned(), self.api_version.into());
        object.insert("kind".to_owned(), self.kind.into());
        Ok(Value::Object(object))
    }

    /// Closes an envelope around a message.
    pub fn close(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
        let type_meta = TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() };
        let unknown = UnknownMessage { type_meta: Some(type_meta), raw: message.encode_to_vec() };
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
struct UnknownMessage {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}
