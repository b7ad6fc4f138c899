//! What a document is: an object, a list of objects, a table or a stream of events, and of which kind.

use std::sync::Arc;

/// An API group and a kind; the version does not matter to a mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// API group; empty for core.
    pub group: Arc<str>,
    /// Kind, such as `Secret`.
    pub kind: Arc<str>,
}

impl GroupKind {
    /// From two texts.
    pub fn new(group: &str, kind: &str) -> GroupKind {
        GroupKind { group: group.into(), kind: kind.into() }
    }
}

/// What the request asked for, used only where the answer does not say it in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One document: an object, also the answer to a write.
    Object,
    /// One document: a collection (list, deletecollection).
    List,
    /// Watch events, one after the other.
    Watch,
    /// One document: an object or a part of one (the body of a merge patch), which need not name its kind.
    Part,
}

/// What happens to the cells of a Table whose kind has a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cells {
    /// They stay: the columns of built-in kinds show no masked field.
    Keep,
    /// Every cell but the first of a row (the name) is masked: the columns of a custom kind may show anything (B10).
    MaskAfterFirst,
}

/// What the answer should be, from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Kind of the requested resource.
    pub kind: GroupKind,
    /// Other kinds that the answer may be. A kind that is neither expected, nor named by a rule, nor `Status` is an
    /// error: nobody has said what to mask in it (B09).
    pub also: Vec<GroupKind>,
    /// Shape of the answer.
    pub form: Form,
    /// What happens to table cells.
    pub cells: Cells,
}

/// Index of a kind this masker has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KindId(pub u16);

/// What an object root turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One object of a kind.
    Object(KindId),
    /// A list of objects of a kind.
    List(KindId),
    /// A Table of objects of the expected kind.
    Table,
}

/// An object that carries `apiVersion` and `kind`, or inherits them.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// The kind it has unless it says otherwise.
    pub assumed: KindId,
    /// Whether it may be a list unless it says otherwise.
    pub form: Form,
    /// Whether it must say its kind.
    pub must_name_kind: bool,
    pub kind: Option<Box<str>>,
    pub api_version: Option<Box<str>>,
    /// Decided at the first member that is neither.
    pub shape: Option<Shape>,
}

impl Root {
    pub fn new(assumed: KindId, form: Form, must_name_kind: bool) -> Root {
        Root { assumed, form, must_name_kind, kind: None, api_version: None, shape: None }
    }
}

/// The group of an `apiVersion`.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

/// The kind of the elements, when a kind is a list's by its name.
pub(crate) fn element_kind(kind: &str) -> Option<&str> {
    kind.strip_suffix("List").filter(|base| !base.is_empty())
}
