//! What a front end can say by vhost-user: messages, each with a file of memory or an eventfd as
//! often as it likes, in pieces. Whatever it is, the link goes on, or has seen the client off.
//!
//! Each message is a byte for its number, one for its descriptors, one for the length of its
//! payload, and the payload.
#![no_main]

use std::os::fd::{AsFd as _, BorrowedFd};

use libfuzzer_sys::fuzz_target;
use passt_engine::link::vhost_user::mock::{Machine, Shape};
use passt_engine::link::vhost_user::{Config, ProtocolFeatures, VhostUserLink};
use passt_engine::link::{ClientLink as _, Link as _};
use passt_proto::wire::offload::Offload;
use passt_sys::event::Event;
use passt_sys::iovec::{Gather, Scatter};

fuzz_target!(|data: &[u8]| {
    let shape = Shape {
        features: VhostUserLink::FEATURES,
        protocol: ProtocolFeatures::REPLY_ACK,
        pairs: 2,
        transmit: 16,
        receive: 16,
        buffer: 1600,
    };
    let (mut machine, socket) = Machine::pair(shape).expect("a machine");
    let mut link = VhostUserLink::new(Config { mtu: Some(1500), is_chosen: true });
    link.connect(socket);
    link.renew_fds();
    let event = Event::new().expect("an eventfd");
    let mut rest = data;
    while let [request, kind, len, after @ ..] = rest {
        let (payload, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        let file = if kind & 1 == 0 { machine.memory() } else { event.as_fd() };
        let files: Vec<BorrowedFd<'_>> = (0..kind >> 1 & 3).map(|_| file).collect();
        machine.request((*request).into(), kind & 8 != 0, payload, &files);
        if kind & 0x10 != 0 {
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
        send(&mut link, usize::from(*kind) * 7);
        while machine.answer().is_some() {}
    }
});

fn send(link: &mut VhostUserLink, len: usize) {
    let _ = link.send(&[0; 60]);
    let room = link.lendable(54, 1460).min(len);
    if room > 0 && link.reserve(54, room, 1460, &mut Scatter::new()) {
        let _ = link.commit(&[0; 54], &Offload::default(), room);
    }
    link.flush();
}
