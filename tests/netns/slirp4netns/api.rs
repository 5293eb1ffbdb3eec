//! The API socket: what each request is answered with, and what clients may do to it.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use passt_tests::{DEADLINE, eventually};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::rig::{Rig, Slirp, original};

/// The program with its socket, and what is around it.
pub(crate) struct Served {
    pub(crate) slirp: Slirp,
    pub(crate) rig: Rig,
    pub(crate) socket: PathBuf,
}

/// Starts it with the guest configured.
pub(crate) fn serve(options: &str) -> Option<Served> {
    let rig = Rig::new()?;
    let socket = rig.net.dir().join("api");
    let slirp = rig.start(&format!("--api-socket={} {options}", socket.display()));
    Some(Served { slirp, rig, socket })
}

impl Served {
    /// The answer to a request.
    pub(crate) fn ask(&self, request: &str) -> String {
        ask(&self.socket, request.as_bytes())
    }

    /// The answer to a request for a port, given as JSON within the braces.
    pub(crate) fn add(&self, arguments: &str) -> String {
        self.ask(&format!("{{\"execute\":\"add_hostfwd\",\"arguments\":{{{arguments}}}}}"))
    }

    /// Requires that this is the answer.
    pub(crate) fn added(&self, arguments: &str, id: u32) {
        assert_eq!(self.add(arguments), format!("{{\"return\":{{\"id\":{id}}}}}"), "{arguments}");
    }

    /// Requires that a port can be removed.
    pub(crate) fn removed(&self, id: u32) {
        let request = format!("{{\"execute\":\"remove_hostfwd\",\"arguments\":{{\"id\":{id}}}}}");
        assert_eq!(self.ask(&request), "{\"return\":{}}", "{id}");
    }

    fn lists(&self, entries: &str) {
        assert_eq!(self.ask(LIST), listed(entries));
    }
}

const LIST: &str = "{\"execute\":\"list_hostfwd\"}";

/// The answer with these entries. The original's manual shows it in another place than its program
/// does: ours has both.
fn listed(entries: &str) -> String {
    if original() {
        format!("{{\"entries\":[{entries}]}}")
    } else {
        format!("{{\"return\":{{\"entries\":[{entries}]}},\"entries\":[{entries}]}}")
    }
}

fn error(text: &str) -> String {
    format!("{{\"error\":{{\"desc\":\"bad request: {text}\"}}}}")
}

fn connect(socket: &Path) -> UnixStream {
    let address = SocketAddrUnix::new(socket).expect("a short path");
    // By the system's call alone, this would wait without end for a server that takes nobody.
    let stream = eventually("a server that accepts", || {
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None);
        let fd = fd.expect("a socket");
        rustix::net::connect(&fd, &address).ok().map(|()| UnixStream::from(fd))
    });
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
    stream.set_write_timeout(Some(DEADLINE)).expect("a socket");
    stream
}

/// All that comes until the server closes, with what it did not read or without.
fn answer(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "no answer");
    }
    String::from_utf8(answer).expect("text")
}

/// The answer at a socket to a request, after which nothing else is sent.
pub(crate) fn ask(socket: &Path, request: &[u8]) -> String {
    let mut stream = connect(socket);
    stream.write_all(request).expect("a server that reads");
    // It may have answered and closed already.
    drop(stream.shutdown(Shutdown::Write));
    answer(stream)
}

/// Requests, and the error behind `bad request: `.
const BAD: [(&str, &str); 29] = [
    ("\n", "cannot parse JSON"),
    ("x", "cannot parse JSON"),
    ("{", "cannot parse JSON"),
    ("{\"execute\":\"list_hostfwd\"", "cannot parse JSON"),
    ("{'execute':'list_hostfwd'}", "cannot parse JSON"),
    ("[]", "json_object() failed"),
    ("1", "json_object() failed"),
    ("null", "json_object() failed"),
    ("\"list_hostfwd\"", "json_object() failed"),
    ("{}", "no execute found"),
    ("{\"execute\":1}", "no execute found"),
    ("{\"execute\":null}", "no execute found"),
    ("{\"Execute\":\"list_hostfwd\"}", "no execute found"),
    ("{\"arguments\":{\"id\":1}}", "no execute found"),
    ("{\"execute\":\"\"}", "unknown execute"),
    ("{\"execute\":\"nope\"}", "unknown execute"),
    ("{\"execute\":\"LIST_HOSTFWD\"}", "unknown execute"),
    ("{\"execute\":\"add_hostfwd \"}", "unknown execute"),
    ("{\"execute\":\"remove_hostfwd\"}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{}}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":[]}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":1}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":null}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":0}}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":-1}}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":9}}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":\"1\"}}", "remove_hostfwd: bad arguments.id"),
    ("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":null}}", "remove_hostfwd: bad arguments.id"),
    ("{\"id\":1,\"execute\":\"remove_hostfwd\"}", "remove_hostfwd: bad arguments.id"),
];

#[test]
fn bad_requests() {
    let Some(served) = serve("") else { return };
    for (request, text) in BAD {
        assert_eq!(served.ask(request), error(text), "{request}");
    }
    assert_eq!(served.ask(""), error("cannot parse JSON"), "nothing");
    served.lists("");
}

/// Arguments of a request for a port, and which one is wrong. The first is named.
const BAD_PORTS: [(&str, &str); 24] = [
    (r#""proto":"sctp","host_port":8080,"guest_port":80"#, "proto"),
    (r#""proto":"TCP","host_port":8080,"guest_port":80"#, "proto"),
    (r#""proto":"","host_port":8080,"guest_port":80"#, "proto"),
    (r#""proto":"tcp6","host_addr":"nope","host_port":0,"guest_addr":"nope","guest_port":0"#, "proto"),
    (r#""proto":"tcp","host_addr":"nope","host_port":8080,"guest_port":80"#, "host_addr"),
    (r#""proto":"tcp","host_addr":"localhost","host_port":8080,"guest_port":80"#, "host_addr"),
    (r#""proto":"udp","host_addr":"127.0.1","host_port":8080,"guest_port":80"#, "host_addr"),
    (r#""proto":"tcp","host_addr":"::1","host_port":8080,"guest_port":80"#, "host_addr"),
    (r#""proto":"tcp","host_addr":"::","host_port":8080,"guest_port":80"#, "host_addr"),
    (r#""proto":"tcp","host_addr":"x","host_port":0,"guest_addr":"nope","guest_port":0"#, "host_addr"),
    (r#""proto":"tcp","host_port":0,"guest_port":80"#, "host_port"),
    (r#""proto":"tcp","host_port":"8080","guest_port":80"#, "host_port"),
    (r#""proto":"tcp","host_port":null,"guest_port":80"#, "host_port"),
    (r#""proto":"tcp","guest_port":80"#, "host_port"),
    (r#""proto":"udp""#, "host_port"),
    (r#""proto":"tcp","host_port":0,"guest_addr":"nope","guest_port":0"#, "host_port"),
    (r#""proto":"tcp","host_port":8080,"guest_addr":"nope","guest_port":80"#, "guest_addr"),
    (r#""proto":"udp","host_port":8080,"guest_addr":"::1","guest_port":80"#, "guest_addr"),
    (r#""proto":"tcp","host_port":8080,"guest_addr":"fd00::100","guest_port":80"#, "guest_addr"),
    (r#""proto":"tcp","host_port":8080,"guest_addr":"nope","guest_port":0"#, "guest_addr"),
    (r#""proto":"tcp","host_port":8080,"guest_port":0"#, "guest_port"),
    (r#""proto":"tcp","host_port":8080,"guest_port":"80""#, "guest_port"),
    (r#""proto":"tcp","host_port":8080"#, "guest_port"),
    (r#""proto":"tcp","host_port":8080,"guest_port":null"#, "guest_port"),
];

/// The original ends by the first three and takes the rest for other ports.
const OURS: [(&str, &str); 6] = [
    (r#""host_port":8080,"guest_port":80"#, "proto"),
    (r#""proto":5,"host_port":8080,"guest_port":80"#, "proto"),
    ("", "proto"),
    (r#""proto":"tcp","host_port":65536,"guest_port":80"#, "host_port"),
    (r#""proto":"tcp","host_port":-1,"guest_port":80"#, "host_port"),
    (r#""proto":"tcp","host_port":8080,"guest_port":65616"#, "guest_port"),
];

#[test]
fn bad_ports() {
    let Some(served) = serve("") else { return };
    let ours = if original() { &OURS[..0] } else { &OURS };
    for (arguments, which) in BAD_PORTS.iter().chain(ours) {
        let text = error(&format!("add_hostfwd: bad arguments.{which}"));
        assert_eq!(served.add(arguments), text, "{arguments}");
    }
    if !original() {
        let without = served.ask("{\"execute\":\"add_hostfwd\"}");
        assert_eq!(without, error("add_hostfwd: bad arguments.proto"));
    }
    served.lists("");
    // None of them has used up a number.
    served.added(r#""proto":"tcp","host_port":8080,"guest_port":80"#, 1);
}

#[test]
fn ports_are_listed_and_removed() {
    let Some(served) = serve("") else { return };
    let full = |proto: &str, host_port: u16| {
        format!(
            r#""proto":"{proto}","host_addr":"127.0.0.1","host_port":{host_port},"guest_addr":"10.0.2.15","guest_port":80"#
        )
    };
    served.lists("");
    served.added(&full("tcp", 8080), 1);
    served.added(&full("udp", 8080), 2);
    let entry = |id: u32, arguments: &str| format!("{{\"id\":{id},{arguments}}}");
    let (one, two) = (entry(1, &full("tcp", 8080)), entry(2, &full("udp", 8080)));
    served.lists(&format!("{one},{two}"));
    // What is left out, or empty.
    served.added(r#""guest_port":81,"host_port":8081,"proto":"tcp""#, 3);
    served.added(r#""proto":"udp","host_addr":"","host_port":8081,"guest_addr":"","guest_port":81"#, 4);
    let three = r#"{"id":3,"proto":"tcp","host_addr":"0.0.0.0","host_port":8081,"guest_addr":"10.0.2.100","guest_port":81}"#;
    let four = three.replace("tcp", "udp").replace(":3,", ":4,");
    served.lists(&format!("{one},{two},{three},{four}"));
    served.removed(2);
    served.lists(&format!("{one},{three},{four}"));
    let again = served.ask("{\"execute\":\"remove_hostfwd\",\"arguments\":{\"id\":2}}");
    assert_eq!(again, error("remove_hostfwd: bad arguments.id"));
    for id in [1, 3, 4] {
        served.removed(id);
    }
    served.lists("");
    // A number is never used again.
    served.added(&full("udp", 8080), 5);
    served.lists(&entry(5, &full("udp", 8080)));
}

/// Where the guest's address is left out, it is the recommended one of this network.
#[test]
fn the_recommended_address_is_of_the_network() {
    let Some(served) = serve("--cidr=10.0.135.128/25") else { return };
    served.added(r#""proto":"tcp","host_port":8080,"guest_port":80"#, 1);
    served.lists(
        r#"{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.135.228","guest_port":80}"#,
    );
}

/// As clients write them: with a line's end or without, and with the end of what they send or
/// without.
#[test]
fn forms_of_a_request() {
    let Some(served) = serve("") else { return };
    for request in [
        LIST.to_owned(),
        format!("{LIST}\n"),
        format!("{LIST}\r\n"),
        format!(" \n{LIST}"),
        "{ \"execute\" : \"list_hostfwd\", \"arguments\": {}, \"more\": [1] }".to_owned(),
        // Only one is answered.
        format!("{LIST}\n{{\"execute\":\"nope\"}}\n"),
    ] {
        assert_eq!(served.ask(&request), listed(""), "{request:?}");
        let mut open = connect(&served.socket);
        open.write_all(request.as_bytes()).expect("a server that reads");
        assert_eq!(answer(open), listed(""), "left open: {request:?}");
    }
}

#[test]
fn a_request_has_a_limit() {
    let Some(served) = serve("") else { return };
    let padded = |length: usize| format!("{LIST}{}", " ".repeat(length - LIST.len()));
    assert_eq!(served.ask(&padded(4095)), listed(""));
    for length in [4096, 4097, 100_000] {
        let mut stream = connect(&served.socket);
        // The server need not read all of it.
        drop(stream.write_all(padded(length).as_bytes()));
        assert_eq!(answer(stream), error("too large message"), "{length}");
    }
    // As of /dev/zero.
    let mut stream = connect(&served.socket);
    while stream.write_all(&[0; 4096]).is_ok() {}
    assert_eq!(answer(stream), error("too large message"));
    served.lists("");
}

/// Ours only: the original takes what has come first for all.
#[test]
fn a_request_in_parts() {
    if original() {
        return;
    }
    let Some(served) = serve("") else { return };
    for closes in [true, false] {
        let mut stream = connect(&served.socket);
        for part in ["{\"execute\":", "\"list_", "hostfwd\"", "}"] {
            stream.write_all(part.as_bytes()).expect("a server that reads");
            eventually("the part is read", || {
                (passt_sys::socket::unacknowledged(stream.as_fd()).ok()? == 0).then_some(())
            });
        }
        if closes {
            drop(stream.shutdown(Shutdown::Write));
        }
        assert_eq!(answer(stream), listed(""), "closes: {closes}");
    }
}

/// Ours only: the original serves one after the other, as long as that takes.
#[test]
fn clients_that_say_nothing() {
    if original() {
        return;
    }
    let Some(mut served) = serve("") else { return };
    let mut stalled: Vec<UnixStream> = (0..100).map(|_| connect(&served.socket)).collect();
    for stream in stalled.iter_mut().step_by(2) {
        stream.write_all(b"{\"execute\":").expect("room");
    }
    served.lists("");
    served.added(r#""proto":"tcp","host_port":8080,"guest_port":80"#, 1);
    drop(stalled);
    served.removed(1);
    served.slirp.assert_alive();
}

/// A client that is gone before its answer is no harm.
#[test]
fn clients_that_do_not_wait() {
    let Some(mut served) = serve("") else { return };
    for request in ["", "{", LIST] {
        let mut stream = connect(&served.socket);
        stream.write_all(request.as_bytes()).expect("room");
        drop(stream);
        served.lists("");
    }
    served.slirp.assert_alive();
}

/// As long a path as there can be, and one at which a file is already.
#[test]
fn paths_of_the_socket() {
    let Some(rig) = Rig::new() else { return };
    let dir = rig.net.dir().display().to_string();
    let longest = format!("{dir}/{}", "a".repeat(106 - dir.len()));
    assert_eq!(longest.len(), 107);
    for path in [longest, format!("{dir}/api")] {
        std::fs::write(&path, "in the way").expect("a file");
        let slirp = rig.start(&format!("--api-socket={path}"));
        assert_eq!(ask(Path::new(&path), LIST.as_bytes()), listed(""));
        slirp.stop();
        assert!(!Path::new(&path).exists());
    }
}
