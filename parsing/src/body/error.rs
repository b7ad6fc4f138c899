//! Why a body is not read: the rule, the code, the way out.

use http::StatusCode;

use crate::json::JsonError;
use crate::options::OptionsError;
use crate::protobuf::ProtobufError;
use crate::refusal::Refused;
use crate::review::ReviewError;
use crate::yaml::YamlError;

/// Why a body is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A3, F11.
    #[error("the body is larger than 3145728 bytes")]
    TooLarge,
    /// A3.
    #[error("this request takes no body")]
    Surplus,
    /// A3.
    #[error("this request needs a body")]
    Missing,
    /// A3.
    #[error("the Content-Type is not one that this request takes")]
    MediaType,
    /// A3.
    #[error("CBOR bodies are not read")]
    Cbor,
    /// A3, appendix 4.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// B103.
    #[error("the body has the field `{0}`, which this gate does not know")]
    UnknownField(String),
    /// Appendix 4.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Appendix 4.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// Appendix 4.
    #[error("the body has a top-level key that differs from a known one only by case")]
    KeyCase,
    /// A3.
    #[error("`kind` of the body must be `{0}`")]
    Kind(String),
    /// A3.
    #[error("`apiVersion` of the body must be `{0}`")]
    ApiVersion(String),
    /// A3.
    #[error("`metadata` of the body must be an object with text where text belongs")]
    Metadata,
    /// A3.
    #[error("`metadata.namespace` of the body differs from the namespace in the path")]
    Namespace,
    /// A3.
    #[error("`metadata.name` of the body differs from the name in the path")]
    Name,
    /// A3.
    #[error("`metadata.name` or `metadata.generateName` must be set")]
    Nameless,
    /// A3.
    #[error("a JSON patch must be an array of at most 10000 operations")]
    PatchSize,
    /// A3.
    #[error("operation {0} of the JSON patch is not one")]
    PatchOperation(usize),
    /// B99.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// A3.
    #[error(transparent)]
    Protobuf(#[from] ProtobufError),
    /// A3.
    #[error(transparent)]
    Review(#[from] ReviewError),
}

impl Refused for BodyError {
    fn rule(&self) -> &'static str {
        match self {
            Self::Options(error) => error.rule(),
            Self::Protobuf(error) => error.rule(),
            Self::UnknownField(_) => "B103",
            Self::TooLarge
            | Self::Surplus
            | Self::Missing
            | Self::MediaType
            | Self::Cbor
            | Self::Yaml(_)
            | Self::Json(_)
            | Self::NotAnObject
            | Self::KeyCase
            | Self::Kind(_)
            | Self::ApiVersion(_)
            | Self::Metadata
            | Self::Namespace
            | Self::Name
            | Self::Nameless
            | Self::PatchSize
            | Self::PatchOperation(_)
            | Self::Review(_) => "A3",
        }
    }

    fn code(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType | Self::Cbor => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Protobuf(error) => error.code(),
            Self::Surplus
            | Self::Missing
            | Self::Yaml(_)
            | Self::Json(_)
            | Self::NotAnObject
            | Self::KeyCase
            | Self::Kind(_)
            | Self::ApiVersion(_)
            | Self::Metadata
            | Self::Namespace
            | Self::Name
            | Self::Nameless
            | Self::PatchSize
            | Self::PatchOperation(_)
            | Self::Options(_)
            | Self::UnknownField(_)
            | Self::Review(_) => StatusCode::BAD_REQUEST,
        }
    }

    fn next(&self) -> Option<&'static str> {
        match self {
            Self::Protobuf(error) => error.next(),
            Self::UnknownField(_) => Some(
                "check its spelling, upper and lower case too; if the API server is newer than this gate, leave the field \
                 out or ask for a newer gate",
            ),
            Self::Yaml(_) => {
                Some("send JSON, as kubectl create -f, kubectl apply -f and kubectl apply --server-side do")
            }
            Self::Cbor => Some("send JSON"),
            Self::TooLarge
            | Self::Surplus
            | Self::Missing
            | Self::MediaType
            | Self::Json(_)
            | Self::NotAnObject
            | Self::KeyCase
            | Self::Kind(_)
            | Self::ApiVersion(_)
            | Self::Metadata
            | Self::Namespace
            | Self::Name
            | Self::Nameless
            | Self::PatchSize
            | Self::PatchOperation(_)
            | Self::Options(_)
            | Self::Review(_) => None,
        }
    }
}
