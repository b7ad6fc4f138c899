//! Evaluating an author's expressions about a stranger's words: a few at once, on threads of their own, within a deadline.
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

const AT_ONCE: usize = 4;
/// What is within the fences of [`policy::cel`] takes milliseconds; a thread that takes longer cannot be stopped, and keeps
/// its place until it ends.
const DEADLINE: Duration = Duration::from_secs(2);

/// There was no answer in time; whoever asked whether something is allowed reads that as no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the expressions were not evaluated in time")]
pub struct Overrun;

/// The places. Cloning shares them.
#[derive(Clone)]
pub struct Budget {
    places: Arc<Semaphore>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Budget {
    /// Does `work` on a thread that may block.
    ///
    /// # Errors
    /// If it has no answer, whether for want of a place, of time, or because it panicked.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Overrun>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let places = Arc::clone(&self.places);
        let done = async move {
            let place = places.acquire_owned().await.map_err(|_| Overrun)?;
            let held = move || {
                let answer = work();
                drop(place);
                answer
            };
            spawn_blocking(held).await.map_err(|_| Overrun)
        };
        timeout(DEADLINE, done).await.map_err(|_| Overrun)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_does_not_end_or_fails_is_no_answer() {
        let budget = Budget::default();
        assert_eq!(budget.run(|| 1).await, Ok(1));
        let (end, wait) = std::sync::mpsc::channel::<()>();
        assert_eq!(budget.run(move || wait.recv().is_ok()).await, Err(Overrun));
        assert_eq!(budget.places.available_permits(), AT_ONCE - 1, "the thread still runs");
        assert_eq!(budget.run(|| -> u8 { std::panic::resume_unwind(Box::new(())) }).await, Err(Overrun));
        assert_eq!(budget.run(|| 2).await, Ok(2), "the others have their places");
        drop(end);
    }
}
