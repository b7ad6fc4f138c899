//! From the words of an AccessPolicy to rules that can be asked.

mod checks;
mod copies;
mod words;

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::AccessPolicySpec;
use crds::access_policy as spec_words;
use crds::selector::RequestMatch;

use crate::action::Verb;
use crate::issues::Issues;
use crate::mask::{MaskPath, MaskRule, Replacement};
use crate::matcher::{Matcher, Namespaces, ResourcePattern, Target, VerbSet};
use crate::rule::{CompiledMask, CompiledPolicy, CompiledRule, Effect, Level, Mode, RuleId};
use crate::terms::{Approval, Approver, Jit};
use words::{group, namespaces, object_name, resource, url};

const HTTP_METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];
/// Subresources whose verb is always create (P12).
const CONNECT: [&str; 3] = ["exec", "attach", "portforward"];

/// Compiles one policy, whole or not at all.
///
/// # Errors
/// Every issue, each with its field path: a word that can never match, a path that does not parse, a field whose
/// feature is not built yet.
pub fn policy(name: &str, generation: i64, spec: &AccessPolicySpec) -> Result<CompiledPolicy, Issues> {
    let mut issues = Issues::default();
    let name: Arc<str> = name.into();
    let mode = match spec.mode {
        spec_words::PolicyMode::Enforce => Mode::Enforce,
        spec_words::PolicyMode::Audit => Mode::Audit,
    };
    let rules = rules(&name, generation, mode, spec, &mut issues);
    let approval = approval(spec.approval.as_ref(), &mut issues);
    let jit = jit(&spec.jit, &mut issues);
    let masks = masks(&name, spec, &mut issues);
    checks::recording(&spec.recording, &mut issues);
    issues.into_result()?;
    let level = match spec.recording.level {
        spec_words::RecordingLevel::Metadata => Level::Metadata,
        spec_words::RecordingLevel::Request | spec_words::RecordingLevel::RequestResponse => Level::Request,
    };
    Ok(CompiledPolicy { name, generation, mode, rules, approval, jit, masks, level })
}

fn rules(
    policy: &Arc<str>,
    generation: i64,
    mode: Mode,
    spec: &AccessPolicySpec,
    issues: &mut Issues,
) -> Vec<Arc<CompiledRule>> {
    let mut compiled = Vec::with_capacity(spec.rules.len());
    let mut seen = BTreeSet::new();
    if spec.rules.is_empty() {
        issues.invalid("spec.rules", "must name at least one");
    }
    for (at, rule) in spec.rules.iter().enumerate() {
        let path = format!("spec.rules[{at}]");
        if !seen.insert(rule.name.as_str()) {
            issues.invalid(format!("{path}.name"), format!("`{}` stands twice", rule.name));
        }
        if !rule.match_conditions.is_empty() {
            issues.unsupported(format!("{path}.matchConditions"), "`matchConditions`");
        }
        if rule.r#match.is_empty() {
            issues.invalid(format!("{path}.match"), "must name at least one");
        }
        let effect = match rule.effect {
            spec_words::Effect::Deny => Effect::Deny,
            spec_words::Effect::RequireApproval => Effect::RequireApproval,
            spec_words::Effect::Allow => Effect::Allow,
        };
        let id = RuleId {
            policy: Arc::clone(policy),
            rule: rule.name.as_str().into(),
            generation,
            effect,
            mode,
            message: rule.message.as_deref().filter(|message| !message.trim().is_empty()).map(Arc::from),
        };
        compiled.push(Arc::new(CompiledRule {
            id: Arc::new(id),
            matches: entries(&rule.r#match, &format!("{path}.match"), issues),
            exclude: entries(&rule.exclude, &format!("{path}.exclude"), issues),
        }));
    }
    compiled
}

fn approval(approval: Option<&spec_words::Approval>, issues: &mut Issues) -> Approval {
    let defaults = spec_words::Approval::default();
    let approval = approval.unwrap_or(&defaults);
    let mut approvers = Vec::with_capacity(approval.approvers.len());
    for (at, approver) in approval.approvers.iter().enumerate() {
        let path = format!("spec.approval.approvers[{at}].namespace");
        let name = approver.name.clone();
        match (approver.kind, approver.namespace.clone()) {
            (spec_words::ApproverKind::User, None) => approvers.push(Approver::User(name)),
            (spec_words::ApproverKind::Group, None) => approvers.push(Approver::Group(name)),
            (spec_words::ApproverKind::ServiceAccount, Some(namespace)) => {
                approvers.push(Approver::ServiceAccount { namespace, name });
            }
            (spec_words::ApproverKind::User | spec_words::ApproverKind::Group, Some(_))
            | (spec_words::ApproverKind::ServiceAccount, None) => {
                issues.invalid(path, "must be set exactly when `kind` is 'ServiceAccount'");
            }
        }
    }
    if approval.min_approvals < 1 {
        issues.invalid("spec.approval.minApprovals", "must be at least 1");
    }
    Approval {
        approvers: approvers.into(),
        min_approvals: natural(approval.min_approvals, "spec.approval.minApprovals", issues),
        hold_seconds: natural(approval.hold_seconds, "spec.approval.holdSeconds", issues),
        review_deadline_seconds: natural(
            approval.review_deadline_seconds,
            "spec.approval.reviewDeadlineSeconds",
            issues,
        ),
        use_deadline_seconds: natural(
            approval.use_deadline_seconds,
            "spec.approval.useDeadlineSeconds",
            issues,
        ),
        dry_run_is_free: match approval.server_dry_run {
            spec_words::ServerDryRun::Allow => true,
            spec_words::ServerDryRun::RequireApproval => false,
        },
    }
}

fn jit(jit: &spec_words::Jit, issues: &mut Issues) -> Option<Jit> {
    match jit.mode {
        spec_words::JitMode::NotRequired => None,
        spec_words::JitMode::Required => Some(Jit {
            max_window_seconds: natural(jit.max_window_seconds, "spec.jit.maxWindowSeconds", issues),
            automatic: match jit.approval {
                spec_words::JitApproval::Required => false,
                spec_words::JitApproval::Automatic => true,
            },
        }),
    }
}

fn natural(value: i32, path: &str, issues: &mut Issues) -> u32 {
    u32::try_from(value).unwrap_or_else(|_| {
        issues.invalid(path, "must not be negative");
        0
    })
}

fn masks(policy: &Arc<str>, spec: &AccessPolicySpec, issues: &mut Issues) -> Vec<Arc<CompiledMask>> {
    let mut compiled = Vec::with_capacity(spec.masking.len());
    for (at, mask) in spec.masking.iter().enumerate() {
        let path = format!("spec.masking[{at}]");
        checks::mask(mask, &path, issues);
        if mask.r#match.as_ref().is_some_and(Vec::is_empty) {
            issues.invalid(format!("{path}.match"), "must name at least one");
        }
        let mut paths = Vec::new();
        for (at, text) in mask.fields.iter().flat_map(|fields| &fields.paths).enumerate() {
            match MaskPath::parse(text) {
                Ok(parsed) => paths.push(parsed),
                Err(error) => {
                    issues.invalid(format!("{path}.fields.paths[{at}]"), format!("`{text}`: {error}"))
                }
            }
        }
        let matches = match &mask.r#match {
            Some(entries_) => entries(entries_, &format!("{path}.match"), issues),
            None => vec![Matcher::every_resource()],
        };
        let rule = MaskRule {
            policy: Arc::clone(policy),
            name: mask.name.as_str().into(),
            paths,
            replacement: Replacement::Placeholder,
        };
        compiled.extend(copies::implied(&rule, &matches));
        compiled.push(Arc::new(CompiledMask { rule: Arc::new(rule), matches, implied: false }));
    }
    compiled
}

impl Matcher {
    fn every_resource() -> Matcher {
        Matcher {
            verbs: VerbSet::ALL,
            target: Target::Resources {
                namespaces: Namespaces { any: true, ..Namespaces::default() },
                groups: None,
                resources: vec![ResourcePattern::Any],
                names: None,
            },
        }
    }
}

/// Compiles a list of entries; what does not compile is left out and told, so the result counts only without issues.
pub(crate) fn entries(entries: &[RequestMatch], path: &str, issues: &mut Issues) -> Vec<Matcher> {
    entries
        .iter()
        .enumerate()
        .filter_map(|(at, one)| {
            let before = issues.all().len();
            let matcher = entry(one, &format!("{path}[{at}]"), issues);
            if issues.all().len() == before { matcher } else { None }
        })
        .collect()
}

fn entry(entry: &RequestMatch, path: &str, issues: &mut Issues) -> Option<Matcher> {
    checks::entry(entry, path, issues);
    if let Some(urls) = &entry.non_resource_urls {
        let methods = methods(&entry.verbs, path, issues);
        let urls = each(urls, &format!("{path}.nonResourceURLs"), issues, url);
        return Some(Matcher { verbs: VerbSet::NONE, target: Target::Paths { methods, urls } });
    }
    let patterns = entry.resources.as_ref()?;
    let resources = each(patterns, &format!("{path}.resources"), issues, resource);
    let verbs = verbs(&entry.verbs, path, issues);
    if !verbs.contains(Verb::Create) {
        connect_needs_create(patterns, path, issues);
    }
    let namespaces = match &entry.namespaces {
        None => Namespaces { any: true, ..Namespaces::default() },
        Some(names) => namespaces(names, path, issues),
    };
    let groups = entry.api_groups.as_ref().filter(|groups| !groups.iter().any(|group| group == "*"));
    let groups = groups.map(|groups| each(groups, &format!("{path}.apiGroups"), issues, group));
    let names = entry.resource_names.as_ref();
    let names = names.map(|names| each(names, &format!("{path}.resourceNames"), issues, object_name));
    Some(Matcher { verbs, target: Target::Resources { namespaces, groups, resources, names } })
}

/// A rule for `pods/exec` with verb `get` would never match: such a Deny would be a hole (P12).
fn connect_needs_create(patterns: &[String], path: &str, issues: &mut Issues) {
    for (at, pattern) in patterns.iter().enumerate() {
        let subresource = pattern.split_once('/').map(|(_, subresource)| subresource);
        if subresource.is_some_and(|subresource| CONNECT.contains(&subresource)) {
            issues.invalid(
                format!("{path}.resources[{at}]"),
                format!("`{pattern}` is always verb `create`, which `verbs` does not name"),
            );
        }
    }
}

fn each<T>(
    words: &[String],
    path: &str,
    issues: &mut Issues,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut read_words = Vec::with_capacity(words.len());
    for (at, word) in words.iter().enumerate() {
        match read(word) {
            Ok(read_word) => read_words.push(read_word),
            Err(message) => issues.invalid(format!("{path}[{at}]"), message),
        }
    }
    read_words
}

fn verbs(words: &[String], path: &str, issues: &mut Issues) -> VerbSet {
    let mut set = VerbSet::NONE;
    for (at, word) in words.iter().enumerate() {
        if word == "*" {
            set = VerbSet::ALL;
        } else if let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.as_str() == word) {
            set = set.with(verb);
        } else {
            issues.invalid(
                format!("{path}.verbs[{at}]"),
                format!("`{word}` is not a request verb; use get, list, watch, create, update, patch, delete, deletecollection or *"),
            );
        }
    }
    set
}

fn methods(words: &[String], path: &str, issues: &mut Issues) -> Option<Vec<Box<str>>> {
    let methods = each(words, &format!("{path}.verbs"), issues, |word| {
        if word == "*" || HTTP_METHODS.contains(&word) {
            Ok(word.into())
        } else {
            Err(format!("`{word}` is not an HTTP method, which `nonResourceURLs` needs"))
        }
    });
    if words.iter().any(|word| word == "*") { None } else { Some(methods) }
}
