//! A client that waits for each answer: for programs that have nothing else to do.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::frame;
use crate::reply::{self, Answer, Event, Failure, RuleNow};
use crate::request::{self, Page, Request};
use crate::v2::{self, Greeting};

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

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
}

/// A connection on which both sides speak in frames.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    input: Vec<u8>,
    events: VecDeque<Event>,
    next: u64,
}

impl Greeted {
    /// Connects, and reads the greeting.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Self::over(socket)
    }

    /// Reads the greeting from a socket that is connected.
    pub fn over(mut socket: UnixStream) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        loop {
            if let Some((greeting, length)) = Greeting::decode(&bytes)? {
                let rest = bytes.split_off(length);
                return Ok(Self { socket, greeting, rest });
            }
            read_some(&mut socket, &mut bytes)?;
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
        self.socket.write_all(&frame::HELLO)?;
        Ok(Client { socket: self.socket, input: self.rest, events: VecDeque::new(), next: 1 })
    }

    /// Replaces tables by those that are [encoded](v2::encode_tables), and waits until the server
    /// closes the connection: by then they are in effect, as far as they can be.
    pub fn replace(mut self, tables: &[u8]) -> Result<(), Error> {
        self.socket.write_all(tables)?;
        self.socket.shutdown(Shutdown::Write)?;
        match read_some(&mut self.socket, &mut Vec::new()) {
            // A server that closes while there is something that it has not read resets.
            Err(Error::Closed) => Ok(()),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::Unexpected("it says more than its greeting".into())),
        }
    }
}

impl Client {
    /// Waits for answers at most so long from now on.
    pub fn wait_at_most(&self, patience: Duration) -> Result<(), Error> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.set_write_timeout(Some(patience))?;
        Ok(())
    }

    /// Connects to a server that speaks in frames.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        Greeted::connect(path)?.speak()
    }

    /// Asks for something, and waits for the answer.
    pub fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        let id = self.next;
        self.next += 1;
        let mut bytes = Vec::new();
        let message = request::Message { id, request };
        frame::append(&mut bytes, &message).map_err(|error| Error::Unexpected(error.to_string()))?;
        self.socket.write_all(&bytes)?;
        loop {
            match self.receive()? {
                reply::Message::Event { event } => self.events.push_back(event),
                reply::Message::Reply { id: of, answer } if of == id => return Ok(answer),
                reply::Message::Failure { error, .. } => return Err(error.into()),
                other @ reply::Message::Reply { .. } => {
                    return Err(Error::Unexpected(format!("{other:?}")));
                }
            }
        }
    }

    /// All rules, as many pages as that takes.
    pub fn rules(&mut self) -> Result<Vec<RuleNow>, Error> {
        let (mut rules, mut from) = (Vec::new(), Some(0));
        while let Some(next) = from {
            match self.ask(Request::Rules(Page { from: next, most: None }))? {
                Answer::Rules(page) => {
                    rules.extend(page.rules);
                    from = page.next;
                }
                other => return Err(Error::Unexpected(format!("{other:?}"))),
            }
        }
        Ok(rules)
    }

    /// The next event that was asked for; it may be a long time until there is one.
    pub fn event(&mut self) -> Result<Event, Error> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        self.socket.set_read_timeout(None)?;
        let message = self.receive();
        self.socket.set_read_timeout(Some(PATIENCE))?;
        match message? {
            reply::Message::Event { event } => Ok(event),
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    /// The socket, to send what [`Client::ask`] can't.
    pub fn socket(&mut self) -> &mut UnixStream {
        &mut self.socket
    }

    /// The next message.
    pub fn receive(&mut self) -> Result<reply::Message, Error> {
        loop {
            let first = frame::first(&self.input, frame::MAX_REPLY);
            if let Some((json, length)) = first.map_err(|error| Error::Unexpected(error.to_string()))? {
                let message = serde_json::from_slice(json);
                self.input.drain(..length);
                return message.map_err(|error| Error::Unexpected(error.to_string()));
            }
            read_some(&mut self.socket, &mut self.input)?;
        }
    }
}

fn read_some(socket: &mut UnixStream, into: &mut Vec<u8>) -> Result<(), Error> {
    let mut bytes = [0; 1 << 14];
    let length = loop {
        match socket.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::Unexpected(format!("none in {} s", PATIENCE.as_secs())));
            }
            outcome => break outcome?,
        }
    };
    if length == 0 {
        return Err(Error::Closed);
    }
    into.extend(bytes.get(..length).unwrap_or_default());
    Ok(())
}
