//! Options of the tools, by name: their help is made of them, and so are manual pages and completions.
//! Beside them what both tools need: how they connect, and how they say what others have written.

pub mod connect;
pub mod visible;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write as _};

use passt::cli::{Name, with_one_dash};

/// Letter, long name and argument of an option, as in `-C, --clear PIF`, and what it does.
pub type Described = (&'static str, &'static str);

/// Options of pesto.
pub const PESTO: &[Described] = &[
    ("-A, --add", "Add what the following specifiers say"),
    ("-D, --delete", "Delete what the following specifiers say"),
    ("-C, --clear PIF", "Delete all rules of an interface: HOST or SPLICE"),
    ("-t, --tcp-ports SPEC", "TCP ports of the host, for the guest"),
    ("-u, --udp-ports SPEC", "UDP ports of the host, for the guest"),
    ("-T, --tcp-ns SPEC", "TCP ports of the namespace, for the host"),
    ("-U, --udp-ns SPEC", "UDP ports of the namespace, for the host"),
    ("-s, --show", "Show rules before and after"),
    ("-d, --debug", "Say more"),
    ("-h, --help", "Print this text"),
    ("--version", "Print name and version"),
    ("--metrics", "Print counters in the text format of Prometheus"),
    ("--metrics-listen [ADDR:]PORT", "Serve them by HTTP at /metrics; ADDR is loopback by default"),
    ("--events", "Print events as they come, a line of JSON each"),
    (
        "--capture FILE",
        "Record frames in FILE until interrupted; - is standard output, unless that is a terminal",
    ),
    ("--request JSON", "Send a request of docs/control.md, print its answer"),
];

/// Options of passtop.
pub const PASSTOP: &[Described] = &[
    ("-i, --interval SECONDS", "Time between two looks, default 1"),
    ("-1, --once", "Print everything once, after one interval, and quit"),
    ("-j, --json", "Print it as JSON; implies --once"),
    ("-h, --help", "Print this text"),
    ("--version", "Print name and version"),
];

/// Options as a help shows them.
pub fn listed(options: &[Described]) -> String {
    let mut text = String::new();
    let indented = |names: &str| format!("{:1$}{names}", "", if names.starts_with("--") { 6 } else { 2 });
    let column = options.iter().map(|(names, _)| indented(names).len() + 2).max().unwrap_or(0);
    for (names, help) in options {
        let names = indented(names);
        // Writing to a string can't fail.
        let _ = writeln!(text, "{names:column$}{help}");
    }
    text
}

/// The long name of an option, without dashes; empty if it has none.
pub fn long((names, _): &Described) -> &'static str {
    let (_, long) = names.split_once("--").unwrap_or_default();
    long.split(' ').next().unwrap_or_default()
}

/// What is wrong with a word that spells a long option behind one dash, as of passt's options.
pub fn two_dashes(word: &OsStr, options: &[Described]) -> Option<String> {
    let names: Vec<_> = options.iter().map(|option| Name::of(option.0, long(option) == "help")).collect();
    with_one_dash(word, &names)
}

/// Writes to standard output at once, unless whoever read it has read enough; whether that is not so.
pub fn print(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}
