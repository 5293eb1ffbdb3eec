//! Membership of multicast groups: reports of IGMP (RFC 1112, 2236, 3376) and of MLD (RFC 2710,
//! 3810) as one kind of record, and the queries that ask for them.
//!
//! Older versions are told in terms of the newest, as routers do (RFC 3376, section 7.3.2): a
//! report is a record that excludes nobody, a message of leaving one that includes nobody.

use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use zerocopy::IntoBytes;

use super::checksum::Sum;
use super::ip::protocol;
use super::writer::Writer;
use super::{ethernet, ipv4, ipv6};
use crate::addr::{Addr, Mac};
use crate::drop::DropReason;

const IGMP_QUERY: u8 = 0x11;
const IGMP_V1_REPORT: u8 = 0x12;
const IGMP_V2_REPORT: u8 = 0x16;
const IGMP_V2_LEAVE: u8 = 0x17;
const IGMP_V3_REPORT: u8 = 0x22;
const MLD_QUERY: u8 = 130;
const MLD_V1_REPORT: u8 = 131;
const MLD_V1_DONE: u8 = 132;
const MLD_V2_REPORT: u8 = 143;

/// Bytes in front of the records of a report, and of IGMP's messages before version 3.
const HEADER: usize = 8;
/// Bytes in front of the sources of a record, without the group.
const RECORD: usize = 4;

/// Tells routers on the way to look at a packet: the option of IPv4 (RFC 2113), and the header of
/// hop-by-hop options with that of IPv6 (RFC 2711), which the next header is to be put in front of.
const ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
const ALERT_V6: [u8; 7] = [0, 5, 2, 0, 0, 1, 0];

/// Internetwork control, as RFC 3376, section 4, wants it.
const CONTROL: u8 = 0xc0;

/// What a record says about a group (RFC 3376, section 4.2.12; RFC 3810, section 5.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Datagrams of these sources are wanted, and were before.
    IsInclude,
    /// Datagrams of all but these sources are wanted, and were before.
    IsExclude,
    /// From now on those of these sources are wanted.
    ToInclude,
    /// From now on those of all but these are.
    ToExclude,
    /// Those of these as well.
    Allow,
    /// Those of these no more.
    Block,
}

impl Change {
    fn parse(kind: u8) -> Option<Self> {
        Some(match kind {
            1 => Self::IsInclude,
            2 => Self::IsExclude,
            3 => Self::ToInclude,
            4 => Self::ToExclude,
            5 => Self::Allow,
            6 => Self::Block,
            _ => return None,
        })
    }
}

/// The version of the protocol that a report is of. MLD's versions are one behind those of IGMP
/// that do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `IGMPv1`: nobody says that he leaves.
    One,
    /// `IGMPv2`, `MLDv1`: no sources.
    Two,
    /// `IGMPv3`, `MLDv2`.
    Three,
}

/// What is said about one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What.
    pub change: Change,
    /// The group, any address.
    pub group: Addr,
    sources: &'a [u8],
}

impl<'a> Record<'a> {
    /// The sources that are named.
    pub fn sources(&self) -> impl Iterator<Item = Addr> + use<'a> {
        let v4 = self.group.is_v4();
        self.sources.chunks_exact(addr_len(v4)).filter_map(move |bytes| addr(bytes, v4))
    }
}

/// A report, with its records. One that ends before them all is told as far as it goes.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Of which version it is.
    pub version: Version,
    v4: bool,
    rest: &'a [u8],
    left: u16,
    /// The only record of an older version.
    single: Option<Record<'a>>,
}

impl<'a> Report<'a> {
    /// Checks a message of IGMP, or of MLD from its type on, that `src` sent to `dst`, with this
    /// time to live.
    pub fn parse(message: &'a [u8], src: Addr, dst: Addr, ttl: u8) -> Result<Self, DropReason> {
        let v4 = dst.is_v4();
        // RFC 3376, section 4; RFC 3810, section 5.2.13: not from whom has no address yet.
        if ttl != 1 || !dst.is_group() || !v4 && !src.is_link_local() {
            return Err(DropReason::GroupInvalid);
        }
        let sum = if v4 { Sum::new() } else { Sum::pseudo(src, dst, protocol::ICMPV6, message.len()) };
        if sum.bytes(message).finish() != 0 {
            return Err(DropReason::GroupInvalid);
        }
        let (&[kind, _, _, _, _, _, high, low], rest) =
            message.split_first_chunk::<HEADER>().ok_or(DropReason::Truncated)?;
        let (version, change) = match (kind, v4) {
            (IGMP_V3_REPORT, true) | (MLD_V2_REPORT, false) => {
                let left = u16::from_be_bytes([high, low]);
                return Ok(Self { version: Version::Three, v4, rest, left, single: None });
            }
            (IGMP_V1_REPORT, true) => (Version::One, Change::IsExclude),
            (IGMP_V2_REPORT, true) | (MLD_V1_REPORT, false) => (Version::Two, Change::IsExclude),
            (IGMP_V2_LEAVE, true) | (MLD_V1_DONE, false) => (Version::Two, Change::ToInclude),
            (IGMP_QUERY, true) | (MLD_QUERY, false) => return Err(DropReason::GroupQuery),
            _ => return Err(DropReason::GroupInvalid),
        };
        let start = if v4 { HEADER - addr_len(true) } else { HEADER };
        let group = message.get(start..).and_then(|bytes| addr(bytes, v4));
        let group = group.ok_or(DropReason::Truncated)?;
        Ok(Self { version, v4, rest: &[], left: 0, single: Some(Record { change, group, sources: &[] }) })
    }

    /// The next record of one of the newest version.
    fn record(&mut self) -> Option<Record<'a>> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let (&[kind, auxiliary, high, low], rest) = self.rest.split_first_chunk::<RECORD>()?;
            let len = addr_len(self.v4);
            let group = addr(rest, self.v4)?;
            let sources = usize::from(u16::from_be_bytes([high, low])).checked_mul(len)?;
            let (sources, rest) = rest.get(len..)?.split_at_checked(sources)?;
            self.rest = rest.get(usize::from(auxiliary).checked_mul(4)?..)?;
            // Unknown ones are skipped (RFC 3376, section 4.2.12).
            if let Some(change) = Change::parse(kind) {
                return Some(Record { change, group, sources });
            }
        }
    }
}

impl<'a> Iterator for Report<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        self.single.take().or_else(|| self.record())
    }
}

/// Whether an ICMPv6 type is one of MLD.
pub const fn is_mld(kind: u8) -> bool {
    matches!(kind, MLD_QUERY | MLD_V1_REPORT | MLD_V1_DONE | MLD_V2_REPORT)
}

/// Whether an IPv6 packet begins with hop-by-hop options that tell routers to look at it, as
/// those of MLD do (RFC 2711; RFC 3810, section 5).
pub fn has_alert(packet: &[u8]) -> bool {
    let Some((header, rest)) = packet.split_at_checked(ipv6::LEN) else { return false };
    let Some(&[_, units]) = rest.first_chunk().filter(|_| header.get(6) == Some(&0)) else { return false };
    let mut options = rest.get(2..(usize::from(units) + 1) * 8).unwrap_or_default();
    while let Some((&kind, behind)) = options.split_first() {
        let len = match (kind, behind.first()) {
            (0, _) => 0,
            (5, Some(2)) => return behind.get(1..3) == Some(&[0, 0]),
            (_, Some(&len)) => usize::from(len) + 1,
            (_, None) => return false,
        };
        options = behind.get(len..).unwrap_or_default();
    }
    false
}

fn addr_len(v4: bool) -> usize {
    if v4 { 4 } else { 16 }
}

/// The address at the start of `bytes`. One of IPv6 that would be taken for IPv4 is none.
fn addr(bytes: &[u8], v4: bool) -> Option<Addr> {
    if v4 {
        return bytes.first_chunk::<4>().map(|&bytes| Ipv4Addr::from(bytes).into());
    }
    bytes.first_chunk::<16>().map(|&bytes| Addr::from(Ipv6Addr::from(bytes))).filter(|addr| !addr.is_v4())
}

/// A question to the guest's stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The group that is asked about; `None` for all.
    pub group: Option<Addr>,
    /// The sources that are asked about; none for all.
    pub sources: &'a [Addr],
    /// How long an answer may take.
    pub response: Duration,
    /// How often we ask about all groups.
    pub interval: Duration,
    /// How often a message is sent that may get lost.
    pub robustness: u8,
}

impl Query<'_> {
    /// Writes the frame in which we ask as `src`, at the station `mac`, and returns its length.
    pub fn emit(&self, mac: Mac, src: Addr, out: &mut [u8]) -> Result<usize, DropReason> {
        let written = if src.is_v4() { self.igmp(mac, src, out) } else { self.mld(mac, src, out) };
        written.and_then(|len| pad(out, len)).ok_or(DropReason::NoRoom)
    }

    fn igmp(&self, mac: Mac, src: Addr, out: &mut [u8]) -> Option<usize> {
        let dst = self.group.unwrap_or(Ipv4Addr::new(224, 0, 0, 1).into());
        let (head, message) = out.split_at_mut_checked(ethernet::LEN + ipv4::LEN + ALERT_V4.len())?;
        let tenths = u64::try_from(self.response.as_millis() / 100).ok()?;
        let mut w = Writer::new(message);
        w.put(&[IGMP_QUERY, floating(tenths), 0, 0])?;
        w.put(&self.group.map_or(Some([0; 4]), |group| Some(group.v4()?.octets()))?)?;
        self.rest(&mut w, true)?;
        let len = w.written();
        let message = message.get_mut(..len)?;
        let sum = Sum::new().bytes(message).finish();
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let total = ALERT_V4.len().checked_add(len)?;
        let mut header = ipv4::Header::new(src.v4()?, dst.v4()?, protocol::IGMP, (1, 0), total)?;
        (header.version_ihl, header.tos, header.checksum) = (0x46, CONTROL, 0.into());
        header.checksum = Sum::new().bytes(header.as_bytes()).bytes(&ALERT_V4).finish().into();
        let mut w = Writer::new(head);
        w.put(ethernet::Header::new(mac, dst.group_mac()?, ethernet::IPV4).as_bytes())?;
        w.put(header.as_bytes())?;
        w.put(&ALERT_V4)?;
        w.written().checked_add(len)
    }

    fn mld(&self, mac: Mac, src: Addr, out: &mut [u8]) -> Option<usize> {
        let dst = self.group.unwrap_or(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into());
        let (head, message) = out.split_at_mut_checked(ethernet::LEN + ipv6::LEN + ALERT_V6.len() + 1)?;
        let response = u16::try_from(self.response.as_millis()).ok().filter(|&ms| ms < 0x8000)?;
        let mut w = Writer::new(message);
        w.put(&[MLD_QUERY, 0, 0, 0])?;
        w.put(&response.to_be_bytes())?;
        w.put(&[0; 2])?;
        w.put(&self.group.unwrap_or(Addr::UNSPECIFIED).octets())?;
        self.rest(&mut w, false)?;
        let len = w.written();
        let message = message.get_mut(..len)?;
        let sum = Sum::pseudo(src, dst, protocol::ICMPV6, len).bytes(message).finish_nonzero();
        message.get_mut(2..4)?.copy_from_slice(&sum.to_be_bytes());
        let total = (ALERT_V6.len() + 1).checked_add(len)?;
        let (from, to) = (src.octets().into(), dst.octets().into());
        let header = ipv6::Header::new(from, to, ipv6::HOP_BY_HOP, (1, 0), total)?;
        let mut w = Writer::new(head);
        w.put(ethernet::Header::new(mac, dst.group_mac()?, ethernet::IPV6).as_bytes())?;
        w.put(header.as_bytes())?;
        w.put(&[protocol::ICMPV6])?;
        w.put(&ALERT_V6)?;
        w.written().checked_add(len)
    }

    /// What both have behind the group: robustness, interval, sources.
    fn rest(&self, w: &mut Writer<'_>, v4: bool) -> Option<()> {
        w.put(&[self.robustness & 7, floating(self.interval.as_secs())])?;
        w.put(&u16::try_from(self.sources.len()).ok()?.to_be_bytes())?;
        for source in self.sources {
            if v4 { w.put(&source.v4()?.octets())? } else { w.put(&source.octets())? }
        }
        Some(())
    }
}

/// A number as `IGMPv3` and `MLDv2` write it in a byte: from 128 on with an exponent (RFC 3376, section
/// 4.1.1), rounded down.
fn floating(value: u64) -> u8 {
    let value = value.min(0x1f << 10);
    if value < 128 {
        return u8::try_from(value).unwrap_or(u8::MAX);
    }
    // Five bits from the first that is set are the mantissa, with the first one implied.
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(5);
    let exponent = u64::from(shift.saturating_sub(3));
    u8::try_from(0x80 | exponent << 4 | (value >> shift) & 0xf).unwrap_or(u8::MAX)
}

/// Pads a frame of `len` bytes to the minimum of Ethernet and returns its length.
fn pad(out: &mut [u8], len: usize) -> Option<usize> {
    let padded = len.max(ethernet::MIN_FRAME);
    out.get_mut(len..padded)?.fill(0);
    Some(padded)
}

#[cfg(test)]
pub(crate) mod tests;
