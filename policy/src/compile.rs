//! From the words of an AccessPolicy to rules that can be asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::AccessPolicySpec;
use crds::access_policy as words;
use crds::selector::RequestMatch;

use crate::action::Verb;
use crate::mask::{MaskPath, MaskRule, Replacement};
use crate::matcher::{Matcher, Namespaces, ResourcePattern, Target, UrlPattern, VerbSet};
use crate::rule::{CompiledMask, CompiledPolicy, CompiledRule, Effect, Level, Mode, RuleId};
use crate::terms::{Approval, Approver, Jit};
use crate::validate::{self, Issues};

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
        words::PolicyMode::Enforce => Mode::Enforce,
        words::PolicyMode::Audit => Mode::Audit,
    };
    let rules = rules(&name, generation, mode, spec, &mut issues);
    let approval = approval(spec.approval.as_ref(), &mut issues);
    let jit = jit(&spec.jit, &mut issues);
    let masks = masks(&name, spec, &mut issues);
    validate::recording(&spec.recording, &mut issues);
    issues.into_result()?;
    let level = match spec.recording.level {
        words::RecordingLevel::Metadata => Level::Metadata,
        words::RecordingLevel::Request | words::RecordingLevel::RequestResponse => Level::Request,
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
            words::Effect::Deny => Effect::Deny,
            words::Effect::RequireApproval => Effect::RequireApproval,
            words::Effect::Allow => Effect::Allow,
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

fn approval(approval: Option<&words::Approval>, issues: &mut Issues) -> Approval {
    let defaults = words::Approval::default();
    let approval = approval.unwrap_or(&defaults);
    let mut approvers = Vec::with_capacity(approval.approvers.len());
    for (at, approver) in approval.approvers.iter().enumerate() {
        let path = format!("spec.approval.approvers[{at}].namespace");
        let name = approver.name.clone();
        match (approver.kind, approver.namespace.clone()) {
            (words::ApproverKind::User, None) => approvers.push(Approver::User(name)),
            (words::ApproverKind::Group, None) => approvers.push(Approver::Group(name)),
            (words::ApproverKind::ServiceAccount, Some(namespace)) => {
                approvers.push(Approver::ServiceAccount { namespace, name });
            }
            (words::ApproverKind::User | words::ApproverKind::Group, Some(_))
            | (words::ApproverKind::ServiceAccount, None) => {
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
            words::ServerDryRun::Allow => true,
            words::ServerDryRun::RequireApproval => false,
        },
    }
}

fn jit(jit: &words::Jit, issues: &mut Issues) -> Option<Jit> {
    match jit.mode {
        words::JitMode::NotRequired => None,
        words::JitMode::Required => Some(Jit {
            max_window_seconds: natural(jit.max_window_seconds, "spec.jit.maxWindowSeconds", issues),
            automatic: match jit.approval {
                words::JitApproval::Required => false,
                words::JitApproval::Automatic => true,
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
        validate::mask(mask, &path, issues);
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
        compiled.push(Arc::new(CompiledMask { rule: Arc::new(rule), matches }));
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
    validate::entry(entry, path, issues);
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

fn url(word: &str) -> Result<UrlPattern, String> {
    let (prefix, is_prefix) = match word.strip_suffix('*') {
        Some(prefix) => (prefix, true),
        None => (word, false),
    };
    let rooted = prefix.starts_with('/') || (is_prefix && prefix.is_empty());
    if !rooted || prefix.contains('*') {
        return Err(format!("`{word}` must start with '/'; '*' may be used only as the last character"));
    }
    Ok(if is_prefix { UrlPattern::Prefix(prefix.into()) } else { UrlPattern::Exact(prefix.into()) })
}

fn resource(word: &str) -> Result<ResourcePattern, String> {
    let named = |part: &str| part != "*" && is_label(part);
    let parts: Vec<&str> = word.split('/').collect();
    match parts.as_slice() {
        ["*"] => Ok(ResourcePattern::Any),
        [name] if named(name) => Ok(ResourcePattern::Exact { resource: (*name).into(), subresource: None }),
        ["*", subresource] if named(subresource) => {
            Ok(ResourcePattern::SubresourceOfAny((*subresource).into()))
        }
        [name, "*"] if named(name) => Ok(ResourcePattern::SubresourcesOf((*name).into())),
        [name, subresource] if named(name) && named(subresource) => {
            Ok(ResourcePattern::Exact { resource: (*name).into(), subresource: Some((*subresource).into()) })
        }
        _ => Err(format!(
            "`{word}` is not a resource; write the lower-case plural name, `name/subresource`, `name/*`, `*/subresource` or `*`, and the group in `apiGroups`"
        )),
    }
}

fn group(word: &str) -> Result<Box<str>, String> {
    if word.is_empty() || word.split('.').all(is_label) {
        return Ok(word.into());
    }
    Err(format!(
        "`{word}` is not an API group; write it without version, \"\" for the core group, or `*` alone"
    ))
}

fn object_name(word: &str) -> Result<Box<str>, String> {
    if word.is_empty() || word.contains(['*', '/']) {
        return Err(format!("`{word}` is not an object name; names are exact"));
    }
    Ok(word.into())
}

fn namespaces(words: &[String], path: &str, issues: &mut Issues) -> Namespaces {
    let mut namespaces = Namespaces::default();
    for (at, word) in words.iter().enumerate() {
        match word.strip_suffix('*') {
            None if word.is_empty() => namespaces.cluster = true,
            None if is_label(word) => namespaces.literals.push(word.as_str().into()),
            Some(prefix) if prefix.is_empty() || is_label_prefix(prefix) => {
                namespaces.prefixes.push(prefix.into());
            }
            Some(_) | None => issues.invalid(
                format!("{path}.namespaces[{at}]"),
                format!("`{word}` is not a namespace; write its name, a prefix and `*`, or \"\" for the cluster scope"),
            ),
        }
    }
    namespaces
}

fn is_label(word: &str) -> bool {
    is_label_prefix(word) && !word.ends_with('-')
}

fn is_label_prefix(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('-')
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
