//! The bytes of a segment: a header, frames that each carry the hash of all before them, and a seal.
//!
//! ```text
//! segment = "SPLYREC1" | u32 length of header | header, JSON | frame* | frame of type 255, the seal
//! frame   = u32 length of payload | u8 type | u64 sequence | u64 monotonic ns | i64 wall us | payload | 32 byte hash
//! ```
//!
//! Numbers are big-endian. The hash of a frame is `sha256(hash before || frame up to its payload's end)`; before the
//! first frame stands the hash of the header block. The seal's hash is the segment's *root*; the next header names it.

use serde::{Deserialize, Serialize};

use crate::event::MAX_PAYLOAD;
use crate::hash::Hash;

/// The first bytes of every segment.
pub const MAGIC: &[u8; 8] = b"SPLYREC1";
/// The version of the format that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Frame type of the seal.
pub const SEAL: u8 = 255;

const PREAMBLE: usize = MAGIC.len() + 4;
const FRAME_HEAD: usize = 4 + 1 + 8 + 8 + 8;
const MAX_HEADER: usize = 64 << 10;

/// When something happened, on both clocks (F16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since the chain's writer started; never goes back.
    pub monotonic_ns: u64,
    /// Microseconds since 1970 by the wall clock; may jump.
    pub wall_us: i64,
}

/// Where a chain belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChainId {
    /// Namespace of the SessionRecord.
    pub namespace: String,
    /// Name of the SessionRecord.
    pub session: String,
    /// The replica, one name for each life of a proxy.
    pub replica: String,
}

/// The first block of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// The chain: namespace, session and replica, which the object's place must repeat.
    pub chain: ChainId,
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Root of the segment before it; [`Hash::ZERO`] for the first.
    pub previous: Hash,
    /// Sequence number of the first frame.
    pub first: u64,
}

/// The payload of the last frame of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seal {
    /// Frames before the seal.
    pub frames: u32,
    /// The chain ends here.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// One frame, as it lies in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is: an event's code, or [`SEAL`].
    pub code: u8,
    /// Number of the frame in its chain, from 0; seals count.
    pub sequence: u64,
    /// When.
    pub at: Stamp,
    /// JSON.
    pub payload: &'a [u8],
    /// Hash of everything up to here.
    pub hash: Hash,
}

/// Why bytes are not a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The file does not begin like a segment.
    #[error("not a segment")]
    NotASegment,
    /// The header is not readable.
    #[error("the header is not readable")]
    Header,
    /// The header's version is another.
    #[error("the format version is {0}, this program reads 1")]
    Version(u32),
    /// The bytes end inside a frame or before the seal.
    #[error("the segment is cut off")]
    CutOff,
    /// A length that no frame has.
    #[error("a frame has an impossible length")]
    Length,
    /// The chain of hashes breaks.
    #[error("the bytes were changed: the hash does not fit")]
    Changed,
    /// The seal is not readable or does not fit the frames.
    #[error("the seal does not fit the segment")]
    Seal,
    /// Something follows the seal.
    #[error("bytes follow the seal")]
    Trailing,
}

/// A [`Defect`] and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{defect} (at byte {offset})")]
pub struct SegmentError {
    /// What.
    pub defect: Defect,
    /// Where the frame or block begins that does not hold, in bytes from the start of the segment.
    pub offset: usize,
}

/// Writes the header block to `out` and returns the hash that the first frame links to.
///
/// # Errors
/// Only what `serde_json` reports, which a header does not provoke.
pub(crate) fn write_header(header: &Header, out: &mut Vec<u8>) -> Result<Hash, serde_json::Error> {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *out, header)?;
    let length = u32::try_from(out.len() - start - PREAMBLE).unwrap_or(u32::MAX);
    out[start + MAGIC.len()..start + PREAMBLE].copy_from_slice(&length.to_be_bytes());
    Ok(Hash::of(&out[start..]))
}

/// Writes a frame to `out`, its payload by `fill`, and returns its hash; `out` is unchanged when that fails.
pub(crate) fn write_frame<E>(
    out: &mut Vec<u8>,
    (code, sequence, at): (u8, u64, Stamp),
    previous: Hash,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Option<Hash>, E> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(code);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&at.monotonic_ns.to_be_bytes());
    out.extend_from_slice(&at.wall_us.to_be_bytes());
    if let Err(error) = fill(out) {
        out.truncate(start);
        return Err(error);
    }
    let length = out.len() - start - FRAME_HEAD;
    let Some(length) = u32::try_from(length).ok().filter(|_| length <= MAX_PAYLOAD) else {
        out.truncate(start);
        return Ok(None);
    };
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    let hash = Hash::link(previous, &out[start..]);
    out.extend_from_slice(hash.as_bytes());
    Ok(Some(hash))
}

/// A reader that goes through a segment once, checking as it goes.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
    hash: Hash,
    header: Header,
}

impl<'a> Reader<'a> {
    /// Reads the header block. Nothing in it is proven until the first frame's hash fits.
    ///
    /// # Errors
    /// The bytes do not begin like a segment of this version.
    pub fn open(bytes: &'a [u8]) -> Result<Reader<'a>, SegmentError> {
        let at_start = |defect| SegmentError { defect, offset: 0 };
        if bytes.len() < PREAMBLE || !bytes.starts_with(MAGIC) {
            return Err(at_start(Defect::NotASegment));
        }
        let length = be_u32(&bytes[MAGIC.len()..PREAMBLE]) as usize;
        if length > MAX_HEADER {
            return Err(at_start(Defect::Length));
        }
        let block = bytes.get(..PREAMBLE + length).ok_or(at_start(Defect::CutOff))?;
        let header: Header =
            serde_json::from_slice(&block[PREAMBLE..]).map_err(|_| at_start(Defect::Header))?;
        if header.version != FORMAT_VERSION {
            return Err(at_start(Defect::Version(header.version)));
        }
        Ok(Reader { bytes, offset: block.len(), hash: Hash::of(block), header })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next frame begins, in bytes from the start of the segment.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The hash of everything read so far.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether all bytes are read.
    pub fn is_at_end(&self) -> bool {
        self.offset == self.bytes.len()
    }

    /// Reads the next frame; its hash fits all bytes before it.
    ///
    /// # Errors
    /// The bytes end (`CutOff`), or were changed.
    pub fn frame(&mut self) -> Result<Frame<'a>, SegmentError> {
        let offset = self.offset;
        let defect = |defect| SegmentError { defect, offset };
        let rest = &self.bytes[offset..];
        if rest.len() < FRAME_HEAD {
            return Err(defect(Defect::CutOff));
        }
        let length = be_u32(&rest[..4]) as usize;
        if length > MAX_PAYLOAD {
            return Err(defect(Defect::Length));
        }
        let hashed = FRAME_HEAD + length;
        let whole = rest.get(..hashed + Hash::LEN).ok_or(defect(Defect::CutOff))?;
        let hash = Hash::link(self.hash, &whole[..hashed]);
        if hash.as_bytes() != &whole[hashed..] {
            return Err(defect(Defect::Changed));
        }
        self.offset += whole.len();
        self.hash = hash;
        let at = Stamp { monotonic_ns: be_u64(&whole[13..21]), wall_us: be_u64(&whole[21..29]) as i64 };
        Ok(Frame {
            code: whole[4],
            sequence: be_u64(&whole[5..13]),
            at,
            payload: &whole[FRAME_HEAD..hashed],
            hash,
        })
    }
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
