//! The request target: method and raw path become names, by rules P1 to P8 and P15.

use http::uri::PathAndQuery;
use http::{StatusCode, Uri, Version};

use crate::percent::{self, EscapeError};
use crate::refusal::Refused;

mod grammar;

pub(crate) use grammar::{is_label, is_name, is_subdomain, is_version};

/// The HTTP methods that are read (P1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

impl Method {
    /// Reads a method; they are case-sensitive (P1).
    ///
    /// # Errors
    /// [`TargetError::Method`] for anything else.
    pub fn read(method: &str) -> Result<Self, TargetError> {
        match method {
            "GET" => Ok(Self::Get),
            "POST" => Ok(Self::Post),
            "PUT" => Ok(Self::Put),
            "PATCH" => Ok(Self::Patch),
            "DELETE" => Ok(Self::Delete),
            _ => Err(TargetError::Method),
        }
    }

    /// Upper case, as on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl From<Method> for http::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::GET,
            Method::Post => Self::POST,
            Method::Put => Self::PUT,
            Method::Patch => Self::PATCH,
            Method::Delete => Self::DELETE,
        }
    }
}

/// Why a target is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// P1.
    #[error("the method must be GET, POST, PUT, PATCH or DELETE")]
    Method,
    /// P1: nothing outside the resource API takes another method.
    #[error("only GET is served on this path")]
    ReadOnlyPath,
    /// P2.
    #[error("the request target must be a path that begins with one `/`")]
    Form,
    /// P3.
    #[error("the request target has a byte that must be escaped or may not occur")]
    Byte,
    /// P4.
    #[error("the path has an empty segment or a trailing `/`")]
    EmptySegment,
    /// P5.
    #[error("the path has a percent escape that is broken, needless or of a forbidden byte")]
    Escape,
    /// P6.
    #[error("the path has a segment `.` or `..`")]
    DotSegment,
    /// P7.
    #[error("the API version in the path must look like `v1` or `v1beta2`")]
    VersionGrammar,
    /// P7.
    #[error("the API group in the path must be a lower-case DNS name")]
    GroupGrammar,
    /// P7.
    #[error("the namespace in the path must be a DNS label of at most 63 characters")]
    NamespaceGrammar,
    /// P7.
    #[error("the resource in the path must be a lower-case DNS label")]
    ResourceGrammar,
    /// P7.
    #[error("the subresource in the path must be a lower-case DNS label")]
    SubresourceGrammar,
    /// P7.
    #[error("the name in the path must be at most 253 visible ASCII characters")]
    NameGrammar,
    /// P7.
    #[error("the path has characters that no known path has")]
    PathGrammar,
    /// P8.
    #[error("paths with `/watch/` or `/proxy/` before the resource are not served; use `?watch=true`")]
    LegacyPrefix,
    /// P8.
    #[error("POST takes no object name in the path")]
    NamedPost,
    /// P8.
    #[error("PUT and PATCH need an object name in the path")]
    UnnamedWrite,
    /// P8.
    #[error("the path has segments after the subresource")]
    Surplus,
    /// P12.
    #[error("only GET and POST open a stream")]
    ConnectMethod,
    /// A bound of ours: the longest target that any client was seen to send is far below.
    #[error("the request target is longer than 16384 bytes")]
    TooLong,
}

impl Refused for TargetError {
    fn rule(&self) -> &'static str {
        match self {
            Self::Method | Self::ReadOnlyPath => "P1",
            Self::Form => "P2",
            Self::Byte | Self::TooLong => "P3",
            Self::EmptySegment => "P4",
            Self::Escape => "P5",
            Self::DotSegment => "P6",
            Self::VersionGrammar
            | Self::GroupGrammar
            | Self::NamespaceGrammar
            | Self::ResourceGrammar
            | Self::SubresourceGrammar
            | Self::NameGrammar
            | Self::PathGrammar => "P7",
            Self::LegacyPrefix | Self::NamedPost | Self::UnnamedWrite | Self::Surplus => "P8",
            Self::ConnectMethod => "P12",
        }
    }

    fn code(&self) -> StatusCode {
        match self {
            Self::Method
            | Self::ReadOnlyPath
            | Self::NamedPost
            | Self::UnnamedWrite
            | Self::ConnectMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::LegacyPrefix => StatusCode::FORBIDDEN,
            Self::Form
            | Self::Byte
            | Self::TooLong
            | Self::EmptySegment
            | Self::Escape
            | Self::DotSegment
            | Self::VersionGrammar
            | Self::GroupGrammar
            | Self::NamespaceGrammar
            | Self::ResourceGrammar
            | Self::SubresourceGrammar
            | Self::NameGrammar
            | Self::PathGrammar
            | Self::Surplus => StatusCode::BAD_REQUEST,
        }
    }
}

/// Longest target that is read, in bytes.
pub const MAX_TARGET: usize = 16 * 1024;

/// A path to a resource. Names are decoded and obey P7.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourcePath {
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// The namespace segment. None for the resource `namespaces` itself.
    pub namespace: Option<String>,
    /// Plural resource name.
    pub resource: String,
    /// Object name.
    pub name: Option<String>,
    /// Subresource.
    pub subresource: Option<String>,
    /// Segments after the core subresource `proxy`.
    pub proxied: Vec<String>,
}

impl ResourcePath {
    /// Whether the subresource is a stream or a tunnel, whatever the method (P12).
    pub fn is_connect(&self) -> bool {
        matches!(self.subresource.as_deref(), Some("exec" | "attach" | "portforward" | "proxy"))
    }

    /// Whether the path is `namespaces/<name>` of the core group.
    pub fn is_namespace(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// Something of the resource API.
    Resource(ResourcePath),
    /// Something else: the decoded segments, none for `/`.
    NonResource(Vec<String>),
}

/// A target that obeys P1 to P8. The query is still raw; [`crate::query::read`] reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// HTTP method.
    pub method: Method,
    /// What the path names.
    pub path: Path,
}

/// The raw target of a request as hyper hands it over (P2).
///
/// # Errors
/// [`TargetError::Form`] for absolute-form, authority-form and `*` over HTTP/1, where the raw target shows them.
pub fn raw(uri: &Uri, version: Version) -> Result<&str, TargetError> {
    let absolute = uri.scheme().is_some() || uri.authority().is_some();
    if absolute && version < Version::HTTP_2 {
        return Err(TargetError::Form);
    }
    uri.path_and_query().map(PathAndQuery::as_str).ok_or(TargetError::Form)
}

/// Reads method and raw target. Returns the target and the raw query, if there is a `?`.
///
/// # Errors
/// The first rule of P1 to P8 that is broken.
pub fn read<'a>(method: &str, raw: &'a [u8]) -> Result<(Target, Option<&'a str>), TargetError> {
    let method = Method::read(method)?;
    let raw = check_bytes(raw)?;
    let (path, query) = match raw.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (raw, None),
    };
    let path = read_path(path)?;
    check_method(method, &path)?;
    Ok((Target { method, path }, query))
}

fn check_bytes(raw: &[u8]) -> Result<&str, TargetError> {
    if raw.len() > MAX_TARGET {
        return Err(TargetError::TooLong);
    }
    if raw.first() != Some(&b'/') || raw.get(1) == Some(&b'/') {
        return Err(TargetError::Form);
    }
    let forbidden = |b: &u8| !b.is_ascii_graphic() || b"\"<>\\^`{|}#;".contains(b);
    if raw.iter().any(forbidden) {
        return Err(TargetError::Byte);
    }
    std::str::from_utf8(raw).map_err(|_| TargetError::Byte)
}

fn read_path(path: &str) -> Result<Path, TargetError> {
    let Some(rest) = path.strip_prefix('/') else { return Err(TargetError::Form) };
    if rest.is_empty() {
        return Ok(Path::NonResource(Vec::new()));
    }
    let mut raw: Vec<&str> = rest.split('/').collect();
    let trailing = raw.last() == Some(&"");
    if trailing {
        raw.pop();
    }
    let segments = raw.into_iter().map(read_segment).collect::<Result<Vec<_>, _>>()?;
    let path = if is_resource(&segments) { resource_path(segments)? } else { non_resource_path(segments)? };
    match &path {
        Path::NonResource(segments) if trailing && !is_discovery(segments) => Err(TargetError::EmptySegment),
        Path::Resource(_) if trailing => Err(TargetError::EmptySegment),
        Path::NonResource(_) | Path::Resource(_) => Ok(path),
    }
}

fn read_segment(raw: &str) -> Result<String, TargetError> {
    if raw.is_empty() {
        return Err(TargetError::EmptySegment);
    }
    let segment = percent::decode_segment(raw).map_err(|error| match error {
        EscapeError::Needless if is_dots(raw) => TargetError::DotSegment,
        EscapeError::Broken | EscapeError::Needless | EscapeError::Forbidden | EscapeError::NotUtf8 => {
            TargetError::Escape
        }
    })?;
    if segment == "." || segment == ".." {
        return Err(TargetError::DotSegment);
    }
    Ok(segment)
}

/// `.` and `..` in any spelling, so that the answer names the rule that matters.
fn is_dots(raw: &str) -> bool {
    let plain = raw.replace("%2e", ".").replace("%2E", ".");
    plain == "." || plain == ".."
}

/// As `RequestInfo` tells them apart, before any grammar.
fn is_resource(segments: &[String]) -> bool {
    match segments.first().map(String::as_str) {
        Some("api") => segments.len() >= 3,
        Some("apis") => segments.len() >= 4,
        _ => false,
    }
}

/// Paths where one trailing `/` is harmless and dropped (P4).
fn is_discovery(segments: &[String]) -> bool {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    matches!(
        segments.as_slice(),
        ["api" | "apis", ..] | ["version"] | ["openapi", "v2" | "v3"] | ["sallyport", "v1"]
    )
}

fn non_resource_path(segments: Vec<String>) -> Result<Path, TargetError> {
    let refs: Vec<&str> = segments.iter().map(String::as_str).collect();
    match refs.as_slice() {
        ["api", version] => check(is_version(version), TargetError::VersionGrammar)?,
        ["apis", group] => check(is_subdomain(group), TargetError::GroupGrammar)?,
        ["apis", group, version] => {
            check(is_subdomain(group), TargetError::GroupGrammar)?;
            check(is_version(version), TargetError::VersionGrammar)?;
        }
        _ => {
            let visible = |s: &&str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:@+".contains(&b));
            check(refs.iter().all(visible), TargetError::PathGrammar)?;
        }
    }
    Ok(Path::NonResource(segments))
}

fn resource_path(segments: Vec<String>) -> Result<Path, TargetError> {
    let mut rest = segments.into_iter();
    let group = match rest.next().as_deref() {
        Some("apis") => rest.next().unwrap_or_default(),
        _ => String::new(),
    };
    check(group.is_empty() || is_subdomain(&group), TargetError::GroupGrammar)?;
    let version = rest.next().unwrap_or_default();
    check(is_version(&version), TargetError::VersionGrammar)?;
    let mut rest: Vec<String> = rest.collect();
    if matches!(rest.first().map(String::as_str), Some("watch" | "proxy")) {
        return Err(TargetError::LegacyPrefix);
    }
    let namespace = take_namespace(&mut rest)?;
    let mut rest = rest.into_iter();
    let resource = rest.next().unwrap_or_default();
    check(is_label(&resource), TargetError::ResourceGrammar)?;
    let name = rest.next();
    check(name.as_deref().is_none_or(is_name), TargetError::NameGrammar)?;
    let subresource = rest.next();
    check(subresource.as_deref().is_none_or(is_label), TargetError::SubresourceGrammar)?;
    let proxied: Vec<String> = rest.collect();
    let proxy = group.is_empty() && subresource.as_deref() == Some("proxy");
    check(proxied.is_empty() || proxy, TargetError::Surplus)?;
    Ok(Path::Resource(ResourcePath { group, version, namespace, resource, name, subresource, proxied }))
}

/// Takes `namespaces/<namespace>` off the front, unless the namespace itself is meant.
fn take_namespace(rest: &mut Vec<String>) -> Result<Option<String>, TargetError> {
    let itself = match rest.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["namespaces", namespace, inner @ ..] => {
            check(is_label(namespace), TargetError::NamespaceGrammar)?;
            matches!(inner, [] | ["status" | "finalize", ..])
        }
        _ => true,
    };
    if itself {
        return Ok(None);
    }
    Ok(rest.drain(..2).nth(1))
}

fn check_method(method: Method, path: &Path) -> Result<(), TargetError> {
    let path = match path {
        Path::NonResource(_) if method == Method::Get => return Ok(()),
        Path::NonResource(_) => return Err(TargetError::ReadOnlyPath),
        Path::Resource(path) => path,
    };
    if path.is_connect() && path.subresource.as_deref() != Some("proxy") {
        return check(matches!(method, Method::Get | Method::Post), TargetError::ConnectMethod);
    }
    match method {
        Method::Post => check(path.name.is_none() || path.subresource.is_some(), TargetError::NamedPost),
        Method::Put | Method::Patch => check(path.name.is_some(), TargetError::UnnamedWrite),
        Method::Get | Method::Delete => Ok(()),
    }
}

fn check(holds: bool, error: TargetError) -> Result<(), TargetError> {
    if holds { Ok(()) } else { Err(error) }
}

impl Path {
    /// The canonical path: rebuilt from names, never the client's text (P10).
    pub fn canonical(&self) -> String {
        match self {
            Self::NonResource(segments) if segments.is_empty() => "/".to_owned(),
            Self::NonResource(segments) => join(segments.iter().map(String::as_str)),
            Self::Resource(path) => path.canonical(),
        }
    }
}

impl ResourcePath {
    /// The canonical path: rebuilt from names, never the client's text (P10).
    pub fn canonical(&self) -> String {
        let root = if self.group.is_empty() { vec!["api"] } else { vec!["apis", &self.group] };
        let namespace = self.namespace.iter().flat_map(|ns| ["namespaces", ns.as_str()]);
        let own = [Some(&self.version)].into_iter().flatten().map(String::as_str);
        let rest = [Some(&self.resource), self.name.as_ref(), self.subresource.as_ref()];
        let rest = rest.into_iter().flatten().chain(&self.proxied).map(String::as_str);
        join(root.into_iter().chain(own).chain(namespace).chain(rest))
    }
}

fn join<'a>(segments: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        percent::encode(segment, &mut out);
    }
    out
}
