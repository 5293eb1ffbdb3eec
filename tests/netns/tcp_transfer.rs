//! Bulk transfers: 1 GiB each way, both families, content compared by SHA-256; less on machines that
//! are slow.

use passt_tests::transfer::{GIB, at, download, upload};
use passt_tests::{FAR4, FAR6, Net, Place as _, User, slowness};

fn gibibyte_each_way(user: User, mtu: u32) {
    let Some(net) = Net::new() else { return };
    let _servers = [net.peer.serve(&at(FAR4, 5001)), net.peer.serve(&at(FAR6, 5001))];
    let mut guest = net.pasta(user).with("--config-net --mtu").with(&mtu.to_string()).start();
    let length = GIB / u64::from(slowness()).pow(2);
    for address in [FAR4, FAR6] {
        upload(&guest, &at(address, 5001), length);
        download(&guest, &at(address, 5001), length);
    }
    guest.assert_alive();
}

#[test]
fn as_root_mtu_65520() {
    gibibyte_each_way(User::Root, 65_520);
}

#[test]
fn as_root_mtu_1500() {
    gibibyte_each_way(User::Root, 1500);
}

#[test]
fn as_root_mtu_1280() {
    gibibyte_each_way(User::Root, 1280);
}

#[test]
fn as_user_mtu_65520() {
    gibibyte_each_way(User::Normal, 65_520);
}

#[test]
fn as_user_mtu_1500() {
    gibibyte_each_way(User::Normal, 1500);
}

#[test]
fn as_user_mtu_1280() {
    gibibyte_each_way(User::Normal, 1280);
}
