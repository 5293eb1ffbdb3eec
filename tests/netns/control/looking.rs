//! What is shown: flows, counters, metrics, events, recordings, settings, and the live view.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use passt_control::Protocol;
use passt_control::client::Error;
use passt_control::reply::{Answer, Code, Event, Failure};
use passt_control::request::{Carried, Change, Flows, Name, Request, Set};
use passt_tests::transfer::{MIB, at, download, far_servers, upload};
use passt_tests::{FAR4, HOST4, Place as _, eventually, have};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{ioctl_fionread, write};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{QUIET, Served, change, port, start};

fn flows(served: &Served, wanted: Flows) -> Vec<passt_control::reply::Flow> {
    match served.client().ask(Request::Flows(wanted)) {
        Ok(Answer::Flows(page)) => page.flows,
        other => panic!("{other:?}"),
    }
}

/// A connection is seen with both its sides, and ended.
#[test]
fn flows_are_seen_and_ended() {
    let Some(served) = start("-t 8080:80 -u none -T none -U none") else { return };
    let _far = far_servers(&served.net);
    let mut steady = served.guest.start_peer(&format!("steady {}", at(FAR4, 5001)));
    steady.wait_for("STEADY");
    let all = flows(&served, Flows::default());
    let flow = all.iter().find(|flow| flow.remote == at(FAR4, 5001)).expect("the connection");
    assert_eq!((flow.protocol.as_str(), flow.via.as_str(), flow.state.as_str()), ("tcp", "link", "open"));
    assert!(flow.guest.starts_with(HOST4) && flow.target.as_deref() == Some(&at(FAR4, 5001)), "{flow:?}");
    assert!(flow.out_bytes > 100_000 && flow.in_bytes > 100_000, "{flow:?}");
    let tcp = flow.tcp.expect("what TCP knows");
    assert!(tcp.host_rtt_us > 0 && tcp.host_cwnd > 0 && tcp.guest_window > 0, "{tcp:?}");
    let of = |protocol: &str, port: u16| Flows {
        protocol: Some(protocol.into()),
        port: Some(port),
        ..Flows::default()
    };
    assert_eq!(flows(&served, of("tcp", 5001)).len(), 1);
    assert_eq!(flows(&served, of("udp", 5001)).len(), 0);
    assert_eq!(flows(&served, of("tcp", 5999)).len(), 0);
    let name = Name { flow: flow.flow.clone() };
    assert_eq!(served.client().ask(Request::End(name.clone())).expect("done"), Answer::Done);
    eventually("the connection's end", || steady.try_wait());
    let finished = steady.finish();
    assert!(finished.stderr.contains("reset"), "{finished:?}");
    let again = served.client().ask(Request::End(name));
    assert!(matches!(again, Err(Error::Failure(Failure { code: Code::NotFound, .. }))), "{again:?}");
}

#[test]
fn metrics() {
    let Some(served) = start(QUIET) else { return };
    if !have(&["curl"]) {
        return;
    }
    let _far = far_servers(&served.net);
    let value = |text: &str, name: &str| -> u64 {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().expect("a value").parse().expect("a number")
    };
    let bytes = "passt_link_bytes_total{direction=\"from_guest\"} ";
    let before = value(&served.pesto_succeeds("--metrics"), bytes);
    upload(&served.guest, &at(FAR4, 5001), 4 * MIB);
    let after = value(&served.pesto_succeeds("--metrics"), bytes);
    assert!(after - before >= 4 * MIB, "{before} {after}");
    let mut exporter = served.start_tool("pesto", "--metrics-listen 9100");
    exporter.wait_for("Metrics at http://127.0.0.1:9100/metrics");
    for url in ["/metrics", "/metrics?module=x", "/"] {
        let text = served.net.host.run(&format!("curl -s --max-time 10 http://127.0.0.1:9100{url}"));
        assert!(value(&text, bytes) >= after, "{url}");
    }
    assert!(served.net.host.run("curl -s --max-time 10 http://127.0.0.1:9100/other").contains("Not found"));
    assert_eq!(
        served.net.peer.start(&format!("curl -s --max-time 3 http://{HOST4}:9100/metrics")).finish().stdout,
        ""
    );
}

#[test]
fn events() {
    let Some(served) = start("-t auto -u none -T none -U none") else { return };
    let mut client = served.client();
    assert_eq!(client.ask(Request::Events).expect("done"), Answer::Done);
    let mut other = served.client();
    assert!(change(&mut other, vec![Change::Add(port(Protocol::Udp, 8080, 80))], false).committed);
    assert_eq!(client.event().expect("an event"), Event::RulesChanged { added: 1, deleted: 0 });
    // A service that is followed.
    let server = served.guest.serve("[::]:7001");
    let Event::ServicesChanged { sockets } = client.event().expect("an event") else { panic!("another") };
    assert!(sockets > 0);
    drop(server);
    assert_eq!(client.event().expect("an event"), Event::ServicesChanged { sockets: 0 });
    let told = served.start_tool("pesto", "--events");
    eventually("it is told", || {
        assert!(change(&mut other, vec![Change::Add(port(Protocol::Udp, 8081, 80))], false).committed);
        assert!(change(&mut other, vec![Change::Delete(port(Protocol::Udp, 8081, 80))], false).committed);
        told.stdout().contains("{\"rules-changed\":{\"added\":1,\"deleted\":0}}").then_some(())
    });
    served.guest.stop();
    let last = told.finish();
    assert!(last.status.success() && last.stdout.contains("{\"exit\":{"), "{last:?}");
}

/// Recorded while it runs: to a file, and by a pipe.
#[test]
fn recordings() {
    let Some(served) = start(QUIET) else { return };
    if !have(&["tcpdump"]) {
        return;
    }
    let _far = far_servers(&served.net);
    let file = served.net.dir().join("frames.pcap");
    let mut recording = served.start_tool("pesto", &format!("--capture {}", file.display()));
    recording.wait_for("Recording in");
    upload(&served.guest, &at(FAR4, 5001), MIB);
    recording.signal("INT");
    assert!(recording.finish().status.success());
    let size = fs::metadata(&file).expect("a file").len();
    assert!(size > MIB, "{size}");
    let text = served.net.host.run(&format!("tcpdump -nr {}", file.display()));
    assert!(text.contains(&format!("{FAR4}.5001: Flags [S]")), "{text}");
    upload(&served.guest, &at(FAR4, 5001), MIB);
    assert_eq!(fs::metadata(&file).expect("a file").len(), size, "it goes on");
    let id = passt_tests::User::NORMAL_ID;
    let pesto = served.net.tool("pesto");
    let script = format!(
        "setpriv --reuid={id} --regid={id} --clear-groups {} --capture - {} | tcpdump -c 20 -nr - 2>&1",
        pesto.display(),
        served.socket.display()
    );
    let mut shell = served.net.host.command("sh");
    let mut piped = passt_tests::Process::start(shell.args(["-c", &script]));
    eventually("it is recorded", || {
        upload(&served.guest, &at(FAR4, 5001), MIB / 4);
        piped.try_wait().map(drop)
    });
    let text = piped.finish().stdout;
    assert!(text.contains(&format!("{FAR4}.5001: Flags [")), "{text}");
}

/// Who is refused a recording, as somebody else has one, leaves what there is as it was.
#[test]
fn a_recording_that_is_refused() {
    let Some(served) = start(QUIET) else { return };
    let _far = far_servers(&served.net);
    let path = |name: &str| served.net.dir().join(name);
    let capture = |name: &str| format!("--capture {}", path(name).display());
    for (name, text) in [("old", "old"), ("frames", "longer than the first record of a recording")] {
        fs::write(path(name), text).expect("a file");
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o666)).expect("a file for all");
    }
    let mut recording = served.start_tool("pesto", &capture("frames"));
    recording.wait_for("Recording in");
    upload(&served.guest, &at(FAR4, 5001), MIB / 4);
    let begun = fs::read(path("frames")).expect("a file");
    assert!(
        begun.len() as u64 > MIB / 4 && begun.starts_with(&0xa1b2_3c4d_u32.to_ne_bytes()),
        "{}",
        begun.len()
    );
    for name in ["frames", "old", "new"] {
        let refused = served.pesto(&capture(name));
        assert!(refused.stderr.contains("Another client has frames recorded"), "{name}: {refused:?}");
    }
    recording.signal("INT");
    assert!(recording.finish().status.success());
    assert!(fs::read(path("frames")).expect("a file").starts_with(&begun));
    assert_eq!(fs::read_to_string(path("old")).expect("a file"), "old");
    assert!(!path("new").exists());
}

#[test]
fn settings() {
    let Some(served) = start(QUIET) else { return };
    let mut client = served.client();
    let Ok(Answer::Settings(before)) = client.ask(Request::Settings) else { panic!("none") };
    assert_ne!(before.log_level, "debug");
    let set = Set {
        log_level: Some("debug".into()),
        resolvers: Some(vec![
            "192.0.2.99".parse().expect("an address"),
            "2001:db8::99".parse().expect("one"),
        ]),
        search: Some(vec!["new.test".into()]),
        host_name: Some("box".into()),
    };
    let Ok(Answer::Settings(after)) = client.ask(Request::Set(set)) else { panic!("none") };
    assert_eq!(after.log_level, "debug");
    assert_eq!(after.resolvers, ["192.0.2.99", "2001:db8::99"]);
    assert_eq!((after.search.join(" ").as_str(), after.host_name.as_deref()), ("new.test", Some("box")));
    for wrong in [
        Set { log_level: Some("loud".into()), ..Set::default() },
        Set { resolvers: Some(vec!["0.0.0.0".parse().expect("an address")]), ..Set::default() },
        Set { search: Some(vec!["a..b".into()]), ..Set::default() },
        Set { host_name: Some("a b".into()), log_level: Some("trace".into()), ..Set::default() },
    ] {
        let refused = client.ask(Request::Set(wrong));
        assert!(matches!(refused, Err(Error::Failure(Failure { code: Code::Invalid, .. }))), "{refused:?}");
    }
    let Ok(Answer::Settings(same)) = client.ask(Request::Settings) else { panic!("none") };
    assert_eq!(same, after);
    // A new line at the new level is there.
    assert!(change(&mut client, vec![Change::Add(port(Protocol::Tcp, 8080, 80))], false).committed);
    eventually("a line", || served.guest.pasta.stderr().contains("Rules: 1 added").then_some(()));
}

/// What the live view says is what happened.
#[test]
fn the_live_view_once() {
    let Some(served) = start("-t 8080:80 -u none -T none -U none") else { return };
    let _far = far_servers(&served.net);
    let _server = served.guest.serve("[::]:80");
    let mut out = served.guest.start_peer(&format!("steady {}", at(FAR4, 5001)));
    out.wait_for("STEADY");
    let mut inward = served.net.peer.start_peer(&format!("steady {}", at(HOST4, 8080)));
    inward.wait_for("STEADY");
    let text = served.start_tool("passtop", "--json -i 0.5").finish();
    let seen: serde_json::Value = serde_json::from_str(&text.stdout).expect("JSON");
    assert_eq!(seen["hello"]["program"], "pasta");
    assert!(seen["rate_out"].as_u64() > Some(100_000) && seen["rate_in"].as_u64() > Some(100_000), "{seen}");
    let flows = seen["flows"].as_array().expect("flows");
    let flow = |remote: &str| flows.iter().find(|flow| flow["remote"] == remote).is_some();
    assert!(flow(&at(FAR4, 5001)) && flows.len() >= 2, "{seen}");
    let port = &seen["ports"][0];
    assert_eq!((&port["rule"]["first"], &port["sockets"]), (&8080.into(), &1.into()), "{seen}");
    assert_eq!(port["users"].as_array().map(Vec::len), Some(1), "{seen}");
    let text = served.start_tool("passtop", "--once -i 0.5").finish();
    assert!(text.status.success(), "{text:?}");
    for part in ["pasta", "Flows", &at(FAR4, 5001), "TCP [*]:8080", "our MAC"] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.stdout);
    download(&served.guest, &at(FAR4, 5001), MIB);
}

/// Of flows that carry nothing nothing is told each second, and they are shown nevertheless.
#[test]
fn flows_that_are_silent() {
    let Some(served) = start(QUIET) else { return };
    let _far = far_servers(&served.net);
    let _idle = served.guest.start_peer(&format!("idle {} 60", at(FAR4, 5001)));
    let mut client = served.client();
    let mut names =
        |within_ms| match client.ask(Request::Carried(Carried { within_ms, ..Carried::default() })) {
            Ok(Answer::Carried(page)) => page.flows.len(),
            other => panic!("{other:?}"),
        };
    eventually("it is there", || (names(Some(60_000)) == 1).then_some(()));
    eventually("it is silent", || (names(Some(300)) == 0).then_some(()));
    assert_eq!(names(None), 1);
    let text = served.start_tool("passtop", "--json -i 0.5").finish();
    let seen: serde_json::Value = serde_json::from_str(&text.stdout).expect("JSON");
    assert_eq!(
        (&seen["flow_count"], &seen["flows"][0]["remote"]),
        (&1.into(), &at(FAR4, 5001).into()),
        "{seen}"
    );
}

/// What is written to nobody, or can't be, ends the tools in one line or none.
#[test]
fn nobody_reads() {
    let Some(served) = start(QUIET) else { return };
    for (tool, options) in [
        ("pesto", "--help"),
        ("pesto", ""),
        ("pesto", "--metrics"),
        ("passtop", "--help"),
        ("passtop", "--json -i 0.1"),
    ] {
        let line = format!("{} {options} {}", served.net.tool(tool).display(), served.socket.display());
        let shell = |script: String| {
            let mut command = served.net.host.command("bash");
            passt_tests::Process::start(command.args(["-c", &script])).finish()
        };
        let piped = shell(format!("set -o pipefail; {line} | true"));
        assert!(piped.status.success() && piped.stderr.is_empty(), "{line}: {piped:?}");
        let full = shell(format!("{line} >/dev/full"));
        assert_eq!((full.status.code(), full.stderr.lines().count()), (Some(1), 1), "{line}: {full:?}");
    }
}

/// What can't be done with an instance that is there is one line, too, and says what can.
#[test]
fn what_can_be_done_instead() {
    let Some(served) = start(QUIET) else { return };
    for (tool, options, expected) in [
        ("passtop", "", "passtop: standard output is not a terminal; --once shows all once"),
        ("pesto", "--request x", "Not a request, as in '{\"rules\":{}}': "),
        ("pesto", "--request {\"rule\":{}}", "Not a request, as in '{\"rules\":{}}': unknown variant `rule`"),
    ] {
        let finished = served.start_tool(tool, options).finish();
        let lines: Vec<_> = finished.stderr.lines().collect();
        assert!(finished.status.code() == Some(1) && lines.len() == 1, "{tool} {options}: {finished:?}");
        assert!(lines[0].starts_with(expected), "{tool} {options}: {finished:?}");
    }
}

/// What can't be reached is one line with one reason.
#[test]
fn nobody_is_there() {
    let Some(net) = passt_tests::Net::new() else { return };
    for tool in ["pesto", "passtop"] {
        let finished = net.host.start(&format!("{} /no/such/socket", net.tool(tool).display())).finish();
        let lines: Vec<_> = finished.stderr.lines().collect();
        assert!(finished.status.code() == Some(1) && lines.len() == 1, "{finished:?}");
        assert_eq!(lines[0].matches("No such file or directory").count(), 1, "{finished:?}");
    }
}

/// Without a path the only instance is found, however its path was written.
#[test]
fn the_only_one_is_found() {
    let Some(net) = passt_tests::Net::new() else { return };
    let found = |command: &str| {
        let line = format!("cd {} && {command}", net.dir().display());
        let mut shell = net.host.command("bash");
        passt_tests::Process::start(shell.args(["-c", &line])).finish()
    };
    let passtop = net.tool("passtop").display().to_string();
    let mut shell = net.host.command("bash");
    let line = format!(
        "cd {} && exec {} --config-net -t none -T none -u none -U none -c pasta-here.sock -f sleep 60",
        net.dir().display(),
        net.tool("pasta").display()
    );
    let pasta = passt_tests::Process::start(shell.args(["-c", &line]));
    let seen = eventually("it is there", || {
        let finished = found(&format!("{passtop} --json -i 0.1"));
        finished.status.success().then_some(finished.stdout)
    });
    assert!(seen.contains("\"program\":\"pasta\""), "{seen}");
    pasta.signal("TERM");
}

/// The live view in a terminal: pages, order, filter, pause, and its end.
#[test]
fn the_live_view_in_a_terminal() {
    let Some(served) = start("-t 8080:80 -u none -T none -U none") else { return };
    if !have(&["tmux"]) {
        return;
    }
    let _far = far_servers(&served.net);
    let mut steady = served.guest.start_peer(&format!("steady {}", at(FAR4, 5001)));
    steady.wait_for("STEADY");
    let terminal = served.net.dir().join("tmux");
    let tmux = |words: &[&str]| {
        let mut command = served.net.host.command("tmux");
        command.arg("-S").arg(&terminal).args(words).env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        passt_tests::Process::start(&mut command).finish()
    };
    let line = format!(
        "{} -i 0.3 {}; echo ENDED; sleep 60",
        served.net.tool("passtop").display(),
        served.socket.display()
    );
    let begun = tmux(&["-u", "new-session", "-d", "-x", "80", "-y", "24", &line]);
    assert!(begun.status.success(), "{begun:?}");
    let screen = || tmux(&["capture-pane", "-p"]).stdout;
    let shows = |parts: &[&str]| {
        eventually(&format!("{parts:?}"), || {
            let text = screen();
            parts.iter().all(|part| text.contains(part)).then_some(())
        });
    };
    let press = |key: &str| assert!(tmux(&["send-keys", key]).status.success());
    shows(&["pasta 0.", "1 Flows", &at(FAR4, 5001), "open", "order rate"]);
    press("2");
    shows(&["TCP [*]:8080  =>  80", "sockets"]);
    press("3");
    shows(&["in all", "meaning"]);
    press("4");
    shows(&["our MAC", "flows begun"]);
    press("Tab");
    press("s");
    shows(&["order bytes"]);
    press("/");
    press("nothing");
    press("Enter");
    shows(&["filter nothing"]);
    assert!(!screen().contains(&at(FAR4, 5001)));
    press("Escape");
    press("p");
    shows(&["PAUSED", &at(FAR4, 5001)]);
    press("q");
    shows(&["ENDED"]);
    assert!(!screen().contains("1 Flows"), "the terminal is left as it was");
    tmux(&["kill-server"]);
    // Whoever ends it from outside leaves the terminal as it was, too.
    let line = line.replace("; echo ENDED", "; stty -a; echo ENDED");
    let begun = tmux(&["-u", "new-session", "-d", "-x", "80", "-y", "24", &line]);
    assert!(begun.status.success(), "{begun:?}");
    shows(&["pasta 0.", "1 Flows"]);
    let shell = tmux(&["display-message", "-p", "#{pane_pid}"]).stdout;
    served.net.host.run(&format!("pkill -TERM -P {}", shell.trim()));
    shows(&[" icanon", " echo ", "ENDED"]);
    assert!(!screen().contains("1 Flows"));
    tmux(&["kill-server"]);
}

/// Who looks in a terminal whose other end nobody reads any more can be ended all the same.
#[test]
fn the_live_view_in_a_terminal_that_nobody_reads() {
    let Some(served) = start(QUIET) else { return };
    let (terminal, screen) = terminal();
    let mut command = served.net.host.command(served.net.tool("passtop").to_str().expect("UTF-8"));
    command.args(["-i", "0.1"]).arg(&served.socket);
    let open = || Stdio::from(screen.try_clone().expect("the terminal"));
    command.env("TERM", "xterm").stdin(open()).stdout(open()).stderr(open());
    let mut passtop = command.spawn().expect("passtop");
    eventually("it waits for the terminal", || {
        // Only what changes is drawn: another page is much of the screen. Who can't draw takes no keys.
        write(&terminal, b"\t").expect("a key");
        (ioctl_fionread(&screen).expect("a terminal") >= 100).then_some(())
    });
    kill_process(Pid::from_child(&passtop), Signal::TERM).expect("passtop");
    let status = eventually("it ends", || passtop.try_wait().expect("passtop"));
    assert!(status.success(), "{status}");
}

/// A terminal of 24 lines, both its ends.
fn terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("a name");
    let screen = open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&screen, size).expect("a size");
    (master, screen)
}
