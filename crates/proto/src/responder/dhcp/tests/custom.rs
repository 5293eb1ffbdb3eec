//! What the user adds and replaces.

use arrayvec::ArrayString;
use proptest::prelude::*;

use super::*;
use crate::responder::custom::{Boot, Lease, MAX_OPTIONS};

fn with(options: &[(u16, &[u8])]) -> Config {
    let mut cfg = config();
    for (code, body) in options {
        cfg.custom.dhcp.push(*code, body).unwrap();
    }
    cfg
}

#[test]
fn options_are_added_replaced_and_removed() {
    let cfg = with(&[(42, &[192, 0, 2, 9]), (3, &[192, 0, 2, 7]), (6, &[]), (252, b"http://wpad/")]);
    // Asked for in this order: NTP servers, name servers, host name.
    let offer = ask(&cfg, &message(&[53, 1, 1, 55, 3, 42, 6, 12])).unwrap();
    assert_eq!(offer.order, [53, 54, 51, 42, 12, 1, 3, 252, 26, 81, 119]);
    assert_eq!(offer.options[&42], [192, 0, 2, 9]);
    assert_eq!(offer.options[&3], [192, 0, 2, 7]);
    assert_eq!(offer.options[&252], b"http://wpad/");
}

#[test]
fn every_answer_but_a_refusal_has_them() {
    let cfg = with(&[(42, &[192, 0, 2, 9])]);
    for (options, has) in [
        (&[53, 1, 1][..], true),
        (&[53, 1, 1, 80, 0], true),
        (&[53, 1, 3], true),
        (&[53, 1, 8], true),
        (&[], true),
        (&[53, 1, 3, 50, 4, 192, 0, 2, 99], false),
    ] {
        let seen = ask(&cfg, &message(&[options, &[255]].concat())).unwrap();
        assert_eq!(seen.options.contains_key(&42), has, "{options:?}");
    }
}

/// What belongs to the protocol is ours whatever is set.
#[test]
fn the_protocol_is_not_the_users() {
    let cfg = with(&[(53, &[6]), (54, &[9; 4]), (51, &[0; 4]), (255, &[1]), (0, &[1]), (300, &[1])]);
    let offer = ask(&cfg, &message(&[53, 1, 1, 55, 4, 53, 54, 51, 0])).unwrap();
    assert_eq!((offer.kind(), &offer.options[&54][..]), (Some(2), &[192, 0, 2, 1][..]));
    assert_eq!(offer.options[&51], [255; 4]);
    assert!(!offer.options.contains_key(&44), "300 in one byte");
}

/// RFC 3396, section 5: one option in parts, each but the last of 255 bytes.
#[test]
fn a_long_option_is_sent_in_parts() {
    let body: Vec<u8> = (0..=255).cycle().take(300).collect();
    let cfg = with(&[(43, &body)]);
    let mut out = [0; 1600];
    let request = message(&[53, 1, 1, 55, 1, 43, 57, 2, 5, 0xdc]);
    let len = respond(&cfg, None, GUEST, &request, &mut out).unwrap();
    let sent = decode(&out[..len]).payload;
    let parts: Vec<_> = dhcp::options(&sent[240..]).filter(|(code, _)| *code == 43).collect();
    assert_eq!(parts.iter().map(|(_, part)| part.len()).collect::<Vec<_>>(), [255, 45]);
    assert_eq!(parts.iter().flat_map(|(_, part)| part.iter()).copied().collect::<Vec<_>>(), body);
}

#[test]
fn a_lease_with_an_end() {
    let mut cfg = config();
    cfg.custom.dhcp_lease = Lease { valid: 3600, preferred: 3600, renewal: 1800, rebinding: 3150 };
    for (options, leased) in [(&[53, 1, 1][..], true), (&[53, 1, 3], true), (&[53, 1, 8], false)] {
        let seen = ask(&cfg, &message(options)).unwrap();
        for (code, time) in [(51, 3600_u32), (58, 1800), (59, 3150)] {
            let sent = seen.options.get(&code).map(Vec::as_slice);
            assert_eq!(sent, leased.then_some(&time.to_be_bytes()[..]), "{options:?} {code}");
        }
    }
}

#[test]
fn what_is_booted() {
    let mut cfg = config();
    let boot = |server| Boot {
        server,
        name: ArrayString::from("boot.example.org").unwrap(),
        file: ArrayString::from(&"x".repeat(127)).unwrap(),
    };
    for (server, siaddr) in [(Some(Ipv4Addr::new(192, 0, 2, 9)), [192, 0, 2, 9]), (None, [192, 0, 2, 1])] {
        cfg.custom.boot = Some(boot(server));
        for options in [&[53, 1, 1][..], &[53, 1, 3], &[255]] {
            let seen = ask(&cfg, &message(options)).unwrap().frame.payload;
            assert_eq!(seen[20..24], siaddr);
            assert_eq!(seen[44..108], [&b"boot.example.org"[..], &[0; 48]].concat());
            assert_eq!(seen[108..236], [&[b'x'; 127][..], &[0]].concat());
        }
        let nak = ask(&cfg, &message(&[53, 1, 3, 50, 4, 192, 0, 2, 99])).unwrap().frame.payload;
        assert_eq!((&nak[20..24], nak[44..236].iter().all(|&b| b == 0)), (&[0; 4][..], true));
    }
}

prop_compose! {
    /// Options with arbitrary codes and bodies, as many as there is room for.
    pub(crate) fn arbitrary()(
        all in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)), 0..30),
        small in any::<bool>(),
    ) -> Vec<(u16, Vec<u8>)> {
        all.into_iter().map(|(code, body)| (if small { code & 0xff } else { code }, body)).collect()
    }
}

proptest! {
    #[test]
    fn answers_are_well_formed_and_not_too_long(
        own in arbitrary(), asked in prop::collection::vec(any::<u8>(), 0..100), size in any::<u16>(),
        mtu in any::<u16>(), kind in prop::sample::select(&[1u8, 3, 8][..]),
    ) {
        let mut cfg = config();
        cfg.mtu = mtu;
        let mut room = MAX_OPTIONS;
        for (code, body) in &own {
            let fits = body.len() + 4 <= room;
            prop_assert_eq!(cfg.custom.dhcp.push(*code, body).is_some(), fits);
            room -= if fits { body.len() + 4 } else { 0 };
        }
        let count = u8::try_from(asked.len()).unwrap();
        let [a, b] = size.to_be_bytes();
        let request = message(&[&[53, 1, kind, 57, 2, a, b, 55, count][..], &asked].concat());
        let mut out = [0; 1600];
        let len = respond(&cfg, None, GUEST, &request, &mut out).unwrap();
        let sent = decode(&out[..len]).payload;
        let limit = if mtu == 0 { size } else { size.min(mtu) }.clamp(576, 1500);
        prop_assert!(sent.len() + 28 <= usize::from(limit), "{} {limit}", sent.len());
        let end = 240 + dhcp::options(&sent[240..]).map(|(_, body)| body.len() + 2).sum::<usize>();
        prop_assert_eq!(sent[end], option::END);
        prop_assert!(sent[end + 1..].iter().all(|&byte| byte == 0));
        // What has to be there is.
        let first: Vec<_> = dhcp::options(&sent[240..]).map(|(code, _)| code).take(2).collect();
        prop_assert_eq!(first, [53, 54]);
    }
}
