//! JSON, read strictly into one tree and written in one form (A3, appendix 4).
//!
//! The API server merges doubled objects, folds the case of `kind`, and rounds numbers. What is accepted here means
//! the same to every reader.

use std::collections::BTreeSet;

use serde_json::{Map, Number, Value};

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 100;
/// Most values in one document.
pub const MAX_VALUES: usize = 250_000;

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// A byte order mark.
    #[error("the body begins with a byte order mark")]
    ByteOrderMark,
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// The text ends too early.
    #[error("the JSON ends too early")]
    End,
    /// A byte that JSON does not have there.
    #[error("the JSON has an unexpected character at byte {0}")]
    Unexpected(usize),
    /// Something behind the value.
    #[error("the body has something behind the JSON value at byte {0}")]
    Trailing(usize),
    /// A key occurs twice in one object.
    #[error("the JSON has a duplicate key at byte {0}")]
    DuplicateKey(usize),
    /// A surrogate without its other half.
    #[error("the JSON has a lone surrogate at byte {0}")]
    LoneSurrogate(usize),
    /// A control character or a broken escape in a string.
    #[error("the JSON has a broken string at byte {0}")]
    BrokenString(usize),
    /// An integer outside 64 signed bits, or a number that a 64-bit float cannot hold.
    #[error("the JSON has a number at byte {0} that the server would change")]
    NumberRange(usize),
    /// Nested too deeply.
    #[error("the JSON is nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Too many values.
    #[error("the JSON has more than {MAX_VALUES} values")]
    TooMany,
}

/// Reads one JSON value.
///
/// # Errors
/// For everything that two readers could understand differently, and for what exceeds the limits.
pub fn read(bytes: &[u8]) -> Result<Value, JsonError> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::ByteOrderMark);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
    let mut reader = Reader { text, at: 0, values: 0 };
    reader.blanks();
    let value = reader.value(0)?;
    reader.blanks();
    if reader.at < text.len() { Err(JsonError::Trailing(reader.at)) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected<T>(&self) -> Result<T, JsonError> {
        if self.at < self.text.len() { Err(JsonError::Unexpected(self.at)) } else { Err(JsonError::End) }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return self.unexpected();
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(JsonError::TooMany);
        }
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.unexpected(),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        for byte in word.bytes() {
            self.expect(byte)?;
        }
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut map = Map::new();
        self.expect(b'{')?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            self.blanks();
            let start = self.at;
            let key = self.string()?;
            self.blanks();
            self.expect(b':')?;
            self.blanks();
            let value = self.value(depth + 1)?;
            if map.insert(key, value).is_some() {
                return Err(JsonError::DuplicateKey(start));
            }
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b'}')?;
        Ok(Value::Object(map))
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        let mut items = Vec::new();
        self.expect(b'[')?;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.blanks();
            items.push(self.value(depth + 1)?);
            self.blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => break,
            }
        }
        self.expect(b']')?;
        Ok(Value::Array(items))
    }

    fn string(&mut self) -> Result<String, JsonError> {
        self.expect(b'"')?;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let plain = rest.find(['"', '\\']).ok_or(JsonError::End)?;
            let (chunk, _) = rest.split_at(plain);
            if let Some(control) = chunk.bytes().position(|b| b < 0x20) {
                return Err(JsonError::BrokenString(self.at + control));
            }
            out.push_str(chunk);
            self.at += plain;
            if self.peek() == Some(b'"') {
                self.at += 1;
                return Ok(out);
            }
            out.push(self.escape()?);
        }
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.expect(b'\\')?;
        let kind = self.peek().ok_or(JsonError::End)?;
        self.at += 1;
        Ok(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex(start)?;
                if !(0xd800..0xe000).contains(&unit) {
                    return char::from_u32(unit).ok_or(JsonError::LoneSurrogate(start));
                }
                let follows = self.text.as_bytes()[self.at..].starts_with(b"\\u");
                if unit >= 0xdc00 || !follows {
                    return Err(JsonError::LoneSurrogate(start));
                }
                self.at += 2;
                let low = self.hex(start)?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(JsonError::LoneSurrogate(start));
                }
                let scalar = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                return char::from_u32(scalar).ok_or(JsonError::LoneSurrogate(start));
            }
            _ => return Err(JsonError::BrokenString(start)),
        })
    }

    fn hex(&mut self, start: usize) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit =
                self.peek().and_then(|b| char::from(b).to_digit(16)).ok_or(JsonError::BrokenString(start))?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.unexpected() } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        // Some readers take it for an integer, some for a float.
        if text == "-0" {
            return Err(JsonError::NumberRange(start));
        }
        let number = if whole { text.parse::<i64>().map(Number::from).ok() } else { float(text) };
        number.map(Value::Number).ok_or(JsonError::NumberRange(start))
    }
}

/// A float of at most 17 significant digits, so that the shortest form that reads back means the same.
fn float(text: &str) -> Option<Number> {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let significant: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if significant.trim_matches('0').len() > 17 {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    // A value that vanishes or overflows is not what the client wrote.
    if value == 0.0 && mantissa.bytes().any(|b| matches!(b, b'1'..=b'9')) {
        return None;
    }
    Number::from_f64(value)
}

/// Writes a value: keys sorted by bytes, no blanks, shortest escapes. Equal values give equal bytes.
pub fn write(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_into(value, &mut out);
    out
}

fn write_into(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_into(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let keys: BTreeSet<&String> = map.keys().collect();
            out.push(b'{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                map.get(key).into_iter().for_each(|value| write_into(value, out));
            }
            out.push(b'}');
        }
    }
}

/// Control characters, and what YAML 1.1 takes for the end of a line or does not take at all: the API server reads an apply
/// patch as YAML, and would store a blank for U+0085.
fn is_escaped(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if is_escaped(c) => {
                let code = c as u32 as usize;
                let digit = |shift: usize| HEX[code >> shift & 15];
                out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
