//! Which fields of which kinds an answer is masked by: the policy's rules, compiled once and kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use masking::{
    Cells, Encoding, Expectation, FieldPath, FieldRule, Form, GroupKind, Masker, PathError, Plans, Segment,
    Which,
};
use parsing::body::Body;
use parsing::discovery::{Discovery, Kind};
use parsing::request::Request;
use policy::action::{Action, ResourceAction, Verb};
use policy::mask::{MaskRule, Step};

use super::{NotMasked, Prepared, Reading, accept, operations};

/// Sets of rules that are kept compiled; an identity has few, a bundle replaces them all.
const KEPT: usize = 512;

/// Compiled plans by the rules they are made of. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    kept: Arc<Mutex<Kept>>,
}

type Kept = HashMap<Vec<Arc<MaskRule>>, Arc<Plans>>;

impl Masks {
    /// Readies a request for its answer, before it is forwarded.
    ///
    /// # Errors
    /// If the answer could not be masked; then nothing must be sent.
    pub fn prepare(
        &self,
        request: &Request,
        discovery: &Discovery,
        masks: &[Arc<MaskRule>],
    ) -> Result<Prepared, NotMasked> {
        let client = request.headers.accept.as_deref();
        let Action::Resource(action) = &request.action else {
            return Ok(Prepared {
                accept: accept::as_it_is(client),
                reading: Reading::Open,
                is_watch: false,
                is_write: false,
            });
        };
        let is_log = action.subresource.as_deref() == Some("log");
        let reading = if is_log {
            Reading::Log
        } else {
            Reading::Objects {
                plans: self.plans(masks)?,
                expectation: expectation(action, discovery, masks)?,
            }
        };
        Ok(Prepared {
            accept: if is_log { accept::for_logs() } else { accept::for_objects(client) },
            reading,
            is_watch: action.verb == Verb::Watch,
            is_write: !action.verb.is_read(),
        })
    }

    /// A request's body as the record may hold it: masked as an answer of its kind would be, and a JSON patch by
    /// operation. `None` without a body, and for what cannot be masked.
    pub fn body(&self, request: &Request, discovery: &Discovery, masks: &[Arc<MaskRule>]) -> Option<String> {
        let Action::Resource(action) = &request.action else { return None };
        let bytes = match &request.body {
            Body::Object(_) | Body::Merge(_) | Body::Strategic(_) | Body::Apply(_) => {
                request.body.to_bytes()?
            }
            Body::Delete(_) => return String::from_utf8(request.body.to_bytes()?).ok(),
            Body::JsonPatch(operations) => return Some(operations::masked(operations, masks).to_string()),
            Body::Empty | Body::Review(_) => return None,
        };
        let mut expectation = expectation(action, discovery, masks).ok()?;
        expectation.form = Form::Part;
        let mut masker = Masker::new(self.plans(masks).ok()?, expectation).ok()?;
        let mut out = Vec::with_capacity(bytes.len());
        masker.push(&bytes, &mut out).ok()?;
        masker.finish().ok()?;
        String::from_utf8(out).ok()
    }

    fn plans(&self, masks: &[Arc<MaskRule>]) -> Result<Arc<Plans>, NotMasked> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plans) = kept.get(masks) {
            return Ok(Arc::clone(plans));
        }
        let plans = Arc::new(Plans::compile(field_rules(masks)?)?);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(masks.to_vec(), Arc::clone(&plans));
        Ok(plans)
    }
}

/// The policy chose the rules by the request, so they hold for every kind that its answer may be (B41). A path that two
/// rules name is masked by the first.
fn field_rules(masks: &[Arc<MaskRule>]) -> Result<Vec<FieldRule>, PathError> {
    let mut seen = HashSet::new();
    let paths = masks.iter().flat_map(|mask| mask.paths.iter().map(move |path| (mask, path.steps())));
    paths
        .filter(|(_, steps)| seen.insert(*steps))
        .map(|(mask, steps)| {
            Ok(FieldRule {
                name: Arc::clone(&mask.name),
                group: Which::Any,
                kind: Which::Any,
                path: FieldPath::new(steps.iter().map(segment).collect())?,
                encoding: Encoding::Text,
            })
        })
        .collect()
}

fn segment(step: &Step) -> Segment {
    match step {
        Step::Key(key) => Segment::Field(key.to_string()),
        Step::AnyKey => Segment::AnyKey,
        Step::AnyItem => Segment::Items,
    }
}

fn expectation(
    action: &ResourceAction,
    discovery: &Discovery,
    masks: &[Arc<MaskRule>],
) -> Result<Expectation, NotMasked> {
    let resource =
        discovery.resource(&action.group, &action.version, &action.resource).ok_or(NotMasked::UnknownKind)?;
    let subresource = action.subresource.as_ref().and_then(|name| resource.subresources.get(name));
    Ok(Expectation {
        kind: group_kind(&resource.kind),
        also: subresource.map(|sub| group_kind(&sub.kind)).into_iter().collect(),
        form: match action.verb {
            Verb::Watch => Form::Watch,
            Verb::List | Verb::DeleteCollection => Form::List,
            Verb::Get | Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => Form::Object,
        },
        cells: cells(action, masks),
    })
}

fn group_kind(kind: &Kind) -> GroupKind {
    GroupKind::new(&kind.group, &kind.kind)
}

/// The groups whose Tables the API server itself prints.
const BUILT_IN: [&str; 21] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];

/// Whether the API server itself prints and words the answers of a group.
pub(super) fn is_built_in(group: &str) -> bool {
    BUILT_IN.contains(&group)
}

/// Fields of a container that no column shows; images and names are shown.
const NOT_PRINTED: [&str; 8] =
    ["args", "command", "env", "envFrom", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];

/// Cells may stay only where it is known that no column shows a masked field (B10).
fn cells(action: &ResourceAction, masks: &[Arc<MaskRule>]) -> Cells {
    let mut paths = masks.iter().flat_map(|mask| &mask.paths);
    if is_built_in(&action.group) && paths.all(|path| is_unseen(&action.resource, path.steps())) {
        Cells::Keep
    } else {
        Cells::MaskAfterFirst
    }
}

/// Whether no column of a built-in kind shows the field. By its place and not by its last name: a label may be called
/// `env` too, and the columns of selectors show it.
fn is_unseen(resource: &str, path: &[Step]) -> bool {
    let is =
        |step: Option<&Step>, names: &[&str]| matches!(step, Some(Step::Key(key)) if names.contains(&&**key));
    // The class of a volume is also read from an annotation, and printed.
    let annotated = !resource.starts_with("persistentvolume");
    is(path.first(), &["binaryData", "data", "stringData"])
        || path
            .windows(2)
            .any(|two| annotated && is(two.first(), &["metadata"]) && is(two.get(1), &["annotations"]))
        || path.windows(3).any(|three| {
            is(three.first(), &["containers", "ephemeralContainers", "initContainers"])
                && three.get(1) == Some(&Step::AnyItem)
                && is(three.get(2), &NOT_PRINTED)
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use masking::Cells;
    use policy::action::{ResourceAction, Scope, Verb};
    use policy::mask::{MaskPath, MaskRule, Replacement};

    use super::{cells, is_unseen};

    #[test]
    fn b10_cells_of_custom_kinds_are_masked_whatever_the_path() {
        let rule = |paths: &[&str]| {
            let paths = paths.iter().map(|path| MaskPath::parse(path).unwrap()).collect();
            let (policy, name) = ("p".into(), "m".into());
            [Arc::new(MaskRule { policy, name, paths, replacement: Replacement::Placeholder })]
        };
        for (group, resource, paths, expected) in [
            ("", "configmaps", &[".data.*"][..], Cells::Keep),
            ("apps", "deployments", &[".data.*", ".spec.replicas"], Cells::MaskAfterFirst),
            ("acme.example", "configmaps", &[".data.*"], Cells::MaskAfterFirst),
            ("apps.kruise.io", "clonesets", &[".spec.containers[*].env"], Cells::MaskAfterFirst),
        ] {
            let action = ResourceAction {
                verb: Verb::List,
                group: group.to_owned(),
                version: "v1".to_owned(),
                resource: resource.to_owned(),
                subresource: None,
                scope: Scope::AllNamespaces,
                name: None,
                dry_run: false,
                may_create: false,
            };
            assert_eq!(cells(&action, &rule(paths)), expected, "{group} {resource} {paths:?}");
        }
    }

    #[test]
    fn b10_cells_stay_only_where_no_column_shows_the_field() {
        for (resource, path, unseen) in [
            ("pods", ".spec.containers[*].env[*].value", true),
            ("cronjobs", ".spec.jobTemplate.spec.template.spec.initContainers[*].args[*]", true),
            ("deployments", ".spec.template.metadata.annotations['x/y']", true),
            ("configmaps", ".data.*", true),
            ("controllerrevisions", ".data.spec.template.spec.containers[*].image", true),
            ("persistentvolumeclaims", ".metadata.annotations.*", false),
            ("deployments", ".spec.template.spec.containers[*].image", false),
            ("replicasets", ".spec.selector.matchLabels.env", false),
            ("services", ".spec.selector.env", false),
            ("podtemplates", ".template.metadata.labels.data", false),
            ("pods", ".spec.*[*].env", false),
            ("events", ".message", false),
        ] {
            assert_eq!(
                is_unseen(resource, MaskPath::parse(path).unwrap().steps()),
                unseen,
                "{resource} {path}"
            );
        }
    }
}
