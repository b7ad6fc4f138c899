//! YAML, read as far as all of its readers agree, into the same tree as JSON (A3, appendix 4).
//!
//! The API server reads YAML 1.1, most others 1.2. What the two understand differently is refused, and what hides a part
//! of a document from whoever reads it too: anchors, aliases, merge keys, tags, second documents, doubled keys.
#![allow(clippy::wildcard_enum_match_arm, reason = "the events are another crate's, and may become more")]

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle};
use serde_json::{Map, Number, Value};

use crate::json::{self, JsonError, MAX_DEPTH, MAX_VALUES};

/// Why a text is not read. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// JSON text that is none: a document that begins with `{` is read as JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// A control character, a byte order mark or a line end that only some readers know.
    #[error("the YAML has a character in line {0} that readers treat differently")]
    Character(usize),
    /// Not YAML.
    #[error("the YAML does not parse in line {0}")]
    Syntax(usize),
    /// Nothing, or nothing but comments.
    #[error("the YAML is empty")]
    Empty,
    /// Neither mapping nor sequence.
    #[error("the YAML is a single value")]
    Scalar,
    /// The API server reads the first document only.
    #[error("the body has more than one YAML document")]
    SecondDocument,
    /// `&a` or `*a`
    #[error("the YAML has an anchor or an alias in line {0}; write the value out")]
    Anchor(usize),
    /// `!!binary` and the like.
    #[error("the YAML has a tag in line {0}; write the plain value")]
    Tag(usize),
    /// `<<: ...`
    #[error("the YAML has a merge key in line {0}; write the keys out")]
    Merge(usize),
    /// `? k`, or a key that is no text.
    #[error("the YAML has a key in line {0} that is not plain text; quote it")]
    Key(usize),
    /// A key occurs twice in one mapping.
    #[error("the YAML has a duplicate key in line {0}")]
    DuplicateKey(usize),
    /// `yes`, `012`, `.inf`: something else to every reader.
    #[error(
        "the YAML has a value in line {0} that readers understand differently; quote it or write it as in JSON"
    )]
    Ambiguous(usize),
    /// Nested too deeply.
    #[error("the YAML is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Too many values.
    #[error("the YAML has more than {MAX_VALUES} values")]
    TooMany,
}

/// Reads one YAML document; JSON text, which many clients send as YAML, as JSON.
///
/// # Errors
/// For everything that two readers could understand differently, and for what exceeds the limits.
pub fn read(bytes: &[u8]) -> Result<Value, YamlError> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        return Ok(json::read(bytes)?);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| YamlError::NotUtf8)?;
    check_characters(text)?;
    let mut options = Options::default();
    options.disallow_directives = true;
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { parser, text, read: 0, token: "", line: 1, values: 0, flow: 0 };
    reader.document()
}

fn check_characters(text: &str) -> Result<(), YamlError> {
    let mut line = 1;
    for (at, c) in text.char_indices() {
        let plain = match c {
            '\n' => {
                line += 1;
                true
            }
            '\r' => text[at..].starts_with("\r\n"),
            // A tab that indents.
            '\t' => at > 0 && !text[..at].ends_with('\n'),
            ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' => true,
            _ => c >= '\u{10000}',
        };
        if !plain {
            return Err(YamlError::Character(line));
        }
    }
    Ok(())
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    /// How much of the text the events so far cover, in bytes.
    read: usize,
    /// The source of the last event.
    token: &'a str,
    line: usize,
    values: usize,
    /// How many collections in braces or brackets are open.
    flow: usize,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Value, YamlError> {
        let value = loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentStart(..) => {}
                Event::StreamEnd => return Err(YamlError::Empty),
                Event::Scalar(..) => return Err(YamlError::Scalar),
                event => break self.value(event, 0)?,
            }
        };
        match (self.next()?, self.next()?) {
            (Event::DocumentEnd, Event::StreamEnd) => Ok(value),
            _ => Err(YamlError::SecondDocument),
        }
    }

    fn next(&mut self) -> Result<Event<'a>, YamlError> {
        let next = self.parser.next_event().ok_or(YamlError::Empty)?;
        let (event, span) = next.map_err(|error: ScanError| YamlError::Syntax(error.marker().line()))?;
        self.line = span.start.line();
        self.token = span.slice(self.text).unwrap_or_default();
        self.pass(&span)?;
        Ok(event)
    }

    /// Between the events there are blanks, comments and indicators; neither `?` nor tabs are taken.
    fn pass(&mut self, span: &Span) -> Result<(), YamlError> {
        let Some(range) = span.byte_range() else { return Ok(()) };
        let between = self.text.get(self.read..range.start).unwrap_or_default();
        for code in between.lines().filter_map(|line| line.split('#').next()) {
            if code.contains('?') {
                return Err(YamlError::Key(self.line));
            }
            if code.contains('\t') {
                return Err(YamlError::Character(self.line));
            }
        }
        self.read = self.read.max(range.end);
        Ok(())
    }

    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Value, YamlError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(YamlError::TooMany);
        }
        if depth > MAX_DEPTH {
            return Err(YamlError::TooDeep);
        }
        if event.tag().is_some() {
            return Err(YamlError::Tag(self.line));
        }
        if event.anchor_id().is_some_and(|id| id > 0) {
            return Err(YamlError::Anchor(self.line));
        }
        match event {
            Event::Scalar(text, style, ..) => self.scalar(&text, style),
            Event::SequenceStart(style, ..) => self.within(style, |reader| reader.sequence(depth)),
            Event::MappingStart(style, ..) => self.within(style, |reader| reader.mapping(depth)),
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => {
                Err(YamlError::Anchor(self.line))
            }
            _ => Err(YamlError::Syntax(self.line)),
        }
    }

    fn within(
        &mut self,
        style: StructureStyle,
        read: impl FnOnce(&mut Self) -> Result<Value, YamlError>,
    ) -> Result<Value, YamlError> {
        let more = usize::from(style == StructureStyle::Flow);
        self.flow += more;
        let value = read(self);
        self.flow -= more;
        value
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::Array(items)),
                event => items.push(self.value(event, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let mut map = Map::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Value::Object(map)),
                event => self.key(event, depth)?,
            };
            let line = self.line;
            let next = self.next()?;
            let value = self.value(next, depth + 1)?;
            if map.insert(key, value).is_some() {
                return Err(YamlError::DuplicateKey(line));
            }
        }
    }

    fn key(&mut self, event: Event<'a>, depth: usize) -> Result<String, YamlError> {
        let is_text = matches!(event, Event::Scalar(..) | Event::Alias(_)) && !self.token.contains('\n');
        if !is_text {
            return Err(YamlError::Key(self.line));
        }
        if event.scalar().is_some_and(|(text, _)| text == "<<") {
            return Err(YamlError::Merge(self.line));
        }
        let is_plain = event.scalar().is_some_and(|(_, style)| style == ScalarStyle::Plain);
        if is_plain
            && self.text[self.read..]
                .trim_start()
                .strip_prefix(':')
                .is_some_and(|rest| !rest.starts_with([' ', '\n', '\r', '\t']))
        {
            return Err(YamlError::Key(self.line));
        }
        match self.value(event, depth) {
            Ok(Value::String(key)) => Ok(key),
            Ok(_) | Err(YamlError::Ambiguous(_)) => Err(YamlError::Key(self.line)),
            Err(error) => Err(error),
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle) -> Result<Value, YamlError> {
        match style {
            // YAML 1.1 lets neither into plain text between braces, and its readers stumble differently.
            ScalarStyle::Plain if self.flow > 0 && text.contains([':', '?']) => {
                Err(YamlError::Ambiguous(self.line))
            }
            ScalarStyle::Plain => resolve(text).ok_or(YamlError::Ambiguous(self.line)),
            ScalarStyle::DoubleQuoted if self.has_surrogate() => Err(YamlError::Ambiguous(self.line)),
            // Whether its last line ends there is seen differently.
            ScalarStyle::Literal | ScalarStyle::Folded
                if self.ends_abruptly() || text.trim_start_matches('\n').starts_with('\t') =>
            {
                Err(YamlError::Ambiguous(self.line))
            }
            ScalarStyle::SingleQuoted
            | ScalarStyle::DoubleQuoted
            | ScalarStyle::Literal
            | ScalarStyle::Folded => Ok(Value::String(text.to_owned())),
        }
    }

    fn ends_abruptly(&self) -> bool {
        !self.text.ends_with('\n') && self.text[self.read..].trim().is_empty()
    }

    /// `\ud800` to `\udfff`: JSON's way to write what YAML writes as `\U`. The API server's reader does not know it.
    fn has_surrogate(&self) -> bool {
        let token = self.token.to_ascii_lowercase();
        token.split("\\ud").skip(1).any(|rest| rest.starts_with(['8', '9', 'a', 'b', 'c', 'd', 'e', 'f']))
    }
}

/// What a plain scalar is: what YAML 1.1 and 1.2 agree on, numbers written as in JSON. None if they differ.
fn resolve(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        "<<" | "=" => return None,
        _ if text.starts_with(['?', ':']) => return None,
        _ => {}
    }
    let word = text.to_ascii_lowercase();
    if ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&word.as_str()) {
        return None;
    }
    if !looks_numeric(&word) {
        return Some(Value::String(text.to_owned()));
    }
    match json::read(text.as_bytes()) {
        Ok(Value::Number(number)) => Some(Value::Number(integral(number))),
        Ok(_) | Err(_) => None,
    }
}

/// `1.0` in YAML is 1 to the API server.
fn integral(number: Number) -> Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64().filter(|_| number.is_f64()) {
        #[allow(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        Some(value) if value.fract() == 0.0 && value.abs() < EXACT => Number::from(value as i64),
        Some(_) | None => number,
    }
}

/// Whether any reader takes it for a number: decimal, `0x1f`, `0o17`, `017`, `0b11`, `1_000`, `.5`, `.inf`.
fn looks_numeric(word: &str) -> bool {
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return false;
    }
    let plain = word.replace('_', "");
    let plain = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let based = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().any(|(prefix, radix)| {
        let digits = plain.strip_prefix(prefix).map(|digits| digits.trim_start_matches(['+', '-']));
        digits.is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)))
    });
    based || matches!(plain, ".inf" | ".nan") || is_decimal(plain)
}

/// `1`, `1.`, `.5`, `1.5e-3`
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) =
        text.split_once('e').map_or((text, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_holds = exponent.is_none_or(|text| {
        let text = text.strip_prefix(['+', '-']).unwrap_or(text);
        !text.is_empty() && digits(text)
    });
    digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_holds
}
