//! Any bytes as a message of a built-in kind: `cargo +nightly fuzz run protobuf -- -max_len=4096`.
#![no_main]

#[path = "../protobuf.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    oracle::message(input);
    oracle::envelope(input);
});
