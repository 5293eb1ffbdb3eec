//! Whatever a guest reports of its groups: formats, and what is kept of them in time.
#![no_main]

use std::net::IpAddr;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use passt_proto::addr::{Addr, Mac};
use passt_proto::groups::{MAX_GROUPS, Membership};
use passt_proto::time::Instant;
use passt_proto::wire::checksum::Sum;
use passt_proto::wire::membership::Report;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().expect("an address").into()
}

fuzz_target!(|steps: Vec<(u8, Vec<u8>)>| {
    for v4 in [true, false] {
        let (src, dst) = if v4 { ("192.0.2.2", "224.0.0.22") } else { ("fe80::2", "ff02::16") };
        let (src, dst) = (addr(src), addr(dst));
        let mut members = Membership::default();
        let mut now = Instant::ZERO;
        members.greet(now);
        for (wait, message) in &steps {
            now = now + Duration::from_secs((*wait).into());
            let mut message = message.clone();
            if let Some(sum) = message.get_mut(2..4) {
                sum.fill(0);
                let start = if v4 { Sum::new() } else { Sum::pseudo(src, dst, 58, message.len()) };
                let check = start.bytes(&message).finish();
                message[2..4].copy_from_slice(&check.to_be_bytes());
            }
            if let Ok(report) = Report::parse(&message, src, dst, 1) {
                members.report(report, now);
            }
            members.expire(now);
            let mut asked = 0;
            while let Some(question) = members.question(now) {
                let mut out = [0; 2048];
                question.query().emit(Mac([2; 6]), src, &mut out).expect("room");
                asked += 1;
                assert!(asked <= 1 + MAX_GROUPS);
            }
            assert!(members.due().is_none_or(|due| due > now));
        }
    }
});
