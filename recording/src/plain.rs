//! Text from an agent as a terminal may show it: nothing in it moves the cursor, hides or turns the writing.

use std::fmt;

/// Shows `text` with control, bidirectional, invisible and line-breaking characters as `\u{...}` and `\` doubled, so
/// that what a person reads is what was written.
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            c if misleads(c) => write!(f, "\\u{{{:x}}}", c as u32),
            c => fmt::Write::write_char(f, c),
        })
    }
}

/// Characters that change how others are shown, or are not shown themselves.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_spelled_out_and_the_rest_is_left() {
        let table = [
            ("plain pods/web -n payments", "plain pods/web -n payments"),
            ("grüße 日本", "grüße 日本"),
            ("a\u{1b}[2Jb\r\nc\td\u{7f}\u{9b}", r"a\u{1b}[2Jb\u{d}\u{a}c\u{9}d\u{7f}\u{9b}"),
            (
                "a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{2028}",
                r"a\u{202e}b\u{2066}c\u{200b}d\u{feff}e\u{2028}",
            ),
            (r"\u{202e}", r"\\u{202e}"),
        ];
        for (text, shown) in table {
            assert_eq!(Plain(text).to_string(), shown);
        }
    }
}
