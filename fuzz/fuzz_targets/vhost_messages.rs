//! What a front end can say by vhost-user: messages, each with a file of memory or an eventfd as
//! often as it likes, in pieces. Whatever it is, the link goes on, or has seen the client off.
//!
//! Each message is a byte for its number, one for its descriptors, one for the length of its
//! payload, and the payload.
//!
//! One machine and one link are used again and again, as making them costs more than most inputs.
//! Inputs of some lengths travel by a socket, those of all others are handed over.
#![no_main]

use std::cell::RefCell;
use std::os::fd::{AsFd as _, BorrowedFd};

use libfuzzer_sys::fuzz_target;
use passt_engine::link::vhost_user::mock::{Machine, Shape};
use passt_engine::link::vhost_user::{Config, ProtocolFeatures, VhostUserLink};
use passt_engine::link::{ClientLink as _, Link as _};
use passt_proto::wire::offload::Offload;
use passt_sys::event::Event;
use passt_sys::iovec::{Gather, Scatter};

const SHAPE: Shape = Shape {
    features: VhostUserLink::FEATURES,
    protocol: ProtocolFeatures::REPLY_ACK,
    pairs: 2,
    transmit: 16,
    receive: 16,
    buffer: 1600,
};
/// How often all that a front end says by itself is said in one input.
const STARTS: usize = 2;
/// Inputs whose length is a multiple of this travel by a socket.
const BY_SOCKET: usize = 16;

struct Bench {
    machine: Machine,
    link: VhostUserLink,
    event: Event,
}

impl Bench {
    fn new() -> Self {
        Self {
            machine: Machine::apart(SHAPE).expect("a machine"),
            link: VhostUserLink::new(Config { mtu: Some(1500), is_chosen: true }),
            event: Event::new().expect("an eventfd"),
        }
    }
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|data: &[u8]| {
    BENCH.with_borrow_mut(|Bench { machine, link, event }| {
        if data.len() % BY_SOCKET == 0 {
            let (mut machine, socket) = Machine::pair(SHAPE).expect("a machine");
            link.connect(socket);
            link.renew_fds();
            talk(&mut machine, link, event, data, |_, _| ());
        } else {
            machine.renew(SHAPE.features);
            talk(machine, link, event, data, Machine::deliver);
        }
        machine.depart(link);
        link.renew_fds();
    });
});

fn talk(
    machine: &mut Machine,
    link: &mut VhostUserLink,
    event: &Event,
    data: &[u8],
    deliver: impl Fn(&Machine, &mut VhostUserLink),
) {
    let (mut rest, mut starts) = (data, 0);
    while let [request, kind, len, after @ ..] = rest {
        let (payload, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let file = if kind & 1 == 0 { machine.memory() } else { event.as_fd() };
        let files: Vec<BorrowedFd<'_>> = (0..kind >> 1 & 3).map(|_| file).collect();
        machine.request((*request).into(), kind & 8 != 0, payload, &files);
        if kind & 0x10 != 0 && starts < STARTS {
            starts += 1;
            machine.start();
        }
        if kind & 0x20 != 0 {
            machine.post_some(2);
        }
        if kind & 0x40 != 0 {
            // A log in the guest's own memory: what is noted may change its queues.
            machine.log_base(machine.memory(), machine.region().size() as u64 / 2, (*len).into());
            machine.log(*len & 1 == 0);
        }
        deliver(machine, link);
        let Ok(count) = link.receive(0) else { return };
        if link.has_new_fds() {
            link.renew_fds();
        }
        for index in 0..count {
            if let Some(frame) = link.frame(index) {
                let len = frame.len;
                let _ = link.payload(index, 0..len, &mut Gather::new());
            }
        }
        send(link, usize::from(*kind) * 7);
        while machine.answer().is_some() {}
    }
}

fn send(link: &mut VhostUserLink, len: usize) {
    let _ = link.send(&[0; 60]);
    let room = link.lendable(54, 1460).min(len);
    if room > 0 && link.reserve(54, room, 1460, &mut Scatter::new()) {
        let _ = link.commit(&[0; 54], &Offload::default(), room);
    }
    link.flush();
}
