//! Where a masked field stands once more: in pod templates, in revisions, and under the other name of an event.
//!
//! A rule names a kind and a path, but the cluster copies values from kind to kind: a Deployment's environment becomes
//! its ReplicaSets' and its pods'. Whoever masks one of them means the value, so the rule holds for all (B25, B26).

use std::sync::Arc;

use crate::mask::{MaskPath, MaskRule, Step};
use crate::matcher::{Matcher, Namespaces, ResourcePattern, Target, VerbSet};
use crate::rule::CompiledMask;

/// Built-in kinds that hold a pod's `metadata` and `spec` at the same place.
struct Form {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    /// The keys to that place.
    prefix: &'static [&'static str],
}

const FORMS: [Form; 4] = [
    Form { groups: &[""], resources: &["pods"], prefix: &[] },
    Form { groups: &[""], resources: &["podtemplates"], prefix: &["template"] },
    Form {
        groups: &["", "apps", "batch"],
        resources: &[
            "daemonsets",
            "deployments",
            "jobs",
            "replicasets",
            "replicationcontrollers",
            "statefulsets",
        ],
        prefix: &["spec", "template"],
    },
    Form {
        groups: &["batch"],
        resources: &["cronjobs"],
        prefix: &["spec", "jobTemplate", "spec", "template"],
    },
];

/// `data` is the owner once more, whole or as the patch that restores it.
const REVISIONS: Form = Form { groups: &["apps"], resources: &["controllerrevisions"], prefix: &["data"] };

const CORE_EVENTS: Form = Form { groups: &[""], resources: &["events"], prefix: &[] };
const EVENTS: Form = Form { groups: &["events.k8s.io"], resources: &["events"], prefix: &[] };
/// The fields of an event that have another name in the core group than in their own.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// A pod has three lists of containers; who names one means all.
const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The rules that a rule implies for other kinds, in the same namespaces and for every name.
pub(super) fn implied(rule: &MaskRule, matches: &[Matcher]) -> Vec<Arc<CompiledMask>> {
    let mut implied = Vec::new();
    for matcher in matches {
        let Target::Resources { namespaces, groups, resources, .. } = &matcher.target else { continue };
        let names = Named { groups: groups.as_deref(), resources };
        let mut add = |form: &Form, paths: Vec<MaskPath>| {
            if !paths.is_empty() {
                let rule = MaskRule { paths, ..rule.clone() };
                let matches = vec![form.matcher(matcher.verbs, namespaces)];
                implied.push(Arc::new(CompiledMask { rule: Arc::new(rule), matches, implied: true }));
            }
        };
        let in_pods = in_pods(&names, &rule.paths);
        for form in &FORMS {
            add(form, form.paths(&in_pods));
        }
        if !in_pods.is_empty() || names.custom_kinds() {
            let mut owner: Vec<MaskPath> = rule.paths.clone();
            owner.extend(FORMS.iter().flat_map(|form| form.paths(&in_pods)));
            owner.sort();
            owner.dedup();
            add(&REVISIONS, owner.iter().map(|path| below(REVISIONS.prefix, path.steps())).collect());
        }
        if names.covers(&CORE_EVENTS) {
            add(&EVENTS, renamed(&rule.paths, |(core, own)| (core, own)));
        }
        if names.covers(&EVENTS) {
            add(&CORE_EVENTS, renamed(&rule.paths, |(core, own)| (own, core)));
        }
    }
    implied
}

/// What a matcher names.
struct Named<'a> {
    groups: Option<&'a [Box<str>]>,
    resources: &'a [ResourcePattern],
}

impl Named<'_> {
    fn covers(&self, form: &Form) -> bool {
        let group = |name: &str| form.groups.contains(&name);
        let resource = |name: &str| form.resources.contains(&name);
        self.groups.is_none_or(|groups| groups.iter().any(|name| group(name)))
            && self.resources.iter().any(|pattern| pattern.resource().is_none_or(resource))
    }

    /// Whether it may name kinds of which nobody knows what they own.
    fn custom_kinds(&self) -> bool {
        let custom = |group: &str| group.contains('.') && !group.ends_with(".k8s.io");
        self.groups.is_none_or(|groups| groups.iter().any(|group| custom(group)))
    }
}

impl Form {
    fn matcher(&self, verbs: VerbSet, namespaces: &Namespaces) -> Matcher {
        let exact =
            |resource: &&str| ResourcePattern::Exact { resource: (*resource).into(), subresource: None };
        let target = Target::Resources {
            namespaces: namespaces.clone(),
            groups: Some(self.groups.iter().map(|group| (*group).into()).collect()),
            resources: self.resources.iter().map(exact).collect(),
            names: None,
        };
        Matcher { verbs, target }
    }

    /// The paths in a pod, from the root of this form; in a template also the copy that somebody pasted with it (B20).
    fn paths(&self, in_pods: &[Vec<Step>]) -> Vec<MaskPath> {
        let mut paths: Vec<MaskPath> = in_pods.iter().map(|path| below(self.prefix, path)).collect();
        if !paths.is_empty() && !self.prefix.is_empty() {
            paths.push(below(self.prefix, &["metadata", "annotations", LAST_APPLIED].map(key)));
        }
        paths
    }
}

fn key(name: &str) -> Step {
    Step::Key(name.into())
}

fn below(prefix: &[&str], path: &[Step]) -> MaskPath {
    MaskPath::of(prefix.iter().map(|name| key(name)).chain(path.iter().cloned()).collect())
}

/// The paths that lie in a pod's metadata or spec, from the pod's root, in every list of containers.
fn in_pods(names: &Named<'_>, paths: &[MaskPath]) -> Vec<Vec<Step>> {
    let mut found = Vec::new();
    for form in FORMS.iter().filter(|form| names.covers(form)) {
        for path in paths.iter().filter_map(|path| inside(path.steps(), form.prefix)) {
            match path.as_slice() {
                [root, Step::Key(list), rest @ ..] if CONTAINERS.contains(&&**list) => {
                    found.extend(CONTAINERS.map(|list| {
                        [root.clone(), key(list)]
                            .into_iter()
                            .chain(rest.iter().cloned())
                            .collect::<Vec<Step>>()
                    }));
                }
                _ => found.push(path),
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The rest of a path below the prefix; the whole spec for a path that ends above it.
fn inside(path: &[Step], prefix: &[&str]) -> Option<Vec<Step>> {
    let meets = path.iter().zip(prefix).all(|(step, name)| match step {
        Step::Key(key) => **key == **name,
        Step::AnyKey => true,
        Step::AnyItem => false,
    });
    if !meets {
        return None;
    }
    match path.get(prefix.len()..).unwrap_or_default() {
        [] => Some(vec![key("spec")]),
        rest @ [Step::Key(first), ..] if matches!(&**first, "metadata" | "spec") => Some(rest.to_vec()),
        rest @ [Step::AnyKey, ..] => Some(rest.to_vec()),
        [Step::Key(_) | Step::AnyItem, ..] => None,
    }
}

fn renamed(paths: &[MaskPath], direction: Direction) -> Vec<MaskPath> {
    let renamed = |path: &MaskPath| {
        let mut steps = path.steps().to_vec();
        let names = EVENT_FIELDS.map(direction);
        if let Some(Step::Key(first)) = steps.first_mut()
            && let Some((_, to)) = names.iter().find(|(from, _)| **from == **first)
        {
            *first = (*to).into();
        }
        MaskPath::of(steps)
    };
    paths.iter().map(renamed).collect()
}

/// From a pair of names: the one that is written, and the one that is meant too.
type Direction = fn((&'static str, &'static str)) -> (&'static str, &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    fn implied_paths(resources: &[&str], groups: &[&str], paths: &[&str]) -> Vec<(Vec<String>, Vec<String>)> {
        let rule = MaskRule {
            policy: "p".into(),
            name: "m".into(),
            paths: paths.iter().map(|path| MaskPath::parse(path).unwrap()).collect(),
            replacement: crate::mask::Replacement::Placeholder,
        };
        let form = |names: &[&str]| names.iter().map(|name| (*name).into()).collect::<Vec<Box<str>>>();
        let pattern = |name: &&str| match *name {
            "*" => ResourcePattern::Any,
            name => ResourcePattern::Exact { resource: name.into(), subresource: None },
        };
        let namespaces = Namespaces { any: true, ..Namespaces::default() };
        let resources = resources.iter().map(pattern).collect();
        let target = Target::Resources {
            namespaces,
            groups: Some(form(groups)).filter(|_| groups != ["*"]),
            resources,
            names: Some(form(&["x"])),
        };
        let implied = implied(&rule, &[Matcher { verbs: VerbSet::ALL, target }]);
        let told = implied.iter().map(|mask| {
            let Target::Resources { resources, names, .. } = &mask.matches[0].target else { unreachable!() };
            assert_eq!(*names, None, "a template has another name than its pods");
            let resources = resources.iter().map(ResourcePattern::to_text).collect();
            (resources, mask.rule.paths.iter().map(ToString::to_string).collect())
        });
        told.collect()
    }

    fn of(implied: &[(Vec<String>, Vec<String>)], resource: &str) -> Vec<String> {
        let mine = implied.iter().filter(|(resources, _)| resources.iter().any(|name| name == resource));
        mine.flat_map(|(_, paths)| paths.clone()).collect()
    }

    #[test]
    fn b26_one_pod_rule_reaches_every_template_and_every_list_of_containers() {
        let from_pods = implied_paths(&["pods"], &[""], &[".spec.containers[*].env[*].value"]);
        let from_a_template = implied_paths(
            &["deployments"],
            &["apps"],
            &[".spec.template.spec.initContainers[*].env[*].value"],
        );
        for implied in [from_pods, from_a_template] {
            for (resource, prefix) in [
                ("pods", ""),
                ("podtemplates", ".template"),
                ("replicationcontrollers", ".spec.template"),
                ("replicasets", ".spec.template"),
                ("deployments", ".spec.template"),
                ("daemonsets", ".spec.template"),
                ("statefulsets", ".spec.template"),
                ("jobs", ".spec.template"),
                ("cronjobs", ".spec.jobTemplate.spec.template"),
                ("controllerrevisions", ".data"),
                ("controllerrevisions", ".data.template"),
                ("controllerrevisions", ".data.spec.template"),
                ("controllerrevisions", ".data.spec.jobTemplate.spec.template"),
            ] {
                for list in CONTAINERS {
                    let want = format!("{prefix}.spec.{list}[*].env[*].value");
                    assert!(of(&implied, resource).contains(&want), "{resource} {want}");
                }
            }
            let pasted = format!(".spec.template.metadata.annotations['{LAST_APPLIED}']");
            assert!(of(&implied, "deployments").contains(&pasted), "B20: {implied:?}");
        }
    }

    #[test]
    fn b26_a_path_above_the_template_holds_its_whole_spec() {
        for path in [".spec", ".spec.*", ".spec.template", ".*"] {
            let implied = implied_paths(&["deployments"], &["apps"], &[path]);
            let pods = of(&implied, "pods");
            assert_eq!(pods, [".spec"], "{path}");
        }
    }

    #[test]
    fn b26_wildcards_and_metadata_reach_the_templates_too() {
        let env = ".spec.containers[*].env[*].value";
        for (groups, resources) in [(["*"], ["pods"]), ([""], ["*"]), (["*"], ["*"])] {
            let deployments = of(&implied_paths(&resources, &groups, &[env]), "deployments");
            assert!(deployments.contains(&format!(".spec.template{env}")), "{groups:?} {resources:?}");
        }
        let implied = implied_paths(&["pods"], &[""], &[".metadata.annotations['a/b']"]);
        assert!(of(&implied, "jobs").contains(&".spec.template.metadata.annotations['a/b']".to_owned()));
        let implied = implied_paths(&["deployments"], &["apps"], &[".spec.template.*.containers[*].args"]);
        assert!(of(&implied, "pods").contains(&".*.containers[*].args".to_owned()), "{implied:?}");
        let implied = implied_paths(&["clonesets"], &["*"], &[".spec.password"]);
        assert_eq!(of(&implied, "controllerrevisions"), [".data.spec.password"]);
    }

    #[test]
    fn what_is_no_pods_implies_nothing() {
        for (resources, groups, path) in [
            (&["pods"][..], &[""][..], ".status.phase"),
            (&["deployments"], &["apps"], ".metadata.annotations.*"),
            (&["deployments"], &["apps"], ".spec.replicas"),
            (&["configmaps"], &[""], ".data.*"),
            (&["pods"], &["metrics.k8s.io"], ".spec.containers[*].env[*].value"),
        ] {
            assert!(implied_paths(resources, groups, &[path]).is_empty(), "{resources:?} {path}");
        }
    }

    #[test]
    fn b26_a_revision_holds_its_custom_owner() {
        let implied = implied_paths(&["clonesets"], &["apps.kruise.io"], &[".spec.password"]);
        assert_eq!(of(&implied, "controllerrevisions"), [".data.spec.password"]);
        assert_eq!(implied.len(), 1);
    }

    #[test]
    fn b30_an_event_is_one_object_in_two_groups() {
        let implied = implied_paths(&["events"], &[""], &[".message", ".reason"]);
        assert_eq!(of(&implied, "events"), [".note", ".reason"]);
        let implied = implied_paths(&["events"], &["events.k8s.io"], &[".note", ".regarding.name"]);
        assert_eq!(of(&implied, "events"), [".message", ".involvedObject.name"]);
    }
}
