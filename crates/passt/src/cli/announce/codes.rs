//! Options of DHCP and DHCPv6 by number and name, and the type of each.
//!
//! Names are those of IANA's registries (BOOTP Vendor Extensions and DHCP Options; DHCPv6 Option
//! Codes) in lower case with hyphens; behind them are names by which other programs know the
//! option. Types are those of the RFC that defines it.

use passt_proto::wire;

use super::super::nearest::nearest;
use super::AnnounceError;
use super::value::Kind::{
    self, Address, AddressPairs, Addresses, Addresses6, Bool, Bytes, Domain, Domains, I32, Ntp6, Routes, Sip,
    Text, Texts16, U8, U16, U16s, U32,
};

/// A protocol with options by code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Of IPv4.
    Dhcp,
    /// Of IPv6.
    Dhcpv6,
}

/// An option as the registry has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    pub(super) number: u16,
    /// Its names with blanks between them, that of the registry first.
    pub(super) names: &'static str,
    pub(super) kind: Kind,
}

const fn code(number: u16, names: &'static str, kind: Kind) -> Code {
    Code { number, names, kind }
}

/// An option that can't be set, and why: this ends "because it …".
struct Refused {
    number: u16,
    names: &'static str,
    reason: &'static str,
}

const fn refused(number: u16, names: &'static str, reason: &'static str) -> Refused {
    Refused { number, names, reason }
}

impl Protocol {
    /// Its name for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dhcp => "DHCP",
            Self::Dhcpv6 => "DHCPv6",
        }
    }

    /// Options that have a name.
    pub(super) fn codes(self) -> &'static [Code] {
        match self {
            Self::Dhcp => DHCP,
            Self::Dhcpv6 => DHCPV6,
        }
    }

    fn refusals(self) -> &'static [Refused] {
        match self {
            Self::Dhcp => DHCP_REFUSED,
            Self::Dhcpv6 => DHCPV6_REFUSED,
        }
    }

    /// The option of a number or name, if it can be set.
    pub(super) fn find(self, text: &str) -> Result<Code, AnnounceError> {
        let number = super::value::decimal(text).and_then(|number| u16::try_from(number).ok());
        let is_named = |names: &str| names.split(' ').any(|name| name.eq_ignore_ascii_case(text));
        let is = |own: u16, names: &str| number == Some(own) || is_named(names);
        if let Some(refused) = self.refusals().iter().find(|r| is(r.number, r.names)) {
            let option = shown(refused.number, refused.names);
            return Err(AnnounceError::Refused { protocol: self.name(), option, reason: refused.reason });
        }
        if let Some(code) = self.codes().iter().find(|code| is(code.number, code.names)) {
            return Ok(*code);
        }
        let unknown = || AnnounceError::Unknown {
            protocol: self.name(),
            option: text.to_owned(),
            advice: self.advice(text),
        };
        number.filter(|&number| self.may_set(number)).map(|n| code(n, "", Bytes)).ok_or_else(unknown)
    }

    /// What to write instead of what is no option.
    fn advice(self, text: &str) -> String {
        let (last, example) = match self {
            Self::Dhcp => (254, "42=192.0.2.1"),
            Self::Dhcpv6 => (u16::MAX, "31=2001:db8::1"),
        };
        let names = self.codes().iter().flat_map(|code| code.names.split(' '));
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        match nearest(&text.to_ascii_lowercase(), &names) {
            _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                format!("numbers go to {last}")
            }
            Some(name) => format!("did you mean {name}?"),
            None => {
                format!("the manual page has the names, and numbers up to {last} go, too, as in {example}")
            }
        }
    }

    /// Whether a number can be that of an option which is no part of the protocol.
    pub(super) fn may_set(self, number: u16) -> bool {
        match self {
            Self::Dhcp => u8::try_from(number).is_ok_and(|code| !wire::dhcp::is_protocol(code)),
            Self::Dhcpv6 => !wire::dhcpv6::is_protocol(number),
        }
    }
}

impl Code {
    /// The option for messages: `router (3)`.
    pub(super) fn shown(&self) -> String {
        shown(self.number, self.names)
    }
}

fn shown(number: u16, names: &str) -> String {
    let name = names.split(' ').next().filter(|name| !name.is_empty());
    name.map_or_else(|| number.to_string(), |name| format!("{name} ({number})"))
}

const FORMAT: &str = "it belongs to the format of messages";
const EXCHANGE: &str = "it is part of the exchange itself";
const CLIENTS: &str = "clients send it";
const RELAYS: &str = "relays send it";
const LEASE_QUERY: &str = "it belongs to lease queries";
const AUTHENTICATION: &str = "messages are not authenticated";

const DHCP_REFUSED: &[Refused] = &[
    refused(0, "pad", FORMAT),
    refused(50, "address-request requested-address", CLIENTS),
    refused(51, "address-time lease-time", "--dhcp-lease sets it"),
    refused(52, "overload", FORMAT),
    refused(53, "dhcp-msg-type message-type", EXCHANGE),
    refused(54, "dhcp-server-id server-id server-identifier", EXCHANGE),
    refused(55, "parameter-list parameter-request-list", CLIENTS),
    refused(57, "dhcp-max-msg-size", CLIENTS),
    refused(58, "renewal-time t1", "--dhcp-lease sets it"),
    refused(59, "rebinding-time t2", "--dhcp-lease sets it"),
    refused(61, "client-id", "clients get back what they sent"),
    refused(77, "user-class", CLIENTS),
    refused(80, "rapid-commit", EXCHANGE),
    refused(81, "client-fqdn fqdn", "--fqdn sets it"),
    refused(82, "relay-agent-information agent-info", RELAYS),
    refused(90, "authentication", AUTHENTICATION),
    refused(91, "client-last-transaction-time", LEASE_QUERY),
    refused(92, "associated-ip", LEASE_QUERY),
    refused(93, "client-system client-arch", CLIENTS),
    refused(94, "client-ndi client-interface-id", CLIENTS),
    refused(97, "uuid-guid client-machine-id", CLIENTS),
    refused(118, "subnet-selection subnet-select", CLIENTS),
    refused(145, "forcerenew-nonce-capable", AUTHENTICATION),
    refused(151, "status-code", LEASE_QUERY),
    refused(152, "base-time", LEASE_QUERY),
    refused(153, "start-time-of-state", LEASE_QUERY),
    refused(154, "query-start-time", LEASE_QUERY),
    refused(155, "query-end-time", LEASE_QUERY),
    refused(156, "dhcp-state", LEASE_QUERY),
    refused(157, "data-source", LEASE_QUERY),
    refused(255, "end", FORMAT),
];

const DHCPV6_REFUSED: &[Refused] = &[
    refused(0, "reserved", FORMAT),
    refused(1, "client-id clientid", EXCHANGE),
    refused(2, "server-id serverid", EXCHANGE),
    refused(3, "ia-na", "--address and --dhcpv6-lease set it"),
    refused(4, "ia-ta", EXCHANGE),
    refused(5, "iaaddr", "--address and --dhcpv6-lease set it"),
    refused(6, "oro option-request", CLIENTS),
    refused(7, "preference", EXCHANGE),
    refused(8, "elapsed-time", CLIENTS),
    refused(9, "relay-msg", RELAYS),
    refused(10, "unassigned", FORMAT),
    refused(11, "auth", AUTHENTICATION),
    refused(12, "unicast server-unicast", EXCHANGE),
    refused(13, "status-code", EXCHANGE),
    refused(14, "rapid-commit", EXCHANGE),
    refused(15, "user-class", CLIENTS),
    refused(16, "vendor-class", CLIENTS),
    refused(18, "interface-id", RELAYS),
    refused(19, "reconf-msg", AUTHENTICATION),
    refused(20, "reconf-accept", AUTHENTICATION),
    refused(25, "ia-pd", EXCHANGE),
    refused(26, "iaprefix", EXCHANGE),
    refused(37, "remote-id", RELAYS),
    refused(38, "subscriber-id", RELAYS),
    refused(39, "client-fqdn fqdn", "--fqdn sets it"),
    refused(44, "lq-query", LEASE_QUERY),
    refused(45, "client-data", LEASE_QUERY),
    refused(46, "clt-time", LEASE_QUERY),
    refused(47, "lq-relay-data", LEASE_QUERY),
    refused(48, "lq-client-link", LEASE_QUERY),
    refused(61, "client-arch-type", CLIENTS),
    refused(62, "nii", CLIENTS),
    refused(66, "rsoo", RELAYS),
    refused(79, "client-linklayer-addr", RELAYS),
];

const DHCP: &[Code] = &[
    code(1, "subnet-mask netmask", Address),
    code(2, "time-offset", I32),
    code(3, "router routers", Addresses),
    code(4, "time-server time-servers", Addresses),
    code(5, "name-server ien116-name-servers", Addresses),
    code(6, "domain-server domain-name-servers dns-server dns-servers", Addresses),
    code(7, "log-server log-servers", Addresses),
    code(8, "quotes-server cookie-servers", Addresses),
    code(9, "lpr-server lpr-servers", Addresses),
    code(10, "impress-server impress-servers", Addresses),
    code(11, "rlp-server resource-location-servers", Addresses),
    code(12, "hostname host-name", Text),
    code(13, "boot-file-size boot-size", U16),
    code(14, "merit-dump-file merit-dump", Text),
    code(15, "domain-name", Text),
    code(16, "swap-server", Address),
    code(17, "root-path", Text),
    code(18, "extension-file extensions-path extension-path", Text),
    code(19, "forward-on-off ip-forward-enable ip-forwarding", Bool),
    code(20, "srcrte-on-off non-local-source-routing", Bool),
    code(21, "policy-filter", AddressPairs),
    code(22, "max-dg-assembly max-datagram-reassembly", U16),
    code(23, "default-ip-ttl default-ttl", U8),
    code(24, "mtu-timeout path-mtu-aging-timeout", U32),
    code(25, "mtu-plateau path-mtu-plateau-table", U16s),
    code(26, "mtu-interface interface-mtu mtu", U16),
    code(27, "mtu-subnet all-subnets-local", Bool),
    code(28, "broadcast-address broadcast", Address),
    code(29, "mask-discovery perform-mask-discovery", Bool),
    code(30, "mask-supplier", Bool),
    code(31, "router-discovery", Bool),
    code(32, "router-request router-solicitation router-solicitation-address", Address),
    code(33, "static-route", AddressPairs),
    code(34, "trailers trailer-encapsulation", Bool),
    code(35, "arp-timeout arp-cache-timeout", U32),
    code(36, "ethernet ethernet-encap ieee802-3-encapsulation", Bool),
    code(37, "default-tcp-ttl tcp-ttl", U8),
    code(38, "keepalive-time tcp-keepalive tcp-keepalive-interval", U32),
    code(39, "keepalive-data tcp-keepalive-garbage", Bool),
    code(40, "nis-domain", Text),
    code(41, "nis-servers nis-server", Addresses),
    code(42, "ntp-servers ntp-server", Addresses),
    code(43, "vendor-specific vendor-encap vendor-encapsulated-options", Bytes),
    code(44, "netbios-name-srv netbios-ns netbios-name-servers", Addresses),
    code(45, "netbios-dist-srv netbios-dd netbios-dd-server", Addresses),
    code(46, "netbios-node-type netbios-nodetype", U8),
    code(47, "netbios-scope", Text),
    code(48, "x-window-font x-windows-fs font-servers", Addresses),
    code(49, "x-window-manager x-windows-dm x-display-manager", Addresses),
    code(56, "dhcp-message message", Text),
    code(60, "class-id vendor-class vendor-class-identifier", Text),
    code(62, "netware-ip-domain", Text),
    code(63, "netware-ip-option", Bytes),
    code(64, "nis-domain-name nis+-domain nisplus-domain", Text),
    code(65, "nis-server-addr nis+-server nisplus-servers", Addresses),
    code(66, "server-name tftp-server-name tftp-server", Text),
    code(67, "bootfile-name", Text),
    code(68, "home-agent-addrs mobile-ip-home mobile-ip-home-agent", Addresses),
    code(69, "smtp-server", Addresses),
    code(70, "pop3-server pop-server", Addresses),
    code(71, "nntp-server", Addresses),
    code(72, "www-server", Addresses),
    code(73, "finger-server", Addresses),
    code(74, "irc-server", Addresses),
    code(75, "streettalk-server", Addresses),
    code(76, "stda-server streettalk-directory-assistance-server", Addresses),
    code(78, "directory-agent slp-directory-agent", Bytes),
    code(79, "service-scope slp-service-scope", Bytes),
    code(83, "isns", Bytes),
    code(85, "nds-servers", Addresses),
    code(86, "nds-tree-name", Text),
    code(87, "nds-context", Text),
    code(88, "bcmcs-domain-list", Domains),
    code(89, "bcmcs-ipv4-address bcmcs-servers", Addresses),
    code(98, "user-auth uap-servers", Text),
    code(99, "geoconf-civic", Bytes),
    code(100, "pcode posix-timezone", Text),
    code(101, "tcode tzdb-timezone", Text),
    code(108, "ipv6-only-preferred ipv6-only", U32),
    code(112, "netinfo-address", Addresses),
    code(113, "netinfo-tag", Text),
    code(114, "dhcp-captive-portal captive-portal", Text),
    code(116, "auto-config", U8),
    code(117, "name-service-search", U16s),
    code(119, "domain-search", Domains),
    code(120, "sip-servers sip-server", Sip),
    code(121, "classless-static-route classless-static-routes static-routes", Routes),
    code(122, "ccc", Bytes),
    code(123, "geoconf", Bytes),
    code(124, "vi-vendor-class", Bytes),
    code(125, "vi-vendor-specific vendor-id-encap", Bytes),
    code(136, "pana-agent", Addresses),
    code(137, "v4-lost lost", Domain),
    code(138, "capwap-ac-v4", Addresses),
    code(141, "sip-ua-cs-domains", Domains),
    code(142, "ipv4-address-andsf", Addresses),
    code(143, "v4-sztp-redirect", Bytes),
    code(144, "geoloc", Bytes),
    code(146, "rdnss-selection", Bytes),
    code(147, "v4-dots-ri", Domain),
    code(148, "v4-dots-address", Addresses),
    code(150, "tftp-server-address tftp-servers", Addresses),
    code(159, "v4-portparams", Bytes),
    code(162, "v4-dnr", Bytes),
    code(175, "etherboot ipxe-encap-opts", Bytes),
    code(208, "pxelinux-magic", Bytes),
    code(209, "configuration-file pxelinux-configfile", Text),
    code(210, "path-prefix pxelinux-pathprefix", Text),
    code(211, "reboot-time pxelinux-reboottime", U32),
    code(212, "6rd", Bytes),
    code(213, "v4-access-domain access-domain", Domain),
    code(249, "ms-classless-static-route", Routes),
    code(252, "wpad wpad-url", Text),
];

const DHCPV6: &[Code] = &[
    code(17, "vendor-opts", Bytes),
    code(21, "sip-server-domains sip-server-domain", Domains),
    code(22, "sip-servers sip-server", Addresses6),
    code(23, "dns-servers dns-server name-servers", Addresses6),
    code(24, "domain-search domain-list", Domains),
    code(27, "nis-servers nis-server", Addresses6),
    code(28, "nisp-servers nis+-server", Addresses6),
    code(29, "nis-domain-name nis-domain", Domain),
    code(30, "nisp-domain-name nis+-domain", Domain),
    code(31, "sntp-servers sntp-server", Addresses6),
    code(32, "information-refresh-time", U32),
    code(33, "bcmcs-server-domains", Domains),
    code(34, "bcmcs-servers", Addresses6),
    code(36, "geoconf-civic", Bytes),
    code(40, "pana-agents", Addresses6),
    code(41, "posix-timezone", Text),
    code(42, "tzdb-timezone", Text),
    code(51, "v6-lost lost", Domain),
    code(52, "capwap-ac-v6 capwap-ac", Addresses6),
    code(56, "ntp-servers ntp-server", Ntp6),
    code(57, "v6-access-domain access-domain", Domain),
    code(58, "sip-ua-cs-list", Domains),
    code(59, "bootfile-url", Text),
    code(60, "bootfile-param", Texts16),
    code(64, "aftr-name", Domain),
    code(74, "rdnss-selection", Bytes),
    code(82, "sol-max-rt", U32),
    code(83, "inf-max-rt", U32),
    code(86, "v6-pcp-server pcp-server", Addresses6),
    code(94, "s46-cont-mape", Bytes),
    code(95, "s46-cont-mapt", Bytes),
    code(96, "s46-cont-lw", Bytes),
    code(103, "dhcp-captive-portal captive-portal", Text),
    code(136, "v6-sztp-redirect", Bytes),
    code(143, "ipv6-address-andsf", Addresses6),
    code(144, "v6-dnr", Bytes),
];
