//! Label and field selectors: parsed whole, written back in one form (P13).

use std::collections::BTreeSet;
use std::fmt;

use crate::target::{is_name, is_subdomain};

/// Why a selector is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A term is empty or has no operator where one is needed.
    #[error("the selector has a term that does not parse")]
    Term,
    /// A label key is not a qualified name, or a field path has a character that no field has.
    #[error("the selector has a key that is not a valid name")]
    Key,
    /// A value cannot be the value of a label or field.
    #[error("the selector has a value that no label or field can have")]
    Value,
    /// More than one term on `metadata.name`, one of them an equality.
    #[error("the field selector has more than one term on `metadata.name`")]
    TwoNames,
    /// A bound of ours.
    #[error("the selector has more than 256 terms")]
    TooMany,
}

const MAX_TERMS: usize = 256;

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelTerm {
    /// Label key.
    pub key: String,
    /// What is required.
    pub test: LabelTest,
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelTest {
    /// `key`
    Exists,
    /// `!key`
    Absent,
    /// `key=value`
    Equals(String),
    /// `key!=value`
    Differs(String),
    /// `key in (a,b)`
    In(BTreeSet<String>),
    /// `key notin (a,b)`
    NotIn(BTreeSet<String>),
    /// `key>5`
    Greater(i64),
    /// `key<5`
    Less(i64),
}

/// A label selector: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    terms: BTreeSet<LabelTerm>,
}

impl LabelSelector {
    /// Reads a selector; blanks around tokens are allowed, as `labels.Parse` does.
    ///
    /// # Errors
    /// If a term, key or value is not one.
    pub fn read(text: &str) -> Result<Self, SelectorError> {
        let mut terms = BTreeSet::new();
        for term in split_outside_parentheses(text)? {
            terms.insert(label_term(term.trim())?);
        }
        if terms.len() > MAX_TERMS { Err(SelectorError::TooMany) } else { Ok(Self { terms }) }
    }

    /// The terms, sorted.
    pub fn terms(&self) -> impl Iterator<Item = &LabelTerm> {
        self.terms.iter()
    }
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, SelectorError> {
    let (mut parts, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if inside => return Err(SelectorError::Term),
            '(' => inside = true,
            ')' if !inside => return Err(SelectorError::Term),
            ')' => inside = false,
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(SelectorError::Term);
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn label_term(term: &str) -> Result<LabelTerm, SelectorError> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(LabelTerm { key: label_key(key)?, test: LabelTest::Absent });
    }
    if let Some(open) = term.find('(') {
        let (head, tail) = term.split_at(open);
        let list = tail.strip_prefix('(').and_then(|t| t.strip_suffix(')')).ok_or(SelectorError::Term)?;
        let (key, word) = head.trim().split_once(char::is_whitespace).ok_or(SelectorError::Term)?;
        let values = list.split(',').map(|v| label_value(v.trim())).collect::<Result<BTreeSet<_>, _>>()?;
        let test = match word.trim() {
            "in" => LabelTest::In(values),
            "notin" => LabelTest::NotIn(values),
            _ => return Err(SelectorError::Term),
        };
        return Ok(LabelTerm { key: label_key(key)?, test });
    }
    let Some(at) = term.find(['=', '!', '<', '>']) else {
        return Ok(LabelTerm { key: label_key(term)?, test: LabelTest::Exists });
    };
    let (key, rest) = term.split_at(at);
    let test = if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        LabelTest::Equals(label_value(value.trim())?)
    } else if let Some(value) = rest.strip_prefix("!=") {
        LabelTest::Differs(label_value(value.trim())?)
    } else if let Some(value) = rest.strip_prefix('>') {
        LabelTest::Greater(integer(value.trim())?)
    } else if let Some(value) = rest.strip_prefix('<') {
        LabelTest::Less(integer(value.trim())?)
    } else {
        return Err(SelectorError::Term);
    };
    Ok(LabelTerm { key: label_key(key)?, test })
}

fn integer(text: &str) -> Result<i64, SelectorError> {
    if text.starts_with('+') {
        return Err(SelectorError::Value);
    }
    text.parse().map_err(|_| SelectorError::Value)
}

fn is_qualified(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63 && bytes.iter().copied().all(inner) && ends(bytes.first()) && ends(bytes.last())
}

fn label_key(key: &str) -> Result<String, SelectorError> {
    let key = key.trim();
    let valid = match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(key),
    };
    if valid { Ok(key.to_owned()) } else { Err(SelectorError::Key) }
}

fn label_value(value: &str) -> Result<String, SelectorError> {
    if value.is_empty() || is_qualified(value) { Ok(value.to_owned()) } else { Err(SelectorError::Value) }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, LabelTerm { key, test }) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let list =
                |values: &BTreeSet<String>| values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match test {
                LabelTest::Exists => f.write_str(key)?,
                LabelTest::Absent => write!(f, "!{key}")?,
                LabelTest::Equals(value) => write!(f, "{key}={value}")?,
                LabelTest::Differs(value) => write!(f, "{key}!={value}")?,
                LabelTest::In(values) => write!(f, "{key} in ({})", list(values))?,
                LabelTest::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                LabelTest::Greater(value) => write!(f, "{key}>{value}")?,
                LabelTest::Less(value) => write!(f, "{key}<{value}")?,
            }
        }
        Ok(())
    }
}

/// One requirement on a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldTerm {
    /// Field path, such as `metadata.name`.
    pub path: String,
    /// `!=` instead of `=`.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

/// A field selector: every term must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: BTreeSet<FieldTerm>,
}

const NAME: &str = "metadata.name";

impl FieldSelector {
    /// Reads a selector.
    ///
    /// # Errors
    /// If a term does not parse, or two terms are on `metadata.name` and one of them is an equality (P13).
    pub fn read(text: &str) -> Result<Self, SelectorError> {
        let mut terms = BTreeSet::new();
        let (mut names, mut equal_names) = (0, 0);
        for term in split_unescaped(text)? {
            let term = field_term(&term)?;
            if term.path == NAME {
                names += 1;
                equal_names += usize::from(!term.negated);
                if !term.negated && !is_name(&term.value) {
                    return Err(SelectorError::Value);
                }
            }
            terms.insert(term);
        }
        if equal_names > 0 && names > 1 {
            return Err(SelectorError::TwoNames);
        }
        if terms.len() > MAX_TERMS { Err(SelectorError::TooMany) } else { Ok(Self { terms }) }
    }

    /// The name, if exactly one equality on `metadata.name` selects it (P13).
    pub fn name(&self) -> Option<&str> {
        self.terms.iter().find(|t| t.path == NAME && !t.negated).map(|t| t.value.as_str())
    }

    /// Adds `metadata.namespace!=<namespace>` (ruling `-A`).
    pub fn exclude_namespace(&mut self, namespace: &str) {
        let path = "metadata.namespace".to_owned();
        self.terms.insert(FieldTerm { path, negated: true, value: namespace.to_owned() });
    }

    /// Adds `path=value`, beside whatever the client asks for.
    pub fn require(&mut self, path: &str, value: &str) {
        self.terms.insert(FieldTerm { path: path.to_owned(), negated: false, value: value.to_owned() });
    }

    /// The terms, sorted.
    pub fn terms(&self) -> impl Iterator<Item = &FieldTerm> {
        self.terms.iter()
    }
}

/// Splits at commas that no backslash escapes; escapes stay in the parts.
fn split_unescaped(text: &str) -> Result<Vec<String>, SelectorError> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    if escaped {
        return Err(SelectorError::Term);
    }
    parts.push(part);
    Ok(parts)
}

fn field_term(term: &str) -> Result<FieldTerm, SelectorError> {
    let at = term.find(['=', '!']).ok_or(SelectorError::Term)?;
    let (path, rest) = term.split_at(at);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    if path.is_empty() || !path.bytes().all(allowed) {
        return Err(SelectorError::Key);
    }
    let (negated, value) = match (rest.strip_prefix("!="), rest.strip_prefix("=="), rest.strip_prefix('=')) {
        (Some(value), _, _) => (true, value),
        (None, Some(value), _) | (None, None, Some(value)) => (false, value),
        (None, None, None) => return Err(SelectorError::Term),
    };
    Ok(FieldTerm { path: path.to_owned(), negated, value: unescape(value)? })
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped @ ('\\' | ',' | '=')) => out.push(escaped),
                Some(_) | None => return Err(SelectorError::Value),
            },
            '=' => return Err(SelectorError::Value),
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            _ => return Err(SelectorError::Value),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, FieldTerm { path, negated, value }) in self.terms.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let operator = if *negated { "!=" } else { "=" };
            write!(f, "{comma}{path}{operator}")?;
            for c in value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}
