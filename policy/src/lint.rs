//! Routes that a restrictive rule leaves open: another verb or subresource with the effect of the one it names.

use std::fmt;

use crate::action::{Action, ResourceAction, Scope, Verb};
use crate::matcher::{Matcher, Namespaces, Target};
use crate::rule::{CompiledPolicy, CompiledRule, Effect};

/// What is done to what, without where: a verb and `pods` or `pods/log`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Deed {
    verb: Verb,
    group: String,
    resource: String,
    subresource: Option<&'static str>,
}

/// A rule that restricts one act and leaves another open that has the same effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    rule: String,
    restricts: String,
    open: String,
}

impl fmt::Display for Finding {
    /// A sentence for the policy's author.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule `{}` restricts `{}` but not `{}`", self.rule, self.restricts, self.open)
    }
}

/// Every route around a restrictive rule of this policy that the policy itself leaves open, in the order of its rules.
/// Each act is asked of the compiled rules, so exclusions and globs count. A route that the policy's own Allow rules do
/// not permit is open only in a policy without Allow rules: a guardrail, beside which others permit. Other policies are
/// not looked at: one may close what is found here.
pub fn lint(policy: &CompiledPolicy) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_guardrail = !policy.rules.iter().any(|rule| !rule.id.effect.is_restrictive());
    for rule in policy.rules.iter().filter(|rule| rule.id.effect.is_restrictive()) {
        for (entry, namespaces, group, resource, name) in rule.matches.iter().flat_map(places) {
            for (named, route) in twins(group, resource, rule.id.effect) {
                let (named_act, route_act) = (named.act(namespaces, name), route.act(namespaces, name));
                let open = entry.may(&named_act)
                    && restricts(rule, &named_act)
                    && !policy.rules.iter().any(|other| restricts(other, &route_act))
                    && (is_guardrail || policy.rules.iter().any(|other| permits(other, &route_act)));
                let finding = Finding {
                    rule: rule.id.rule.to_string(),
                    restricts: named.to_string(),
                    open: route.to_string(),
                };
                if open && !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
    }
    findings
}

type Place<'a> = (&'a Matcher, &'a Namespaces, &'a str, &'a str, Option<&'a str>);

/// Each group and resource that the entry names, in one of its namespaces; for `*` the core group and pods.
fn places(entry: &Matcher) -> Vec<Place<'_>> {
    let Target::Resources { namespaces, groups, resources, names } = &entry.target else { return Vec::new() };
    let groups: Vec<&str> = match groups {
        None => vec![""],
        Some(groups) => groups.iter().map(|group| &**group).collect(),
    };
    let name = names.as_ref().and_then(|names| names.first()).map(|name| &**name);
    let resources = resources.iter().map(|pattern| pattern.resource().unwrap_or("pods"));
    resources
        .flat_map(|resource| groups.iter().map(move |group| (entry, namespaces, *group, resource, name)))
        .collect()
}

/// Pairs of an act and a route to the same effect.
fn twins(group: &str, resource: &str, effect: Effect) -> Vec<(Deed, Deed)> {
    let whole =
        |verb| Deed { verb, group: group.to_owned(), resource: resource.to_owned(), subresource: None };
    let part = |verb, subresource| Deed { subresource: Some(subresource), ..whole(verb) };
    let mut twins = vec![
        (whole(Verb::Delete), whole(Verb::DeleteCollection)),
        (whole(Verb::Update), whole(Verb::Patch)),
        (whole(Verb::Patch), whole(Verb::Update)),
    ];
    if effect == Effect::Deny {
        twins.extend([
            (whole(Verb::Get), whole(Verb::List)),
            (whole(Verb::Get), whole(Verb::Watch)),
            (whole(Verb::List), whole(Verb::Watch)),
        ]);
    }
    match (group, resource) {
        ("", "pods") => twins.extend([
            (whole(Verb::Delete), part(Verb::Create, "eviction")),
            (part(Verb::Create, "exec"), part(Verb::Create, "attach")),
            (part(Verb::Create, "exec"), part(Verb::Patch, "ephemeralcontainers")),
        ]),
        ("apps", "deployments" | "statefulsets" | "replicasets") => twins.extend([
            (whole(Verb::Patch), part(Verb::Patch, "scale")),
            (whole(Verb::Update), part(Verb::Update, "scale")),
        ]),
        _ => {}
    }
    twins
}

fn restricts(rule: &CompiledRule, act: &Action) -> bool {
    rule.id.effect.is_restrictive()
        && rule.matches.iter().any(|entry| entry.may(act))
        && !rule.exclude.iter().any(|entry| entry.must(act))
}

fn permits(rule: &CompiledRule, act: &Action) -> bool {
    !rule.id.effect.is_restrictive()
        && rule.matches.iter().any(|entry| entry.may(act))
        && !rule.exclude.iter().any(|entry| entry.must(act))
}

impl Deed {
    fn act(&self, namespaces: &Namespaces, name: Option<&str>) -> Action {
        let named = (self.verb != Verb::DeleteCollection).then(|| name.unwrap_or("x").to_owned());
        Action::Resource(ResourceAction {
            verb: self.verb,
            group: self.group.clone(),
            version: "v1".to_owned(),
            resource: self.resource.clone(),
            subresource: self.subresource.map(str::to_owned),
            scope: scope(namespaces),
            name: named,
            dry_run: false,
            may_create: false,
        })
    }
}

fn scope(namespaces: &Namespaces) -> Scope {
    let literal = namespaces.literals.first().map(|literal| literal.to_string());
    let globbed = || namespaces.prefixes.first().map(|prefix| format!("{prefix}x"));
    match literal.or_else(globbed) {
        Some(namespace) => Scope::Namespace(namespace),
        None if namespaces.any => Scope::Namespace("x".to_owned()),
        None => Scope::Cluster,
    }
}

impl fmt::Display for Deed {
    /// `delete pods` or `create pods/eviction`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(subresource) = self.subresource {
            write!(f, "/{subresource}")?;
        }
        if self.group.is_empty() { Ok(()) } else { write!(f, " ({})", self.group) }
    }
}
