//! Any bytes as an answer: `cargo +nightly fuzz run mask -- -max_len=4096`.
#![no_main]

#[path = "../oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::check(input));
