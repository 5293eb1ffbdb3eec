//! Counters in the text format of Prometheus, printed once or served by HTTP.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::anyhow;
use passt::cli::is_hidden;
use passt_control::client::Client;
use passt_control::reply::{Answer, Counters, Hello};
use passt_control::request::Request;
use passt_tools::connect::{plainly, unexpected};
use passt_tools::visible::{TEXT, cut, line, tell};
use tiny_http::{Header, Response, Server};

/// The counters of a server.
pub(crate) fn text(server: &mut Client) -> anyhow::Result<String> {
    let (Answer::Hello(hello), Answer::Counters(counters)) =
        (server.ask(Request::Hello)?, server.ask(Request::Counters)?)
    else {
        return Err(unexpected().into());
    };
    Ok(write(&hello, &counters))
}

/// Serves the counters at an address until this process is ended.
pub(crate) fn serve(path: &Path, address: SocketAddr) -> anyhow::Result<()> {
    let server = Server::http(address).map_err(|error| anyhow!("Couldn't listen on {address}: {error}"))?;
    tell(format_args!("Metrics at http://{}/metrics", server.server_addr()));
    for request in server.incoming_requests() {
        let url = request.url();
        let is_known = matches!(url.split_once('?').map_or(url, |(path, _)| path), "/" | "/metrics");
        let text = if is_known {
            let client = super::connect(path).and_then(super::speak);
            Some(client.and_then(|mut client| text(&mut client)).map_err(|error| plainly(path, error)))
        } else {
            None
        };
        // Who asked may be gone by now.
        let _ = match text {
            Some(Ok(text)) => {
                let kind = Header::from_bytes("Content-Type", "text/plain; version=0.0.4");
                let response = Response::from_string(text);
                request.respond(kind.into_iter().fold(response, Response::with_header))
            }
            Some(Err(error)) => request
                .respond(Response::from_string(line(format_args!("{error:#}")) + "\n").with_status_code(503)),
            None => request.respond(Response::from_string("Not found: see /metrics\n").with_status_code(404)),
        };
    }
    Ok(())
}

/// Text that grows by one metric at a time.
struct Metrics(String);

impl Metrics {
    /// Begins a metric: its name, `counter` or `gauge`, and what it is.
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A value of it, with labels.
    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    /// A metric with one value.
    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.value(name, &[], value);
    }
}

/// A label's value as the format wants it. What is hidden has no escape there, and is told as `?`:
/// the text may be printed on a terminal. No label is longer than any that is meant.
fn escape(value: &str) -> String {
    let mut value = value.to_owned();
    cut(&mut value, TEXT);
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    value.replace(is_hidden, "?")
}

fn write(hello: &Hello, counters: &Counters) -> String {
    let mut to = Metrics(String::new());
    to.begin("passt_info", "gauge", "Program, version and kind of link; always 1.");
    let labels = [("program", &*hello.program), ("version", &hello.version), ("link", &hello.link)];
    to.value("passt_info", &labels, 1);
    let uptime = counters.uptime_ms;
    let seconds = format!("{}.{:03}", uptime / 1000, uptime % 1000);
    to.one("passt_uptime_seconds", "gauge", "Time since the program began to serve.", seconds);
    let (from, into) = ([("direction", "from_guest")], [("direction", "to_guest")]);
    to.begin("passt_link_frames_total", "counter", "Frames on the guest's link; a super-frame is one.");
    to.value("passt_link_frames_total", &from, counters.from_guest_frames);
    to.value("passt_link_frames_total", &into, counters.to_guest_frames);
    to.begin("passt_link_bytes_total", "counter", "Bytes of these frames, Ethernet headers included.");
    to.value("passt_link_bytes_total", &from, counters.from_guest_bytes);
    to.value("passt_link_bytes_total", &into, counters.to_guest_bytes);
    to.one("passt_flows_total", "counter", "Flows begun.", counters.flows_begun);
    let help = "TCP segments sent to the guest again.";
    to.one("passt_tcp_retransmitted_segments_total", "counter", help, counters.retransmitted);
    to.one("passt_loop_rounds_total", "counter", "Rounds of the event loop.", counters.rounds);
    if let (Some(kicks), Some(interrupts)) = (counters.kicks, counters.interrupts) {
        let name = "passt_queue_notifications_total";
        to.begin(name, "counter", "Notifications of the queues that are shared with the guest.");
        to.value(name, &[("kind", "kick")], kicks);
        to.value(name, &[("kind", "interrupt")], interrupts);
    }
    to.begin("passt_dropped_total", "counter", "What was not served, by reason.");
    for drop in &counters.drops {
        to.value("passt_dropped_total", &[("reason", &drop.reason)], drop.count);
    }
    let help = "Frames that the recording lacks.";
    to.one("passt_capture_lost_frames_total", "counter", help, counters.not_recorded);
    to.begin("passt_resource_used", "gauge", "How much is in use of what is bounded.");
    for (name, level) in &counters.levels {
        to.value("passt_resource_used", &[("resource", name)], level.used);
    }
    to.begin("passt_resource_limit", "gauge", "How much there is of it.");
    for (name, level) in &counters.levels {
        to.value("passt_resource_limit", &[("resource", name)], level.of);
    }
    to.one("passt_listeners", "gauge", "Sockets that listen.", counters.listeners);
    let help = "Sockets that listen, whose clients wait for room.";
    to.one("passt_listeners_waiting", "gauge", help, counters.listeners_waiting);
    to.one("passt_memory_bytes", "gauge", "Memory in use beside what was reserved.", counters.memory);
    to.one("passt_control_clients", "gauge", "Clients of the control socket.", counters.clients);
    to.0
}

#[cfg(test)]
mod tests {
    use passt_control::reply::{Drop, Level};

    use super::*;

    #[test]
    fn labels_of_a_hostile_server() {
        let label = "a\u{1b}[2J\u{7}\r\u{7f}\u{9b}\u{202e}\u{2069}\u{200f}\u{2029}\n\"\\ö";
        assert_eq!(escape(label), "a?[2J????????\\n\\\"\\\\ö");
        assert_eq!(escape(&"a".repeat(250_000)).chars().count(), TEXT);
    }

    #[test]
    fn text_of_counters() {
        let hello =
            Hello { program: "pasta".into(), version: "1\"".into(), link: "tap".into(), uptime_ms: 1 };
        let drop = Drop { reason: "no-flow".into(), meaning: String::new(), count: 3 };
        let levels = vec![("flows".to_owned(), Level { used: 1, of: 2 })];
        let counters = Counters { uptime_ms: 1005, drops: vec![drop], levels, ..Counters::default() };
        let text = write(&hello, &counters);
        for line in [
            "passt_info{program=\"pasta\",version=\"1\\\"\",link=\"tap\"} 1",
            "passt_uptime_seconds 1.005",
            "# TYPE passt_link_bytes_total counter",
            "passt_dropped_total{reason=\"no-flow\"} 3",
            "passt_resource_limit{resource=\"flows\"} 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
        // Every value belongs to a metric that was begun.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().expect("a name");
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }
}
