//! Lists of buffers for vectored I/O.
//!
//! Payload moves between sockets and links without this process looking at
//! it. A list holds raw vectors, and the lifetime says how long their memory
//! stays. It names private memory, borrowed as a slice (`push`), or memory shared
//! with a hostile party, which can change at any time and which no slice
//! may refer to ([`Region::gather`], [`Region::scatter`]). Only the kernel, or the
//! copying methods here, touch the bytes; what these copy from shared memory may be of several
//! moments, and what they copy to it may be gone a moment later.
//!
//! [`Region::gather`]: crate::shared::Region::gather
//! [`Region::scatter`]: crate::shared::Region::scatter

use std::ffi::c_void;
use std::hint::black_box;
use std::marker::PhantomData;

/// Most buffers in one list; the kernel's limit is 1024 (`UIO_MAXIOV`).
pub const MAX: usize = 512;

/// Buffers that bytes are taken from: `sendmsg`, `writev`.
pub struct Gather<'a>(List<'a>);

/// Buffers that bytes are put into: `recvmsg`, `readv`.
///
/// A slice is lent to one list, once, for as long as its lifetime says: lists can't be copied, nor
/// can their buffers be had from them. Shared memory may be named by several.
///
/// ```compile_fail,E0499
/// let mut memory = [0_u8; 8];
/// let (mut one, mut two) = (passt_sys::iovec::Scatter::new(), passt_sys::iovec::Scatter::new());
/// one.push(&mut memory);
/// two.push(&mut memory);
/// one.copy_in(0, &[1]);
/// ```
///
/// ```compile_fail
/// let mut memory = [0_u8; 8];
/// let (mut one, mut two) = (passt_sys::iovec::Scatter::new(), passt_sys::iovec::Scatter::new());
/// one.push(&mut memory);
/// two.append(&one);
/// ```
pub struct Scatter<'a>(List<'a>);

impl<'a> Gather<'a> {
    /// An empty list.
    pub fn new() -> Self {
        Self(List::new())
    }

    /// A list of one buffer.
    pub fn of(buffer: &'a [u8]) -> Self {
        let mut list = Self::new();
        list.push(buffer);
        list
    }

    /// Appends a buffer; false when the list is full.
    pub fn push(&mut self, buffer: &'a [u8]) -> bool {
        self.0.push(buffer.as_ptr().cast_mut(), buffer.len())
    }

    /// Appends `len` bytes of memory that others may write to; false when the list is full.
    ///
    /// # Safety
    /// They are mapped for as long as 'a.
    pub(crate) unsafe fn push_shared(&mut self, base: *mut u8, len: usize) -> bool {
        self.0.push(base, len)
    }

    /// Appends the buffers of `other`, which it keeps: they are only read. False when they do not
    /// all fit.
    pub fn append(&mut self, other: &Gather<'a>) -> bool {
        other.0.as_slice().iter().all(|v| self.0.push(v.iov_base.cast(), v.iov_len))
    }

    /// Total length of all buffers in bytes.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Whether another buffer would be refused.
    pub fn is_full(&self) -> bool {
        self.0.len == MAX
    }

    /// Number of buffers.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no buffers.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Copies what lies behind the first `skip` bytes to `out`; returns the
    /// number of bytes copied.
    pub fn copy_out(&self, skip: usize, out: &mut [u8]) -> usize {
        self.0.copy_out(skip, out)
    }

    pub(crate) fn as_slice(&self) -> &[libc::iovec] {
        self.0.as_slice()
    }
}

impl<'a> Scatter<'a> {
    /// An empty list.
    pub fn new() -> Self {
        Self(List::new())
    }

    /// Appends a buffer; false when the list is full.
    pub fn push(&mut self, buffer: &'a mut [u8]) -> bool {
        self.0.push(buffer.as_mut_ptr(), buffer.len())
    }

    /// Appends `len` bytes of memory that others may use; false when the list is full.
    ///
    /// # Safety
    /// They are mapped for as long as 'a, and no reference to them is formed.
    pub(crate) unsafe fn push_shared(&mut self, base: *mut u8, len: usize) -> bool {
        self.0.push(base, len)
    }

    /// Appends the first `bytes` bytes of a scratch buffer repeated as often as needed:
    /// bytes received there are thrown away. False when the list is full.
    pub fn push_discard(&mut self, scratch: &'a mut [u8], mut bytes: usize) -> bool {
        while bytes > 0 && !scratch.is_empty() {
            let n = bytes.min(scratch.len());
            if !self.0.push(scratch.as_mut_ptr(), n) {
                return false;
            }
            bytes -= n;
        }
        bytes == 0
    }

    /// Copies `bytes` to what lies behind the first `skip` bytes; returns the number of
    /// bytes copied.
    pub fn copy_in(&mut self, skip: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        self.0.each_part(skip, bytes.len(), |part, n| {
            // SAFETY: `part` has `n` writable bytes that are borrowed mutably or that no slice
            // refers to, so they do not overlap `bytes`, which has at least `n` bytes from `done`.
            unsafe { copy(bytes[done..].as_ptr(), part, n) };
            done += n;
        });
        done
    }

    /// Copies what lies behind the first `skip` bytes to `out`, as [`Gather::copy_out`].
    pub fn copy_out(&self, skip: usize, out: &mut [u8]) -> usize {
        self.0.copy_out(skip, out)
    }

    /// Total length of all buffers in bytes.
    pub fn total(&self) -> usize {
        self.0.total
    }

    pub(crate) fn as_slice(&self) -> &[libc::iovec] {
        self.0.as_slice()
    }
}

impl Default for Gather<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Scatter<'_> {
    fn default() -> Self {
        Self::new()
    }
}

struct List<'a> {
    vecs: [std::mem::MaybeUninit<libc::iovec>; MAX],
    len: usize,
    total: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl List<'_> {
    fn new() -> Self {
        Self { vecs: [const { std::mem::MaybeUninit::uninit() }; MAX], len: 0, total: 0, memory: PhantomData }
    }

    fn push(&mut self, base: *mut u8, len: usize) -> bool {
        let Some(slot) = self.vecs.get_mut(self.len) else {
            return false;
        };
        slot.write(libc::iovec { iov_base: base.cast(), iov_len: len });
        self.len += 1;
        // Buffers to be read may be named twice.
        self.total = self.total.saturating_add(len);
        true
    }

    fn copy_out(&self, skip: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        self.each_part(skip, out.len(), |part, n| {
            // SAFETY: `part` has `n` readable bytes, `out` has at least `n` bytes from `done`, and
            // a `&mut` slice of ours overlaps neither a buffer borrowed for 'a nor shared memory.
            unsafe { copy(part, out[done..].as_mut_ptr(), n) };
            done += n;
        });
        done
    }

    /// Calls `f` with pointer and length of each contiguous part of the `len` bytes behind the
    /// first `skip`, as far as there are so many: parts of buffers that live for 'a.
    fn each_part(&self, mut skip: usize, mut len: usize, mut f: impl FnMut(*mut u8, usize)) {
        for vec in self.as_slice() {
            let from = skip.min(vec.iov_len);
            skip -= from;
            let n = (vec.iov_len - from).min(len);
            // SAFETY: `from <= iov_len`, so the pointer stays inside the buffer.
            f(unsafe { vec.iov_base.cast::<u8>().add(from) }, n);
            len -= n;
        }
    }

    fn as_slice(&self) -> &[libc::iovec] {
        // SAFETY: `push` wrote the first `len` elements.
        unsafe { std::slice::from_raw_parts(self.vecs.as_ptr().cast(), self.len) }
    }
}

/// Copies bytes that others may change meanwhile, by a call of which the compiler knows nothing: it
/// can neither read the source again instead of the copy, nor rely on either being what it was. To
/// this process it is what a system call is.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`], but that other processes and threads may write to
/// shared memory among these bytes at the same time.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let memcpy: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void =
        black_box(libc::memcpy);
    // SAFETY: the caller says that there are `len` bytes at both, which do not overlap.
    unsafe { memcpy(to.cast(), from.cast(), len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_across_buffers() {
        let (a, b) = ([1u8, 2, 3], [4u8, 5]);
        let mut list = Gather::new();
        assert!(list.push(&a) && list.push(&b));
        let mut out = [0; 8];
        assert_eq!(list.copy_out(2, &mut out), 3);
        assert_eq!(out[..3], [3, 4, 5]);
        assert_eq!(list.copy_out(0, &mut out[..2]), 2);
        assert_eq!(list.copy_out(9, &mut out), 0);
        let (mut a, mut b) = ([0u8; 3], [0u8; 2]);
        let mut list = Scatter::new();
        assert!(list.push(&mut a) && list.push(&mut b));
        assert_eq!(list.copy_in(2, &[7, 8, 9, 10]), 3);
        assert_eq!(list.copy_out(1, &mut out), 4);
        assert_eq!(out[..4], [0, 7, 8, 9]);
    }
}
