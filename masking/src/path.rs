//! Where a masked field lies, as the policy has read it: `.spec.containers[*].env[*].value`, `.data.*`.

use thiserror::Error;

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// A member of an object, by its decoded key.
    Field(String),
    /// Every member of an object (`.*`).
    AnyKey,
    /// Every element of a list (`[*]`).
    Items,
}

/// A parsed path; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

/// Why a path is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Nothing in it.
    #[error("the path is empty")]
    Empty,
    /// More steps than [`FieldPath::MAX_SEGMENTS`].
    #[error("the path has more than {} steps", FieldPath::MAX_SEGMENTS)]
    TooLong,
    /// A key longer than [`FieldPath::MAX_KEY`].
    #[error("a key of the path is longer than {} bytes", FieldPath::MAX_KEY)]
    KeyTooLong,
}

impl FieldPath {
    /// Most steps in a path.
    pub const MAX_SEGMENTS: usize = 64;
    /// Longest key in bytes; a Kubernetes annotation key has at most 317.
    pub const MAX_KEY: usize = 512;

    /// A path of these steps.
    ///
    /// # Errors
    /// When there are none, too many, or a key is too long.
    pub fn new(segments: Vec<Segment>) -> Result<FieldPath, PathError> {
        if segments.is_empty() {
            return Err(PathError::Empty);
        }
        if segments.len() > Self::MAX_SEGMENTS {
            return Err(PathError::TooLong);
        }
        let long = |s: &Segment| matches!(s, Segment::Field(key) if key.len() > Self::MAX_KEY);
        if segments.iter().any(long) { Err(PathError::KeyTooLong) } else { Ok(FieldPath(segments)) }
    }

    /// The steps, from the object's root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded() {
        let field = |key: &str| Segment::Field(key.to_owned());
        assert!(FieldPath::new(vec![field("data"), Segment::AnyKey]).is_ok());
        assert_eq!(FieldPath::new(Vec::new()), Err(PathError::Empty));
        assert_eq!(FieldPath::new(vec![Segment::Items; 65]), Err(PathError::TooLong));
        assert_eq!(FieldPath::new(vec![field(&"a".repeat(513))]), Err(PathError::KeyTooLong));
    }
}
