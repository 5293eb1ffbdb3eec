//! The manual pages: options from the program's own table, and what an option's line cannot say.
//!
//! The pages are kept in `docs/man`, so that packages need no build of them; a test here fails
//! while they are older than what they are made from.

mod text;
mod told;
mod tools;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use passt::cli;
use passt_tools::{PASSTOP, PESTO};
use roff::{Inline, Roff, bold, italic, roman};

/// The programs that have a page, all in section 1.
const PAGES: [&str; 7] = ["passt", "pasta", "passtop", "pesto", "qrap", "slirp4netns", "vpnkit"];

/// Writes every page.
pub(crate) fn write(root: &Path) -> Result<()> {
    for name in PAGES {
        let path = path(root, name);
        fs::write(&path, page(name)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn path(root: &Path, name: &str) -> std::path::PathBuf {
    root.join(format!("docs/man/{name}.1"))
}

/// The source of a page.
fn page(name: &str) -> String {
    let pasta = name == "pasta";
    let mut page = Roff::new();
    page.control(
        "TH",
        [name, "1", text::DATE, &format!("{name} {}", env!("CARGO_PKG_VERSION")), "User Commands"],
    );
    let named = |options: &[(&'static str, &'static str)]| -> Vec<cli::Described> {
        options.iter().map(|&(names, help)| cli::Described { names, help }).collect()
    };
    let short = match name {
        "pesto" => Some((tools::PESTO, named(PESTO))),
        "passtop" => Some((tools::PASSTOP, named(PASSTOP))),
        "qrap" => Some((tools::QRAP, Vec::new())),
        "slirp4netns" => Some((tools::SLIRP4NETNS, cli::described_slirp4netns())),
        "vpnkit" => Some((tools::VPNKIT, cli::described_vpnkit())),
        _ => None,
    };
    if let Some(((before, after), options)) = short {
        for section in before {
            prose(&mut page, section);
        }
        if !options.is_empty() {
            page.control("SH", ["OPTIONS"]);
        }
        for option in options {
            describe(&mut page, option);
        }
        for section in after {
            prose(&mut page, section);
        }
        return page.render();
    }
    for section in text::before(pasta) {
        prose(&mut page, section);
    }
    page.control("SH", ["OPTIONS"]);
    for (title, options) in cli::described(pasta) {
        page.control("SS", [title]);
        for option in options {
            describe(&mut page, option);
        }
    }
    told::write(&mut page);
    for section in text::after(pasta) {
        prose(&mut page, section);
    }
    page.render()
}

/// An option: its names, then what it does.
fn describe(page: &mut Roff, option: cli::Described) {
    page.control("TP", []);
    let mut names = Vec::new();
    for (i, name) in option.names.split(", ").enumerate() {
        names.extend((i > 0).then(|| roman(", ")));
        let (name, argument) = name.split_at(name.find([' ', '=']).unwrap_or(name.len()));
        names.push(bold(name));
        if !argument.is_empty() {
            let (sign, argument) = argument.split_at(1);
            names.extend([roman(sign), italic(argument)]);
        }
    }
    page.text(names);
    for line in option.help.lines() {
        if line.starts_with("default:") {
            page.control("br", []);
        }
        page.text([roman(line)]);
    }
}

/// A section of text: a title in the first line, then paragraphs with empty lines between, of which
/// one that is indented is shown as it is, and one whose first line ends with a colon alone is a
/// term and what it means. `*` is around what is to be typed.
fn prose(page: &mut Roff, section: &str) {
    let (title, body) = section.split_once('\n').unwrap_or((section, ""));
    page.control("SH", [title]);
    for (i, paragraph) in body.trim_end().split("\n\n").enumerate() {
        let commented = paragraph.strip_prefix("<!-- ").and_then(|text| text.split_once(" -->\n"));
        if let Some((comment, text)) = commented {
            page.control(format!("\\\" {comment}"), []);
            example(page, text);
        } else if paragraph.starts_with("    ") {
            example(page, paragraph);
        } else if let Some((term, meaning)) = paragraph.split_once(" ::\n") {
            page.control("TP", []);
            page.text(inline(term));
            lines(page, meaning);
        } else {
            if i > 0 {
                page.control("PP", []);
            }
            lines(page, paragraph);
        }
    }
}

fn example(page: &mut Roff, text: &str) {
    page.control("PP", []);
    page.control("RS", ["4"]);
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line.trim_start())]);
    }
    page.control("fi", []);
    page.control("RE", []);
}

fn lines(page: &mut Roff, text: &str) {
    for line in text.lines() {
        page.text(inline(line));
    }
}

/// Text in which every other part between asterisks is bold.
fn inline(text: &str) -> Vec<Inline> {
    let part = |(i, part): (usize, &str)| if i % 2 == 1 { bold(part) } else { roman(part) };
    text.split('*').enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Otherwise: `cargo xtask man`.
    #[test]
    fn pages_are_those_of_this_program() {
        let root = crate::root().expect("workspace");
        for name in PAGES {
            let kept = fs::read_to_string(path(root, name)).expect("a page");
            assert!(kept == page(name), "docs/man/{name}.1 is out of date: cargo xtask man");
        }
    }

    #[test]
    fn every_option_is_there_and_isolation_is_explained() {
        for (name, option) in [("passt", "\\-\\-one\\-off"), ("pasta", "\\-\\-config\\-net")] {
            let page = page(name);
            for part in [
                option,
                "\\-\\-foreground",
                "ntp\\-servers",
                "PID namespace",
                ".SH ISOLATION",
                ".SH EXAMPLES",
            ] {
                assert!(page.contains(part), "{name}: {part}");
            }
        }
    }

    /// What a formatter objects to is a mistake.
    #[test]
    fn pages_are_well_formed() {
        if !passt_tests::have(&["mandoc"]) {
            return;
        }
        let root = crate::root().expect("workspace");
        for name in PAGES {
            let lint =
                Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(path(root, name)).output();
            let lint = lint.expect("mandoc");
            assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
        }
    }
}
