//! Programs of classic BPF for `seccomp(2)` (`linux/filter.h`, `linux/seccomp.h`): the few
//! instructions that filters here are made of, and where they find a call's parts.

use std::mem::offset_of;

/// A program, in the kernel's form.
pub(crate) type Program = Vec<libc::sock_filter>;

/// What a call is: `AUDIT_ARCH_*` of `linux/audit.h`. Numbers of calls mean something in one table
/// alone, and most kernels have two.
pub(super) const ARCHITECTURE: u32 = {
    const IS_64: u32 = 0x8000_0000;
    const IS_LITTLE: u32 = 0x4000_0000;
    // The machine of an ELF file (`linux/elf-em.h`), and its conventions.
    if cfg!(target_arch = "x86_64") {
        0x3e | IS_64 | IS_LITTLE
    } else if cfg!(target_arch = "x86") {
        0x03 | IS_LITTLE
    } else if cfg!(target_arch = "aarch64") {
        0xb7 | IS_64 | IS_LITTLE
    } else if cfg!(target_arch = "arm") {
        0x28 | IS_LITTLE
    } else if cfg!(target_arch = "riscv64") {
        0xf3 | IS_64 | IS_LITTLE
    } else if cfg!(target_arch = "powerpc64") {
        0x15 | IS_64 | if cfg!(target_endian = "little") { IS_LITTLE } else { 0 }
    } else if cfg!(target_arch = "s390x") {
        0x16 | IS_64
    } else if cfg!(target_arch = "loongarch64") {
        0x102 | IS_64 | IS_LITTLE
    } else {
        panic!("the AUDIT_ARCH of this processor is not known here")
    }
};

/// The place of a call's number in `struct seccomp_data`.
pub(crate) const NUMBER: u32 = offset_of!(libc::seccomp_data, nr) as u32;
/// That of the table that the number is of.
pub(super) const TABLE: u32 = offset_of!(libc::seccomp_data, arch) as u32;

/// The place of the lower 32 bits of an argument, from 0.
pub(crate) fn argument(number: u8) -> u32 {
    let start = offset_of!(libc::seccomp_data, args) as u32 + 8 * u32::from(number);
    if cfg!(target_endian = "big") { start + 4 } else { start }
}

/// Loads the word at a place.
pub(crate) const fn load(place: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, place)
}

/// Compares the loaded word by `test` (`BPF_JEQ` and others) with a value, and skips so many steps
/// if it holds, or if not.
pub(crate) const fn compare(test: u32, value: u32, then: u8, otherwise: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | test | libc::BPF_K, then, otherwise, value)
}

/// Skips so many steps.
pub(super) const fn skip(steps: u32) -> libc::sock_filter {
    step(libc::BPF_JMP | libc::BPF_JA, 0, 0, steps)
}

/// Ends the program with an action, `SECCOMP_RET_*`.
pub(crate) const fn answer(action: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}
