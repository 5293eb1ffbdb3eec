//! What `cargo xtask dist` makes, used: programs where there is nothing else, packages installed and
//! removed. It has to be made before; without it this is skipped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::transfer::at;
use passt_tests::{FAR4, Net, Place as _, Process, eventually, have, skip};

/// Names of the one file.
const NAMES: [&str; 4] = ["passt", "pasta", "slirp4netns", "vpnkit"];

/// The directory that `cargo xtask dist` fills, if it has.
fn made() -> Option<PathBuf> {
    let exe = std::env::current_exe().expect("own path");
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let dirs = exe.ancestors().map(|dir| dir.join("dist").join(&machine));
    let made = dirs.into_iter().find(|dir| dir.join("SHA256SUMS").is_file());
    if made.is_none() {
        skip("static programs and packages: cargo xtask dist has not made them");
    }
    made
}

fn sh(line: &str) -> String {
    Process::start(Command::new("sh").args(["-ec", line])).succeed()
}

/// In a root file system of nothing but the file, as a container's from scratch: it tells what it is
/// by each name, and connects a namespace.
#[test]
fn where_there_is_nothing_else() {
    let Some(dir) = made() else { return };
    let Some(net) = Net::new() else { return };
    let root = net.dir().join("empty");
    for directory in ["dev", "proc"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    fs::copy(dir.join("root/usr/bin/passt"), root.join("passt")).expect("copied");
    fs::write(root.join("netns"), "").expect("a file");
    let root = root.to_str().expect("a path");
    for name in &NAMES[1..] {
        symlink("passt", Path::new(root).join(name)).expect("a link");
    }
    for (name, option) in NAMES.iter().zip(["--version", "--version", "-v", "--version"]) {
        let said = sh(&format!("chroot {root} /{name} {option}"));
        let expected = if *name == "vpnkit" { "passt." } else { name };
        assert!(said.starts_with(expected) && said.contains("~git"), "{said}");
    }
    let guest = net.empty_guest();
    let _server = net.peer.serve(&at(FAR4, 5001));
    let line = format!(
        "mount --bind {root} {root}; mount --rbind /dev {root}/dev; mount --rbind /proc {root}/proc; \
         mount --bind /run/netns/{} {root}/netns; \
         exec chroot {root} /pasta --config-net --chroot-fallback --foreground --netns /netns",
        guest.name()
    );
    let mut pasta = Process::start(net.host.command("unshare").args(["--mount", "sh", "-ec", &line]));
    eventually("an address", || {
        sh(&format!("ip -n {} -4 address show", guest.name())).contains("192.0.2.2").then_some(())
    });
    let client = guest.start_peer(&format!("connect {}", at(FAR4, 5001))).succeed();
    assert!(client.starts_with("connected"), "{client}");
    assert!(pasta.try_wait().is_none());
    pasta.signal("TERM");
}

/// Packages of Debian, in the place of the distribution's, and back. The package manager works in a
/// directory of its own.
#[test]
fn debian_packages() {
    let Some(dir) = made() else { return };
    if !have(&["dpkg", "dpkg-deb"]) {
        return;
    }
    let base = std::env::temp_dir().join(format!("given-away-{}", std::process::id()));
    let root = base.join("root");
    for directory in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    fs::write(root.join("var/lib/dpkg/status"), "").expect("no packages");
    // What the distribution has, as far as it matters.
    for (name, files) in [
        ("passt", &["usr/bin/passt", "etc/apparmor.d/usr.bin.passt"][..]),
        ("slirp4netns", &["usr/bin/slirp4netns"]),
    ] {
        let tree = base.join(name);
        for file in files {
            fs::create_dir_all(tree.join(file).parent().expect("a directory")).expect("made");
            fs::write(tree.join(file), "the distribution's\n").expect("written");
        }
        fs::create_dir_all(tree.join("DEBIAN")).expect("made");
        let control = format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: other\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).expect("written");
        let conffiles = files.iter().filter(|file| file.starts_with("etc")).map(|file| format!("/{file}\n"));
        fs::write(tree.join("DEBIAN/conffiles"), conffiles.collect::<String>()).expect("written");
        sh(&format!("dpkg-deb --build {0} {0}.deb", tree.display()));
    }
    let dpkg = |line: &str| {
        let options = "--force-not-root --force-script-chrootless --force-architecture";
        sh(&format!(
            "cd {}; DPKG_ROOT={1} dpkg --root={1} {options} {line} 2>&1",
            dir.display(),
            root.display()
        ))
    };
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    dpkg(&format!("--install {0}/passt.deb {0}/slirp4netns.deb", base.display()));
    // dpkg by itself does not choose what goes; apt does, by what the packages say.
    dpkg("--remove passt slirp4netns");
    dpkg("--install passt-rs_*.deb passt-rs-slirp4netns_*.deb");
    for name in NAMES {
        let said = sh(&format!("chroot {} /usr/bin/{name} --version", root.display()));
        assert!(said.contains("~git"), "{name}: {said}");
    }
    let profile = read("etc/apparmor.d/usr.bin.passt");
    assert!(profile.contains("profile") && !profile.contains("distribution"), "{profile}");
    let status = dpkg("--verify");
    assert_eq!(status, "", "files are as the packages say");
    dpkg("--purge passt-rs-slirp4netns passt-rs");
    let left = sh(&format!("find {0} -path {0}/var -prune -o ! -type d -print", root.display()));
    assert_eq!(left, "", "nothing is left");
    dpkg(&format!("--install {0}/passt.deb {0}/slirp4netns.deb", base.display()));
    assert_eq!(read("usr/bin/passt"), "the distribution's\n");
    fs::remove_dir_all(base).expect("removed");
}
