//! qemu's arguments, changed so that its network is the connection to passt.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

use super::descriptor;

/// The connection's descriptor, unless one is given.
const DEFAULT_FD: RawFd = 5;
/// The network's name, unless one is given.
const DEFAULT_ID: &str = "hostnet0";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The descriptor that the connection is to have; `None` if none is needed.
    pub(crate) fd: Option<RawFd>,
    /// Programs, of which the first that exists is started.
    pub(crate) programs: Vec<OsString>,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
}

/// Why there is nothing to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// There are no arguments.
    Nothing,
    /// This is no descriptor that a command can be given.
    Descriptor(String),
    /// There is no command for this one.
    NoCommand(RawFd),
}

impl Plan {
    /// What these arguments of ours mean.
    pub(crate) fn new(mut args: Vec<OsString>) -> Result<Self, Mistake> {
        let first = args.first().ok_or(Mistake::Nothing)?.to_str().unwrap_or_default();
        if !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit()) {
            let fd = descriptor(first).ok_or_else(|| Mistake::Descriptor(first.to_owned()))?;
            args.remove(0);
            if args.is_empty() {
                return Err(Mistake::NoCommand(fd));
            }
            return Ok(Self { fd: Some(fd), programs: vec![args.remove(0)], args });
        }
        let (fd, args) =
            if runs_machine(&args) { (Some(DEFAULT_FD), with_network(args)) } else { (None, args) };
        Ok(Self { fd, programs: qemu(), args })
    }
}

/// The names that qemu has on different systems.
fn qemu() -> Vec<OsString> {
    let arch = match std::env::consts::ARCH {
        "x86" => "i386",
        "powerpc64" => "ppc64",
        arch => arch,
    };
    let system = format!("qemu-system-{arch}");
    ["kvm", "qemu-kvm", &system, "/usr/libexec/qemu-kvm"].map(OsString::from).into()
}

/// An argument's name as an option; they have one or two hyphens.
fn option(arg: &OsStr) -> Option<&str> {
    let name = arg.to_str()?.strip_prefix('-')?;
    Some(name.strip_prefix('-').unwrap_or(name))
}

/// Whether a virtual machine is to run, rather than qemu asked about itself.
fn runs_machine(args: &[OsString]) -> bool {
    let asks = args.iter().any(|arg| matches!(option(arg), Some("h" | "help" | "version")));
    let lists = args.iter().any(|arg| arg == "help" || arg == "?");
    let no_machine = args.windows(2).any(|pair| {
        let kind = pair[1].to_str().unwrap_or_default();
        let kind = kind.strip_prefix("type=").unwrap_or(kind);
        matches!(option(&pair[0]), Some("M" | "machine")) && kind.split(',').next() == Some("none")
    });
    !(asks || lists || no_machine)
}

/// The first network that is asked for becomes ours, under its name, so that the device that goes
/// with it stays as it is. Networks in the short forms `-net` and `-nic`, of which the device is a
/// part, go. Without any of the first kind there is a new one, with a device.
fn with_network(args: Vec<OsString>) -> Vec<OsString> {
    let network = |id: &str| OsString::from(format!("socket,fd={DEFAULT_FD},id={id}"));
    let mut changed = Vec::with_capacity(args.len() + 4);
    let mut found = false;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match option(&arg) {
            Some("netdev") if !found => {
                found = true;
                let value = args.next().unwrap_or_default();
                changed.extend([arg, network(id(&value).unwrap_or(DEFAULT_ID))]);
            }
            Some("net" | "nic") => drop(args.next()),
            _ => changed.push(arg),
        }
    }
    if !found {
        let device = format!("virtio-net,netdev={DEFAULT_ID}").into();
        changed.extend(["-netdev".into(), network(DEFAULT_ID), "-device".into(), device]);
    }
    changed
}

/// The name of a network, from `type,id=NAME` or JSON.
fn id(network: &OsStr) -> Option<&str> {
    let text = network.to_str()?;
    if text.starts_with('{') {
        let (_, rest) = text.split_once("\"id\"")?;
        return rest.split('"').nth(1);
    }
    text.split(',').find_map(|part| part.strip_prefix("id="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, Mistake> {
        Plan::new(line.split_whitespace().map(OsString::from).collect())
    }

    fn shown(plan: &Plan) -> String {
        plan.args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_command_is_left_as_it_is() {
        let plan = plan("7 qemu-system-x86_64 -net socket,fd=7 -net nic").unwrap();
        assert_eq!((plan.fd, plan.programs.as_slice()), (Some(7), &["qemu-system-x86_64".into()][..]));
        assert_eq!(shown(&plan), "-net socket,fd=7 -net nic");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, mistake) in [
            ("", Mistake::Nothing),
            ("5", Mistake::NoCommand(5)),
            ("2 qemu", Mistake::Descriptor("2".into())),
            ("99999999999 qemu", Mistake::Descriptor("99999999999".into())),
        ] {
            assert_eq!(plan(line), Err(mistake), "{line}");
        }
    }

    #[test]
    fn the_network_of_a_machine_is_ours() {
        for (line, expected) in [
            ("-m 1G", "-m 1G -netdev socket,fd=5,id=hostnet0 -device virtio-net,netdev=hostnet0"),
            (
                "-netdev user,id=n0,restrict=on -device e1000,netdev=n0,mac=02:00:00:00:00:01",
                "-netdev socket,fd=5,id=n0 -device e1000,netdev=n0,mac=02:00:00:00:00:01",
            ),
            (
                "--netdev {\"type\":\"tap\",\"id\":\"net7\"} -device virtio-net-pci,netdev=net7 -netdev user,id=b",
                "--netdev socket,fd=5,id=net7 -device virtio-net-pci,netdev=net7 -netdev user,id=b",
            ),
            (
                "-net nic,model=virtio -net user -nic none -S",
                "-S -netdev socket,fd=5,id=hostnet0 -device virtio-net,netdev=hostnet0",
            ),
        ] {
            let plan = plan(line).unwrap();
            assert_eq!((plan.fd, shown(&plan).as_str()), (Some(5), expected));
        }
    }

    #[test]
    fn questions_need_no_connection() {
        for line in [
            "-version",
            "--help",
            "-device help",
            "-cpu ?",
            "-S -machine none,accel=kvm",
            "-M none -netdev user,id=x",
        ] {
            let plan = plan(line).unwrap();
            assert_eq!((plan.fd, shown(&plan).as_str()), (None, line));
        }
    }
}
