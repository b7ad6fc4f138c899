//! The text that stands where a value was.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The beginning of every placeholder; any text that holds it in a write is refused (ruling on the placeholder).
pub const MARK: &str = "[MASKED:";

/// The placeholder of a rule. It depends on the rule alone, never on the value: no equality or length oracle (B55,
/// B59).
pub fn placeholder(rule: &str) -> String {
    format!("{MARK}{rule}]")
}

/// The placeholder as it stands in a base64 field, so that typed clients still decode (C10).
pub(crate) fn placeholder_base64(rule: &str) -> String {
    STANDARD.encode(placeholder(rule))
}
