//! Bit-parallel reading: 64 bytes at a time become masks, and strings are passed over by arithmetic.

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch, u8x64};

/// Deepest nesting of objects and lists. Kubernetes' own decoders stop at 10 000, its deepest documents (schemas of
/// CRDs) stay below 100.
pub(crate) const MAX_DEPTH: usize = 512;

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not JSON.
    Syntax,
    /// A string with a control byte or a bad escape.
    Text,
    /// Nested beyond [`MAX_DEPTH`].
    Depth,
}

pub(crate) const BLOCK: usize = 64;
/// Keys and most values end within this many bytes; they are not worth a block.
const SHORT: usize = 24;

/// One bit for each byte of a block.
#[derive(Clone, Copy, Default)]
pub(crate) struct Classes {
    pub quote: u64,
    pub backslash: u64,
    pub control: u64,
    pub space: u64,
    pub open: u64,
    pub close: u64,
    pub colon: u64,
    pub comma: u64,
}

/// The classes that matter inside a string.
#[inline(always)]
fn text_classes<S: Simd>(simd: S, block: &[u8; BLOCK]) -> Classes {
    let bytes = u8x64::simd_from(simd, *block);
    Classes {
        quote: bytes.simd_eq(b'"').to_bitmask(),
        backslash: bytes.simd_eq(b'\\').to_bitmask(),
        control: bytes.simd_le(0x1f).to_bitmask(),
        ..Classes::default()
    }
}

/// All classes. `[` and `{`, `]` and `}` differ in one bit only, so each pair is one comparison.
#[inline(always)]
pub(crate) fn classes<S: Simd>(simd: S, block: &[u8; BLOCK]) -> Classes {
    let bytes = u8x64::simd_from(simd, *block);
    let folded = bytes | 0x20;
    Classes {
        space: bytes.simd_eq(b' ').to_bitmask(),
        open: folded.simd_eq(b'{').to_bitmask(),
        close: folded.simd_eq(b'}').to_bitmask(),
        colon: bytes.simd_eq(b':').to_bitmask(),
        comma: bytes.simd_eq(b',').to_bitmask(),
        ..text_classes(simd, block)
    }
}

/// The block at the beginning of `rest`, padded with spaces, and how many of its bytes are real.
#[inline(always)]
pub(crate) fn block_of(rest: &[u8]) -> ([u8; BLOCK], usize) {
    match rest.first_chunk::<BLOCK>() {
        Some(block) => (*block, BLOCK),
        None => {
            let mut padded = [b' '; BLOCK];
            padded[..rest.len()].copy_from_slice(rest);
            (padded, rest.len())
        }
    }
}

/// The lowest `count` bits, `count` <= 64.
#[inline(always)]
pub(crate) fn low(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// Where in a string a chunk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InText {
    /// 1 if the next byte is escaped.
    escaped: u64,
    /// Hex digits of a `\u` escape still to come.
    hex_left: u8,
}

impl InText {
    /// The escaped bytes of a block of `count` real bytes.
    #[inline(always)]
    pub fn escaped(&mut self, backslash: u64, count: usize) -> u64 {
        if backslash == 0 {
            return std::mem::take(&mut self.escaped);
        }
        const EVEN: u64 = 0x5555_5555_5555_5555;
        let starts = backslash & !self.escaped;
        let follows = starts << 1 | self.escaped;
        let odd_starts = starts & !EVEN & !follows;
        let (sequences, overflow) = odd_starts.overflowing_add(starts);
        let escaped = (EVEN ^ sequences << 1) & follows;
        self.escaped = if count < BLOCK { escaped >> count & 1 } else { u64::from(overflow) };
        escaped & low(count)
    }

    /// Checks the bytes at `escaped` bits of a block that begins at `base`.
    pub fn check_escapes(&mut self, mut escaped: u64, input: &[u8], base: usize) -> Result<(), Fault> {
        while escaped != 0 {
            let at = base + escaped.trailing_zeros() as usize;
            escaped &= escaped - 1;
            match input[at] {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    let digits = &input[at + 1..input.len().min(at + 5)];
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return Err(Fault::Text);
                    }
                    self.hex_left = 4 - digits.len() as u8;
                }
                _ => return Err(Fault::Text),
            }
        }
        Ok(())
    }

    /// Checks the rest of a `\u` escape that the last chunk cut.
    pub fn resume(&mut self, input: &[u8]) -> Result<(), Fault> {
        let digits = input.len().min(usize::from(self.hex_left));
        if !input[..digits].iter().all(u8::is_ascii_hexdigit) {
            return Err(Fault::Text);
        }
        self.hex_left -= digits as u8;
        Ok(())
    }

    /// Reads string contents from `at`. Some: the closing quote is there. None: the input ends first.
    pub fn skip(&mut self, input: &[u8], mut at: usize) -> Result<Option<usize>, Fault> {
        self.resume(&input[at..])?;
        if self.escaped == 0 {
            let short = &input[at..input.len().min(at + SHORT)];
            let plain = short.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(short.len());
            at += plain;
            if short.get(plain) == Some(&b'"') {
                return Ok(Some(at));
            }
        }
        dispatch!(Level::new(), simd => self.skip_blocks(simd, input, at))
    }

    #[inline(always)]
    fn skip_blocks<S: Simd>(&mut self, simd: S, input: &[u8], mut at: usize) -> Result<Option<usize>, Fault> {
        while at < input.len() {
            let (block, count) = block_of(&input[at..]);
            let classes = text_classes(simd, &block);
            let escaped = self.escaped(classes.backslash, count);
            let quote = classes.quote & !escaped;
            let inside = if quote == 0 { low(count) } else { low(quote.trailing_zeros() as usize) };
            if classes.control & inside != 0 {
                return Err(Fault::Text);
            }
            if escaped & inside != 0 {
                self.check_escapes(escaped & inside, input, at)?;
            }
            if quote != 0 {
                return Ok(Some(at + quote.trailing_zeros() as usize));
            }
            at += count;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serde_accepts(text: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    #[test]
    fn strings_are_checked_as_serde_does() {
        let long = "x".repeat(70);
        for text in
            ["", "a", "\\n", "\\\\", "\\\\\\\"", "\\x", "\\u00e9", "\\u00g9", "\\", "\u{1f}", "\\u12\""]
        {
            for text in [text.to_owned(), format!("{long}{text}"), format!("{text}{long}")] {
                let quoted = format!("{text}\"");
                let want = serde_accepts(format!("\"{quoted}").as_bytes());
                for size in 1..quoted.len() + 1 {
                    let mut state = InText::default();
                    let mut ends = false;
                    let last = quoted.len().div_ceil(size) - 1;
                    for (at, chunk) in quoted.as_bytes().chunks(size).enumerate() {
                        match state.skip(chunk, 0) {
                            Ok(Some(end)) => {
                                ends = at == last && end == chunk.len() - 1;
                                break;
                            }
                            Ok(None) => {}
                            Err(_) => break,
                        }
                    }
                    assert_eq!(ends, want, "{quoted} cut every {size}");
                }
            }
        }
    }
}
