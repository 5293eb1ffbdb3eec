//! The options of slirp4netns, as a table.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::super::getopt::Spec;
use super::{Draft, MAX_MTU, words};

/// An option.
pub(super) struct Opt {
    /// Letter, long name and argument as the help shows them.
    pub(super) names: &'static str,
    /// What it does; none for one that the help leaves out.
    pub(super) help: &'static str,
    pub(super) take: Take,
}

/// What an option does.
pub(super) enum Take {
    /// Takes no argument.
    Flag(fn(&mut Draft)),
    /// Takes an argument, of which it may complain.
    Value(fn(&mut Draft, &OsStr) -> Result<(), &'static str>),
    /// Ends the program with a text, made for the name it was called by.
    Print(fn(&str) -> String),
}

impl Spec for Opt {
    fn names(&self) -> &'static str {
        self.names
    }

    fn takes_argument(&self) -> bool {
        matches!(self.take, Take::Value(_))
    }

    fn prints(&self) -> bool {
        matches!(self.take, Take::Print(_))
    }
}

const fn flag(names: &'static str, help: &'static str, set: fn(&mut Draft)) -> Opt {
    Opt { names, help, take: Take::Flag(set) }
}

const fn value(
    names: &'static str,
    help: &'static str,
    set: fn(&mut Draft, &OsStr) -> Result<(), &'static str>,
) -> Opt {
    Opt { names, help, take: Take::Value(set) }
}

/// All of them, in the order of the help.
pub(super) static OPTIONS: &[Opt] = &[
    flag("-c, --configure", "bring the tap device up, with address and routes", |d| d.configure = true),
    value("-e, --exit-fd=FD", "end when something happens on descriptor FD", |d, arg| {
        d.exit = Some(descriptor(arg).ok_or("exit-fd must be a non-negative integer")?);
        Ok(())
    }),
    value("-r, --ready-fd=FD", "write 1 to descriptor FD once the network is there", |d, arg| {
        d.ready = Some(descriptor(arg).ok_or("ready-fd must be a non-negative integer")?);
        Ok(())
    }),
    value("-m, --mtu=MTU", "MTU of the network (default=1500, max=65521)", |d, arg| {
        let mtu = arg.to_str().and_then(|text| text.parse().ok()).filter(|mtu| (1..=MAX_MTU).contains(mtu));
        d.mtu = Some(mtu.ok_or("MTU must be a positive integer (< 65522)")?);
        Ok(())
    }),
    flag("-6, --enable-ipv6", "have IPv6, with the network fd00::/64", |d| {
        d.v6 = true;
        d.say("WARNING: Support for IPv6 is experimental");
    }),
    value("-a, --api-socket=PATH", "take requests to forward ports on socket PATH", |d, arg| {
        // A variable that is empty asks for none.
        d.api_socket = Some(PathBuf::from(arg)).filter(|path| !path.as_os_str().is_empty());
        Ok(())
    }),
    value("--cidr=CIDR", "IPv4 network of the guest (default=10.0.2.0/24)", |d, arg| {
        d.cidr = Some(arg.to_string_lossy().into_owned());
        Ok(())
    }),
    flag("--disable-host-loopback", "keep 127.0.0.1 of the host out of reach", |d| d.closed_host = true),
    flag("--no-host-loopback", "", |d| {
        d.closed_host = true;
        d.say(
            "WARNING: --no-host-loopback is deprecated and will be removed in future releases, \
             please use --disable-host-loopback instead.",
        );
    }),
    value("--netns-type=TYPE", "what the first argument is ([path|pid|tapfd], default=pid)", |d, arg| {
        d.netns_type = Some(arg.to_string_lossy().into_owned());
        Ok(())
    }),
    value("--userns-path=PATH", "user namespace in which the network namespace is entered", |d, arg| {
        d.userns = Some(PathBuf::from(arg));
        Ok(())
    }),
    flag("--enable-sandbox", "isolate the process, which is always done", |_| {}),
    flag("--create-sandbox", "", |d| {
        d.say(
            "WARNING: --create-sandbox is deprecated and will be removed in future releases, \
             please use --enable-sandbox instead.",
        );
    }),
    flag("--enable-seccomp", "limit system calls, which is always done", |d| {
        d.seccomp = true;
        d.say("WARNING: Support for seccomp is experimental");
    }),
    value("--outbound-addr=IPv4", "source address of what leaves the host, or an interface", |d, arg| {
        d.outbound.v4 = Some(arg.to_string_lossy().into_owned());
        d.say("WARNING: Support for --outbound-addr is experimental");
        Ok(())
    }),
    value("--outbound-addr6=IPv6", "the same for IPv6", |d, arg| {
        d.outbound.v6 = Some(arg.to_string_lossy().into_owned());
        d.say("WARNING: Support for --outbound-addr6 is experimental");
        Ok(())
    }),
    flag("--disable-dns", "do not lead queries at 10.0.2.3 to the host's resolver", |d| d.closed_dns = true),
    value("--macaddress=MAC", "MAC address of the tap device, with -c", |d, arg| {
        d.mac = Some(arg.to_string_lossy().into_owned());
        Ok(())
    }),
    value(
        "--target-type=TYPE",
        "a namespace, or a socket of messages ([netns|bess], default=netns)",
        |d, arg| {
            d.target_type = Some(arg.to_string_lossy().into_owned());
            Ok(())
        },
    ),
    Opt { names: "-h, --help", help: "show this help and exit", take: Take::Print(words::usage) },
    Opt { names: "-v, --version", help: "show the version and exit", take: Take::Print(words::version) },
];

/// A descriptor's number.
fn descriptor(arg: &OsStr) -> Option<i32> {
    arg.to_str()?.parse().ok().filter(|fd| *fd >= 0)
}
