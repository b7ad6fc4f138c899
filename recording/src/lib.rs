//! The memory: frames, hash chain, segments, verification and replay of what agents did.
//!
//! A *session* is what one subject does as one agent. Each proxy replica that serves it writes one *chain*: a row of
//! *segments*, each an immutable object in the store. A segment is a header, frames and a seal; every frame carries
//! the hash of everything before it, and every header the root of the segment before it.
//!
//! - [`journal`] turns events into bytes to make durable, without doing any I/O.
//! - [`verify`] reads the bytes back and says what was changed, and which requests have an unknown end.
//! - [`replay`] turns the events of all chains into lines for a person.
//! - [`store`] knows where segments lie in an object store; the program that calls it brings the backend.

pub mod event;
pub mod hash;
pub mod journal;
pub mod plain;
pub mod replay;
pub mod segment;
pub mod store;
pub mod verify;
