//! The engine of passt and pasta: translates between a layer-2 link to a guest and layer-4 sockets
//! of the host.
//!
//! A library. It knows no command line, no life of a process and no destination of a log, and asks
//! the host for nothing: what it needs is given to it.
//!
//! # What to make
//!
//! - A [`Link`](link::Link), over which the guest's frames come and go: [`tap`](link::tap) for a
//!   network namespace, [`stream`](link::stream) for a virtual machine, [`channel`](link::channel)
//!   in memory, or one of your own.
//! - [`EngineOptions`](worker::EngineOptions): what the guest is told of its network, which
//!   addresses mean something else on the other side, which protocols are on.
//! - For forwarded ports, [rules](forward::rule), and from these [listening
//!   sockets](forward::Forward).
//!
//! # What to call
//!
//! A [`Worker`](worker::Worker) is made of these. [`run`](worker::Worker::run) serves until the
//! link is gone or its caller wants an end; the caller's own descriptors and times come in as an
//! [`External`](worker::External). [`turn`](worker::Worker::turn) does one round at a time that the
//! caller gives, and does not wait: so tests run in virtual time.
//!
//! What can be asked and changed while it runs is a [`Control`](control::Control): flows, listed
//! and ended; rules of forwarded ports, changed by plan, apply and commit; counters, and how full
//! everything is. An [`External`](worker::External) is given one with each call, and
//! [`Worker::control`](worker::Worker::control) makes one.
//!
//! # What comes back
//!
//! [`run`](worker::Worker::run) returns why it ended, an [`Exit`](worker::Exit). Everything else
//! that happens concerns one frame or one flow: what is not served is counted with its reason
//! ([`Counters`](core::Counters)), and what users should know goes to the `log` crate. A
//! [`Capture`](core::Capture) is shown all frames.
//!
//! ```
//! use passt_engine::dispatch::Protocols;
//! use passt_engine::link::channel::Channel;
//! use passt_engine::worker::{EngineOptions, Worker};
//! use passt_proto::addr::Mac;
//! use passt_proto::responder::{Config, Services, V4};
//! use passt_proto::guest::Configured;
//! use passt_proto::time::Instant;
//!
//! let gateway = [192, 0, 2, 1].into();
//! let services = Config {
//!     our_mac: Mac([2, 0, 0, 0, 0, 1]),
//!     mtu: 1500,
//!     v4: Some(V4 {
//!         addr: [192, 0, 2, 2].into(),
//!         prefix_len: 24,
//!         gateway,
//!         our_addr: gateway,
//!         dns: Default::default(),
//!     }),
//!     v6: None,
//!     search: Default::default(),
//!     hostname: None,
//!     fqdn: None,
//!     services: Services::all(),
//!     custom: Default::default(),
//! };
//! let options = EngineOptions {
//!     services,
//!     leases: None,
//!     guest: Configured::default(),
//!     outbound: [None, None],
//!     protocols: Protocols { tcp: true, udp: true, icmp: true },
//!     max_flows: 256,
//!     secrets: [1, 2, 3, 4], // random, where it matters
//! };
//! let now = Instant::from_millis(0);
//! let mut worker = Worker::new(Channel::plain(), &options, now)?;
//! // The guest asks who has 192.0.2.1 (RFC 826).
//! let ends = [[2, 0, 0, 0, 0, 2, 192, 0, 2, 2], [0, 0, 0, 0, 0, 0, 192, 0, 2, 1]];
//! let request = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 2, 8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], ends.as_flattened()];
//! worker.context().core.link.from_guest.push_back(request.concat().into());
//! worker.turn(now)?;
//! let answer = worker.context().core.link.to_guest.iter().find(|frame| frame.bytes[21] == 2);
//! assert_eq!(answer.expect("an answer").bytes[22..32], [2, 0, 0, 0, 0, 1, 192, 0, 2, 1]);
//! assert_eq!(worker.context().core.counters.from_guest.frames, 1);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # How it is built
//!
//! The modules stand on floors, and know only what is below them: [`worker`], [`control`],
//! [`process`], [`dispatch`], [`protocols`], [`forward`], [`flow`], [`core`](mod@core), [`link`],
//! from the top.

pub mod control;
pub mod core;
pub mod dispatch;
pub mod flow;
pub mod forward;
pub mod link;
pub mod process;
pub mod protocols;
pub mod worker;

pub use crate::core::clock;
