//! Finds the few entries that can concern an act among many: by resource, then by namespace.

use std::collections::HashMap;

use crate::action::Action;
use crate::matcher::{Matcher, Namespaces, Reach, Target, VerbSet};

/// Above this many namespaces an entry is looked at for every namespace rather than filed under each.
const MAX_FILED: usize = 64;

/// Where an entry stands: the matcher `matcher` of the rule or mask `owner`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryRef {
    pub(crate) owner: u32,
    pub(crate) matcher: u32,
    verbs: VerbSet,
}

/// Every entry of a set of rules or masks. What it yields is a superset of what matches; the matcher decides.
#[derive(Debug, Default)]
pub(crate) struct EntryIndex {
    by_resource: HashMap<Box<str>, Bucket>,
    any_resource: Bucket,
    paths: Vec<EntryRef>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// Entries that name namespaces literally, under each of them; cluster scope is `""`.
    by_namespace: HashMap<Box<str>, Vec<EntryRef>>,
    /// Of those, the restrictive ones: a cluster-wide request may touch them.
    filed_restrictive: Vec<EntryRef>,
    /// All other entries.
    rest: Vec<EntryRef>,
}

impl EntryIndex {
    /// Files one entry. `verbs` is what the entry covers in the reading that the owner uses.
    pub(crate) fn add(
        &mut self,
        owner: u32,
        matcher_at: u32,
        matcher: &Matcher,
        verbs: VerbSet,
        restrictive: bool,
    ) {
        let entry = EntryRef { owner, matcher: matcher_at, verbs };
        let (namespaces, resources) = match &matcher.target {
            Target::Paths { .. } => {
                self.paths.push(entry);
                return;
            }
            Target::Resources { namespaces, resources, .. } => (namespaces, resources),
        };
        if resources.iter().any(|pattern| pattern.resource().is_none()) {
            self.any_resource.add(entry, namespaces, restrictive);
        }
        let mut named: Vec<&str> = resources.iter().filter_map(|pattern| pattern.resource()).collect();
        named.sort_unstable();
        named.dedup();
        for resource in named {
            self.by_resource.entry(resource.into()).or_default().add(entry, namespaces, restrictive);
        }
    }

    /// Calls `visit` for every entry that can concern the act; one entry may come more than once.
    pub(crate) fn visit(&self, action: &Action, mut visit: impl FnMut(EntryRef)) {
        let action = match action {
            Action::NonResource { .. } => return self.paths.iter().copied().for_each(visit),
            Action::Resource(action) => action,
        };
        let reach = Reach::of(action);
        let mut visit_verb = |entries: &[EntryRef]| {
            for entry in entries {
                if entry.verbs.contains(action.verb) {
                    visit(*entry);
                }
            }
        };
        if let Some(bucket) = self.by_resource.get(action.resource.as_str()) {
            bucket.visit(reach, &mut visit_verb);
        }
        self.any_resource.visit(reach, &mut visit_verb);
    }
}

impl Bucket {
    fn add(&mut self, entry: EntryRef, namespaces: &Namespaces, restrictive: bool) {
        if namespaces.any || !namespaces.prefixes.is_empty() || namespaces.literals.len() > MAX_FILED {
            self.rest.push(entry);
            return;
        }
        let cluster = namespaces.cluster.then_some("");
        for namespace in namespaces.literals.iter().map(|literal| &**literal).chain(cluster) {
            self.by_namespace.entry(namespace.into()).or_default().push(entry);
        }
        if restrictive {
            self.filed_restrictive.push(entry);
        }
    }

    fn visit(&self, reach: Reach<'_>, visit: &mut impl FnMut(&[EntryRef])) {
        visit(&self.rest);
        if reach.all {
            visit(&self.filed_restrictive);
        }
        if self.by_namespace.is_empty() {
            return;
        }
        for scope in [reach.namespace, reach.cluster.then_some("")].into_iter().flatten() {
            if let Some(entries) = self.by_namespace.get(scope) {
                visit(entries);
            }
        }
    }
}
