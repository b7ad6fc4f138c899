//! The writer of one chain, without I/O: events go in, bytes to make durable come out.
//!
//! *Expected flow*: [`Journal::append`] for each event, the returned bytes to the spool; [`Journal::seal`] when the
//! segment is large or old enough, its bytes to the store; [`Journal::finish`] once. After a crash,
//! [`Journal::recover`] takes up the bytes that the spool still has.
//!
//! *Guarantees*: the bytes returned by `append` and `seal`, one after another, are the segments that `seal` returns.
//! A segment begins with its first event, so none is empty.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::event::{Event, SessionEnd};
use crate::hash::Hash;
use crate::segment::{
    ChainId, FORMAT_VERSION, Header, Reader, SEAL, Seal, SegmentError, Stamp, write_frame, write_header,
};

/// An event could not be written; the journal is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The event is longer than a frame may be.
    #[error("the event is longer than a frame may be")]
    TooLong,
    /// The event has no JSON.
    #[error("the event has no json: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A finished segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, from 1.
    pub number: u32,
    /// The whole object.
    pub bytes: Bytes,
    /// Hash of the seal.
    pub root: Hash,
    /// The chain ends with it.
    pub is_final: bool,
}

/// What [`Journal::seal`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The bytes that the spool does not have yet.
    pub tail: Bytes,
    /// The object for the store.
    pub segment: Segment,
}

/// What a crash left of a segment.
#[derive(Debug)]
pub enum Recovered {
    /// It has no seal: the journal goes on after the last whole frame. What follows that frame, if anything.
    Open(Journal, Option<SegmentError>),
    /// It is whole.
    Sealed {
        /// Bytes up to the end of its seal.
        length: usize,
        /// Where the chain goes on; `None` after a final seal.
        next: Option<Position>,
    },
}

/// Where a chain stands between two segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Position {
    /// Number of the next segment.
    pub segment: u32,
    /// Root of the segment before it.
    pub previous: Hash,
    /// Sequence number of the next frame.
    pub sequence: u64,
}

/// The writer of one chain.
#[derive(Debug)]
pub struct Journal {
    chain: ChainId,
    segment: u32,
    previous: Hash,
    sequence: u64,
    hash: Hash,
    frames: u32,
    buffer: Vec<u8>,
}

impl Journal {
    /// A chain that has no segment yet.
    pub fn new(chain: ChainId) -> Journal {
        Journal::at(chain, Position { segment: 1, previous: Hash::ZERO, sequence: 0 })
    }

    /// A chain that goes on after its last sealed segment.
    pub fn at(chain: ChainId, Position { segment, previous, sequence }: Position) -> Journal {
        Journal { chain, segment, previous, sequence, hash: Hash::ZERO, frames: 0, buffer: Vec::new() }
    }

    /// Where the chain stands; `None` inside a segment.
    pub fn position(&self) -> Option<Position> {
        let (segment, previous, sequence) = (self.segment, self.previous, self.sequence);
        (self.frames == 0).then_some(Position { segment, previous, sequence })
    }

    /// Takes up a segment where its readable part ends, as a crash leaves it.
    ///
    /// # Errors
    /// The header is not readable.
    pub fn recover(bytes: &[u8]) -> Result<Recovered, SegmentError> {
        let mut reader = Reader::open(bytes)?;
        let Header { chain, segment, previous, first: sequence, .. } = reader.header().clone();
        let mut journal = Journal::at(chain, Position { segment, previous, sequence });
        journal.hash = reader.hash();
        let mut fault = None;
        while !reader.is_at_end() {
            match reader.frame() {
                Ok(frame) if frame.code == SEAL => {
                    let is_final =
                        serde_json::from_slice(frame.payload).is_ok_and(|seal: Seal| seal.is_final);
                    let next =
                        Position { segment: segment + 1, previous: frame.hash, sequence: frame.sequence + 1 };
                    return Ok(Recovered::Sealed {
                        length: reader.offset(),
                        next: (!is_final).then_some(next),
                    });
                }
                Ok(frame) => {
                    journal.sequence = frame.sequence + 1;
                    journal.frames += 1;
                    journal.hash = frame.hash;
                }
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        journal.buffer.extend_from_slice(&bytes[..reader.offset()]);
        Ok(Recovered::Open(journal, fault))
    }

    /// The chain.
    pub fn chain(&self) -> &ChainId {
        &self.chain
    }

    /// Number of the segment that is being written or would be next.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Frames that no seal covers yet.
    pub fn open_frames(&self) -> u32 {
        self.frames
    }

    /// Length of the segment so far, in bytes.
    pub fn open_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Writes one event and returns the bytes to make durable: a frame, before it the header if it begins a segment.
    ///
    /// # Errors
    /// The event is too long; nothing was written.
    pub fn append(&mut self, event: &Event, at: Stamp) -> Result<&[u8], JournalError> {
        let start = self.buffer.len();
        let previous = if start == 0 { self.begin()? } else { self.hash };
        let head = (event.code(), self.sequence, at);
        let written = write_frame(&mut self.buffer, head, previous, |out| event.encode_into(out));
        match written {
            Ok(Some(hash)) => {
                self.hash = hash;
                self.sequence += 1;
                self.frames += 1;
                Ok(&self.buffer[start..])
            }
            Ok(None) => {
                self.buffer.truncate(start);
                Err(JournalError::TooLong)
            }
            Err(error) => {
                self.buffer.truncate(start);
                Err(error.into())
            }
        }
    }

    /// Closes the segment; `None` if it has no event.
    ///
    /// # Errors
    /// Only what `serde_json` reports, which a seal does not provoke.
    pub fn seal(&mut self, at: Stamp) -> Result<Option<Sealed>, JournalError> {
        if self.frames == 0 {
            return Ok(None);
        }
        self.close(false, at).map(Some)
    }

    /// Writes the chain's last event and its final seal.
    ///
    /// # Errors
    /// Only what `serde_json` reports, which these types do not provoke.
    pub fn finish(mut self, end: SessionEnd, at: Stamp) -> Result<(Bytes, Segment), JournalError> {
        let start = self.buffer.len();
        self.append(&Event::SessionEnd(end), at)?;
        let segment = self.close(true, at)?.segment;
        Ok((segment.bytes.slice(start..), segment))
    }

    fn begin(&mut self) -> Result<Hash, JournalError> {
        let header = Header {
            version: FORMAT_VERSION,
            chain: self.chain.clone(),
            segment: self.segment,
            previous: self.previous,
            first: self.sequence,
        };
        Ok(write_header(&header, &mut self.buffer)?)
    }

    fn close(&mut self, is_final: bool, at: Stamp) -> Result<Sealed, JournalError> {
        let start = self.buffer.len();
        let seal = Seal { frames: self.frames, is_final };
        let head = (SEAL, self.sequence, at);
        let root = write_frame(&mut self.buffer, head, self.hash, |out| serde_json::to_writer(out, &seal))?
            .ok_or(JournalError::TooLong)?;
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        let segment = Segment { number: self.segment, bytes: bytes.clone(), root, is_final };
        self.segment += 1;
        self.previous = root;
        self.sequence += 1;
        self.frames = 0;
        Ok(Sealed { tail: bytes.slice(start..), segment })
    }
}
