//! The name of one request: the same text in the answer, the record and the API server's audit log.
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A ULID: 48 bits of milliseconds and 80 random bits, written as 26 characters of Crockford's base 32.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(String);

impl RequestId {
    /// A new id. Where the system's random source fails it still is unique in time, never empty.
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut random = [0u8; 16];
        if SystemRandom::new().fill(&mut random).is_err() {
            random[..4].copy_from_slice(&since.subsec_nanos().to_be_bytes());
        }
        let bits = (since.as_millis() << 80) | (u128::from_be_bytes(random) >> 48);
        Self::encode(bits)
    }

    fn encode(bits: u128) -> Self {
        let digit = |i: u32| char::from(CROCKFORD[((bits >> (5 * i)) & 31) as usize]);
        Self((0..26).rev().map(digit).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let ids: std::collections::HashSet<_> = (0..10_000).map(|_| RequestId::new()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert_eq!(id.as_str().len(), 26);
            assert!(id.as_str().bytes().all(|b| CROCKFORD.contains(&b)));
        }
    }

    #[test]
    fn the_encoding_is_the_known_one() {
        assert_eq!(RequestId::encode(0).as_str(), "00000000000000000000000000");
        assert_eq!(RequestId::encode(u128::MAX).as_str(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
    }
}
