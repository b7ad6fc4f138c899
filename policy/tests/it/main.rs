//! What the meaning promises, shown by tables in files and by properties.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and reads foreign enums"
)]

mod approval;
mod bundles;
mod cel;
mod instructions;
mod lint;
mod properties;
mod reference;
mod shared;
mod support;
mod tables;
mod texts;
