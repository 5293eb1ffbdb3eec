//! Sequential writing of formats with options.

/// A buffer that fills from its start. Each method returns `None`, and leaves
/// what it could not write undefined, when the room is used up.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// An empty writer.
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.len
    }

    /// Writes bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// Writes a number of two bytes in network order.
    pub fn u16(&mut self, value: u16) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    /// Writes a number of four bytes in network order.
    pub fn u32(&mut self, value: u32) -> Option<()> {
        self.put(&value.to_be_bytes())
    }

    /// Writes zeroes up to a length of `len` bytes, if there are less.
    pub fn zero_to(&mut self, len: usize) -> Option<()> {
        let end = len.max(self.len);
        self.out.get_mut(self.len..end)?.fill(0);
        self.len = end;
        Some(())
    }

    /// Overwrites earlier bytes.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        let written = self.out.get_mut(..self.len)?;
        let end = at.checked_add(bytes.len())?;
        written.get_mut(at..end)?.copy_from_slice(bytes);
        Some(())
    }

    /// Writes all of `write` or, if it fails, nothing; returns whether it did.
    pub fn attempt(&mut self, write: impl FnOnce(&mut Self) -> Option<()>) -> bool {
        let len = self.len;
        let written = write(self).is_some();
        if !written {
            self.len = len;
        }
        written
    }
}
