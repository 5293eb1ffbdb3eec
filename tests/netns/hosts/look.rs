//! What a namespace has, and where it differs from what a row expects.

use passt_tests::{Guest, Place};

use crate::row::Family;

/// The parts of a route that say nothing about where it leads, each with its value.
const LEFT_OUT: [&str; 5] = ["dev", "proto", "pref", "scope", "expires"];
/// What a route says of the moment.
const STATE: [&str; 3] = ["\\", "dead", "linkdown"];

/// A route as the table writes it: without interface, origin, preference, scope, lifetime and
/// state, and without the metric that every IPv6 route has by default.
pub(crate) fn normal(line: &str) -> String {
    let mut words = line.split_whitespace().filter(|word| !STATE.contains(word)).peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        let usual = word == "metric" && matches!(words.peek(), Some(&"1024"));
        if LEFT_OUT.contains(&word) || usual {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// Compares two lists without regard to order.
fn differ(what: &str, mut got: Vec<String>, mut expected: Vec<String>) -> Option<String> {
    got.sort();
    expected.sort();
    // What any of several could be is left until these have theirs.
    let (open, exact): (Vec<_>, Vec<_>) = expected.iter().partition(|text| text.ends_with('*'));
    let mut left = got.clone();
    let mut same = got.len() == expected.len();
    for wanted in exact.into_iter().chain(open) {
        let is = |text: &String| match wanted.strip_suffix('*') {
            Some(start) => text.starts_with(start),
            None => text == wanted,
        };
        let found = left.iter().position(is).map(|place| left.remove(place));
        same &= found.is_some();
    }
    (!same).then(|| format!("{what}: got {got:?}, expected {expected:?}"))
}

/// The addresses of an interface, but for IPv6 link-local ones: `ADDRESS[ peer ADDRESS]/LENGTH`.
fn addresses(place: &impl Place, family: &str, interface: &str) -> Vec<String> {
    let list = place.run(&format!("ip -o {family} addr show dev {interface}"));
    let address = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().skip(3).collect();
        match words.as_slice() {
            [address, "peer", other, ..] => format!("{address} peer {other}"),
            [address, ..] => (*address).to_owned(),
            [] => String::new(),
        }
    };
    list.lines().map(address).filter(|address| !address.starts_with("fe80:")).collect()
}

/// The routes over an interface, and those that the kernel made, which are to the networks of its
/// addresses.
fn routes(place: &impl Place, family: &str, interface: &str) -> (Vec<String>, Vec<String>) {
    let list = place.run(&format!("ip -o {family} route show"));
    let over = format!(" dev {interface} ");
    let lines = list.lines().filter(|line| format!("{line} ").contains(&over));
    let (made, given): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains(" proto kernel"));
    let all = |lines: Vec<&str>| lines.into_iter().map(normal).collect::<Vec<_>>();
    // IPv6 has one to a single address, too, which is no network.
    let network = |route: &String| route.split(' ').next().is_some_and(|to| to.contains('/'));
    let made = all(made).into_iter().filter(|r| !r.starts_with("fe80::/64"));
    let made = made.filter(|r| family == "-4" || network(r)).collect();
    (all(given), made)
}

/// Where the guest's configuration is not the expected one. `family` is an option of `ip`.
pub(crate) fn configuration(
    guest: &Guest,
    host: &impl Place,
    tap: &str,
    family: &str,
    expected: Option<&Family>,
) -> Vec<String> {
    let of = |what: &str| format!("{what} {family}");
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let (given, made) = routes(guest, family, tap);
    let got = addresses(guest, family, tap);
    let Some(expected) = expected else {
        let none = [differ(&of("addresses"), got, vec![]), differ(&of("routes"), given, vec![])];
        return none.into_iter().flatten().collect();
    };
    let mut found = vec![
        differ(&of("addresses"), got, texts(expected.addresses)),
        differ(&of("routes"), given, texts(expected.routes)),
    ];
    if !expected.template.is_empty() {
        let (_, templates) = routes(host, family, expected.template);
        found.push(differ(&of("networks"), made, templates));
    }
    found.push(primary(&guest.pasta.stderr(), family, expected));
    found.into_iter().flatten().collect()
}

/// Where what the program says of its choices is not the expected.
fn primary(log: &str, family: &str, expected: &Family) -> Option<String> {
    let name = if family == "-4" { "IPv4" } else { "IPv6" };
    let first = expected.addresses.first().copied().unwrap_or_default();
    let wanted = if expected.primary.is_empty() { first } else { expected.primary };
    let wanted = wanted.split(['/', ' ', '*']).next().unwrap_or_default();
    let said = |what: &str| {
        log.lines().find_map(|line| Some(line.split_once(what)?.1.split([',', '/']).next()?.to_owned()))
    };
    let template = said(&format!("Template interface for {name}: ")).unwrap_or_default();
    if template != expected.template {
        return Some(format!("template {family}: got {template:?}, expected {:?}", expected.template));
    }
    let told = said(&format!("{name}: assign ")).unwrap_or_default();
    let same = told == wanted;
    (!same).then(|| format!("primary {family}: got {told:?}, expected {wanted:?}"))
}
