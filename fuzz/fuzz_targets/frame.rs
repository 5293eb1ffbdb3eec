//! Anything that a guest can send, to the classifier and to each responder.
//!
//! The first byte chooses where the rest enters: as a frame, or behind the
//! checksums, which no fuzzer guesses.
#![no_main]

use core::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use passt_proto::addr::{Addr, Mac};
use passt_proto::classify::{self, Class, classify, stations};
use passt_proto::drop::DropReason;
use passt_proto::responder::custom::Custom;
use passt_proto::responder::{self, Config, Name, Services, V4, V6, dhcp, dhcpv6, ndp};
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::ip::protocol;
use passt_proto::wire::tcp::{MAX_LEN, Segment};

const OURS: Mac = Mac([0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
const GUEST: Mac = Mac([2, 0, 0, 0, 0, 2]);
const GUEST_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const OUR_LL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let name = |text| Name::from(text).unwrap_or_default();
    let gateway = Ipv4Addr::new(198, 51, 100, 1);
    Config {
        our_mac: OURS,
        mtu: 1500,
        v4: Some(V4 {
            addr: Ipv4Addr::new(192, 0, 2, 15),
            prefix_len: 32,
            gateway,
            our_addr: gateway,
            dns: [gateway].into_iter().collect(),
        }),
        v6: Some(V6 {
            addr: Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 0x15),
            prefix_len: 48,
            our_ll: OUR_LL,
            dns: [OUR_LL].into_iter().collect(),
        }),
        search: ["example.org", "lab.example.org"].map(name).into_iter().collect(),
        hostname: Some(name("guest")),
        fqdn: Some(name("guest.example.org")),
        services: Services::all(),
        custom: custom(),
    }
});

/// Options of the user: some of ours replaced or removed, one too long for a single option.
fn custom() -> Custom {
    let mut custom = Custom::default();
    for (code, body) in [(3, &[1; 4][..]), (6, &[]), (43, &[7; 600]), (42, &[2; 8])] {
        let _ = custom.dhcp.push(code, body);
    }
    for (code, body) in [(24, &[][..]), (23, &[3; 16]), (59, b"tftp://[::1]/x")] {
        let _ = custom.dhcpv6.push(code, body);
    }
    custom.ra.captive_portal = Name::from("https://example.org/").ok();
    custom
}

fuzz_target!(|data: &[u8]| {
    let Some((entry, data)) = data.split_first() else { return };
    if entry % 5 == 4 {
        return segment(data);
    }
    // What was in the buffer before is in no reply.
    let [(out, reply), (again, _)] = [0, 0xff].map(|before| {
        let mut out = [before; 1600];
        let reply = respond(*entry, data, &mut out);
        out[reply.unwrap_or(0)..].fill(0);
        (out, reply)
    });
    assert!(out == again);
    let Ok(len) = reply else { return };
    // Our own replies must be sound, if none of our business.
    assert_eq!(stations(&out[..len]).map(|(_, source)| source), Ok(OURS));
    if let Err(reason) = classify(&out[..len], len) {
        assert_eq!(reason, DropReason::IcmpType);
    }
});

/// The reply to what the first byte says that `data` is.
fn respond(entry: u8, data: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
    match entry % 5 {
        0 => frame(data, out),
        1 => dhcp::respond(&CONFIG, None, GUEST, data, out),
        2 => dhcpv6::respond(&CONFIG, GUEST, GUEST_LL.into(), data, out),
        _ => neighbour_discovery(data, out),
    }
}

/// A whole frame: whatever is made of it lies within it.
fn frame(data: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
    let (_, source) = stations(data)?;
    let class = match classify(data, data.len()) {
        Err(DropReason::Fragment) => return Err(fragment(data)),
        class => class?,
    };
    let range = match &class {
        Class::Tcp { payload, .. } | Class::Echo { payload, .. } => payload.clone(),
        Class::Udp(d) | Class::Dhcp(d) | Class::Dhcpv6(d) => d.payload.clone(),
        Class::Ndp { message, .. } | Class::Membership { message, .. } => message.clone(),
        Class::Arp { offset } => *offset..data.len(),
        Class::Complaint { .. } => 0..0,
    };
    assert!(data.get(range).is_some());
    let reply = responder::respond(&CONFIG, None, source, &class, data, |_| responder::Holder::Unknown, out);
    reply.map_or(Err(DropReason::ServiceOff), |response| response.reply)
}

/// A fragment lies in its frame too, and what is taken for a whole packet within that.
fn fragment(data: &[u8]) -> DropReason {
    let found = match classify::fragment(data, data.len()) {
        Ok(found) => found,
        Err(reason) => return reason,
    };
    let body = data.get(found.payload()).expect("within the frame");
    assert_eq!(body.len(), found.part.range().len());
    match classify::reassembled(&found.packet, body) {
        Ok(Class::Udp(d)) => assert!(body.get(d.payload).is_some()),
        Ok(Class::Tcp { payload, .. } | Class::Echo { payload, .. }) => assert!(body.get(payload).is_some()),
        Ok(Class::Complaint { .. }) => {}
        Ok(other) => panic!("{other:?}"),
        Err(reason) => return reason,
    }
    DropReason::Fragment
}

/// A message whose checksum is made right.
fn neighbour_discovery(data: &[u8], out: &mut [u8]) -> Result<usize, DropReason> {
    let mut message = data.to_vec();
    let (src, dst) = (Addr::from(GUEST_LL), Addr::from(OUR_LL));
    if let Some(field) = message.get_mut(2..4) {
        field.fill(0);
        let sum = Sum::pseudo(src, dst, protocol::ICMPV6, data.len()).bytes(&message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
    }
    let request = ndp::Request { source: GUEST, src, dst, hop_limit: 255, message: &message };
    ndp::respond(&CONFIG, &request, |_| responder::Holder::Unknown, out).reply
}

/// A TCP header: what was understood can be written and is understood again.
fn segment(data: &[u8]) {
    let Ok((segment, _)) = Segment::parse(data) else { return };
    let mut out = [0; MAX_LEN];
    let len = segment.emit(&mut out).expect("fits the longest header");
    assert!(Segment::parse(&out[..len]).is_ok_and(|(_, again)| again == len));
}
