//! A kernel without `sock_diag(7)`, as far as a program can tell: some containers and kernels have none.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Result;
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// `socket(2)` on `x86_64` and elsewhere.
const SOCKET: i64 = if cfg!(target_arch = "x86_64") { 41 } else { 198 };
const AF_NETLINK: u64 = 16;
const NETLINK_SOCK_DIAG: u64 = 4;

/// Becomes `program`, for which there is no such socket.
pub(crate) fn sock_diag(program: &str, arguments: &[&str]) -> Result<()> {
    let is =
        |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let rule = SeccompRule::new(vec![is(0, AF_NETLINK)?, is(2, NETLINK_SOCK_DIAG)?])?;
    let refusal = SeccompAction::Errno(Errno::PROTONOSUPPORT.raw_os_error().cast_unsigned());
    let rules = BTreeMap::from([(SOCKET, vec![rule])]);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refusal, std::env::consts::ARCH.try_into()?)?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)?;
    Err(Command::new(program).args(arguments).exec().into())
}
