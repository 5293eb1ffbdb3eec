//! Any sequence of transactions ends in the table that a model has, and in the sockets of that table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use passt_control::Protocol;
use passt_control::client::Client;
use passt_control::reply::{Answer, Outcome};
use passt_control::request::{Change, Changes, Request, Which};
use passt_tests::transfer::at;
use passt_tests::{HOST4, Place as _, eventually};

use super::{QUIET, Random, Served, change, port, rules, start};

/// Ports that rules are for.
const FIRST: u16 = 21_000;
const PORTS: u16 = 12;
/// Somebody else has these of TCP.
const TAKEN: [u16; 2] = [FIRST + 2, FIRST + 7];

/// Ports with their targets, by protocol.
type Model = BTreeMap<(Protocol, u16), u16>;

fn apply(model: &mut Model, wanted: &Change) -> Outcome {
    match wanted {
        Change::Add(rule) => match model.get(&(rule.protocol, rule.first)) {
            Some(to) if *to == rule.to() => Outcome::Present,
            Some(_) => Outcome::Refused,
            None => {
                model.insert((rule.protocol, rule.first), rule.to());
                Outcome::Added
            }
        },
        Change::Delete(rule) => {
            if model.get(&(rule.protocol, rule.first)) == Some(&rule.to()) {
                model.remove(&(rule.protocol, rule.first));
                Outcome::Deleted
            } else {
                Outcome::Absent
            }
        }
        Change::Clear(which) => {
            model.retain(|(protocol, _), _| which.protocol.is_some_and(|of| of != *protocol));
            Outcome::Cleared
        }
    }
}

fn some_change(random: &mut Random) -> Change {
    let mut below = |limit: u16| u16::try_from(random.below(limit.into())).expect("below");
    let protocol = if below(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
    let rule = port(protocol, FIRST + below(PORTS), 80 + below(2));
    match below(12) {
        0 => Change::Clear(Which { side: None, protocol: Some(protocol) }),
        1..6 => Change::Delete(rule),
        _ => Change::Add(rule),
    }
}

/// What the kernel says listens there.
fn listening(served: &Served) -> Vec<(Protocol, u16)> {
    let mut found = Vec::new();
    for (protocol, option) in [(Protocol::Tcp, "-Htln"), (Protocol::Udp, "-Huln")] {
        let text = served.net.host.run(&format!("ss {option}"));
        let ports = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse::<u16>().ok());
        found.extend(ports.map(|port| (protocol, port)));
    }
    found.retain(|(protocol, port)| {
        (FIRST..FIRST + PORTS).contains(port) && !(*protocol == Protocol::Tcp && TAKEN.contains(port))
    });
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn any_transactions() {
    let Some(served) = start(QUIET) else { return };
    let _others: Vec<_> =
        TAKEN.iter().map(|port| served.net.host.serve(&format!("0.0.0.0:{port}"))).collect();
    let before = served.guest.descriptors();
    let mut client = served.client();
    let (mut random, mut model) = (Random(0x5eed), Model::new());
    for round in 0..400 {
        let wanted: Vec<_> = (0..random.below(8)).map(|_| some_change(&mut random)).collect();
        let partial = random.below(3) == 0;
        let mut after = model.clone();
        let mut outcomes: Vec<_> = wanted.iter().map(|wanted| apply(&mut after, wanted)).collect();
        let contradicts = outcomes.contains(&Outcome::Refused);
        // Ports of others are tried once all of that is decided, unless it is for nothing anyway.
        let is_taken = |key: &(Protocol, u16)| key.0 == Protocol::Tcp && TAKEN.contains(&key.1);
        let lacking: Vec<_> = after.keys().copied().filter(is_taken).collect();
        if partial || !contradicts {
            for key in &lacking {
                after.remove(key);
                let of_key = |wanted: &Change| matches!(wanted, Change::Add(rule) if (rule.protocol, rule.first) == *key);
                let place =
                    (0..wanted.len()).rev().find(|i| outcomes[*i] == Outcome::Added && of_key(&wanted[*i]));
                outcomes[place.expect("the change that added it")] = Outcome::Refused;
            }
        }
        let committed = partial || !contradicts && lacking.is_empty();
        if committed {
            model = after;
        }
        let changed = change(&mut client, wanted.clone(), partial);
        let told = changed.outcomes.iter().flat_map(|(outcome, count)| std::iter::repeat_n(*outcome, *count));
        assert_eq!(told.collect::<Vec<_>>(), outcomes, "{round}: {wanted:?} {changed:?}");
        assert_eq!(changed.committed, committed, "{round}: {wanted:?} {changed:?}");
        let table: Model =
            rules(&mut client).iter().map(|rule| ((rule.protocol, rule.first), rule.to())).collect();
        assert_eq!(table, model, "{round}: {wanted:?} {changed:?}");
        if round % 20 == 0 {
            let sockets: Vec<_> = table.keys().copied().collect();
            assert_eq!(listening(&served), sockets, "{round}");
        }
    }
    change(&mut client, vec![Change::Clear(Which::default())], false);
    drop(client);
    eventually("no descriptor is lost", || (served.guest.descriptors() <= before).then_some(()));
}

/// Sends changes in parts that fit a message; how long it took.
fn send(client: &mut Client, changes: &[Change]) -> Duration {
    let begun = Instant::now();
    let parts: Vec<_> = changes.chunks(500).collect();
    for (i, part) in parts.iter().enumerate() {
        let more = i + 1 < parts.len();
        let answer = client.ask(Request::Change(Changes { changes: part.to_vec(), more, partial: false }));
        match answer {
            Ok(Answer::Staged(_)) if more => {}
            Ok(Answer::Changed(changed)) if !more => {
                assert!(changed.committed, "{:?}", changed.refused.first());
            }
            other => panic!("{other:?}"),
        }
    }
    begun.elapsed()
}

/// Ten thousand rules come and go while others serve: no connection to them is refused, and none
/// waits for long.
#[test]
fn ten_thousand_rules() {
    let Some(served) = start("-t 8080:80 -u none -T none -U none") else { return };
    let _server = served.guest.serve("[::]:80");
    let mut client = served.client();
    let mut steady = served.net.peer.start_peer(&format!("steady {}", at(HOST4, 8080)));
    steady.wait_for("STEADY");
    // The first of some ports, and what they stand for. Where ports are others, all sockets are.
    let sets = [(10_000, 80), (10_000, 81), (22_000, 80)];
    let set = |(first, to): (u16, u16), count| (0..count).map(move |i| port(Protocol::Tcp, first + i, to));
    for (what, count, sets) in
        [("the same ports", 10_000, [sets[0], sets[1]]), ("others", 8000, [sets[0], sets[2]])]
    {
        change(&mut client, vec![Change::Clear(Which::default())], false);
        change(&mut client, vec![Change::Add(port(Protocol::Tcp, 8080, 80))], false);
        let mut times = Vec::new();
        for round in 0..7 {
            let (old, new) = (sets[(round + 1) % 2], sets[round % 2]);
            let gone = set(old, count).filter(|_| round > 0).map(Change::Delete);
            let changes: Vec<_> = gone.chain(set(new, count).map(Change::Add)).collect();
            let churn = served.net.peer.start_peer(&format!("churn {} 50", at(HOST4, 8080)));
            times.push(send(&mut client, &changes));
            churn.succeed();
        }
        assert_eq!(rules(&mut client).len(), usize::from(count) + 1);
        times.sort_unstable();
        println!("{count} rules, {what}: {times:?}");
        assert!(times[3] < Duration::from_secs(2), "{times:?}");
    }
    println!("beside them {}", steady.finish().stdout.trim());
    change(&mut client, vec![Change::Clear(Which::default())], false);
}
