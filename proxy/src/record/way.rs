//! The way of a segment to the store: so many at once, again and again until the store takes it.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use recording::segment::ChainId;
use recording::store::{PutError, put_segment};
use tokio::sync::Semaphore;

use crate::telemetry::Telemetry;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// The way to the store.
#[derive(Clone)]
pub struct Way {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// So many uploads at once.
    pub permits: Arc<Semaphore>,
    /// Counts failures.
    pub telemetry: Telemetry,
}

impl Way {
    /// Puts a segment into the store, however long that takes.
    ///
    /// # Errors
    /// Something else lies in its place.
    pub async fn bring(&self, chain: &ChainId, number: u32, bytes: &Bytes) -> Result<(), PutError> {
        let mut pause = FIRST_RETRY;
        loop {
            let put = {
                let Ok(_permit) = self.permits.acquire().await else { return Ok(()) };
                put_segment(&*self.store, chain, number, bytes.clone()).await
            };
            match put {
                Ok(()) => return Ok(()),
                Err(conflict @ PutError::Conflict(_)) => {
                    self.telemetry.recording_failure();
                    return Err(conflict);
                }
                Err(PutError::Store(error)) => {
                    self.telemetry.recording_failure();
                    tracing::warn!(%error, session = chain.session, "the store does not take a segment; trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }
}
