//! Decides as a person would with the policy on paper: by listing every object that a request may touch.

use std::collections::BTreeSet;

use policy::action::{Action, ResourceAction, Scope, Verb};
use policy::decision::{Authority, Verdict};
use serde_json::Value;

/// Namespaces and names that exist; `zz` and `z` stand for all that no policy names.
const NAMESPACES: [&str; 4] = ["a", "b", "ab", "zz"];
const NAMES: [&str; 3] = ["x", "y", "z"];

/// One object that a request may touch. The first scope is where it lives; a namespace object also goes by its name.
struct Touched {
    scopes: Vec<String>,
    name: String,
}

pub fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Suspended | Verdict::Broken(_) => "blocked",
        Verdict::Denied => "denied",
        Verdict::NeedsApproval(_) => "approval",
        Verdict::Allowed(Authority::DryRun) => "dry run",
        Verdict::Allowed(_) => "allowed",
        Verdict::NeedsWindow { .. } => "window",
        Verdict::NotAllowed => "nothing",
    }
}

fn touched(action: &ResourceAction) -> Vec<Touched> {
    let is_namespace_object = action.group.is_empty() && action.resource == "namespaces";
    let names: Vec<String> = match &action.name {
        Some(name) => vec![name.clone()],
        None if is_namespace_object => {
            NAMESPACES.iter().chain(&NAMES).map(|name| (*name).to_owned()).collect()
        }
        None => NAMES.iter().chain(&NAMESPACES).map(|name| (*name).to_owned()).collect(),
    };
    let scopes: Vec<String> = match &action.scope {
        _ if is_namespace_object => vec![String::new()],
        Scope::Cluster => vec![String::new()],
        Scope::Namespace(namespace) => vec![namespace.clone()],
        Scope::AllNamespaces => NAMESPACES.iter().map(|namespace| (*namespace).to_owned()).collect(),
    };
    let is_listing = action.name.is_none() && action.verb.is_read();
    let mut touched = Vec::new();
    for scope in &scopes {
        for name in &names {
            let mut scopes = vec![scope.clone()];
            // A name that is not known may be any, also one that contradicts the scope: that errs to the strict side.
            if is_namespace_object && !is_listing {
                scopes.extend(names.clone());
            }
            touched.push(Touched { scopes, name: name.clone() });
        }
    }
    touched
}

fn list<'a>(entry: &'a Value, field: &str) -> Option<Vec<&'a str>> {
    entry.get(field).map(|list| list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect())
}

fn kind_matches(entry: &Value, action: &ResourceAction) -> bool {
    let has = |field: &str, word: &str| {
        list(entry, field).unwrap().iter().any(|found| *found == "*" || *found == word)
    };
    let resource = list(entry, "resources").unwrap().iter().any(|pattern| {
        let whole = action.qualified_resource();
        match (*pattern, &action.subresource) {
            ("*", _) => true,
            ("*/scale", Some(subresource)) => subresource == "scale",
            ("pods/*", Some(_)) => action.resource == "pods",
            (pattern, _) => pattern == whole,
        }
    });
    has("verbs", action.verb.as_str()) && has("apiGroups", &action.group) && resource
}

fn scope_matches(entry: &Value, scope: &str) -> bool {
    list(entry, "namespaces").is_none_or(|patterns| {
        patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => !scope.is_empty() && scope.starts_with(prefix),
            None => *pattern == scope,
        })
    })
}

/// Whether the entry names one touched object: by any of its scopes, or only by where it lives.
fn names(entry: &Value, action: &ResourceAction, touched: &Touched, by_any_scope: bool) -> bool {
    let name = list(entry, "resourceNames").is_none_or(|names| names.contains(&touched.name.as_str()));
    let scopes = if by_any_scope { &touched.scopes[..] } else { &touched.scopes[..1] };
    kind_matches(entry, action) && name && scopes.iter().any(|scope| scope_matches(entry, scope))
}

fn some(entry: &Value, action: &ResourceAction) -> bool {
    touched(action).iter().any(|touched| names(entry, action, touched, true))
}

fn every(entry: &Value, action: &ResourceAction) -> bool {
    let by_one_name = action.name.is_some() || list(entry, "resourceNames").is_none();
    by_one_name && touched(action).iter().all(|touched| names(entry, action, touched, false))
}

fn entries<'a>(rule: &'a Value, field: &str) -> &'a [Value] {
    rule.get(field).map_or(&[], |entries| entries.as_array().unwrap())
}

#[derive(Default)]
struct Found {
    denied: bool,
    excluded: BTreeSet<String>,
    approval: bool,
    all_free: bool,
    allowed: bool,
    allowed_in_window: bool,
}

fn read(specs: &[Value], action: &ResourceAction) -> Found {
    let mut found = Found { all_free: true, ..Found::default() };
    for spec in specs.iter().filter(|spec| spec["mode"] == "Enforce") {
        for rule in spec["rules"].as_array().unwrap() {
            read_rule(spec, rule, action, &mut found);
        }
    }
    found
}

fn read_rule(spec: &Value, rule: &Value, action: &ResourceAction, found: &mut Found) {
    let excludes_all =
        |action: &ResourceAction| entries(rule, "exclude").iter().any(|entry| every(entry, action));
    for entry in entries(rule, "match") {
        if rule["effect"] == "Allow" {
            let excluded = entries(rule, "exclude").iter().any(|entry| some(entry, action));
            if every(entry, action) && !excluded {
                match spec["jit"]["mode"] == "Required" {
                    true => found.allowed_in_window = true,
                    false => found.allowed = true,
                }
            }
            continue;
        }
        if !some(entry, action) || excludes_all(action) {
            continue;
        }
        if rule["effect"] == "RequireApproval" {
            found.approval = true;
            found.all_free &= spec["approval"]["serverDryRun"] == "Allow";
            continue;
        }
        let literal = list(entry, "namespaces").filter(|words| words.iter().all(|word| !word.contains('*')));
        let is_listing =
            matches!(action.verb, Verb::List | Verb::Watch) && action.scope == Scope::AllNamespaces;
        match literal.filter(|_| is_listing && list(entry, "resourceNames").is_none()) {
            None => found.denied = true,
            Some(namespaces) => found.excluded.extend(
                namespaces
                    .into_iter()
                    .filter(|namespace| !namespace.is_empty())
                    .filter(|namespace| !excludes_all(&inside(action, namespace)))
                    .map(str::to_owned),
            ),
        }
    }
}

fn inside(action: &ResourceAction, namespace: &str) -> ResourceAction {
    ResourceAction { scope: Scope::Namespace(namespace.to_owned()), ..action.clone() }
}

/// The verdict in a word, and the namespaces that are left out.
pub fn verdict(specs: &[Value], action: &Action) -> (&'static str, BTreeSet<String>) {
    let Action::Resource(action) = action else { unreachable!("the generator makes none") };
    let found = read(specs, action);
    if found.denied {
        return ("denied", BTreeSet::new());
    }
    if found.approval {
        let readable = || {
            let read = ResourceAction { verb: Verb::Get, dry_run: false, ..action.clone() };
            verdict(specs, &Action::Resource(read)).0 == "allowed"
        };
        let free = action.dry_run && found.all_free && readable();
        return (if free { "dry run" } else { "approval" }, found.excluded);
    }
    match (found.allowed, found.allowed_in_window) {
        (true, _) => ("allowed", found.excluded),
        (false, true) => ("window", found.excluded),
        (false, false) => ("nothing", BTreeSet::new()),
    }
}
