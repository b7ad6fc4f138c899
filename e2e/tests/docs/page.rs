//! A page as its reader sees it: headings, links, fenced blocks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A Markdown file.
pub struct Page {
    /// Path from the root of the workspace, such as `docs/policies.md`.
    pub path: String,
    /// Anchors of its headings, as GitHub and mdBook make them.
    pub anchors: Vec<String>,
    /// Where its links lead, and in which line each stands.
    pub links: Vec<(String, usize)>,
    /// Its fenced blocks.
    pub blocks: Vec<Block>,
    /// Names in backticks in the first column of its tables.
    pub first_column: Vec<String>,
}

/// A fenced block.
pub struct Block {
    /// First word after the fence: `console`, `yaml`, ...
    pub language: String,
    /// The rest of that line: `not-run: why` or `file: name`.
    pub note: String,
    /// Line of the fence.
    pub line: usize,
    /// What stands between the fences.
    pub text: String,
}

impl Block {
    /// Why the block is not run, if it says so.
    pub fn not_run(&self) -> Option<&str> {
        self.note.strip_prefix("not-run:").map(str::trim)
    }

    /// The file that the reader is to make of the block, if it says so.
    pub fn file(&self) -> Option<&str> {
        self.note.strip_prefix("file:").map(str::trim)
    }
}

impl Page {
    /// Reads a page by its path from the root of the workspace.
    pub fn read(path: &str) -> anyhow::Result<Self> {
        let file = e2e::workspace_root().join(path);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {path}"))?;
        Ok(Self::parse(path, &text))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a page has much that no test looks at")]
    fn parse(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            anchors: Vec::new(),
            links: Vec::new(),
            blocks: Vec::new(),
            first_column: Vec::new(),
        };
        let mut seen = BTreeMap::new();
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        let mut column = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = text[..range.start].matches('\n').count() + 1;
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.push(anchor(&heading.take().unwrap_or_default(), &mut seen));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((dest_url.into_string(), line));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let (language, note) = info.split_once(' ').unwrap_or((&info, ""));
                    let (language, note) = (language.to_owned(), note.trim().to_owned());
                    block = Some(Block { language, note, line, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::TableRow | Tag::TableHead) => column = Some(0),
                Event::End(TagEnd::TableRow | TagEnd::TableHead) => column = None,
                Event::End(TagEnd::TableCell) => column = column.map(|column| column + 1),
                Event::Code(code) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&code);
                    } else if column == Some(0) {
                        page.first_column.push(code.into_string());
                    }
                }
                Event::Text(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    if let Some(block) = &mut block {
                        block.text.push_str(&words);
                    }
                }
                _other => {}
            }
        }
        page
    }

    /// The file or folder that a link of this page leads to and its anchor; nothing for a link that leaves the repository.
    pub fn target(&self, link: &str) -> Option<(PathBuf, Option<String>)> {
        const HERE: &str = "https://github.com/sallyport-dev/sallyport/";
        let (target, anchor) = link.split_once('#').map_or((link, None), |(path, name)| (path, Some(name)));
        let anchor = anchor.map(str::to_owned);
        if let Some(path) = target.strip_prefix(HERE) {
            let path = path.strip_prefix("blob/main/").or_else(|| path.strip_prefix("tree/main/"))?;
            return Some((PathBuf::from(path), anchor));
        }
        if target.contains("://") || target.starts_with("mailto:") {
            return None;
        }
        if target.is_empty() {
            return Some((PathBuf::from(&self.path), anchor));
        }
        Some((resolve(Path::new(&self.path).parent()?, target), anchor))
    }
}

/// `folder/target` without `..`.
fn resolve(folder: &Path, target: &str) -> PathBuf {
    let mut path = folder.to_owned();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            name => path.push(name),
        }
    }
    path
}

/// A heading's anchor: lower case, spaces become hyphens, punctuation goes; the second of a name gets `-1`.
fn anchor(heading: &str, seen: &mut BTreeMap<String, usize>) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => Some(letter),
        _ => None,
    });
    let name: String = kept.collect();
    let count = seen.entry(name.clone()).or_insert(0);
    let unique = if *count == 0 { name } else { format!("{name}-{count}") };
    *count += 1;
    unique
}

/// Every Markdown page below `docs`, without the table of contents, sorted.
pub fn docs() -> anyhow::Result<Vec<String>> {
    let mut pages = Vec::new();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(e2e::workspace_root().join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "md") {
                pages.push(path.display().to_string());
            }
        }
    }
    pages.retain(|path| path != "docs/SUMMARY.md");
    pages.sort();
    Ok(pages)
}

#[test]
fn a_page_is_read_as_its_reader_sees_it() {
    let text = "# One `two`!\n\n[a](b.md#c)\n\n## Same\n\n## Same\n\n```console not-run: needs helm\n$ x\n```\n\n| `a` | `b` |\n| --- | --- |\n| `c` | d |\n";
    let page = Page::parse("docs/x.md", text);
    assert_eq!(page.anchors, ["one-two", "same", "same-1"]);
    assert_eq!(page.links, [("b.md#c".to_owned(), 3)]);
    assert_eq!(page.target("../README.md"), Some((PathBuf::from("README.md"), None)));
    assert_eq!(page.target("b.md#c"), Some((PathBuf::from("docs/b.md"), Some("c".to_owned()))));
    assert_eq!(page.target("https://example.org/a"), None);
    let block = &page.blocks[0];
    assert_eq!((block.language.as_str(), block.not_run(), block.line), ("console", Some("needs helm"), 9));
    assert_eq!(page.first_column, ["a", "c"]);
}
