//! What a guest can write to its queues while frames travel both ways. Whatever it is, what the
//! engine is shown is inside of memory, and the link goes on.
//!
//! The first eight bytes choose features. Then each step is a place of two bytes, a length, and
//! what is written there.
//!
//! One machine and one link are used again and again, as making them costs more than most inputs:
//! the device is reset, and what can be written to is cleared.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use passt_engine::link::vhost_user::mock::{Machine, RECEIVE, Shape, TRANSMIT};
use passt_engine::link::vhost_user::{Config, Features, ProtocolFeatures, VhostUserLink};
use passt_engine::link::{HEAD_LEN, Link as _};
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

const SHAPE: Shape = Shape {
    features: Features::VERSION_1.union(Features::PROTOCOL_FEATURES),
    protocol: ProtocolFeatures::REPLY_ACK,
    pairs: 2,
    transmit: 16,
    receive: 16,
    buffer: 1600,
};
/// Kicks that come, of those that the link watches: the first pair's.
const KICKS: u32 = 2;
/// Bytes from the start of memory on that a step can write to.
const WRITABLE: usize = 1 << 16 | 0xff;

struct Bench {
    machine: Machine,
    link: VhostUserLink,
    zeros: Vec<u8>,
    packet: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::apart(SHAPE).expect("a machine");
        let mut link = VhostUserLink::new(Config::default());
        machine.start();
        machine.deliver(&mut link);
        Self { machine, link, zeros: vec![0; WRITABLE], packet: vec![7; 3000] }
    }
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|data: &[u8]| {
    let Some((bits, rest)) = data.split_first_chunk() else { return };
    let chosen = Features::from_bits_retain(u64::from_le_bytes(*bits)) & VhostUserLink::FEATURES;
    BENCH.with_borrow_mut(|Bench { machine, link, zeros, packet }| {
        assert!(machine.region().copy_in(0, zeros));
        machine.renew(chosen | SHAPE.features);
        machine.restart();
        machine.deliver(link);
        assert_eq!(link.receive(0).expect("a front end"), 0);
        link.renew_fds();
        assert!(link.fd(KICKS - 1).is_some());
        assert!(machine.send(&packet.clone().into(), &[12, 40, 500]));
        steps(machine, link, rest);
    });
});

fn steps(machine: &mut Machine, link: &mut VhostUserLink, mut rest: &[u8]) {
    while let [low, high, len, after @ ..] = rest {
        let (bytes, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        machine.post();
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        assert!(machine.region().copy_in(at, bytes));
        machine.kick(RECEIVE);
        machine.kick(TRANSMIT);
        for ready in 0..KICKS {
            let count = link.receive(ready).expect("a front end");
            for index in 0..count {
                look(link, index);
            }
        }
        let _ = link.send(&[0; 60]);
        let room = link.lendable(54, 1460);
        if room > 0 && link.reserve(54, room, 1460, &mut Scatter::new()) {
            let _ = link.commit(&[0; 54], &Offload::default(), room);
        }
        link.flush();
    }
}

/// What is shown of a frame is where its payload is.
fn look(link: &VhostUserLink, index: usize) {
    let Some(frame) = link.frame(index) else { return };
    let (len, mut again) = (frame.len, [0; HEAD_LEN]);
    assert_eq!(frame.head.len(), len.min(HEAD_LEN));
    let mut data = Gather::new();
    assert!(link.payload(index, 0..len, &mut data) && data.total() == len);
    let again = &mut again[..frame.head.len()];
    data.copy_out(0, again);
    assert!(*again == *frame.head);
}
