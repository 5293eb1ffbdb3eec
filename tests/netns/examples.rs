//! Examples of README, of the documents and of the manual pages, run as they stand there: as user
//! and as root, on a host whose resolver is on its loopback and on one whose is elsewhere.
//!
//! [`passt_tests::examples`] has the marks that say how. Each page's examples are run in order in one
//! directory; every example, and every terminal, has a PID namespace, with which it ends.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use passt_tests::examples::{self, Example, How, Page};
use passt_tests::{FAR4, Net, Place as _, Process, User, eventually, eventually_within, find_program, have};

/// Programs that are in examples, or that hosts need.
const NEEDED: [&str; 8] = ["bash", "curl", "dig", "dnsmasq", "nginx", "python3", "ss", "tcpdump"];
/// Where examples find these.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[test]
fn as_user() {
    run_all(User::Normal, false);
}

#[test]
fn as_root() {
    run_all(User::Root, false);
}

#[test]
fn as_user_with_a_resolver_on_loopback() {
    run_all(User::Normal, true);
}

#[test]
fn as_root_with_a_resolver_on_loopback() {
    run_all(User::Root, true);
}

/// Runs all examples that are for this user and such a host.
fn run_all(user: User, on_loopback: bool) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace");
    let pages = examples::all(root).expect("examples");
    if !have(&NEEDED) {
        return;
    }
    let mut failures = String::new();
    for page in pages {
        let is_meant = |example: &&Example| {
            example.user.is_none_or(|only| only == user)
                && example.on_loopback.is_none_or(|only| only == on_loopback)
        };
        let meant: Page = page.iter().filter(is_meant).cloned().collect();
        if meant.iter().all(|example| matches!(example.how, How::Not(_))) {
            continue;
        }
        let Some(host) = Host::new(user, on_loopback) else { return };
        failures += &host.run(&meant);
    }
    assert!(failures.is_empty(), "{failures}");
}

/// A host with the world around it.
struct Host {
    net: Net,
    user: User,
    _services: Vec<Process>,
}

impl Host {
    fn new(user: User, on_loopback: bool) -> Option<Self> {
        let net = Net::new()?;
        let resolver = if on_loopback { "127.0.0.53" } else { FAR4 };
        let of_the_resolver = if on_loopback { &net.host } else { &net.peer };
        let mut dns = of_the_resolver.start(&format!(
            "dnsmasq --keep-in-foreground --log-facility=- --conf-file=/dev/null --no-resolv --no-hosts \
             --bind-interfaces --user=root --pid-file= --listen-address={resolver} --address=/example.org/{FAR4}"
        ));
        dns.wait_for("started");
        net.host.resolv_conf(&format!("nameserver {resolver}\n"));
        let mut web = net.peer.command(&python());
        let web = Process::start(web.args(["-m", "http.server", "80", "--bind", FAR4]).current_dir("/srv"));
        eventually("a web server", || answers(&net.peer, &format!("http://{FAR4}/")).then_some(()));
        let mut own = net.host.command(&python());
        let own = Process::start(own.args(["-m", "http.server", "8500"]).current_dir("/srv"));
        eventually("the host's own", || answers(&net.host, "http://127.0.0.1:8500/").then_some(()));
        for name in ["pesto", "passtop"] {
            net.tool(name);
        }
        let script = net.dir().join("untrusted");
        fs::write(&script, "#!/bin/sh\nexit 0\n").expect("a script");
        Process::start(Command::new("chmod").arg("755").arg(script)).succeed();
        Some(Self { net, user, _services: vec![dns, web, own] })
    }

    /// Runs a page's examples; what is not as it should be.
    fn run(&self, page: &Page) -> String {
        let mut failures = String::new();
        let mut terminals = [None, None];
        for example in page {
            let outcome = match &example.how {
                How::Not(_) => Ok(()),
                How::Run { serves, file } => {
                    if let Some((name, content)) = file {
                        fs::write(self.net.dir().join(name), content).expect("a file");
                    }
                    let mut lines = example.lines.iter();
                    lines.try_for_each(|line| self.run_line(line, *serves))
                }
                How::Terminal(number) => terminals[usize::from(number - 1)]
                    .get_or_insert_with(|| Terminal::new(self))
                    .type_all(&example.lines),
            };
            if let Err(reason) = outcome {
                let _ = writeln!(failures, "{}, {:?}: {reason}", example.place, self.user);
            }
        }
        failures
    }

    /// A shell of the user in the host, which ends with all that it has started.
    fn shell(&self) -> Command {
        let mut command = self.net.host.command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
        if self.user == User::Normal {
            let id = User::NORMAL_ID;
            command.args(["setpriv", &format!("--reuid={id}"), &format!("--regid={id}")]);
            // Another user is not killed along with its parent unless it asks for that itself.
            command.args(["--clear-groups", "--inh-caps=-all", "--pdeathsig=KILL"]);
        }
        let dir = self.net.dir();
        command.arg("bash").current_dir(dir).env("HOME", dir).env("SHELL", "/bin/bash").env("LC_ALL", "C");
        command.env("PATH", format!("{}:{SYSTEM}", dir.display()));
        command
    }

    /// Runs one line to its success, or until it serves.
    fn run_line(&self, line: &str, serves: Option<u16>) -> Result<(), String> {
        // The shell stays the namespace's first process.
        let mut process = Process::start(self.shell().args(["-c", &format!("{line}\nexit $?")]));
        process.close_stdin();
        let url = serves.map(|port| format!("http://127.0.0.1:{port}/"));
        for _ in 0..300 {
            let ended = process.try_wait();
            let is_done = url.as_ref().map_or(ended.is_some(), |url| answers(&self.net.host, url));
            if is_done || ended.is_some() {
                let well = is_done && ended.is_none_or(|status| status.success());
                let said = process.stderr();
                drop(process);
                self.wait_for_port(serves);
                return if well { Ok(()) } else { Err(format!("{line}: {ended:?}: {said}")) };
            }
            pause();
        }
        Err(format!("{line}: takes too long: {}", process.stderr()))
    }
}

impl Host {
    /// The end of a namespace takes a moment, and with it the end of whoever has a port.
    fn wait_for_port(&self, port: Option<u16>) {
        let Some(port) = port else { return };
        let listed = || self.net.host.run(&format!("ss -Hltn sport = :{port}"));
        eventually("a port is free", || listed().trim().is_empty().then_some(()));
    }
}

/// Whether somebody at a place gets an answer by HTTP, whatever it says.
fn answers(place: &passt_tests::Ns, url: &str) -> bool {
    let mut command = place.command("curl");
    let status = command.args(["-s", "-o", "/dev/null", "--max-time", "2", url]).status();
    status.is_ok_and(|status| status.success())
}

/// The machine's Python, which every user can read.
fn python() -> String {
    let own = Path::new("/usr/bin/python3");
    let found = own.exists().then(|| own.to_owned()).or_else(|| find_program("python3"));
    found.expect("looked for").display().to_string()
}

/// A moment between two looks.
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}

/// A shell that is typed into, and what came out of it so far.
struct Terminal {
    shell: Process,
    seen: usize,
    commands: usize,
}

impl Terminal {
    fn new(host: &Host) -> Self {
        let mut shell = Process::start(&mut host.shell());
        shell.write("exec 2>&1\n");
        Self { shell, seen: 0, commands: 0 }
    }

    /// Types the commands of a session and compares what they print.
    fn type_all(&mut self, lines: &[String]) -> Result<(), String> {
        let is_command = |line: &str| line.starts_with("$ ") || line.starts_with("# ");
        let mut lines = lines;
        while let Some((command, rest)) = lines.split_first() {
            let end = rest.iter().position(|line| is_command(line)).unwrap_or(rest.len());
            let (expected, behind) = rest.split_at(end);
            self.agree(command.get(2..).unwrap_or_default(), expected)?;
            lines = behind;
        }
        Ok(())
    }

    /// Types a command until it prints what is expected: whoever reads the page types slower, and
    /// what it shows may come a second later.
    fn agree(&mut self, command: &str, expected: &[String]) -> Result<(), String> {
        let mut printed = self.say(command)?;
        for _ in 0..15 {
            if examples::agrees(&printed, expected) {
                return Ok(());
            }
            pause();
            printed = self.say(command)?;
        }
        Err(format!("{command}\nprinted:\n{}\ninstead of:\n{}", printed.join("\n"), expected.join("\n")))
    }

    /// Types a command; the lines that it prints.
    fn say(&mut self, command: &str) -> Result<Vec<String>, String> {
        self.commands += 1;
        let mark = format!("<<{}>>", self.commands);
        self.shell.write(&format!("{command}\n"));
        // A shell that the command starts reads this, or else the one that is here.
        self.shell.write(&format!("printf '\\n%s\\n' '{mark}'\n"));
        let ended = format!("{command}: no answer");
        let text = eventually_within(Duration::from_mins(1), &ended, || {
            let all = self.shell.stdout();
            let end = all.get(self.seen..).and_then(|new| new.find(&format!("{mark}\n")));
            match end {
                Some(end) => {
                    let text = all.get(self.seen..self.seen + end).unwrap_or_default().to_owned();
                    self.seen += end + mark.len() + 1;
                    Some(Ok(text))
                }
                None => self.shell.try_wait().map(|_| Err(format!("{command}: the shell has ended"))),
            }
        })?;
        // As root, pasta says once that it becomes somebody else.
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with("Started as root"));
        Ok(lines.map(str::to_owned).collect())
    }
}
