//! Control at random while transfers run: flows are listed and ended, rules planned, applied,
//! committed and rolled back. Nothing else may be lost, and what listens is what a model says.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::RawFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{SockaddrIn, getsockname};
use passt_engine::control::{Control, Cursor, NoFlow};
use passt_engine::flow::{Handle, Protocol, Side};
use passt_engine::forward::rule::{Listen, PortRange, Rule};
use passt_engine::forward::{Applied, Change, Entry, Progress};
use passt_engine::process::Uncommitted;

use crate::engine::{MIB, Pair, World, bad};
use crate::link::{Node, Rng};
use crate::rig::{Backlogged, End, Machine, Memory};
use crate::seeds;

/// Ports of a protocol that rules are for: beside those that the kernel gives out.
const PORTS: std::ops::Range<u16> = 20_000..20_006;
/// Operations of a run, at least.
const OPERATIONS: usize = 150;

/// What listens: protocol and port, and what the kernel calls the socket.
type Listening = BTreeMap<(u8, u16), u64>;

struct Drive<E: End> {
    world: World<E>,
    rng: Rng,
    /// Where rules listen.
    address: Ipv4Addr,
    /// Rules in effect, as the model has them, with the port that each leads to, and sockets.
    rules: BTreeMap<(u8, u16), (u16, u64)>,
    /// Ports that somebody else has.
    taken: Vec<(u8, u16)>,
    walk: Walk,
    /// Connections that are ended: their ports of the guest, and their servers.
    victims: Vec<(u16, TcpListener)>,
    committed: usize,
    ended: usize,
}

/// A list of flows that is being read.
#[derive(Default)]
struct Walk {
    from: Cursor,
    /// Those that were there when it began, and how often each was seen.
    there: HashMap<Handle, usize>,
}

#[test]
fn in_memory() {
    at_random::<Memory>(1);
}

#[test]
fn with_a_backlog() {
    at_random::<Backlogged>(2);
}

#[test]
fn over_a_stream() {
    at_random::<Machine>(3);
}

fn at_random<E: End>(test: u8) {
    let work = move || {
        // Or other tests, and programs that they start, would have sockets that were closed.
        unshare(CloneFlags::CLONE_FILES).expect("descriptors of its own");
        run::<E>(test);
    };
    std::thread::spawn(work).join().expect("no fault");
}

fn run<E: End>(test: u8) {
    // An address that nobody else has.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 128 + high % 64, low, test);
    for seed in seeds() {
        let nodes = if seed % 2 == 0 { Vec::new() } else { bad().to_vec() };
        let mut drive = Drive::<E>::new(seed, address, &nodes);
        let _others = drive.take_ports();
        let mut operations = 0;
        while operations < OPERATIONS || !drive.world.pairs.iter().all(Pair::is_complete) {
            drive.world.step();
            if drive.rng.chance(300) {
                operations += 1;
                drive.operate();
            }
        }
        assert!(drive.committed > 5 && drive.ended > 0, "{seed}: {} {}", drive.committed, drive.ended);
        while !drive.victims.is_empty() {
            drive.world.step();
            drive.end_one();
        }
        drive.world.run_to_end();
    }
}

impl<E: End> Drive<E> {
    fn new(seed: u64, address: Ipv4Addr, nodes: &[Node]) -> Self {
        let mut world = World::<E>::usual(seed, nodes);
        for v4 in [true, false] {
            world.connect(v4, MIB / 4, MIB / 4);
            world.connect(v4, MIB / 8, MIB / 2);
        }
        Self {
            world,
            rng: Rng(seed ^ 0x5eed),
            address,
            rules: BTreeMap::new(),
            taken: Vec::new(),
            walk: Walk::default(),
            victims: Vec::new(),
            committed: 0,
            ended: 0,
        }
    }

    /// Has others have one port of each protocol.
    fn take_ports(&mut self) -> (TcpListener, UdpSocket) {
        let port = PORTS.end;
        self.taken = vec![(6, port), (17, port)];
        let at = (self.address, port);
        (TcpListener::bind(at).expect("a free port"), UdpSocket::bind(at).expect("a free port"))
    }

    fn control(&mut self) -> Control<'_, E::Link> {
        self.world.worker.control()
    }

    fn operate(&mut self) {
        match self.rng.below(8) {
            0..4 => self.page(),
            4 => self.begin_one(),
            5 => self.end_one(),
            _ => self.change_rules(),
        }
    }

    /// Reads the next page of the list. At its end all that were there all the time were seen once.
    fn page(&mut self) {
        let from = self.walk.from;
        if from == Cursor::START {
            self.walk.there = self.all().into_iter().map(|handle| (handle, 0)).collect();
        }
        let most = 1 + self.rng.below(4);
        let page = self.control().flows(from, most);
        assert!(page.flows.len() <= most);
        for flow in &page.flows {
            if let Some(seen) = self.walk.there.get_mut(&flow.handle) {
                *seen += 1;
            }
        }
        self.walk.from = page.next.unwrap_or_default();
        if page.next.is_none() {
            let there = std::mem::take(&mut self.walk.there);
            for (handle, seen) in there {
                let lives = self.control().flow(handle).is_ok();
                assert!(seen == 1 || seen == 0 && !lives, "{handle:?} seen {seen} times, lives: {lives}");
            }
        }
    }

    fn all(&mut self) -> Vec<Handle> {
        let (mut all, mut from) = (Vec::new(), Some(Cursor::START));
        while let Some(cursor) = from {
            let page = self.control().flows(cursor, usize::MAX);
            all.extend(page.flows.iter().map(|flow| flow.handle));
            from = page.next;
        }
        all
    }

    /// The guest opens a connection that is not to last.
    fn begin_one(&mut self) {
        if self.victims.len() >= 4 {
            return;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        self.world.connect_to(true, port, MIB);
        self.victims.push((self.world.local_port, listener));
    }

    /// Ends one of those, if the engine has heard of it. It cannot be ended again.
    fn end_one(&mut self) {
        if self.victims.is_empty() {
            return;
        }
        let place = self.rng.below(self.victims.len());
        let port = self.victims[place].0;
        let page = self.control().flows(Cursor::START, usize::MAX);
        let Some(flow) = page.flows.iter().find(|flow| flow.guest.port == port) else { return };
        assert_eq!(self.control().end(flow.handle), Ok(()));
        assert_eq!(self.control().end(flow.handle), Err(NoFlow));
        self.victims.swap_remove(place);
        self.ended += 1;
    }

    /// Asks for some changes, and carries them out or not.
    fn change_rules(&mut self) {
        let changes: Vec<_> = (0..=self.rng.below(4)).map(|_| self.one_change()).collect();
        let (wanted, refused) = self.expected(&changes);
        let before = self.listening();
        let applied = self.apply(&changes);
        assert_eq!(applied.refused().len(), refused, "{changes:?}: {:?}", applied.refused());
        let meanwhile = self.listening();
        for (name, socket) in &before {
            assert_eq!(meanwhile.get(name), Some(socket), "{name:?} while {changes:?} is applied");
        }
        match self.rng.below(4) {
            0 => drop(applied),
            1 => self.too_late(applied, &before),
            _ => self.commit(applied, &wanted, &before),
        }
        self.compare();
    }

    fn one_change(&mut self) -> Change {
        let kind = if self.rng.chance(500) { 6 } else { 17 };
        let port = PORTS.start + u16::try_from(self.rng.below(PORTS.len() + 1)).expect("a port");
        let to = 80 + u16::try_from(self.rng.below(2)).expect("a port");
        let entry = self.entry((kind, port), to);
        if self.rng.chance(600) { Change::Add(entry) } else { Change::Delete(entry) }
    }

    fn entry(&self, (kind, port): (u8, u16), to: u16) -> Entry {
        let listen = Listen { addr: Some(IpAddr::V4(self.address)), interface: None };
        let ports = PortRange::new(port, port).expect("a port");
        let protocol = if kind == 6 { Protocol::Tcp } else { Protocol::Udp };
        let rule = Rule { listen, ports, to, target: None, weak: false, scan: false };
        Entry { side: Side::Host, protocol, rule }
    }

    /// The model's table after changes, each port with what it leads to; and how many rules are
    /// refused.
    fn expected(&self, changes: &[Change]) -> (BTreeMap<(u8, u16), u16>, usize) {
        let mut table: BTreeMap<_, _> = self.rules.iter().map(|(&name, &(to, _))| (name, to)).collect();
        let mut conflicts = 0;
        for change in changes {
            let (Change::Add(entry) | Change::Delete(entry)) = change;
            let name = (if entry.protocol == Protocol::Tcp { 6 } else { 17 }, entry.rule.ports.first());
            let there = table.get(&name).copied();
            match change {
                Change::Add(_) if there.is_some_and(|to| to != entry.rule.to) => conflicts += 1,
                Change::Add(_) => drop(table.insert(name, entry.rule.to)),
                Change::Delete(_) if there == Some(entry.rule.to) => drop(table.remove(&name)),
                Change::Delete(_) => {}
            }
        }
        let taken = self.taken.iter().filter(|name| table.remove(name).is_some()).count();
        (table, conflicts + taken)
    }

    fn apply(&mut self, changes: &[Change]) -> Applied {
        let plan = self.control().plan(changes.iter().cloned());
        let mut apply = self.control().apply(plan);
        while self.control().step(&mut apply) != Progress::Done {
            self.world.step();
        }
        apply.finish()
    }

    fn commit(&mut self, applied: Applied, wanted: &BTreeMap<(u8, u16), u16>, before: &Listening) {
        self.control().commit(applied).expect("it is the newest");
        self.committed += 1;
        let now = self.listening();
        let socket = |name| now.get(name).copied().unwrap_or_default();
        let rules: BTreeMap<_, _> = wanted.iter().map(|(name, &to)| (*name, (to, socket(name)))).collect();
        for (name, (_, socket)) in &rules {
            // Also one that leads elsewhere now has its socket.
            let stays = self.rules.contains_key(name);
            assert_eq!(stays, before.get(name) == Some(socket), "{name:?}");
        }
        self.rules = rules;
    }

    /// Another change comes first.
    fn too_late(&mut self, applied: Applied, before: &Listening) {
        let name = (6, PORTS.start);
        let was = self.rules.get(&name).copied();
        let change = |this: &Self, to| match was {
            Some(_) => Change::Delete(this.entry(name, to)),
            None => Change::Add(this.entry(name, to)),
        };
        let changes = [change(self, was.map_or(80, |(to, _)| to))];
        // The port may be one that is open already for what comes too late.
        let first = self.apply(&changes);
        let is_free = !first.lacks_rules();
        let (wanted, _) = self.expected(if is_free { &changes } else { &[] });
        self.commit(first, &wanted, before);
        assert!(matches!(self.control().commit(applied), Err(Uncommitted::Stale(_))));
    }

    /// The kernel, the engine and the model agree on what listens.
    fn compare(&mut self) {
        let model: Listening = self.rules.iter().map(|(&name, &(_, socket))| (name, socket)).collect();
        assert_eq!(self.listening(), model);
        let (address, rules) = (self.address, self.rules.len());
        let control = self.control();
        assert!(
            control
                .rules()
                .all(|(e, sockets)| { sockets == 1 && e.rule.listen.addr == Some(IpAddr::V4(address)) })
        );
        assert_eq!((control.rules().count(), control.occupancy().listeners.open), (rules, rules));
    }

    /// What listens at our address, but for what others have: sockets of this thread, as the kernel
    /// describes them.
    fn listening(&self) -> Listening {
        let descriptors = fs::read_dir("/proc/thread-self/fd").expect("procfs");
        let all = descriptors.filter_map(|entry| self.listens(&entry.ok()?.path()));
        all.filter(|(name, _)| !self.taken.contains(name)).collect()
    }

    /// Protocol, port and inode of a socket, if it is at our address.
    fn listens(&self, path: &Path) -> Option<((u8, u16), u64)> {
        let link = fs::read_link(path).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        let number: RawFd = path.file_name()?.to_str()?.parse().ok()?;
        let at: SockaddrIn = getsockname(number).ok()?;
        let mut protocol = [0; 8];
        let len = rustix::fs::getxattr(path, "system.sockprotoname", &mut protocol).ok()?;
        let protocol = if protocol.get(..len)?.starts_with(b"TCP") { 6 } else { 17 };
        (at.ip() == self.address).then_some(((protocol, at.port()), inode))
    }
}
