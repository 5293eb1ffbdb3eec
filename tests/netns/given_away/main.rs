//! What `cargo xtask dist` makes, used: programs where there is nothing else and on releases of Debian,
//! packages installed, used and removed. It has to be made before; without it this is skipped.

mod debian;
mod lint;
mod rpm;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use passt_tests::transfer::at;
use passt_tests::{FAR4, Net, Place as _, Process, Recipe, Root, System, eventually, skip, stream};

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

/// A system of a recipe with these packages kept, and `dir` at `/mnt`. None if the test had to be
/// skipped.
fn system(net: &Net, recipe: Recipe<'_>, kept: &[&str], dir: &Path) -> Option<System> {
    if !cfg!(target_arch = "x86_64") {
        skip("the packages are of x86_64");
        return None;
    }
    match Root::with_kept(recipe, kept) {
        Ok(root) => Some(System::start(net, &root, dir)),
        Err(error) => {
            skip(&format!("no Debian {}: {error:#}", recipe.suite));
            None
        }
    }
}

/// All files but what package managers keep of their own, and what they make of all packages.
fn files(system: &System) -> String {
    let own =
        ["/proc", "/root", "/var/cache", "/var/lib/apt", "/var/lib/dnf", "/var/lib/dpkg", "/var/lib/rpm"];
    let own = own.map(|path| format!("-path {path} -o ")).concat() + "-path /var/log";
    system.sh(&format!("find / -xdev \\( {own} \\) -prune -o ! -type d -printf '%p %l\\n' | sort"))
}

/// A namespace of the user's fetches from the peer.
fn connect(net: &Net, system: &System) {
    let _server = net.peer.serve(&at(FAR4, 5001));
    let fetch = format!("exec 3<>/dev/tcp/{FAR4}/5001; echo down 100000 1 >&3; sha256sum <&3");
    let fetched = system.sh_as_user(&format!("pasta --config-net -- bash -c '{fetch}'"));
    let sum = fetched.split(' ').next().expect("a sum");
    assert_eq!(format!("100000 {sum}"), stream::expected(100_000, 1));
}

/// The one file alone, copied to releases of Debian that are older and newer than the one it was built
/// on.
#[test]
fn on_releases_of_debian() {
    let Some(dir) = made() else { return };
    let Some(net) = Net::new() else { return };
    for suite in ["bullseye", "bookworm", "trixie", "unstable"] {
        let recipe = Recipe { suite, architectures: &["amd64"], packages: &["passwd"] };
        let Some(system) = system(&net, recipe, &[], &dir) else { continue };
        system.sh("cp /mnt/root/usr/bin/passt /usr/local/bin/");
        for name in &NAMES[1..] {
            system.sh(&format!("ln -s passt /usr/local/bin/{name}"));
        }
        connect(&net, &system);
    }
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
        assert!(said.starts_with(expected) && said.contains("git20"), "{said}");
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
