//! What `--enable-sandbox` and `--enable-seccomp` leave it.

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, Place as _, Process};

use crate::rig::Rig;

/// It can do no more than this afterwards, and the network works.
#[test]
fn confined() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    for options in ["--enable-sandbox", "--enable-seccomp", "--enable-sandbox --enable-seccomp"] {
        let slirp = rig.start(options);
        exchange(&rig.guest, &at(FAR4, 5001));
        if options.contains("sandbox") {
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                let held = u64::from_str_radix(&slirp.status(set), 16).expect("a mask");
                // CAP_NET_BIND_SERVICE, for ports of the host.
                assert_eq!(held & !(1 << 10), 0, "{set}");
            }
            assert_eq!(slirp.status("NoNewPrivs"), "1");
            let root = format!("/proc/{}/root", slirp.process.pid());
            let seen =
                std::fs::read_dir(root).expect("it runs").map(|entry| entry.expect("a name").file_name());
            let seen: Vec<_> = seen.collect();
            assert!(!["home", "root", "var"].iter().any(|name| seen.contains(&(*name).into())), "{seen:?}");
        }
        if options.contains("seccomp") {
            assert_eq!(slirp.status("Seccomp"), "2");
        }
        slirp.stop();
    }
}

/// What is mounted below `/run` stays mounted for others, of which Podman and Docker have much.
#[test]
fn others_keep_their_mounts() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let script = rig.net.dir().join("mounting");
    // In a mount namespace whose changes would be seen by those made from it.
    let text = "mount -t tmpfs none /run && mount --make-shared /run && mkdir /run/ours && \
                mount -t tmpfs ours /run/ours && touch /run/ours/file && exec \"$@\"\n";
    std::fs::write(&script, text).expect("a script");
    let line = format!("unshare --mount sh {} {} hold", script.display(), rig.guest.peer_path().display());
    let mut holder: Process = rig.guest.start(&line);
    holder.wait_for("READY");
    let pid = holder.pid();
    let wrapper = format!("nsenter --mount=/proc/{pid}/ns/mnt");
    for options in ["--enable-sandbox", "--enable-sandbox --enable-seccomp"] {
        let slirp = rig.launch_through(&wrapper, &format!("-c {options} {pid} tap0"));
        exchange(&rig.guest, &at(FAR4, 5001));
        let file = format!("/proc/{pid}/root/run/ours/file");
        assert!(std::fs::exists(&file).expect("a path"), "{options}");
        slirp.stop();
        assert!(std::fs::exists(&file).expect("a path"), "{options}: at the end");
    }
}
