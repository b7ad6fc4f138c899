//! Any bytes as header fields: `cargo +nightly fuzz run headers -- -max_len=4096`.
#![no_main]

#[path = "../oracle.rs"]
#[allow(dead_code, reason = "each target uses its part")]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| oracle::headers(input));
