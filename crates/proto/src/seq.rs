//! TCP sequence numbers (RFC 9293, section 3.4), which compare and add modulo 2³².

/// A sequence number. Arithmetic wraps; order is defined within 2³¹.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether this number comes before `other`.
    pub const fn before(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0).wrapping_sub(1) < 0x7fff_ffff
    }

    /// Whether this number comes after `other`.
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }

    /// Bytes from `earlier` to this number: meaningful when `earlier` is not after it.
    pub const fn distance(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// The later one of two numbers.
    pub const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }

    /// The earlier one of two numbers.
    pub const fn min(self, other: Self) -> Self {
        if self.before(other) { self } else { other }
    }
}

impl core::ops::Add<u32> for Seq {
    type Output = Self;

    fn add(self, rhs: u32) -> Self {
        Self(self.0.wrapping_add(rhs))
    }
}

impl core::ops::Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, rhs: u32) -> Self {
        Self(self.0.wrapping_sub(rhs))
    }
}

impl core::ops::AddAssign<u32> for Seq {
    fn add_assign(&mut self, rhs: u32) {
        *self = *self + rhs;
    }
}

#[cfg(test)]
mod tests {
    use super::Seq;

    #[test]
    fn order_wraps() {
        let cases = [
            (0, 1, true),
            (1, 0, false),
            (5, 5, false),
            (u32::MAX, 0, true),
            (0, u32::MAX, false),
            (0x7fff_ffff, 0xffff_fffd, true),
            (7, 0x8000_0006, true),
            // Half way round nothing is before nor after.
            (7, 0x8000_0007, false),
            (0x8000_0007, 7, false),
        ];
        for (a, b, before) in cases {
            assert_eq!(Seq(a).before(Seq(b)), before, "{a} before {b}");
            assert_eq!(Seq(b).after(Seq(a)), before, "{b} after {a}");
        }
    }

    #[test]
    fn arithmetic_never_panics() {
        assert_eq!(Seq(u32::MAX) + 2, Seq(1));
        assert_eq!(Seq(0) - 1, Seq(u32::MAX));
        assert_eq!(Seq(3).distance(Seq(u32::MAX)), 4);
    }
}
