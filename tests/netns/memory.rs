//! What a process takes in memory: nothing more once it runs, and little before.

use std::fs;

use passt_tests::transfer::{MIB, at, download, exchange, upload};
use passt_tests::{FAR4, FAR6, Machine, Net, Place, Process, User, eventually};

/// Most of what an idle instance may have resident, in KiB.
const IDLE: u64 = 8 * 1024;

/// A number in the last line of statistics, one that was begun after now.
fn statistic(process: &Process, name: &str) -> u64 {
    let lines = |text: &str| text.lines().filter(|line| line.contains(name)).count();
    let before = lines(&process.stdout());
    eventually("statistics", || {
        let text = process.stdout();
        // The first one more may have been on its way.
        let line = (lines(&text) > before + 1).then(|| text.lines().rfind(|line| line.contains(name)))??;
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    })
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    field.and_then(|text| text.split_whitespace().next()?.parse().ok()).expect("VmRSS")
}

/// Traffic of every protocol, with what goes wrong.
fn use_network(guest: &impl Place) {
    for far in [FAR4, FAR6] {
        upload(guest, &at(far, 5001), 16 * MIB);
        download(guest, &at(far, 5001), 16 * MIB);
        guest.peer(&format!("connect {}", at(far, 5010)));
        guest.peer(&format!("udp-ask {} hello", at(far, 6001)));
        guest.peer(&format!("udp-ask {} hello", at(far, 6010)));
        guest.peer(&format!("udp-rr {} 1", at(far, 6002)));
    }
    guest.run(&format!("ping -c 2 -i 0.2 -W 3 {FAR4}"));
    guest.peer(&format!("crr {} 1", at(FAR4, 5002)));
    guest.peer(&format!("rr {} 1", at(FAR4, 5002)));
}

fn servers(net: &Net) -> Vec<Process> {
    net.host.sysctl("net.ipv4.ping_group_range=0 2147483647");
    let mut started = vec![net.peer.serve("[::]:5001")];
    // Who answers from the address that was asked, and who from another one.
    let answering = [FAR4, FAR6].map(|far| format!("udp-serve {}", at(far, 6002)));
    for line in
        ["udp-serve [::]:6001", "rr-serve [::]:5002"].into_iter().chain(answering.iter().map(|l| &**l))
    {
        let server = net.peer.listening(line);
        started.push(server);
    }
    started
}

/// By the tap and past it.
#[test]
fn traffic_of_a_namespace_allocates_nothing() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let options = "--config-net --foreground --stats 1 -t 5003 -u 6003 -T 5004 -U 6004";
    let guest = net.pasta(User::Normal).with(options).start();
    assert!(resident(guest.pasta.pid()) < IDLE, "{} KiB", resident(guest.pasta.pid()));
    let ways: [(&dyn Place, &dyn Place, u16); 2] = [(&guest, &net.host, 3), (&net.host, &guest, 4)];
    let servers: Vec<_> = ways
        .iter()
        .map(|(server, _, port)| {
            let udp = server.listening(&format!("udp-serve [::]:{}", 6000 + port));
            (server.serve(&format!("[::]:{}", 5000 + port)), udp)
        })
        .collect();
    let all = || {
        use_network(&guest);
        for (_, client, port) in &ways {
            let tcp = at("127.0.0.1", 5000 + port);
            for _ in 0..50 {
                exchange(*client, &tcp);
            }
            upload(*client, &tcp, 64 * MIB);
            client.peer(&format!("udp-ask {} hello", at("127.0.0.1", 6000 + port)));
        }
    };
    // The thread in the namespace takes a little when it is used first.
    all();
    let before = statistic(&guest.pasta, "allocations");
    all();
    assert_eq!(statistic(&guest.pasta, "allocations"), before);
    drop(servers);
}

#[test]
fn traffic_of_a_machine_allocates_nothing() {
    let Some(net) = Net::new() else { return };
    let _servers = servers(&net);
    let passt = net.passt(User::Normal).with("--foreground --stats 1").listen("socket");
    let machine = Machine::start(&net, &net.dir().join("socket"), 1500);
    machine.configure();
    use_network(&machine);
    assert_eq!(statistic(&passt, "allocations"), 0);
}

/// What is seldom has memory of its own.
#[test]
fn ports_that_are_followed() {
    let Some(net) = Net::new() else { return };
    let guest = net.pasta(User::Normal).with("--config-net --foreground --stats 1").start();
    let held = statistic(&guest.pasta, "allocations");
    let server = guest.serve("[::]:5005");
    eventually("a forwarded port", || {
        net.host.peer("connect 127.0.0.1:5005").contains("connected").then_some(())
    });
    assert!(statistic(&guest.pasta, "allocations") > held);
    drop(server);
}
