//! One answer on its way through: takes chunks, gives chunks, remembers only where it is.

use crate::plan::{NodeId, Plan, PlanError, Plans, RuleId};
use crate::scan::{Fault, InText};
use crate::shape::{Expectation, Form, GroupKind, KindId, Root, Shape, element_kind, group_of};
use crate::skip::Skip;
use crate::text::Utf8Gate;
use crate::token::Scalar;
use std::sync::Arc;
use thiserror::Error;

/// Why an answer is not passed on. Offsets count bytes of the input, to the token or block in which it went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MaskError {
    /// Not JSON.
    #[error("not JSON at byte {0}")]
    Syntax(u64),
    /// A string with a control byte or a bad escape.
    #[error("a bad JSON string at byte {0}")]
    Text(u64),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(u64),
    /// Nested too deep.
    #[error("nested too deep at byte {0}")]
    Depth(u64),
    /// JSON, but not what a Kubernetes API server answers.
    #[error("{what} at byte {at}")]
    Unexpected {
        /// What was found.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// The document names its kind only after members that were read as another kind's.
    #[error("the kind at byte {0} contradicts what came before it")]
    Contradiction(u64),
    /// A kind that this answer cannot be (B09).
    #[error("`{0}` is not what was asked for")]
    Kind(Arc<str>),
    /// The input ended inside a document, or held none.
    #[error("the answer ends too early")]
    Truncated,
    /// Too many different kinds in one answer.
    #[error("too many kinds in one answer")]
    TooManyKinds,
    /// The plan of a kind in the answer cannot be built.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It failed before.
    #[error("the answer was already refused")]
    Failed,
}

/// Longest key and kind that are kept, raw. A key of [`crate::FieldPath::MAX_KEY`] bytes in its longest spelling fits.
pub(crate) const TOKEN_LIMIT: usize = 4096;
/// Longest last-applied annotation that is read, raw; a longer one is replaced whole. Kubernetes allows 256 KiB for
/// all annotations of an object together.
pub(crate) const HELD_LIMIT: usize = 1_572_864;
const KIND_LIMIT: usize = 256;

/// The streaming mask of one answer.
#[derive(Debug)]
pub struct Masker {
    pub(crate) plans: Arc<Plans>,
    expectation: Expectation,
    /// Whether this reads an annotation of an object that another one reads.
    pub(crate) nested: bool,
    kinds: Vec<Known>,
    pub(crate) stack: Vec<Frame>,
    pub(crate) roots: Vec<Root>,
    pub(crate) lex: Lex,
    /// A key or kind that an earlier chunk began, raw.
    pub(crate) token: Vec<u8>,
    /// The annotation that is held, raw.
    pub(crate) held: Vec<u8>,
    utf8: Utf8Gate,
    /// Bytes of all earlier chunks.
    pub(crate) offset: u64,
    pub(crate) documents: u64,
    pub(crate) counts: Vec<u64>,
    failed: bool,
}

/// A kind met in this answer.
#[derive(Debug)]
struct Known {
    kind: GroupKind,
    plan: Option<Arc<Plan>>,
}

/// What happens to the next value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It passes.
    Copy,
    /// It is looked into with the plan of the innermost root, and masked if the node says so.
    Into(NodeId),
    /// It is masked whole, by this rule.
    Mask(RuleId),
    /// It is emptied.
    Blank,
    /// It is the innermost root again, as JSON text.
    LastApplied,
    /// It is the innermost root's `kind`.
    Kind,
    /// It is the innermost root's `apiVersion`.
    ApiVersion,
    /// It is the document.
    Document,
    /// It is the object of a watch event, or of a table row.
    Embedded {
        /// Whether it must be there and name its kind.
        whole: bool,
    },
    /// It is the list of objects of this kind.
    Items(KindId),
    /// It is one of them.
    Item(KindId),
    /// They are the rows of a table.
    Rows,
    /// It is one of them.
    Row,
    /// They are its cells.
    Cells(RuleId),
}

/// What the innermost bracket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A watch event.
    Event,
    /// The object of the innermost root.
    Root,
    /// An object on the way.
    Members(NodeId),
    /// A list on the way.
    Elements(NodeId),
    /// Something masked whole.
    MaskedMembers(RuleId),
    /// Something masked whole.
    MaskedElements(RuleId),
    /// The objects of a list.
    Items(KindId),
    /// The rows of a table.
    Rows,
    /// One row.
    Row,
    /// Its cells; whether the first has come.
    Cells(RuleId, bool),
}

/// What the bytes before were, and so what may come.
#[derive(Clone, Debug)]
pub(crate) enum Lex {
    /// Between documents.
    Between,
    /// A value.
    Value(Act),
    /// A key, or the end of an object that has begun.
    FirstKey,
    /// A key.
    NextKey,
    /// The inside of a key.
    Key(InText),
    /// The colon before a value.
    Colon(Act),
    /// A value, or the end of a list that has begun.
    FirstElement,
    /// A comma or the end.
    After,
    /// The inside of a string that passes.
    Text(InText),
    /// The inside of a string that is dropped.
    Dropped(InText),
    /// The inside of `kind` or `apiVersion`.
    Named(InText, Act),
    /// The inside of the annotation.
    Held(InText),
    /// The inside of a number or word, and whether it passes.
    Scalar(Scalar, bool),
    /// The inside of a subtree that is passed over, and whether it passes.
    Skip(Box<Skip>, bool),
}

impl Lex {
    /// Whether the bytes at hand belong in the output.
    fn passes(&self) -> bool {
        match self {
            Lex::Dropped(_) | Lex::Held(_) | Lex::Scalar(_, false) | Lex::Skip(_, false) => false,
            Lex::Between
            | Lex::Value(_)
            | Lex::FirstKey
            | Lex::NextKey
            | Lex::Key(_)
            | Lex::Colon(_)
            | Lex::FirstElement
            | Lex::After
            | Lex::Text(_)
            | Lex::Named(..)
            | Lex::Scalar(_, true)
            | Lex::Skip(_, true) => true,
        }
    }
}

/// A chunk being read.
pub(crate) struct Cursor<'a> {
    pub input: &'a [u8],
    pub at: usize,
    /// Where the bytes begin that pass but are not yet written.
    from: usize,
    out: &'a mut Vec<u8>,
}

impl Cursor<'_> {
    /// Writes what passes up to here.
    pub fn copy(&mut self) {
        self.out.extend_from_slice(&self.input[self.from..self.at]);
        self.from = self.at;
    }

    /// Forgets what lies between the last write and here.
    pub fn drop(&mut self) {
        self.from = self.at;
    }

    /// Writes something else.
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

impl Masker {
    /// For one answer.
    ///
    /// # Errors
    /// When the plan of the expected kind cannot be built.
    pub fn new(plans: Arc<Plans>, expectation: Expectation) -> Result<Masker, MaskError> {
        let counts = vec![0; plans.len()];
        let mut masker = Masker {
            plans,
            nested: false,
            kinds: Vec::new(),
            stack: Vec::new(),
            roots: Vec::new(),
            lex: Lex::Between,
            token: Vec::new(),
            held: Vec::new(),
            utf8: Utf8Gate::default(),
            offset: 0,
            documents: 0,
            counts,
            failed: false,
            expectation,
        };
        masker.known(masker.expectation.kind.clone())?;
        Ok(masker)
    }

    /// Takes the next bytes and appends what may leave to `out`.
    ///
    /// # Errors
    /// When the bytes are not understood. What was appended is then still a prefix of the masked answer, to be cut off
    /// and not to be ended cleanly (E13).
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), MaskError> {
        if self.failed {
            return Err(MaskError::Failed);
        }
        let good = self.utf8.take(input);
        let end = good.err().unwrap_or(input.len());
        let mut cursor = Cursor { input: &input[..end], at: 0, from: 0, out };
        let result = self.read(&mut cursor);
        if result.is_ok() && self.lex.passes() {
            cursor.at = end;
            cursor.copy();
        }
        let result = result.and_then(|()| good.map_err(|at| MaskError::Utf8(self.offset + at as u64)));
        self.failed = result.is_err();
        self.offset += input.len() as u64;
        result
    }

    /// Says that the input has ended.
    ///
    /// # Errors
    /// When it ended inside a document, or before the only one.
    pub fn finish(&mut self) -> Result<(), MaskError> {
        if self.failed {
            return Err(MaskError::Failed);
        }
        let between = matches!(self.lex, Lex::Between);
        let enough = self.expectation.form == Form::Watch || self.documents == 1;
        if between && enough && self.utf8.is_whole() { Ok(()) } else { Err(MaskError::Truncated) }
    }

    /// How many values were replaced so far, by rule name, rules without any left out.
    pub fn counts(&self) -> Vec<(Arc<str>, u64)> {
        let mut named: Vec<(Arc<str>, u64)> = Vec::new();
        for (id, count) in (0u16..).zip(&self.counts).filter(|(_, count)| **count > 0) {
            let name = self.plans.name(RuleId(id));
            match named.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += count,
                None => named.push((name.clone(), *count)),
            }
        }
        named
    }

    /// How many values were replaced so far.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn expectation(&self) -> &Expectation {
        &self.expectation
    }

    pub(crate) const EXPECTED: KindId = KindId(0);

    fn known(&mut self, kind: GroupKind) -> Result<KindId, MaskError> {
        if let Some(at) = self.kinds.iter().position(|k| k.kind == kind) {
            return Ok(KindId(at as u16));
        }
        if self.kinds.len() >= KIND_LIMIT {
            return Err(MaskError::TooManyKinds);
        }
        let plan = self.plans.plan(&kind)?;
        self.kinds.push(Known { kind, plan });
        Ok(KindId(self.kinds.len() as u16 - 1))
    }

    pub(crate) fn kind(&self, id: KindId) -> &GroupKind {
        &self.kinds[id.0 as usize].kind
    }

    pub(crate) fn plan(&self, id: KindId) -> Option<&Plan> {
        self.kinds[id.0 as usize].plan.as_deref()
    }

    /// What the innermost root is, by what it has said so far.
    fn judge(&mut self, root: &Root) -> Result<Shape, MaskError> {
        let assumed = self.kind(root.assumed).clone();
        let list = root.form == Form::List;
        let Some(kind) = root.kind.as_deref() else {
            return Ok(if list { Shape::List(root.assumed) } else { Shape::Object(root.assumed) });
        };
        let group = root.api_version.as_deref().map_or(&*assumed.group, group_of);
        match (group, kind) {
            ("meta.k8s.io", "Table") => return Ok(Shape::Table),
            ("meta.k8s.io", "PartialObjectMetadata") => return Ok(Shape::Object(root.assumed)),
            ("meta.k8s.io", "PartialObjectMetadataList") | ("", "List") => {
                return Ok(Shape::List(root.assumed));
            }
            (group, kind) if group == &*assumed.group && kind == &*assumed.kind => {
                return Ok(Shape::Object(root.assumed));
            }
            _ => {}
        }
        let own = GroupKind::new(group, kind);
        if self.is_due(&own) {
            return self.known(own).map(Shape::Object);
        }
        let element = element_kind(kind).map(|element| GroupKind::new(group, element));
        if let Some(element) = element.filter(|element| self.is_due(element)) {
            return self.known(element).map(Shape::List);
        }
        if list && group == &*assumed.group {
            return Ok(Shape::List(root.assumed));
        }
        Err(MaskError::Kind(own.kind))
    }

    /// Whether an answer may hold this kind.
    fn is_due(&self, kind: &GroupKind) -> bool {
        let status = kind.group.is_empty() && &*kind.kind == "Status";
        status
            || *kind == self.expectation.kind
            || self.expectation.also.contains(kind)
            || self.plans.names(kind)
    }

    /// The shape of the innermost root, decided now if it was not before.
    pub(crate) fn shape(&mut self) -> Result<Option<Shape>, MaskError> {
        let Some(root) = self.roots.last() else { return Ok(None) };
        if root.shape.is_some() {
            return Ok(root.shape);
        }
        let root = root.clone();
        let shape = Some(self.judge(&root)?);
        if let Some(root) = self.roots.last_mut() {
            root.shape = shape;
        }
        Ok(shape)
    }

    /// Notes a `kind` or `apiVersion` of the innermost root.
    pub(crate) fn name_root(&mut self, act: Act, text: &str, at: u64) -> Result<(), MaskError> {
        let Some(root) = self.roots.last_mut() else { return Ok(()) };
        let slot = if act == Act::Kind { &mut root.kind } else { &mut root.api_version };
        if slot.is_some() {
            return Err(MaskError::Unexpected { what: "a second kind or apiVersion", at });
        }
        *slot = Some(text.into());
        let Some(used) = root.shape else { return Ok(()) };
        let root = root.clone();
        let true_shape = self.judge(&root)?;
        if self.same(used, true_shape) { Ok(()) } else { Err(MaskError::Contradiction(at)) }
    }

    /// Whether two shapes are masked alike.
    fn same(&self, a: Shape, b: Shape) -> bool {
        let alike = |a: KindId, b: KindId| a == b || self.plan(a).is_none() && self.plan(b).is_none();
        match (a, b) {
            (Shape::Object(a), Shape::Object(b)) | (Shape::List(a), Shape::List(b)) => alike(a, b),
            (Shape::Table, Shape::Table) => true,
            (Shape::Object(_) | Shape::List(_) | Shape::Table, _) => false,
        }
    }
}

pub(crate) fn fault(fault: Fault, at: u64) -> MaskError {
    match fault {
        Fault::Syntax => MaskError::Syntax(at),
        Fault::Text => MaskError::Text(at),
        Fault::Depth => MaskError::Depth(at),
    }
}
