//! A client that waits for each answer: for programs that have nothing else to do.
//!
//! Whoever made the socket may be anybody, so what a server says is bounded: how long a greeting and
//! an answer take as a whole, how many pages there are, and how many events come before an answer.

#![expect(clippy::disallowed_methods, reason = "who waits lives in real time")]

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::frame;
use crate::reply::{self, Answer, Event, Failure, RuleNow};
use crate::request::{self, Carried, Page, Request};
use crate::v2::{self, Greeting};

/// How long a server may take for a greeting or an answer, where nothing else was said.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Elements of all pages of a list at most: more than there can be flows or rules.
pub const MAX_ELEMENTS: usize = 1 << 18;
/// Bytes of events that wait for [`Client::event`] at most.
const MAX_WAITING: usize = 1 << 20;

/// What a flow has carried: its name in two numbers, bytes out, bytes in.
pub type CarriedBy = (u32, u32, u64, u64);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no such socket, or of another version.
    #[error(transparent)]
    Greeting(#[from] v2::Error),
    /// The server speaks in another way.
    #[error("Unexpected message from the server: {0}")]
    Unexpected(String),
    /// The server has ended.
    #[error("The server has closed the connection")]
    Closed,
    /// The server doesn't do what it was asked for.
    #[error(transparent)]
    Failure(#[from] Failure),
}

/// A connection to a server that has said what its rules are.
#[derive(Debug)]
pub struct Greeted {
    socket: UnixStream,
    greeting: Greeting,
    rest: Vec<u8>,
    patience: Duration,
}

/// A connection on which both sides speak in frames.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    input: Vec<u8>,
    /// Events that came before an answer, each with the bytes of its frame.
    events: VecDeque<(Event, usize)>,
    next: u64,
    patience: Duration,
}

impl Greeted {
    /// Connects, and reads the greeting. This waits for a server that accepts no more connections;
    /// whoever must not do that connects first, and then uses [`Greeted::over`].
    pub fn connect(path: &Path) -> Result<Self, Error> {
        Self::over(UnixStream::connect(path)?, PATIENCE)
    }

    /// Reads the greeting from a socket that is connected. The greeting, and later each answer, may
    /// take so long as a whole.
    pub fn over(mut socket: UnixStream, patience: Duration) -> Result<Self, Error> {
        let limit = Limit::of(patience);
        let mut bytes = Vec::new();
        loop {
            if let Some((greeting, length)) = Greeting::decode(&bytes)? {
                let rest = bytes.split_off(length);
                return Ok(Self { socket, greeting, rest, patience });
            }
            read_some(&mut socket, &mut bytes, Some(limit))?;
        }
    }

    /// What the server's rules were when it accepted the connection.
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Speaks in frames from now on, if the server does.
    pub fn speak(mut self) -> Result<Client, Error> {
        if !self.greeting.has_messages() {
            return Err(Error::Unexpected("it is the C program's".into()));
        }
        write(&mut self.socket, &frame::HELLO, Limit::of(self.patience))?;
        let Self { socket, rest, patience, .. } = self;
        Ok(Client { socket, input: rest, events: VecDeque::new(), next: 1, patience })
    }

    /// Replaces tables by those that are [encoded](v2::encode_tables), and waits until the server
    /// closes the connection: by then they are in effect, as far as they can be.
    pub fn replace(mut self, tables: &[u8]) -> Result<(), Error> {
        let limit = Limit::of(self.patience);
        write(&mut self.socket, tables, limit)?;
        self.socket.shutdown(Shutdown::Write)?;
        match read_some(&mut self.socket, &mut Vec::new(), Some(limit)) {
            // A server that closes while there is something that it has not read resets.
            Err(Error::Closed) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::Unexpected("it says more than its greeting".into())),
        }
    }
}

impl Client {
    /// Connects to a server that speaks in frames, as [`Greeted::connect`] does.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        Greeted::connect(path)?.speak()
    }

    /// Asks for something, and waits for the answer.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        self.ask_within(request, Limit::of(self.patience))
    }

    fn ask_within(&mut self, request: Request, limit: Limit) -> Result<Answer, Error> {
        let id = self.next;
        self.next += 1;
        let mut bytes = Vec::new();
        let message = request::Message { id, request };
        frame::append(&mut bytes, &message).map_err(|error| Error::Unexpected(error.to_string()))?;
        write(&mut self.socket, &bytes, limit)?;
        loop {
            match self.receive_within(Some(limit))? {
                (reply::Message::Event { event }, length) => self.keep(event, length)?,
                (reply::Message::Reply { id: of, answer }, _) if of == id => return Ok(answer),
                (reply::Message::Failure { error, .. }, _) => return Err(error.into()),
                (other @ reply::Message::Reply { .. }, _) => {
                    return Err(Error::Unexpected(format!("{other:?}")));
                }
            }
        }
    }

    /// Keeps an event for [`Client::event`], if there is room.
    fn keep(&mut self, event: Event, length: usize) -> Result<(), Error> {
        let waiting: usize = self.events.iter().map(|(_, length)| length).sum();
        if waiting + length > MAX_WAITING {
            return Err(Error::Unexpected(format!("more than {MAX_WAITING} bytes of events")));
        }
        self.events.push_back((event, length));
        Ok(())
    }

    /// All rules, as many pages as that takes.
    pub fn rules(&mut self) -> Result<Vec<RuleNow>, Error> {
        let request = |from| Request::Rules(Page { from, most: None });
        self.pages(request, |answer| match answer {
            Answer::Rules(page) => Ok((page.rules, page.next)),
            other => Err(other),
        })
    }

    /// What each flow has carried, as many pages as that takes; only flows that have carried
    /// something `within_ms`, as in [`Carried`].
    pub fn carried(&mut self, within_ms: Option<u32>) -> Result<Vec<CarriedBy>, Error> {
        let request = |from| Request::Carried(Carried { from, most: None, within_ms });
        self.pages(request, |answer| match answer {
            Answer::Carried(page) => Ok((page.flows, page.next)),
            other => Err(other),
        })
    }

    /// The elements of all pages, each page asked for by where it begins. They take no longer than
    /// one answer may.
    fn pages<T>(
        &mut self,
        request: impl Fn(u32) -> Request,
        page: impl Fn(Answer) -> Result<(Vec<T>, Option<u32>), Answer>,
    ) -> Result<Vec<T>, Error> {
        let limit = Limit::of(self.patience);
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let answer = self.ask_within(request(from), limit)?;
            let (elements, next) = page(answer).map_err(|other| Error::Unexpected(format!("{other:?}")))?;
            all.extend(elements);
            if all.len() > MAX_ELEMENTS {
                return Err(Error::Unexpected(format!("a list of more than {MAX_ELEMENTS} elements")));
            }
            match next {
                None => return Ok(all),
                Some(next) if next > from => from = next,
                Some(next) => {
                    return Err(Error::Unexpected(format!("a page from {next} behind one from {from}")));
                }
            }
        }
    }

    /// The next event that was asked for; it may be a long time until there is one.
    pub fn event(&mut self) -> Result<Event, Error> {
        if let Some((event, _)) = self.events.pop_front() {
            return Ok(event);
        }
        match self.receive_within(None)? {
            (reply::Message::Event { event }, _) => Ok(event),
            (other, _) => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    /// The socket, to send what [`Client::ask`] can't.
    pub fn socket(&mut self) -> &mut UnixStream {
        &mut self.socket
    }

    /// The next message.
    pub fn receive(&mut self) -> Result<reply::Message, Error> {
        Ok(self.receive_within(Some(Limit::of(self.patience)))?.0)
    }

    /// The next message, and the bytes of its frame.
    fn receive_within(&mut self, limit: Option<Limit>) -> Result<(reply::Message, usize), Error> {
        loop {
            let first = frame::first(&self.input, frame::MAX_REPLY);
            if let Some((json, length)) = first.map_err(|error| Error::Unexpected(error.to_string()))? {
                let message = serde_json::from_slice(json);
                // An event of a newer server's, which nobody here waits for.
                let is_unknown = message.is_err() && serde_json::from_slice::<OtherEvent>(json).is_ok();
                self.input.drain(..length);
                match message {
                    Ok(message) => return Ok((message, length)),
                    Err(error) if !is_unknown => return Err(Error::Unexpected(error.to_string())),
                    Err(_) => continue,
                }
            }
            read_some(&mut self.socket, &mut self.input, limit)?;
        }
    }
}

/// An event, whatever it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OtherEvent {
    #[serde(rename = "event")]
    _event: IgnoredAny,
}

/// Until when something has to be done.
#[derive(Clone, Copy)]
struct Limit {
    begun: Instant,
    patience: Duration,
}

impl Limit {
    /// So long from now on.
    fn of(patience: Duration) -> Self {
        Self { begun: Instant::now(), patience }
    }

    /// What is left of the time.
    fn rest(self) -> Result<Duration, Error> {
        let rest = self.patience.saturating_sub(self.begun.elapsed());
        if rest.is_zero() { Err(self.is_over()) } else { Ok(rest) }
    }

    fn is_over(self) -> Error {
        Error::Unexpected(format!("none in {} s", self.patience.as_secs_f32()))
    }
}

/// Writes all of it within a limit.
fn write(socket: &mut UnixStream, mut bytes: &[u8], limit: Limit) -> Result<(), Error> {
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(limit.rest()?))?;
        match socket.write(bytes) {
            Ok(0) => return Err(Error::Closed),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(limit.is_over()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(Error::Closed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads what there is, and waits for that until the limit, or for ever.
fn read_some(socket: &mut UnixStream, into: &mut Vec<u8>, limit: Option<Limit>) -> Result<(), Error> {
    let mut bytes = [0; 1 << 14];
    let length = loop {
        socket.set_read_timeout(limit.map(Limit::rest).transpose()?)?;
        match (socket.read(&mut bytes), limit) {
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
            (Err(error), Some(limit)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(limit.is_over());
            }
            (Err(error), _) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Error::Closed),
            (outcome, _) => break outcome?,
        }
    };
    if length == 0 {
        return Err(Error::Closed);
    }
    into.extend(bytes.get(..length).unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread::{self, JoinHandle};

    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::rule::tests::rule;
    use crate::v2::{Caps, Table};
    use crate::{Side, reply::Message};

    fn greeting() -> Vec<u8> {
        let caps = Caps::V4 | Caps::TCP | Caps::MESSAGES;
        let table = Table { side: Side::Host, name: "HOST".into(), caps, rules: Some(Vec::new()) };
        Greeting { tables: vec![table] }.encode()
    }

    /// A client of a server that answers each request with these messages.
    fn against<M: Serialize>(answer: impl Fn(request::Message) -> Vec<M> + Send + 'static) -> Client {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        thread::spawn(move || {
            theirs.write_all(&greeting())?;
            theirs.read_exact(&mut [0; 8])?;
            loop {
                let mut header = [0; 4];
                theirs.read_exact(&mut header)?;
                let mut json = vec![0; usize::try_from(u32::from_be_bytes(header)).expect("a length")];
                theirs.read_exact(&mut json)?;
                for message in answer(serde_json::from_slice(&json)?) {
                    let mut bytes = Vec::new();
                    frame::append(&mut bytes, &message)?;
                    theirs.write_all(&bytes)?;
                }
            }
            #[expect(unreachable_code, reason = "the type of the errors")]
            Ok::<(), io::Error>(())
        });
        let greeted = Greeted::over(ours, Duration::from_secs(20)).expect("a greeting");
        greeted.speak().expect("messages")
    }

    /// What a newer server says is passed over where nobody asked for it, and understood as far as it is
    /// known where somebody did.
    #[test]
    fn a_newer_server() {
        let mut client = against(|message| {
            let done = json!({ "id": message.id, "answer": "done" });
            match message.request {
                Request::Events => {
                    vec![json!({ "event": "rested" }), json!({ "event": { "moved": { "to": [1] } } }), done]
                }
                _ => vec![
                    json!({ "id": message.id, "error": { "code": "weary", "message": "later", "at": 1 } }),
                ],
            }
        });
        assert!(matches!(client.ask(Request::Events), Ok(Answer::Done)));
        let Err(Error::Failure(failure)) = client.ask(Request::Guest) else { panic!("no failure") };
        assert_eq!((failure.code, failure.message.as_str()), (reply::Code::Unknown, "later"));
        let mut client = against(|_| vec![json!({ "event": 1, "answer": "done" })]);
        assert!(matches!(client.ask(Request::Events), Err(Error::Unexpected(_))));
    }

    /// What a list is whose page from `from` says that there is another.
    fn pages(next: fn(u32) -> Option<u32>, count: usize) -> [Result<usize, String>; 2] {
        let mut client = against(move |message| {
            let answer = match message.request {
                Request::Rules(Page { from, .. }) => Answer::Rules(reply::Rules {
                    rules: vec![RuleNow { rule: rule(1, 1), sockets: 0 }; count],
                    next: next(from),
                }),
                Request::Carried(Carried { from, .. }) => {
                    Answer::Carried(reply::Carried { flows: vec![(1, 1, 1, 1); count], next: next(from) })
                }
                _ => Answer::Done,
            };
            vec![Message::Reply { id: message.id, answer }]
        });
        let rules = client.rules().map(|all| all.len()).map_err(|error| error.to_string());
        [rules, client.carried(None).map(|all| all.len()).map_err(|error| error.to_string())]
    }

    #[test]
    fn pages_come_to_an_end() {
        assert_eq!(pages(|from| (from < 4).then_some(from + 2), 2), [Ok(6), Ok(6)]);
        for next in [|_| Some(0), |from: u32| Some(from.max(1)), |from: u32| Some(7 - from)] {
            for outcome in pages(next, 1) {
                let error = outcome.expect_err("no end");
                assert!(error.contains("a page from "), "{error}");
            }
        }
        for outcome in pages(|from| Some(from + 1), 2000) {
            assert!(outcome.expect_err("no end").contains("a list of more than"));
        }
    }

    #[test]
    fn events_before_an_answer_are_bounded() {
        let events = |count| vec![Message::Event { event: Event::GuestCame }; count];
        let mut client = against(move |message| {
            let answer = Message::Reply { id: message.id, answer: Answer::Done };
            events(if message.id == 1 { 100 } else { 50_000 }).into_iter().chain([answer]).collect()
        });
        assert_eq!(client.ask(Request::Events).expect("an answer"), Answer::Done);
        assert_eq!(client.event().expect("an event"), Event::GuestCame);
        let error = client.ask(Request::Hello).expect_err("too many");
        assert!(error.to_string().contains("bytes of events"), "{error}");
    }

    /// Sends bytes one by one, slower than any limit of a test.
    fn trickle(mut socket: UnixStream, bytes: Vec<u8>) -> JoinHandle<()> {
        thread::spawn(move || {
            for byte in bytes {
                if socket.write_all(&[byte]).is_err() {
                    break;
                }
                thread::sleep(Duration::from_millis(50));
            }
        })
    }

    #[test]
    fn limits_hold_for_all_of_a_greeting_and_of_an_answer() {
        let patience = Duration::from_millis(400);
        let begun = Instant::now();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        trickle(theirs, greeting());
        let error = Greeted::over(ours, patience).expect_err("slow");
        assert!(error.to_string().contains("none in 0.4 s"), "{error}");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&greeting()).expect("room");
        let mut client = Greeted::over(ours, patience).expect("a greeting").speak().expect("messages");
        let mut bytes = Vec::new();
        let error = reply::Failure::new(reply::Code::Busy, "x".repeat(400));
        frame::append(&mut bytes, &Message::Failure { id: 1, error }).expect("text");
        trickle(theirs, bytes);
        let error = client.ask(Request::Hello).expect_err("slow");
        assert!(error.to_string().contains("none in 0.4 s"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    /// A server that reads nothing holds nobody up either.
    #[test]
    fn limits_hold_for_requests() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&greeting()).expect("room");
        let greeted = Greeted::over(ours, Duration::from_millis(200)).expect("a greeting");
        let error = greeted.replace(&vec![0; 1 << 22]).expect_err("nobody reads");
        assert!(error.to_string().contains("none in 0.2 s"), "{error}");
    }

    /// Events have no limit.
    #[test]
    fn events_are_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(&greeting()).expect("room");
        let greeted = Greeted::over(ours, Duration::from_millis(100)).expect("a greeting");
        let mut client = greeted.speak().expect("messages");
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &Message::Event { event: Event::GuestLeft }).expect("text");
        trickle(theirs, bytes);
        assert_eq!(client.event().expect("an event"), Event::GuestLeft);
    }
}
