//! Schema rules for text that people read in a terminal, and the patterns of names.

/// CEL: no control characters but tab and line feed, no bidirectional overrides, isolates or marks, no line separators.
pub(crate) const SAFE_TEXT_RULE: &str = r"self.matches(r'^[^\x00-\x08\x0B-\x1F\x7F-\x{9F}\x{061C}\x{200E}\x{200F}\x{2028}-\x{202E}\x{2066}-\x{2069}]*$')";
/// The same for every entry of a list.
pub(crate) const SAFE_TEXTS_RULE: &str = r"self.all(t, t.matches(r'^[^\x00-\x08\x0B-\x1F\x7F-\x{9F}\x{061C}\x{200E}\x{200F}\x{2028}-\x{202E}\x{2066}-\x{2069}]*$'))";
/// What both of them say.
pub(crate) const SAFE_TEXT_MESSAGE: &str = "must not contain control or bidirectional-override characters";
/// CEL: an IAM role, never an STS session.
pub(crate) const ROLE_ARN_RULE: &str =
    r"self.matches('^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$')";
/// What it says.
pub(crate) const ROLE_ARN_MESSAGE: &str = "must be an IAM role ARN; an STS session ARN may not be used";
/// What every discriminated union says.
pub(crate) const UNION_MESSAGE: &str = "exactly the member named by `type` must be set";

/// A DNS label.
pub(crate) const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A DNS subdomain.
pub(crate) const SUBDOMAIN_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A SHA-256 digest in text.
pub(crate) const SHA256_PATTERN: &str = "^sha256:[0-9a-f]{64}$";
/// A reason token in CamelCase.
pub(crate) const REASON_PATTERN: &str = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
