//! passt with DPDK's driver at the other end, by vhost-user: memory at the addresses of its process,
//! rings that are polled, and ways to use them that Linux's driver does not have.

use passt_tests::transfer::at;
use passt_tests::{FAR4, HOST4, Net, Place as _, Process, Testpmd, eventually, vhost};

/// Ways to use queues, each of which is other code of the driver.
const DEVICES: [&str; 6] = [
    "queues=1",
    "queues=1,mrg_rxbuf=1,in_order=0",
    "queues=1,mrg_rxbuf=0,in_order=0",
    "queues=1,mrg_rxbuf=0,in_order=0,vectorized=1",
    // passt has no such rings: others are taken then.
    "queues=1,packed_vq=1",
    "queues=2,queue_size=64",
];

/// Says `quit`, and waits for a good end.
fn quit(mut testpmd: Process) {
    testpmd.write("quit\n");
    testpmd.succeed();
}

/// What it sends as fast as it can comes to a server.
#[test]
fn frames_reach_a_server() {
    let (Some(net), Some(testpmd)) = (Net::new(), Testpmd::new()) else { return };
    let mut passt = vhost::passt(&net, "");
    for device in DEVICES {
        let sink = net.peer.listening(&format!("udp-sink {}", at(FAR4, 6009)));
        let options = format!("--forward-mode=txonly --tx-ip={HOST4},{FAR4} --tx-udp=6009 --txpkts=1442");
        let mut source = testpmd.start(&net, "socket", device, &options);
        let packets = || {
            let statistics = net.peer.run("cat /sys/class/net/eth0/statistics/rx_packets");
            statistics.trim().parse::<u64>().expect("a number")
        };
        let before = packets();
        source.write("start\n");
        eventually("datagrams", || (packets() > before + 10_000).then_some(()));
        quit(source);
        // Whole ones alone are counted.
        let received = sink.succeed();
        let count: u64 = received.split_whitespace().find_map(|word| word.parse().ok()).expect("a number");
        assert!(count > 1000, "{device}: {received}");
        passt.wait_for("Client connection closed");
        assert!(passt.try_wait().is_none(), "passt ended");
    }
}

/// What comes to a port is sent back by it, of all sizes and from many at once.
#[test]
fn echoes_datagrams() {
    let (Some(net), Some(testpmd)) = (Net::new(), Testpmd::new()) else { return };
    let mut passt = vhost::passt(&net, "-u 6001");
    for device in DEVICES {
        let options = format!("--forward-mode=5tswap --tx-ip={HOST4},{FAR4}");
        let mut echo = testpmd.start(&net, "socket", device, &options);
        for round in 0..2 {
            // A guest is known by what it sends.
            echo.write("start tx_first\n");
            let answer = || net.host.peer("udp-ask 127.0.0.1:6001 hello");
            eventually(&format!("an echo by {device}"), || answer().trim().eq("hello").then_some(()));
            net.host.peer("udp-sweep 127.0.0.1:6001 1472");
            net.host.peer("udp-many 127.0.0.1:6001 100");
            if round == 0 {
                // The device is reset, and set up anew.
                echo.write("stop\nport stop all\nport start all\n");
            }
        }
        quit(echo);
        assert!(passt.try_wait().is_none(), "passt ended");
    }
    assert!(passt.stderr().is_empty() || !passt.stderr().contains("refused"), "{}", passt.stderr());
    passt.signal("TERM");
}
