//! SHA-256 values and how they are written.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A SHA-256 value. Written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; Hash::LEN]);

/// The text is not `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hash: it must be `sha256:` and 64 lower-case hex digits")]
pub struct NotAHash(String);

impl Hash {
    /// Length in bytes.
    pub const LEN: usize = 32;
    /// What stands before the first segment of a chain.
    pub const ZERO: Hash = Hash([0; Hash::LEN]);

    /// The hash of one run of bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash::from_digest(digest(&SHA256, bytes).as_ref())
    }

    /// `sha256(previous || bytes)`: one link of a chain.
    pub fn link(previous: Hash, bytes: &[u8]) -> Hash {
        let mut context = Context::new(&SHA256);
        context.update(&previous.0);
        context.update(bytes);
        Hash::from_digest(context.finish().as_ref())
    }

    /// The hash of bytes that come piece by piece.
    pub fn of_stream() -> Hasher {
        Hasher(Context::new(&SHA256))
    }

    /// From exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Hash> {
        Some(Hash(bytes.try_into().ok()?))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; Hash::LEN] {
        &self.0
    }

    fn from_digest(bytes: &[u8]) -> Hash {
        let mut out = [0; Hash::LEN];
        out.copy_from_slice(bytes);
        Hash(out)
    }
}

/// A hash in the making.
pub struct Hasher(Context);

impl Hasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that came.
    pub fn finish(self) -> Hash {
        Hash::from_digest(self.0.finish().as_ref())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Hash, NotAHash> {
        let not_a_hash = || NotAHash(text.chars().take(80).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(not_a_hash)?.as_bytes();
        if digits.len() != Hash::LEN * 2 {
            return Err(not_a_hash());
        }
        let mut out = [0; Hash::LEN];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(h, l)| h << 4 | l).ok_or_else(not_a_hash)?;
        }
        Ok(Hash(out))
    }
}

impl serde::Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_text_and_only_its_text() {
        let hash = Hash::of(b"abc");
        assert_eq!(
            hash.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in ["", "sha256:", "sha256:00", &hash.to_string().to_uppercase(), &format!("{hash}0")] {
            assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
        }
    }
}
