//! What a guest can write to its queues while frames travel both ways. Whatever it is, what the
//! engine is shown is inside of memory, and the link goes on.
//!
//! The first eight bytes choose features. Then each step is a place of two bytes, a length, and
//! what is written there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use passt_engine::link::vhost_user::mock::{Machine, RECEIVE, Shape, TRANSMIT};
use passt_engine::link::vhost_user::{Config, Features, ProtocolFeatures, VhostUserLink};
use passt_engine::link::{ClientLink as _, HEAD_LEN, Link as _};
use passt_proto::wire::offload::Offload;
use passt_sys::iovec::{Gather, Scatter};

fuzz_target!(|data: &[u8]| {
    let Some((bits, mut rest)) = data.split_first_chunk() else { return };
    let chosen = Features::from_bits_retain(u64::from_le_bytes(*bits)) & VhostUserLink::FEATURES;
    let shape = Shape {
        features: chosen | Features::VERSION_1 | Features::PROTOCOL_FEATURES,
        protocol: ProtocolFeatures::REPLY_ACK,
        pairs: 2,
        transmit: 16,
        receive: 16,
        buffer: 1600,
    };
    let (mut machine, socket) = Machine::pair(shape).expect("a machine");
    let mut link = VhostUserLink::new(Config::default());
    link.connect(socket);
    link.renew_fds();
    machine.start();
    assert_eq!(link.receive(0).expect("a front end"), 0);
    link.renew_fds();
    assert!(machine.send(&vec![7; 3000].into(), &[12, 40, 500]));
    while let [low, high, len, after @ ..] = rest {
        let (bytes, after) = after.split_at(usize::from(*len).min(after.len()));
        rest = after;
        machine.post();
        let at = usize::from(u16::from_le_bytes([*low, *high]));
        assert!(machine.region().copy_in(at, bytes));
        machine.kick(RECEIVE);
        machine.kick(TRANSMIT);
        for ready in 0..3 {
            let count = link.receive(ready).expect("a front end");
            for index in 0..count {
                let Some(frame) = link.frame(index) else { continue };
                let (len, head) = (frame.len, frame.head.to_vec());
                assert_eq!(head.len(), len.min(HEAD_LEN));
                let mut data = Gather::new();
                assert!(link.payload(index, 0..len, &mut data) && data.total() == len);
                let mut again = vec![0; head.len()];
                data.copy_out(0, &mut again);
                assert!(again == head);
            }
        }
        let _ = link.send(&[0; 60]);
        let room = link.lendable(54, 1460);
        if room > 0 && link.reserve(54, room, 1460, &mut Scatter::new()) {
            let _ = link.commit(&[0; 54], &Offload::default(), room);
        }
        link.flush();
    }
});
