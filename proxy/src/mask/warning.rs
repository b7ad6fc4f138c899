//! `Warning` header fields: the API server's, capped and rebuilt, and the gate's own (B45).

use std::sync::Arc;

use http::header::{self, HeaderMap};

pub use crate::refuse::warn as add;

/// Most warnings of the API server that pass, and their length in characters.
const MOST: usize = 16;
const LONGEST: usize = 512;

const WITHHELD: &str =
    "sallyport: a warning of the API server is withheld: its text may quote values that are masked.";

/// Passes on the API server's warnings. `hidden`: their text may quote a masked value.
pub fn pass(from: &HeaderMap, to: &mut HeaderMap, hidden: bool) {
    let said = from.get_all(header::WARNING).iter().filter_map(|value| text(value.to_str().ok()?));
    if !hidden {
        said.take(MOST).for_each(|text| add(to, &text));
    } else if said.count() > 0 {
        add(to, WITHHELD);
    }
}

/// The text of `299 - "..."`.
fn text(field: &str) -> Option<String> {
    let quoted = field.strip_prefix("299 ")?.split_once(' ')?.1.trim_start().strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => return Some(text.chars().take(LONGEST).collect()),
            '\\' => text.extend(characters.next()),
            c => text.push(c),
        }
    }
    None
}

/// What is said of a body that was held whole; nothing if nothing was masked.
pub fn counted(counts: &[(Arc<str>, u64)]) -> Option<String> {
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let rules: Vec<&str> = counts.iter().map(|(name, _)| &**name).collect();
    let rules = rules.join(", ");
    match total {
        0 => None,
        1 => Some(format!("sallyport: 1 value masked ({rules}). It is a placeholder, not data.")),
        many => Some(format!("sallyport: {many} values masked ({rules}). They are placeholders, not data.")),
    }
}

/// What is said before a body that streams; nothing if no rule concerns it.
pub fn streamed(rules: &[Arc<str>]) -> Option<String> {
    let rules = rules.join(", ");
    (!rules.is_empty())
        .then(|| format!("sallyport: values are masked ({rules}). They are placeholders, not data."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn passed(field: &str, hidden: bool) -> Vec<String> {
        let (mut from, mut to) = (HeaderMap::new(), HeaderMap::new());
        from.append(header::WARNING, HeaderValue::from_str(field).unwrap());
        pass(&from, &mut to, hidden);
        to.get_all(header::WARNING).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn b45_warnings_are_rebuilt_capped_and_withheld() {
        assert_eq!(passed(r#"299 - "v1 \"x\" is deprecated""#, false), [r#"299 - "v1 \"x\" is deprecated""#]);
        assert_eq!(passed(&format!("299 - \"{}\"", "x".repeat(9000)), false)[0].len(), LONGEST + 8);
        for bad in ["199 - \"x\"", "299 - x", "299 - \"x", "299"] {
            assert!(passed(bad, false).is_empty(), "{bad}");
        }
        let (mut many, mut to) = (HeaderMap::new(), HeaderMap::new());
        (0..20).for_each(|_| add(&mut many, "x"));
        pass(&many, &mut to, false);
        assert_eq!(to.get_all(header::WARNING).iter().count(), 16);
        assert_eq!(passed("299 - \"canary\"", true), [format!("299 - \"{WITHHELD}\"")]);
    }

    #[test]
    fn the_gate_says_what_it_masked() {
        let counts = |n| vec![(Arc::from("pod-env"), n)];
        assert_eq!(
            counted(&counts(2)).unwrap(),
            "sallyport: 2 values masked (pod-env). They are placeholders, not data."
        );
        assert_eq!(counted(&[]), None);
        assert_eq!(
            streamed(&["a".into(), "b".into()]).unwrap(),
            "sallyport: values are masked (a, b). They are placeholders, not data."
        );
        assert_eq!(streamed(&[]), None);
    }
}
