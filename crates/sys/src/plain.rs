//! Errors as users read them.

use std::fmt::{self, Write as _};

use arrayvec::ArrayString;

/// A text without the numbers that the standard library puts behind the kernel's errors:
/// `Permission denied (os error 13)` is shown as `Permission denied`.
#[derive(Clone, Copy, Debug)]
pub struct Plain<T>(pub T);

impl<T: fmt::Display> fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut filter = Filter { to: f, held: ArrayString::new() };
        write!(filter, "{}", self.0)?;
        filter.release()
    }
}

/// What comes before such a number.
const BEFORE: &str = " (os error ";
/// Room for that, and for all digits of a number.
const LONGEST: usize = BEFORE.len() + 11;

/// Passes text on, but for what is left out.
struct Filter<'a, W> {
    to: &'a mut W,
    /// The beginning of what may have to be left out.
    held: ArrayString<LONGEST>,
}

impl<W: fmt::Write> Filter<'_, W> {
    /// Passes on what was held back.
    fn release(&mut self) -> fmt::Result {
        self.to.write_str(&self.held)?;
        self.held.clear();
        Ok(())
    }

    /// Whether the text held, and then `next`, may be the beginning of what is left out.
    fn continues(&self, next: char) -> bool {
        match BEFORE.get(self.held.len()..).and_then(|rest| rest.chars().next()) {
            Some(expected) => next == expected,
            None => next.is_ascii_digit() && !self.held.is_full(),
        }
    }
}

impl<W: fmt::Write> fmt::Write for Filter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|next| self.write_char(next))
    }

    fn write_char(&mut self, next: char) -> fmt::Result {
        if next == ')' && self.held.len() > BEFORE.len() {
            self.held.clear();
            return Ok(());
        }
        if !self.continues(next) {
            self.release()?;
        }
        if self.continues(next) {
            self.held.push(next);
            return Ok(());
        }
        self.to.write_char(next)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out() {
        let error = io::Error::from_raw_os_error(13);
        assert_eq!(error.to_string(), "Permission denied (os error 13)");
        for (text, expected) in [
            (error.to_string(), "Permission denied"),
            (format!("a: {error}: b: {error} (c)"), "a: Permission denied: b: Permission denied (c)"),
            ("no error".into(), "no error"),
            ("a (os error )".into(), "a (os error )"),
            ("a (os error 5".into(), "a (os error 5"),
            ("a (os  (os error 5) (os error 123456789012)".into(), "a (os  (os error 123456789012)"),
            (" (os error 1)ü (".into(), "ü ("),
        ] {
            assert_eq!(Plain(&text).to_string(), expected, "{text}");
        }
        assert_eq!(Plain(format_args!("{}: {error}", 1)).to_string(), "1: Permission denied");
    }
}
