//! The one hash of the live config: `sha256:<hex>` of a text, and of a whole bundle.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};

/// `sha256:<64 hex digits>` of the bytes.
pub fn sha256_text(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    push_hex(&mut text, digest(&SHA256, bytes).as_ref());
    text
}

/// The hash of a bundle: sha256 over the sorted `(ConfigMap name, shard hash)` pairs, each written as
/// `<name> <hash>\n`. Operator and proxy both use this one, so that they can compare.
pub fn bundle_hash(shards: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, hash) in shards {
        text.push_str(name);
        text.push(' ');
        text.push_str(hash);
        text.push('\n');
    }
    sha256_text(text.as_bytes())
}

/// The first `digits` hex digits of sha256 of the bytes.
pub fn short_hex(bytes: &[u8], digits: usize) -> String {
    let mut text = String::new();
    push_hex(&mut text, digest(&SHA256, bytes).as_ref());
    text.truncate(digits);
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
}
