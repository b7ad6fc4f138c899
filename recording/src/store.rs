//! Where recordings lie: `<namespace>/<session>/<replica>/<number>.seg`, one immutable object for each segment.

use bytes::Bytes;
use object_store::path::{Path, PathPart};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::event::Event;
use crate::segment::{ChainId, Stamp};
use crate::verify::{ChainVerifier, Report};

/// The longest segment that is read, in bytes: a full one, its last frame and some room.
pub const MAX_SEGMENT: u64 = 32 << 20;

/// A segment could not be put into the store.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Another object lies in its place (F32). It is never overwritten.
    #[error("another object lies at `{0}`")]
    Conflict(Path),
    /// The store failed; trying again is safe.
    #[error("the store failed: {0}")]
    Store(#[from] Error),
}

/// A recording could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An object is longer than any segment.
    #[error("`{0}` is longer than any segment")]
    TooLong(Path),
    /// The store failed.
    #[error("the store failed: {0}")]
    Store(#[from] Error),
}

/// The folder of a session.
pub fn session_path(namespace: &str, session: &str) -> Path {
    Path::from_iter([PathPart::from(namespace), PathPart::from(session)])
}

/// The folder of a chain.
pub fn chain_path(chain: &ChainId) -> Path {
    session_path(&chain.namespace, &chain.session).join(PathPart::from(chain.replica.as_str()))
}

/// The place of a segment.
pub fn segment_path(chain: &ChainId, number: u32) -> Path {
    chain_path(chain).join(PathPart::from(format!("{number:06}.seg")))
}

/// Puts a segment into the store, once: a second time with the same bytes is success (F32).
///
/// # Errors
/// Other bytes lie there, or the store failed.
pub async fn put_segment(
    store: &dyn ObjectStore,
    chain: &ChainId,
    number: u32,
    bytes: Bytes,
) -> Result<(), PutError> {
    let path = segment_path(chain, number);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options).await {
        Ok(_) => Ok(()),
        Err(Error::AlreadyExists { .. }) => {
            let found = store.get(&path).await?;
            let same = found.meta.size == bytes.len() as u64 && found.bytes().await? == bytes;
            if same { Ok(()) } else { Err(PutError::Conflict(path)) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads and verifies all chains of a session, segment by segment, and shows every proven event to `visit` with its
/// replica's name.
///
/// # Errors
/// The store failed, or an object is longer than any segment. A session that the store does not know has no chains.
pub async fn read_session(
    store: &dyn ObjectStore,
    namespace: &str,
    session: &str,
    visit: &mut (dyn FnMut(&str, Stamp, Event) + Send),
) -> Result<Report, ReadError> {
    let folder = session_path(namespace, session);
    let mut chains = Vec::new();
    for prefix in store.list_with_delimiter(Some(&folder)).await?.common_prefixes {
        let Some(replica) = prefix.filename().map(str::to_owned) else { continue };
        let id = ChainId { namespace: namespace.to_owned(), session: session.to_owned(), replica };
        chains.push(read_chain(store, id, &prefix, visit).await?);
    }
    Ok(Report::new(chains))
}

async fn read_chain(
    store: &dyn ObjectStore,
    id: ChainId,
    prefix: &Path,
    visit: &mut (dyn FnMut(&str, Stamp, Event) + Send),
) -> Result<crate::verify::ChainReport, ReadError> {
    let replica = id.replica.clone();
    let mut verifier = ChainVerifier::new(id);
    let listed = store.list_with_delimiter(Some(prefix)).await?;
    let mut segments = Vec::new();
    for object in listed.objects {
        let name = object.location.filename().unwrap_or_default();
        match segment_number(name) {
            Some(number) => segments.push((number, object)),
            None => verifier.stray(name),
        }
    }
    for folder in listed.common_prefixes {
        verifier.stray(folder.filename().unwrap_or_default());
    }
    segments.sort_by_key(|(number, _)| *number);
    for (number, object) in segments {
        if object.size > MAX_SEGMENT {
            return Err(ReadError::TooLong(object.location));
        }
        let bytes = store.get(&object.location).await?.bytes().await?;
        verifier.segment(number, &bytes, &mut |at, event| visit(&replica, at, event));
    }
    Ok(verifier.finish())
}

/// The number in `000001.seg`; exactly as [`segment_path`] writes it.
fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    (format!("{number:06}.seg") == name && number > 0).then_some(number)
}
