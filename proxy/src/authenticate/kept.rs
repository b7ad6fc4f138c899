//! What was found out about a token, remembered for some seconds under the token's hash.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use tokio::time::Instant;

const KEEP: Duration = Duration::from_secs(10);
const KEEP_NO: Duration = Duration::from_secs(2);
const MOST: usize = 10_000;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// The hash under which a token is remembered.
pub fn hash(token: &str) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Findings by token, a bounded number of them. Cloning shares them.
pub struct Kept<T> {
    findings: Arc<Mutex<HashMap<TokenHash, (Instant, T)>>>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self { findings: Arc::clone(&self.findings) }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { findings: Arc::default() }
    }
}

impl<T: Clone> Kept<T> {
    /// What was found out about a token, if that is recent enough.
    pub fn get(&self, token: &TokenHash) -> Option<T> {
        let findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.get(token).filter(|(until, _)| *until > Instant::now()).map(|(_, finding)| finding.clone())
    }

    /// Remembers that a token is good: ten seconds at most, and never beyond its own end (F25).
    pub fn good(&self, token: TokenHash, expires: Option<Timestamp>, finding: T) {
        let life = expires.map_or(KEEP, |end| {
            let left = end.duration_since(Timestamp::now());
            KEEP.min(Duration::try_from(left).unwrap_or_default())
        });
        self.put(token, life, finding);
    }

    /// Remembers that a token is bad, for two seconds.
    pub fn bad(&self, token: TokenHash, finding: T) {
        self.put(token, KEEP_NO, finding);
    }

    fn put(&self, token: TokenHash, life: Duration, finding: T) {
        let now = Instant::now();
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        if findings.len() >= MOST {
            findings.retain(|_, (until, _)| *until > now);
        }
        if findings.len() < MOST {
            findings.insert(token, (now + life, finding));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn f25_a_finding_lasts_ten_seconds_and_never_beyond_the_token() {
        let kept = Kept::default();
        let [lasting, ending, bad, ended] = ["a", "b", "c", "d"].map(hash);
        kept.good(ended, Timestamp::from_second(Timestamp::now().as_second() - 5).ok(), 4);
        assert_eq!(kept.get(&ended), None);
        kept.good(lasting, None, 1);
        kept.good(ending, Timestamp::from_second(Timestamp::now().as_second() + 5).ok(), 2);
        kept.bad(bad, 3);
        let all = || [&lasting, &ending, &bad].map(|one| kept.get(one));
        assert_eq!(all(), [Some(1), Some(2), Some(3)]);
        tokio::time::advance(Duration::from_millis(2001)).await;
        assert_eq!(all(), [Some(1), Some(2), None]);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(all(), [Some(1), None, None]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(all(), [None; 3]);
        kept.good(lasting, Timestamp::from_second(Timestamp::now().as_second() + 3600).ok(), 5);
        tokio::time::advance(Duration::from_millis(10_001)).await;
        assert_eq!(kept.get(&lasting), None, "a token of an hour is asked about as often");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_bounded_number_is_kept() {
        let kept = Kept::default();
        for n in 0..=MOST {
            kept.good(hash(&n.to_string()), None, n);
        }
        assert_eq!(kept.findings.lock().expect("not poisoned").len(), MOST);
        tokio::time::advance(Duration::from_secs(11)).await;
        kept.good(hash("new"), None, 0);
        assert_eq!(kept.findings.lock().expect("not poisoned").len(), 1);
    }
}
