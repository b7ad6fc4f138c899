//! Whole subtrees passed over 64 bytes at a time, by arithmetic on masks, with every rule of JSON checked on the way.

use crate::scan::{BLOCK, Classes, Fault, InText, MAX_DEPTH, block_of, classes, low};
use crate::token::Scalar;
use fearless_simd::{Level, Simd, dispatch};

/// Each bit becomes the parity of itself and all below.
#[inline(always)]
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
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
            | t.colon & !after_key
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
    fn h4_each_rule_of_the_grammar_is_checked() {
        let bad = [
            "[,1]",
            "[1,,1]",
            "[1,]",
            "[1 1]",
            "[1\"a\"]",
            "[\"a\"1]",
            "[\"a\"\"b\"]",
            "[[]1]",
            "[1[]]",
            "[{}{}]",
            "[:1]",
            "[1:1]",
            "[\"a\":1]",
            "[}",
            "{]",
            "[{]",
            "[[}]",
            "{\"a\":[}}",
            "[{\"a\":1]]",
            "{,}",
            "{\"a\"}",
            "{\"a\",}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1,,\"b\":1}",
            "{\"a\"::1}",
            "{\"a\":1:1}",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":1}",
            "{1:1}",
            "{[]:1}",
            "{\"a\":\"b\":1}",
            "{\"a\":1,\"b\"}",
            "{\"a\":1,2}",
            "{:1}",
            "{\"a\":[1}",
            "[1]]",
            "[tru]",
            "[truex]",
            "[01]",
            "[-]",
            "[1.]",
            "[\\]",
            "[\u{1}]",
            "[\"\u{1}\"]",
            "[\"\\q\"]",
            "[é]",
            "[\u{b}1]",
            "[1\u{0}]",
        ];
        let good = [
            "[]",
            "{}",
            "[ 1 , \"a\" ]",
            "{ \"a\" : { } , \"b\" : [ ] }",
            "[[],[]]",
            "[{},{}]",
            "{\"\":\"\"}",
            "[\"\",\"\"]",
            "[{\"a\":[{\"b\":null}]}]",
            "{\"a\":\"b\",\"c\":\"d\"}",
            "[\"é\"]",
            "[\"a\\\"]\",true]",
        ];
        for (texts, want) in [(&bad[..], false), (&good[..], true)] {
            for text in texts {
                assert_eq!(serde_accepts(text.as_bytes()), want, "{text}");
                for white in [0, 1, 30, 60, 61, 62, 63, 64, 130] {
                    // White space moves the rest against the blocks; a string does so without white space.
                    let (open, rest) = text.split_at(1);
                    let moved = format!("{open}{}{rest}", " ".repeat(white));
                    let inner = format!("[\"{}\",{text}]", "x".repeat(white));
                    for size in [1, 2, 64, 1000] {
                        assert_eq!(accepts(moved.as_bytes(), size), want, "{moved} cut every {size}");
                        assert_eq!(accepts(inner.as_bytes(), size), want, "{inner} cut every {size}");
                    }
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
