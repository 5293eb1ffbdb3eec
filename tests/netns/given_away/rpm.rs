//! Packages on a system of RPM: in the place of a distribution's packages, beside which they can't be,
//! and gone without a trace. The package manager is Debian's, on a Debian of whose packages it knows
//! none. Left out is what distributions with RPM bring beside it: dnf, and SELinux' policy.

use passt_tests::{Net, Recipe, System};

use super::{NAMES, connect, files, made, system};

/// Debian's program asks for the right way, which is not taken here.
const RPM: &str =
    "rpm --dbpath /var/lib/rpm --nosignature $(rpm --help | grep -o -m 1 -e --force-debian || :)";
const OURS: &str = "/mnt/passt-rs-0*.x86_64.rpm /mnt/passt-rs-slirp4netns-*.x86_64.rpm";

/// Builds a package with these lines in its head, and one file if it has one.
fn package(system: &System, name: &str, version: &str, head: &str, file: &str) {
    system.sh(&format!(
        "mkdir -p /tmp/packages
         cat >/tmp/{name}.spec <<'END'
Name: {name}
Version: {version}
Release: 1
Summary: {name}
License: none
BuildArch: noarch
{head}
%description
%install
for file in {file}; do mkdir -p %{{buildroot}}${{file%%/*}}; echo theirs >%{{buildroot}}$file; done
%files
{file}
END
         rpmbuild -bb --quiet --define '_rpmdir /tmp/packages' --define '_topdir /tmp/build' /tmp/{name}.spec 2>&1"
    ));
}

fn rpm(system: &System, line: &str) -> String {
    system.sh(&format!("{RPM} {line} 2>&1"))
}

/// Requires that ours are there as they say, and nobody else's.
fn assert_ours(system: &System) {
    for name in NAMES {
        let said = system.sh_as_user(&format!("{name} --version"));
        assert!(said.contains("git20"), "{name}: {said}");
    }
    assert_eq!(rpm(system, "--verify passt-rs passt-rs-slirp4netns"), "");
    assert_eq!(
        system.sh(&format!("{RPM} -q passt passt-selinux slirp4netns || :")).matches("not installed").count(),
        3
    );
    let listed = rpm(system, "-ql passt-rs passt-rs-slirp4netns");
    for path in ["/usr/bin/pasta", "/usr/share/man/man1/pasta.1.gz", "/usr/bin/slirp4netns"] {
        assert!(listed.lines().any(|line| line == path), "{path}: {listed}");
    }
}

#[test]
fn rpm_system() {
    let Some(dir) = made() else { return };
    let Some(net) = Net::new() else { return };
    let recipe = Recipe { suite: "unstable", architectures: &["amd64"], packages: &["rpm"] };
    let Some(system) = system(&net, recipe, &[], &dir) else { return };
    let needs = rpm(&system, &format!("-qp --requires {OURS} | grep -v '^rpmlib(\\|^passt-rs' | sort -u"));
    let provides = needs.lines().map(|line| format!("Provides: {line}")).collect::<Vec<_>>().join("\n");
    package(&system, "base", "1", &provides, "");
    package(&system, "passt", "0^20260101.g1234567", "", "/usr/bin/passt");
    package(&system, "passt-selinux", "0^20260101.g1234567", "", "");
    package(&system, "slirp4netns", "1.3.1", "", "/usr/bin/slirp4netns");
    let theirs = "/tmp/packages/noarch/passt-*.rpm /tmp/packages/noarch/slirp4netns-*.rpm";
    rpm(&system, "--install /tmp/packages/noarch/base-*.rpm");
    let before = files(&system);
    let is_as_before = |when: &str| {
        let now = files(&system);
        let differs = |line: &&str| !before.lines().any(|known| known == *line);
        let left: Vec<_> = now.lines().filter(differs).collect();
        assert_eq!((left, now.lines().count()), (Vec::new(), before.lines().count()), "{when}");
    };

    // Fresh.
    rpm(&system, &format!("--install {OURS}"));
    assert_ours(&system);
    connect(&net, &system);
    let refused = system.sh(&format!("{RPM} --install {theirs} 2>&1 && echo installed || :"));
    assert!(refused.contains("conflicts with") && !refused.contains("installed\n"), "{refused}");
    rpm(&system, "--erase passt-rs passt-rs-slirp4netns");
    is_as_before("fresh");

    // In the place of a distribution's, and once more.
    rpm(&system, &format!("--install {theirs}"));
    rpm(&system, &format!("--upgrade {OURS}"));
    assert_ours(&system);
    rpm(&system, &format!("--upgrade --force {OURS}"));
    assert_ours(&system);
    rpm(&system, "--erase passt-rs passt-rs-slirp4netns");
    is_as_before("instead");
}
