//! `WireGuard` (<https://www.wireguard.com>) from one port to several peers: outside, and in another
//! guest. It takes its peers for where their datagrams come from.

use std::fs;

use passt_tests::transfer::{at, exchange};
use passt_tests::{FAR4, FAR6, GATEWAY4, Net, Place, Process, User, eventually, have};

/// Runs one in user space, as not every kernel has it. Arguments: configuration, address.
const RUN: &str = "mount -t tmpfs none /run
{
    until [ -S /run/wireguard/wg0.sock ]; do sleep 0.1; done
    wg setconf wg0 \"$1\"
    ip addr add \"$2\" dev wg0
    ip link set wg0 up mtu 1280
    echo READY
} &
exec wireguard-go -f wg0 >/run/log 2>&1";

struct Station {
    private: String,
    public: String,
}

impl Station {
    fn new(place: &dyn Place) -> Self {
        let private = place.run("wg genkey").trim().to_owned();
        let mut derive = Process::start(place.command("wg").arg("pubkey"));
        derive.write(&format!("{private}\n"));
        derive.close_stdin();
        Self { public: derive.succeed().trim().to_owned(), private }
    }
}

/// Starts a station at a port, with the address 10.8.0.`number`. Peers have their numbers, and
/// where they are if that is known.
fn start(
    net: &Net,
    place: &dyn Place,
    (station, port, number): (&Station, u16, u8),
    peers: &[(&Station, u8, Option<String>)],
) -> Process {
    let own = format!("[Interface]\nPrivateKey = {}\nListenPort = {port}\n", station.private);
    let others = peers.iter().map(|(peer, number, endpoint)| {
        let endpoint = endpoint.as_ref().map(|at| format!("Endpoint = {at}\n")).unwrap_or_default();
        format!("[Peer]\nPublicKey = {}\nAllowedIPs = 10.8.0.{number}/32\n{endpoint}", peer.public)
    });
    let text: String = [own].into_iter().chain(others).collect();
    let file = net.dir().join(format!("station{number}.conf"));
    fs::write(&file, text).expect("a configuration");
    let mut command = place.command("unshare");
    command.args(["--mount", "sh", "-ec", RUN, "sh"]).arg(&file).arg(format!("10.8.0.{number}/24"));
    let mut run = Process::start(&mut command);
    run.wait_for("READY");
    run
}

#[test]
fn one_port_and_several_peers() {
    let Some(net) = Net::new() else { return };
    if !have(&["wireguard-go", "wg", "ping"]) {
        return;
    }
    let ports = "-t none -T none -U none -u";
    let one = net.pasta(User::Normal).with(&format!("--config-net {ports} none")).start();
    let two = net.pasta(User::Normal).with(&format!("--config-net {ports} 51821")).start();
    for far in [FAR4, FAR6] {
        let [a, b, c] = [Station::new(&net.host), Station::new(&net.host), Station::new(&net.host)];
        let _outside = start(&net, &net.peer, (&c, 51_822, 3), &[(&a, 1, None), (&b, 2, None)]);
        let known = [(&a, 1, None), (&c, 3, Some(at(far, 51_822)))];
        let _two = start(&net, &two, (&b, 51_821, 2), &known);
        let known = [(&b, 2, Some(at(GATEWAY4, 51_821))), (&c, 3, Some(at(far, 51_822)))];
        let _one = start(&net, &one, (&a, 51_820, 1), &known);
        for (place, to) in [(&one as &dyn Place, [2, 3]), (&two, [3, 1]), (&net.peer, [1, 2])] {
            for number in to {
                let ping = format!("ping -c 1 -W 2 10.8.0.{number}");
                eventually(&ping, || place.start(&ping).finish().status.success().then_some(()));
            }
        }
        let _server = two.serve("10.8.0.2:5001");
        exchange(&one, "10.8.0.2:5001");
        exchange(&net.peer, "10.8.0.2:5001");
    }
}
