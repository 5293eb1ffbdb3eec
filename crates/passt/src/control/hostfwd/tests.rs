//! Requests and answers, as the first server of this API has them.

use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms { guest: Ipv4Addr::new(10, 0, 2, 100), v6: false };
const BOTH: Terms = Terms { v6: true, ..TERMS };

fn add(arguments: &str) -> String {
    format!(r#"{{"execute":"add_hostfwd","arguments":{{{arguments}}}}}"#)
}

/// The forward that was understood, as the list has it.
fn shown(request: &str, terms: Terms) -> String {
    match parse(request.as_bytes(), true, terms) {
        Parsed::Request(Request::Add(forward)) => serde_json::to_string(&forward).unwrap(),
        other => panic!("{request}: {other:?}"),
    }
}

#[test]
fn bad_requests() {
    let (large, enough) = (" ".repeat(4096), " ".repeat(4095));
    let cases = [
        (large.as_str(), "too large message"),
        (&enough, "cannot parse JSON"),
        ("", "cannot parse JSON"),
        ("{", "cannot parse JSON"),
        ("nul", "cannot parse JSON"),
        ("/* c */ {}", "cannot parse JSON"),
        (r#"{"execute":"list_hostfwd",}"#, "cannot parse JSON"),
        ("[]", "json_object() failed"),
        ("12", "json_object() failed"),
        (r#""x""#, "json_object() failed"),
        ("null", "json_object() failed"),
        ("{}", "no execute found"),
        (r#"{"execute":3}"#, "no execute found"),
        (r#"{"execute":"foo"}"#, "unknown execute"),
        (r#"{"execute":"add_hostfwd"}"#, "add_hostfwd: bad arguments.proto"),
        (r#"{"execute":"add_hostfwd","arguments":[]}"#, "add_hostfwd: bad arguments.proto"),
        (&add(r#""proto":"icmp""#), "add_hostfwd: bad arguments.proto"),
        (&add(r#""proto":"tcp""#), "add_hostfwd: bad arguments.host_port"),
        (&add(r#""proto":"tcp","host_port":"80""#), "add_hostfwd: bad arguments.host_port"),
        (&add(r#""proto":"tcp","host_port":0"#), "add_hostfwd: bad arguments.host_port"),
        (&add(r#""proto":"tcp","host_port":-1"#), "add_hostfwd: bad arguments.host_port"),
        (&add(r#""proto":"tcp","host_port":65536"#), "add_hostfwd: bad arguments.host_port"),
        (&add(r#""proto":"tcp","host_addr":"::","host_port":80"#), "add_hostfwd: bad arguments.host_addr"),
        (&add(r#""proto":"tcp","host_addr":"y","guest_addr":"x""#), "add_hostfwd: bad arguments.host_addr"),
        (&add(r#""proto":"tcp","host_port":80,"guest_addr":"x""#), "add_hostfwd: bad arguments.guest_addr"),
        (&add(r#""proto":"tcp","host_port":80"#), "add_hostfwd: bad arguments.guest_port"),
        (r#"{"execute":"remove_hostfwd"}"#, "remove_hostfwd: bad arguments.id"),
        (r#"{"execute":"remove_hostfwd","arguments":{"id":"1"}}"#, "remove_hostfwd: bad arguments.id"),
        (r#"{"execute":"remove_hostfwd","arguments":{"id":-1}}"#, "remove_hostfwd: bad arguments.id"),
    ];
    for (request, expected) in cases {
        let Parsed::Bad(reason) = parse(request.as_bytes(), true, TERMS) else { panic!("{request}") };
        assert_eq!(reason, format!("bad request: {expected}"), "{request}");
        assert_eq!(error(reason), format!(r#"{{"error":{{"desc":"{reason}"}}}}"#).as_bytes());
    }
}

#[test]
fn what_is_missing_has_a_default() {
    let cases = [
        (r#""proto":"tcp","host_port":8080,"guest_port":80"#, "tcp 0.0.0.0 8080 10.0.2.100 80"),
        (
            r#""proto":"udp","host_addr":"","host_port":8080.9,"guest_addr":"","guest_port":80.7"#,
            "udp 0.0.0.0 8080 10.0.2.100 80",
        ),
        (
            r#""proto":"tcp","host_addr":5,"host_port":65535,"guest_addr":"10.0.2.15","guest_port":1"#,
            "tcp 0.0.0.0 65535 10.0.2.15 1",
        ),
        (r#""proto":"tcp","host_addr":"::1","host_port":80,"guest_port":80"#, "tcp ::1 80 :: 80"),
        (
            r#""proto":"tcp","host_addr":"::","host_port":80,"guest_addr":"fd00::9","guest_port":80"#,
            "tcp :: 80 fd00::9 80",
        ),
    ];
    for (arguments, expected) in cases {
        let [protocol, host_addr, host_port, guest_addr, guest_port] =
            expected.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let expected = format!(
            r#"{{"proto":"{protocol}","host_addr":"{host_addr}","host_port":{host_port},"guest_addr":"{guest_addr}","guest_port":{guest_port}}}"#
        );
        assert_eq!(shown(&add(arguments), BOTH), expected);
    }
    let across =
        add(r#""proto":"tcp","host_addr":"::1","host_port":8,"guest_addr":"10.0.2.15","guest_port":8"#);
    assert_eq!(
        parse(across.as_bytes(), true, BOTH),
        Parsed::Bad("bad request: add_hostfwd: bad arguments.guest_addr")
    );
}

/// A request is answered as soon as it is complete, whatever follows.
#[test]
fn requests_in_parts() {
    let request = r#"{"execute":"list_hostfwd"}"#;
    for end in 0..request.len() {
        assert_eq!(parse(&request.as_bytes()[..end], false, TERMS), Parsed::Incomplete, "{end}");
    }
    for rest in ["", "\n", " garbage", "}"] {
        let whole = format!("{request}{rest}");
        assert_eq!(parse(whole.as_bytes(), false, TERMS), Parsed::Request(Request::List), "{rest}");
    }
    assert_eq!(parse(b"1", false, TERMS), Parsed::Incomplete);
    assert!(matches!(parse(b"x", false, TERMS), Parsed::Bad(_)));
}

#[test]
fn numbers_are_not_used_again() {
    let mut table = Table::new(TERMS);
    let forward = |port: u16| match parse(
        add(&format!(r#""proto":"tcp","host_port":{port},"guest_port":80"#)).as_bytes(),
        true,
        TERMS,
    ) {
        Parsed::Request(Request::Add(forward)) => forward,
        other => panic!("{other:?}"),
    };
    let mut answer = |client, change, is_done| match table.begin(client, change) {
        Ok(_) => String::from_utf8(table.end(client, is_done).unwrap()).unwrap(),
        Err(reason) => reason.to_owned(),
    };
    assert_eq!(answer(1, Change::Add(forward(1)), true), r#"{"return":{"id":1}}"#);
    assert!(answer(2, Change::Add(forward(1)), false).contains("slirp_add_hostfwd failed"));
    assert_eq!(answer(3, Change::Add(forward(2)), true), r#"{"return":{"id":2}}"#);
    assert!(answer(4, Change::Remove(1), false).contains("slirp_remove_hostfwd failed"));
    assert_eq!(answer(5, Change::Remove(1), true), r#"{"return":{}}"#);
    assert_eq!(answer(6, Change::Remove(1), true), "bad request: remove_hostfwd: bad arguments.id");
    assert_eq!(answer(7, Change::Add(forward(1)), true), r#"{"return":{"id":3}}"#);
    let entry = |id, port| {
        format!(
            r#"{{"id":{id},"proto":"tcp","host_addr":"0.0.0.0","host_port":{port},"guest_addr":"10.0.2.100","guest_port":80}}"#
        )
    };
    let entries = format!("[{},{}]", entry(2, 2), entry(3, 1));
    let expected = format!(r#"{{"return":{{"entries":{entries}}},"entries":{entries}}}"#);
    assert_eq!(String::from_utf8(table.list()).unwrap(), expected);
    assert_eq!(table.end(8, true), None);
}

proptest! {
    /// Whatever comes gets one answer, and what has ended is never waited for.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), ended: bool) {
        let parsed = parse(&bytes, ended, BOTH);
        prop_assert!(!ended || parsed != Parsed::Incomplete);
    }

    #[test]
    fn any_arguments(text in "[\\[{\"a-z:,0-9.e}\\]-]{0,60}") {
        let _ = parse(add(&text).as_bytes(), true, BOTH);
    }
}
