//! Words of a command line, the way `getopt_long` takes them.
//!
//! Tokens are lexopt's; added are abbreviations of long options, the end at the first operand
//! and the messages of glibc, which programs that start us compare.

use std::ffi::OsString;
use std::fmt::Write;

use super::Error;
use super::option::{Action, Opt};
use super::options;

/// One step through the command line.
pub(super) enum Word {
    /// An option as the table has it, as it was given (abbreviations spelt out), its argument.
    Option(&'static Opt, String, Option<OsString>),
    /// The first operand and all that follows: the end.
    Operands(Vec<OsString>),
}

/// The command line, read from its beginning.
pub(super) struct Getopt {
    name: String,
    words: lexopt::Parser,
}

impl Getopt {
    /// Starts after the program's name, which messages begin with.
    pub(super) fn new(argv: Vec<OsString>) -> Self {
        let name = argv.first().map(|name| name.to_string_lossy().into_owned());
        let mut words = lexopt::Parser::from_iter(argv);
        words.set_short_equals(false);
        Self { name: name.unwrap_or_default(), words }
    }

    /// The program's name as it was called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next option, or the operands; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Word>, Error> {
        match self.words.next() {
            Ok(None) => Ok(None),
            Ok(Some(lexopt::Arg::Long(name))) => {
                let name = name.to_owned();
                self.long(&name).map(Some)
            }
            Ok(Some(lexopt::Arg::Short(letter))) => self.short(letter).map(Some),
            Ok(Some(lexopt::Arg::Value(first))) => {
                let rest = self.words.raw_args().into_iter().flatten();
                Ok(Some(Word::Operands([first].into_iter().chain(rest).collect())))
            }
            Err(error) => Err(self.fail(&error.to_string())),
        }
    }

    fn long(&mut self, name: &str) -> Result<Word, Error> {
        let value = self.words.optional_value();
        let option = match options::by_prefix(name).as_slice() {
            [option] => *option,
            found => {
                let mut word = format!("--{name}");
                if let Some(value) = &value {
                    word.push('=');
                    word.push_str(&value.to_string_lossy());
                }
                return Err(self.unknown(&word, found));
            }
        };
        let shown = format!("--{}", option.long());
        match (&option.action, value) {
            (Action::Flag(_) | Action::Print(_), Some(_)) => {
                Err(self.fail(&format!("option '{shown}' doesn't allow an argument")))
            }
            (Action::Value(_), None) => {
                let value = self.words.value();
                let value =
                    value.map_err(|_| self.fail(&format!("option '{shown}' requires an argument")))?;
                Ok(Word::Option(option, shown, Some(value)))
            }
            (_, value) => Ok(Word::Option(option, shown, value)),
        }
    }

    fn short(&mut self, letter: char) -> Result<Word, Error> {
        let Some(option) = options::by_letter(letter) else {
            return Err(self.fail(&format!("invalid option -- '{letter}'")));
        };
        let value = match option.action {
            Action::Flag(_) | Action::Print(_) => None,
            Action::Value(_) => {
                let value = self.words.value();
                Some(value.map_err(|_| self.fail(&format!("option requires an argument -- '{letter}'")))?)
            }
        };
        Ok(Word::Option(option, format!("-{letter}"), value))
    }

    /// No option, or more than one, begins like `word`.
    fn unknown(&self, word: &str, found: &[&Opt]) -> Error {
        if found.is_empty() {
            return self.fail(&format!("unrecognized option '{word}'"));
        }
        let mut text = format!("option '{word}' is ambiguous; possibilities:");
        for option in found {
            // Writing to a string can't fail.
            let _ = write!(text, " '--{}'", option.long());
        }
        self.fail(&text)
    }

    fn fail(&self, message: &str) -> Error {
        Error::Getopt(format!("{}: {message}", self.name))
    }
}
