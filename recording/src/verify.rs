//! Reading a chain back: every byte is accounted for, and what is not whole is named.
//!
//! *Guarantees*: without any outside knowledge, a changed, missing, added or exchanged byte or segment inside a chain
//! is found, except that the tail of a chain can be taken off at a segment's border: then the final seal is missing
//! and the chain shows as open. With the SessionRecord's checkpoints ([`Expected`]) that is found too, and so is a
//! chain rewritten from the start or removed whole.

use std::collections::BTreeMap;
use std::fmt;

use crate::event::{Act, Disposition, EndReason, Event};
use crate::hash::Hash;
use crate::segment::{ChainId, Defect, Frame, Reader, SEAL, Seal, SegmentError, Stamp};

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A segment's bytes do not hold.
    Segment(u32, SegmentError),
    /// Segments from the first to the second number are not there.
    Missing(u32, u32),
    /// The segment's header says that it belongs elsewhere: it was moved, copied or exchanged.
    Misplaced(u32),
    /// The segment does not continue the one before it.
    Unlinked(u32),
    /// A segment follows the final seal.
    AfterFinal(u32),
    /// A frame's sequence number is not the next.
    Sequence(u32, u64),
    /// A frame is proven but its payload is not what its type says.
    Payload(u32, u64),
    /// The SessionRecord knows of more segments than there are: known, found.
    CutOff(u32, u32),
    /// The SessionRecord has another root for this segment.
    OtherRoot(u32),
    /// The SessionRecord says that the chain was closed, with fewer segments than there are: known, found.
    Surplus(u32, u32),
    /// The SessionRecord knows this chain and the store does not.
    NoChain,
    /// The session has ended and its SessionRecord does not know this chain.
    Unlisted,
    /// An object that is no segment.
    Stray(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Segment(n, error) => write!(f, "segment {n}: {error}"),
            Problem::Missing(from, to) if from == to => write!(f, "segment {from} is missing"),
            Problem::Missing(from, to) => write!(f, "segments {from} to {to} are missing"),
            Problem::Misplaced(n) => write!(f, "segment {n} is not the segment that belongs there"),
            Problem::Unlinked(n) => write!(f, "segment {n} does not continue the segment before it"),
            Problem::AfterFinal(n) => write!(f, "segment {n} follows the final seal"),
            Problem::Sequence(n, found) => write!(f, "segment {n}: frame {found} is out of order"),
            Problem::Payload(n, found) => write!(f, "segment {n}: frame {found} has an unreadable payload"),
            Problem::CutOff(known, found) => {
                write!(f, "cut off: the session record knows {known} segments, the store has {found}")
            }
            Problem::OtherRoot(n) => write!(f, "segment {n} has another root than the session record"),
            Problem::Surplus(known, found) => {
                write!(f, "the session record closed the chain with {known} segments, the store has {found}")
            }
            Problem::NoChain => f.write_str("the session record knows this chain, the store does not"),
            Problem::Unlisted => f.write_str("the session has ended and its record does not know this chain"),
            Problem::Stray(name) => write!(f, "`{}` is not a segment", crate::plain::Plain(name)),
        }
    }
}

/// A request that was going to be forwarded and has no outcome, or one that says that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRequest {
    /// Request id.
    pub request_id: String,
    /// What it would have done.
    pub act: Act,
    /// When the intent was written.
    pub at: Stamp,
}

/// What a chain holds and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// The replica that wrote it.
    pub replica: String,
    /// Root of each segment, in order; `None` where the segment does not hold.
    pub roots: Vec<Option<Hash>>,
    /// Frames that hold, seals included.
    pub frames: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Intents and refusals.
    pub requests: u64,
    /// Intents whose end is unknown, in order.
    pub unknown: Vec<UnknownRequest>,
    /// The final seal is there.
    pub closed: bool,
    /// Why the chain ended, if it says so.
    pub end: Option<EndReason>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl ChainReport {
    /// Root of the last segment, if it holds.
    pub fn root(&self) -> Option<Hash> {
        self.roots.last().copied().flatten()
    }
}

/// What the SessionRecord knows of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The replica.
    pub replica: String,
    /// Segments it had when the status was written.
    pub segments: u32,
    /// Root of the last of them.
    pub root: Option<Hash>,
    /// The chain was closed then.
    pub closed: bool,
}

/// What the SessionRecord knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The session has ended, so nothing may be missing.
    pub ended: bool,
    /// Its chains.
    pub chains: Vec<Checkpoint>,
}

/// What can be said of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every chain is whole and closed.
    Intact,
    /// Whole as far as the SessionRecord knows; the session still runs.
    Running,
    /// Nothing is wrong with what is there, but a chain has no final seal: it runs, its proxy died, or its tail was taken
    /// off.
    Open,
    /// Something is wrong.
    Broken,
}

/// Everything that is known of a session's recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its chains, by replica.
    pub chains: Vec<ChainReport>,
    ended: Option<bool>,
    vouched: u64,
}

impl Report {
    /// From the chains that the store has.
    pub fn new(mut chains: Vec<ChainReport>) -> Report {
        chains.sort_by(|a, b| a.replica.cmp(&b.replica));
        Report { chains, ended: None, vouched: 0 }
    }

    /// Holds the chains against what the SessionRecord knows; adds to their problems.
    pub fn expect(&mut self, expected: &Expected) {
        self.ended = Some(expected.ended);
        self.vouched = expected.chains.iter().map(|checkpoint| u64::from(checkpoint.segments)).sum();
        for checkpoint in &expected.chains {
            match self.chains.iter_mut().find(|chain| chain.replica == checkpoint.replica) {
                Some(chain) => hold_against(chain, checkpoint),
                None if checkpoint.segments > 0 => {
                    let mut chain = ChainVerifier::new(ChainId {
                        namespace: String::new(),
                        session: String::new(),
                        replica: checkpoint.replica.clone(),
                    })
                    .finish();
                    chain.problems = vec![Problem::NoChain];
                    self.chains.push(chain);
                }
                None => {}
            }
        }
        for chain in self.chains.iter_mut().filter(|_| expected.ended) {
            if !expected.chains.iter().any(|checkpoint| checkpoint.replica == chain.replica) {
                chain.problems.push(Problem::Unlisted);
            }
        }
    }

    /// The sum of it.
    pub fn verdict(&self) -> Verdict {
        if self.chains.is_empty() || self.chains.iter().any(|chain| !chain.problems.is_empty()) {
            return Verdict::Broken;
        }
        match (self.chains.iter().all(|chain| chain.closed), self.ended) {
            (_, Some(false)) => Verdict::Running,
            (true, Some(true) | None) => Verdict::Intact,
            (false, Some(true) | None) => Verdict::Open,
        }
    }

    /// Segments that the SessionRecord knows of. While a session runs, its status may be a minute behind.
    pub fn vouched(&self) -> u64 {
        self.vouched
    }

    /// Segments of all chains.
    pub fn segments(&self) -> usize {
        self.chains.iter().map(|chain| chain.roots.len()).sum()
    }

    /// One root for all chains, by [`session_root`]; `None` if a chain has none.
    pub fn root(&self) -> Option<Hash> {
        let roots: Option<Vec<(&str, Hash)>> =
            self.chains.iter().map(|chain| Some((chain.replica.as_str(), chain.root()?))).collect();
        session_root(roots?)
    }
}

/// The root of a session: that of its only chain, or the hash over `replica` NUL `root` of all of them, by replica.
/// `None` without chains.
pub fn session_root<'a>(chains: impl IntoIterator<Item = (&'a str, Hash)>) -> Option<Hash> {
    let chains: BTreeMap<&str, Hash> = chains.into_iter().collect();
    if chains.len() < 2 {
        return chains.into_values().next();
    }
    let mut text = Vec::new();
    for (replica, root) in chains {
        text.extend_from_slice(replica.as_bytes());
        text.push(0);
        text.extend_from_slice(root.as_bytes());
    }
    Some(Hash::of(&text))
}

fn hold_against(chain: &mut ChainReport, checkpoint: &Checkpoint) {
    let found = u32::try_from(chain.roots.len()).unwrap_or(u32::MAX);
    let known = checkpoint.segments;
    if found < known || (checkpoint.closed && !chain.closed && found == known) {
        chain.problems.push(Problem::CutOff(known, found));
    } else if checkpoint.closed && found > known {
        chain.problems.push(Problem::Surplus(known, found));
    }
    let Some(index) = known.checked_sub(1).map(|index| index as usize) else { return };
    // A segment that does not hold has its own problem already.
    if let (Some(Some(found)), Some(known_root)) = (chain.roots.get(index), checkpoint.root)
        && *found != known_root
    {
        chain.problems.push(Problem::OtherRoot(known));
    }
}

/// Goes through the segments of one chain, in order of their numbers.
#[derive(Debug)]
pub struct ChainVerifier {
    id: ChainId,
    next: u32,
    /// Root and next sequence number of the segment before; `None` after one that does not hold.
    link: Option<(Hash, u64)>,
    waiting: BTreeMap<String, (Act, Stamp)>,
    order: Vec<String>,
    report: ChainReport,
}

impl ChainVerifier {
    /// Before the first segment.
    pub fn new(id: ChainId) -> ChainVerifier {
        let report = ChainReport {
            replica: id.replica.clone(),
            roots: Vec::new(),
            frames: 0,
            bytes: 0,
            requests: 0,
            unknown: Vec::new(),
            closed: false,
            end: None,
            problems: Vec::new(),
        };
        let link = Some((Hash::ZERO, 0));
        ChainVerifier { id, next: 1, link, waiting: BTreeMap::new(), order: Vec::new(), report }
    }

    /// Names an object in the chain's place that is no segment.
    pub fn stray(&mut self, name: &str) {
        self.report.problems.push(Problem::Stray(name.to_owned()));
    }

    /// Reads the segment that lies under `number`. Calls `visit` for every event that is proven, also in a segment that
    /// turns out broken further on.
    pub fn segment(&mut self, number: u32, bytes: &[u8], visit: &mut dyn FnMut(Stamp, Event)) {
        if self.report.closed {
            self.report.problems.push(Problem::AfterFinal(number));
        }
        if number > self.next {
            self.report.problems.push(Problem::Missing(self.next, number - 1));
            self.link = None;
        }
        self.report.bytes += bytes.len() as u64;
        let root = match self.read(number, bytes, visit) {
            Ok(root) => root,
            Err(problem) => {
                self.report.problems.push(problem);
                self.link = None;
                None
            }
        };
        self.report.roots.push(root);
        self.next = number.saturating_add(1);
    }

    /// After the last segment.
    pub fn finish(mut self) -> ChainReport {
        for request_id in self.order {
            if let Some((act, at)) = self.waiting.remove(&request_id) {
                self.report.unknown.push(UnknownRequest { request_id, act, at });
            }
        }
        self.report
    }

    fn read(
        &mut self,
        number: u32,
        bytes: &[u8],
        visit: &mut dyn FnMut(Stamp, Event),
    ) -> Result<Option<Hash>, Problem> {
        let broken = |error| Problem::Segment(number, error);
        let mut reader = Reader::open(bytes).map_err(broken)?;
        let header = reader.header().clone();
        if header.chain != self.id || header.segment != number {
            return Err(Problem::Misplaced(number));
        }
        if self.link.is_some_and(|link| link != (header.previous, header.first)) {
            return Err(Problem::Unlinked(number));
        }
        let mut sequence = header.first;
        loop {
            let offset = reader.offset();
            let frame = reader.frame().map_err(broken)?;
            if frame.sequence != sequence {
                return Err(Problem::Sequence(number, frame.sequence));
            }
            sequence += 1;
            self.report.frames += 1;
            if frame.code != SEAL {
                self.take(number, &frame, visit)?;
                continue;
            }
            let defect = |defect| broken(SegmentError { defect, offset });
            let seal: Seal = serde_json::from_slice(frame.payload).map_err(|_| defect(Defect::Seal))?;
            if u64::from(seal.frames) != sequence - 1 - header.first {
                return Err(defect(Defect::Seal));
            }
            if !reader.is_at_end() {
                return Err(broken(SegmentError { defect: Defect::Trailing, offset: reader.offset() }));
            }
            self.report.closed = seal.is_final;
            self.link = Some((frame.hash, sequence));
            return Ok(Some(frame.hash));
        }
    }

    fn take(
        &mut self,
        number: u32,
        frame: &Frame<'_>,
        visit: &mut dyn FnMut(Stamp, Event),
    ) -> Result<(), Problem> {
        let unreadable = |_| Problem::Payload(number, frame.sequence);
        let Some(event) = Event::decode(frame.code, frame.payload).map_err(unreadable)? else {
            return Ok(());
        };
        match &event {
            Event::Intent(intent) => {
                self.report.requests += 1;
                self.order.push(intent.request_id.clone());
                self.waiting.insert(intent.request_id.clone(), (intent.act.clone(), frame.at));
            }
            Event::Outcome(outcome) => {
                if outcome.disposition != Disposition::Unknown {
                    self.waiting.remove(&outcome.request_id);
                }
            }
            Event::Refusal(_) => self.report.requests += 1,
            Event::SessionEnd(end) => self.report.end = Some(end.reason),
            Event::SessionStart(_) | Event::Review(_) | Event::Grant(_) | Event::Gap(_) => {}
        }
        visit(frame.at, event);
        Ok(())
    }
}
