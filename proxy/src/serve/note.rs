//! What the record is told about a request: the same act, decision and names that the agent is told.
use std::sync::Arc;
use std::time::Duration;

use crds::access_policy::RecordingLevel;
use policy::action::{Action, Scope};
use policy::decision::{Authority, Decision};
use policy::rule::Level;
use recording::event::{Act, Intent, Permitted};

use crate::accept::Session as Connection;
use crate::authenticate::Caller;
use crate::live::Live;
use crate::record::Facts;
use crate::request_id::RequestId;
use crate::targets::Target;

/// The session that a request belongs to.
pub fn facts(caller: &Caller, connection: &Connection, user_agent: &str, target: &Target) -> Facts {
    let agent = &caller.agent;
    let seconds = |count: i32| Duration::from_secs(u64::try_from(count).unwrap_or_default());
    Facts {
        namespace: caller.key.namespace.clone(),
        agent: caller.key.name.clone(),
        agent_uid: agent.uid().to_owned(),
        subject: caller.subject_name.to_string(),
        subject_type: caller.subject.subject_type(),
        subject_id: caller.subject.username(),
        client_address: connection.peer.ip().to_string(),
        user_agent: user_agent.to_owned(),
        target_type: target.kind(),
        target_server: target.upstream.access().server(),
        username: agent.username().to_owned(),
        level: match agent.level() {
            Level::Metadata => RecordingLevel::Metadata,
            Level::Request => RecordingLevel::Request,
        },
        idle: seconds(agent.session().idle_timeout_seconds),
        longest: seconds(agent.session().max_duration_seconds),
    }
}

/// An act in the record's words.
pub fn act(action: &Action) -> Act {
    match action {
        Action::NonResource { verb, path } => {
            Act { verb: verb.clone(), path: Some(path.clone()), ..Act::default() }
        }
        Action::Resource(action) => Act {
            verb: action.verb.as_str().to_owned(),
            group: action.group.clone(),
            version: action.version.clone(),
            resource: action.resource.clone(),
            subresource: action.subresource.clone(),
            namespace: match &action.scope {
                Scope::Namespace(namespace) => Some(namespace.clone()),
                Scope::Cluster | Scope::AllNamespaces => None,
            },
            all_namespaces: action.scope == Scope::AllNamespaces,
            name: action.name.clone(),
            path: None,
            dry_run: action.dry_run,
        },
    }
}

/// What is known of a request on its way up; what the record is told if it is refused.
#[derive(Default)]
pub struct Known {
    /// HTTP method as it came.
    pub method: String,
    /// The target as it came.
    pub raw_target: String,
    /// The act, once it is read.
    pub action: Option<Arc<Action>>,
    /// `policy/rule` of every rule that spoke.
    pub rules: Vec<String>,
    /// Hash of the bundle that decided.
    pub bundle: Option<String>,
}

impl Known {
    /// Of a request whose head has come.
    pub fn of(head: &http::request::Parts) -> Self {
        Known { method: head.method.to_string(), raw_target: head.uri.to_string(), ..Known::default() }
    }

    /// Takes what a decision says.
    pub fn decided(&mut self, decision: &Decision, live: &Live) {
        self.rules = decision.rules().iter().chain(decision.narrowed_by()).map(ToString::to_string).collect();
        self.bundle = live.latest_bundle().map(|bundle| bundle.hash().to_owned());
    }

    /// The intent of a request that is about to be forwarded to `target`.
    pub fn intent(
        &self,
        id: &RequestId,
        target: String,
        decision: Option<&Decision>,
        grant: Option<String>,
    ) -> Intent {
        let would_have = decision.and_then(Decision::would_have);
        let approved = matches!(
            decision.map(Decision::verdict),
            Some(policy::decision::Verdict::Allowed(Authority::Approval { .. }))
        );
        Intent {
            request_id: id.to_string(),
            act: self.action.as_deref().map(act).unwrap_or_default(),
            target,
            raw_target: self.raw_target.clone(),
            decision: if approved { Permitted::Approved } else { Permitted::Allowed },
            rules: self.rules.clone(),
            bundle: self.bundle.clone().unwrap_or_default(),
            grant,
            would_have: would_have.map_or_else(Vec::new, |would| {
                would.rules.iter().map(|rule| format!("{rule} {}", rule.effect)).collect()
            }),
            role_session: None,
            body: None,
        }
    }

    /// What a refusal is recorded as.
    pub fn refusal(&self, id: &RequestId, refused: &crate::refuse::Refusal) -> recording::event::Refusal {
        let cause = |reason: &str| refused.causes.iter().find(|cause| cause.reason == reason);
        let broken = cause("sallyport.dev/ParsingRule").map(|cause| cause.field.clone());
        let grant =
            cause("sallyport.dev/Grant").and_then(|cause| cause.field.rsplit('/').next().map(str::to_owned));
        recording::event::Refusal {
            request_id: id.to_string(),
            act: self.action.as_deref().map(act),
            method: self.method.clone(),
            raw_target: self.raw_target.clone(),
            reason: refused.reason.as_str().to_owned(),
            rules: self.rules.iter().cloned().chain(broken).collect(),
            bundle: self.bundle.clone(),
            grant,
            body: None,
        }
    }
}

/// The grant that an authority stands on.
pub fn grant(authority: &Authority) -> Option<String> {
    match authority {
        Authority::Window { grant, .. } | Authority::Approval { grant, .. } => Some(grant.to_string()),
        Authority::BuiltIn | Authority::Rule | Authority::DryRun => None,
    }
}
