//! The closed list of reasons.

/// What to do next where nothing was done and time may help.
pub const LATER: &str =
    "run the same command again in a minute; if the answer stays the same, report it to the user.";

/// Every reason that a refusal can have: the token that kubectl prints in brackets, and the metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A Deny rule spoke.
    PolicyDenied,
    /// No rule allows it.
    NotAllowed,
    /// A policy that selects the agent cannot be understood.
    PolicyBroken,
    /// A human has not decided yet.
    ApprovalPending,
    /// A human said no.
    ApprovalDenied,
    /// Nobody decided, or the approval was not used in time.
    ApprovalExpired,
    /// Allowed inside a window only.
    WindowRequired,
    /// The body holds a placeholder.
    MaskedValueInWrite,
    /// The kill switch.
    AgentSuspended,
    /// The agent already waits for too many reviews.
    TooManyPendingApprovals,
    /// A stream that the gate does not open.
    StreamDenied,
    /// A feature that this version does not have.
    NotSupportedYet,
    /// No, or no valid, credential.
    Unauthorized,
    /// Not readable by the rules.
    BadRequest,
    /// No such kind, namespace scope or path.
    NotFound,
    /// The method is none of the five, or not for this path.
    MethodNotAllowed,
    /// The body is too large.
    RequestEntityTooLarge,
    /// The body's encoding is not accepted.
    UnsupportedMediaType,
    /// Refused by a rule that has no name of its own.
    Forbidden,
    /// More requests than the agent's limit.
    TooManyRequests,
    /// The record cannot be written.
    RecordingUnavailable,
    /// No bundle, or the API server is out of sight.
    ServiceUnavailable,
    /// The API server did not answer, or answered what cannot be passed on.
    BadGateway,
    /// A write was sent and no answer came back.
    OutcomeUnknown,
    /// A fault of the gate.
    InternalError,
}

impl Reason {
    /// The token.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::PolicyDenied => "PolicyDenied",
            Reason::NotAllowed => "NotAllowed",
            Reason::PolicyBroken => "PolicyBroken",
            Reason::ApprovalPending => "ApprovalPending",
            Reason::ApprovalDenied => "ApprovalDenied",
            Reason::ApprovalExpired => "ApprovalExpired",
            Reason::WindowRequired => "WindowRequired",
            Reason::MaskedValueInWrite => "MaskedValueInWrite",
            Reason::AgentSuspended => "AgentSuspended",
            Reason::TooManyPendingApprovals => "TooManyPendingApprovals",
            Reason::StreamDenied => "StreamDenied",
            Reason::NotSupportedYet => "NotSupportedYet",
            Reason::Unauthorized => "Unauthorized",
            Reason::BadRequest => "BadRequest",
            Reason::NotFound => "NotFound",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::Forbidden => "Forbidden",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::RecordingUnavailable => "RecordingUnavailable",
            Reason::ServiceUnavailable => "ServiceUnavailable",
            Reason::BadGateway => "BadGateway",
            Reason::OutcomeUnknown => "OutcomeUnknown",
            Reason::InternalError => "InternalError",
        }
    }

    /// What to do next where the refusal itself does not say it; `None` where the sentence or the lines always do.
    pub const fn way_on(self) -> Option<&'static str> {
        match self {
            Reason::PolicyDenied
            | Reason::NotAllowed
            | Reason::PolicyBroken
            | Reason::ApprovalPending
            | Reason::ApprovalDenied
            | Reason::ApprovalExpired
            | Reason::WindowRequired
            | Reason::MaskedValueInWrite
            | Reason::AgentSuspended
            | Reason::TooManyPendingApprovals
            | Reason::StreamDenied
            | Reason::NotSupportedYet
            | Reason::Unauthorized
            | Reason::NotFound
            | Reason::OutcomeUnknown => None,
            Reason::BadRequest
            | Reason::MethodNotAllowed
            | Reason::RequestEntityTooLarge
            | Reason::UnsupportedMediaType
            | Reason::Forbidden => {
                Some("change the request as the first line says; the same request gets the same answer.")
            }
            Reason::TooManyRequests => {
                Some("send fewer requests: wait a second, then run the same command again.")
            }
            Reason::RecordingUnavailable | Reason::ServiceUnavailable => Some(LATER),
            Reason::BadGateway | Reason::InternalError => Some(
                "look at the object before you run the command again; if the answer stays the same, report it to the user.",
            ),
        }
    }
}
