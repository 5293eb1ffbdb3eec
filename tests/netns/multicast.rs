//! Multicast and broadcast, from the guest and to it, through the host.

use std::time::Duration;

use passt_tests::{
    GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place, Process, User, eventually, eventually_within, skip,
};

const SSDP: &str = "239.255.255.250:1900";
const MDNS: &str = "224.0.0.251:5353";
const MDNS6: &str = "[ff02::fb]:5353";
/// No protocol's.
const OTHER: &str = "239.1.2.3:6100";

fn started(net: &Net, options: &str) -> Guest {
    net.pasta(User::Normal).with(&format!("--config-net -t none -u none -T none -U none {options}")).start()
}

/// A member of a group, once the host knows of it where it is in a guest.
fn member(place: &dyn Place, at: &str) -> Process {
    let mut member = place.start_peer(&format!("group {at} eth0"));
    member.wait_for("LISTENING");
    member
}

/// All that a member heard, up to a text; it leaves then.
fn heard_until(mut member: Process, text: &str) -> Vec<String> {
    member.wait_for(&format!("{text} from"));
    member.signal("TERM");
    let heard = member.finish().stdout;
    heard.lines().filter(|line| line.contains(" from ")).map(str::to_owned).collect()
}

fn say(place: &dyn Place, to: &str, from: u16, ttl: u8, text: &str) -> String {
    place.peer(&format!("group-say {to} eth0 {from} {ttl} {text}")).trim().to_owned()
}

/// Waits until the host is a member of a group, or no more.
fn await_host(net: &Net, group: &str, is_member: bool) {
    let family = if group.contains(':') { "-6" } else { "-4" };
    eventually_within(Duration::from_secs(20), &format!("{group}: {is_member}"), || {
        let list = net.host.run(&format!("ip {family} maddr show dev eth0"));
        let found = list.lines().any(|line| line.split_whitespace().any(|word| word == group));
        (found == is_member).then_some(())
    });
}

fn group_of(at: &str) -> &str {
    let (group, _) = at.rsplit_once(':').expect("a port");
    group.trim_matches(['[', ']'])
}

/// What the network sends to a group arrives with source and time to live; what the guest sends
/// there, too, from its own port, and does not come back.
#[test]
fn groups_both_ways() {
    let Some(net) = Net::new() else { return };
    let guest = started(&net, "");
    for (at, port, remote, host) in [
        (SSDP, 1900, GATEWAY4, HOST4),
        (MDNS, 5353, GATEWAY4, HOST4),
        (MDNS6, 5353, "fe80:", "fe80:"),
        ("[ff05::c]:1900", 1900, GATEWAY6, HOST6),
    ] {
        let group = group_of(at);
        let mut inside = member(&guest, at);
        await_host(&net, group, true);
        let mut outside = member(&net.peer, at);
        for ttl in [1, 7, 255] {
            assert_eq!(say(&net.peer, at, port, ttl, &format!("hello{ttl}")), "sent");
            let line = inside.wait_for(&format!("hello{ttl} "));
            assert!(line.contains(&format!("from {remote}")), "{line}");
            assert!(line.ends_with(&format!("to {group} ttl {ttl}")), "{line}");
            assert_eq!(say(&guest, at, port, ttl, &format!("inside{ttl}")), "sent");
            // The network's side hears its own as well.
            let line = outside.wait_for(&format!("inside{ttl} "));
            assert!(line.contains(&format!("from {host}")), "{line}");
            assert!(line.ends_with(&format!("to {group} ttl {ttl}")), "{line}");
        }
        // Once each: what follows is the next thing that is heard.
        say(&net.peer, at, port, 1, "last");
        let heard = heard_until(inside, "last");
        // The guest's own kernel has what it sent heard there.
        for text in ["hello1 ", "hello7 ", "hello255 ", "inside1 ", "inside7 ", "inside255 "] {
            assert_eq!(heard.iter().filter(|line| line.starts_with(text)).count(), 1, "{text}: {heard:?}");
        }
        await_host(&net, group, false);
    }
}

/// Two guests with the host's own address, and one of its programs.
#[test]
fn two_instances_and_the_host() {
    let Some(net) = Net::new() else { return };
    let (one, other) = (started(&net, ""), started(&net, "-a 192.0.2.77"));
    let mut members =
        [member(&one, MDNS), member(&other, MDNS), member(&net.host, MDNS), member(&net.peer, MDNS)];
    // All ports are open once the first datagram arrives.
    eventually("all are members", || {
        say(&net.peer, MDNS, 5353, 255, "ready");
        Some(())
    });
    for member in &mut members {
        member.wait_for("ready from");
    }
    std::thread::sleep(Duration::from_secs(1));
    let places: [&dyn Place; 4] = [&one, &other, &net.host, &net.peer];
    for (number, place) in places.into_iter().enumerate() {
        assert_eq!(say(place, MDNS, 5353, 255, &format!("speaker{number}")), "sent");
        for member in &mut members {
            member.wait_for(&format!("speaker{number} from"));
        }
        assert_eq!(say(place, MDNS, 0, 255, &format!("asker{number}")), "sent");
        for member in &mut members {
            member.wait_for(&format!("asker{number} from"));
        }
    }
    say(&net.peer, MDNS, 5353, 255, "end");
    for member in members {
        let heard = heard_until(member, "end");
        assert_eq!(heard.len(), 2 + 2 * places.len(), "each once: {heard:?}");
    }
}

/// As SSDP does: a question to the group is answered to whoever asked.
#[test]
fn questions_from_the_network_are_answered() {
    let Some(net) = Net::new() else { return };
    let guest = started(&net, "");
    for (at, host) in [(SSDP, HOST4), ("[ff05::c]:1900", HOST6)] {
        let _inside = member(&guest, at);
        await_host(&net, group_of(at), true);
        let answer = say(&net.peer, at, 0, 4, "anybody?");
        assert!(
            answer.starts_with("here from") && answer.contains(host) && answer.ends_with(":1900"),
            "{answer}"
        );
    }
}

/// Groups without a protocol that we know: the guest's own sends tell the port, and forwarded ports
/// are heard without.
#[test]
fn ports_are_learnt() {
    let Some(net) = Net::new() else { return };
    for options in ["", "-u 6100"] {
        let guest = started(&net, options);
        let mut inside = member(&guest, OTHER);
        await_host(&net, "239.1.2.3", true);
        if options.is_empty() {
            say(&guest, OTHER, 0, 1, "first");
        }
        say(&net.peer, OTHER, 0, 3, "hello");
        let line = inside.wait_for("hello from");
        assert!(line.contains(GATEWAY4) && line.ends_with("to 239.1.2.3 ttl 3"), "{line}");
        drop((inside, guest));
        await_host(&net, "239.1.2.3", false);
    }
}

/// What is sent to all of the network reaches a forwarded port, with its destination.
#[test]
fn broadcasts_to_a_forwarded_port() {
    let Some(net) = Net::new() else { return };
    for (options, directed) in
        [("", "192.0.2.255"), ("-4", "192.0.2.255"), ("-a 198.18.0.9/24", "255.255.255.255")]
    {
        let guest = started(&net, &format!("-u 6100 {options}"));
        let mut inside = member(&guest, "0.0.0.0:6100");
        for (to, seen) in [("255.255.255.255", "255.255.255.255"), ("192.0.2.255", directed)] {
            let text = format!("to{to}");
            say(&net.peer, &format!("{to}:6100"), 0, 64, &text);
            let line = inside.wait_for(&format!("{text} from"));
            assert!(line.contains(&format!("from {GATEWAY4} to {seen} ")), "{options}: {line}");
        }
        // Its own does not come back.
        say(&guest, "255.255.255.255:6100", 0, 64, "own");
        say(&net.peer, "192.0.2.255:6100", 0, 64, "last");
        let heard = heard_until(inside, "last");
        let own = heard.iter().filter(|line| line.starts_with("own")).count();
        assert!(own <= 1 && heard.len() == 3 + own, "{heard:?}");
    }
}

#[test]
fn multicast_can_be_off() {
    let Some(net) = Net::new() else { return };
    let guest = started(&net, "--no-multicast -u 6100");
    let inside = [member(&guest, MDNS), member(&guest, OTHER)];
    // The host is a member all the same.
    let _host = member(&net.host, "239.1.2.3:6101");
    for (at, port) in [(MDNS, 5353), (OTHER, 6100)] {
        say(&net.peer, at, port, 9, "hello");
    }
    // It would have come before.
    guest.peer(&format!("udp-ask {GATEWAY4}:9 hello"));
    for (at, member) in [MDNS, OTHER].into_iter().zip(inside) {
        say(&guest, at, 0, 1, "own");
        let heard = heard_until(member, "own");
        assert_eq!(heard.len(), 1, "{heard:?}");
    }
}

/// Two guests find each other's service by avahi.
#[test]
fn services_are_found() {
    let Some(_net) = Net::new() else { return };
    skip("no test of avahi yet: it needs a D-Bus of each guest's own");
}
