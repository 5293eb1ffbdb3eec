//! Domain names in the form of DNS messages (RFC 1035, section 3.1), which
//! DHCP (RFC 3397), DHCPv6 (RFC 8415, section 10) and RFC 8106 share.

use arrayvec::ArrayVec;

use super::writer::Writer;

/// Names that compression looks back at.
const MAX_NAMES: usize = 6;

/// A suffix that starts further than this cannot be pointed at.
const MAX_POINTER: usize = 0x3fff;

/// Writes `names` one after the other and returns how many: those that are not valid
/// are left out, and so are all from the first that does not fit. With `compress`, a suffix
/// that was written before is replaced by a pointer (RFC 1035, section 4.1.4), which
/// counts from the first name.
pub fn put_names<'a>(w: &mut Writer<'_>, names: impl Iterator<Item = &'a str>, compress: bool) -> usize {
    let base = w.written();
    let mut written = ArrayVec::<Written<'a>, MAX_NAMES>::new();
    for name in names.filter_map(valid).take(MAX_NAMES) {
        let start = w.written().saturating_sub(base);
        let earlier = if compress { written.as_slice() } else { &[] };
        let mut literal = 0;
        let fits = w.attempt(|w| {
            literal = put_name(w, name, earlier)?;
            Some(())
        });
        let entry = Written { name, start, literal };
        if !fits || written.try_push(entry).is_err() {
            break;
        }
    }
    written.len()
}

/// A name in the output: where it starts, and how much of its text is there in full.
struct Written<'a> {
    name: &'a str,
    start: usize,
    literal: usize,
}

impl Written<'_> {
    /// Where the output has `suffix`, if this name ends in it. A name's text and its
    /// form in the output run in step: each dot corresponds to a length.
    fn offset_of(&self, suffix: &str) -> Option<u16> {
        let at = self.name.len().checked_sub(suffix.len())?;
        let tail = self.name.get(at..)?;
        let boundary = at == 0 || self.name.get(..at)?.ends_with('.');
        if !boundary || at >= self.literal || !tail.eq_ignore_ascii_case(suffix) {
            return None;
        }
        let offset = self.start.checked_add(at)?;
        u16::try_from(offset).ok().filter(|_| offset <= MAX_POINTER)
    }
}

/// Writes one name and returns how many bytes of its text are there in full.
fn put_name(w: &mut Writer<'_>, name: &str, earlier: &[Written<'_>]) -> Option<usize> {
    let mut rest = name;
    loop {
        if let Some(offset) = earlier.iter().find_map(|e| e.offset_of(rest)) {
            w.u16(0xc000 | offset)?;
            return name.len().checked_sub(rest.len());
        }
        let (label, tail) = rest.split_once('.').unwrap_or((rest, ""));
        w.put(&[u8::try_from(label.len()).ok()?])?;
        w.put(label.as_bytes())?;
        if tail.is_empty() {
            w.put(&[0])?;
            return Some(name.len());
        }
        rest = tail;
    }
}

/// The name without a final dot, if its labels have from 1 to 63 bytes, and all together at most
/// 253.
fn valid(name: &str) -> Option<&str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = name.len() <= 253 && name.split('.').all(|l| (1..=63).contains(&l.len()));
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(names: &[&str], compress: bool) -> std::vec::Vec<u8> {
        let mut out = [0; 600];
        let mut w = Writer::new(&mut out);
        put_names(&mut w, names.iter().copied(), compress);
        let len = w.written();
        out[..len].to_vec()
    }

    #[test]
    fn example_of_rfc_3397() {
        // RFC 3397, section 3.
        let expected = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04";
        assert_eq!(encode(&["eng.apple.com.", "marketing.apple.com"], true), expected);
    }

    #[test]
    fn pointers_reach_only_what_is_written() {
        let cases: [(&[&str], &[u8]); 4] = [
            (&["a.b", "A.B"], b"\x01a\x01b\0\xc0\0"),
            (&["a.bc", "c"], b"\x01a\x02bc\0\x01c\0"),
            (&["x.b", "y.b", "z.y.b"], b"\x01x\x01b\0\x01y\xc0\x02\x01z\xc0\x05"),
            (&["x.b", "y.b", "b"], b"\x01x\x01b\0\x01y\xc0\x02\xc0\x02"),
        ];
        for (names, expected) in cases {
            assert_eq!(encode(names, true), expected, "{names:?}");
        }
    }

    #[test]
    fn invalid_names_are_left_out() {
        let long = "a".repeat(64);
        assert_eq!(encode(&["", ".", "a..b", &long, "ok"], false), b"\x02ok\0");
    }
}
