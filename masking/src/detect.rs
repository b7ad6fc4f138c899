//! The way back: does a write carry a placeholder where a value should be?
//!
//! Any text that holds [`MARK`] is found, also in keys, split by white space, behind JSON escapes of texts within texts,
//! and in base64 (standard or URL-safe, at any alignment, base64 within base64). What is compressed is not looked into.

use crate::placeholder::MARK;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memmem::Finder;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Most paths that are told.
pub const MOST_PATHS: usize = 32;
/// Longest path that is told, in characters.
const LONGEST_PATH: usize = 256;
/// Texts within texts that are looked into.
const LAYERS: usize = 4;
/// Shorter runs cannot hold the mark in base64.
const SHORTEST_RUN: usize = 11;

/// Where a body holds placeholders: paths such as `.data.password` or `.spec.containers[0].env[1].value`, in order, at
/// most [`MOST_PATHS`]. Empty: it holds none.
pub fn placeholders(body: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(body, &mut String::new(), &mut found);
    found
}

fn walk(value: &Value, path: &mut String, found: &mut Vec<String>) {
    if found.len() >= MOST_PATHS {
        return;
    }
    let length = path.len();
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => {
            if holds_mark(text.as_bytes(), LAYERS) {
                tell(path, found);
            }
        }
        Value::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                path.push_str(&format!("[{at}]"));
                walk(element, path, found);
                path.truncate(length);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                push_key(path, key);
                if holds_mark(key.as_bytes(), LAYERS) {
                    tell(path, found);
                }
                walk(value, path, found);
                path.truncate(length);
            }
        }
    }
}

fn push_key(path: &mut String, key: &str) {
    let bare =
        !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$'));
    if bare {
        path.push('.');
        path.push_str(key);
    } else {
        let escaped = key.escape_default().to_string();
        path.push_str(&format!("['{escaped}']"));
    }
}

fn tell(path: &str, found: &mut Vec<String>) {
    let told: String =
        if path.is_empty() { ".".to_owned() } else { path.chars().take(LONGEST_PATH).collect() };
    if found.len() < MOST_PATHS && found.last() != Some(&told) {
        found.push(told);
    }
}

/// Whether a text holds the mark in any form.
fn holds_mark(text: &[u8], layers: usize) -> bool {
    if text.len() < MARK.len() {
        return false;
    }
    if holds_plain(text) {
        return true;
    }
    let dense = without_white(text);
    if matches!(dense, Cow::Owned(_)) && holds_plain(&dense) {
        return true;
    }
    if layers == 0 {
        return false;
    }
    if let Some(inner) = unescaped(text)
        && holds_mark(&inner, layers - 1)
    {
        return true;
    }
    let joined = matches!(dense, Cow::Owned(_)) && runs(&dense).any(|run| holds_in_base64(run, layers));
    joined || runs(text).any(|run| holds_in_base64(run, layers))
}

/// The mark itself, or its base64 at one of the three alignments.
fn holds_plain(text: &[u8]) -> bool {
    static FINDERS: LazyLock<[Finder<'static>; 7]> = LazyLock::new(|| {
        let [a, b, c] = [0, 1, 2].map(base64_core);
        let url_safe = |core: &str| core.replace('+', "-").replace('/', "_");
        let (ua, ub, uc) = (url_safe(&a), url_safe(&b), url_safe(&c));
        [MARK.to_owned(), a, b, c, ua, ub, uc].map(|needle| Finder::new(needle.as_bytes()).into_owned())
    });
    FINDERS.iter().any(|finder| finder.find(text).is_some())
}

/// The characters that the base64 of the mark always has when `before` bytes precede it in its group of three.
fn base64_core(before: usize) -> String {
    let encoded = LENIENT.encode(format!("{}{MARK}", &"\0\0"[..before]));
    // Characters that also depend on the bytes around the mark are left off.
    let first = (before * 8).div_ceil(6);
    let last = ((before + MARK.len()) * 8) / 6;
    encoded[first..last].to_owned()
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The runs of base64 characters that are long enough to matter.
fn runs(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let outside = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'));
    text.split(outside).filter(|run| run.len() >= SHORTEST_RUN)
}

fn holds_in_base64(run: &[u8], layers: usize) -> bool {
    let standard: Vec<u8> = run
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => *byte,
        })
        .collect();
    // A run of a length that no base64 has may have lost its end.
    let whole = if standard.len() % 4 == 1 { standard.len() - 1 } else { standard.len() };
    LENIENT.decode(&standard[..whole]).is_ok_and(|decoded| holds_mark(&decoded, layers - 1))
}

fn without_white(text: &[u8]) -> Cow<'_, [u8]> {
    if text.iter().any(u8::is_ascii_whitespace) {
        text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect()
    } else {
        text.into()
    }
}

/// The text with its JSON escapes resolved, wherever they stand; none if there are none.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', text)?;
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        let code = rest.get(at + 2..at + 6).filter(|_| rest.get(at + 1) == Some(&b'u'));
        let code = code.and_then(|hex| u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let Some(code) = code {
            let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[at + 6..];
            continue;
        }
        match rest.get(at + 1) {
            Some(b'n' | b'r' | b't' | b'b' | b'f') => plain.push(b'\n'),
            Some(byte) => plain.push(*byte),
            None => {}
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    plain.extend_from_slice(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    const TEXT: &str = "[MASKED:secret-data]";

    fn broken_lines(text: &str, width: usize, end: &str) -> String {
        text.as_bytes()
            .chunks(width)
            .map(|c| String::from_utf8_lossy(c).into_owned())
            .collect::<Vec<_>>()
            .join(end)
    }

    #[test]
    fn c_the_path_is_named() {
        let pod = json!({"spec": {"containers": [{"env": [{"name": "A", "value": "x"}, {"value": TEXT}]}]}});
        assert_eq!(placeholders(&pod), [".spec.containers[0].env[1].value"]);
        let annotated = json!({"metadata": {"annotations": {"a.b/c": TEXT}}, "data": {"password": STANDARD.encode(TEXT)}});
        assert_eq!(placeholders(&annotated), [".data.password", ".metadata.annotations['a.b/c']"]);
        assert_eq!(placeholders(&json!({TEXT: 1})), ["['[MASKED:secret-data]']"]);
        assert_eq!(placeholders(&json!([{"op": "add", "path": "/data/x", "value": TEXT}])), ["[0].value"]);
        assert_eq!(placeholders(&json!(TEXT)), ["."]);
        assert_eq!(placeholders(&json!(vec![TEXT; 100])).len(), MOST_PATHS);
    }

    #[test]
    fn c_every_form_is_found() {
        let inner =
            json!({"apiVersion": "v1", "data": {"p": STANDARD.encode(TEXT)}, "kind": "Secret"}).to_string();
        let annotated = json!({"metadata": {"annotations": {"x": inner}}}).to_string();
        let docker = json!({"auths": {"r": {"auth": STANDARD.encode(format!("user:{TEXT}"))}}}).to_string();
        let forms = [
            "[MASKED:x".to_owned(),
            format!("a {TEXT} b"),
            "\\u005bMASKED:x]".to_owned(),
            "\\\\u005b\\\\u004dASKED:x]".to_owned(),
            "[MAS\nKED:x]".to_owned(),
            inner.clone(),
            annotated.clone(),
            STANDARD.encode(&inner),
            STANDARD.encode(&annotated),
            STANDARD.encode(STANDARD.encode(TEXT)),
            STANDARD.encode(STANDARD.encode(STANDARD.encode(TEXT))),
            STANDARD.encode(&docker),
            URL_SAFE_NO_PAD.encode(docker),
            broken_lines(&STANDARD.encode(TEXT), 5, "\n"),
            broken_lines(&STANDARD.encode(STANDARD.encode(TEXT)), 7, "\r\n  "),
            broken_lines(&STANDARD.encode(TEXT), 3, "\\n"),
            format!("token: {}\n", STANDARD_NO_PAD.encode(TEXT)),
        ];
        let twice = STANDARD_NO_PAD.encode(STANDARD.encode(TEXT));
        let longer = (1..=4).map(|more| format!("{twice}{}", "A".repeat(more)));
        for form in forms.into_iter().chain(longer) {
            assert_eq!(placeholders(&json!({"a": form.clone()})), [".a"], "{form}");
        }
    }

    #[test]
    fn other_texts_are_left_alone() {
        for text in [
            "",
            "[MASKED",
            "MASKED:",
            "[masked:x]",
            "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
            "\\u005b",
            "\\",
            "\\u12",
        ] {
            assert!(placeholders(&json!({"a": text, "b": [1, null, true]})).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        assert_eq!(placeholders(&json!(vec!["[MASKED:x]"; 40])).len(), 32);
        let keys: serde_json::Map<_, _> = (0..40).map(|n| (format!("[MASKED:{n}]"), json!(1))).collect();
        assert_eq!(placeholders(&json!(keys)).len(), 32);
        assert_eq!(placeholders(&json!({"k".repeat(1000): "[MASKED:x]"}))[0].len(), 256);
    }

    #[test]
    fn f28_a_hostile_body_is_read_in_linear_time() {
        // Some hundred KiB: what is not linear takes minutes, and what is takes no second on a machine however busy.
        let hostile = [
            "\\".repeat(400_000),
            STANDARD.encode("\\ \n".repeat(80_000)),
            "QUJD QUJDQUJDQUJD \\".repeat(20_000),
            STANDARD.encode(STANDARD.encode("QUJDQUJDQUJDQUJD \\\\ ".repeat(10_000))),
        ];
        for text in hostile {
            let start = std::time::Instant::now();
            assert!(placeholders(&json!(text)).is_empty());
            assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        }
    }

    proptest! {
        #[test]
        fn c_base64_at_any_alignment(before in prop::collection::vec(any::<u8>(), 0..40), after in prop::collection::vec(any::<u8>(), 0..40), form in 0usize..4) {
            let bytes = [&before, MARK.as_bytes(), &after].concat();
            let text = match form {
                0 => STANDARD.encode(&bytes),
                1 => STANDARD_NO_PAD.encode(&bytes),
                2 => URL_SAFE.encode(&bytes),
                _ => URL_SAFE_NO_PAD.encode(&bytes),
            };
            prop_assert_eq!(placeholders(&json!(text)), ["."]);
        }

        #[test]
        fn ordinary_texts_do_not_trip_it(text in "[ -~]{0,200}") {
            prop_assume!(!text.contains("MASKED"));
            prop_assert!(placeholders(&json!(text)).is_empty());
        }
    }
}
