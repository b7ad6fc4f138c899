//! Escaping: agents write some of what is printed here, and a terminal obeys control characters.

use std::borrow::Cow;

use serde_json::Value;

/// Text for one line: control and bidirectional characters, and line breaks, become visible escapes.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Text of several lines: as [`line`], but line feeds and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |letter| matches!(letter, '\n' | '\t'))
}

/// JSON text: what serde_json leaves raw becomes `\u` escapes, which mean the same to whoever reads it.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_dangerous(letter) && letter != '\n' {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(letter);
        }
    }
    out
}

/// Escapes every string of a document, keys too, as [`lines`] does.
pub fn document(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(lines(&text).into_owned()),
        Value::Array(items) => Value::Array(items.into_iter().map(document).collect()),
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(name, value)| (lines(&name).into_owned(), document(value))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|letter| is_dangerous(letter) && !keep(letter)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            letter if keep(letter) || !is_dangerous(letter) => out.push(letter),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter => out.push_str(&format!("\\u{{{:x}}}", u32::from(letter))),
        }
    }
    Cow::Owned(out)
}

/// Controls (C0, DEL, C1), line and paragraph separators, and everything that turns or hides the direction of text.
fn is_dangerous(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d20_controls_and_directions_become_visible() {
        let cases = [
            ("plain ünïcode 漢字", "plain ünïcode 漢字"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("a\rb", "a\\rb"),
            ("safe\u{202e}live", "safe\\u{202e}live"),
            ("\u{2066}x\u{2069}", "\\u{2066}x\\u{2069}"),
            ("two\nlines\tand a tab", "two\\nlines\\tand a tab"),
            ("hidden\u{e0041}tag", "hidden\\u{e0041}tag"),
        ];
        for (raw, shown) in cases {
            assert_eq!(line(raw), shown);
        }
        assert_eq!(lines("two\nlines\r"), "two\nlines\\r");
    }

    #[test]
    fn d20_json_stays_json_and_means_the_same() {
        let value = serde_json::json!({"reason": "a\u{202e}b\u{9b}c\u{e0041}\u{1b}\u{7f}"});
        let text = json(&value.to_string());
        assert!(!text.chars().any(is_dangerous), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
    }
}
