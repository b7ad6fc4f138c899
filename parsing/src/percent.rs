//! Percent escapes, decoded once and strictly, encoded in one way only.

use std::fmt::Write;

/// Why an escape is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EscapeError {
    /// `%` without two hexadecimal digits.
    Broken,
    /// An escaped byte that needs no escape.
    Needless,
    /// An escaped byte that may not occur.
    Forbidden,
    /// The decoded bytes are no UTF-8.
    NotUtf8,
}

fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn escaped(bytes: &[u8], at: usize) -> Result<u8, EscapeError> {
    let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    match (digit(at + 1), digit(at + 2)) {
        (Some(high), Some(low)) => u8::try_from(high * 16 + low).map_err(|_| EscapeError::Broken),
        _ => Err(EscapeError::Broken),
    }
}

/// Decodes one path segment (P5).
pub(crate) fn decode_segment(raw: &str) -> Result<String, EscapeError> {
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            out.push(char::from(byte));
            at += 1;
            continue;
        }
        let byte = escaped(bytes, at)?;
        if matches!(byte, b'/' | b'\\' | b'%' | b'?' | b'#' | b';' | b' ') || !byte.is_ascii_graphic() {
            return Err(EscapeError::Forbidden);
        }
        if unreserved(byte) {
            return Err(EscapeError::Needless);
        }
        out.push(char::from(byte));
        at += 3;
    }
    Ok(out)
}

/// Decodes one query value (P9): `+` is a space, as Go reads it.
pub(crate) fn decode_value(raw: &str) -> Result<String, EscapeError> {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                out.push(escaped(bytes, at)?);
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_err(|_| EscapeError::NotUtf8)
}

/// Writes text for a path segment or a query value: everything but unreserved characters and `:` is escaped.
pub(crate) fn encode(text: &str, out: &mut String) {
    for &byte in text.as_bytes() {
        if unreserved(byte) || byte == b':' {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
