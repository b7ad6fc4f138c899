//! What an earlier life left in the spool becomes whole segments, waiting in a folder for the store.
//!
//! *Guarantees*: every chain that the log knows and that has no final seal gets one, after an event that says that its
//! proxy was lost. Done again after another crash, it makes the same files. The log is removed only when the files are
//! durable. What cannot be read is set aside, never removed, and stands in nobody's way.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use recording::event::{EndReason, SessionEnd};
use recording::hash::Hash;
use recording::journal::{Journal, Recovered};
use recording::segment::{ChainId, Reader, Stamp};

use super::spool::{BYTES, CLOSED, RECORD_HEAD, STANDING, Standing};

/// What waits for the store since an earlier life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Turns the log in `logs` into files in `left`. Returns what is in there now, by this life and earlier ones.
///
/// # Errors
/// The disk fails.
pub fn recover(logs: &Path, left: &Path, aside: &Path, now: Stamp) -> io::Result<Waiting> {
    std::fs::create_dir_all(left)?;
    let files = log_files(logs)?;
    let mut chains: BTreeMap<u32, Chain> = BTreeMap::new();
    let mut torn = Vec::new();
    for path in &files {
        if !read_log(&std::fs::read(path)?, &mut chains) {
            torn.push(path.clone());
        }
    }
    let last = files.last();
    for (number, chain) in chains {
        let lossy = chain.finish(now, |segment| write_left(left, &segment))?;
        if lossy {
            tracing::warn!(chain = number, "a chain in the spool could not be read to its end");
        }
    }
    File::open(left)?.sync_all()?;
    for path in files.iter() {
        // Only the last file may end in the middle of a record: that was never durable.
        if torn.contains(path) && Some(path) != last {
            set_aside(path, aside)?;
        } else {
            std::fs::remove_file(path)?;
        }
    }
    let mut waiting = Waiting::default();
    for entry in std::fs::read_dir(left)? {
        waiting.segments += 1;
        waiting.bytes += entry?.metadata()?.len();
    }
    Ok(waiting)
}

/// A segment that waits for the store.
#[derive(Clone, Debug)]
pub struct Left {
    /// Its file.
    pub path: PathBuf,
    /// The chain it belongs to.
    pub chain: ChainId,
    /// Its number.
    pub number: u32,
    /// The whole object.
    pub bytes: Bytes,
}

/// The segments in `left`, those of one chain in order. What is no segment is set aside.
///
/// # Errors
/// The disk fails.
pub fn read_left(left: &Path, aside: &Path) -> io::Result<Vec<Left>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(left)? {
        let path = entry?.path();
        let bytes = Bytes::from(std::fs::read(&path)?);
        match Reader::open(&bytes).map(|reader| reader.header().clone()) {
            Ok(header) => found.push(Left { path, chain: header.chain, number: header.segment, bytes }),
            Err(error) => {
                tracing::error!(%error, "a file that waits for the store is no segment");
                set_aside(&path, aside)?;
            }
        }
    }
    found.sort_by(|a, b| (&a.chain, a.number).cmp(&(&b.chain, b.number)));
    Ok(found)
}

/// Moves a file to where nothing reads it again.
///
/// # Errors
/// The disk fails.
pub fn set_aside(path: &Path, aside: &Path) -> io::Result<()> {
    std::fs::create_dir_all(aside)?;
    tracing::error!(file = %path.display(), "a file of the spool is set aside");
    let name = path.file_name().unwrap_or_default();
    std::fs::rename(path, aside.join(name))
}

/// A chain as the log tells it.
struct Chain {
    standing: Standing,
    segments: Vec<Vec<u8>>,
    open: Vec<u8>,
    closed: bool,
}

struct Whole {
    chain: ChainId,
    number: u32,
    bytes: Bytes,
}

impl Chain {
    fn stand(&mut self, standing: Standing) {
        // The same standing again is the copy at the beginning of a file.
        if standing.position.segment > self.standing.position.segment {
            self.segments.push(std::mem::take(&mut self.open));
            self.standing = standing;
        }
    }

    /// Gives every segment to `keep`, the last one closed. Says whether something was not readable.
    fn finish(mut self, now: Stamp, mut keep: impl FnMut(Whole) -> io::Result<()>) -> io::Result<bool> {
        let mut lossy = false;
        if self.closed {
            self.segments.push(std::mem::take(&mut self.open));
        }
        for bytes in std::mem::take(&mut self.segments) {
            // Without its head it is the rest of one that lay in the store already.
            let Ok(header) = Reader::open(&bytes).map(|reader| reader.header().clone()) else { continue };
            keep(Whole { chain: header.chain, number: header.segment, bytes: bytes.into() })?;
        }
        if self.closed {
            return Ok(lossy);
        }
        let Standing { chain, position } = self.standing;
        let journal = match Journal::recover(&self.open) {
            Ok(Recovered::Open(journal, fault)) => {
                lossy = fault.is_some();
                journal
            }
            // Its end was durable before the note of it.
            Ok(Recovered::Sealed { length, next }) => {
                self.open.truncate(length);
                keep(Whole { chain: chain.clone(), number: position.segment, bytes: self.open.into() })?;
                let Some(next) = next else { return Ok(false) };
                Journal::at(chain, next)
            }
            Err(_) => Journal::at(chain, position),
        };
        let (chain, number) = (journal.chain().clone(), journal.segment());
        let end = SessionEnd { reason: EndReason::ProxyLost };
        let (_, segment) = journal.finish(end, now).map_err(io::Error::other)?;
        keep(Whole { chain, number, bytes: segment.bytes })?;
        Ok(lossy)
    }
}

/// Reads one file of the log; `false` if it ends in the middle of a record.
fn read_log(mut bytes: &[u8], chains: &mut BTreeMap<u32, Chain>) -> bool {
    while !bytes.is_empty() {
        let Some(([a, b, c, d, kind, e, f, g, h], rest)) = bytes.split_first_chunk::<RECORD_HEAD>() else {
            return false;
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let number = u32::from_be_bytes([*e, *f, *g, *h]);
        let Some(payload) = rest.get(..length) else { return false };
        bytes = &rest[length..];
        match *kind {
            BYTES => {
                if let Some(chain) = chains.get_mut(&number) {
                    chain.open.extend_from_slice(payload);
                }
            }
            STANDING => {
                let Ok(standing) = serde_json::from_slice::<Standing>(payload) else { return false };
                match chains.get_mut(&number) {
                    Some(chain) => chain.stand(standing),
                    None => {
                        let chain = Chain { standing, segments: vec![], open: vec![], closed: false };
                        chains.insert(number, chain);
                    }
                }
            }
            CLOSED => {
                if let Some(chain) = chains.get_mut(&number) {
                    chain.closed = true;
                }
            }
            _ => return false,
        }
    }
    true
}

fn log_files(logs: &Path) -> io::Result<Vec<PathBuf>> {
    if !logs.exists() {
        return Ok(vec![]);
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(logs)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    Ok(files)
}

/// Keeps a segment that has no place in the store where nothing reads it again.
///
/// # Errors
/// The disk fails.
pub fn keep_aside(aside: &Path, chain: &ChainId, number: u32, bytes: &Bytes) -> io::Result<()> {
    std::fs::create_dir_all(aside)?;
    let whole = Whole { chain: chain.clone(), number, bytes: bytes.clone() };
    put_file(&aside.join("staging"), &aside.join(file_name(&whole)), &whole)?;
    tracing::error!(session = chain.session, segment = number, "a segment is set aside");
    File::open(aside)?.sync_all()
}

fn write_left(left: &Path, segment: &Whole) -> io::Result<()> {
    put_file(&left.with_extension("staging"), &left.join(file_name(segment)), segment)
}

fn file_name(segment: &Whole) -> String {
    let ChainId { namespace, session, replica } = &segment.chain;
    let place = Hash::of(format!("{namespace}/{session}/{replica}").as_bytes()).to_string();
    format!("{}-{:06}.seg", &place["sha256:".len()..][..16], segment.number)
}

/// Replaces the file whole, so that a crash leaves the one or the other.
fn put_file(staging: &Path, path: &Path, segment: &Whole) -> io::Result<()> {
    let mut file = File::create(staging)?;
    file.write_all(&segment.bytes)?;
    file.sync_all()?;
    std::fs::rename(staging, path)
}
