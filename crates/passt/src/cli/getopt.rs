//! Words of a command line, the way `getopt_long` takes them.
//!
//! Tokens are lexopt's; added are abbreviations of long options, the end at the first operand where
//! there is one, and the messages of glibc, which programs that start us compare.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;

use super::advice;
use super::nearest::nearest;

/// What is known of an option before it means anything.
pub(super) trait Spec: 'static {
    /// Letter, long name and argument as the help shows them: `-m, --mtu MTU`, `--pid FILE`.
    fn names(&self) -> &'static str;

    /// Whether it takes an argument.
    fn takes_argument(&self) -> bool;

    /// Whether it prints something, and nothing behind it counts.
    fn prints(&self) -> bool;

    /// Its names, taken apart.
    fn name(&self) -> Name<'static> {
        Name::of(self.names(), self.prints())
    }

    /// The long name, without dashes.
    fn long(&self) -> &'static str {
        self.name().long
    }

    /// The letter.
    fn short(&self) -> Option<char> {
        self.name().letter
    }
}

/// One step through the command line.
pub(super) enum Word<S: Spec> {
    /// An option as the table has it, as it was given (abbreviations spelt out), its argument.
    Option(&'static S, String, Option<OsString>),
    /// One operand, behind which there may be options.
    Operand(OsString),
    /// The first operand and all that follows: the end.
    Operands(Vec<OsString>),
}

/// Where options may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Before the first operand.
    First,
    /// Anywhere.
    Any,
}

/// The command line, read from its beginning.
pub(super) struct Getopt<S: Spec> {
    name: String,
    words: lexopt::Parser,
    options: Vec<&'static S>,
    names: Vec<Name<'static>>,
    order: Order,
}

impl<S: Spec> Getopt<S> {
    /// Starts after the program's name, which messages begin with. Aliases are side by side in the
    /// table of options.
    pub(super) fn new(argv: Vec<OsString>, options: impl Iterator<Item = &'static S>, order: Order) -> Self {
        let name = argv.first().map(|name| name.to_string_lossy().into_owned());
        let mut words = lexopt::Parser::from_iter(argv);
        words.set_short_equals(false);
        let options: Vec<_> = options.collect();
        let names = options.iter().map(|option| option.name()).collect();
        Self { name: name.unwrap_or_default(), words, options, names, order }
    }

    /// The program's name as it was called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next option, or the operands; `None` at the end. A word that spells a long option with a
    /// single dash is refused: as letters it would be something that hardly anybody means, such as a
    /// control socket called `onfig-net`.
    pub(super) fn next(&mut self) -> Result<Option<Word<S>>, String> {
        // Each word is looked at where it begins; within one, its letters are left.
        let wrong = self.words.try_raw_args().and_then(|words| with_one_dash(words.peek()?, &self.names));
        let word = self.words.next();
        if let (Some(wrong), Ok(Some(lexopt::Arg::Short(_)))) = (wrong, &word) {
            return Err(self.fail(&wrong));
        }
        match word {
            Ok(None) => Ok(None),
            Ok(Some(lexopt::Arg::Long(name))) => {
                let name = name.to_owned();
                self.long(&name).map(Some)
            }
            Ok(Some(lexopt::Arg::Short(letter))) => self.short(letter).map(Some),
            Ok(Some(lexopt::Arg::Value(word))) if self.order == Order::Any => Ok(Some(Word::Operand(word))),
            Ok(Some(lexopt::Arg::Value(first))) => {
                let rest = self.words.raw_args().into_iter().flatten();
                Ok(Some(Word::Operands([first].into_iter().chain(rest).collect())))
            }
            Err(error) => Err(self.fail(&error.to_string())),
        }
    }

    fn long(&mut self, name: &str) -> Result<Word<S>, String> {
        let value = self.words.optional_value();
        let option = match self.by_prefix(name).as_slice() {
            [option] => *option,
            found => {
                let mut word = format!("--{name}");
                if let Some(value) = &value {
                    word.push('=');
                    word.push_str(&value.to_string_lossy());
                }
                return Err(self.unknown(name, &word, found));
            }
        };
        let shown = format!("--{}", option.long());
        match (option.takes_argument(), value) {
            (false, Some(_)) => Err(self.fail(&format!("option '{shown}' doesn't allow an argument"))),
            (true, None) => {
                let value = self.words.value();
                let value =
                    value.map_err(|_| self.fail(&format!("option '{shown}' requires an argument")))?;
                Ok(Word::Option(option, shown, Some(value)))
            }
            (_, value) => Ok(Word::Option(option, shown, value)),
        }
    }

    fn short(&mut self, letter: char) -> Result<Word<S>, String> {
        let option = self.options.iter().find(|option| option.short() == Some(letter)).copied();
        let Some(option) = option else {
            return Err(self.fail(&format!("invalid option -- '{letter}'")));
        };
        let value = if option.takes_argument() {
            let value = self.words.value();
            let missing = |_| self.fail(&format!("option requires an argument -- '{letter}'"));
            Some(value.map_err(missing)?)
        } else {
            // Other letters stay for the next step.
            None
        };
        Ok(Word::Option(option, format!("-{letter}"), value))
    }

    /// Options that a long name, perhaps abbreviated, can mean: one if it is clear. Aliases are one
    /// option by different names.
    fn by_prefix(&self, name: &str) -> Vec<&'static S> {
        if let Some(exact) = self.options.iter().find(|option| option.long() == name) {
            return vec![exact];
        }
        let begins = |option: &&&'static S| option.long().starts_with(name);
        let mut found: Vec<&'static S> = self.options.iter().filter(begins).copied().collect();
        found.dedup_by(|a, b| a.short().is_some() && a.short() == b.short());
        found
    }

    /// No option, or more than one, begins like `word`.
    fn unknown(&self, name: &str, word: &str, found: &[&S]) -> String {
        if found.is_empty() {
            let known: Vec<_> = self.names.iter().map(|name| name.long).collect();
            let near = nearest(name, &known);
            return self.fail(&format!("unrecognized option '{word}'{}", advice::meant(near)));
        }
        let mut text = format!("option '{word}' is ambiguous; possibilities:");
        for option in found {
            // Writing to a string can't fail.
            let _ = write!(text, " '--{}'", option.long());
        }
        self.fail(&text)
    }

    fn fail(&self, message: &str) -> String {
        format!("{}: {message}", self.name)
    }
}

/// What an option is called.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    letter: Option<char>,
    long: &'a str,
    takes_argument: bool,
    /// It prints something, and nothing behind it counts.
    prints: bool,
}

impl<'a> Name<'a> {
    /// Of an option that is shown as this: `-m, --mtu MTU`, `--pid FILE`.
    pub fn of(shown: &'a str, prints: bool) -> Self {
        let (_, long) = shown.split_once("--").unwrap_or_default();
        let (long, argument) = long.split_once([' ', '=']).unwrap_or((long, ""));
        let letter = shown.chars().nth(1).filter(|&letter| letter != '-');
        Self { letter, long, takes_argument: !argument.is_empty(), prints }
    }
}

/// What is wrong with a word that spells a long option, or its beginning, with a single dash. Nothing is
/// if it is of letters for flags alone, as `-fd`, or means the same, as `-help`.
pub fn with_one_dash(word: &OsStr, options: &[Name<'_>]) -> Option<String> {
    let word = word.to_str()?;
    let name = word.strip_prefix('-')?.split('=').next()?;
    let first = name.chars().next()?;
    let has_letters = options.iter().any(|option| option.letter.is_some());
    let by_letter = |letter| options.iter().find(|option| option.letter == Some(letter));
    let is_same = by_letter(first).is_some_and(|option| option.prints && option.long == name);
    let is_flag = |letter| by_letter(letter).is_some_and(|option| !option.takes_argument);
    if name.len() < 3 || is_same || name.chars().all(is_flag) {
        return None;
    }
    if has_letters && options.iter().any(|option| option.long == name) {
        return Some(advice::two_dashes(name));
    }
    let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let begun = plain(name);
    let meant = options.iter().map(|option| option.long);
    let meant = meant.filter(|long| long.starts_with(first)).find(|long| plain(long).starts_with(&begun));
    meant.map(|long| {
        if has_letters {
            advice::begun_with_one_dash(name, long)
        } else {
            advice::needs_two_dashes(name, long)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known(&'static str, bool);

    impl Spec for Known {
        fn names(&self) -> &'static str {
            self.0
        }

        fn takes_argument(&self) -> bool {
            self.1
        }

        fn prints(&self) -> bool {
            self.0.contains("help")
        }
    }

    const KNOWN: &[Known] = &[
        Known("-d, --debug", false),
        Known("-f, --foreground", false),
        Known("-m, --mtu MTU", true),
        Known("--map-gw ADDR", true),
        Known("-h, --help", false),
        Known("--host NAME", true),
    ];

    fn getopt<'a>(words: impl IntoIterator<Item = &'a str>) -> Getopt<Known> {
        let argv = ["program"].into_iter().chain(words).map(OsString::from).collect();
        Getopt::new(argv, KNOWN.iter(), Order::First)
    }

    /// A step costs no more where many words follow: to copy them at each would take an hour here.
    #[test]
    fn many_words() {
        const WORDS: usize = 200_000;
        for (word, options) in [("-d", 1), ("-dfd", 3), ("-fm5", 2), ("--mtu=5", 1)] {
            let mut words = getopt(std::iter::repeat_n(word, WORDS));
            let mut found = 0;
            while let Ok(Some(Word::Option(..))) = words.next() {
                found += 1;
            }
            assert_eq!(found, WORDS * options, "{word}");
        }
        // So does one of many letters.
        let letters = format!("-{}", "d".repeat(WORDS));
        let mut words = getopt([&*letters]);
        assert_eq!((0..=WORDS).filter(|_| matches!(words.next(), Ok(Some(_)))).count(), WORDS);
    }

    /// Words that spell a long option with a single dash, and those that don't.
    #[test]
    fn single_dashes() {
        for (words, refused) in [
            (
                &["-mtu"][..],
                Some("-mtu is several options of one letter: the long one is --mtu, with two dashes"),
            ),
            (&["-mtu=1"], Some("the long one is --mtu, with two dashes")),
            (&["-df", "-debug", "-mtu"], Some("the long one is --debug, with two dashes")),
            (
                &["-map"],
                Some("-map is several options of one letter: long ones have two dashes, as in --map-gw"),
            ),
            (&["-map_gw=1.1.1.1"], Some("as in --map-gw")),
            (&["-mapGW"], Some("as in --map-gw")),
            (&["-foreg"], Some("as in --foreground")),
            (&["-host", "x"], Some("the long one is --host, with two dashes")),
            (&["-help"], None),
            (&["-hel"], Some("as in --help")),
            (&["-Map"], None),
            (&["-ma"], None),
            (&["-m68"], None),
            (&["-m", "-debug"], None),
            (&["--mtu", "-debug"], None),
            (&["--", "-debug"], None),
            (&["-fdebug"], None),
            (&["-mdebug"], None),
            (&["-mtu1"], None),
        ] {
            let mut read = getopt(words.iter().copied());
            let mut told = None;
            for _ in 0..10 {
                match read.next() {
                    Ok(None | Some(Word::Operands(_))) => break,
                    Err(error) if error.contains("two dashes") => told = told.or(Some(error)),
                    // A letter that is none is passed over.
                    _ => {}
                }
            }
            let told = told.unwrap_or_default();
            assert_eq!(told.is_empty(), refused.is_none(), "{words:?}: {told}");
            assert!(told.ends_with(refused.unwrap_or_default()), "{words:?}: {told}");
        }
    }
}
