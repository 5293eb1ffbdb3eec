//! The machine's clock.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Time of `CLOCK_MONOTONIC`: since an arbitrary moment, usually the machine's start.
///
/// By the C library, which uses the vDSO where that has the function, and a system call where not;
/// rustix's own look-up ends the process on a kernel whose vDSO lacks a symbol (user-mode Linux).
pub fn monotonic() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: `time` is valid for writing. The call fails for clocks that do not exist only; this
    // one always does, and zero is a time as well.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr()) };
    // SAFETY: all-zero is a valid timespec, and so is what the kernel writes.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
