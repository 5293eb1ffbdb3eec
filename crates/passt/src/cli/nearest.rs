//! The known name that a mistyped one was probably meant to be.

/// How much alike two names are that are taken for the same, of 1 for equal ones: `confg-net` and
/// `config-net`, but not `foo` and `foreground`.
const ALIKE: f64 = 0.85;

/// Bytes of a name that is compared with others, which takes time with its square.
const LONGEST: usize = 64;

/// What other programs call something that is known here by the second name.
const ELSEWHERE: [(&str, &str); 6] = [
    ("publish", "tcp-ports"),
    ("port", "tcp-ports"),
    ("ports", "tcp-ports"),
    ("verbose", "debug"),
    ("nameserver", "dns"),
    ("ip", "address"),
];

/// The one of the `known` names that is most like `name`, or means the same, if there is one.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > LONGEST {
        return None;
    }
    let ours = ELSEWHERE.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| *ours);
    if let Some(same) = known.iter().find(|known| Some(**known) == ours) {
        return Some(same);
    }
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(name, known), *known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_and_words_of_others() {
        let known = [
            "config-net",
            "foreground",
            "no-map-gw",
            "tcp-ports",
            "tcp-ns",
            "debug",
            "mtu",
            "map-guest-addr",
        ];
        for (name, expected) in [
            ("confg-net", Some("config-net")),
            ("config_net", Some("config-net")),
            ("no-map-gateway", Some("no-map-gw")),
            ("tcp-port", Some("tcp-ports")),
            ("mut", None),
            ("foo", None),
            ("bogus", None),
            ("", None),
            ("publish", Some("tcp-ports")),
            ("verbose", Some("debug")),
            ("nameserver", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }
}
