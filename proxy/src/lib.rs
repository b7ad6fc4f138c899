//! The hands on the wire.
