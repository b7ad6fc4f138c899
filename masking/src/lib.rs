//! The mask: a resumable single pass over JSON bytes that replaces declared fields.
//!
//! **Expected flow.** [`Plans::compile`] once per policy, [`Masker::new`] per answer, [`Masker::push`] for every chunk
//! that arrives, [`Masker::finish`] at its end. [`detect::placeholders`] reads the other direction: a write that
//! carries a placeholder back.
//!
//! **Guarantees.** No byte of a masked value is emitted. The result does not depend on how the input was cut. Memory
//! is the path stack and at most one held annotation, whatever the size of the answer. Keys are matched decoded, in any
//! order, doubled or not. The plan is chosen by the kind that the answer itself names; where that comes too late, the
//! expected kind is used and a contradiction is an error.
//!
//! **Assumptions.** The input is UTF-8 JSON as a Kubernetes API server writes it: one document, or a stream of watch
//! events. Subtrees that no plan names are checked for strings, nesting and neighbouring tokens, not for the spelling
//! of numbers and words.
//!
//! **Errors.** Whatever is not understood is a [`MaskError`]; the masker then stays failed, and what it emitted before
//! is a prefix of the masked answer.

pub mod detect;
mod masker;
mod path;
mod placeholder;
mod plan;
mod scan;
mod shape;
mod skip;
mod text;
mod token;
mod value;
mod walk;

pub use masker::{MaskError, Masker};
pub use path::{FieldPath, PathError, Segment};
pub use placeholder::{MARK, placeholder};
pub use plan::{COPIES, Encoding, FieldRule, LAST_APPLIED, PlanError, Plans, Which};
pub use shape::{Cells, Expectation, Form, GroupKind};
