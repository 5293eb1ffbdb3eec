//! Seeing what happens: captures, logs, statistics.

use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, Net, Place as _, User, eventually, find_program, have};

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
    assert!(guest.stop().status.success());
    let text = net.host.run(&format!("tcpdump -Z root -nvr {}", file.display()));
    for part in [format!("> {FAR4}.5001: Flags [S]"), format!("{FAR4}.5001 >"), "Flags [S.]".to_owned()] {
        assert!(text.contains(&part), "no {part}");
    }
    if find_program("tshark").is_some() {
        let broken = net.host.run(&format!("tshark -n -r {} -Y _ws.malformed||_ws.short", file.display()));
        assert_eq!(broken, "");
    }
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

#[test]
fn each_level_says_more() {
    let (Some(quiet), Some(debug), Some(trace)) = (said("--quiet"), said("--debug"), said("--trace")) else {
        return;
    };
    assert_eq!(quiet, "");
    assert!(debug.lines().count() > 3, "{debug}");
    assert!(trace.lines().count() > debug.lines().count(), "{trace}");
    assert!(trace.contains(FAR4), "the connection is not named: {trace}");
}

#[test]
fn statistics_are_printed() {
    let Some(net) = Net::new() else { return };
    let _server = net.peer.serve(&at(FAR4, 5001));
    let guest = net.pasta(User::Normal).with("--config-net --foreground --stats 1").start();
    let before = guest.pasta.stderr().len() + guest.pasta.stdout().len();
    eventually("statistics", || {
        exchange(&guest, &at(FAR4, 5001));
        (guest.pasta.stderr().len() + guest.pasta.stdout().len() > before + 50).then_some(())
    });
}
