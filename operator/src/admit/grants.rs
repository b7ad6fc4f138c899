//! Admission of grants: stamps them, and lets through only reviews of those who may review.

use crds::access_grant::{GrantType, Review};
use crds::{AccessGrant, AgentIdentity};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::core::DeserializeGuard;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::{Api, Client};
use policy::reviewers::{Outsiders, Unfit};
use policy::shard::{GUARDRAILS_NAME, agent_shard_name};
use serde_json::{Value, json};

use super::review::{self, Bench};
use super::stamp;
use crate::judge::{self, Judge};

/// What keeps a grant from being judged. The request is refused then: approvals fail closed (F18).
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server refused or could not be reached.
    #[error("{0}")]
    Kube(#[from] kube::Error),
    /// The live config does not read.
    #[error("{0}")]
    Judge(#[from] judge::JudgeError),
}

/// Admits grants.
#[derive(Clone)]
pub struct Grants {
    client: Client,
    namespace: String,
}

impl Grants {
    /// For a gate in `namespace`. Everything that decides is read from the API server for each review.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The mutating half: stamps requester and reviewer. An object that does not read passes as it is, so that the API
    /// server's own validation says which field is wrong.
    pub async fn stamp(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let answer = AdmissionResponse::from(request);
        let Some(mut grant) = read(request.object.as_ref()) else { return answer };
        grant.metadata.namespace.clone_from(&request.namespace);
        let before = read(request.old_object.as_ref());
        let stored = before.as_ref().map_or(&[][..], |before| &before.spec.reviews);
        let caller = request.user_info.username.clone().unwrap_or_default();
        let groups = match self.groups_to_stamp(stored, &grant, &request.user_info).await {
            Ok(groups) => groups,
            Err(error) => return cannot_judge(answer, &error),
        };
        let stamped = stamp::reviews(stored, &grant.spec.reviews, &caller, &groups, Timestamp::now());
        let mut patch = Vec::new();
        if stamped.reviews != grant.spec.reviews {
            patch.push(json!({"op": "add", "path": "/spec/reviews", "value": stamped.reviews}));
        }
        if before.is_none() {
            let asked = stamp::requested_by(&grant.spec, &caller, self.is_proxy(&caller));
            if asked.is_some() && asked != grant.spec.requested_by {
                patch.push(json!({"op": "add", "path": "/spec/requestedBy", "value": asked}));
            }
        }
        let answer = patched(answer, patch);
        if !stamped.repeated {
            return answer;
        }
        warn(answer, format!("you recorded this decision before ({caller}); it stands once"))
    }

    // Those of the author's groups that the terms name; none where nothing new is reviewed.
    async fn groups_to_stamp(
        &self,
        stored: &[Review],
        grant: &AccessGrant,
        author: &UserInfo,
    ) -> Result<Vec<String>, ReadError> {
        let name = author.username.as_deref().unwrap_or_default();
        if !stamp::has_new(stored, &grant.spec.reviews, name) {
            return Ok(Vec::new());
        }
        let terms = self.judge(grant).await?.and_then(|judge| judge.terms(grant, Timestamp::now()));
        let Some(terms) = terms else { return Ok(Vec::new()) };
        let requester = grant.spec.requested_by.as_ref().map(|by| by.username.as_str());
        let groups = author.groups.clone().unwrap_or_default();
        let outsiders = Outsiders::new(&self.namespace, []);
        // Whoever may not review gets no stamp here and the reason from the validating half.
        Ok(outsiders.admit(name, &groups, requester, &terms).unwrap_or_default())
    }

    /// The validating half.
    pub async fn validate(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let answer = AdmissionResponse::from(request);
        let Some(mut grant) = read(request.object.as_ref()) else {
            return super::refuse(answer, "the grant cannot be read by this version of Sallyport");
        };
        grant.metadata.namespace.clone_from(&request.namespace);
        let before = match (request.operation.clone(), read(request.old_object.as_ref())) {
            (Operation::Create, _) => None,
            (_, Some(before)) => Some(before),
            (_, None) => {
                return super::refuse(answer, "the stored grant cannot be read by this version of Sallyport");
            }
        };
        let checked = match &before {
            None => self.check_new(&grant, &request.user_info).await,
            Some(before) => check_unchanged(before, &grant).map_err(Refused::Words),
        };
        let mut warnings = match checked {
            Ok(warnings) => warnings,
            Err(Refused::Words(words)) => return super::refuse(answer, &words),
            Err(Refused::Unread(error)) => return cannot_judge(answer, &error),
        };
        match self.check_review(before.as_ref(), &grant, &request.user_info).await {
            Ok(None) => {}
            Ok(Some(word)) => warnings.push(word),
            Err(Refused::Words(words)) => return super::refuse(answer, &words),
            Err(Refused::Unread(error)) => return cannot_judge(answer, &error),
        }
        warnings.into_iter().fold(answer, warn)
    }

    async fn check_new(&self, grant: &AccessGrant, author: &UserInfo) -> Result<Vec<String>, Refused> {
        let caller = author.username.as_deref().unwrap_or_default();
        let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
        let asked = grant.spec.requested_by.as_ref();
        let asked_for = asked.map(|by| by.username.as_str()).unwrap_or_default();
        if let Some(window) = &grant.spec.window {
            policy::validate::window(window)
                .map_err(|issues| Refused::Words(format!("{}: {issues}", issues.reason().as_str())))?;
        }
        if self.is_proxy(caller) {
            let agent = policy::agent::username(namespace, &grant.spec.agent_ref.name);
            let rightly = asked_for == agent && grant.spec.reviews.is_empty();
            return if rightly {
                Ok(Vec::new())
            } else {
                refused(format!("the proxy asks only for `{agent}`"))
            };
        }
        if grant.spec.r#type == GrantType::SingleRequest {
            return refused(
                "a grant of type 'SingleRequest' is made only by the proxy, for a request that it holds",
            );
        }
        if asked_for != caller || asked.is_some_and(|by| by.subject.is_some()) {
            return refused("`requestedBy` is stamped and cannot be chosen");
        }
        if review::is_agent(author) || self.outsiders().await?.check(caller, None) == Err(Unfit::Agent) {
            return refused("an agent asks through the gate, not at the API server");
        }
        let terms = self.judge(grant).await?.and_then(|judge| judge.terms(grant, Timestamp::now()));
        let nothing_to_ask =
            "no policy in force needs a window for this agent, so this grant cannot be approved";
        Ok(if terms.is_none() { vec![nothing_to_ask.to_owned()] } else { Vec::new() })
    }

    async fn check_review(
        &self,
        before: Option<&AccessGrant>,
        grant: &AccessGrant,
        author: &UserInfo,
    ) -> Result<Option<String>, Refused> {
        let name = author.username.as_deref().unwrap_or_default();
        let stored = before.map_or(&[][..], |before| &before.spec.reviews);
        let Some(new) = review::added(stored, &grant.spec.reviews, name).map_err(Refused::Words)? else {
            return Ok(None);
        };
        let now = Timestamp::now();
        let bench = Bench {
            terms: self.judge(grant).await?.and_then(|judge| judge.terms(grant, now)),
            outsiders: self.outsiders().await?,
            may_approve: self.may_approve(grant, author).await?,
        };
        let mut grant = grant.clone();
        grant
            .metadata
            .creation_timestamp
            .get_or_insert(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now));
        let unreviewed = before.cloned().unwrap_or_else(|| {
            let mut empty = grant.clone();
            empty.spec.reviews.clear();
            empty
        });
        review::admit(&unreviewed, &grant, new, author, &bench, now).map(Some).map_err(Refused::Words)
    }

    // The live config in force for the grant's agent, as the API server has it now; none where the agent has none.
    async fn judge(&self, grant: &AccessGrant) -> Result<Option<Judge>, ReadError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
        let own = agent_shard_name(namespace, &grant.spec.agent_ref.name);
        let (own, guardrails) = tokio::try_join!(api.get_opt(&own), api.get_opt(GUARDRAILS_NAME))?;
        let (Some(own), Some(guardrails)) = (own, guardrails) else { return Ok(None) };
        Ok(Some(Judge::of(&judge::texts(&[own.into(), guardrails.into()]), None)?))
    }

    async fn outsiders(&self) -> Result<Outsiders, ReadError> {
        let api: Api<DeserializeGuard<AgentIdentity>> = Api::all(self.client.clone());
        let identities = api.list(&ListParams::default()).await?;
        Ok(judge::outsiders(&self.namespace, &identities.items))
    }

    async fn may_approve(&self, grant: &AccessGrant, author: &UserInfo) -> Result<bool, ReadError> {
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let attributes = ResourceAttributes {
            group: Some(crds::names::GROUP.to_owned()),
            version: Some(crds::names::VERSION.to_owned()),
            resource: Some("accessgrants".to_owned()),
            verb: Some("approve".to_owned()),
            namespace: grant.metadata.namespace.clone(),
            name: grant.metadata.name.clone(),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: author.username.clone(),
                uid: author.uid.clone(),
                groups: author.groups.clone(),
                extra: author.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed && !status.denied.unwrap_or(false)))
    }

    fn is_proxy(&self, user: &str) -> bool {
        user == format!("system:serviceaccount:{}:{}", self.namespace, crds::names::PROXY_SERVICE_ACCOUNT)
    }
}

enum Refused {
    Words(String),
    Unread(ReadError),
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        Refused::Unread(error)
    }
}

fn refused<T>(words: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Words(words.into()))
}

// The schema's own rules say the same; two walls.
fn check_unchanged(before: &AccessGrant, grant: &AccessGrant) -> Result<Vec<String>, String> {
    let mut stripped = [before.spec.clone(), grant.spec.clone()];
    stripped.iter_mut().for_each(|spec| spec.reviews.clear());
    if stripped[0] != stripped[1] {
        return Err("only `reviews` may change after creation; what is approved is what was asked".to_owned());
    }
    let kept = before.spec.reviews.iter().all(|review| grant.spec.reviews.contains(review));
    if kept {
        Ok(Vec::new())
    } else {
        Err("a review may not be changed or removed; add a new one".to_owned())
    }
}

/// An object of a request as a grant; none where there is no such object or it does not read.
pub fn read(object: Option<&DynamicObject>) -> Option<AccessGrant> {
    let value = serde_json::to_value(object?).ok()?;
    serde_json::from_value(value).ok()
}

fn patched(answer: AdmissionResponse, patch: Vec<Value>) -> AdmissionResponse {
    if patch.is_empty() {
        return answer;
    }
    let refusal = answer.clone();
    let patch = serde_json::from_value(Value::Array(patch)).map_err(|error| error.to_string());
    match patch.and_then(|patch| answer.with_patch(patch).map_err(|error| error.to_string())) {
        Ok(answer) => answer,
        Err(error) => super::refuse(refusal, &format!("the grant cannot be stamped: {error}")),
    }
}

fn warn(mut answer: AdmissionResponse, words: String) -> AdmissionResponse {
    answer.warnings.get_or_insert_default().push(words);
    answer
}

fn cannot_judge(answer: AdmissionResponse, error: &ReadError) -> AdmissionResponse {
    tracing::warn!(%error, "grant cannot be judged");
    super::refuse(answer, "the grant cannot be judged now, so nothing was recorded; try again")
}
