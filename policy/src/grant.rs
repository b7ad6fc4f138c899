//! The names of grants, which grant a request joins, and a request in one line.

use std::str::FromStr as _;

use aws_lc_rs::digest::{SHA256, digest};
use crds::access_grant::{GrantRequest, Window};
use jiff::Timestamp;

use crate::action::{Action, ResourceAction, Scope, Verb};
use crate::approve::Standing;

/// `request.namespace` of a request across all namespaces.
pub const ALL_NAMESPACES: &str = "*";
/// The media type of a server-side apply, which may create (B96).
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// The name of the `n`th grant of a request: agent name, `-`, 10 base32 characters of sha256(fingerprint, n)
/// (ruling on grant names).
pub fn name(agent: &str, fingerprint: &str, n: u32) -> String {
    let hash = digest(&SHA256, format!("{fingerprint}\n{n}").as_bytes());
    format!("{agent}-{}", base32(hash.as_ref(), 10))
}

/// The first `characters` of the lower-case RFC 4648 base32 text.
fn base32(bytes: &[u8], characters: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let bit = |at: usize| {
        let byte = bytes.get(at / 8).copied().unwrap_or_default();
        (byte >> 7usize.saturating_sub(at % 8)) & 1
    };
    (0..characters)
        .map(|at| {
            let start = at.saturating_mul(5);
            let index = (start..start.saturating_add(5)).fold(0u8, |index, at| index << 1 | bit(at));
            ALPHABET.get(usize::from(index)).map_or('a', |byte| char::from(*byte))
        })
        .collect()
}

/// What a request does with the grant that it finds under its `n`th name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// There is none: create it.
    Create,
    /// It is undecided: wait for it.
    Wait,
    /// It is approved: consume it.
    Use,
    /// It was denied: answer so.
    AnswerDenied,
    /// It is another request's, or spent: look under the next name.
    TryNext,
}

/// The joining rule: undecided or usable is joined; used, expired or revoked is passed over; denied answers until its
/// review deadline. `found` is the stored fingerprint and the standing of the grant under the name, if there is one.
pub fn join(found: Option<(&str, &Standing)>, fingerprint: &str, now: Timestamp) -> Join {
    let Some((stored, standing)) = found else {
        return Join::Create;
    };
    if stored != fingerprint {
        return Join::TryNext;
    }
    match standing {
        Standing::Waiting { .. } | Standing::Scheduled { .. } => Join::Wait,
        Standing::Approved { .. } => Join::Use,
        Standing::Denied { until, .. } if now < *until => Join::AnswerDenied,
        Standing::Denied { .. }
        | Standing::Expired { .. }
        | Standing::Revoked { .. }
        | Standing::Used { .. } => Join::TryNext,
    }
}

/// `delete deployments.apps/web -n payments`: the act in one line, for `status.summary` and records.
pub fn summary(action: &Action) -> String {
    let action = match action {
        Action::NonResource { verb, path } => return format!("{verb} {path}"),
        Action::Resource(action) => action,
    };
    let mut text = format!("{} {}", action.verb, action.group_resource());
    if let Some(name) = &action.name {
        text.push('/');
        text.push_str(name);
    }
    if let Some(subresource) = &action.subresource {
        text.push('/');
        text.push_str(subresource);
    }
    match &action.scope {
        Scope::Cluster => {}
        Scope::AllNamespaces => text.push_str(" -A"),
        Scope::Namespace(_) if is_namespace_object(action) => {}
        Scope::Namespace(namespace) => {
            text.push_str(" -n ");
            text.push_str(namespace);
        }
    }
    if action.dry_run {
        text.push_str(" --dry-run=server");
    }
    text
}

/// `window of 1800s`, with its start if it is planned.
pub fn window_summary(window: &Window) -> String {
    match &window.start_time {
        None => format!("window of {}s", window.duration_seconds),
        Some(start) => format!("window of {}s from {}", window.duration_seconds, start.0),
    }
}

fn is_namespace_object(action: &ResourceAction) -> bool {
    action.group.is_empty() && action.resource == "namespaces"
}

/// The words of `spec.request` that name the act; fingerprint, uid, digests and query are the proxy's to add.
pub fn request_of(action: &Action) -> GrantRequest {
    let action = match action {
        Action::NonResource { verb, path } => {
            return GrantRequest { verb: verb.clone(), path: Some(path.clone()), ..GrantRequest::default() };
        }
        Action::Resource(action) => action,
    };
    let namespace = match &action.scope {
        Scope::Cluster => None,
        Scope::AllNamespaces => Some(ALL_NAMESPACES.to_owned()),
        Scope::Namespace(_) if is_namespace_object(action) => None,
        Scope::Namespace(namespace) => Some(namespace.clone()),
    };
    GrantRequest {
        verb: action.verb.as_str().to_owned(),
        api_group: action.group.clone(),
        api_version: Some(action.version.clone()),
        resource: Some(action.resource.clone()),
        subresource: action.subresource.clone(),
        namespace,
        name: action.name.clone(),
        query: action.dry_run.then(|| "dryRun=All".to_owned()),
        ..GrantRequest::default()
    }
}

/// The act that a grant names; `None` where its words name none.
pub fn action_of(request: &GrantRequest) -> Option<Action> {
    let Some(resource) = &request.resource else {
        return Some(Action::NonResource { verb: request.verb.clone(), path: request.path.clone()? });
    };
    let mut action = ResourceAction {
        verb: Verb::from_str(&request.verb).ok()?,
        group: request.api_group.clone(),
        version: request.api_version.clone()?,
        resource: resource.clone(),
        subresource: request.subresource.clone(),
        scope: match request.namespace.as_deref() {
            None => Scope::Cluster,
            Some(ALL_NAMESPACES) => Scope::AllNamespaces,
            Some(namespace) => Scope::Namespace(namespace.to_owned()),
        },
        name: request.name.clone(),
        may_create: request.content_type.as_deref() == Some(APPLY_PATCH),
        dry_run: request
            .query
            .as_deref()
            .is_some_and(|query| query.split('&').any(|pair| pair == "dryRun=All")),
    };
    if let (Scope::Cluster, true, Some(name)) = (&action.scope, is_namespace_object(&action), &action.name)
        && action.verb != Verb::Create
    {
        action.scope = Scope::Namespace(name.clone());
    }
    Some(Action::Resource(action))
}
