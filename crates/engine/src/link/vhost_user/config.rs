//! What the device says about itself (virtio 1.2, section 5.1.4).

/// The device's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The largest packet that the guest is to send, if it is told one: 68 to 65 535 bytes.
    pub mtu: Option<u16>,
    /// The user has chosen it.
    pub is_chosen: bool,
}

impl Config {
    /// Configuration space; what no feature says anything about is zero. A guest without an
    /// address in it makes one up.
    pub(super) fn space<const N: usize>(self, pairs: usize) -> [u8; N] {
        const STATUS: usize = 6;
        const LINK_UP: u16 = 1;
        let mut space = [0; N];
        let pairs = u16::try_from(pairs).unwrap_or(u16::MAX);
        let numbers = [LINK_UP, pairs, self.mtu.unwrap_or(0)].map(u16::to_le_bytes);
        let numbers = numbers.as_flattened();
        if let Some(place) = space.get_mut(STATUS..STATUS + numbers.len()) {
            place.copy_from_slice(numbers);
        }
        space
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn fields() {
        let space: [u8; 16] = Config { mtu: Some(0x1234), is_chosen: true }.space(1);
        assert_eq!(space, [0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0x34, 0x12, 0, 0, 0, 0]);
    }
}
