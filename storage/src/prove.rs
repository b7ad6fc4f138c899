//! The proof that a store can keep recordings: it takes an object once, never a second time, and shows and lists it.
//!
//! One object under a known name, the same for every replica and every start, so that a bucket with Object Lock holds it once and
//! not once for each start. That it is there already is the proof as well as the second attempt is.
use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

/// Key of the object; no namespace begins with a dot, so that no recording can lie there.
pub const PROOF: &str = ".sallyport/proof";
const TEXT: &[u8] =
    b"Sallyport puts this object here once. A second attempt must fail: that shows that nothing in this store is overwritten.\n";
const PATIENCE: Duration = Duration::from_secs(40);

/// Why a store cannot keep recordings. The text tells a person what to mend.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// A second object took the place of the first.
    #[error(
        "the store does not honour conditional writes (If-None-Match), so recordings in it could be overwritten and tamper-evident \
         recording is refused; use a store that does"
    )]
    Overwrites,
    /// No such bucket or folder.
    #[error("the store is not there: {0}")]
    Missing(String),
    /// The credentials may not do it.
    #[error("the store refuses to {0}: {1}")]
    Denied(&'static str, String),
    /// The object holds something else.
    #[error("`{PROOF}` in the store is not what Sallyport writes there; remove it or use another prefix")]
    Foreign,
    /// Anything else; it may pass.
    #[error("the store cannot {0}: {1}")]
    Failed(&'static str, String),
    /// No answer.
    #[error("the store does not answer")]
    Silent,
}

impl Unproven {
    /// A closed word for metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Unproven::Overwrites => "overwrites",
            Unproven::Missing(_) => "missing",
            Unproven::Denied(..) => "denied",
            Unproven::Foreign => "foreign",
            Unproven::Failed(..) => "failed",
            Unproven::Silent => "silent",
        }
    }
}

/// Proves a store, once.
///
/// # Errors
/// [`Unproven`]: recordings must not go there now. Trying again later is safe.
pub async fn prove(store: &dyn ObjectStore) -> Result<(), Unproven> {
    // Where runtime and store both stand still there is no answer to wait for.
    let attempt = async {
        if put(store).await?.is_some() && put(store).await?.is_some() {
            return Err(Unproven::Overwrites);
        }
        let path = Path::from(PROOF);
        let found =
            async { store.get(&path).await?.bytes().await }.await.map_err(|error| said("read", &error))?;
        if found != TEXT {
            return Err(Unproven::Foreign);
        }
        let folder = Path::from(".sallyport");
        let listed = store.list_with_delimiter(Some(&folder)).await.map_err(|error| said("list", &error))?;
        if listed.objects.iter().all(|object| object.location != path) {
            return Err(Unproven::Failed("list", "it hides what was just written".to_owned()));
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, attempt).await.unwrap_or(Err(Unproven::Silent))
}

/// Puts the object; `None` if there is one.
async fn put(store: &dyn ObjectStore) -> Result<Option<()>, Unproven> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let text = PutPayload::from_bytes(Bytes::from_static(TEXT));
    match store.put_opts(&Path::from(PROOF), text, options).await {
        Ok(_) => Ok(Some(())),
        Err(Error::AlreadyExists { .. }) => Ok(None),
        Err(error) => Err(said("write", &error)),
    }
}

fn said(what: &'static str, error: &Error) -> Unproven {
    let text = with_causes(error);
    if matches!(error, Error::NotFound { .. }) {
        return Unproven::Missing(text);
    }
    if matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) {
        return Unproven::Denied(what, text);
    }
    Unproven::Failed(what, text)
}

/// The error and what caused it, on one line.
fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            let _always_written = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::{Address, S3Flags, open};

    #[tokio::test]
    async fn a_folder_is_made_and_proven_again_and_again_with_one_object() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("not/there/yet");
        let store = open(&Address::Folder(folder.clone()), &S3Flags::default()).unwrap();
        for _ in 0..3 {
            prove(&*store).await.unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.join(".sallyport")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn another_object_in_the_proofs_place_is_no_proof() {
        let store = InMemory::new();
        store.put(&Path::from(PROOF), PutPayload::from_static(b"something else")).await.unwrap();
        let said = prove(&store).await.expect_err("it is not ours");
        assert!(matches!(said, Unproven::Foreign), "{said}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_is_named_with_its_cause() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        let store = open(&Address::Folder(file.join("folder")), &S3Flags::default()).unwrap();
        let said = prove(&*store).await.expect_err("a file is no folder");
        assert!(matches!(said, Unproven::Failed("write", _)), "{said:?}");
        assert!(said.to_string().contains("Not a directory"), "{said}");
    }
}
