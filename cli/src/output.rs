//! Output: kubectl's `-o`, and tables without lines.

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::escape;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// As a table with more columns.
    Wide,
    /// As JSON.
    Json,
    /// As YAML; control and direction characters are shown as escapes.
    Yaml,
    /// As resource/name.
    Name,
}

/// Prints JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", escape::json(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Prints YAML.
pub fn yaml(value: &impl Serialize) -> anyhow::Result<()> {
    let document = escape::document(serde_json::to_value(value)?);
    print!("{}", serde_saphyr::to_string(&document).context("cannot write YAML")?);
    Ok(())
}

/// Prints rows under a heading, as kubectl does. Every cell is escaped.
pub fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
    println!("{}", render(heading, rows));
}

fn render(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.add_row(heading);
    for row in rows {
        table.add_row(row.iter().map(|cell| escape::line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// An age in kubectl's way: `45s`, `7m`, `3h`, `2d`.
pub fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_kubectls_and_obey_nobody() {
        let rows =
            vec![vec!["a\u{1b}[2J".to_owned(), "x".to_owned()], vec!["b".to_owned(), "y\nz".to_owned()]];
        assert_eq!(
            render(&["NAME", "REASON"], rows),
            "NAME         REASON\na\\u{1b}[2J   x\nb            y\\nz"
        );
    }

    #[test]
    fn ages_are_short() {
        let cases = [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_800, "2d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }
}
