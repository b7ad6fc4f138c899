//! What names look like (P7).

/// `v[0-9]+((alpha|beta)[0-9]+)?`
pub(crate) fn is_version(text: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.len() <= 9 && s.bytes().all(|b| b.is_ascii_digit());
    let Some(rest) = text.strip_prefix('v') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, stage) = rest.split_at(end);
    let stage =
        stage.strip_prefix("alpha").or_else(|| stage.strip_prefix("beta")).map_or(stage.is_empty(), digits);
    digits(major) && stage
}

/// DNS-1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// DNS-1123 subdomain.
pub(crate) fn is_subdomain(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.split('.').all(is_label)
}

/// A name that is one path segment.
pub(crate) fn is_name(text: &str) -> bool {
    let visible = |b: u8| b.is_ascii_graphic() && !b"/%\\?#;".contains(&b);
    (1..=253).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(visible)
}
