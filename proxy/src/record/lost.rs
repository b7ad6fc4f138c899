//! What an earlier life left goes to the store, and its records are told that it was lost.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use recording::event::{EndReason, Event};
use recording::segment::ChainId;
use recording::store::{ReadError, read_session};
use recording::verify::ChainReport;

use super::Inner;
use super::card::{self, CardError};
use super::recover::{self, Left};
use super::status::{Entry, write_entry};
use super::tally::Tally;

const RETRY: Duration = Duration::from_secs(5);

impl Inner {
    /// Brings what an earlier life left to the store, `carried` bytes, chain by chain, and tells the records.
    pub async fn bring_left(self: Arc<Inner>, carried: u64) {
        let (left, aside) = (self.settings.spool.join("left"), self.settings.spool.join("aside"));
        let found = match recover::read_left(&left, &aside) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "what an earlier life left cannot be read");
                return;
            }
        };
        // What was no segment waits for nobody.
        let waiting: u64 = found.iter().map(|segment| segment.bytes.len() as u64).sum();
        self.spool.settle(carried.saturating_sub(waiting));
        let mut chains: HashMap<ChainId, Vec<Left>> = HashMap::new();
        for segment in found {
            chains.entry(segment.chain.clone()).or_default().push(segment);
        }
        // Each on its own: one that cannot go on must not hold up the others.
        for (chain, segments) in chains {
            self.tasks.spawn(Arc::clone(&self).bring_chain(chain, segments));
        }
    }

    async fn bring_chain(self: Arc<Inner>, chain: ChainId, segments: Vec<Left>) {
        let aside = self.settings.spool.join("aside");
        let mut kept = Vec::new();
        for Left { path, number, bytes, .. } in segments {
            let size = bytes.len() as u64;
            // What waits is on the disk and in the metrics; its record is written when it has arrived.
            match self.way.bring(&chain, number, &bytes, |_| {}).await {
                Ok(()) => kept.push((path, size)),
                Err(error) => {
                    tracing::error!(%error, session = chain.session, "a segment of an earlier life has no place");
                    self.way.set_aside();
                    self.spool.settle(size);
                    if let Err(error) = recover::set_aside(&path, &aside) {
                        tracing::error!(%error, "it cannot be set aside");
                    }
                }
            }
        }
        while let Err(error) = self.tell_lost(&chain).await {
            tracing::warn!(%error, session = chain.session, "the record of an earlier life cannot be written");
            tokio::time::sleep(RETRY).await;
        }
        for (path, size) in kept {
            self.spool.settle(size);
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, "a file of the spool cannot be removed");
            }
        }
    }

    /// Writes the last entry of a chain that another life closed.
    async fn tell_lost(&self, chain: &ChainId) -> Result<(), TellError> {
        let mut tally = Tally::default();
        let mut add = |replica: &str, at, event: Event| {
            if replica == chain.replica {
                tally.add(&event, at);
            }
        };
        let report = read_session(&*self.way.store, &chain.namespace, &chain.session, &mut add).await?;
        let Some(found) = report.chains.iter().find(|found| found.replica == chain.replica) else {
            return Ok(());
        };
        let entry =
            lost_entry(found, tally, card::uri(&self.settings.store_uri, &chain.namespace, &chain.session));
        let now = Timestamp::now();
        let change = |_: &_, status: &mut _| write_entry(status, &entry, Some(EndReason::ProxyLost), now);
        card::update(&*self.cards, &chain.namespace, &chain.session, change).await?;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("{0}")]
    Card(#[from] CardError),
    #[error("{0}")]
    Store(#[from] ReadError),
}

fn lost_entry(found: &ChainReport, tally: Tally, uri: String) -> Entry {
    Entry {
        replica: found.replica.clone(),
        tally,
        uri,
        segments: u32::try_from(found.roots.len()).unwrap_or(u32::MAX),
        root: found.root(),
        bytes: found.bytes,
        closed: found.closed,
        trouble: None,
    }
}
