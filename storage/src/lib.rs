//! Where recordings are kept: a folder or an S3 bucket, by one [`Address`].
//!
//! *Expected flow*: an [`Address`] and [`S3Flags`] from the command line, [`open`], and by whoever writes [`prove`] until it
//! succeeds. *Guarantees*: opening asks nobody; a store that passed the proof takes an object once and never again, shows it to
//! its writer, and lists it.

mod address;
mod open;
mod prove;
mod s3;

pub use address::Address;
pub use open::{OpenError, open};
pub use prove::{PROOF, Unproven, prove};
pub use s3::{Checksum, S3Flags};
