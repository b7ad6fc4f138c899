//! How soon a watch that broke is tried again: soon, then each second. The kill switch hangs on it (F05).
use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(125);
/// The library's own goes up to 30 s; that long after a restart of the API server no suspend and no revoke would be seen.
const LONGEST: Duration = Duration::from_secs(1);

/// The pauses between two tries: each is twice the one before, up to a second.
#[derive(Clone, Copy, Debug)]
pub struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let next = (self.0 * 2).min(LONGEST);
        Some(std::mem::replace(&mut self.0, next))
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f05_a_broken_watch_is_never_left_for_long_and_never_given_up() {
        let pauses: Vec<_> = Patience::default().take(200).collect();
        assert_eq!(pauses.len(), 200);
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(1)), "{pauses:?}");
    }
}
