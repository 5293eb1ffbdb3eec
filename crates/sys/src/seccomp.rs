//! The last lock: which system calls there are from now on (`seccomp(2)`).
//!
//! Modules say beside their code which calls they make once the process runs, and what their
//! arguments may be. The filter is compiled from that when it is installed. What start-up alone
//! needs is in none of these lists.

use std::collections::BTreeMap;
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
pub use syscalls::Sysno;

/// A system call, and what is allowed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    number: Sysno,
    arguments: Arguments,
}

/// Arguments that are allowed: numbers, from 0, and values; 32 bits are compared. All must hold.
pub type Choice = &'static [(u8, i64)];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arguments {
    Any,
    /// One of these must hold.
    OneOf(&'static [Choice]),
    /// Both must hold.
    Both([(u8, i64); 2]),
}

impl Call {
    /// Whatever the arguments are.
    pub const fn any(number: Sysno) -> Self {
        Self { number, arguments: Arguments::Any }
    }

    /// With some arguments only: one of `choices`.
    pub const fn only(number: Sysno, choices: &'static [Choice]) -> Self {
        Self { number, arguments: Arguments::OneOf(choices) }
    }

    /// With these two arguments only, which are not known before the process runs: a descriptor's
    /// number.
    pub const fn with(number: Sysno, arguments: [(u8, i64); 2]) -> Self {
        Self { number, arguments: Arguments::Both(arguments) }
    }

    /// What is allowed of its arguments, one of which must hold; empty for anything.
    pub fn choices(&self) -> impl Iterator<Item = &[(u8, i64)]> {
        let (some, two) = match &self.arguments {
            Arguments::Any => (&[][..], None),
            Arguments::OneOf(choices) => (*choices, None),
            Arguments::Both(arguments) => (&[][..], Some(arguments.as_slice())),
        };
        some.iter().copied().chain(two)
    }

    /// The call's name in the kernel's tables.
    pub fn name(self) -> &'static str {
        self.number.name()
    }
}

/// The filter could not be made or installed.
#[derive(Debug, thiserror::Error)]
#[error("system call filter: {0}")]
pub struct Error(String);

/// What to do before the process ends for a call that is not allowed: all that this may do is what
/// the filter allows.
pub type Report = fn(name: &str);

static REPORT: OnceLock<Report> = OnceLock::new();

/// Allows nothing but `calls` from now on, in all threads and for good. Another call ends the
/// process with status 128 + `SIGSYS`, after `report`.
pub fn install(calls: &[Call], report: Report) -> Result<(), Error> {
    // If it is set, a filter is installed, and this will fail.
    let _again = REPORT.set(report);
    catch_violations().map_err(|error| Error(error.to_string()))?;
    let program = compile(calls).map_err(|error| Error(error.to_string()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| Error(error.to_string()))
}

fn compile(calls: &[Call]) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for call in calls {
        let known = rules.entry(i64::from(call.number.id())).or_insert_with(|| Some(Vec::new()));
        match known {
            Some(known) if call.arguments != Arguments::Any => {
                for choice in call.choices() {
                    let rule = rule(choice)?;
                    // What several modules declare is compared once.
                    if !known.contains(&rule) {
                        known.push(rule);
                    }
                }
            }
            all => *all = None,
        }
    }
    // To the compiler an empty list means that arguments don't matter.
    let rules = rules.into_iter().map(|(number, rules)| (number, rules.unwrap_or_default())).collect();
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch)?.try_into()
}

fn rule(choice: &[(u8, i64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let condition = |&(argument, value): &(u8, i64)| {
        let (len, equal) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
        SeccompCondition::new(argument, len, equal, value.cast_unsigned() & u64::from(u32::MAX))
    };
    SeccompRule::new(choice.iter().map(condition).collect::<Result<_, _>>()?)
}

/// Has a call fail from now on as on a kernel that lacks it, in this thread and in those that it
/// starts, whatever another filter has it fail with: of several that refuse a call the newest says
/// how (seccomp(2)). There are no new privileges afterwards.
pub(crate) fn forget(call: Sysno) -> io::Result<()> {
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let answer = |k: u32| step(libc::BPF_RET | libc::BPF_K, 0, k);
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset_of!(libc::seccomp_data, nr) as u32),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call.id().cast_unsigned()),
        answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    rustix::thread::set_no_new_privs(true)?;
    load(&mut program, 0).map(drop)
}

/// Installs a filter for this thread, `SECCOMP_SET_MODE_FILTER` of seccomp(2).
pub(crate) fn load(program: &mut [libc::sock_filter], flags: libc::c_ulong) -> io::Result<usize> {
    let program = libc::sock_fprog { len: program.len() as _, filter: program.as_mut_ptr() };
    let set = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads a program of this length, which is alive.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) };
    crate::result(done as isize)
}

fn catch_violations() -> io::Result<()> {
    // SAFETY: all-zero is a valid `sigaction`: no flags, empty mask, SIG_DFL.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = violation as extern "C" fn(_, _, _) as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` is initialised; its handler has the signature for SA_SIGINFO.
    crate::result(unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } as isize)
        .map(drop)
}

/// A call that is not allowed. Should `report` make another one, the signal is blocked,
/// and the kernel ends the process.
extern "C" fn violation(signal: libc::c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
    /// Where `si_syscall` is (`include/uapi/asm-generic/siginfo.h`): after three numbers, padding
    /// and the address of the call.
    const NUMBER: usize = 24;
    // SAFETY: the kernel passes a `siginfo_t`, which is 128 bytes long.
    let place = unsafe { info.byte_add(NUMBER) }.cast::<i32>();
    // SAFETY: aligned, as the structure is for pointers, and written by the kernel.
    let number = unsafe { place.read() };
    let name = usize::try_from(number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name());
    if let Some(report) = REPORT.get() {
        report(name);
    }
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}

#[cfg(test)]
mod tests {
    use seccompiler::SeccompAction;

    use super::{Call, Sysno, compile};

    /// Whether the filter for `calls` lets one pass, by the rules of classic BPF
    /// (`linux/filter.h`).
    fn allowed(calls: &[Call], number: Sysno, arguments: [u64; 6]) -> bool {
        // `struct seccomp_data`: number, architecture, instruction pointer, arguments.
        let audit_arch = match std::env::consts::ARCH {
            "x86_64" => 0xc000_003e_u64,
            "aarch64" => 0xc000_00b7,
            other => panic!("the AUDIT_ARCH of {other}"),
        };
        let number = u64::try_from(number.id()).expect("a number");
        let words = [number | audit_arch << 32, 0].into_iter().chain(arguments);
        let data: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let program = compile(calls).expect("a filter");
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                // Load a word.
                0x20 => value = u32::from_le_bytes(data[step.k as usize..][..4].try_into().expect("a word")),
                // Jump always, if equal, if greater, if greater or equal.
                0x05 => at += step.k as usize,
                0x15 => at += branch(value == step.k),
                0x25 => at += branch(value > step.k),
                0x35 => at += branch(value >= step.k),
                // Return.
                0x06 => return step.k == u32::from(SeccompAction::Allow),
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn socket(family: u64, kind: u64) -> [u64; 6] {
        [family, kind, 0, 0, 0, 0]
    }

    /// The same call in several lists is allowed once, with all that any of them allows.
    #[test]
    fn lists_add_up() {
        let stream = Call::only(Sysno::socket, &[&[(0, 2), (1, 1)], &[(0, 10)]]);
        let unix = Call::only(Sysno::socket, &[&[(0, 1)]]);
        let any = Call::any(Sysno::socket);
        let cases: [(&[Call], [bool; 4]); 6] = [
            (&[stream], [true, false, true, false]),
            (&[unix], [false, false, false, true]),
            (&[stream, unix], [true, false, true, true]),
            (&[unix, stream, stream], [true, false, true, true]),
            (&[stream, any, unix], [true; 4]),
            (&[any, any], [true; 4]),
        ];
        for (calls, expected) in cases {
            let families = [socket(2, 1), socket(2, 2), socket(10, 2), socket(1, 1)];
            let found = families.map(|arguments| allowed(calls, Sysno::socket, arguments));
            assert_eq!(found, expected, "{calls:?}");
            assert!(!allowed(calls, Sysno::execve, [0; 6]), "{calls:?}");
        }
    }

    /// Nothing is allowed that no list has; 32 bits of an argument are compared.
    #[test]
    fn what_is_not_listed_is_refused() {
        let calls = [Call::any(Sysno::read), Call::only(Sysno::fcntl, &[&[(1, -1)]])];
        assert!(allowed(&calls, Sysno::read, [7; 6]));
        assert!(!allowed(&calls, Sysno::write, [7; 6]));
        assert!(!allowed(&calls, Sysno::fcntl, [0, 1, 0, 0, 0, 0]));
        for minus_one in [u64::from(u32::MAX), u64::MAX] {
            assert!(allowed(&calls, Sysno::fcntl, [0, minus_one, 0, 0, 0, 0]));
        }
    }
}
