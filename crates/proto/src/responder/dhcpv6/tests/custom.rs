//! What the user adds and replaces.

use proptest::prelude::*;

use super::*;
use crate::responder::custom::Lease;
use crate::responder::dhcp::tests::custom::arbitrary;

fn with(options: &[(u16, &[u8])]) -> Config {
    let mut cfg = config();
    for (code, body) in options {
        cfg.custom.dhcpv6.push(*code, body).unwrap();
    }
    cfg
}

fn codes(options: &Options) -> Vec<u16> {
    options.iter().map(|(code, _)| *code).collect()
}

#[test]
fn options_are_added_replaced_and_removed() {
    let ntp: Vec<u8> = [&[0, 1, 0, 16][..], &OUR_LL.octets()].concat();
    let cfg = with(&[(59, b"tftp://[fe80::1]/x"), (56, &ntp), (24, &[]), (23, &GUEST_LL.octets())]);
    let (_, options) = ask(&cfg, &message(11, &[option(6, &[0, 56, 0, 24])])).unwrap();
    assert_eq!(codes(&options), [2, 56, 59, 23, 39], "what is asked for first");
    assert_eq!(all(&options, 56), [ntp]);
    assert_eq!(all(&options, 59), [b"tftp://[fe80::1]/x"]);
    assert_eq!(all(&options, 23), [GUEST_LL.octets()]);
    // With an address, too.
    let (_, options) = ask(&cfg, &message(1, &[option(1, &CLIENT), ia_na(1, &[])])).unwrap();
    assert_eq!(codes(&options), [1, 2, 7, 3, 59, 56, 23, 39]);
}

#[test]
fn refresh_is_for_those_without_a_lease() {
    let cfg = with(&[(32, &[0, 0, 14, 16])]);
    let (_, options) = ask(&cfg, &message(11, &[])).unwrap();
    assert_eq!(all(&options, 32), [[0, 0, 14, 16]]);
    let (_, options) = ask(&cfg, &message(1, &[option(1, &CLIENT), ia_na(1, &[])])).unwrap();
    assert!(all(&options, 32).is_empty());
}

#[test]
fn a_lease_with_an_end() {
    let mut cfg = config();
    cfg.custom.dhcpv6_lease = Lease { valid: 7200, preferred: 3600, renewal: 1800, rebinding: 2880 };
    let renewed = [option(1, &CLIENT), option(2, &SERVER), ia_na(1, &["2001:db8:0:1::15"])];
    for (kind, asked) in [(1, &[option(1, &CLIENT), ia_na(1, &[])][..]), (5, &renewed)] {
        let (_, options) = ask(&cfg, &message(kind, asked)).unwrap();
        let ia = all(&options, 3)[0];
        assert_eq!(ia[4..12], [0, 0, 7, 8, 0, 0, 0x0b, 0x40], "T1 and T2");
        assert_eq!(ia[32..], [0, 0, 14, 16, 0, 0, 28, 32], "preferred and valid");
    }
}

proptest! {
    #[test]
    fn answers_are_well_formed_and_not_too_long(
        own in arbitrary(), asked in prop::collection::vec(any::<u8>(), 0..200), mtu in any::<u16>(),
        lease in any::<bool>(),
    ) {
        let mut cfg = config();
        cfg.mtu = mtu;
        for (code, body) in &own {
            let _ = cfg.custom.dhcpv6.push(*code, body);
        }
        let asked = option(6, &asked);
        let request = if lease {
            message(1, &[option(1, &[1; 130]), ia_na(1, &[]), asked])
        } else {
            message(11, &[asked])
        };
        let mut out = std::vec![0; 70_000];
        let len = respond(&cfg, GUEST, GUEST_LL.into(), &request, &mut out).unwrap();
        let limit = if mtu == 0 { 1500 } else { mtu.max(1280) };
        prop_assert!(len <= 14 + usize::from(limit), "{len} {limit}");
        let sent = read(&decode(&out[..len]).payload[4..]);
        prop_assert!(!all(&sent, 2).is_empty());
        prop_assert_eq!(all(&sent, 3).len(), usize::from(lease));
    }
}
