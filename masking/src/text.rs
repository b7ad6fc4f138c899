//! JSON string contents: to text and back, and the gate that lets only UTF-8 in.

use std::borrow::Cow;

/// The text that the raw contents of a JSON string stand for. None for a bad escape, a lone surrogate, a control
/// byte or what is not UTF-8.
pub(crate) fn unescape(raw: &[u8]) -> Option<Cow<'_, str>> {
    if raw.iter().any(|b| *b < 0x20) {
        return None;
    }
    if !raw.contains(&b'\\') {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..at]);
        let (code, used) = escape_at(&rest[at..])?;
        let mut utf8 = [0; 4];
        text.extend_from_slice(code.encode_utf8(&mut utf8).as_bytes());
        rest = &rest[at + used..];
    }
    text.extend_from_slice(rest);
    String::from_utf8(text).ok().map(Cow::Owned)
}

fn escape_at(raw: &[u8]) -> Option<(char, usize)> {
    let simple = |c| Some((c, 2));
    match raw.get(1)? {
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'n' => simple('\n'),
        b'r' => simple('\r'),
        b't' => simple('\t'),
        b'u' => {
            let high = hex4(raw.get(2..6)?)?;
            if !(0xd800..0xdc00).contains(&high) {
                return char::from_u32(high).map(|c| (c, 6));
            }
            if raw.get(6..8)? != b"\\u" {
                return None;
            }
            let low = hex4(raw.get(8..12)?)?;
            let pair = (0xdc00..0xe000).contains(&low);
            let code = 0x10000 + ((high - 0xd800) << 10) + (low.wrapping_sub(0xdc00) & 0x3ff);
            char::from_u32(code).filter(|_| pair).map(|c| (c, 12))
        }
        _ => None,
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |n, d| Some(n * 16 + char::from(*d).to_digit(16)?))
}

/// Appends a text as the contents of a JSON string.
pub(crate) fn escape_into(text: &[u8], out: &mut Vec<u8>) {
    let mut from = 0;
    for (at, byte) in text.iter().enumerate() {
        let short: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&text[from..at]);
        from = at + 1;
        if short.is_empty() {
            out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
        } else {
            out.extend_from_slice(short);
        }
    }
    out.extend_from_slice(&text[from..]);
}

/// Checks that chunks, put together, are UTF-8.
#[derive(Clone, Debug, Default)]
pub(crate) struct Utf8Gate {
    partial: [u8; 4],
    have: usize,
}

impl Utf8Gate {
    /// Takes the next chunk; says how many of its bytes come before the first that cannot be UTF-8.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while self.have > 0 && at < chunk.len() {
            self.partial[self.have] = chunk[at];
            at += 1;
            match std::str::from_utf8(&self.partial[..self.have + 1]) {
                Ok(_) => self.have = 0,
                Err(e) if e.error_len().is_none() => self.have += 1,
                Err(_) => return Err(at - 1),
            }
        }
        let rest = &chunk[at..];
        if rest.is_ascii() {
            return Ok(());
        }
        let Err(error) = std::str::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(at + error.valid_up_to());
        }
        let tail = &rest[error.valid_up_to()..];
        self.partial[..tail.len()].copy_from_slice(tail);
        self.have = tail.len();
        Ok(())
    }

    /// Whether no character is left half read.
    pub fn is_whole(&self) -> bool {
        self.have == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_bad_escapes() {
        for raw in
            ["\\", "\\x", "\\u12", "\\u12g4", "\\ud800", "\\ud800x", "\\ud800\\u0041", "\\udc00", "\u{1}"]
        {
            assert_eq!(unescape(raw.as_bytes()), None, "{raw}");
        }
        assert_eq!(unescape(b"\\ud83d\\ude00\\u0064\\/").unwrap(), "\u{1f600}d/");
        assert_eq!(unescape(b"\xff"), None);
    }

    proptest! {
        #[test]
        fn escape_and_unescape_agree_with_serde(text in any::<String>()) {
            let mut raw = Vec::new();
            escape_into(text.as_bytes(), &mut raw);
            prop_assert_eq!(unescape(&raw).unwrap(), text.as_str());
            let quoted = format!("\"{}\"", String::from_utf8(raw).unwrap());
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
        }

        #[test]
        fn utf8_gate_agrees_with_std(bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(0xe2), Just(0x82), Just(0xac)], 0..12), cut in 1usize..4) {
            let mut gate = Utf8Gate::default();
            let ok = bytes.chunks(cut).all(|c| gate.take(c).is_ok()) && gate.is_whole();
            prop_assert_eq!(ok, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
