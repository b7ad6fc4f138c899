//! `GET /sallyport/v1/access`: everything that an agent may, may not, and may with somebody's help.

use jiff::Timestamp;
use serde::Serialize;

use super::refusal::ask_for_window;
use super::words::one_line;
use crate::agent::Agent;
use crate::evaluate::Facts;
use crate::matcher::{Matcher, Target};
use crate::rule::{CompiledRule, Effect, Mode};
use crate::verdict::{BrokenPolicy, Verdict};

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessDocument {
    /// Who is asking.
    pub agent: AgentWords,
    /// Why nothing runs at all, if that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocked: Option<String>,
    /// Rules that let a request run.
    pub allowed: Vec<RuleWords>,
    /// Rules that let it run once a human approved it.
    pub needs_approval: Vec<RuleWords>,
    /// Rules that let it run inside a window.
    pub needs_window: Vec<RuleWords>,
    /// Rules that refuse it, whatever else is written.
    pub denied: Vec<RuleWords>,
    /// Limits on the agent.
    pub limits: crds::agent_identity::Limits,
    /// Windows, where some policy asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowWords>,
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AgentWords {
    /// Namespace of the AgentIdentity, of its grants and of its records.
    pub namespace: String,
    /// Name of the AgentIdentity.
    pub name: String,
    /// The user that the target sees.
    pub username: String,
    /// The groups that the target sees.
    pub groups: Vec<String>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RuleWords {
    /// Name of the AccessPolicy.
    pub policy: String,
    /// Name of the rule.
    pub rule: String,
    /// The rule's message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it is about.
    pub r#match: Vec<EntryWords>,
    /// What it leaves alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<EntryWords>,
}

/// One entry, in the words of a policy; an empty list is an omitted field.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryWords {
    /// Namespaces; `""` is cluster scope; omitted is everywhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// API groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Object names; omitted is all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths outside the resource API.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
}

/// Windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowWords {
    /// Longest window, in seconds.
    pub max_window_seconds: u32,
    /// How to ask for one.
    pub ask: String,
    /// Those that are open now.
    pub open: Vec<OpenWindowWords>,
}

/// One open window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenWindowWords {
    /// Name of the AccessGrant.
    pub grant: String,
    /// Its end.
    pub until: Timestamp,
    /// What it opens; empty is everything under `needsWindow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<EntryWords>,
}

/// The document for the agent now. Audit policies are not in it: they decide nothing.
pub fn access(agent: &Agent, facts: &Facts<'_>) -> AccessDocument {
    let mut document = AccessDocument {
        agent: AgentWords {
            namespace: agent.namespace().to_owned(),
            name: agent.name().to_owned(),
            username: agent.username().to_owned(),
            groups: agent.groups().to_vec(),
        },
        blocked: blocked(agent, facts),
        allowed: Vec::new(),
        needs_approval: Vec::new(),
        needs_window: Vec::new(),
        denied: Vec::new(),
        limits: agent.limits().clone(),
        window: window(agent, facts),
    };
    for (policy, rule) in agent.sets().into_iter().flat_map(|set| set.all_rules()) {
        if policy.mode == Mode::Audit {
            continue;
        }
        let list = match rule.id.effect {
            Effect::Deny => &mut document.denied,
            Effect::RequireApproval => &mut document.needs_approval,
            Effect::Allow if policy.jit.is_some() => &mut document.needs_window,
            Effect::Allow => &mut document.allowed,
        };
        list.push(rule_words(rule));
    }
    let lists = [
        &mut document.allowed,
        &mut document.needs_approval,
        &mut document.needs_window,
        &mut document.denied,
    ];
    for list in lists {
        list.sort();
    }
    document
}

/// Why nothing runs at all, beginning with the reason token.
pub(super) fn blocked(agent: &Agent, facts: &Facts<'_>) -> Option<String> {
    let suspended = || Some(format!("AgentSuspended: {} is suspended", agent.full_name()));
    if facts.suspended {
        return suspended();
    }
    match agent.blocked()? {
        Verdict::Broken(BrokenPolicy { policy, message }) => {
            Some(format!("PolicyBroken: policy \"{policy}\" cannot be understood: {}", one_line(&message)))
        }
        Verdict::Suspended
        | Verdict::Denied
        | Verdict::NeedsApproval(_)
        | Verdict::Allowed(_)
        | Verdict::NeedsWindow { .. }
        | Verdict::NotAllowed => suspended(),
    }
}

fn window(agent: &Agent, facts: &Facts<'_>) -> Option<WindowWords> {
    let max_window_seconds = agent.window_terms()?.max_window_seconds?;
    let open = facts.windows.iter().filter(|window| window.is_open(agent, facts.now));
    Some(WindowWords {
        max_window_seconds,
        ask: ask_for_window(agent, max_window_seconds),
        open: open
            .map(|window| OpenWindowWords {
                grant: window.grant().to_owned(),
                until: window.until(),
                rules: window.rules().iter().map(entry_words).collect(),
            })
            .collect(),
    })
}

fn rule_words(rule: &CompiledRule) -> RuleWords {
    RuleWords {
        policy: rule.id.policy.to_string(),
        rule: rule.id.rule.to_string(),
        message: rule.id.message.as_ref().map(|message| message.to_string()),
        r#match: rule.matches.iter().map(entry_words).collect(),
        exclude: rule.exclude.iter().map(entry_words).collect(),
    }
}

/// An entry in the words of a policy.
pub(super) fn entry_words(matcher: &Matcher) -> EntryWords {
    let owned = |words: &[Box<str>]| words.iter().map(|word| word.to_string()).collect();
    let any = || vec!["*".to_owned()];
    match &matcher.target {
        Target::Resources { namespaces, groups, resources, names } => EntryWords {
            namespaces: namespaces.to_words(),
            api_groups: groups.as_deref().map_or_else(any, owned),
            resources: resources.iter().map(|pattern| pattern.to_text()).collect(),
            resource_names: names.as_deref().map(owned).unwrap_or_default(),
            non_resource_urls: Vec::new(),
            verbs: matcher.verbs.to_words(),
        },
        Target::Paths { methods, urls } => EntryWords {
            non_resource_urls: urls.iter().map(|url| url.to_text()).collect(),
            verbs: methods.as_deref().map_or_else(any, owned),
            ..EntryWords::default()
        },
    }
}
