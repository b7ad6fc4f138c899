//! A field path as policies write it: `.spec.containers[*].env[*].value`, `.data.*`, `.metadata.annotations["a.b/c"]`.

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
    /// Not of the grammar, at this byte.
    #[error("expected `.key`, `.*`, `[*]` or `[\"key\"]` at position {0}")]
    Syntax(usize),
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

    /// Reads a path. Keys after a dot end at the next `.` or `[`; keys in `["..."]` may hold anything but `"`.
    ///
    /// # Errors
    /// When the text is not of the grammar, or over the bounds of [`FieldPath::new`].
    pub fn parse(text: &str) -> Result<FieldPath, PathError> {
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let at = text.len() - rest.len();
            let (segment, after) = step(rest).ok_or(PathError::Syntax(at))?;
            segments.push(segment);
            rest = after;
        }
        FieldPath::new(segments)
    }

    /// The steps, from the object's root.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }
}

fn step(text: &str) -> Option<(Segment, &str)> {
    if let Some(after) = text.strip_prefix("[*]") {
        return Some((Segment::Items, after));
    }
    if let Some(quoted) = text.strip_prefix("[\"") {
        let (key, after) = quoted.split_once("\"]")?;
        let plain = !key.is_empty() && !key.contains('"');
        return plain.then(|| (Segment::Field(key.to_owned()), after));
    }
    let body = text.strip_prefix('.')?;
    let end = body.find(['.', '[']).unwrap_or(body.len());
    let (key, after) = body.split_at(end);
    match key {
        "" => None,
        "*" => Some((Segment::AnyKey, after)),
        key if key.contains(['*', '"', ']']) => None,
        key => Some((Segment::Field(key.to_owned()), after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(key: &str) -> Segment {
        Segment::Field(key.to_owned())
    }

    #[test]
    fn reads_what_policies_write() {
        let table = [
            (".data.*", vec![field("data"), Segment::AnyKey]),
            (
                ".spec.containers[*].env[*].value",
                vec![
                    field("spec"),
                    field("containers"),
                    Segment::Items,
                    field("env"),
                    Segment::Items,
                    field("value"),
                ],
            ),
            (
                ".metadata.annotations[\"a.b/c\"]",
                vec![field("metadata"), field("annotations"), field("a.b/c")],
            ),
            (".a[*][*]", vec![field("a"), Segment::Items, Segment::Items]),
        ];
        for (text, want) in table {
            assert_eq!(FieldPath::parse(text).unwrap().segments(), want, "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "a", "..a", ".a.", ".a[", ".a[0]", ".a[*", ".a*", ".a[\"\"]", ".a[\"b]", ".a b]"] {
            assert!(FieldPath::parse(text).is_err(), "{text}");
        }
        assert_eq!(FieldPath::parse(&".a".repeat(65)), Err(PathError::TooLong));
        assert_eq!(FieldPath::parse(&format!(".{}", "a".repeat(513))), Err(PathError::KeyTooLong));
    }
}
