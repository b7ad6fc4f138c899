//! The way of a segment to the store: once that is proven, so many at once, again and again until the store takes it.
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStore;
use recording::segment::ChainId;
use recording::store::{PutError, put_segment};
use tokio::sync::{Semaphore, watch};

use super::Unavailable;
use crate::telemetry::Telemetry;

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Between two attempts to prove a store.
const PROVE_AGAIN: Duration = Duration::from_secs(2);
/// A segment that waits longer than this is trouble to be told; one that fails once is not.
const TROUBLE_AFTER: Duration = Duration::from_secs(4);

/// The way to the store.
#[derive(Clone)]
pub struct Way {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    permits: Arc<Semaphore>,
    telemetry: Telemetry,
    proof: watch::Sender<Proof>,
}

/// Whether the store may be trusted with recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Proof {
    /// It was not asked yet.
    Open,
    /// It keeps what it is given.
    Given,
    /// It does not, or cannot be asked, and why.
    Refused(String),
}

impl Way {
    /// The way to a store that is not proven yet: `at_once` uploads at a time.
    pub fn new(store: Arc<dyn ObjectStore>, at_once: usize, telemetry: Telemetry) -> Way {
        Way {
            store,
            permits: Arc::new(Semaphore::new(at_once)),
            telemetry,
            proof: watch::Sender::new(Proof::Open),
        }
    }

    /// Proves the store, however often that must be tried.
    pub async fn prove(&self) {
        while let Err(error) = storage::prove(&*self.store).await {
            let why = error.to_string();
            self.telemetry.store_unproven(error.as_str());
            if *self.proof.borrow() != Proof::Refused(why.clone()) {
                tracing::error!(
                    reason = error.as_str(),
                    error = why,
                    "the store cannot keep recordings; trying again"
                );
            }
            self.proof.send_replace(Proof::Refused(why));
            tokio::time::sleep(PROVE_AGAIN).await;
        }
        tracing::info!("the store is proven: it takes an object once and never again");
        self.telemetry.store_proven();
        self.proof.send_replace(Proof::Given);
    }

    /// Why the store is not proven, if it is not.
    pub fn unproven(&self) -> Option<String> {
        match &*self.proof.borrow() {
            Proof::Given => None,
            Proof::Open => Some("the store was not tried yet".to_owned()),
            Proof::Refused(why) => Some(why.clone()),
        }
    }

    /// Waits for the proof.
    ///
    /// # Errors
    /// The store has failed it, or it takes longer than `patience`.
    pub async fn proven(&self, patience: Duration) -> Result<(), Unavailable> {
        let mut proof = self.proof.subscribe();
        let known = proof.wait_for(|proof| *proof != Proof::Open);
        let _known_or_late = tokio::time::timeout(patience, known).await;
        self.unproven().map_or(Ok(()), |why| Err(Unavailable::Unproven(why)))
    }

    /// Counts a segment that has no place in the store.
    pub fn set_aside(&self) {
        self.telemetry.set_aside();
    }

    /// Puts a segment into the store, however long that takes. `trouble` is told what fails while it takes long.
    ///
    /// # Errors
    /// Something else lies in its place.
    pub async fn bring(
        &self,
        chain: &ChainId,
        number: u32,
        bytes: &Bytes,
        trouble: impl Fn(String),
    ) -> Result<(), PutError> {
        let mut pause = FIRST_RETRY;
        let since = Instant::now();
        let mut proof = self.proof.subscribe();
        let _never_closed = proof.wait_for(|proof| *proof == Proof::Given).await.is_ok();
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
                    if since.elapsed() >= TROUBLE_AFTER {
                        trouble(error.to_string());
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    }
}
