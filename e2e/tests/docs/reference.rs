//! Tables of reference name what the programs have, and nothing else.

use std::collections::BTreeSet;

use anyhow::ensure;
use regex::Regex;

use crate::page::Page;

#[test]
fn the_metrics_page_names_every_metric_and_no_other() -> anyhow::Result<()> {
    let mut there = found_in("proxy/src/telemetry.rs", r#""(sallyport_[a-z_]+)""#)?;
    there.extend(found_in("operator/src/telemetry.rs", r#""(sallyport_[a-z_]+)""#)?);
    let told = named("docs/metrics.md", "sallyport_")?;
    same("docs/metrics.md", &there, &told)
}

#[tokio::test]
async fn running_programs_show_only_metrics_and_labels_of_the_page() -> anyhow::Result<()> {
    let gate = super::gate()?;
    let page = std::fs::read_to_string(e2e::workspace_root().join("docs/metrics.md"))?;
    let row = Regex::new(r"(?m)^\| `(sallyport_[a-z_]+)` \|([^|]*)\|")?;
    let label = Regex::new(r"`([a-z]+)`")?;
    let shown = Regex::new(r"(?m)^(sallyport_[a-z_]+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$")?;
    let mut count = 0;
    for program in gate.proxies().iter().map(e2e::gate::Proxy::program).chain([gate.operator()]) {
        let text = program.metrics().await?;
        for line in shown.captures_iter(&text) {
            let full = line[0].split(['{', ' ']).next().unwrap_or_default().to_owned();
            let row = row.captures_iter(&page).find(|row| row[1] == full || row[1] == line[1]);
            let Some(row) = row else { anyhow::bail!("docs/metrics.md does not name `{full}`") };
            let told: BTreeSet<_> = label.captures_iter(&row[2]).map(|one| one[1].to_owned()).collect();
            for pair in line.get(2).map_or("", |labels| labels.as_str()).split("\",") {
                let name = pair.split('=').next().unwrap_or_default();
                ensure!(
                    name.is_empty() || name == "le" || told.contains(name),
                    "`{}` has a label `{name}`",
                    &row[1]
                );
            }
            count += 1;
        }
    }
    ensure!(count > 20, "only {count} lines were looked at");
    Ok(())
}

#[test]
fn the_refusals_page_names_every_reason() -> anyhow::Result<()> {
    let there = found_in("policy/src/explain/reason.rs", r#"Reason::\w+ => "(\w+)""#)?;
    let page = Page::read("docs/refusals.md")?;
    let told: BTreeSet<_> =
        page.first_column.iter().filter(|name| name.starts_with(char::is_uppercase)).cloned().collect();
    same("docs/refusals.md", &there, &told)
}

#[test]
fn the_alerts_of_the_chart_are_on_the_metrics_page() -> anyhow::Result<()> {
    let mut there = BTreeSet::new();
    let alert = Regex::new(r"(?m)^\s*- alert: (\w+)")?;
    let mut folders = vec![e2e::workspace_root().join("charts/sallyport/templates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path)?;
                there.extend(alert.captures_iter(&text).map(|one| one[1].to_owned()));
            }
        }
    }
    same("docs/metrics.md", &there, &named("docs/metrics.md", "Sallyport")?)
}

/// Names in the first column of a page's tables.
fn named(page: &str, prefix: &str) -> anyhow::Result<BTreeSet<String>> {
    let page = Page::read(page)?;
    Ok(page.first_column.into_iter().filter(|name| name.starts_with(prefix)).collect())
}

/// First groups of a pattern in a source file, its tests left out.
fn found_in(path: &str, pattern: &str) -> anyhow::Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(e2e::workspace_root().join(path))?;
    let own = text.split("#[cfg(test)]").next().unwrap_or_default();
    Ok(Regex::new(pattern)?.captures_iter(own).map(|found| found[1].to_owned()).collect())
}

fn same(page: &str, there: &BTreeSet<String>, told: &BTreeSet<String>) -> anyhow::Result<()> {
    let missing: Vec<_> = there.difference(told).collect();
    ensure!(missing.is_empty(), "{page} does not name {missing:?}");
    let gone: Vec<_> = told.difference(there).collect();
    ensure!(gone.is_empty(), "{page} names {gone:?}, which nothing has");
    Ok(())
}
