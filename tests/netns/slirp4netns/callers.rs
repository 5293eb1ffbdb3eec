//! The command lines of those that start it, word by word, and what they expect of it.

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, HOST4, HOST6, Place as _};

use crate::api::ask;
use crate::life::{BY_USER, Users};
use crate::rig::{Rig, original};

/// What both ask for at the socket, with a line's end and the end of what they send.
const PORT: &str = "{\"execute\":\"add_hostfwd\",\"arguments\":{\"proto\":\"tcp\",\"host_addr\":\"0.0.0.0\",\
                    \"host_port\":8080,\"guest_addr\":\"10.0.2.100\",\"guest_port\":80}}\n";

/// As user, for a child's namespaces: the device is made and configured by itself.
#[test]
fn rootlesskit() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let users = Users::new(&rig);
    let pid = users.holder.pid();
    users.run("ip tuntap add name tap0 mode tap");
    users.run("ip link set tap0 up");
    let api = rig.net.dir().join(".s4nn.sock");
    let options = format!("--disable-host-loopback --cidr 10.0.2.0/24 --api-socket {}", api.display());
    for (more, target) in [
        ("--enable-sandbox --enable-seccomp --enable-ipv6", format!("{pid} tap0")),
        // A namespace that outlives its processes. The sandbox is left out then.
        ("", format!("--userns-path=/proc/{pid}/ns/user --netns-type=path /proc/{pid}/ns/net tap0")),
    ] {
        let slirp = rig.launch_through(BY_USER, &format!("--mtu 65520 {options} {more} {target}"));
        users.run("ip addr replace 10.0.2.100/24 dev tap0");
        users.run("ip link set tap0 mtu 65520");
        users.run("ip route replace default via 10.0.2.2 dev tap0");
        exchange(&users, &at(FAR4, 5001));
        let _server = users.serve("0.0.0.0:80");
        assert_eq!(ask(&api, PORT.as_bytes()), "{\"return\":{\"id\":1}}");
        exchange(&rig.net.peer, &at(HOST4, 8080));
        // That is how it ends.
        slirp.process.signal("KILL");
        slirp.process.finish();
    }
}

/// Within its own user namespace, and for the sandbox in a mount namespace of its own.
#[test]
fn podman() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let users = Users::new(&rig);
    let pid = users.holder.pid();
    let api = rig.net.dir().join("0123456789abcdef.net");
    let within = format!("{BY_USER} nsenter -t {pid} -U --preserve-credentials unshare --mount");
    let options = format!(
        "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --cidr=10.0.2.0/24 \
         --enable-ipv6 --outbound-addr={HOST4} --outbound-addr6={HOST6} -c --api-socket {} \
         --netns-type=path /proc/{pid}/ns/net tap0",
        api.display()
    );
    let slirp = rig.launch_through(&within, &options);
    let addresses = users.run("ip addr show dev tap0");
    assert!(addresses.contains("inet 10.0.2.100/24") && addresses.contains("mtu 65520"), "{addresses}");
    exchange(&users, &at(FAR4, 5001));
    let _server = users.serve("0.0.0.0:80");
    // It looks for nothing but an error.
    let answer = ask(&api, PORT.as_bytes());
    assert!(!answer.contains("error") && answer.len() <= 2048, "{answer}");
    exchange(&rig.net.peer, &at(HOST4, 8080));
    slirp.stop();
    // From its sandbox the original no longer sees its socket.
    assert_eq!(api.exists(), original());
}
