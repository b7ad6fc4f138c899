//! A JSON pointer against the paths that are masked.

use masking::COPIES;
use policy::mask::Step;
use serde_json::Value;

/// The annotation that holds the whole object once more, as JSON text (B20).
pub const LAST_APPLIED: [&str; 3] = ["metadata", "annotations", masking::LAST_APPLIED];

/// The tokens of an RFC 6901 pointer; none for what is no text.
pub fn tokens(pointer: &Value) -> Vec<String> {
    let text = pointer.as_str().unwrap_or_default();
    text.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect()
}

/// Whether a place is at, under or above a masked one.
pub fn meets(pointer: &[&str], path: &[Step]) -> bool {
    pointer.iter().zip(path).all(|(token, step)| match step {
        Step::Key(key) => **key == **token,
        Step::AnyKey | Step::AnyItem => true,
    })
}

/// Whether a place is at, under or above one that holds other fields' values once more, in every kind (B20, B21).
pub fn is_copy(pointer: &[&str]) -> bool {
    let meets = |copy: &[&str]| pointer.iter().zip(copy).all(|(one, other)| one == other);
    COPIES.iter().any(|name| meets(&["metadata", "annotations", *name]))
        || meets(&LAST_APPLIED)
        || meets(&["metadata", "managedFields"])
}
