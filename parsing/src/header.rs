//! Header fields: what is refused, what is kept, what goes upstream (P14, B84, B120 to B128, appendix 3).

use std::fmt;

use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, IF_NONE_MATCH, TRANSFER_ENCODING,
};
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, StatusCode, Version};

use crate::refusal::Refused;
use crate::target::{Path, Target};

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Appendix 3.
    #[error("HTTP/1.0 and HTTP/0.9 are not served")]
    Version,
    /// Appendix 3.
    #[error("the request has no Host header")]
    NoHost,
    /// B84.
    #[error("Impersonate and X-Remote headers are not accepted: the gate alone says who you are")]
    Impersonation,
    /// B121.
    #[error("a header name has an underscore")]
    Underscore,
    /// B121.
    #[error("the header `{0}` occurs twice")]
    Doubled(&'static str),
    /// Appendix 3.
    #[error("a header value has a byte outside visible ASCII")]
    Value,
    /// Appendix 3.
    #[error("Content-Length must be a number, and alone")]
    Length,
    /// Appendix 3.
    #[error("Transfer-Encoding must be `chunked`, and alone")]
    Transfer,
    /// Appendix 3.
    #[error("Expect must be `100-continue`")]
    Expect,
    /// A compressed body cannot be read.
    #[error("a body with Content-Encoding is not read")]
    Encoded,
    /// P14.
    #[error("an upgrade is only taken on exec, attach and portforward")]
    Upgrade,
    /// P14, B125.
    #[error("only `websocket` and `SPDY/3.1` are upgrades")]
    UpgradeProtocol,
    /// B123.
    #[error("a token in Sec-WebSocket-Protocol is not accepted")]
    WebSocketToken,
    /// F13.
    #[error("the request has more than 100 header fields")]
    TooMany,
}

impl Refused for HeaderError {
    fn rule(&self) -> &'static str {
        match self {
            Self::Version
            | Self::NoHost
            | Self::Value
            | Self::Length
            | Self::Transfer
            | Self::Expect
            | Self::Encoded => "B126",
            Self::Impersonation => "B84",
            Self::Underscore | Self::Doubled(_) => "B121",
            Self::Upgrade | Self::UpgradeProtocol => "P14",
            Self::WebSocketToken => "B123",
            Self::TooMany => "F13",
        }
    }

    fn code(&self) -> StatusCode {
        match self {
            Self::Impersonation => StatusCode::FORBIDDEN,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Version
            | Self::NoHost
            | Self::Underscore
            | Self::Doubled(_)
            | Self::Value
            | Self::Length
            | Self::Transfer
            | Self::Expect
            | Self::Upgrade
            | Self::UpgradeProtocol
            | Self::WebSocketToken
            | Self::TooMany => StatusCode::BAD_REQUEST,
        }
    }
}

/// Why no token is found (B122). The answer is always 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No Authorization header.
    #[error("no token was sent")]
    Missing,
    /// More than one Authorization header.
    #[error("more than one Authorization header was sent")]
    Doubled,
    /// Another scheme.
    #[error("the Authorization header must be `Bearer <token>`")]
    Scheme,
    /// Nothing behind `Bearer`.
    #[error("the token is empty")]
    Empty,
    /// Blanks or other characters that no token has.
    #[error("the token has characters that no token has")]
    Characters,
}

impl Refused for TokenError {
    fn rule(&self) -> &'static str {
        "B122"
    }

    fn code(&self) -> StatusCode {
        StatusCode::UNAUTHORIZED
    }

    fn next(&self) -> Option<&'static str> {
        Some("send one bearer token; in a pod mount a projected token with audience sallyport")
    }
}

/// A bearer token. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token's text, for the one who checks it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The one bearer token of a request.
///
/// # Errors
/// If there is none, more than one, an empty one or one with characters that no token has.
pub fn bearer(headers: &HeaderMap) -> Result<Token, TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(TokenError::Missing)?;
    if values.next().is_some() {
        return Err(TokenError::Doubled);
    }
    let text = value.to_str().map_err(|_| TokenError::Characters)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(TokenError::Scheme);
    }
    let token = token.trim_matches(' ');
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    if token.len() > 64 * 1024 || !token.bytes().all(allowed) {
        return Err(TokenError::Characters);
    }
    Ok(Token(token.to_owned()))
}

/// A stream protocol that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// `websocket`
    WebSocket,
    /// `SPDY/3.1`
    Spdy,
}

/// What later stages may know of the client's header fields. Nothing else of them is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Every Accept field, joined with `,`. The mask stage decides what is asked upstream.
    pub accept: Option<String>,
    /// Accept-Encoding, joined.
    pub accept_encoding: Option<String>,
    /// Content-Type as sent.
    pub content_type: Option<String>,
    /// User-Agent: untrusted text for record and approver, at most 256 characters.
    pub user_agent: Option<String>,
    /// Only on exec, attach and portforward.
    pub upgrade: Option<Upgrade>,
    /// Subprotocols offered with a WebSocket.
    pub subprotocols: Vec<String>,
    /// Declared length of the body.
    pub content_length: Option<u64>,
    /// If-None-Match, on discovery and OpenAPI only (B14).
    if_none_match: Option<http::HeaderValue>,
}

impl Headers {
    /// The client's fields that go upstream as they are. Forward adds identity, Accept and what belongs to the body.
    pub fn upstream(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        if let Some(tag) = &self.if_none_match {
            map.insert(IF_NONE_MATCH, tag.clone());
        }
        map
    }
}

/// Checks a head before anything else is done with it: what does not depend on the target.
///
/// # Errors
/// The first field that breaks a rule.
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), HeaderError> {
    if version < Version::HTTP_11 {
        return Err(HeaderError::Version);
    }
    if headers.len() > 100 {
        return Err(HeaderError::TooMany);
    }
    for (name, value) in headers {
        let name = name.as_str();
        if name.starts_with("impersonate-")
            || name.starts_with("impersonate_")
            || name.starts_with("x-remote")
        {
            return Err(HeaderError::Impersonation);
        }
        if name.contains('_') {
            return Err(HeaderError::Underscore);
        }
        if !value.as_bytes().iter().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
            return Err(HeaderError::Value);
        }
    }
    for (name, shown) in SINGLE {
        if headers.get_all(&name).iter().nth(1).is_some() {
            return Err(HeaderError::Doubled(shown));
        }
    }
    if version < Version::HTTP_2 && !headers.contains_key(HOST) {
        return Err(HeaderError::NoHost);
    }
    framing(version, headers)
}

const SINGLE: [(HeaderName, &str); 5] = [
    (AUTHORIZATION, "Authorization"),
    (HOST, "Host"),
    (CONTENT_TYPE, "Content-Type"),
    (CONTENT_LENGTH, "Content-Length"),
    (TRANSFER_ENCODING, "Transfer-Encoding"),
];

fn framing(version: Version, headers: &HeaderMap) -> Result<(), HeaderError> {
    let transfer = headers.get(TRANSFER_ENCODING);
    if let Some(transfer) = transfer
        && (version >= Version::HTTP_2 || !transfer.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(HeaderError::Transfer);
    }
    if headers.contains_key(CONTENT_LENGTH) && (transfer.is_some() || length(headers).is_none()) {
        return Err(HeaderError::Length);
    }
    if headers.get_all(EXPECT).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(HeaderError::Expect);
    }
    let encoded = |value: &http::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().any(encoded) {
        return Err(HeaderError::Encoded);
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Checks a head and keeps what later stages need.
///
/// # Errors
/// As [`check`], and P14 and B123 for this target.
pub fn read(version: Version, headers: &HeaderMap, target: &Target) -> Result<Headers, HeaderError> {
    check(version, headers)?;
    let upgrade = read_upgrade(version, headers, target)?;
    let cached = matches!(&target.path, Path::NonResource(segments)
        if matches!(segments.first().map(String::as_str), Some("api" | "apis" | "openapi")));
    Ok(Headers {
        accept: joined(headers, ACCEPT),
        accept_encoding: joined(headers, ACCEPT_ENCODING),
        content_type: joined(headers, CONTENT_TYPE),
        user_agent: joined(headers, USER_AGENT).map(|text| text.chars().take(256).collect()),
        upgrade,
        subprotocols: if upgrade.is_some() { subprotocols(headers)? } else { Vec::new() },
        content_length: length(headers),
        if_none_match: headers.get(IF_NONE_MATCH).filter(|_| cached).cloned(),
    })
}

fn joined(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    if values.is_empty() { None } else { Some(values.join(",")) }
}

fn read_upgrade(
    version: Version,
    headers: &HeaderMap,
    target: &Target,
) -> Result<Option<Upgrade>, HeaderError> {
    let listed = joined(headers, CONNECTION)
        .is_some_and(|fields| fields.split(',').any(|field| field.trim().eq_ignore_ascii_case("upgrade")));
    let Some(asked) = joined(headers, UPGRADE) else {
        return if listed { Err(HeaderError::Upgrade) } else { Ok(None) };
    };
    let upgrade = match asked.trim().to_ascii_lowercase().as_str() {
        "websocket" => Upgrade::WebSocket,
        "spdy/3.1" => Upgrade::Spdy,
        _ => return Err(HeaderError::UpgradeProtocol),
    };
    let stream = matches!(&target.path, Path::Resource(path) if path.group.is_empty()
        && path.resource == "pods" && matches!(path.subresource.as_deref(), Some("exec" | "attach" | "portforward")));
    if !stream || !listed || version != Version::HTTP_11 {
        return Err(HeaderError::Upgrade);
    }
    Ok(Some(upgrade))
}

const TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Drops a protocol that carries a token (B123).
fn subprotocols(headers: &HeaderMap) -> Result<Vec<String>, HeaderError> {
    let Some(offered) = joined(headers, SEC_WEBSOCKET_PROTOCOL) else { return Ok(Vec::new()) };
    let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
    let kept: Vec<String> = offered
        .iter()
        .filter(|protocol| !protocol.to_ascii_lowercase().starts_with(TOKEN_PREFIX))
        .map(|protocol| (*protocol).to_owned())
        .collect();
    if kept.is_empty() { Err(HeaderError::WebSocketToken) } else { Ok(kept) }
}
