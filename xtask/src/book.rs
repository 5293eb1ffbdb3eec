//! The documents as a book, in HTML and as manual pages of section 7: `cargo xtask book`.
//!
//! `docs/SUMMARY.md` lists the chapters, as mdBook has it. lowdown renders them. What is here gives
//! pages their names and keeps links within the book. Manual pages of programs are in `manual`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

const SUMMARY: &str = "docs/SUMMARY.md";
/// The directory whose chapters are manual pages, too.
const PAGES: &str = "docs";
const STYLE: &str = "body{display:flex;gap:3em;font:16px/1.5 sans-serif;margin:2em}nav{min-width:14em}\
    main{max-width:50em;min-width:0}pre{overflow:auto;background:#eee;padding:.6em}\
    table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2em .6em}img{max-width:100%}";

/// A chapter.
struct Chapter {
    title: String,
    /// The file, from the workspace's directory.
    source: PathBuf,
    /// What it is called in the book, without an end.
    name: String,
}

/// Writes the book to `target/book`; true, as what fails is an error.
pub(crate) fn write(root: &Path) -> Result<bool> {
    let all = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let to = all.join("book");
    let chapters = chapters(root)?;
    for chapter in &chapters {
        let path = to.join(format!("{}.html", chapter.name));
        put(&path, &html(root, chapter, &chapters)?)?;
    }
    for (name, page) in pages(root)? {
        put(&to.join(name), &page)?;
    }
    for (from, name) in images(root, &chapters)? {
        let path = to.join(name);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::copy(&from, path).with_context(|| from.display().to_string())?;
    }
    println!("{}/index.html, and manual pages beside it", to.display());
    Ok(true)
}

/// Whether it can be rendered here.
pub(crate) fn can() -> bool {
    crate::machine::installed("lowdown")
}

/// The manual pages, by their file's name.
pub(crate) fn pages(root: &Path) -> Result<BTreeMap<String, String>> {
    let is_page = |chapter: &Chapter| chapter.source.parent() == Some(Path::new(PAGES));
    let mut pages = BTreeMap::new();
    for chapter in chapters(root)?.iter().filter(|chapter| is_page(chapter)) {
        let text = read(root, &chapter.source)?;
        let name = format!("passt-{}", chapter.name);
        let source = as_page(&text, &name);
        let title = format!("title={name}");
        let rendered = render(
            &source,
            &["-s", "-Tman", "--nroff-nolinks", "-M", &title, "-M", "section=7", "-M", "date="],
        )?;
        // Code is bold in manual pages; not every formatter has the font for it.
        pages.insert(format!("{name}.7"), rendered.replace("\\fC", "\\fB"));
    }
    Ok(pages)
}

/// A document as a manual page has it: with its title as what the page is about, and each heading
/// one level higher.
fn as_page(text: &str, name: &str) -> String {
    let mut page = String::new();
    let mut code = false;
    for line in text.lines() {
        code ^= line.starts_with("```");
        if let Some(title) = line.strip_prefix("# ").filter(|_| page.is_empty()) {
            page.extend(["# NAME\n\n", name, " - ", title, "\n\n# DESCRIPTION"]);
        } else if !code && line.starts_with("##") {
            page += &line[1..];
        } else {
            page += line;
        }
        page.push('\n');
    }
    page
}

/// The chapters that the list has, in order.
fn chapters(root: &Path) -> Result<Vec<Chapter>> {
    let text = read(root, Path::new(SUMMARY))?;
    let mut chapters = Vec::new();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("- [")) {
        let (title, rest) = line.split_once("](").with_context(|| line.to_owned())?;
        let source = plain(&Path::new(PAGES).join(rest.trim_end_matches(')')));
        let name = match source.to_str().context("a path")? {
            "README.md" => "index".to_owned(),
            path => {
                path.trim_start_matches("docs/").trim_end_matches(".md").replace("/README", "").to_lowercase()
            }
        };
        chapters.push(Chapter { title: title.to_owned(), source, name });
    }
    ensure!(!chapters.is_empty(), "{SUMMARY} lists nothing");
    Ok(chapters)
}

fn html(root: &Path, chapter: &Chapter, all: &[Chapter]) -> Result<String> {
    let body = render(&read(root, &chapter.source)?, &["-Thtml", "--html-no-escapehtml"])?;
    let directory = chapter.source.parent().unwrap_or(Path::new(""));
    let body = with_links(&body, "href=\"", |link| {
        let (path, heading) = link.split_once('#').map_or((link, None), |(path, to)| (path, Some(to)));
        let source = plain(&directory.join(path));
        let to = all.iter().find(|chapter| chapter.source == source)?;
        Some(heading.map_or_else(
            || format!("{}.html", to.name),
            |to_heading| format!("{}.html#{to_heading}", to.name),
        ))
    });
    let body = with_links(&body, "src=\"", |link| Some(image(&directory.join(link))));
    let entry =
        |chapter: &Chapter| format!("<p><a href=\"{}.html\">{}</a></p>\n", chapter.name, chapter.title);
    let list = all.iter().map(entry).collect::<Vec<_>>().concat();
    let title = &chapter.title;
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<nav>\n{list}</nav>\n<main>\n{body}</main>\n</body>\n</html>\n"
    ))
}

/// The text with each link that begins after `before` replaced, if there is another one for it; to
/// the outside and within the page they stay. What leads out of the book leads nowhere.
fn with_links(html: &str, before: &str, other: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = html.split(before);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (link, rest) = part.split_once('"').unwrap_or((part, ""));
        let stays = link.contains(':') || link.starts_with('#');
        let link = if stays { link.to_owned() } else { other(link).unwrap_or_else(|| "#".to_owned()) };
        text.extend([before, &link, "\"", rest]);
    }
    text
}

/// The pictures of all chapters, and what they are called in the book.
fn images(root: &Path, chapters: &[Chapter]) -> Result<BTreeMap<PathBuf, String>> {
    let mut images = BTreeMap::new();
    for chapter in chapters {
        let text = read(root, &chapter.source)?;
        for (at, _) in text.match_indices("![") {
            let target = text[at..].split_once("](").and_then(|(_, rest)| rest.split(')').next());
            let target = target.filter(|target| !target.contains(':')).context("a picture")?;
            let source = chapter.source.parent().context("a directory")?.join(target);
            images.insert(root.join(&source), image(&source));
        }
    }
    Ok(images)
}

/// What a picture is called in the book.
fn image(source: &Path) -> String {
    plain(source).to_string_lossy().trim_start_matches("docs/").to_owned()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            plain.pop();
        } else {
            plain.push(part);
        }
    }
    plain
}

fn render(text: &str, options: &[&str]) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, text)?;
    let mut command = Command::new("lowdown");
    let output = command.args(options).arg(file.path()).stdin(Stdio::null()).output().context("lowdown")?;
    ensure!(output.status.success(), "lowdown: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn read(root: &Path, path: &Path) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(path.parent().context("a directory")?)?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_page() {
        let page = as_page("# Control\n\nText.\n\n## Who\n\n```\n## no heading\n```\n", "passt-control");
        assert_eq!(
            page,
            "# NAME\n\npasst-control - Control\n\n# DESCRIPTION\n\nText.\n\n# Who\n\n```\n## no heading\n```\n"
        );
    }

    #[test]
    fn links_stay_in_the_book() {
        let html = "<a href=\"a.md#b\">x</a> <a href=\"https://c/\">y</a> <a href=\"#d\">z</a> <a href=\"e.rs\">w</a>";
        let found =
            with_links(html, "href=\"", |link| link.strip_prefix("a.md").map(|rest| format!("a.html{rest}")));
        assert_eq!(found, html.replace("a.md", "a.html").replace("e.rs", "#"));
    }

    /// Every document in the directory is a chapter, its pictures are there, and what a formatter of
    /// manual pages objects to is a mistake.
    #[test]
    fn the_book_is_whole() {
        let root = crate::root().expect("workspace");
        let chapters = chapters(root).expect("chapters");
        for entry in fs::read_dir(root.join(PAGES)).expect("documents") {
            let path = entry.expect("a document").path();
            let path = path.strip_prefix(root).expect("inside");
            let listed = chapters.iter().any(|chapter| chapter.source == path);
            let is_document = path.extension().is_some_and(|end| end == "md") && path != Path::new(SUMMARY);
            assert!(listed || !is_document, "{SUMMARY} does not list {}", path.display());
        }
        for image in images(root, &chapters).expect("pictures").keys() {
            assert!(image.is_file(), "{}", image.display());
        }
        if !passt_tests::have(&["lowdown", "mandoc"]) {
            return;
        }
        for chapter in &chapters {
            assert!(html(root, chapter, &chapters).expect("a page").contains("<h1"), "{}", chapter.name);
        }
        let dir = tempfile::tempdir().expect("a directory");
        for (name, page) in pages(root).expect("pages") {
            let path = dir.path().join(&name);
            fs::write(&path, page).expect("written");
            let lint = Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&path).output();
            let lint = lint.expect("mandoc");
            assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
        }
    }
}
