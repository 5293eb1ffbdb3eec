//! What only shows late, or beside others: ports that can't be had once they are free, recordings of
//! several clients, descriptors that come early, and clients that wait for events.

use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use passt_control::frame;
use passt_control::reply::{Answer, Outcome};
use passt_control::request::{Change, Changes, Message, Request};
use passt_control::{Protocol, Rule};
use passt_tests::{Place as _, eventually};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{QUIET, change, port, rules, start};

/// A rule at an address.
fn at_address(address: &str, rule: Rule) -> Rule {
    Rule { address: address.parse().ok(), ..rule }
}

/// A port that is in the way of our own rule's successor belongs to somebody else as well: that rule
/// is refused as it would be otherwise, and others of the same port are not.
#[test]
fn what_is_lost_late_is_that_rule_alone() {
    let Some(served) = start(QUIET) else { return };
    let _other = served.net.host.serve("127.0.0.2:9000");
    let mut client = served.client();
    let old = at_address("127.0.0.1", port(Protocol::Tcp, 9000, 80));
    let all = at_address("0.0.0.0", port(Protocol::Tcp, 9000, 80));
    let udp = port(Protocol::Udp, 9000, 80);
    assert!(change(&mut client, vec![Change::Add(old.clone())], false).committed);
    let wanted = || vec![Change::Delete(old.clone()), Change::Add(udp.clone()), Change::Add(all.clone())];

    let whole = change(&mut client, wanted(), false);
    let told: Vec<_> = whole.refused.iter().map(|refused| (&refused.rule, refused.part)).collect();
    assert_eq!((whole.committed, told), (false, vec![(&all, false)]), "{whole:?}");
    let expected = "Listen failed for HOST TCP port 0.0.0.0/9000: Address already in use";
    assert_eq!(whole.refused[0].reason, expected);
    assert_eq!(whole.outcomes, [(Outcome::Deleted, 1), (Outcome::Added, 1), (Outcome::Refused, 1)]);
    assert_eq!(rules(&mut client), std::slice::from_ref(&old));

    // One that need not have each of its ports, but has none.
    let weak = Rule { weak: true, ..all.clone() };
    let lost = change(&mut client, vec![Change::Delete(old.clone()), Change::Add(weak.clone())], false);
    assert!(!lost.committed && lost.refused.len() == 1 && lost.refused[0].rule == weak, "{lost:?}");
    assert_eq!(rules(&mut client), std::slice::from_ref(&old));

    // One that has another one.
    let two = |rule: &Rule, weak| Rule { last: Some(9001), weak, ..rule.clone() };
    let both = vec![Change::Delete(old.clone()), Change::Add(two(&old, false))];
    assert!(change(&mut client, both, false).committed);
    let part =
        change(&mut client, vec![Change::Delete(two(&old, false)), Change::Add(two(&all, true))], false);
    let told: Vec<_> = part.refused.iter().map(|refused| (refused.port, refused.part)).collect();
    assert_eq!((part.committed, told), (true, vec![(Some(9000), true)]), "{part:?}");
    let back = vec![Change::Delete(two(&all, true)), Change::Add(old.clone())];
    assert!(change(&mut client, back, false).committed);

    let partial = change(&mut client, wanted(), true);
    assert!(partial.committed && partial.refused.len() == 1 && partial.refused[0].rule == all, "{partial:?}");
    assert_eq!(partial.outcomes, [(Outcome::Deleted, 1), (Outcome::Added, 1), (Outcome::Refused, 1)]);
    assert_eq!(rules(&mut client), [udp]);
}

/// However many rules are lost late, the others take effect if that is wanted.
#[test]
fn many_are_lost_late() {
    let Some(served) = start(QUIET) else { return };
    let _others: Vec<_> =
        (0..10).map(|at| served.net.host.serve(&format!("127.0.0.2:{}", 9000 + 2 * at))).collect();
    let mut client = served.client();
    let ports = || (0..20_u16).map(|at| port(Protocol::Tcp, 9000 + at, 80));
    let one = || ports().map(|rule| at_address("127.0.0.1", rule));
    let all = || ports().map(|rule| at_address("0.0.0.0", rule));
    assert!(change(&mut client, one().map(Change::Add).collect(), false).committed);
    let wanted: Vec<_> = one().map(Change::Delete).chain(all().map(Change::Add)).collect();
    let changed = change(&mut client, wanted, true);
    assert!(
        changed.committed && changed.refused.iter().all(|refused| refused.rule.first % 2 == 0),
        "{changed:?}"
    );
    let counts = [Outcome::Added, Outcome::Refused, Outcome::Deleted].map(|outcome| {
        changed.outcomes.iter().filter(|(of, _)| *of == outcome).map(|(_, count)| count).sum::<usize>()
    });
    assert_eq!((counts, changed.refused.len()), ([10, 10, 20], 10), "{changed:?}");
    let left: Vec<_> = all().filter(|rule| rule.first % 2 == 1).collect();
    assert_eq!(rules(&mut client), left);
    assert!(client.rules().expect("rules").iter().all(|rule| rule.sockets == 1));
}

/// The kernel has room for many descriptors from the start: making it later keeps traffic waiting.
#[test]
fn room_for_descriptors() {
    let Some(served) = start(QUIET) else { return };
    let status = format!("/proc/{}/status", served.guest.pasta.pid());
    let room = || {
        let text = std::fs::read_to_string(&status).expect("pasta lives");
        let size = text.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("a line");
        size.trim().parse::<usize>().expect("a number")
    };
    let before = room();
    let rules = (0..2000).map(|at| Change::Add(port(Protocol::Tcp, 20_000 + at, 80)));
    let mut client = served.client();
    let rules: Vec<_> = rules.collect();
    for part in rules.chunks(500) {
        assert!(change(&mut client, part.to_vec(), false).committed);
    }
    assert!(before > 2000 && room() == before, "{before} {}", room());
}

/// Nobody takes another client's recording away.
#[test]
fn one_recording_at_a_time() {
    let Some(served) = start(QUIET) else { return };
    let [first, second] = ["first", "second"].map(|name| served.net.dir().join(name).display().to_string());
    let mut recording = served.start_tool("pesto", &format!("--capture {first}"));
    recording.wait_for("Recording in");
    let refused = served.pesto(&format!("--capture {second}"));
    assert!(!refused.status.success() && refused.stderr.contains("Another client"), "{refused:?}");
    let mut client = served.client();
    assert!(client.ask(Request::EndCapture).is_err());
    let Ok(Answer::Settings(settings)) = client.ask(Request::Settings) else { panic!("none") };
    assert!(settings.capture, "it goes on");
    recording.signal("INT");
    assert!(recording.finish().status.success());
    let mut recording = served.start_tool("pesto", &format!("--capture {second}"));
    recording.wait_for("Recording in");
    recording.signal("INT");
    assert!(recording.finish().status.success());
}

/// The kernel may tell of a descriptor together with what came before it.
#[test]
fn descriptors_come_with_what_was_sent_before() {
    let Some(served) = start(QUIET) else { return };
    for _ in 0..40 {
        let mut socket = UnixStream::connect(&served.socket).expect("a server");
        let mut bytes = frame::HELLO.to_vec();
        frame::append(&mut bytes, &Message { id: 1, request: Request::Hello }).expect("JSON");
        socket.write_all(&bytes).expect("room");
        let mut capture = Vec::new();
        frame::append(&mut capture, &Message { id: 2, request: Request::Capture }).expect("JSON");
        let file = std::fs::File::create(served.net.dir().join("frames")).expect("a file");
        send_with(&socket, &capture, &file);
        socket.shutdown(std::net::Shutdown::Write).expect("connected");
        let mut answers = Vec::new();
        socket.read_to_end(&mut answers).expect("answers");
        let text = String::from_utf8_lossy(&answers).into_owned();
        assert!(text.contains(r#"{"id":2,"answer":"done"}"#), "{text}");
    }
}

/// Each capture has the descriptor that was sent for it, also if requests wait.
#[test]
fn descriptors_of_requests_that_wait() {
    let Some(served) = start(QUIET) else { return };
    let mut socket = UnixStream::connect(&served.socket).expect("a server");
    let changes = (0..300).map(|at| Change::Add(port(Protocol::Tcp, 20_000 + at, 80))).collect();
    let mut bytes = frame::HELLO.to_vec();
    let slow = Changes { changes, more: false, partial: false };
    frame::append(&mut bytes, &Message { id: 1, request: Request::Change(slow) }).expect("JSON");
    socket.write_all(&bytes).expect("room");
    let files = ["first", "second"].map(|name| served.net.dir().join(name));
    for (id, file) in (2..).zip(&files) {
        let file = std::fs::File::create(file).expect("a file");
        let mut requests = Vec::new();
        frame::append(&mut requests, &Message { id, request: Request::Capture }).expect("JSON");
        frame::append(&mut requests, &Message { id: 9, request: Request::EndCapture }).expect("JSON");
        send_with(&socket, &requests, &file);
    }
    socket.shutdown(std::net::Shutdown::Write).expect("connected");
    let mut answers = Vec::new();
    socket.read_to_end(&mut answers).expect("answers");
    let text = String::from_utf8_lossy(&answers).into_owned();
    assert!([2, 3].iter().all(|id| text.contains(&format!(r#"{{"id":{id},"answer":"done"}}"#))), "{text}");
    // The header of a capture, at least.
    assert!(files.iter().all(|file| std::fs::metadata(file).expect("a file").len() >= 24));
}

/// Sends a descriptor beside some bytes.
fn send_with(socket: &UnixStream, bytes: &[u8], file: &std::fs::File) {
    let fds = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::empty()).expect("room");
}

/// Who waits for events keeps nobody out, and a reader that has read enough ends pesto.
#[test]
fn those_that_wait_for_events() {
    let Some(served) = start(QUIET) else { return };
    let subscribed: Vec<_> = (0..128)
        .map(|_| {
            let mut client = served.client();
            assert_eq!(client.ask(Request::Events).expect("an answer"), Answer::Done);
            client
        })
        .collect();
    served.pesto_succeeds("-A -t 8080");
    drop(subscribed);
    let id = passt_tests::User::NORMAL_ID;
    let pesto = format!(
        "setpriv --reuid={id} --regid={id} --clear-groups {} --events {}",
        served.net.tool("pesto").display(),
        served.socket.display()
    );
    let mut shell = served.net.host.command("sh");
    let mut told = passt_tests::Process::start(shell.args(["-c", &format!("{pesto} | head -n 1")]));
    // One line is read, and another finds nobody.
    let mut even = true;
    eventually("pesto has ended", || {
        served.pesto_succeeds(if even { "-D -t 8080" } else { "-A -t 8080" });
        even = !even;
        told.try_wait().map(drop)
    });
    assert!(told.finish().stdout.contains("rules-changed"));
}
