//! Links in the documents: that what they name is there.
//!
//! A link goes to a file of the tree, or to a heading. Where its text is the name of something in
//! Rust, in backquotes, as ``[`Engine::frame`](crates/engine/src/dispatch/from_guest.rs)``, the
//! file must define it. Links to the outside are not followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::tally::Tally;

/// Documents, and directories of documents.
pub(crate) const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "fuzz/README.md",
    "docs",
];
/// What introduces a name in Rust.
const KEYWORDS: [&str; 9] =
    ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "macro_rules!"];

/// Prints links that lead nowhere; whether there are none.
pub(crate) fn print(root: &Path) -> Result<bool> {
    let mut all = 0;
    for document in documents(root)? {
        let wrong = wrong(&document)?;
        let name = document.strip_prefix(root).unwrap_or(&document).display();
        for link in &wrong {
            println!("{name}: {link} leads nowhere");
        }
        all += wrong.len();
    }
    Ok(all == 0)
}

/// The same as a test.
pub(crate) fn check(root: &Path, tally: &mut Tally) -> Result<()> {
    let passed = print(root)?;
    tally.record(passed, "links in the documents");
    Ok(())
}

fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut documents = Vec::new();
    for name in DOCUMENTS {
        let path = root.join(name);
        if path.is_dir() {
            for entry in fs::read_dir(&path).context(name)? {
                documents.push(entry?.path());
            }
        } else {
            documents.push(path);
        }
    }
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    Ok(documents)
}

/// Links of a document that lead nowhere.
fn wrong(document: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let headings = headings(&text);
    let directory = document.parent().context("directory")?;
    let leads = |link: &Link<'_>| match link.target.split_once('#') {
        Some(("", heading)) => headings.contains(heading),
        split => {
            let (path, heading) = split.unwrap_or((link.target, ""));
            let path = directory.join(path);
            path.exists()
                && link.name.is_none_or(|name| defines(&path, name))
                && (heading.is_empty()
                    || fs::read_to_string(&path).is_ok_and(|to| self::headings(&to).contains(heading)))
        }
    };
    let is_inside = |link: &Link<'_>| !link.target.contains(':');
    Ok(links(&text)
        .filter(is_inside)
        .filter(|link| !leads(link))
        .map(|link| link.target.to_owned())
        .collect())
}

struct Link<'a> {
    /// The last part of the name in Rust that its text is.
    name: Option<&'a str>,
    target: &'a str,
}

fn links(text: &str) -> impl Iterator<Item = Link<'_>> {
    text.match_indices("](").filter_map(move |(at, _)| {
        let target = text.get(at + 2..)?.split(')').next()?;
        let label = text.get(..at)?.rsplit('[').next()?;
        let code = label.strip_prefix('`').and_then(|label| label.strip_suffix('`'));
        let name = code
            .filter(|_| Path::new(target).extension().is_some_and(|extension| extension == "rs"))
            .map(|code| code.trim_end_matches("()"));
        // A path of a file, shown as it is.
        let name = name.filter(|name| !name.contains(['/', '.']));
        Some(Link { name: name.and_then(|name| name.rsplit("::").next()), target })
    })
}

/// The anchors of a document's headings, as they are made of their text.
fn headings(text: &str) -> BTreeSet<String> {
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().chars();
        let kept = kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

/// Whether a file of Rust defines a name.
fn defines(file: &Path, name: &str) -> bool {
    let Ok(text) = fs::read_to_string(file) else { return false };
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    KEYWORDS.iter().any(|keyword| {
        let definition = format!("{keyword} {name}");
        text.match_indices(&definition).any(|(at, _)| text.get(at + definition.len()..).is_some_and(ends))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found() {
        let text = "See [`Engine::frame`](a/b.rs), [this](#the-core-of-it) and [`a/b.rs`](a/b.rs).";
        let found: Vec<_> = links(text).map(|link| (link.name, link.target)).collect();
        assert_eq!(found, [(Some("frame"), "a/b.rs"), (None, "#the-core-of-it"), (None, "a/b.rs")]);
        assert!(headings("# X\n## The core, of `it`\n").contains("the-core-of-it"));
    }

    #[test]
    fn what_is_defined() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/links.rs");
        assert!(defines(&here, "defines") && defines(&here, "Link") && defines(&here, "KEYWORDS"));
        assert!(!defines(&here, "define") && !defines(&here, "nothing_of_this_name"));
    }

    /// Each document at the top of the tree is looked at.
    #[test]
    fn no_document_is_left_out() {
        let root = crate::root().expect("the workspace");
        let looked_at = documents(root).expect("documents");
        for entry in fs::read_dir(root).expect("the tree") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                assert!(looked_at.contains(&path), "{} is left out", path.display());
            }
        }
    }
}
