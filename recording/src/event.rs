//! What is written down: one type for each thing that happens in a session.
//!
//! Text is stored as escaped JSON exactly as it was. Whoever builds an event hands in nothing secret: bodies come
//! masked ([`MaskedBody`]), tokens and masked values never.

use serde::{Deserialize, Serialize};

use crate::hash::Hash;

/// The longest payload of one frame, in bytes: a request body of the API server's 3 MiB, escaped, and some room.
pub const MAX_PAYLOAD: usize = 8 << 20;

/// Something that happened in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This replica's first word about the session.
    SessionStart(Box<SessionStart>),
    /// A request is about to be forwarded. Durable before the first byte goes upstream (D04).
    Intent(Box<Intent>),
    /// A request has ended.
    Outcome(Outcome),
    /// A request will not be forwarded.
    Refusal(Box<Refusal>),
    /// A person decided on a grant.
    Review(Review),
    /// A grant came to be, was used, or ended.
    Grant(GrantEvent),
    /// This replica's last word about the session.
    SessionEnd(SessionEnd),
    /// Refusals that were only counted.
    Gap(Gap),
}

impl Event {
    /// The number that stands for the type in a frame.
    pub const fn code(&self) -> u8 {
        match self {
            Event::SessionStart(_) => 1,
            Event::Intent(_) => 2,
            Event::Outcome(_) => 3,
            Event::Refusal(_) => 4,
            Event::Review(_) => 5,
            Event::Grant(_) => 6,
            Event::SessionEnd(_) => 7,
            Event::Gap(_) => 8,
        }
    }

    /// Appends the event's JSON to `out`.
    ///
    /// # Errors
    /// Only what `serde_json` reports, which these types do not provoke.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        match self {
            Event::SessionStart(event) => serde_json::to_writer(out, event),
            Event::Intent(event) => serde_json::to_writer(out, event),
            Event::Outcome(event) => serde_json::to_writer(out, event),
            Event::Refusal(event) => serde_json::to_writer(out, event),
            Event::Review(event) => serde_json::to_writer(out, event),
            Event::Grant(event) => serde_json::to_writer(out, event),
            Event::SessionEnd(event) => serde_json::to_writer(out, event),
            Event::Gap(event) => serde_json::to_writer(out, event),
        }
    }

    /// Reads an event back; `None` for a type that this version does not know.
    ///
    /// # Errors
    /// The payload is not the JSON of that type.
    pub fn decode(code: u8, payload: &[u8]) -> Result<Option<Event>, serde_json::Error> {
        Ok(Some(match code {
            1 => Event::SessionStart(serde_json::from_slice(payload)?),
            2 => Event::Intent(serde_json::from_slice(payload)?),
            3 => Event::Outcome(serde_json::from_slice(payload)?),
            4 => Event::Refusal(serde_json::from_slice(payload)?),
            5 => Event::Review(serde_json::from_slice(payload)?),
            6 => Event::Grant(serde_json::from_slice(payload)?),
            7 => Event::SessionEnd(serde_json::from_slice(payload)?),
            8 => Event::Gap(serde_json::from_slice(payload)?),
            _ => return Ok(None),
        }))
    }
}

/// Who does what where, as the SessionRecord's spec has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStart {
    /// Name of the AgentIdentity.
    pub agent: String,
    /// Its uid.
    pub agent_uid: String,
    /// Name of the subject inside the AgentIdentity.
    pub subject: String,
    /// Its type, such as `ServiceAccount`.
    pub subject_type: String,
    /// Who the credential says it is, such as `system:serviceaccount:agents:claude-code`.
    pub subject_id: String,
    /// Address of the first client.
    pub client_address: String,
    /// What the first client called itself. Never trusted.
    pub user_agent: String,
    /// The user name that the target sees.
    pub username: String,
    /// The target's type.
    pub target_type: String,
    /// The target's address.
    pub target_server: String,
    /// Recording level in force at the start.
    pub level: String,
}

/// What a request would do, in Kubernetes' own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Act {
    /// Kubernetes verb, or the lower-case HTTP method of a non-resource request.
    pub verb: String,
    /// API group; empty for core.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// API version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Plural resource; empty for a non-resource request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
    /// Namespace, if the request is inside one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The request reaches all namespaces (`-A`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub all_namespaces: bool,
    /// Object name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Canonical path of a non-resource request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The server would not persist the effect.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
}

impl Act {
    /// `delete deployments.apps/web -n payments`, `list pods -A`, `get /version`: the words that highlights, grants
    /// and replay share. A subresource follows the name, as in a URL.
    pub fn summary(&self) -> String {
        let mut out = format!("{} ", self.verb);
        if let Some(path) = &self.path {
            out.push_str(path);
            return out;
        }
        out.push_str(&self.resource);
        if !self.group.is_empty() {
            out.push('.');
            out.push_str(&self.group);
        }
        for part in [&self.name, &self.subresource].into_iter().flatten() {
            out.push('/');
            out.push_str(part);
        }
        match (&self.namespace, self.all_namespaces) {
            (_, true) => out.push_str(" -A"),
            // A namespace is inside itself for RBAC, but nobody would write it twice.
            (Some(namespace), false) if self.resource != "namespaces" || !self.group.is_empty() => {
                out.push_str(" -n ");
                out.push_str(namespace);
            }
            (Some(_) | None, false) => {}
        }
        if self.dry_run {
            out.push_str(" --dry-run=server");
        }
        out
    }
}

/// A request body that has been through the masker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaskedBody {
    text: String,
    sha256: Hash,
}

impl MaskedBody {
    /// Takes the masker's output. The caller vouches that it is masked.
    pub fn from_masked(text: String) -> MaskedBody {
        let sha256 = Hash::of(text.as_bytes());
        MaskedBody { text, sha256 }
    }

    /// The masked text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Why a forwarded request was permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permitted {
    /// By rules (and an open Window, if `grant` names one).
    Allowed,
    /// By a person, through the SingleRequest grant in `grant`.
    Approved,
}

/// A request that is about to be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// Request id: what the agent sees as `id:` and the API server logs as Audit-ID.
    pub request_id: String,
    /// What it does.
    pub act: Act,
    /// The target that goes upstream, rebuilt.
    pub target: String,
    /// The target as it came.
    pub raw_target: String,
    /// Why it may go.
    pub decision: Permitted,
    /// `policy/rule` of every rule that spoke.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Hash of the bundle that decided.
    pub bundle: String,
    /// Name of the grant that is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What rules in Audit mode would have said: `policy/rule Effect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub would_have: Vec<String>,
    /// What the bearer's credential calls its session: the name of an AWS role session. Whoever assumed the role chose it (D09).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role_session: Option<String>,
    /// At recording level Request: the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<MaskedBody>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Disposition {
    /// The target answered, with whatever code.
    Executed,
    /// It was not forwarded, by decision.
    Refused,
    /// It was not forwarded, or surely not carried out, by failure.
    Failed,
    /// It was sent and nobody knows whether it was carried out (F03, F04).
    Unknown,
    /// A stream that the gate ended.
    Cut,
}

impl Disposition {
    /// The word in lines for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Disposition::Executed => "executed",
            Disposition::Refused => "refused",
            Disposition::Failed => "failed",
            Disposition::Unknown => "unknown",
            Disposition::Cut => "cut",
        }
    }
}

/// The end of a request. Every request has one; where it is missing, the end is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Request id.
    pub request_id: String,
    /// HTTP status that the agent was given; 0 if none was.
    pub code: u16,
    /// Time since the request arrived, in microseconds.
    pub duration_us: u64,
    /// Values masked in the answer.
    pub masked: u64,
    /// Bytes of the answer that the agent was given.
    pub bytes: u64,
    /// How it ended.
    pub disposition: Disposition,
    /// Reason word of the Status that the agent was given, if the gate made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a log: what the agent was given, to be compared with the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogSum>,
}

/// A log that was passed on, in figures; its text is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogSum {
    /// Line ends in it.
    pub lines: u64,
    /// Hash of its bytes.
    pub sha256: Hash,
}

/// A request that the gate answers itself with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Request id.
    pub request_id: String,
    /// What it would have done, if it could be understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub act: Option<Act>,
    /// HTTP method as it came.
    pub method: String,
    /// The target as it came.
    pub raw_target: String,
    /// Reason word of the Status, such as `PolicyDenied`.
    pub reason: String,
    /// Security rule or `policy/rule` ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Hash of the bundle that decided, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Grant that is waited for or was denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// At recording level Request: the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<MaskedBody>,
}

/// A person's word on a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// The grant.
    pub grant: String,
    /// `Approved`, `Denied` or `Revoked`.
    pub decision: String,
    /// Who, as stamped by the API server.
    pub reviewer: String,
    /// What they wrote.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What became of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantChange {
    /// Created or joined; waits for review.
    Requested,
    /// Used up by the request, before it was forwarded.
    Consumed,
    /// A window opened.
    Opened,
    /// A window closed.
    Closed,
    /// Revoked by a person.
    Revoked,
    /// Withdrawn by the agent.
    Withdrawn,
    /// A deadline passed.
    Expired,
}

impl GrantChange {
    /// The word in lines for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            GrantChange::Requested => "requested",
            GrantChange::Consumed => "consumed",
            GrantChange::Opened => "opened",
            GrantChange::Closed => "closed",
            GrantChange::Revoked => "revoked",
            GrantChange::Withdrawn => "withdrawn",
            GrantChange::Expired => "expired",
        }
    }
}

/// A grant changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantEvent {
    /// The grant.
    pub grant: String,
    /// What became of it.
    pub change: GrantChange,
    /// The request that did it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Why a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Nothing happened for `idleTimeoutSeconds`.
    IdleTimeout,
    /// `maxDurationSeconds` passed.
    MaxDuration,
    /// The session's Window closed.
    WindowClosed,
    /// The agent was suspended.
    AgentSuspended,
    /// This replica died; a later life closed the chain with what was on its disk.
    ProxyLost,
    /// This replica stopped in good order.
    ProxyStopped,
}

impl EndReason {
    /// The word in conditions and lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndReason::IdleTimeout => "IdleTimeout",
            EndReason::MaxDuration => "MaxDuration",
            EndReason::WindowClosed => "WindowClosed",
            EndReason::AgentSuspended => "AgentSuspended",
            EndReason::ProxyLost => "ProxyLost",
            EndReason::ProxyStopped => "ProxyStopped",
        }
    }
}

/// The last event of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionEnd {
    /// Why.
    pub reason: EndReason,
}

/// Refusals without a record of their own: the spool was full to its reserve, or the agent asked more often than it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// How many.
    pub refusals: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_reads_like_the_command() {
        let act =
            |verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>| Act {
                verb: verb.into(),
                group: group.into(),
                resource: resource.into(),
                namespace: namespace.map(Into::into),
                name: name.map(Into::into),
                ..Act::default()
            };
        let web = act("delete", "apps", "deployments", Some("payments"), Some("web"));
        let logs = Act { subresource: Some("log".into()), ..act("get", "", "pods", Some("p"), Some("web")) };
        let table = [
            (act("list", "apps", "deployments", Some("payments"), None), "list deployments.apps -n payments"),
            (web.clone(), "delete deployments.apps/web -n payments"),
            (Act { dry_run: true, ..web }, "delete deployments.apps/web -n payments --dry-run=server"),
            (
                act("delete", "", "namespaces", Some("payments"), Some("payments")),
                "delete namespaces/payments",
            ),
            (Act { all_namespaces: true, ..act("list", "", "pods", None, None) }, "list pods -A"),
            (act("get", "", "nodes", None, Some("n1")), "get nodes/n1"),
            (logs, "get pods/web/log -n p"),
            (Act { verb: "get".into(), path: Some("/version".into()), ..Act::default() }, "get /version"),
        ];
        for (act, expected) in table {
            assert_eq!(act.summary(), expected);
        }
    }
}
