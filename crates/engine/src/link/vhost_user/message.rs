//! Messages of the vhost-user protocol as values (QEMU, docs/interop/vhost-user.rst): bytes are
//! checked here, once, for what can be told from them alone.
//!
//! Numbers are in the machine's byte order. A message that is longer than it need be is taken for
//! what is at its start.

use arrayvec::ArrayVec;
use passt_sys::shared::{MAX_REGIONS, Place};

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Most bytes behind it.
pub(super) const MAX_PAYLOAD: usize = 4096;
/// Most bytes of configuration space in one message (`VHOST_USER_MAX_CONFIG_SIZE`).
pub(super) const MAX_CONFIG: usize = 256;
/// Most bytes of an answer.
const MAX_REPLY: usize = HEADER + 12 + MAX_CONFIG;

/// Bits of the flags: the version, that it is a reply, and that one is wanted.
const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Of a descriptor's message: the queue, and that there is no descriptor.
const INDEX_MASK: u64 = 0xff;
const NO_DESCRIPTOR: u64 = 1 << 8;

/// Of a queue's addresses: writes to the used ring are noted (`VHOST_VRING_F_LOG`).
const LOG_USED: u32 = 1;

/// The request that brings a log. The front end waits for an answer.
pub(super) const SET_LOG_BASE: u32 = 6;

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("it does not speak vhost-user; QEMU's -netdev stream takes passt without --vhost-user")]
    Version,
    #[error("a reply to nothing")]
    Reply,
    #[error("a message of {0} bytes")]
    TooLong(u32),
    #[error("a message that is too short")]
    TooShort,
    #[error("{0} regions of memory")]
    Regions(u32),
}

/// The start of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) request: u32,
    pub(super) need_reply: bool,
    /// Bytes behind the header.
    pub(super) size: usize,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Malformed> {
        let mut rest = Reader(bytes);
        let (request, flags, len) = (rest.u32()?, rest.u32()?, rest.u32()?);
        if flags & VERSION_MASK != VERSION {
            return Err(Malformed::Version);
        }
        if flags & REPLY != 0 {
            return Err(Malformed::Reply);
        }
        let size = usize::try_from(len).ok().filter(|size| *size <= MAX_PAYLOAD);
        let size = size.ok_or(Malformed::TooLong(len))?;
        Ok(Self { request, need_reply: flags & NEED_REPLY != 0, size })
    }
}

/// A message of the front end's ("Front-end message types").
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, for a moment")]
pub(super) enum Message {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(ArrayVec<Place, MAX_REGIONS>),
    SetLogBase(LogPlace),
    SetLogFd,
    SetVringNum(VringState),
    SetVringAddr(VringAddr),
    SetVringBase(VringState),
    GetVringBase(u32),
    SetVringKick(VringDescriptor),
    SetVringCall(VringDescriptor),
    SetVringErr(VringDescriptor),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable(VringState),
    SendRarp,
    NetSetMtu(u64),
    GetConfig(ConfigRange),
    SetConfig,
    GetInflightFd,
    SetInflightFd,
    ResetDevice,
    GetMaxMemSlots,
    AddMemReg(Place),
    RemMemReg(Place),
    SetStatus(u64),
    GetStatus,
    SetDeviceStateFd,
    CheckDeviceState,
    /// One that this back end has not offered, or does not know.
    Unknown,
}

/// A number for a queue ("A vring state description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VringState {
    pub(super) index: u32,
    pub(super) num: u32,
}

/// Where a queue is, by addresses of the front end ("A vring address description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VringAddr {
    pub(super) index: u32,
    pub(super) descriptors: u64,
    pub(super) used: u64,
    pub(super) available: u64,
    /// The guest's address under which writes to the used ring are noted, if they are.
    pub(super) log: Option<u64>,
}

/// Where a log of pages is in its file ("Log description").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPlace {
    pub(super) size: u64,
    pub(super) offset: u64,
}

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VringDescriptor {
    pub(super) index: u32,
    /// It came with the message.
    pub(super) is_there: bool,
}

/// A part of configuration space ("Virtio device config space").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConfigRange {
    pub(super) offset: u32,
    pub(super) size: u32,
    pub(super) flags: u32,
}

impl Message {
    /// The message of number `request` with these bytes behind its header.
    pub(super) fn parse(request: u32, payload: &[u8]) -> Result<Self, Malformed> {
        let mut rest = Reader(payload);
        Ok(match request {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures(rest.u64()?),
            3 => Self::SetOwner,
            4 => Self::ResetOwner,
            5 => Self::SetMemTable(rest.places()?),
            SET_LOG_BASE => Self::SetLogBase(LogPlace { size: rest.u64()?, offset: rest.u64()? }),
            7 => Self::SetLogFd,
            8 => Self::SetVringNum(rest.state()?),
            9 => Self::SetVringAddr(rest.address()?),
            10 => Self::SetVringBase(rest.state()?),
            11 => Self::GetVringBase(rest.state()?.index),
            12 => Self::SetVringKick(rest.descriptor()?),
            13 => Self::SetVringCall(rest.descriptor()?),
            14 => Self::SetVringErr(rest.descriptor()?),
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures(rest.u64()?),
            17 => Self::GetQueueNum,
            18 => Self::SetVringEnable(rest.state()?),
            19 => Self::SendRarp,
            20 => Self::NetSetMtu(rest.u64()?),
            24 => Self::GetConfig(ConfigRange { offset: rest.u32()?, size: rest.u32()?, flags: rest.u32()? }),
            25 => Self::SetConfig,
            31 => Self::GetInflightFd,
            32 => Self::SetInflightFd,
            34 => Self::ResetDevice,
            36 => Self::GetMaxMemSlots,
            37 => Self::AddMemReg(rest.single()?),
            38 => Self::RemMemReg(rest.single()?),
            39 => Self::SetStatus(rest.u64()?),
            40 => Self::GetStatus,
            42 => Self::SetDeviceStateFd,
            43 => Self::CheckDeviceState,
            _ => Self::Unknown,
        })
    }
}

/// An answer in bytes. QEMU takes no other flags than these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply(ArrayVec<u8, MAX_REPLY>);

impl Reply {
    fn new(request: u32, size: usize) -> Self {
        let mut bytes = ArrayVec::new();
        let size = u32::try_from(size).unwrap_or(0);
        for number in [request, VERSION | REPLY, size] {
            bytes.extend(number.to_ne_bytes());
        }
        Self(bytes)
    }

    /// A number.
    pub(super) fn number(request: u32, number: u64) -> Self {
        let mut reply = Self::new(request, 8);
        reply.0.extend(number.to_ne_bytes());
        reply
    }

    /// A number of a queue.
    pub(super) fn state(request: u32, state: VringState) -> Self {
        let mut reply = Self::new(request, 8);
        reply.0.extend(state.index.to_ne_bytes().into_iter().chain(state.num.to_ne_bytes()));
        reply
    }

    /// A part of configuration space; none says that there is no such part. What does not fit is
    /// left out.
    pub(super) fn config(request: u32, range: ConfigRange, bytes: &[u8]) -> Self {
        let bytes = bytes.get(..MAX_CONFIG).unwrap_or(bytes);
        let mut reply = Self::new(request, 12 + bytes.len());
        for number in [range.offset, u32::try_from(bytes.len()).unwrap_or(0), range.flags] {
            reply.0.extend(number.to_ne_bytes());
        }
        reply.0.extend(bytes.iter().copied());
        reply
    }

    /// That there is no area for requests under way: one of no size, without a descriptor.
    pub(super) fn no_inflight(request: u32) -> Self {
        const LEN: usize = 20;
        let mut reply = Self::new(request, LEN);
        reply.0.extend([0; LEN]);
        reply
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed::TooShort)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_ne_bytes(self.array()?))
    }

    fn state(&mut self) -> Result<VringState, Malformed> {
        Ok(VringState { index: self.u32()?, num: self.u32()? })
    }

    fn address(&mut self) -> Result<VringAddr, Malformed> {
        let (index, flags) = (self.u32()?, self.u32()?);
        let (descriptors, used, available) = (self.u64()?, self.u64()?, self.u64()?);
        let log = Some(self.u64()?).filter(|_| flags & LOG_USED != 0);
        Ok(VringAddr { index, descriptors, used, available, log })
    }

    fn descriptor(&mut self) -> Result<VringDescriptor, Malformed> {
        let number = self.u64()?;
        let index = u32::try_from(number & INDEX_MASK).map_err(|_| Malformed::TooShort)?;
        Ok(VringDescriptor { index, is_there: number & NO_DESCRIPTOR == 0 })
    }

    fn place(&mut self) -> Result<Place, Malformed> {
        Ok(Place { guest: self.u64()?, size: self.u64()?, user: self.u64()?, offset: self.u64()? })
    }

    fn places(&mut self) -> Result<ArrayVec<Place, MAX_REGIONS>, Malformed> {
        let (count, _padding) = (self.u32()?, self.u32()?);
        let len = usize::try_from(count).ok().filter(|len| *len <= MAX_REGIONS);
        (0..len.ok_or(Malformed::Regions(count))?).map(|_| self.place()).collect()
    }

    fn single(&mut self) -> Result<Place, Malformed> {
        let _padding = self.u64()?;
        self.place()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::mock::{pair, words};
    use super::*;

    fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        for (place, number) in bytes.chunks_mut(4).zip([request, flags, size]) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn headers() {
        let parse = |request, flags, size| Header::parse(&header(request, flags, size));
        for (flags, need_reply) in [(1, false), (9, true), (0xffff_fff1, false)] {
            assert_eq!(parse(7, flags, 4096), Ok(Header { request: 7, need_reply, size: 4096 }));
        }
        for version in [0, 2, 3] {
            assert_eq!(parse(7, version, 0), Err(Malformed::Version));
        }
        assert_eq!(parse(7, 5, 0), Err(Malformed::Reply));
        for size in [4097, u32::MAX] {
            assert_eq!(parse(7, 1, size), Err(Malformed::TooLong(size)));
        }
    }

    /// Each with the fewest bytes that it can have.
    #[test]
    fn messages() {
        let place = Place { guest: 0x1000, size: 0x2000, user: 0x3000, offset: 0x4000 };
        let region = words(&[0x1000, 0x2000, 0x3000, 0x4000]);
        let both = words(&[pair(3, 5)]);
        let state = VringState { index: 3, num: 5 };
        let table = [words(&[pair(2, 0)]), region.clone(), region.clone()].concat();
        let single = [words(&[0]), region].concat();
        let there = |index| VringDescriptor { index, is_there: true };
        let range = ConfigRange { offset: 3, size: 5, flags: 1 };
        let address = |log| VringAddr { index: 3, descriptors: 10, used: 20, available: 30, log };
        let rows: Vec<(u32, Vec<u8>, Message)> = vec![
            (1, vec![], Message::GetFeatures),
            (2, words(&[u64::MAX]), Message::SetFeatures(u64::MAX)),
            (3, vec![], Message::SetOwner),
            (4, vec![], Message::ResetOwner),
            (5, table, Message::SetMemTable([place, place].into_iter().collect())),
            (6, words(&[8, 4096]), Message::SetLogBase(LogPlace { size: 8, offset: 4096 })),
            (7, vec![], Message::SetLogFd),
            (8, both.clone(), Message::SetVringNum(state)),
            (9, words(&[pair(3, 1), 10, 20, 30, 40]), Message::SetVringAddr(address(Some(40)))),
            (9, words(&[pair(3, 6), 10, 20, 30, 40]), Message::SetVringAddr(address(None))),
            (10, both.clone(), Message::SetVringBase(state)),
            (11, both.clone(), Message::GetVringBase(3)),
            (12, words(&[3]), Message::SetVringKick(there(3))),
            (13, words(&[0xff]), Message::SetVringCall(there(0xff))),
            (14, words(&[0x103]), Message::SetVringErr(VringDescriptor { index: 3, is_there: false })),
            (15, vec![], Message::GetProtocolFeatures),
            (16, words(&[9]), Message::SetProtocolFeatures(9)),
            (17, vec![], Message::GetQueueNum),
            (18, both, Message::SetVringEnable(state)),
            (19, vec![], Message::SendRarp),
            (20, words(&[1500]), Message::NetSetMtu(1500)),
            (24, [words(&[pair(3, 5)]), 1u32.to_ne_bytes().to_vec()].concat(), Message::GetConfig(range)),
            (25, vec![], Message::SetConfig),
            (31, vec![], Message::GetInflightFd),
            (32, vec![], Message::SetInflightFd),
            (34, vec![], Message::ResetDevice),
            (36, vec![], Message::GetMaxMemSlots),
            (37, single.clone(), Message::AddMemReg(place)),
            (38, single, Message::RemMemReg(place)),
            (39, words(&[15]), Message::SetStatus(15)),
            (40, vec![], Message::GetStatus),
            (42, vec![], Message::SetDeviceStateFd),
            (43, vec![], Message::CheckDeviceState),
            (0, vec![], Message::Unknown),
            (21, vec![], Message::Unknown),
            (44, vec![], Message::Unknown),
            (u32::MAX, vec![], Message::Unknown),
        ];
        for (request, mut bytes, expected) in rows {
            assert_eq!(Message::parse(request, &bytes), Ok(expected.clone()));
            bytes.push(7);
            assert_eq!(Message::parse(request, &bytes), Ok(expected), "longer");
            bytes.truncate(bytes.len().saturating_sub(2));
            let shorter = Message::parse(request, &bytes);
            assert!(bytes.is_empty() || shorter == Err(Malformed::TooShort), "{request}: {shorter:?}");
        }
    }

    #[test]
    fn counts_of_regions() {
        for (count, expected) in [(33, Malformed::Regions(33)), (u32::MAX, Malformed::Regions(u32::MAX))] {
            assert_eq!(Message::parse(5, &words(&[pair(count, 0), 0, 0, 0, 0])), Err(expected));
        }
        assert_eq!(Message::parse(5, &words(&[0])), Ok(Message::SetMemTable(ArrayVec::new())));
        assert_eq!(Message::parse(5, &words(&[pair(2, 0), 0, 0, 0, 0])), Err(Malformed::TooShort));
    }

    #[test]
    fn replies() {
        let cases = [
            (Reply::number(1, 0x1234), [header(1, 5, 8).to_vec(), words(&[0x1234])].concat()),
            (
                Reply::state(11, VringState { index: 3, num: 5 }),
                [header(11, 5, 8).to_vec(), words(&[pair(3, 5)])].concat(),
            ),
            (
                Reply::config(24, ConfigRange { offset: 3, size: 2, flags: 0 }, &[7, 8]),
                [header(24, 5, 14).to_vec(), words(&[pair(3, 2)]), vec![0, 0, 0, 0, 7, 8]].concat(),
            ),
            (Reply::no_inflight(31), [header(31, 5, 20).to_vec(), vec![0; 20]].concat()),
        ];
        for (reply, expected) in cases {
            assert_eq!(reply.bytes(), expected);
        }
        let long = Reply::config(24, ConfigRange { offset: 0, size: 0, flags: 0 }, &[1; 5000]);
        assert_eq!(long.bytes().len(), MAX_REPLY);
    }

    proptest! {
        #[test]
        fn any_bytes(request in 0u32..64, bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            let _ = Message::parse(request, &bytes);
            if let Some(first) = bytes.first_chunk() {
                let parsed = Header::parse(first);
                prop_assert!(parsed.is_err() || parsed.is_ok_and(|header| header.size <= MAX_PAYLOAD));
            }
        }
    }
}
