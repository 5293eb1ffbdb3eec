//! A network as somebody inside it sees it.

use std::collections::BTreeMap;

use passt_tests::{FAR6, HOST4, Net, Place as _, Process, eventually};

use crate::{Site, wait_for_end};

/// What is found out inside, line by line; then pages are served, and by
/// UDP what is asked. `$1` is the address at which the
/// host's own may be; `$2` is there if IPv6 is to come, which takes a moment.
const LOOK: &str = r#"
say() {
    what=$1
    shift
    echo "$what=$("$@" 2>&1 | tr '\n' ' ')"
}
say page wget -T 5 -qO- http://example.test/
say bulk sh -c 'wget -T 30 -qO- http://example.test/bulk | sha256sum'
say source wget -T 5 -qO- http://example.test/cgi-bin/source
page6() {
    wget -T 5 -qO- "http://[FAR6]/"
}
[ -z "${2-}" ] || for second in 1 2 3 4 5 6 7 8 9; do
    ! page6 >page6 2>&1 || break
    # Until there is an address, it is to fail at once.
    ! grep -q 'timed out' page6 || echo hung=yes
    sleep 1
done
say page6 page6
say own wget -T 5 -qO- http://$1:8000/
say resolver sed -n s/nameserver.//p /etc/resolv.conf
say address sh -c 'ip -4 -o addr show dev tap0 | grep -o "inet [^ ]*"'
say mtu sh -c 'ip link show dev tap0 | grep -o "mtu [0-9]*"'
PEER udp-serve 0.0.0.0:8080 &
echo looked=around
exec busybox httpd -f -p 0.0.0.0:8080 -h www
"#;

/// Bytes of the page `bulk`, which is the same outside and inside.
const BULK: u64 = 16 << 20;

/// Prints whom it sees ask.
const SOURCE: &str = "#!/bin/sh\\necho\\necho $REMOTE_ADDR\\n";

impl Site<'_> {
    /// Adds what somebody inside looks for: a large page, one that tells who asks, one of the
    /// host's own, and a server for IPv6. Returns who serves.
    pub(crate) fn serve_all(&self, net: &Net) -> [Process; 2] {
        let dir = net.dir().display();
        self.starters.sh_as_root(&format!(
            "mkdir -p {dir}/own {dir}/www/cgi-bin www
             head -c {BULK} /dev/urandom >{dir}/www/bulk
             printf '{SOURCE}' >{dir}/www/cgi-bin/source
             chmod +x {dir}/www/cgi-bin/source
             echo of the host >{dir}/own/index.html
             cp -r {dir}/www/* www
             echo from inside >www/index.html
             chown -R user www
             cat >look.sh <<'END'\n{}END",
            LOOK.replace("FAR6", FAR6).replace("PEER", &self.starters.peer_path().to_string_lossy())
        ));
        let busybox = self.starters.busybox();
        let busybox = busybox.display();
        [
            net.peer.start(&format!("{busybox} httpd -f -p [{FAR6}]:80 -h {dir}/www")),
            net.host.start(&format!("{busybox} httpd -f -p 127.0.0.1:8000 -h {dir}/own")),
        ]
    }

    /// What the page `bulk` is to be.
    pub(crate) fn bulk(&self, net: &Net) -> String {
        let sum = self.starters.sh(&format!("sha256sum <{}/www/bulk", net.dir().display()));
        sum.trim().to_owned()
    }
}

/// `RootlessKit` while somebody inside serves.
pub(crate) struct Kit<'s> {
    site: &'s Site<'s>,
    /// The name of the program that it started.
    program: &'static str,
    process: Process,
    /// What was found out inside.
    pub(crate) seen: BTreeMap<String, String>,
}

impl<'s> Kit<'s> {
    /// Starts it with options, and waits until somebody inside has looked around. `own` is the
    /// host's address in there.
    pub(crate) fn start(site: &'s Site<'s>, program: &'static str, options: &str, own: &str) -> Self {
        let enter = if options.contains("--detach-netns") {
            "nsenter --net=\"$ROOTLESSKIT_STATE_DIR/netns\""
        } else {
            ""
        };
        let v6 = if options.contains("--ipv6") { "6" } else { "" };
        let line = format!("exec rootlesskit {options} sh -euc 'exec {enter} sh look.sh {own} {v6}'");
        let mut process = site.starters.start_sh(&line);
        process.wait_for("looked=around");
        let seen = pairs(&process.stdout());
        Self { site, program, process, seen }
    }

    /// Ends it, and requires that the program ends, too.
    pub(crate) fn stop(self) {
        self.site.starters.sh("pkill -x rootlesskit");
        self.process.finish();
        wait_for_end(&self.site.starters, self.program);
    }
}

/// What was found out inside, of its lines.
pub(crate) fn pairs(lines: &str) -> BTreeMap<String, String> {
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(what, text)| (what.to_owned(), text.trim().to_owned())).collect()
}

/// Fetches a page of who is inside, from outside.
pub(crate) fn fetch(site: &Site<'_>, net: &Net, page: &str) -> String {
    let busybox = site.starters.busybox();
    eventually(&format!("the page {page:?} inside"), || {
        let line = format!("{} wget -T 5 -qO- http://{HOST4}:8080/{page}", busybox.display());
        let page = net.peer.start(&line).finish();
        page.status.success().then(|| page.stdout.trim().to_owned())
    })
}

/// Requires that a large page of who is inside arrives outside as it is.
pub(crate) fn fetch_bulk(site: &Site<'_>, net: &Net, expected: &str) {
    let line =
        format!("{} wget -T 30 -qO- http://{HOST4}:8080/bulk | sha256sum", site.starters.busybox().display());
    let sum = net.peer.command("sh").args(["-c", &line]).output().expect("a shell");
    assert_eq!(String::from_utf8_lossy(&sum.stdout).trim(), expected);
}

/// The address of who asks by UDP, from outside, as it is seen inside.
pub(crate) fn ask_by_udp(net: &Net) -> String {
    eventually("an answer by UDP", || {
        let answer = net.peer.start_peer(&format!("udp-ask {HOST4}:8080 who")).succeed();
        Some(answer.trim().rsplit_once(':')?.0.to_owned())
    })
}
