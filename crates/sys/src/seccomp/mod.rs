//! The last lock: which system calls there are from now on (`seccomp(2)`).
//!
//! Modules say beside their code which calls they make once the process runs, and what their
//! arguments may be. The filter is compiled from that when it is installed. What start-up alone
//! needs is in none of these lists.

pub(crate) mod bpf;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

pub use names::Sysno;

use bpf::Program;

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

/// What to do before the process ends for a call that is not allowed: all that this may do is what
/// the filter allows.
pub type Report = fn(name: &str);

static REPORT: OnceLock<Report> = OnceLock::new();

/// Allows nothing but `calls` from now on, in all threads and for good. Another call ends the
/// process with status 128 + `SIGSYS`, after `report`.
pub fn install(calls: &[Call], report: Report) -> io::Result<()> {
    // If it is set, a filter is installed, and this will fail.
    let _again = REPORT.set(report);
    catch_violations()?;
    rustix::thread::set_no_new_privs(true)?;
    match load(&mut compile(calls), libc::SECCOMP_FILTER_FLAG_TSYNC)? {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    }
}

/// What is allowed of a call: any of these, or everything if there is none.
type Choices<'c> = Vec<&'c [(u8, i64)]>;

/// The filter: each call is compared in turn.
fn compile(calls: &[Call]) -> Program {
    // What several modules declare is compared once.
    let mut allowed: BTreeMap<u32, Option<Choices<'_>>> = BTreeMap::new();
    let mut shared: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for call in calls {
        let limited = call.arguments != Arguments::Any && call.number.shows_arguments();
        for (number, which) in call.number.numbers() {
            if let Some(which) = which {
                shared.entry(number).or_default().push(which);
                continue;
            }
            let known = allowed.entry(number).or_insert_with(|| Some(Vec::new()));
            match known {
                Some(known) if limited => {
                    let new: Vec<_> = call.choices().filter(|choice| !known.contains(choice)).collect();
                    known.extend(new);
                }
                all => *all = None,
            }
        }
    }
    let mut program = vec![
        bpf::load(bpf::TABLE),
        bpf::compare(libc::BPF_JEQ, bpf::ARCHITECTURE, 1, 0),
        // Its number would be reported by another name.
        bpf::answer(libc::SECCOMP_RET_KILL_PROCESS),
        bpf::load(bpf::NUMBER),
    ];
    for (number, choices) in allowed {
        append(&mut program, number, choices.as_deref());
    }
    for (number, mut which) in shared {
        which.sort_unstable();
        which.dedup();
        let which: Vec<_> = which.into_iter().map(|which| [(0, i64::from(which))]).collect();
        append(&mut program, number, Some(&which.iter().map(<[_; 1]>::as_slice).collect::<Choices<'_>>()));
    }
    program.push(bpf::answer(libc::SECCOMP_RET_TRAP));
    program
}

/// Appends what decides about one call, whose number is the loaded word and stays it for others.
/// Without choices it is allowed.
fn append(program: &mut Program, number: u32, choices: Option<&[&[(u8, i64)]]>) {
    let Some(choices) = choices else {
        program.push(bpf::compare(libc::BPF_JEQ, number, 0, 1));
        program.push(bpf::answer(libc::SECCOMP_RET_ALLOW));
        return;
    };
    let mut decision = Program::new();
    for choice in choices {
        // Of a choice two steps for each argument, and the answer.
        let mut left = 2 * choice.len() as u8 + 1;
        for &(argument, value) in *choice {
            left -= 2;
            decision.push(bpf::load(bpf::argument(argument)));
            decision.push(bpf::compare(libc::BPF_JEQ, value.cast_unsigned() as u32, 0, left));
        }
        decision.push(bpf::answer(libc::SECCOMP_RET_ALLOW));
    }
    decision.push(bpf::answer(libc::SECCOMP_RET_TRAP));
    // Comparisons skip 255 steps at most.
    program.push(bpf::compare(libc::BPF_JEQ, number, 1, 0));
    program.push(bpf::skip(decision.len() as u32));
    program.append(&mut decision);
}

/// Has a call fail from now on as on a kernel that lacks it, in this thread and in those that it
/// starts, whatever another filter has it fail with: of several that refuse a call the newest says
/// how (seccomp(2)). There are no new privileges afterwards.
pub(crate) fn forget(call: Sysno) -> io::Result<()> {
    let Some(number) = call.number().and_then(|number| u32::try_from(number).ok()) else { return Ok(()) };
    let mut program = [
        bpf::load(bpf::NUMBER),
        bpf::compare(libc::BPF_JEQ, number, 0, 1),
        bpf::answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()),
        bpf::answer(libc::SECCOMP_RET_ALLOW),
    ];
    rustix::thread::set_no_new_privs(true)?;
    load(&mut program, 0).map(drop)
}

/// Installs a filter, `SECCOMP_SET_MODE_FILTER` of seccomp(2), for this thread if `flags` are zero.
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
    /// if pointers have 64 bits, and the address of the call.
    const NUMBER: usize = (3 * size_of::<i32>()).next_multiple_of(size_of::<usize>()) + size_of::<usize>();
    // SAFETY: the kernel passes a `siginfo_t`, which is 128 bytes long.
    let place = unsafe { info.byte_add(NUMBER) }.cast::<i32>();
    // SAFETY: aligned, as the structure is for pointers, and written by the kernel.
    let number = unsafe { place.read() };
    let name = names::name(number.into()).unwrap_or("unknown");
    if let Some(report) = REPORT.get() {
        report(name);
    }
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(128 + signal) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Call, Choice, Program, Sysno, bpf, compile};

    /// Whether the filter for `calls` lets one pass that is made by its own number.
    fn allowed(calls: &[Call], call: Sysno, arguments: [u64; 6]) -> bool {
        let (number, _) = call.numbers().next().expect("a number");
        allows(&compile(calls), bpf::ARCHITECTURE, number, arguments)
    }

    /// Runs a program by the rules of classic BPF (`linux/filter.h`).
    fn allows(program: &Program, table: u32, number: u32, arguments: [u64; 6]) -> bool {
        // `struct seccomp_data`: number, table, instruction pointer, arguments.
        let mut data = [number, table].map(u32::to_ne_bytes).concat();
        data.extend([0].into_iter().chain(arguments).flat_map(u64::to_ne_bytes));
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let step = &program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
            match step.code {
                // Load a word.
                0x20 => value = u32::from_ne_bytes(data[step.k as usize..][..4].try_into().expect("a word")),
                // Jump always, or if equal.
                0x05 => at += step.k as usize,
                0x15 => at += branch(value == step.k),
                // Return.
                0x06 => return step.k == libc::SECCOMP_RET_ALLOW,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    fn fcntl(command: u64, value: u64) -> [u64; 6] {
        [3, command, value, 0, 0, 0]
    }

    /// The same call in several lists is allowed once, with all that any of them allows.
    #[test]
    fn lists_add_up() {
        let stream = Call::only(Sysno::fcntl, &[&[(1, 2), (2, 1)], &[(1, 10)]]);
        let unix = Call::only(Sysno::fcntl, &[&[(1, 1)]]);
        let any = Call::any(Sysno::fcntl);
        let cases: [(&[Call], [bool; 4]); 6] = [
            (&[stream], [true, false, true, false]),
            (&[unix], [false, false, false, true]),
            (&[stream, unix], [true, false, true, true]),
            (&[unix, stream, stream], [true, false, true, true]),
            (&[stream, any, unix], [true; 4]),
            (&[any, any], [true; 4]),
        ];
        for (calls, expected) in cases {
            let made = [fcntl(2, 1), fcntl(2, 2), fcntl(10, 2), fcntl(1, 1)];
            let found = made.map(|arguments| allowed(calls, Sysno::fcntl, arguments));
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
        assert!(!allowed(&calls, Sysno::fcntl, fcntl(1, 0)));
        for minus_one in [u64::from(u32::MAX), u64::MAX] {
            assert!(allowed(&calls, Sysno::fcntl, fcntl(minus_one, 0)));
        }
    }

    /// A number of another processor's table is another call.
    #[test]
    fn another_table_is_refused() {
        let program = compile(&[Call::any(Sysno::read)]);
        let (number, _) = Sysno::read.numbers().next().expect("a number");
        assert!(allows(&program, bpf::ARCHITECTURE, number, [0; 6]));
        for table in [0, u32::MAX, bpf::ARCHITECTURE ^ 1, bpf::ARCHITECTURE ^ 0x8000_0000] {
            assert!(!allows(&program, table, number, [0; 6]), "{table:#x}");
        }
    }

    /// Where calls of sockets share one, it is allowed for those that are listed.
    #[test]
    fn what_is_multiplexed_is_told_apart() {
        let calls = [Call::any(Sysno::sendmsg), Call::any(Sysno::recvfrom)];
        let program = compile(&calls);
        let shared = Sysno::sendmsg.numbers().find(|(_, which)| which.is_some());
        assert_eq!(shared.is_some(), cfg!(any(target_arch = "x86", target_arch = "s390x")));
        let Some((number, _)) = shared else { return };
        let passed: Vec<_> = (0..32)
            .filter(|which| allows(&program, bpf::ARCHITECTURE, number, [*which, 0, 0, 0, 0, 0]))
            .collect();
        assert_eq!(passed, [10, 12, 16]);
    }

    proptest! {
        /// A filter of any size agrees with its list: many choices are further than a comparison
        /// can skip.
        #[test]
        fn filters_agree_with_lists(
            choices in proptest::collection::vec(
                proptest::collection::vec((1_u8..4, -3_i64..200), 1..4), 0..120),
            any in any::<bool>(),
            made in proptest::array::uniform6(0_u64..200),
        ) {
            let choices: Vec<Choice> = choices.into_iter().map(|choice| &*choice.leak()).collect();
            let calls = [
                Call::any(Sysno::write),
                Call::only(Sysno::ioctl, choices.clone().leak()),
                Call { number: Sysno::fcntl, arguments: super::Arguments::OneOf(choices.clone().leak()) },
                if any { Call::any(Sysno::ioctl) } else { Call::any(Sysno::read) },
            ];
            let holds = choices.iter().any(|choice| {
                choice.iter().all(|&(at, value)| made[usize::from(at)] as u32 == value.cast_unsigned() as u32)
            });
            prop_assert_eq!(allowed(&calls, Sysno::fcntl, made), holds);
            prop_assert_eq!(allowed(&calls, Sysno::ioctl, made), holds || any);
            prop_assert!(allowed(&calls, Sysno::write, made));
            prop_assert!(!allowed(&calls, Sysno::execve, made));
        }
    }
}
