//! Bit-parallel reading: 64 bytes at a time become masks, and strings and whole subtrees are passed over by arithmetic.

use crate::token::Scalar;
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

const BLOCK: usize = 64;
/// Keys and most values end within this many bytes; they are not worth a block.
const SHORT: usize = 24;

/// One bit for each byte of a block.
#[derive(Clone, Copy, Default)]
struct Classes {
    quote: u64,
    backslash: u64,
    control: u64,
    space: u64,
    open: u64,
    close: u64,
    colon: u64,
    comma: u64,
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
fn classes<S: Simd>(simd: S, block: &[u8; BLOCK]) -> Classes {
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
fn block_of(rest: &[u8]) -> ([u8; BLOCK], usize) {
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
fn low(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// Each bit becomes the parity of itself and all below.
#[inline(always)]
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
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
    fn escaped(&mut self, backslash: u64, count: usize) -> u64 {
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
    fn check_escapes(&mut self, mut escaped: u64, input: &[u8], base: usize) -> Result<(), Fault> {
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
    fn resume(&mut self, input: &[u8]) -> Result<(), Fault> {
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

/// The kinds of the open brackets.
#[derive(Clone, Debug)]
struct Brackets {
    objects: [u64; MAX_DEPTH / 64],
    depth: usize,
}

impl Brackets {
    fn push(&mut self, object: bool) {
        let (word, bit) = (self.depth / 64, self.depth % 64);
        self.objects[word] = self.objects[word] & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
    }

    fn in_object(&self) -> bool {
        let top = self.depth - 1;
        self.objects[top / 64] >> (top % 64) & 1 == 1
    }
}

/// Where in a subtree that is passed over a chunk ended. Every rule of JSON is checked on the way.
#[derive(Clone, Debug)]
pub(crate) struct Skip {
    brackets: Brackets,
    /// Depth the brackets may reach.
    limit: usize,
    text: InText,
    /// All ones inside a string.
    in_text: u64,
    /// 1 inside a string that is a key.
    in_key: u64,
    scalar: Option<Scalar>,
    /// What stands before the next byte, white space aside: 1 or 0 each.
    after_start: u64,
    after_open: u64,
    after_colon: u64,
    after_key: u64,
    after_value: u64,
}

/// Which bytes come right after one of `bits`, white space aside. `carry` links the blocks.
#[inline(always)]
fn follow(bits: u64, white: u64, carry: &mut u64) -> u64 {
    let next = bits << 1 | *carry;
    if white == 0 {
        *carry = bits >> 63;
        return next;
    }
    let (through, overflow) = (next & white).overflowing_add(white);
    *carry = bits >> 63 | u64::from(overflow);
    (next | through) & !white
}

impl Skip {
    /// Right after an opening bracket that itself lies `outer` brackets deep.
    pub fn new(object: bool, outer: usize) -> Result<Skip, Fault> {
        let limit = MAX_DEPTH.checked_sub(outer).filter(|limit| *limit > 0).ok_or(Fault::Depth)?;
        let mut brackets = Brackets { objects: [0; MAX_DEPTH / 64], depth: 0 };
        brackets.push(object);
        Ok(Skip {
            brackets,
            limit,
            text: InText::default(),
            in_text: 0,
            in_key: 0,
            scalar: None,
            after_start: 1,
            after_open: 1,
            after_colon: 0,
            after_key: 0,
            after_value: 0,
        })
    }

    /// Reads on from `at`. Some: the position after the closing bracket. None: the input ends first.
    pub fn skip(&mut self, input: &[u8], at: usize) -> Result<Option<usize>, Fault> {
        if self.in_text != 0 {
            self.text.resume(&input[at..])?;
        }
        dispatch!(Level::new(), simd => self.skip_blocks(simd, input, at))
    }

    #[inline(always)]
    fn skip_blocks<S: Simd>(&mut self, simd: S, input: &[u8], mut at: usize) -> Result<Option<usize>, Fault> {
        while at < input.len() {
            let (block, count) = block_of(&input[at..]);
            let end = self.block(classes(simd, &block), &block, count, input, at)?;
            if let Some(end) = end {
                return Ok(Some(at + end));
            }
            at += count;
        }
        Ok(None)
    }

    #[inline(always)]
    fn block(
        &mut self,
        classes: Classes,
        block: &[u8; BLOCK],
        count: usize,
        input: &[u8],
        base: usize,
    ) -> Result<Option<usize>, Fault> {
        let escaped = self.text.escaped(classes.backslash, count);
        let quote = classes.quote & !escaped;
        let inside = prefix_xor(quote) ^ self.in_text;
        let outside = !(inside | quote);

        let in_object = self.brackets.in_object();
        let brackets = (classes.open | classes.close) & outside;
        let (objects, end) = self.contexts(block, brackets, classes.open, in_object)?;
        let real = low(end.unwrap_or(count));

        let tokens = Tokens {
            opening: quote & inside,
            closing: quote & !inside,
            inside,
            open: classes.open & outside,
            close: classes.close & outside,
            colon: classes.colon & outside,
            comma: classes.comma & outside,
            white: (classes.space | classes.control) & outside,
            outside,
            objects,
        };
        if classes.control & outside & real != 0 {
            check_white(block, classes.control & outside & real)?;
        }
        if classes.control & inside & real != 0 {
            return Err(Fault::Text);
        }
        if escaped != 0 {
            self.text.check_escapes(escaped & inside & real, input, base)?;
        }
        self.grammar(&tokens, block, real, count)?;
        self.in_text = if inside >> 63 == 1 { !0 } else { 0 };
        Ok(end)
    }

    /// Follows the brackets of a block: which bytes lie directly in an object, and after which byte the subtree ends.
    #[inline(always)]
    fn contexts(
        &mut self,
        block: &[u8; BLOCK],
        mut brackets: u64,
        open: u64,
        in_object: bool,
    ) -> Result<(u64, Option<usize>), Fault> {
        let mut context = in_object;
        let mut objects = if in_object { !0 } else { 0 };
        while brackets != 0 {
            let at = brackets.trailing_zeros() as usize;
            brackets &= brackets - 1;
            let object = block[at] & 0x20 != 0;
            if open >> at & 1 == 1 {
                if self.brackets.depth == self.limit {
                    return Err(Fault::Depth);
                }
                self.brackets.push(object);
            } else {
                if object != context {
                    return Err(Fault::Syntax);
                }
                self.brackets.depth -= 1;
                if self.brackets.depth == 0 {
                    return Ok((objects, Some(at + 1)));
                }
            }
            let inner = self.brackets.in_object();
            if inner != context {
                objects ^= !1u64 << at;
                context = inner;
            }
        }
        Ok((objects, None))
    }

    /// Checks what may stand next to what.
    #[inline(always)]
    fn grammar(&mut self, t: &Tokens, block: &[u8; BLOCK], real: u64, count: usize) -> Result<(), Fault> {
        let signs = t.open | t.close | t.colon | t.comma | t.white;
        let scalar = t.outside & !signs & low(count);
        let begun = u64::from(self.scalar.is_some());
        let scalar_start = scalar & !(scalar << 1 | begun);
        if scalar & real != 0 || begun == 1 {
            self.scalars(block, scalar & real, count)?;
        }

        let after_start = follow(t.open | t.comma, t.white, &mut self.after_start);
        let after_open = follow(t.open, t.white, &mut self.after_open);
        let after_colon = follow(t.colon, t.white, &mut self.after_colon);

        let key_start = t.opening & after_start & t.objects;
        let (ended, overflow) = t.inside.overflowing_add(key_start | (self.in_key & t.inside));
        let key_end = ended & t.closing | (self.in_key & t.closing);
        self.in_key = u64::from(overflow);
        let value_end = t.closing & !key_end | t.close | scalar;
        let after_key = follow(key_end, t.white, &mut self.after_key);
        let after_value = follow(value_end, t.white, &mut self.after_value);

        let value_start = t.opening & !key_start | t.open | scalar_start;
        let may_start = after_start & !t.objects | after_colon & t.objects;
        let wrong = value_start & !may_start
            | (t.colon ^ after_key & !t.white)
            | t.comma & !after_value
            | t.close & !(after_value | after_open);
        if wrong & real != 0 { Err(Fault::Syntax) } else { Ok(()) }
    }

    /// Checks the spelling of numbers and words.
    fn scalars(&mut self, block: &[u8; BLOCK], mut scalar: u64, count: usize) -> Result<(), Fault> {
        if let Some(begun) = self.scalar.take() {
            let length = scalar.trailing_ones() as usize;
            self.run(Some(begun), &block[..length], length == count)?;
            scalar &= !low(length);
        }
        while scalar != 0 {
            let start = scalar.trailing_zeros() as usize;
            let length = (scalar >> start).trailing_ones() as usize;
            self.run(None, &block[start..start + length], start + length == count)?;
            scalar &= !(low(length) << start);
        }
        Ok(())
    }

    fn run(&mut self, mut scalar: Option<Scalar>, bytes: &[u8], goes_on: bool) -> Result<(), Fault> {
        for byte in bytes {
            let next = match scalar {
                Some(scalar) => scalar.step(*byte),
                None => Scalar::begin(*byte),
            };
            scalar = Some(next.ok_or(Fault::Syntax)?);
        }
        if goes_on {
            self.scalar = scalar;
            return Ok(());
        }
        if scalar.is_none_or(Scalar::is_whole) { Ok(()) } else { Err(Fault::Syntax) }
    }
}

/// The tokens of a block, one bit for each byte.
struct Tokens {
    opening: u64,
    closing: u64,
    /// String contents with the opening quote, without the closing one.
    inside: u64,
    open: u64,
    close: u64,
    colon: u64,
    comma: u64,
    white: u64,
    outside: u64,
    /// Bytes that lie directly in an object.
    objects: u64,
}

fn check_white(block: &[u8; BLOCK], mut control: u64) -> Result<(), Fault> {
    while control != 0 {
        let byte = block[control.trailing_zeros() as usize];
        control &= control - 1;
        if !matches!(byte, b'\n' | b'\r' | b'\t') {
            return Err(Fault::Syntax);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whether the bytes after an opening bracket close it and nothing more follows.
    fn accepts(text: &[u8], size: usize) -> bool {
        let mut skip = Skip::new(text[0] == b'{', 0).unwrap();
        let mut chunks = text[1..].chunks(size);
        while let Some(chunk) = chunks.next() {
            match skip.skip(chunk, 0) {
                Ok(Some(end)) => return end == chunk.len() && chunks.next().is_none(),
                Ok(None) => {}
                Err(_) => return false,
            }
        }
        false
    }

    fn serde_accepts(text: &[u8]) -> bool {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    fn soup() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"a\"",
            "\"\"",
            "\"\\\\\"",
            "\"\\\"\"",
            "\"\\u12aB\"",
            "\"",
            "\\",
            "1",
            "-0.5e+3",
            "01",
            "true",
            "nul",
            "null",
            " ",
            "\n",
            "      ",
            "\"k\":",
            ",\"k\":1",
            "[]",
            "{}",
            "\"................................................................\"",
            "\u{1}",
            "\"é\"",
        ]);
        let tree = prop::sample::select(vec!["{}", "[]", "1", "\"x\"", "null"]).prop_map(String::from);
        let tree = tree.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::vec(inner, 0..4).prop_map(|v| {
                    let members: Vec<String> = v.iter().map(|m| format!("\"k\":{m}")).collect();
                    format!("{{{}}}", members.join(" , "))
                }),
            ]
        });
        let hurt = (tree.clone(), any::<prop::sample::Index>(), token.clone(), 0usize..3).prop_map(
            |(t, at, token, cut)| {
                let at = at.index(t.len() + 1);
                let end = (at + cut).min(t.len());
                format!("{}{token}{}", &t[..at], &t[end..])
            },
        );
        prop_oneof![prop::collection::vec(token, 0..12).prop_map(|v| v.concat()), tree, hurt]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn h4_what_is_passed_over_is_json(soup in soup(), array in any::<bool>(), size in 1usize..140) {
            let text = if array { format!("[{soup}]") } else { format!("{{\"k\":{soup}}}") };
            let want = serde_accepts(text.as_bytes());
            for size in [1, 2, 5, 63, 64, 65, size, usize::MAX] {
                prop_assert_eq!(accepts(text.as_bytes(), size), want, "{:?} cut every {}", text, size);
            }
        }
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

    #[test]
    fn depth_is_bounded_in_one_block_and_in_many() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(nested(MAX_DEPTH).as_bytes(), 64));
        assert!(!accepts(nested(MAX_DEPTH + 1).as_bytes(), 64));
        assert_eq!(Skip::new(true, MAX_DEPTH).err(), Some(Fault::Depth));
    }
}
