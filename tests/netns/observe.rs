//! Seeing what happens: captures, logs, statistics.
#![expect(clippy::disallowed_methods, reason = "real programs live in real time")]

use std::time::{Duration, Instant};

use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, FAR6, HOST4, Net, Place as _, User, eventually, have};

#[test]
fn a_capture_that_tcpdump_reads() {
    let Some(net) = Net::new() else { return };
    if !have(&["tcpdump"]) {
        return;
    }
    let _server = net.peer.serve(&at(FAR4, 5001));
    let file = net.dir().join("capture.pcap");
    let guest = net.pasta(User::Normal).with("--config-net --pcap").with(&file.to_string_lossy()).start();
    upload(&guest, &at(FAR4, 5001), 4 * MIB);
    download(&guest, &at(FAR4, 5001), 4 * MIB);
    let _echo = net.peer.serve(&at(FAR6, 5002));
    exchange(&guest, &at(FAR6, 5002));
    assert!(guest.stop().status.success());
    let text = net.host.run(&format!("tcpdump -Z root -nvvr {}", file.display()));
    for part in [format!("> {FAR4}.5001: Flags [S]"), format!("{FAR4}.5001 >"), "Flags [S.]".to_owned()] {
        assert!(text.contains(&part), "no {part}");
    }
    // What is cut or makes no sense is marked in brackets.
    assert!(!text.contains("[|") && !text.contains("(invalid"), "{text}");
    // Checksums that the guest's kernel leaves to a device, and those that we leave to it.
    // Not "bad " alone: a correct checksum may be 0x1bad.
    let marks = ["incorrect", "bad cksum", "bad udp", "bad icmp"];
    let wrong = text.lines().find(|line| marks.iter().any(|mark| line.contains(mark)));
    assert!(text.contains("(correct)") && wrong.is_none(), "{wrong:?}");
}

/// A guest that gives much to log does not fill the disk.
#[test]
fn the_log_file_keeps_its_limit() {
    let Some(net) = Net::new() else { return };
    let file = net.dir().join("pasta.log");
    let options = format!("--config-net --trace --log-size 65536 --log-file {}", file.display());
    let guest = net.pasta(User::Normal).with(&options).start();
    let mut largest = 0;
    for seed in 1..20 {
        guest.peer(&format!("mangle eth0 1000 {seed}"));
        largest = std::fs::metadata(&file).expect("log file").len().max(largest);
        assert!(largest <= 65_536, "{largest}");
    }
    assert!(largest > 40_000, "the log was never near its limit: {largest}");
    // Only now is it certain that the program is not just making room.
    assert!(guest.stop().status.success());
    let text = String::from_utf8_lossy(&std::fs::read(&file).expect("log file")).into_owned();
    assert!(text.lines().next().is_some_and(|line| line.contains("pasta")), "{}", &text[..200]);
}

/// What the program says while a connection comes and goes.
fn said(options: &str) -> Option<String> {
    let net = Net::new()?;
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net").with(options).start();
    exchange(&guest, &at(FAR4, 5001));
    Some(guest.stop().stderr)
}

/// Each level has its own lines and those of the levels before it. Beside a command nothing is said
/// unless it is asked for.
#[test]
fn each_level_says_more() {
    let levels = ["", "--quiet", "--debug", "--trace"].map(said);
    let [Some(normal), Some(quiet), Some(debug), Some(trace)] = levels else { return };
    assert_eq!(normal + &quiet, "");
    // What the guest is told, the connection, and each frame.
    let [settings, begun, ended, frame] = [
        format!("IPv4: assign {HOST4}/24"),
        format!("{FAR4}:5001: begun"),
        format!("{FAR4}:5001: ended"),
        "from guest: ".to_owned(),
    ];
    for part in [&settings, &begun, &ended] {
        for text in [&debug, &trace] {
            assert!(text.contains(part), "no {part}: {text}");
        }
    }
    assert!(trace.contains(&frame) && !debug.contains(&frame), "{debug}");
}

/// The value behind `label` in a line of statistics, as `from guest` or `begun`.
fn value(line: &str, label: &str) -> u64 {
    let (_, behind) = line.split_once(label).unwrap_or_else(|| panic!("no {label}: {line}"));
    let number = behind.split_whitespace().next().expect("a value");
    number.parse().unwrap_or_else(|_| panic!("{label}: {line}"))
}

/// The bytes that went one way, `label`: `from guest 12 frames 3456 bytes`.
fn bytes(line: &str, label: &str) -> u64 {
    let (_, behind) = line.split_once(label).unwrap_or_else(|| panic!("no {label}: {line}"));
    value(behind, " frames")
}

/// A line every second, which counts what was transferred, each way.
#[test]
fn statistics_are_printed() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net --foreground --stats 1").start();
    let last = || {
        let lines = guest.pasta.stdout();
        lines.lines().rfind(|line| line.starts_with("flows ")).map(str::to_owned)
    };
    let before = eventually("statistics", last);
    upload(&guest, &at(FAR4, 5001), 8 * MIB);
    download(&guest, &at(FAR4, 5001), 2 * MIB);
    let after = eventually("statistics of two connections that have ended", || {
        last().filter(|line| {
            value(line, "begun ") >= value(&before, "begun ") + 2 && value(line, "flows ") == 0
        })
    });
    for (label, length) in [("from guest ", 8 * MIB), ("to guest ", 2 * MIB)] {
        let moved = bytes(&after, label) - bytes(&before, label);
        assert!((length..length + length / 2).contains(&moved), "{label}: {moved} of {length}: {after}");
    }
    assert!(value(&after, "rounds ") > value(&before, "rounds "), "{after}");
    let lines = || guest.pasta.stdout().lines().filter(|line| line.starts_with("flows ")).count();
    let (so_far, start) = (lines(), Instant::now());
    eventually("three more lines", || (lines() >= so_far + 3).then_some(()));
    assert!(start.elapsed() > Duration::from_millis(1500), "more often than once a second");
}
