//! The book: every page is in the table of contents, and every link and anchor of every page leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::ensure;

use crate::page::{Page, docs};

/// Pages outside the book that link into it or are linked from it.
const OUTSIDE: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];

#[test]
fn every_page_is_in_the_table_of_contents_once() -> anyhow::Result<()> {
    let contents = Page::read("docs/SUMMARY.md")?;
    let mut listed = BTreeSet::new();
    for (link, line) in &contents.links {
        let Some((path, _)) = contents.target(link) else { continue };
        ensure!(listed.insert(path.display().to_string()), "docs/SUMMARY.md:{line} lists `{link}` twice");
    }
    let there: BTreeSet<_> = docs()?.into_iter().collect();
    let orphans: Vec<_> = there.difference(&listed).collect();
    ensure!(orphans.is_empty(), "not in docs/SUMMARY.md: {orphans:?}");
    let dangling: Vec<_> = listed.difference(&there).collect();
    ensure!(dangling.is_empty(), "in docs/SUMMARY.md, but there is no such page: {dangling:?}");
    Ok(())
}

#[test]
fn every_link_and_anchor_leads_somewhere() -> anyhow::Result<()> {
    let mut pages = BTreeMap::new();
    for path in docs()?.into_iter().chain(OUTSIDE.map(str::to_owned)).chain(["docs/SUMMARY.md".to_owned()]) {
        pages.insert(path.clone(), Page::read(&path)?);
    }
    let mut broken = Vec::new();
    for page in pages.values() {
        for (link, line) in &page.links {
            let Some((path, anchor)) = page.target(link) else { continue };
            let name = path.display().to_string();
            let whole = match (pages.get(&name), anchor) {
                (Some(to), Some(anchor)) => to.anchors.contains(&anchor),
                (Some(_), None) => true,
                (None, _) => e2e::workspace_root().join(&path).exists(),
            };
            if !whole {
                broken.push(format!("{}:{line}: `{link}`", page.path));
            }
            if page.path.starts_with("docs/") && !name.starts_with("docs/") && !link.contains("://") {
                broken.push(format!("{}:{line}: `{link}` leaves the book: write the whole URL", page.path));
            }
        }
    }
    ensure!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    Ok(())
}

#[test]
fn the_book_is_built_from_the_pages_as_they_lie() -> anyhow::Result<()> {
    let settings = std::fs::read_to_string(e2e::workspace_root().join("docs/book.toml"))?;
    ensure!(settings.contains("src = \".\""), "docs/book.toml must build the pages beside it");
    ensure!(Path::new(&e2e::workspace_root().join("docs/SUMMARY.md")).exists());
    Ok(())
}
