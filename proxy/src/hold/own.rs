//! The agent's own grants: read, ask for a window, withdraw. Served with the proxy's own ServiceAccount (ruling on
//! what an agent may do in group `sallyport.dev`).
use std::collections::BTreeMap;

use crds::access_grant::{AccessGrant, GrantType};
use crds::names;
use kube::ResourceExt;
use parsing::body::Body;
use parsing::request::Request;
use policy::approve::is_of;
use policy::evaluate::GrantAct;
use policy::terms::Terms;
use serde_json::{Value, json};
use thiserror::Error;

use super::{Held, Hold, requested_by};
use crate::forward::{Answer, ForwardError, forward_own};
use crate::refuse::{Reason, Refusal};

/// Why an agent's own grant is not served.
#[derive(Debug, Error)]
pub enum OwnError {
    /// None of this name is the agent's.
    #[error("no such grant")]
    NotFound(String),
    /// What is asked for is no window that the agent may have.
    #[error("{0}")]
    NotForYou(String),
    /// The agent already waits for as many as it may.
    #[error("too many grants wait for review")]
    TooMany(Vec<String>),
    /// The grants cannot be reached.
    #[error("the grants cannot be reached: {0}")]
    Unavailable(String),
    /// The API server's answer did not come.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

impl OwnError {
    /// What the client reads.
    pub fn refusal(&self) -> Refusal {
        match self {
            OwnError::NotFound(name) => {
                let mut refusal = Refusal::new(
                    Reason::NotFound,
                    format!("accessgrants.sallyport.dev \"{name}\" not found"),
                );
                refusal.group = names::GROUP.to_owned();
                refusal.kind = "accessgrants".to_owned();
                refusal.name.clone_from(name);
                refusal
            }
            OwnError::NotForYou(why) => {
                let sentence =
                    format!("accessgrants.sallyport.dev is forbidden: sallyport/NotAllowed: {why}");
                Refusal::new(Reason::NotAllowed, sentence)
                    .line("final", "yes, for a grant of this shape. Nothing was created.")
                    .line("instead", "kubectl get --raw /sallyport/v1/instructions")
            }
            OwnError::TooMany(waiting) => {
                let sentence = format!(
                    "accessgrants.sallyport.dev is forbidden: sallyport/TooManyPendingApprovals: as many grants wait for \
                     review as this agent may have ({}).",
                    waiting.len()
                );
                let first = waiting.first().map_or("<name>", String::as_str);
                let next = format!(
                    "wait for a decision, or withdraw one: kubectl delete accessgrant {first}\nthen run the command again."
                );
                Refusal::new(Reason::TooManyPendingApprovals, sentence)
                    .line("why", "Every grant asks a human for attention. Nothing was created.")
                    .next(next)
            }
            OwnError::Unavailable(_) => Refusal::new(
                Reason::ServiceUnavailable,
                "sallyport/ServiceUnavailable: the grants cannot be reached at the moment. Nothing was done.",
            ),
            OwnError::Forward(error) => error.refusal(),
        }
    }
}

/// Serves one act on the agent's own grants.
///
/// *Guarantees*: only grants of this agent are read or deleted; what is created is a window for itself, without reviews,
/// and says who asked.
///
/// # Errors
/// [`OwnError`].
pub async fn serve_own(
    hold: &Hold,
    held: Held<'_>,
    act: GrantAct,
    accept: String,
) -> Result<Answer, OwnError> {
    let mut request = held.request.clone();
    match act {
        GrantAct::Read | GrantAct::Withdraw => match request.action_name() {
            Some(name) => narrow_to_one(hold, held, &mut request, act, &name).await?,
            None => request.query.require_field("spec.agentRef.name", &held.caller.key.name),
        },
        GrantAct::Create => ask_for_window(hold, held, &mut request)?,
    }
    Ok(forward_own(&hold.hub, &request, accept, held.id).await?)
}

async fn narrow_to_one(
    hold: &Hold,
    held: Held<'_>,
    request: &mut Request,
    act: GrantAct,
    name: &str,
) -> Result<(), OwnError> {
    let read = hold.grants.read(&held.caller.key.namespace, name).await;
    let found = read.map_err(|error| OwnError::Unavailable(error.to_string()))?;
    let grant = found.filter(|grant| is_of(&held.caller.agent, grant));
    let grant = grant.ok_or_else(|| OwnError::NotFound(name.to_owned()))?;
    if let (GrantAct::Withdraw, Body::Delete(options)) = (act, &mut request.body) {
        options.uid = grant.uid();
    } else if request.is_collection() {
        request.query.require_field("spec.agentRef.name", &held.caller.key.name);
    }
    Ok(())
}

fn ask_for_window(hold: &Hold, held: Held<'_>, request: &mut Request) -> Result<(), OwnError> {
    let Body::Object(body) = &request.body else {
        return Err(OwnError::NotForYou("a grant must be sent as an object.".to_owned()));
    };
    let asked: AccessGrant = serde_json::from_value(body.clone())
        .map_err(|error| OwnError::NotForYou(format!("the grant does not decode: {error}.")))?;
    let agent = hold.decider.agent(held.caller).map_err(|error| OwnError::Unavailable(error.to_string()))?;
    let terms = check(&asked, &held.caller.key.name, agent.window_terms()).map_err(OwnError::NotForYou)?;
    let waiting =
        hold.waiting(held.caller, terms).map_err(|error| OwnError::Unavailable(error.to_string()))?;
    if waiting.len() >= usize::try_from(agent.limits().max_pending_grants).unwrap_or(0) {
        return Err(OwnError::TooMany(waiting));
    }
    let labels = BTreeMap::from([
        (names::LABEL_AGENT, held.caller.key.name.as_str()),
        (names::LABEL_TYPE, "Window"),
        (names::LABEL_SESSION, held.session.name()),
        (names::LABEL_MANAGED_BY, names::MANAGED_BY),
    ]);
    let mut metadata = json!({"namespace": held.caller.key.namespace, "labels": labels});
    for (key, value) in [("name", &asked.metadata.name), ("generateName", &asked.metadata.generate_name)] {
        if let Some(value) = value {
            metadata[key] = Value::from(value.as_str());
        }
    }
    let mut spec = body["spec"].clone();
    spec["requestedBy"] = json!(requested_by(held.caller));
    request.body = Body::Object(json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": "AccessGrant",
        "metadata": metadata,
        "spec": spec,
    }));
    Ok(())
}

fn check<'a>(asked: &AccessGrant, agent: &str, terms: Option<&'a Terms>) -> Result<&'a Terms, String> {
    let spec = &asked.spec;
    if spec.agent_ref.name != agent {
        return Err(format!("an agent asks for itself only: `spec.agentRef.name` must be \"{agent}\"."));
    }
    let Some(window) = spec.window.as_ref().filter(|_| spec.r#type == GrantType::Window) else {
        return Err("an agent asks for windows only: `spec.type` must be \"Window\".".to_owned());
    };
    if !spec.reviews.is_empty() {
        return Err("an agent reviews nothing: leave `spec.reviews` out.".to_owned());
    }
    let Some(terms) = terms else {
        return Err("no policy offers a window to this agent; there is nothing to request.".to_owned());
    };
    let longest = terms.max_window_seconds.unwrap_or(0);
    if u32::try_from(window.duration_seconds).is_ok_and(|seconds| seconds > longest) {
        return Err(format!("the longest window allowed is {longest} seconds."));
    }
    Ok(terms)
}
