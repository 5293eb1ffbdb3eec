//! What guests are told beyond their network: how values are written, and all options with names.

use passt::cli;
use roff::{Roff, bold, roman};

/// The section before the lists.
const TEXT: &str = "\
WHAT GUESTS ARE TOLD
*--dhcp-opt* and *--dhcpv6-opt* take the number of an option or one of its names below, of which the
first is that of IANA's registry. The value replaces whatever would be sent otherwise for that
option, by name servers, domains, *--mtu*, *--hostname* and options here alike. The last of several
counts; one without a value removes the option.

What is set is in every answer that has parameters, whether or not the client asks for it, as far as
there is room. What it asks for comes first, then mask and routers, then the rest of what is set. An
IPv4 packet has up to 576 bytes, or as many as the client says, at most 1500 and the MTU; one of
IPv6 as many as the MTU. All options of one protocol, with four bytes more for each, can have 1024
bytes. In DHCP a value of more than 255 bytes is sent in parts (RFC 3396).

Values are of the type that is given below; where that is a plural, they are a list with commas.
Numbers are decimal, or hexadecimal after *0x*. Domain names are encoded as in DNS. *hex:* and
hexadecimal digits, perhaps with a colon after each two, are the bytes themselves for any option,
and so is *0x* for those that are no numbers. An option that has only a number takes those or text.

The exchange itself is not to be set: types of messages, identifiers, leases, what clients and
relays send. Leases are set by *--dhcp-lease* and *--dhcpv6-lease*; they are renewed as often as the
client asks, with the same address.

*--dhcp-boot* fills in the next server, its name and the file of a DHCP message, and options 66 and
67. For IPv6 there is the option *bootfile-url*. *--ntp* sets option 42 of DHCP, or 31 and 56 of
DHCPv6. *--domain* sets option 15. *--captive-portal* sets option 114 of DHCP, 103 of DHCPv6, and
that of router advertisements (RFC 8910).

*--ra-preference* and *--ra-route* are those of RFC 4191, *--ra-pref64* that of RFC 8781. Guests may
ignore routes: Linux takes them up to the length of *accept_ra_rt_info_max_plen*. Advertisements
come often enough to be heard three times before anything that they say ends, though not more often
than every 3 seconds. With *--config-net* of pasta there are none, but with *--subnet*.";

/// Writes the section.
pub(super) fn write(page: &mut Roff) {
    super::prose(page, TEXT);
    for (title, v6) in [("Options of DHCP", false), ("Options of DHCPv6", true)] {
        page.control("SS", [title]);
        page.control("PD", ["0"]);
        for option in cli::named_options(v6) {
            describe(page, &option);
        }
        page.control("PD", []);
    }
}

/// Number, names, type.
fn describe(page: &mut Roff, option: &cli::NamedOption) {
    page.control("TP", ["6"]);
    page.text([roman(option.code.to_string())]);
    let mut text = Vec::new();
    for (i, name) in option.names.split(' ').enumerate() {
        text.extend((i > 0).then(|| roman(", ")));
        text.push(bold(name));
    }
    text.push(roman(format!(": {}", option.value)));
    page.text(text);
}
