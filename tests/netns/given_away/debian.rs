//! Packages on Debian: fresh, in the place of the distribution's and back, over an older version, and
//! gone without a trace. All of it is done by apt, which has no network here.

use passt_tests::{Net, Recipe, System, User, eventually};

use super::{NAMES, connect, files, made, system};

/// What looks into what the packages bring, and is not theirs.
const TOOLS: [&str; 6] = ["apparmor", "bash-completion", "fish", "man-db", "systemd", "zsh"];
/// The distribution's packages whose place ours take.
const THEIRS: &str = "passt slirp4netns";
const OURS: &str = "passt-rs passt-rs-slirp4netns";
/// Ours as files.
const FILES: &str = "/mnt/passt-rs_*.deb /mnt/passt-rs-slirp4netns_*.deb";

/// A clean Debian.
struct Debian {
    system: System,
    /// Files before anything was installed.
    before: String,
}

impl Debian {
    /// None if the test had to be skipped.
    fn new(net: &Net, suite: &str) -> Option<Self> {
        let dir = made()?;
        let theirs: Vec<_> = THEIRS.split(' ').collect();
        let recipe = Recipe { suite, architectures: &["amd64"], packages: &TOOLS };
        let system = system(net, recipe, &theirs, &dir)?;
        let debian = Self { system, before: String::new() };
        // What they need stays when they go, and is none of this.
        debian.install(THEIRS);
        debian.purge(THEIRS);
        Some(Self { before: files(&debian.system), ..debian })
    }

    fn apt(&self, line: &str) -> String {
        let options = "-qq -y -o Dpkg::Use-Pty=0 --no-install-recommends";
        self.system.sh(&format!("apt-get {options} {line} 2>&1"))
    }

    fn install(&self, packages: &str) -> String {
        self.apt(&format!("install {packages}"))
    }

    fn purge(&self, packages: &str) {
        self.apt(&format!("purge {packages}"));
    }

    /// Our packages as dpkg has them: `ii` and a name for each that is installed.
    fn state(&self) -> String {
        self.system.sh("dpkg-query --show --showformat '${db:Status-Abbrev}${Package} ' 'pass*' slirp4netns")
    }

    /// Requires that ours are there and theirs are not, as files and dpkg's records.
    fn assert_ours(&self) {
        for name in NAMES {
            let said = self.system.sh_as_user(&format!("{name} --version"));
            assert!(said.contains("git20") && !said.contains("Red Hat"), "{name}: {said}");
        }
        assert_eq!(self.system.sh(&format!("dpkg --verify {OURS}")), "", "files are as the packages say");
    }

    fn assert_nothing_left(&self) {
        let (before, after) = (self.before.lines(), files(&self.system));
        let before: std::collections::HashSet<_> = before.collect();
        let left: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
        assert_eq!(left, [""; 0], "nothing is left");
        assert_eq!(before.len(), after.lines().count(), "and nothing else is gone");
        assert_eq!(
            self.system.sh("find /etc/apparmor.d /var/cache/apparmor \\( -name '*passt*' -o -name '*pasta*' \\) 2>&1 || true"),
            ""
        );
    }

    /// Fresh, used, removed and purged.
    fn fresh(&self, net: &Net) {
        self.install(FILES);
        self.assert_ours();
        self.assert_modes();
        self.assert_found();
        self.assert_accepted();
        connect(net, &self.system);
        self.start_unit();
        self.apt(&format!("remove {OURS}"));
        let left = self
            .system
            .sh("dpkg-query --listfiles passt-rs | while read -r f; do test -f $f && echo $f; done || true");
        assert!(left.lines().all(|file| file.starts_with("/etc/apparmor.d/")), "{left}");
        self.purge(OURS);
        self.assert_nothing_left();
    }

    /// Everything is root's, and nobody else may write there.
    fn assert_modes(&self) {
        let listed = self
            .system
            .sh(&format!("dpkg-query --listfiles {OURS} | grep / | xargs stat -c '%U:%G %a %F %n'"));
        for line in listed.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let (path, kind) = (*words.last().expect("a path"), words[2]);
            let mode = if kind == "directory" || path.starts_with("/usr/bin/") { "755" } else { "644" };
            assert_eq!(words[..2], ["root:root", mode], "{line}");
        }
        assert!(listed.lines().count() > 50, "{listed}");
    }

    /// What shells, man, qemu and libvirt look for is where they look.
    fn assert_found(&self) {
        let names = "passt pasta passtop pesto qrap slirp4netns vpnkit";
        let pages = self.system.sh(&format!("man -w {names}"));
        assert_eq!(pages.lines().count(), names.split(' ').count(), "{pages}");
        let bash = "bash -c '. /usr/share/bash-completion/bash_completion
            _completion_loader pasta || _comp_load pasta; complete -p pasta' 2>/dev/null";
        assert!(self.system.sh(bash).contains("-F _pasta"), "completion of bash");
        let zsh = "zsh -fc 'autoload -U compinit; compinit -D -u; print $_comps[pasta]'";
        assert_eq!(self.system.sh(zsh).trim(), "_pasta", "completion of zsh");
        let fish = self.system.sh("fish -c 'complete -C \"pasta --config-n\"'");
        assert!(fish.starts_with("--config-net"), "completion of fish: {fish}");
        let description = self.system.sh("cat /usr/share/qemu/vhost-user/*.json");
        let description: serde_json::Value = serde_json::from_str(&description).expect("JSON");
        assert_eq!(description["type"], "net");
        let said = self
            .system
            .sh(&format!("{} --print-capabilities", description["binary"].as_str().expect("a path")));
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(said["type"], "net");
    }

    /// AppArmor's and systemd's own programs have nothing to say.
    fn assert_accepted(&self) {
        for name in ["passt", "pasta"] {
            self.system.sh(&format!(
                "apparmor_parser --skip-kernel-load --skip-cache /etc/apparmor.d/usr.bin.{name}"
            ));
        }
        let verify = "systemd-analyze verify --user /usr/lib/systemd/user/passt@.service 2>&1";
        assert_eq!(self.system.sh_as_user(verify), "");
    }

    /// The unit, by a service manager of the user's.
    fn start_unit(&self) {
        let id = User::NORMAL_ID;
        // The manager has to have a place among control groups, and to believe that this is a system
        // that was started by another.
        let group = format!("/sys/fs/cgroup/passt-tests-{}", std::process::id());
        self.system.sh(&format!("mkdir -p /run/systemd/system {group}; chown -R {id}:{id} {group}"));
        let mut manager = self.system.start_sh(&format!(
            "echo 0 >{group}/cgroup.procs
             export HOME=/home/user XDG_RUNTIME_DIR=/run/user/{id}
             exec setpriv --reuid={id} --regid={id} --clear-groups /lib/systemd/systemd --user"
        ));
        eventually("a service manager", || {
            self.system
                .sh_as_user("systemctl --user is-system-running 2>/dev/null || true")
                .contains("running")
                .then_some(())
        });
        self.system
            .sh_as_user("systemctl --user start passt@vm1 && test -S /run/user/$(id -u)/passt/vm1.socket");
        self.system.sh_as_user("systemctl --user stop passt@vm1; systemctl --user exit");
        eventually("its end", || manager.try_wait());
        self.system.sh(&format!("find {group} -depth -type d -exec rmdir {{}} ';'; rm -r /run/systemd"));
    }

    /// In the place of the distribution's, back, and again, until both are gone.
    fn instead(&self) {
        self.install(THEIRS);
        self.system.sh("echo '# mine' >>/etc/apparmor.d/local/usr.bin.passt");
        self.install(FILES);
        self.assert_ours();
        let profile = self.system.sh("cat /etc/apparmor.d/usr.bin.passt");
        assert!(profile.contains("passt-engine"), "the profile is ours: {profile}");
        self.install(THEIRS);
        let said = self.system.sh("passt --version; pasta --version");
        assert!(said.contains("Red Hat"), "{said}");
        let state = self.state();
        assert!(state.contains("ii passt ") && state.contains("ii slirp4netns"), "{state}");
        // What is left of ours goes, and nothing of theirs.
        self.purge(OURS);
        assert_eq!(self.system.sh(&format!("dpkg --verify {THEIRS}")), "");
        assert!(!self.system.sh("cat /etc/apparmor.d/usr.bin.passt").contains("passt-engine"));
        self.system.sh("grep -q mine /etc/apparmor.d/local/usr.bin.passt");
        self.install(FILES);
        self.purge(THEIRS);
        self.assert_ours();
        self.purge(OURS);
        self.assert_nothing_left();
    }

    /// Over an older version, which has a file that is gone, with a profile that was changed.
    fn upgrade(&self) {
        self.system.sh("
            mkdir /tmp/older; cd /tmp/older
            dpkg-deb --raw-extract /mnt/passt-rs_*.deb tree
            sed -i 's/^Version: .*/Version: 0.1.0~git20200101.0000000/' tree/DEBIAN/control
            echo older >tree/usr/share/doc/passt-rs/older
            dpkg-deb --build tree passt-rs.deb >/dev/null");
        self.install("/tmp/older/passt-rs.deb");
        self.system
            .sh("test -f /usr/share/doc/passt-rs/older; echo '# mine' >>/etc/apparmor.d/usr.bin.pasta");
        self.install(FILES);
        self.system.sh("! test -f /usr/share/doc/passt-rs/older; grep -q mine /etc/apparmor.d/usr.bin.pasta");
        let said = self.system.sh("pasta --version");
        assert!(!said.contains("20200101"), "{said}");
        self.purge(OURS);
        self.system.sh("rm -r /tmp/older");
        self.assert_nothing_left();
    }
}

fn lifecycle(suite: &str) {
    let Some(net) = Net::new() else { return };
    let Some(debian) = Debian::new(&net, suite) else { return };
    debian.fresh(&net);
    debian.instead();
    debian.upgrade();
}

#[test]
fn debian_12() {
    lifecycle("bookworm");
}

#[test]
fn debian_unstable() {
    lifecycle("unstable");
}
