//! ICMP errors that quote what a guest likes, with the checksum that no fuzzer guesses.
#![no_main]

use core::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use passt_proto::addr::Addr;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::complaint::{Complaint, MIN_MTU_V4, MIN_MTU_V6, Trouble};
use passt_proto::wire::ip::protocol;

/// The guest, and what the quoted packet came from.
fn ends(v4: bool) -> (Addr, Addr) {
    if v4 {
        (Ipv4Addr::new(192, 0, 2, 2).into(), Ipv4Addr::new(198, 51, 100, 7).into())
    } else {
        let [guest, remote] = [2, 7].map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n));
        (guest.into(), remote.into())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((entry, message)) = data.split_first() else { return };
    let v4 = entry % 2 == 0;
    let (src, dst) = ends(v4);
    let mut message = message.to_vec();
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
        let start = if v4 { Sum::new() } else { Sum::pseudo(src, dst, protocol::ICMPV6, message.len()) };
        let sum = start.bytes(&message).finish();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let Ok(complaint) = Complaint::parse(src, dst, &message) else { return };
    assert!(Complaint::has_type(v4, message[0]));
    assert_eq!(complaint.from.addr, dst);
    if let Trouble::TooBig { mtu } = complaint.trouble {
        assert!(mtu >= if v4 { MIN_MTU_V4 } else { MIN_MTU_V6 });
    }
    assert!(!complaint.to_string().is_empty());
});
