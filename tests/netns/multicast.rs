//! Multicast and broadcast, from the guest and to it, through the host.

use std::net::SocketAddr;
use std::time::Duration;

use passt_tests::transfer::at;
use passt_tests::{
    Avahi, FAR4, FAR6, GATEWAY4, GATEWAY6, Guest, HOST4, HOST6, Net, Place, Process, User, eventually,
    eventually_within,
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
    place.listening(&format!("group {at} eth0"))
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

/// As SSDP does: whoever is in the group answers the guest's question from an address of its own.
#[test]
fn questions_of_the_guest_are_answered() {
    let Some(net) = Net::new() else { return };
    let guest = started(&net, "");
    for (at, far) in [(SSDP, GATEWAY4), ("[ff05::c]:1900", GATEWAY6)] {
        let _member = member(&net.peer, at);
        let answer = say(&guest, at, 0, 4, "anybody?");
        let source: SocketAddr =
            answer.strip_prefix("here from ").expect(&answer).parse().expect("an address");
        assert_eq!(source.port(), 1900);
        // IPv6 chooses by scope: that may be the link-local one.
        assert!(source.is_ipv6() || source.ip().to_string() == far, "{answer}");
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
            assert!(line.contains(&format!("from {GATEWAY4} port ")), "{options}: {line}");
            assert!(line.contains(&format!(" to {seen} ")), "{options}: {line}");
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

/// What the guest sends to many, from a port that it also sends to a single host from, leaves from
/// that port, and arrives once. It does not come back, but others' does: whether the port is
/// forwarded, or was known before the group.
#[test]
fn to_many_from_a_port_in_use() {
    let Some(net) = Net::new() else { return };
    for options in ["", "-u 6100", "-u auto"] {
        let guest = started(&net, options);
        for to in [OTHER, "[ff05::1:2]:6100", "192.0.2.255:6100", "255.255.255.255:6100"] {
            let (v6, is_group) = (to.contains(':') && to.starts_with('['), !to.contains("255"));
            let all = if v6 { "[::]:6100" } else { "0.0.0.0:6100" };
            let here = if is_group { to } else { all };
            let mut outside = member(&net.peer, here);
            let single = at(if v6 { FAR6 } else { FAR4 }, 6100);
            let mut listens = member(&net.peer, all);
            say(&guest, &single, 6100, 1, "single");
            assert!(listens.wait_for("single from").contains(" port 6100 "), "{options} {to}");
            let mut inside = member(&guest, here);
            if is_group {
                await_host(&net, group_of(to), true);
            }
            for text in ["one", "two"] {
                say(&guest, to, 6100, 3, text);
                assert!(outside.wait_for(&format!("{text} from")).contains(" port 6100 "), "{options} {to}");
                say(&net.peer, to, 0, 3, &format!("others-{text}"));
                let line = inside.wait_for(&format!("others-{text} from"));
                assert!(line.contains(&format!(" to {} ", group_of(to))), "{options} {to}: {line}");
            }
            for member in [inside, outside] {
                say(&net.peer, to, 0, 3, "last");
                let heard = heard_until(member, "last");
                let count = |text: &str| heard.iter().filter(|line| line.starts_with(text)).count();
                let all = ["one", "two", "others-one", "others-two"].map(count);
                assert_eq!(all, [1; 4], "{options} {to}: {heard:?}");
            }
        }
    }
}

/// A program that joins a group and sends there at once is heard, and hears: its report may come
/// later than what it sends.
#[test]
fn joining_and_sending_at_once() {
    let Some(net) = Net::new() else { return };
    let guest = started(&net, "");
    say(&guest, OTHER, 6100, 3, "early");
    let mut inside = member(&guest, OTHER);
    await_host(&net, group_of(OTHER), true);
    say(&net.peer, OTHER, 0, 3, "hello");
    inside.wait_for("hello from");
}

/// Two guests find each other's service.
#[test]
fn services_are_found() {
    let Some(net) = Net::new() else { return };
    let Some(avahi) = Avahi::new(&net) else { return };
    // Each with addresses of its own: avahi takes that of another host for a conflict of names.
    let guests = [("alpha", "192.0.2.77", "2001:db8::77"), ("beta", "192.0.2.78", "2001:db8::78")]
        .map(|(name, v4, v6)| (name, v4, started(&net, &format!("-a {v4} -a {v6}"))));
    let mut daemons = guests.each_ref().map(|(name, _, guest)| avahi.start(guest, name));
    for (daemon, (name, address, _)) in daemons.iter_mut().zip(guests.iter().rev()) {
        daemon.wait_for(&format!("=;eth0;IPv4;{name};Web Site;local;{name}.local;{address};8080;"));
    }
}
