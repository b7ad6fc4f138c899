//! Numbers and words outside strings, byte by byte.

/// How far a number, `true`, `false` or `null` has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// After `-`.
    Minus,
    /// After a leading `0`.
    Zero,
    /// In the integer part.
    Int,
    /// After `.`.
    Point,
    /// In the fraction.
    Fraction,
    /// After `e`.
    Exponent,
    /// After the exponent's sign.
    ExponentSign,
    /// In the exponent.
    ExponentDigits,
    /// These bytes of a word are still to come.
    Word(&'static [u8]),
}

impl Scalar {
    /// The first byte.
    pub fn begin(byte: u8) -> Option<Scalar> {
        match byte {
            b'-' => Some(Scalar::Minus),
            b'0' => Some(Scalar::Zero),
            b'1'..=b'9' => Some(Scalar::Int),
            b't' => Some(Scalar::Word(b"rue")),
            b'f' => Some(Scalar::Word(b"alse")),
            b'n' => Some(Scalar::Word(b"ull")),
            _ => None,
        }
    }

    /// Each further byte. None: it does not belong to this scalar.
    pub fn step(self, byte: u8) -> Option<Scalar> {
        use Scalar::*;
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus, b'1'..=b'9') | (Int, b'0'..=b'9') => Some(Int),
            (Zero | Int, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            (Zero | Int | Fraction, b'e' | b'E') => Some(Exponent),
            (Exponent, b'+' | b'-') => Some(ExponentSign),
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => Some(ExponentDigits),
            (Word([next, rest @ ..]), byte) if *next == byte => Some(Word(rest)),
            _ => None,
        }
    }

    /// Whether it may end here.
    pub fn is_whole(self) -> bool {
        match self {
            Scalar::Zero | Scalar::Int | Scalar::Fraction | Scalar::ExponentDigits => true,
            Scalar::Word(rest) => rest.is_empty(),
            Scalar::Minus | Scalar::Point | Scalar::Exponent | Scalar::ExponentSign => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> bool {
        let mut bytes = text.bytes();
        let first = bytes.next().and_then(Scalar::begin);
        bytes.try_fold(first, |s, b| s.map(|s| s.step(b))).flatten().is_some_and(Scalar::is_whole)
    }

    #[test]
    fn agrees_with_serde_on_what_a_scalar_is() {
        let alphabet = ["-", "0", "1", "9", ".", "e", "E", "+", "true", "tru", "null", "false", "x", "n"];
        for a in alphabet {
            for b in alphabet {
                for c in alphabet {
                    for d in ["", "0", "e", "1"] {
                        let text = format!("{a}{b}{c}{d}");
                        let want = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
                        assert_eq!(whole(&text), want, "{text}");
                    }
                }
            }
        }
    }
}
