//! A question to the gate itself becomes the gate's own answer: who am I, may I, what may I, and why.
mod imagined;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use parsing::discovery::Discovery;
use parsing::query::Query;
use parsing::request::Request;
use parsing::review::{
    AccessStatus, Asked, Encoding, NonResourceRule, ResourceRule, Review, RulesStatus, UserInfo,
    write_access, write_rules, write_whoami,
};
use parsing::target::Path;
use policy::action::Action;
use policy::evaluate::{Facts, own_grants};
use policy::explain;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::authenticate::Caller;
use crate::decide::{DecideError, Decider};
use crate::drain::Drain;
use crate::forward::impersonation;
use crate::grants::Grants;
use crate::live::Live;
use crate::mask::Masked;
use crate::refuse::{Body, Reason, Refusal};
use crate::request_id::RequestId;
use crate::upstream::{Outgoing, Upstream};

const OWN_GRANTS: &str = "served by the gate: your own grants only; create only a Window";
const ANSWER_BODY: usize = 256 << 10;
const ANSWER_TIME: Duration = Duration::from_secs(10);
const RBAC_TOO: &str = "Kubernetes RBAC on the target decides too";
const JSON: &str = "application/json";
const MARKDOWN: &str = "text/markdown; charset=utf-8";
/// What the gate answers itself, for `GET /sallyport/v1`.
const INDEX: [(&str, &str); 4] = [
    ("/sallyport/v1/instructions", "what you may do, in words for a system prompt"),
    (
        "/sallyport/v1/access",
        "every rule about you: allowed, needsApproval, needsWindow, denied, limits, window",
    ),
    (
        "/sallyport/v1/explain?verb=VERB&resource=RESOURCE.GROUP&namespace=NAMESPACE&name=NAME",
        "what would be decided about one request, and by which rules; subresource=SUB or resource=RESOURCE/SUB, or path=/PATH",
    ),
    (
        "/sallyport/v1/grants/GRANT/wait?timeoutSeconds=50",
        "answers when one of your grants is decided, or after that time",
    ),
];

/// What only the gate can answer.
#[derive(Clone, Copy, Debug)]
pub enum Question<'a> {
    /// `kubectl auth whoami`
    Whoami,
    /// `kubectl auth can-i`
    Access(&'a Asked),
    /// `kubectl auth can-i --list`
    Rules(&'a str),
    /// `GET /sallyport/v1/access`
    AccessDocument,
    /// `GET /sallyport/v1/explain`
    Explain(&'a Query),
    /// `GET /sallyport/v1/instructions`
    Instructions,
    /// `GET /sallyport/v1/grants/<name>/wait`
    Wait(&'a str, &'a Query),
    /// `GET /sallyport/v1`: what there is.
    Index,
    /// Below `/sallyport/`, never heard of.
    Unknown,
}

impl Question<'_> {
    /// The question that a request is, if it is one.
    pub fn of(request: &Request) -> Option<Question<'_>> {
        if let Some(review) = request.review() {
            return Some(match review {
                Review::Whoami => Question::Whoami,
                Review::Access(asked) => Question::Access(asked),
                Review::Rules { namespace } => Question::Rules(namespace),
            });
        }
        let Path::NonResource(segments) = &request.target.path else { return None };
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["sallyport", "v1", "access"] => Some(Question::AccessDocument),
            ["sallyport", "v1", "explain"] => Some(Question::Explain(&request.query)),
            ["sallyport", "v1", "instructions"] => Some(Question::Instructions),
            &["sallyport", "v1", "grants", name, "wait"] => Some(Question::Wait(name, &request.query)),
            ["sallyport", "v1"] => Some(Question::Index),
            ["sallyport", ..] => Some(Question::Unknown),
            _ => None,
        }
    }
}

/// Who asks, and what is known then.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The agent.
    pub caller: &'a Caller,
    /// Name of its session.
    pub session: &'a str,
    /// Id of the request.
    pub id: &'a RequestId,
    /// The request.
    pub request: &'a Request,
    /// What the target serves.
    pub discovery: &'a Discovery,
    /// Decides about the acts asked about.
    pub decider: &'a Decider,
    /// The way to the target, whose RBAC has a say too.
    pub upstream: &'a Upstream,
    /// The agent's grants.
    pub grants: &'a Grants,
    /// Tells of every change.
    pub live: &'a Live,
    /// The replica's end, which nobody is kept waiting beyond.
    pub drain: &'a Drain,
}

/// Answers a question.
///
/// *Guarantees*: nothing is done. What is asked of the target is asked as the agent; its answer is read, never passed on
/// (B31, B58).
///
/// # Errors
/// If the question means nothing, or there is no bundle to answer from.
pub async fn answer(asking: Asking<'_>, question: Question<'_>) -> Result<Masked<Response<Body>>, Refusal> {
    let encoding = Encoding::accepted(asking.request.headers.accept.as_deref());
    let review =
        |bytes: Vec<u8>| Masked::made_here(StatusCode::CREATED, encoding.content_type(), bytes, asking.id);
    match question {
        Question::Whoami => Ok(review(write_whoami(&asking.whoami()?, encoding))),
        Question::Access(asked) => Ok(review(write_access(asked, &asking.access(asked).await?, encoding))),
        Question::Rules(namespace) => Ok(review(write_rules(namespace, &asking.rules(namespace)?, encoding))),
        Question::AccessDocument => {
            let document = asking.with_facts(explain::access)?;
            asking.document(&document)
        }
        Question::Explain(query) => asking.document(&asking.explain(query).await?),
        Question::Instructions => {
            let text = asking.with_facts(explain::instructions)?;
            Ok(Masked::made_here(StatusCode::OK, MARKDOWN, text, asking.id))
        }
        Question::Wait(name, query) => asking.document(&asking.wait(name, query).await?),
        Question::Index => asking.document(&asking.index()),
        Question::Unknown => {
            let why = "sallyport/NotFound: the gate has no such path of its own.";
            Err(Refusal::new(Reason::NotFound, why).line("instead", "kubectl get --raw /sallyport/v1"))
        }
    }
}

impl Asking<'_> {
    fn with_facts<T>(&self, say: impl FnOnce(&policy::agent::Agent, &Facts<'_>) -> T) -> Result<T, Refusal> {
        let now = Timestamp::now();
        let agent = self.decider.agent(self.caller).map_err(|error| error.refusal())?;
        let windows = self.decider.windows(self.caller, &agent, now).map_err(|error| error.refusal())?;
        Ok(say(&agent, &Facts { now, suspended: false, windows: &windows }))
    }

    fn whoami(&self) -> Result<UserInfo, Refusal> {
        self.with_facts(|agent, facts| {
            let one = |value: &str| vec![value.to_owned()];
            let windows: Vec<String> = facts
                .windows
                .iter()
                .map(|window| format!("{} until {}", window.grant(), explain::stamp(window.until())))
                .collect();
            let mut extra = std::collections::BTreeMap::from([
                ("sallyport.dev/grant-namespace".to_owned(), one(agent.namespace())),
                (crds::names::EXTRA_SESSION.to_owned(), one(self.session)),
            ]);
            if !windows.is_empty() {
                extra.insert("sallyport.dev/window".to_owned(), windows);
            }
            let groups = agent.groups().iter().cloned().chain(["system:authenticated".to_owned()]).collect();
            UserInfo { username: agent.username().to_owned(), uid: String::new(), groups, extra }
        })
    }

    /// Policy **and** the target's RBAC.
    async fn access(&self, asked: &Asked) -> Result<AccessStatus, Refusal> {
        let action = match imagined::asked(asked, self.discovery) {
            Ok(action) => Arc::new(action),
            Err(why) => return Ok(no(why.to_string())),
        };
        if self.is_own_grant(&action)? {
            return Ok(AccessStatus {
                allowed: true,
                reason: OWN_GRANTS.to_owned(),
                ..AccessStatus::default()
            });
        }
        let said = explain::can_i(&self.decide(&action)?);
        if said.denied || said.never {
            return Ok(AccessStatus { denied: said.denied, ..no(said.reason) });
        }
        if let Some(why) = imagined::not_served(&action) {
            return Ok(AccessStatus { denied: true, ..no(why.to_owned()) });
        }
        Ok(match self.target_allows(asked).await {
            Ok(Some(true)) => {
                AccessStatus { allowed: said.allowed, reason: said.reason, ..AccessStatus::default() }
            }
            Ok(None) => {
                let reason = match said.reason.as_str() {
                    "" => RBAC_TOO.to_owned(),
                    more => format!("{more}; {RBAC_TOO}"),
                };
                AccessStatus { allowed: said.allowed, reason, ..AccessStatus::default() }
            }
            Ok(Some(false)) if !said.allowed => {
                no(explain::target_refuses_too(&said.reason, &self.caller.agent))
            }
            Err(_) if !said.allowed => no(said.reason),
            Ok(Some(false)) => no(explain::target_refused(&self.caller.agent)),
            Err(error) => {
                tracing::warn!(id = %self.id, error, "the target did not say whether its RBAC allows an act");
                let evaluation_error = "policy allows it; the target's RBAC could not be asked".to_owned();
                AccessStatus { evaluation_error, ..AccessStatus::default() }
            }
        })
    }

    fn is_own_grant(&self, action: &Action) -> Result<bool, Refusal> {
        let agent = self.decider.agent(self.caller).map_err(|error| error.refusal())?;
        let facts = Facts { now: Timestamp::now(), suspended: false, windows: &[] };
        Ok(own_grants(&agent, action, &facts).is_some())
    }

    fn decide(&self, action: &Arc<Action>) -> Result<policy::decision::Decision, Refusal> {
        let decided = self.decider.decide(self.caller, action, Timestamp::now());
        decided.map_err(|error: DecideError| error.refusal())
    }

    /// Asks the target as the agent. `None` where the credential is the gate's: what it may do says nothing about this agent
    /// (B31, B58).
    async fn target_allows(&self, asked: &Asked) -> Result<Option<bool>, String> {
        if !self.upstream.access().impersonates() {
            return Ok(None);
        }
        let review = Review::Access(asked.clone());
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let outgoing = Outgoing {
            method: Method::POST,
            path_and_query: http::uri::PathAndQuery::from_static(path),
            passed: HeaderMap::new(),
            content_type: Some(JSON.to_owned()),
            accept: JSON.to_owned(),
            user_agent: self.request.headers.user_agent.clone().unwrap_or_default(),
            body: parsing::json::write(&review.to_json()).into(),
            patient: false,
        };
        let agent = impersonation(&self.caller.agent, self.session);
        let response =
            self.upstream.send(outgoing, Some(&agent), self.id).await.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::CREATED {
            return Err(format!("the API server answered {}", response.status()));
        }
        let body = timeout(ANSWER_TIME, Limited::new(response.into_body(), ANSWER_BODY).collect()).await;
        let bytes = body.map_err(|_| "too slow".to_owned())?.map_err(|error| error.to_string())?.to_bytes();
        let said: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let allowed = said.pointer("/status/allowed").and_then(Value::as_bool);
        allowed.map(Some).ok_or_else(|| "no status".to_owned())
    }

    fn rules(&self, namespace: &str) -> Result<RulesStatus, Refusal> {
        let said = self.with_facts(|agent, facts| explain::list_rules(agent, namespace, facts))?;
        let resource = |rule: explain::ResourceRule| ResourceRule {
            verbs: rule.verbs,
            api_groups: rule.api_groups,
            resources: rule.resources,
            resource_names: rule.resource_names,
        };
        let path = |rule: explain::NonResourceRule| NonResourceRule {
            verbs: rule.verbs,
            non_resource_urls: rule.non_resource_urls,
        };
        // The target's own RBAC is not in the list, so the list is never the whole truth (B58).
        let rbac = RBAC_TOO;
        let evaluation_error = match said.evaluation_error.as_str() {
            "" => rbac.to_owned(),
            more => format!("{rbac}; {more}"),
        };
        Ok(RulesStatus {
            resource_rules: said.resource_rules.into_iter().map(resource).collect(),
            non_resource_rules: said.non_resource_rules.into_iter().map(path).collect(),
            incomplete: true,
            evaluation_error,
        })
    }

    async fn explain(&self, query: &Query) -> Result<explain::ExplainDocument, Refusal> {
        let asked = imagined::from_query(query);
        let action = imagined::asked(&asked, self.discovery).map_err(|why| {
            let next = "kubectl get --raw '/sallyport/v1/explain?verb=delete&resource=deployments.apps&namespace=default&name=web'";
            Refusal::new(Reason::BadRequest, format!("sallyport/BadRequest: {why}.")).next(next)
        })?;
        let action = Arc::new(action);
        let decision = self.decide(&action)?;
        let mut document = explain::explain(&decision);
        if self.is_own_grant(&action)? {
            (document.decision, document.authority) = ("Allowed", Some("BuiltIn"));
            OWN_GRANTS.clone_into(&mut document.reason);
            return Ok(document);
        }
        let said = explain::can_i(&decision);
        if said.denied || said.never {
            return Ok(document);
        }
        if let Some(why) = imagined::not_served(&action) {
            (document.decision, document.authority) = (Reason::StreamDenied.as_str(), None);
            why.clone_into(&mut document.reason);
            return Ok(document);
        }
        document.target_rbac = match self.target_allows(&asked).await {
            Ok(said) => said.map(|allows| if allows { "allows" } else { "denies" }),
            Err(error) => {
                tracing::warn!(id = %self.id, error, "the target did not say whether its RBAC allows an act");
                Some("unknown")
            }
        };
        Ok(document)
    }

    fn index(&self) -> Value {
        let path = |(path, what): (&str, &str)| json!({"path": path, "what": what});
        json!({
            "gate": format!("sallyport {}", env!("CARGO_PKG_VERSION")),
            "agent": self.caller.key.to_string(),
            "paths": INDEX.map(path),
        })
    }

    fn document(&self, document: &impl serde::Serialize) -> Result<Masked<Response<Body>>, Refusal> {
        let mut text = serde_json::to_vec_pretty(document).map_err(|error| {
            tracing::error!(id = %self.id, %error, "a document could not be written");
            Refusal::new(Reason::InternalError, "sallyport/InternalError: the gate failed.")
        })?;
        text.push(b'\n');
        Ok(Masked::made_here(StatusCode::OK, JSON, text, self.id))
    }
}

fn no(reason: String) -> AccessStatus {
    AccessStatus { reason, ..AccessStatus::default() }
}
