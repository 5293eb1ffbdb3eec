//! The order in which RootlessKit comes: a first connection, by which its parent asks for an
//! address, stays open; the child comes by a second one of the same name, which carries the frames.

use std::net::Ipv4Addr;

use passt_tests::device::{Attached, Device};
use passt_tests::transfer::{MIB, at, download, exchange};
use passt_tests::{FAR4, Place as _, stream};

use crate::client::{Vif, uuid};
use crate::rig::{FIRST, GW, Rig};

/// Both connections and the device of the second.
struct RootlessKit {
    first: Vif,
    second: Vif,
    attached: Attached,
    device: Device,
}

impl RootlessKit {
    fn start(rig: &Rig) -> Self {
        let first = rig.vif(&uuid(1));
        assert_eq!(first.discover().address, FIRST);
        let second = rig.vif(&uuid(1));
        assert_eq!(second.mac, first.mac);
        let (device, attached) = rig.guest(&second, 1500);
        Self { first, second, attached, device }
    }
}

#[test]
fn the_second_connection_carries_the_frames() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let mut vpnkit = rig.start(1500, "");
    let kit = RootlessKit::start(&rig);
    exchange(&kit.device, &at(FAR4, 5001));
    // As with both of the real one's.
    assert_eq!((kit.second.mac, kit.first.answer == kit.second.answer), (kit.first.mac, true));
    // A frame that comes by the first one now disturbs nobody.
    crate::client::write(&kit.first.stream, &crate::client::framed(&crate::client::discover(kit.first.mac)));
    exchange(&kit.device, &at(FAR4, 5001));
    assert!(vpnkit.try_wait().is_none());
}

#[test]
fn the_first_connection_closes() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let _vpnkit = rig.start(1500, "");
    let RootlessKit { first, second, attached, device } = RootlessKit::start(&rig);
    let download = device.start_peer(&format!("down {} {} 1", at(FAR4, 5001), 256 * MIB));
    let before = attached.seen();
    drop(first);
    // It came while frames did.
    passt_tests::eventually("frames go on", || (attached.seen() > before + MIB).then_some(()));
    assert_eq!(download.succeed().trim(), stream::expected(256 * MIB, 1));
    // Who is served is still the same.
    assert!(rig.try_vif(&uuid(2)).is_err());
    exchange(&device, &at(FAR4, 5001));
    drop((second, attached));
}

/// The child starts again, with the first connection still there.
#[test]
fn a_third_connection() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let _vpnkit = rig.start(1500, "");
    let RootlessKit { first, second, attached, device } = RootlessKit::start(&rig);
    exchange(&device, &at(FAR4, 5001));
    let transfer = device.start_peer(&format!("down {} {} 1", at(FAR4, 5001), 256 * MIB));
    passt_tests::eventually("frames come", || (attached.seen() > MIB).then_some(()));
    drop((second, attached));
    let third = rig.vif(&uuid(1));
    assert_eq!((third.mac, third.discover().address), (first.mac, FIRST));
    let attached = third.attach(&device);
    // What was under way goes on.
    assert_eq!(transfer.succeed().trim(), stream::expected(256 * MIB, 1));
    // More than are kept beside it.
    let mut before = (third, attached);
    for _ in 0..10 {
        let next = rig.vif(&uuid(1));
        assert_eq!(next.discover().address, FIRST);
        let attached = next.attach(&device);
        before = (next, attached);
        exchange(&device, &at(FAR4, 5001));
    }
    download(&device, &at(FAR4, 5001), 16 * MIB);
    drop((first, before));
}

#[test]
fn another_guest() {
    let Some(rig) = Rig::new() else { return };
    let _server = rig.net.peer.serve(&at(FAR4, 5001));
    let _vpnkit = rig.start(1500, "");
    let kit = RootlessKit::start(&rig);
    for number in 2..5 {
        let reason = rig.try_vif(&uuid(number)).err().expect("there is a guest");
        assert!(reason.contains("guest"), "{reason}");
    }
    exchange(&kit.device, &at(FAR4, 5001));
    let mac = kit.second.mac;
    drop(kit);
    let other = rig.vif_after(&uuid(9));
    assert_ne!(other.mac, mac);
    let address = other.discover().address;
    assert_ne!(address, FIRST);
    let (device, attached) = rig.guest(&other, 1500);
    exchange(&device, &at(FAR4, 5001));
    drop((device, attached, other));
    // The first one is known again.
    let first = rig.vif_after(&uuid(1));
    assert_eq!((first.mac, first.discover().address), (mac, FIRST));
}

#[test]
fn offers() {
    let Some(rig) = Rig::new() else { return };
    for (mtu, more, first, gateway) in [
        (1500, "", FIRST, GW),
        (65_520, "", FIRST, GW),
        (1500, "--lowest-ip 192.168.65.40", Ipv4Addr::new(192, 168, 65, 40), GW),
        (
            1500,
            "--gateway-ip=10.7.7.1 --host-ip=10.7.7.2 --lowest-ip=10.7.7.9 --highest-ip=10.7.7.20",
            Ipv4Addr::new(10, 7, 7, 9),
            "10.7.7.1",
        ),
    ] {
        let _vpnkit = rig.start(mtu, more);
        let guest = rig.vif(&uuid(1));
        let offer = guest.discover();
        assert_eq!(offer.address, first, "{more}");
        assert_eq!(offer.option(53), Some(&[2][..]));
        assert_eq!(offer.option(1), Some(&[255, 255, 255, 0][..]));
        let gateway = passt_tests::frame::v4(gateway);
        for code in [3, 6] {
            assert_eq!(offer.option(code), Some(&gateway[..]), "{code}: {more}");
        }
        for _ in 0..3 {
            assert_eq!(guest.discover(), offer);
        }
        let second = rig.vif(&uuid(1));
        assert_eq!(second.discover(), offer);
        assert_eq!(second.mac, guest.mac);
    }
}
