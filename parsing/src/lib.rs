//! The reading: bytes of a request become an act, by one strict reading that upstream can only share.
//!
//! Sans-IO: the caller hands in what it read from the wire and what the cluster's discovery says. The flow is
//! [`request::read`] for the head, [`request::Head::with_body`] for the whole; everything that goes upstream is rebuilt
//! from the result (P10), no byte of the client's text is passed on.

pub mod act;
pub mod body;
pub mod digest;
pub mod discovery;
pub mod header;
pub mod json;
pub mod options;
mod percent;
pub mod precondition;
pub mod protobuf;
pub mod query;
pub mod refusal;
pub mod request;
pub mod review;
pub mod selector;
pub mod target;
pub mod yaml;

pub use refusal::{Refusal, Refused};
