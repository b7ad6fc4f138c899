//! Whether a command said what the page shows, where the page cannot know every letter.
//!
//! Names of grants and sessions, ids, times, ages and hashes change from run to run. The first time that a grant or a session is
//! shown, its name on the page is bound to the one that was seen; from then on the page's name stands for it, in commands too.
//! `...` stands for anything in a line; alone in a line, for any number of lines. Runs of spaces are equal.

use std::collections::BTreeMap;

use regex::Regex;

/// What changes: how it looks on the page and in the output, and whether it is a name that comes again.
const CHANGING: [(&str, bool); 9] = [
    (r"[a-z][a-z-]*-20\d{6}-[a-z0-9]{4}\b", true),
    (r"\b[a-z][a-z-]*-[a-z2-7]{10}\b", true),
    (r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", false),
    (r"\d\d:\d\d:\d\dZ", false),
    (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", false),
    (r"sha256:[0-9a-f.]+", false),
    (r"\b\d+(?:\.\d+)?(?:ms|[smhd](?:\d+[smh])?)\b", false),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", false),
    (r"127\.0\.0\.1:\d+", false),
];

/// Names on the page and what they stand for in this run.
#[derive(Default)]
pub struct Names(BTreeMap<String, String>);

impl Names {
    /// The command with the names of this run.
    pub fn fill(&self, command: &str) -> String {
        self.0.iter().fold(command.to_owned(), |text, (shown, real)| text.replace(shown, real))
    }

    /// Whether `said` is what `shown` promises; binds names that were not known before.
    pub fn agree(&mut self, shown: &str, said: &str) -> anyhow::Result<bool> {
        let (pattern, new) = self.pattern(shown)?;
        let said: String = said.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect();
        let Some(found) = pattern.captures(&said) else { return Ok(false) };
        for (index, name) in new.into_iter().enumerate() {
            if let Some(real) = found.name(&format!("n{index}")) {
                self.0.insert(name, real.as_str().to_owned());
            }
        }
        Ok(true)
    }

    fn pattern(&self, shown: &str) -> anyhow::Result<(Regex, Vec<String>)> {
        let all = CHANGING.map(|(form, _)| format!("({form})")).join("|");
        let changing = Regex::new(&all)?;
        let mut new: Vec<String> = Vec::new();
        let mut pattern = String::from(r"\A");
        for line in shown.trim_end().lines() {
            if line.trim() == "..." {
                pattern.push_str(r"(?:[^\n]*\n)*?");
                continue;
            }
            let mut rest = line.trim_end();
            while let Some(found) = changing.captures(rest) {
                let whole = found.get(0).map_or(0..0, |part| part.range());
                let kind = (1..=CHANGING.len()).find(|&kind| found.get(kind).is_some()).unwrap_or(1) - 1;
                pattern.push_str(&literal(&rest[..whole.start]));
                pattern.push_str(&self.changed(&rest[whole.clone()], kind, &mut new));
                rest = &rest[whole.end..];
            }
            pattern.push_str(&literal(rest));
            pattern.push_str(r"\n");
        }
        pattern.push_str(r"\z");
        Ok((Regex::new(&pattern)?, new))
    }

    fn changed(&self, name: &str, kind: usize, new: &mut Vec<String>) -> String {
        let (form, comes_again) = CHANGING[kind];
        if !comes_again {
            return form.to_owned();
        }
        if let Some(real) = self.0.get(name) {
            return regex::escape(real);
        }
        if new.iter().any(|known| known == name) {
            return form.to_owned();
        }
        new.push(name.to_owned());
        format!("(?<n{}>{form})", new.len() - 1)
    }
}

/// Text that must stand as it is, but for runs of spaces and `...`.
fn literal(text: &str) -> String {
    let parts = text.split("...").map(|part| {
        let words: Vec<_> = part.split(' ').filter(|word| !word.is_empty()).map(regex::escape).collect();
        let (before, after) = (part.starts_with(' '), part.ends_with(' ') && !words.is_empty());
        let space = |is| if is { "[ \t]+" } else { "" };
        format!("{}{}{}", space(before), words.join("[ \t]+"), space(after))
    });
    parts.collect::<Vec<_>>().join(r"[^\n]*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_may_change_and_nothing_else() -> anyhow::Result<()> {
        let shown = "NAME                     STATE   AGE\nclaude-code-7f3kqzc2ma   Used    3s";
        let mut names = Names::default();
        assert!(names.agree(shown, "NAME   STATE   AGE\nclaude-code-aaaaaaaaaa   Used   2m10s\n")?);
        assert_eq!(names.fill("get claude-code-7f3kqzc2ma"), "get claude-code-aaaaaaaaaa");
        assert!(!names.agree(shown, "NAME   STATE   AGE\nclaude-code-bbbbbbbbbb   Used   3s")?);
        assert!(!names.agree(shown, "NAME   STATE   AGE\nclaude-code-aaaaaaaaaa   Denied   3s")?);
        assert!(!names.agree("deleted", "not deleted")?);
        assert!(!names.agree("deleted", "deleted\nand more")?);
        Ok(())
    }

    #[test]
    fn an_ellipsis_is_anything_in_a_line_or_any_lines() -> anyhow::Result<()> {
        let mut names = Names::default();
        assert!(names.agree("a ... c", "a b b c")?);
        assert!(!names.agree("a ... c", "a b\nc")?);
        assert!(names.agree("a\n...\nd", "a\nb\nc\nd")?);
        assert!(names.agree("a\n...", "a\nb")?);
        assert!(!names.agree("a\n...\nd", "a\nb\nc")?);
        Ok(())
    }
}
