//! Changes of the rules while the kernel refuses ports: any one call that has a socket listen fails,
//! at any place. All of a change takes effect or none of it, what listens is what the table says, a
//! rule that stays keeps its sockets, and no descriptor is lost.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use std::rc::Rc;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage, getsockname};
use passt_engine::control::Control;
use passt_engine::flow::{Protocol, Side};
use passt_engine::forward::rule::{Listen, PortRange, Rule};
use passt_engine::forward::{Change, Entry, Progress};
use passt_engine::link::none::NoLink;
use passt_engine::process::Uncommitted;
use passt_engine::worker::Worker;
use passt_proto::time::Instant;
use passt_sys::inject::{self, Fate, Faults, Listening};
use rustix::io::Errno;

use crate::link::Rng;
use crate::rig::options;
use crate::seeds;

const PORTS: std::ops::Range<u16> = 20_000..20_005;
const TRANSACTIONS: usize = 2000;
const ERRORS: [Errno; 4] = [Errno::ADDRINUSE, Errno::ACCESS, Errno::NOMEM, Errno::MFILE];

/// Protocol and address of a socket that listens, and its inode.
type Sockets = BTreeMap<(u8, String), u64>;

/// Fails one call.
#[derive(Clone, Default)]
struct Script(Rc<RefCell<Plan>>);

#[derive(Default)]
struct Plan {
    /// Calls that pass before, and the error; `None` once it has failed.
    next: Option<(usize, Errno)>,
    failed: Option<Listening>,
}

impl Faults for Script {
    fn listening(&mut self, call: Listening) -> Fate {
        let mut plan = self.0.borrow_mut();
        match plan.next {
            Some((0, errno)) => {
                (plan.next, plan.failed) = (None, Some(call));
                Fate::Fail(errno.raw_os_error())
            }
            Some((left, errno)) => {
                plan.next = Some((left - 1, errno));
                Fate::Pass
            }
            None => Fate::Pass,
        }
    }
}

#[test]
fn any_call_fails_at_any_place() {
    let work = move || {
        // Descriptors and ports that no other test has.
        unshare(CloneFlags::CLONE_FILES).expect("descriptors of its own");
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return passt_testing::skip("no network of its own");
        }
        let (mut seen, mut outcomes) = (BTreeMap::new(), [0; 3]);
        for seed in seeds() {
            run(seed, &mut seen, &mut outcomes);
        }
        println!("{seen:?} {outcomes:?}");
        let kinds = [Listening::Bind, Listening::Listen, Listening::Watch];
        assert!(kinds.iter().all(|kind| seen.get(kind).is_some_and(|count| *count > 20)), "{seen:?}");
        assert!(outcomes.iter().all(|count| *count > 20), "{outcomes:?}");
    };
    std::thread::spawn(work).join().expect("no fault");
}

/// Counts which calls have failed, and plans that took effect, were refused and undone.
fn run(seed: u64, seen: &mut BTreeMap<Listening, usize>, outcomes: &mut [usize; 3]) {
    let mut rng = Rng(seed ^ 0xfa11);
    let mut worker = Worker::new(NoLink, &options(0, 64), Instant::from_millis(1000)).expect("an engine");
    let script = Script::default();
    inject::install(Some(Box::new(script.clone())));
    let before_all = descriptors();
    let mut sockets = Sockets::new();
    for round in 0..TRANSACTIONS {
        let changes: Vec<_> = (0..=rng.below(5)).map(|_| some_change(&mut rng)).collect();
        let before: Vec<_> = rules(&mut worker);
        *script.0.borrow_mut() =
            Plan { next: Some((rng.below(4), ERRORS[rng.below(ERRORS.len())])), failed: None };
        let partial = rng.chance(400);
        let committed = change(&mut worker.control(), &changes, partial, outcomes);
        let failed = script.0.borrow_mut().failed.take();
        script.0.borrow_mut().next = None;
        if let Some(call) = failed {
            *seen.entry(call).or_default() += 1;
        }
        let case = format!("{seed} {round}: {changes:?}, {failed:?} fails, {committed}");
        let (after, now) = (rules(&mut worker), listening());
        check(&after, &now, &case);
        if committed {
            let stays = before.iter().filter(|(entry, _)| after.iter().any(|(other, _)| other == entry));
            let kept: BTreeSet<_> = stays.flat_map(|(entry, _)| names(entry)).collect();
            for name in &kept {
                assert!(
                    sockets.get(name).is_none_or(|inode| now.get(name) == Some(inode)),
                    "{case}: {name:?}"
                );
            }
        } else {
            assert_eq!(after, before, "{case}");
            assert!(now.keys().eq(sockets.keys()), "{case}: {now:?} {sockets:?}");
        }
        sockets = now;
    }
    let clear: Vec<_> = rules(&mut worker).into_iter().map(|(entry, _)| Change::Delete(entry)).collect();
    assert!(change(&mut worker.control(), &clear, false, outcomes));
    assert_eq!((descriptors(), listening()), (before_all, Sockets::new()), "{seed}");
    inject::install(None);
}

/// Whether changes took effect: all of them, or if that does as many as can be had.
fn change(
    control: &mut Control<'_, NoLink>,
    changes: &[Change],
    partial: bool,
    outcomes: &mut [usize; 3],
) -> bool {
    let plan = control.plan(changes.iter().cloned());
    if !plan.refused().is_empty() && !partial {
        return false;
    }
    let mut apply = control.apply(plan);
    while control.step(&mut apply) != Progress::Done {}
    let applied = apply.finish();
    let takes_effect = partial || !applied.lacks_rules();
    if takes_effect {
        control.begin_commit(applied, !partial);
    } else {
        control.begin_roll_back(applied);
    }
    let result = loop {
        if let Some(result) = control.settle() {
            break result;
        }
    };
    match result {
        Ok(_) if takes_effect => outcomes[0] += 1,
        Ok(_) => outcomes[1] += 1,
        Err(Uncommitted::Port(_) | Uncommitted::Watch(_)) => outcomes[2] += 1,
        Err(error) => panic!("{error}"),
    }
    result.is_ok() && takes_effect
}

fn some_change(rng: &mut Rng) -> Change {
    let first = PORTS.start + u16::try_from(rng.below(PORTS.len() - 1)).expect("a port");
    let addr = [None, Some(Ipv4Addr::LOCALHOST), Some(Ipv4Addr::new(127, 0, 0, 2))][rng.below(3)];
    let rule = Rule {
        listen: Listen { addr: addr.map(IpAddr::V4), interface: None },
        ports: PortRange::new(first, first + u16::from(rng.chance(300))).expect("ports"),
        to: if rng.chance(300) { 81 } else { 80 },
        target: None,
        weak: rng.chance(300),
        scan: false,
    };
    let protocol = if rng.chance(500) { Protocol::Tcp } else { Protocol::Udp };
    let entry = Entry { side: Side::Host, protocol, rule };
    if rng.chance(550) { Change::Add(entry) } else { Change::Delete(entry) }
}

fn rules(worker: &mut Worker<NoLink>) -> Vec<(Entry, usize)> {
    worker.control().rules().map(|(entry, sockets)| (entry.clone(), sockets)).collect()
}

/// The sockets that a rule may have.
fn names(entry: &Entry) -> Vec<(u8, String)> {
    let protocol = if entry.protocol == Protocol::Tcp { 6 } else { 17 };
    let Rule { listen, ports, .. } = &entry.rule;
    let name = |port| match listen.addr {
        Some(addr) => (protocol, format!("{addr}:{port}")),
        None => (protocol, format!("[::]:{port}")),
    };
    (ports.first()..=ports.last()).map(name).collect()
}

/// Rules have the sockets that they must have, and there are no others.
fn check(rules: &[(Entry, usize)], sockets: &Sockets, case: &str) {
    let mut all = 0;
    for (entry, count) in rules {
        let there = names(entry).iter().filter(|name| sockets.contains_key(name)).count();
        assert_eq!(there, *count, "{case}: {entry}");
        assert!(entry.rule.weak || there == names(entry).len(), "{case}: {entry} {there}");
        all += there;
    }
    assert_eq!(sockets.len(), all, "{case}: {sockets:?}");
}

fn descriptors() -> usize {
    fs::read_dir("/proc/thread-self/fd").expect("procfs").count()
}

/// What this thread has bound to the ports.
fn listening() -> Sockets {
    let all = fs::read_dir("/proc/thread-self/fd").expect("procfs");
    all.filter_map(|descriptor| {
        let path = descriptor.ok()?.path();
        let link = fs::read_link(&path).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        let number: RawFd = path.file_name()?.to_str()?.parse().ok()?;
        let at: SockaddrStorage = getsockname(number).ok()?;
        let port = at.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
        let port = port.or_else(|| at.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port))?;
        let mut protocol = [0; 8];
        let len = rustix::fs::getxattr(&path, "system.sockprotoname", &mut protocol).ok()?;
        let protocol = if protocol.get(..len)?.starts_with(b"TCP") { 6 } else { 17 };
        (at.family().is_some() && PORTS.contains(&port)).then(|| ((protocol, at.to_string()), inode))
    })
    .collect()
}
