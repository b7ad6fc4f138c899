//! Plans: all field rules of a policy, compiled for each kind into one automaton over paths.

use crate::path::{FieldPath, Segment};
use crate::placeholder::{placeholder, placeholder_base64};
use crate::shape::GroupKind;
use crate::text::escape_into;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// How the value of a field is written, which decides how its placeholder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As text.
    Text,
    /// As base64 (Go's `[]byte`). `Secret.data` and `ConfigMap.binaryData` always are, whatever the rule says.
    Base64,
}

/// A name, or any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// All of them.
    Any,
    /// This one.
    Is(Arc<str>),
}

impl Which {
    /// This one.
    pub fn is(name: &str) -> Which {
        Which::Is(name.into())
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Which::Any => true,
            Which::Is(this) => **this == *name,
        }
    }
}

/// One path of one rule of type Fields, for one kind or all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRule {
    /// The rule's name, which the placeholder shows.
    pub name: Arc<str>,
    /// API group.
    pub group: Which,
    /// Kind.
    pub kind: Which,
    /// What is masked, from the object's root.
    pub path: FieldPath,
    /// How it is written.
    pub encoding: Encoding,
}

/// Why rules are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// More than [`Plans::MAX_RULES`].
    #[error("more than {} masked paths", Plans::MAX_RULES)]
    TooManyRules,
    /// The paths of one kind branch into too many combinations.
    #[error("the masked paths of `{0}` combine in too many ways")]
    TooManyNodes(Arc<str>),
}

const NODE_LIMIT: usize = 16_384;
/// The annotation in which `kubectl apply` keeps the object once more (B20).
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations in which other programs, and other versions of the API, keep the object or parts of it once more. They
/// are replaced whole: some are compressed, and none says of which kind it is.
pub const COPIES: [&str; 9] = [
    "autoscaling.alpha.kubernetes.io/behavior",
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
    "autoscaling.alpha.kubernetes.io/metrics",
    "banzaicloud.com/last-applied",
    "kapp.k14s.io/original",
    "kopf.zalando.org/last-handled-configuration",
    "metacontroller.k8s.io/last-applied-configuration",
    "objectset.rio.cattle.io/applied",
];

/// All field rules in force for an identity.
#[derive(Debug)]
pub struct Plans {
    rules: Vec<FieldRule>,
    texts: Vec<Texts>,
    /// Plans by kind, built when a kind is first met. Names no rule mentions share one entry, so it stays small.
    built: Mutex<HashMap<Mentioned, Built>>,
}

/// Group and kind, each only if a rule mentions it.
type Mentioned = (Option<Arc<str>>, Option<Arc<str>>);
type Built = Result<Option<Arc<Plan>>, PlanError>;

/// The placeholders of a rule as quoted JSON strings.
#[derive(Debug)]
struct Texts {
    text: Vec<u8>,
    base64: Vec<u8>,
}

impl Plans {
    /// Most paths of all rules together.
    pub const MAX_RULES: usize = 4096;

    /// Takes the rules; where two name the same field, the first one's placeholder is shown.
    ///
    /// # Errors
    /// Too many rules. A combination of paths that explodes is found when the kind is first met.
    pub fn compile(rules: Vec<FieldRule>) -> Result<Plans, PlanError> {
        if rules.len() > Self::MAX_RULES {
            return Err(PlanError::TooManyRules);
        }
        let texts = rules.iter().map(|rule| Texts {
            text: quoted(&placeholder(&rule.name)),
            base64: quoted(&placeholder_base64(&rule.name)),
        });
        Ok(Plans { texts: texts.collect(), rules, built: Mutex::default() })
    }

    /// Whether a rule names this very kind.
    pub(crate) fn names(&self, kind: &GroupKind) -> bool {
        self.rules.iter().any(|r| r.group.covers(&kind.group) && r.kind == Which::Is(kind.kind.clone()))
    }

    /// Whether there is nothing to mask in any kind.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names of the rules that name this kind, each once, in order.
    pub fn rules_for(&self, kind: &GroupKind) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for rule in self.rules.iter().filter(|r| r.group.covers(&kind.group) && r.kind.covers(&kind.kind)) {
            if !names.contains(&rule.name) {
                names.push(rule.name.clone());
            }
        }
        names
    }

    /// Number of rules; a [`RuleId`] is below it.
    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn name(&self, rule: RuleId) -> &Arc<str> {
        &self.rules[rule.0 as usize].name
    }

    /// The quoted placeholder.
    pub(crate) fn text(&self, rule: RuleId) -> &[u8] {
        &self.texts[rule.0 as usize].text
    }

    /// The quoted placeholder as the rule's own field has it.
    pub(crate) fn field(&self, rule: RuleId, base64: bool) -> &[u8] {
        let base64 = base64 || self.rules[rule.0 as usize].encoding == Encoding::Base64;
        if base64 { &self.texts[rule.0 as usize].base64 } else { self.text(rule) }
    }

    /// The plan of a kind, if any rule names it.
    pub(crate) fn plan(&self, kind: &GroupKind) -> Result<Option<Arc<Plan>>, PlanError> {
        let group =
            self.rules.iter().any(|r| r.group == Which::Is(kind.group.clone())) || kind.group.is_empty();
        let name =
            self.rules.iter().any(|r| r.kind == Which::Is(kind.kind.clone())) || bytes_field(kind).is_some();
        let key = (group.then(|| kind.group.clone()), name.then(|| kind.kind.clone()));
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        built.entry(key).or_insert_with(|| self.build(kind)).clone()
    }

    fn build(&self, kind: &GroupKind) -> Built {
        let mine = |r: &&FieldRule| r.group.covers(&kind.group) && r.kind.covers(&kind.kind);
        let ids = (0u16..).zip(&self.rules).filter(|(_, rule)| mine(rule));
        let mut patterns: Vec<Pattern> =
            ids.map(|(id, rule)| (rule.path.segments().to_vec(), End::Rule(RuleId(id)))).collect();
        let Some((_, End::Rule(first))) = patterns.first() else { return Ok(None) };
        let first = *first;
        patterns.extend(known_patterns(kind, first));
        Builder::default()
            .build(&patterns, first)
            .map(Some)
            .ok_or_else(|| PlanError::TooManyNodes(kind.kind.clone()))
    }
}

fn quoted(text: &str) -> Vec<u8> {
    let mut json = vec![b'"'];
    escape_into(text.as_bytes(), &mut json);
    json.push(b'"');
    json
}

/// What is special in every masked kind, and where the built-in kinds hold bytes.
fn known_patterns(kind: &GroupKind, first: RuleId) -> Vec<Pattern> {
    let path =
        |keys: &[&str]| -> Vec<Segment> { keys.iter().map(|k| Segment::Field((*k).to_owned())).collect() };
    let mut patterns = vec![
        (path(&["metadata", "annotations", LAST_APPLIED]), End::LastApplied),
        (path(&["metadata", "managedFields"]), End::Blank),
    ];
    patterns.extend(COPIES.map(|copy| (path(&["metadata", "annotations", copy]), End::Rule(first))));
    if let Some(field) = bytes_field(kind) {
        let mut path = path(&[field]);
        path.push(Segment::AnyKey);
        patterns.push((path, End::Base64));
    }
    patterns
}

/// The field of a built-in kind whose members are base64.
fn bytes_field(kind: &GroupKind) -> Option<&'static str> {
    match (&*kind.group, &*kind.kind) {
        ("", "Secret") => Some("data"),
        ("", "ConfigMap") => Some("binaryData"),
        _ => None,
    }
}

/// A rule's place in [`Plans`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RuleId(pub u16);

/// A node's place in a [`Plan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub u16);

/// What happens to a value of a planned object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It passes.
    Copy,
    /// It is looked into, and masked if the node says so.
    Into(NodeId),
    /// It is emptied.
    Blank,
    /// It is the object again, as JSON text.
    LastApplied,
}

/// The automaton of one kind.
#[derive(Debug)]
pub(crate) struct Plan {
    nodes: Vec<Node>,
    /// The rule whose placeholder stands where no better one is known.
    pub first: RuleId,
}

/// What is known about a value by its path.
#[derive(Debug)]
pub(crate) struct Node {
    /// Scalars here and below are replaced.
    pub mask: Option<RuleId>,
    /// A string here is base64.
    pub base64: bool,
    /// Sorted by key.
    keys: Vec<(Box<[u8]>, Step)>,
    any_key: Step,
    pub items: Step,
}

impl Plan {
    pub const ROOT: NodeId = NodeId(0);

    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl Node {
    /// What happens to the member of this decoded key.
    pub fn member(&self, key: &[u8]) -> Step {
        if self.keys.len() <= 8 {
            return self.keys.iter().find(|(name, _)| **name == *key).map_or(self.any_key, |(_, step)| *step);
        }
        self.keys.binary_search_by(|(name, _)| (**name).cmp(key)).map_or(self.any_key, |at| self.keys[at].1)
    }

    /// Whether an object here need not be looked into.
    pub fn ignores_members(&self) -> bool {
        self.keys.is_empty() && self.any_key == Step::Copy
    }
}

type Pattern = (Vec<Segment>, End);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Rule(RuleId),
    LastApplied,
    Blank,
    Base64,
}

/// How far each pattern has matched, and what holds for everything below.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Pattern and number of steps taken; sorted.
    at: Vec<(u16, u16)>,
    mask: Option<RuleId>,
    base64: bool,
}

/// The subset construction.
#[derive(Default)]
struct Builder {
    ids: HashMap<State, NodeId>,
    states: Vec<State>,
}

impl Builder {
    fn build(mut self, patterns: &[Pattern], first: RuleId) -> Option<Arc<Plan>> {
        let at = (0u16..).zip(patterns).map(|(p, _)| (p, 0)).collect();
        self.node(State { at, mask: None, base64: false })?;
        let mut nodes = Vec::new();
        while let Some(state) = self.states.get(nodes.len()).cloned() {
            nodes.push(self.expand(patterns, &state)?);
        }
        Some(Arc::new(Plan { nodes, first }))
    }

    fn node(&mut self, state: State) -> Option<NodeId> {
        if let Some(id) = self.ids.get(&state) {
            return Some(*id);
        }
        if self.states.len() >= NODE_LIMIT {
            return None;
        }
        let id = NodeId(u16::try_from(self.states.len()).ok()?);
        self.states.push(state.clone());
        self.ids.insert(state, id);
        Some(id)
    }

    fn expand(&mut self, patterns: &[Pattern], state: &State) -> Option<Node> {
        let next = |(pattern, taken): &(u16, u16)| patterns[*pattern as usize].0.get(*taken as usize);
        let mut names: Vec<&str> = state
            .at
            .iter()
            .filter_map(|at| match next(at)? {
                Segment::Field(key) => Some(key.as_str()),
                Segment::AnyKey | Segment::Items => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            let step = self.step(patterns, state, |s| {
                *s == Segment::AnyKey || matches!(s, Segment::Field(k) if k == name)
            })?;
            keys.push((name.as_bytes().into(), step));
        }
        let any_key = self.step(patterns, state, |s| *s == Segment::AnyKey)?;
        let items = self.step(patterns, state, |s| *s == Segment::Items)?;
        Some(Node { mask: state.mask, base64: state.base64, keys, any_key, items })
    }

    fn step(
        &mut self,
        patterns: &[Pattern],
        state: &State,
        takes: impl Fn(&Segment) -> bool,
    ) -> Option<Step> {
        let mut next = State { at: Vec::new(), mask: state.mask, base64: false };
        let mut last_applied = false;
        for (pattern, taken) in &state.at {
            let (segments, end) = &patterns[*pattern as usize];
            if !segments.get(*taken as usize).is_some_and(&takes) {
                continue;
            }
            if segments.len() > *taken as usize + 1 {
                next.at.push((*pattern, taken + 1));
                continue;
            }
            match end {
                End::Rule(rule) => next.mask = next.mask.or(Some(*rule)),
                End::LastApplied => last_applied = true,
                End::Base64 => next.base64 = true,
                End::Blank => return Some(Step::Blank),
            }
        }
        if last_applied && next.mask.is_none() {
            return Some(Step::LastApplied);
        }
        if next.at.is_empty() && next.mask.is_none() {
            return Some(Step::Copy);
        }
        self.node(next).map(Step::Into)
    }
}
