//! One request, read whole: head, then body; and everything that goes upstream, rebuilt from it (P10).

use http::uri::PathAndQuery;
use http::{HeaderMap, Version};
use policy::action::{Action, Verb};

use crate::act::{self, Act};
use crate::body::{self, Body, BodyError};
use crate::discovery::Discovery;
use crate::header::{self, Headers};
use crate::query::{self, Query};
use crate::refusal::Refusal;
use crate::review::Review;
use crate::target::{self, Method, Path, Target};

/// The head of a request, read and resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Method and names.
    pub target: Target,
    /// The query.
    pub query: Query,
    /// What later stages may know of the client's header fields.
    pub headers: Headers,
    /// The act, but for what only the body says.
    pub act: Act,
}

/// Reads the head of a request. `raw` is the raw target, see [`target::raw`].
///
/// # Errors
/// The first rule of P1 to P14, or of the header rules, that is broken.
pub fn read(
    version: Version,
    method: &str,
    raw: &[u8],
    headers: &HeaderMap,
    discovery: &Discovery,
) -> Result<Head, Refusal> {
    let (target, raw_query) = target::read(method, raw)?;
    let headers = header::read(version, headers, &target)?;
    let query = query::read(raw_query, &target)?;
    let act = act::resolve(&target, &query, discovery)?;
    if headers.content_length.is_some_and(|length| length > body::MAX_BODY as u64) {
        return Err(BodyError::TooLarge.into());
    }
    Ok(Head { target, query, headers, act })
}

impl Head {
    /// Whether a body may follow. Read the body all the same: one that may not be there is refused.
    pub fn takes_body(&self) -> bool {
        self.target.method != Method::Get && !self.act.connect
    }

    /// Reads the body and completes the act. `bytes` is the whole body; more than [`body::MAX_BODY`] is refused.
    ///
    /// # Errors
    /// The first rule of A3, appendix 4 or B99 that is broken.
    pub fn with_body(self, bytes: &[u8]) -> Result<Request, Refusal> {
        let Self { target, mut query, headers, act } = self;
        let body = match (&target.path, &act.kind) {
            (Path::Resource(path), Some(kind)) => {
                let Act { connect, transient, .. } = act;
                let context = body::Context { method: target.method, path, kind, connect, transient };
                body::read(&context, &mut query, headers.content_type.as_deref(), bytes)?
            }
            (Path::Resource(_), None) | (Path::NonResource(_), _) if bytes.is_empty() => Body::Empty,
            (Path::Resource(_), None) | (Path::NonResource(_), _) => return Err(BodyError::Surplus.into()),
        };
        let mut action = act.action;
        if let Action::Resource(resource) = &mut action {
            resource.may_create = body.may_create(resource);
            match &body {
                Body::Delete(options) => resource.dry_run = options.dry_run,
                Body::Object(_) if resource.subresource.as_deref() == Some("eviction") => {
                    resource.dry_run |= body.evicts_dry();
                }
                Body::Object(_) if resource.verb == Verb::Create && resource.name.is_none() => {
                    resource.name = body.name().map(str::to_owned);
                }
                Body::Empty
                | Body::Object(_)
                | Body::Merge(_)
                | Body::Strategic(_)
                | Body::JsonPatch(_)
                | Body::Apply(_)
                | Body::Review(_) => {}
            }
        }
        Ok(Request { target, query, headers, body, action, connect: act.connect })
    }
}

/// A request that was read whole. What goes upstream is made from it and from nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Method and names.
    pub target: Target,
    /// The query; without delete options, which are in the body (B99).
    pub query: Query,
    /// What later stages may know of the client's header fields.
    pub headers: Headers,
    /// The body.
    pub body: Body,
    /// What the request would do.
    pub action: Action,
    /// A stream or tunnel: exec, attach, portforward or proxy (P12).
    pub connect: bool,
}

impl Request {
    /// The question to the gate itself, if it is one.
    pub fn review(&self) -> Option<&Review> {
        match &self.body {
            Body::Review(review) => Some(review),
            Body::Empty
            | Body::Object(_)
            | Body::Merge(_)
            | Body::Strategic(_)
            | Body::JsonPatch(_)
            | Body::Apply(_)
            | Body::Delete(_) => None,
        }
    }

    /// The method that goes upstream.
    pub fn method(&self) -> http::Method {
        self.target.method.into()
    }

    /// Path and query that go upstream. Set them beside the authority with `http::uri::Builder`, never join texts (P15).
    ///
    /// # Errors
    /// Only if what was added since it was read makes the target longer than a URI may be.
    pub fn path_and_query(&self) -> Result<PathAndQuery, http::uri::InvalidUri> {
        PathAndQuery::try_from(self.canonical_target())
    }

    /// Path and query as text, for the record.
    pub fn canonical_target(&self) -> String {
        let path = self.target.path.canonical();
        let query = self.query.canonical();
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }

    /// The name in the act: of the one object, or of the one that a selector picks.
    pub fn action_name(&self) -> Option<String> {
        match &self.action {
            Action::Resource(resource) => resource.name.clone(),
            Action::NonResource { .. } => None,
        }
    }

    /// Whether the path names a collection.
    pub fn is_collection(&self) -> bool {
        matches!(&self.target.path, Path::Resource(path) if path.name.is_none())
    }

    /// Whether the answer may have no end: a watch or a followed log.
    pub fn is_stream(&self) -> bool {
        matches!(&self.action, Action::Resource(resource) if resource.verb == Verb::Watch)
            || self.query.flag("follow")
    }
}
