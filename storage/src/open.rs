//! An address becomes a store.
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;

use crate::address::Address;
use crate::s3::S3Flags;

/// A store cannot be named.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be a path of a store.
    #[error("the folder cannot be used: {0}")]
    Folder(#[from] object_store::path::Error),
    /// The flags or the environment do not make a client.
    #[error("the bucket cannot be named: {0}")]
    Bucket(#[from] object_store::Error),
}

/// Opens a store. Nobody is asked and nothing is made: whether it is there is what [`crate::prove`] says.
///
/// # Errors
/// Flags and environment do not make a client, such as an access key without its secret.
pub fn open(address: &Address, s3: &S3Flags) -> Result<Arc<dyn ObjectStore>, OpenError> {
    Ok(match address {
        Address::Folder(folder) => {
            let files = LocalFileSystem::new().with_fsync(true);
            Arc::new(PrefixStore::new(files, Path::from_absolute_path(folder)?))
        }
        Address::Bucket { bucket, prefix } => {
            Arc::new(PrefixStore::new(s3.client(bucket)?, Path::from(prefix.as_str())))
        }
    })
}
