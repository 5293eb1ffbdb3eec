//! What is not tested under qemu's user emulation, and why.

use super::Processor;

/// Parts of tests' names, and why they are left out for a processor.
pub(super) fn of(processor: &Processor) -> Vec<(&'static str, &'static str)> {
    let emulated = processor.emulator.is_some();
    EMULATION.iter().copied().filter(|_| emulated).collect()
}

/// What the emulation does not translate.
const EMULATION: [(&str, &str); 6] = [
    ("life::attendant::tests::", "qemu's user emulation has no filters for system calls"),
    ("forward::watched::tests::answers_go_by_a_socket_that_can_send_them", OPTIONS),
    ("dgram::tests::", OPTIONS),
    ("groups::tests::members", OPTIONS),
    ("msg::rights::tests::more_than_are_wanted", "qemu's user emulation passes on 253 descriptors as 7"),
    (
        "netconf::tests::next_hop_objects_without_compatibility",
        "qemu's user emulation does not translate next hop objects of netlink",
    ),
];
const OPTIONS: &str = "qemu's user emulation does not translate all options of sockets";
