//! The paths of `masking` rules: `.spec.containers[*].env[*].value`, `.data.*`, `.metadata.annotations['a.b/c']`.

use std::fmt;
use std::sync::Arc;

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// `.name`, `['any.name/at-all']` or `["any.name/at-all"]`: the member of this name.
    Key(Box<str>),
    /// `.*`: every member of an object.
    AnyKey,
    /// `[*]`: every element of a list.
    AnyItem,
}

/// A parsed path from the root of an object, one step at least.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskPath(Vec<Step>);

/// Why a path does not parse. Positions count bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Every path begins at the root.
    #[error("a path must begin with `.` or `[` (position {at})")]
    Start {
        /// Where.
        at: usize,
    },
    /// A `.` without a name.
    #[error("`.` must be followed by a name or `*` (position {at})")]
    Name {
        /// Where.
        at: usize,
    },
    /// A bracket that is neither `[*]` nor a quoted name.
    #[error("`[` must begin `[*]` or `['name']` (position {at})")]
    Bracket {
        /// Where.
        at: usize,
    },
    /// A character that a bare name may not hold.
    #[error("`{found}` may stand only inside `['...']` (position {at})")]
    Character {
        /// Where.
        at: usize,
        /// Which.
        found: char,
    },
    /// A key longer than any that Kubernetes has.
    #[error("a key may have at most {max} bytes", max = MaskPath::MAX_KEY_BYTES)]
    KeyTooLong,
    /// More steps than a path may have.
    #[error("a path may have at most {max} steps", max = MaskPath::MAX_STEPS)]
    TooDeep,
}

impl MaskPath {
    /// The most steps a path may have.
    pub const MAX_STEPS: usize = 32;
    /// The longest key, in bytes.
    pub const MAX_KEY_BYTES: usize = 512;

    /// Parses one path.
    ///
    /// # Errors
    /// [`PathError`], which names the position.
    pub fn parse(text: &str) -> Result<MaskPath, PathError> {
        let mut reader = Reader { text, at: 0 };
        let mut steps = Vec::new();
        while let Some(step) = reader.step()? {
            if steps.len() >= Self::MAX_STEPS {
                return Err(PathError::TooDeep);
            }
            if matches!(&step, Step::Key(key) if key.len() > Self::MAX_KEY_BYTES) {
                return Err(PathError::KeyTooLong);
            }
            steps.push(step);
        }
        if steps.is_empty() {
            return Err(PathError::Start { at: 0 });
        }
        Ok(MaskPath(steps))
    }

    /// From steps that were parsed, put together anew.
    pub(crate) fn of(steps: Vec<Step>) -> MaskPath {
        MaskPath(steps)
    }

    /// The steps from the root.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for MaskPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.0 {
            match step {
                Step::AnyKey => f.write_str(".*")?,
                Step::AnyItem => f.write_str("[*]")?,
                Step::Key(key) if !key.is_empty() && key.chars().all(is_bare) => write!(f, ".{key}")?,
                Step::Key(key) => write!(f, "['{}']", key.replace('\\', "\\\\").replace('\'', "\\'"))?,
            }
        }
        Ok(())
    }
}

fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$')
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn advance(&mut self, by: usize) {
        self.at = self.at.saturating_add(by);
    }

    fn step(&mut self) -> Result<Option<Step>, PathError> {
        match self.rest().chars().next() {
            None => Ok(None),
            Some('.') => self.dotted().map(Some),
            Some('[') => self.bracketed().map(Some),
            Some(_) if self.at == 0 => Err(PathError::Start { at: 0 }),
            Some(found) => Err(PathError::Character { at: self.at, found }),
        }
    }

    fn dotted(&mut self) -> Result<Step, PathError> {
        self.advance(1);
        if self.rest().starts_with('*') {
            self.advance(1);
            return Ok(Step::AnyKey);
        }
        let name: String = self.rest().chars().take_while(|c| is_bare(*c)).collect();
        if name.is_empty() {
            return Err(PathError::Name { at: self.at });
        }
        self.advance(name.len());
        Ok(Step::Key(name.into_boxed_str()))
    }

    fn bracketed(&mut self) -> Result<Step, PathError> {
        let start = self.at;
        if self.rest().starts_with("[*]") {
            self.advance(3);
            return Ok(Step::AnyItem);
        }
        let Some(quoted) = self.rest().strip_prefix("['").or_else(|| self.rest().strip_prefix("[\"")) else {
            return Err(PathError::Bracket { at: start });
        };
        let quote = if self.rest().starts_with("['") { '\'' } else { '"' };
        let mut name = String::new();
        let mut characters = quoted.char_indices();
        while let Some((offset, c)) = characters.next() {
            if c == quote {
                if !matches!(characters.next(), Some((_, ']'))) {
                    return Err(PathError::Bracket { at: start });
                }
                self.advance(offset.saturating_add(4));
                return Ok(Step::Key(name.into_boxed_str()));
            }
            if c != '\\' {
                name.push(c);
                continue;
            }
            match characters.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => name.push(escaped),
                Some(_) | None => return Err(PathError::Bracket { at: start }),
            }
        }
        Err(PathError::Bracket { at: start })
    }
}

/// How a masked value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Replacement {
    /// `[MASKED:<rule>]`, in base64 fields its base64.
    Placeholder,
}

/// One masking rule that applies to an answer: its name stands in the placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MaskRule {
    /// Policy that declares it.
    pub policy: Arc<str>,
    /// Name of the rule, unique in its policy.
    pub name: Arc<str>,
    /// What to mask, from the root of each object in the answer.
    pub paths: Vec<MaskPath>,
    /// What stands in its place.
    pub replacement: Replacement,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_and_print_the_same() {
        for text in [
            ".data.*",
            ".spec.containers[*].env[*].value",
            ".metadata.annotations['kubectl.kubernetes.io/last-applied-configuration']",
            "['a\\'b\\\\']",
            "[*].x",
        ] {
            assert_eq!(MaskPath::parse(text).unwrap().to_string(), text, "{text}");
        }
        assert_eq!(MaskPath::parse("['plain']").unwrap().to_string(), ".plain");
        assert_eq!(MaskPath::parse(".a[\"b.c\"][*]").unwrap().to_string(), ".a['b.c'][*]");
    }

    #[test]
    fn bad_paths_name_the_position() {
        for (text, error) in [
            ("", PathError::Start { at: 0 }),
            ("data", PathError::Start { at: 0 }),
            (".", PathError::Name { at: 1 }),
            ("..x", PathError::Name { at: 1 }),
            (".a.", PathError::Name { at: 3 }),
            (".a b", PathError::Character { at: 2, found: ' ' }),
            (".*x", PathError::Character { at: 2, found: 'x' }),
            (".a[0]", PathError::Bracket { at: 2 }),
            (".a['x", PathError::Bracket { at: 2 }),
            (".a['x'", PathError::Bracket { at: 2 }),
            (".a['\\n']", PathError::Bracket { at: 2 }),
            (".a[\"x']", PathError::Bracket { at: 2 }),
            (".é", PathError::Name { at: 1 }),
        ] {
            assert_eq!(MaskPath::parse(text), Err(error), "{text}");
        }
        assert_eq!(MaskPath::parse(&".a".repeat(33)), Err(PathError::TooDeep));
    }
}
