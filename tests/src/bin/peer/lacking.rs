//! A kernel without `sock_diag(7)`, as far as a program can tell: some containers and kernels have
//! none.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Result;
use passt_sys::seccomp::Sysno;
use rustix::io::Errno;
use rustix::net::{AddressFamily, netlink};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Becomes `program`, for which there is no such socket.
pub(crate) fn sock_diag(program: &str, arguments: &[&str]) -> Result<()> {
    let protocol = netlink::SOCK_DIAG.as_raw().get();
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rule =
        SeccompRule::new(vec![is(0, AddressFamily::NETLINK.as_raw().into())?, is(2, protocol.into())?])?;
    let refusal = SeccompAction::Errno(Errno::PROTONOSUPPORT.raw_os_error().cast_unsigned());
    let rules = BTreeMap::from([(Sysno::socket.id().into(), vec![rule])]);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refusal, std::env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(arguments).exec().into())
}
