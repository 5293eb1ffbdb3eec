//! Keys, read from the terminal.
//!
//! What crossterm has for this goes on reading a terminal that is gone, and never returns: so it is
//! read here, once there is something, and the end is an end.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use passt_sys::plain::Plain;
use ratatui::crossterm::event::KeyCode;
use rustix::io::{Errno, read};

/// What Ctrl-C is.
pub(crate) const INTERRUPT: KeyCode = KeyCode::Char('\u{3}');
/// Bytes of the longest sequence that a key sends.
const SEQUENCE: usize = 32;

/// Keys of a terminal in raw mode.
#[derive(Debug)]
pub(crate) struct Keys {
    terminal: OwnedFd,
    /// The beginning of a key, of which more may come.
    begun: Vec<u8>,
    /// When the last of that came.
    at: Instant,
}

impl Keys {
    /// Those of the terminal that crossterm sets up.
    pub(crate) fn new() -> io::Result<Self> {
        let stdin = io::stdin();
        let terminal = if stdin.is_terminal() {
            stdin.as_fd().try_clone_to_owned()?
        } else {
            let terminal = File::open("/dev/tty");
            terminal.map_err(|error| other(&error))?.into()
        };
        Ok(Self { terminal, begun: Vec::new(), at: Instant::now() })
    }

    /// Reads what there is; nothing if the terminal is gone. Waits if there was nothing.
    pub(crate) fn read(&mut self) -> io::Result<Option<Vec<KeyCode>>> {
        let mut bytes = [0; 1 << 10];
        let length = match read(&self.terminal, &mut bytes) {
            Ok(0) | Err(Errno::IO) => return Ok(None),
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        self.begun.extend(bytes.get(..length).unwrap_or_default());
        self.at = Instant::now();
        Ok(Some(taken(&mut self.begun, false)))
    }

    /// Since when more is to come of a key: if it doesn't soon, it is [all](Self::rest).
    pub(crate) fn begun(&self) -> Option<Instant> {
        Some(self.at).filter(|_| !self.begun.is_empty())
    }

    /// What was read is all that comes.
    pub(crate) fn rest(&mut self) -> Vec<KeyCode> {
        taken(&mut self.begun, true)
    }
}

impl AsFd for Keys {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

/// No terminal for keys.
fn other(error: &io::Error) -> io::Error {
    let told = Plain(error).to_string();
    io::Error::new(
        error.kind(),
        format!("keys come from a terminal, and neither standard input nor /dev/tty is one ({told})"),
    )
}

/// Takes the keys from what a terminal has sent, and leaves the beginning of one, unless it is `all`.
fn taken(bytes: &mut Vec<u8>, all: bool) -> Vec<KeyCode> {
    let mut keys = Vec::new();
    loop {
        let (key, length) = match first(bytes) {
            Some(first) => first,
            // An escape without anything behind it is a key itself.
            None if all || bytes.len() > SEQUENCE => (bytes.first().and_then(|byte| single(*byte)), 1),
            None => return keys,
        };
        if length == 0 {
            return keys;
        }
        bytes.drain(..length.min(bytes.len()));
        keys.extend(key);
        if bytes.is_empty() {
            return keys;
        }
    }
}

/// The first key, if it is one that there is here, and its bytes; `None` if more is to come.
fn first(bytes: &[u8]) -> Option<(Option<KeyCode>, usize)> {
    match bytes {
        [] | [0x1b] => None,
        [0x1b, b'[', rest @ ..] => {
            let length = rest.iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            let number = rest.iter().take_while(|byte| byte.is_ascii_digit());
            let number: String = number.map(|byte| char::from(*byte)).collect();
            Some((rest.get(length).and_then(|last| sequence(&number, *last)), length + 3))
        }
        [0x1b, b'O', rest @ ..] => rest.first().map(|last| (sequence("", *last), 3)),
        [byte, ..] if byte.is_ascii() => Some((single(*byte), 1)),
        _ => {
            let few = bytes.get(..4).unwrap_or(bytes);
            let valid = match std::str::from_utf8(few) {
                Ok(text) => text,
                Err(error) if error.valid_up_to() > 0 => {
                    std::str::from_utf8(few.get(..error.valid_up_to())?).ok()?
                }
                Err(error) => return error.error_len().map(|length| (None, length)),
            };
            valid.chars().next().map(|letter| (Some(KeyCode::Char(letter)), letter.len_utf8()))
        }
    }
}

/// A key that sends one byte.
fn single(byte: u8) -> Option<KeyCode> {
    Some(match byte {
        b'\r' | b'\n' => KeyCode::Enter,
        b'\t' => KeyCode::Tab,
        0x08 | 0x7f => KeyCode::Backspace,
        0x1b => KeyCode::Esc,
        0x03 => INTERRUPT,
        b' '..=b'~' => KeyCode::Char(char::from(byte)),
        _ => return None,
    })
}

/// A key that sends an escape, a bracket or an O, perhaps a number, and this.
fn sequence(number: &str, last: u8) -> Option<KeyCode> {
    Some(match (last, number) {
        (b'A', _) => KeyCode::Up,
        (b'B', _) => KeyCode::Down,
        (b'H', _) | (b'~', "1" | "7") => KeyCode::Home,
        (b'~', "5") => KeyCode::PageUp,
        (b'~', "6") => KeyCode::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn keys_of_a_terminal() {
        use KeyCode::{Backspace, Char, Down, Enter, Esc, Home, PageDown, PageUp, Tab, Up};
        for (bytes, expected, left) in [
            (&b"/a\x7f\r\t1"[..], &[Char('/'), Char('a'), Backspace, Enter, Tab, Char('1')][..], 0),
            (b"\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[1~", &[Up, Down, PageUp, PageDown, Home, Home], 0),
            (b"\x1b[1;5C\x1b[200~q", &[Char('q')], 0),
            (b"\x03", &[INTERRUPT], 0),
            ("öß€x".as_bytes(), &[Char('ö'), Char('ß'), Char('€'), Char('x')], 0),
            (b"a\x1b[", &[Char('a')], 2),
            (b"a\xc3", &[Char('a')], 1),
            (b"\xff\xc3q\x00", &[Char('q')], 0),
            (b"\x1bq", &[Esc, Char('q')], 0),
            (b"\x1b", &[], 1),
        ] {
            let mut begun = bytes.to_vec();
            assert_eq!((&*taken(&mut begun, false), begun.len()), (expected, left), "{bytes:?}");
        }
        assert_eq!(taken(&mut b"\x1b".to_vec(), true), [Esc]);
        let mut long = b"\x1b[".to_vec();
        long.extend([b'1'; 100]);
        taken(&mut long, false);
        assert!(long.is_empty());
    }

    /// A terminal that is gone has an end, in the middle of a key, too.
    #[test]
    fn a_terminal_that_is_gone() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("a terminal");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let terminal = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty()).expect("its other end");
        let mut keys = Keys { terminal, begun: b"\x1b[".to_vec(), at: Instant::now() };
        drop(master);
        assert_eq!(keys.read().expect("an end"), None);
    }
}
