//! What `--help` and `--version` print, from the table of options.

use std::fmt::Write;

use super::Program;
use super::getopt::Spec as _;
use super::option::Opt;
use super::options::GROUPS;

/// Column in which descriptions begin.
const COLUMN: usize = 30;

/// The usage and every option of the program.
pub(super) fn usage(program: Program, name: &str) -> String {
    let mut text = String::new();
    let forms: &[&str] = match program {
        Program::Passt | Program::VhostUser => &[""],
        Program::Pasta => &[" [COMMAND [ARG]...]", " PID", " --netns PATH|NAME"],
    };
    for (i, form) in forms.iter().enumerate() {
        let lead = if i == 0 { "Usage:" } else { "      " };
        line(&mut text, format_args!("{lead} {name} [OPTION]...{form}"));
    }
    for (title, group) in groups(program) {
        line(&mut text, format_args!("\n{title}:"));
        for option in group {
            describe(&mut text, option);
        }
    }
    text
}

/// The options of a program, under their titles.
pub(super) fn groups(program: Program) -> impl Iterator<Item = (&'static str, Vec<&'static Opt>)> {
    GROUPS.iter().filter_map(move |&(title, group)| {
        let shown: Vec<_> = group.iter().filter(|o| o.scope.concerns(program)).collect();
        (!shown.is_empty()).then_some((title, shown))
    })
}

/// Name, version and terms.
pub(super) fn version(program: Program, _name: &str) -> String {
    let name = match program {
        Program::Passt | Program::VhostUser => "passt",
        Program::Pasta => "pasta",
    };
    format!(
        "{name} {}\n\
         Licence: GNU General Public License, version 2 or (at your option) later\n\
         <https://www.gnu.org/licenses/old-licenses/gpl-2.0.html>.\n\
         Free software: you may change it and pass it on under these terms.\n\
         It comes with no warranty, as far as the law permits.\n",
        crate::VERSION
    )
}

/// What the vhost-user convention wants to know of a back end.
pub(super) fn capabilities(_: Program, _name: &str) -> String {
    "{\n  \"type\": \"net\"\n}\n".to_owned()
}

fn describe(text: &mut String, option: &Opt) {
    let indent = if option.short().is_some() { 2 } else { 6 };
    let names = format!("{:indent$}{}", "", option.names);
    let mut first = names.as_str();
    if first.len() + 2 > COLUMN {
        line(text, format_args!("{first}"));
        first = "";
    }
    for part in option.help.lines() {
        line(text, format_args!("{first:COLUMN$}{part}"));
        first = "";
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = writeln!(text, "{content}");
}
