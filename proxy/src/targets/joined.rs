//! Group `sallyport.dev` in what a remote target says that it serves: kubectl finds the agent's own grants there, and the gate
//! serves them from its own cluster (ruling on what an agent may do in the group).
use std::time::Duration;

use crds::names::{GROUP, VERSION};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use parsing::discovery::{Discovery, Kind, Resource};
use parsing::request::Request;
use parsing::target::Path;
use policy::permit::Permit;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Target;
use crate::forward::{Answer, ForwardError, Said, forward_joined, forward_own};
use crate::request_id::RequestId;

const VERBS: [&str; 5] = ["create", "delete", "get", "list", "watch"];
const PLURAL: &str = "accessgrants";
const JSON: &str = "application/json";
/// The forms of discovery that hold several groups, the newest first.
const AGGREGATED: [&str; 2] = ["v2", "v2beta1"];
const LARGEST: usize = 32 << 20;
const READ: Duration = Duration::from_secs(20);

/// A page of discovery that another cluster cannot write alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `/apis`
    Groups,
    /// `/apis/sallyport.dev`
    Group,
    /// `/apis/sallyport.dev/v1alpha1`
    Version,
    /// `/openapi/v3`
    Schemas,
    /// `/openapi/v3/apis/sallyport.dev/v1alpha1`
    Schema,
}

impl Page {
    /// The page that a request asks for, if it is one of these.
    pub fn of(request: &Request) -> Option<Self> {
        let Path::NonResource(segments) = &request.target.path else { return None };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["apis"] => Some(Page::Groups),
            ["apis", GROUP] => Some(Page::Group),
            ["apis", GROUP, VERSION] => Some(Page::Version),
            ["openapi", "v3"] => Some(Page::Schemas),
            ["openapi", "v3", "apis", GROUP, VERSION] => Some(Page::Schema),
            _ => None,
        }
    }
}

/// What the gate reads requests against: grants have their kind, whatever the target serves under that name.
pub fn join(discovery: &mut Discovery) {
    let kind = Kind { group: GROUP.to_owned(), version: VERSION.to_owned(), kind: "AccessGrant".to_owned() };
    let verbs = VERBS.iter().map(|verb| (*verb).to_owned()).collect();
    let grants = Resource { kind, namespaced: true, verbs, ..Resource::default() };
    discovery.insert(GROUP, VERSION, PLURAL, grants);
}

/// The page, with the group in it. The schema is the hub's; it is no agent's secret.
///
/// # Errors
/// As [`crate::forward::forward`].
pub async fn answer(
    page: Page,
    (target, hub): (&Target, &Target),
    permit: Permit,
    request: &Request,
    accept: String,
    id: &RequestId,
) -> Result<Answer, ForwardError> {
    match page {
        Page::Group => Ok(made(group())),
        Page::Version => Ok(made(version())),
        Page::Schema => forward_own(&hub.upstream, request, accept, id).await,
        Page::Groups | Page::Schemas => {
            let accept = readable(&accept);
            let answer = forward_joined(&target.upstream, permit, request, accept, id).await?;
            if answer.status != StatusCode::OK {
                return Ok(answer);
            }
            with_group(page, answer).await
        }
    }
}

/// Only JSON: what is joined must be read.
fn readable(accept: &str) -> String {
    let asks = |version: &&&str| {
        accept.split(',').any(|entry| {
            let parts: Vec<&str> = entry.split(';').map(str::trim).collect();
            parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&format!("v={version}").as_str())
        })
    };
    let aggregated = AGGREGATED
        .iter()
        .filter(asks)
        .map(|version| format!("{JSON};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"));
    aggregated.chain([JSON.to_owned()]).collect::<Vec<_>>().join(",")
}

async fn with_group(page: Page, answer: Answer) -> Result<Answer, ForwardError> {
    let bytes = timeout(READ, whole(answer.body)).await.map_err(|_| unreadable("it took too long"))??;
    let mut document: Value =
        serde_json::from_slice(&bytes).map_err(|error| unreadable(&error.to_string()))?;
    match page {
        Page::Schemas => put_schema(&mut document),
        Page::Groups | Page::Group | Page::Version | Page::Schema => put_group(&mut document),
    }
    let mut headers = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::VARY, header::WARNING] {
        for value in answer.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    Ok(Answer { status: answer.status, headers, body: Said::Whole(document.to_string().into()) })
}

async fn whole(mut body: Said) -> Result<Vec<u8>, ForwardError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unreadable(&error.to_string()))?;
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        if bytes.len() > LARGEST {
            return Err(unreadable("it is too long"));
        }
    }
    Ok(bytes)
}

fn unreadable(why: &str) -> ForwardError {
    ForwardError::Unreadable(why.to_owned())
}

fn made(document: Value) -> Answer {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))]);
    Answer { status: StatusCode::OK, headers, body: Said::Whole(document.to_string().into()) }
}

fn group_version() -> String {
    format!("{GROUP}/{VERSION}")
}

fn group() -> Value {
    let version = json!({"groupVersion": group_version(), "version": VERSION});
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})
}

fn version() -> Value {
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(), "resources": [{
        "name": PLURAL, "singularName": "accessgrant", "namespaced": true, "kind": "AccessGrant", "verbs": VERBS,
        "shortNames": ["agrant"], "categories": ["sallyport"],
    }]})
}

/// In both forms of `/apis`. What the target itself has under the name is no agent's: the gate never forwards it (B110).
fn put_group(document: &mut Value) {
    let (list, named, entry) = if document["kind"] == "APIGroupDiscoveryList" {
        ("items", "/metadata/name", aggregated())
    } else {
        let mut group = group();
        if let Some(fields) = group.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        ("groups", "/name", group)
    };
    let Some(entries) = document[list].as_array_mut() else {
        document[list] = json!([entry]);
        return;
    };
    entries.retain(|one| one.pointer(named).and_then(Value::as_str) != Some(GROUP));
    entries.push(entry);
}

fn aggregated() -> Value {
    let kind = json!({"group": GROUP, "version": VERSION, "kind": "AccessGrant"});
    let grants = json!({
        "resource": PLURAL, "responseKind": kind, "scope": "Namespaced", "singularResource": "accessgrant",
        "verbs": VERBS, "shortNames": ["agrant"], "categories": ["sallyport"],
    });
    let version = json!({"version": VERSION, "resources": [grants], "freshness": "Current"});
    json!({"metadata": {"name": GROUP, "creationTimestamp": null}, "versions": [version]})
}

fn put_schema(document: &mut Value) {
    let path = format!("apis/{GROUP}/{VERSION}");
    document["paths"][&path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b110_both_forms_of_the_groups_name_ours_once_and_never_the_targets_own() {
        let foreign = json!({"metadata": {"name": GROUP}, "versions": [{"version": "v9", "resources": []}]});
        let mut document =
            json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "apps"}}, foreign]});
        put_group(&mut document);
        assert_eq!(document["items"].as_array().map(Vec::len), Some(2));
        assert_eq!(document["items"][1]["versions"][0]["version"], VERSION);
        let mut document =
            json!({"kind": "APIGroupList", "groups": [{"name": GROUP, "versions": []}, {"name": "apps"}]});
        put_group(&mut document);
        assert_eq!(document["groups"][0]["name"], "apps");
        assert_eq!(document["groups"][1]["preferredVersion"]["groupVersion"], "sallyport.dev/v1alpha1");
        assert_eq!(document["groups"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn only_what_can_be_read_is_asked_for() {
        for (asked, sent) in [
            ("*/*", JSON.to_owned()),
            ("application/vnd.kubernetes.protobuf", JSON.to_owned()),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;\
                 v=v2beta1;as=APIGroupDiscoveryList,application/json",
                format!(
                    "{JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                     {JSON};g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,{JSON}"
                ),
            ),
        ] {
            assert_eq!(readable(asked), sent);
        }
    }

    #[test]
    fn the_gate_reads_grants_whatever_the_target_serves() {
        let mut discovery = Discovery::new();
        join(&mut discovery);
        let grants = discovery.resource(GROUP, VERSION, PLURAL).expect("there");
        assert!(grants.namespaced && grants.kind.kind == "AccessGrant" && !grants.verbs.contains("patch"));
    }
}
