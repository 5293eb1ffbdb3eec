//! What is known of an instance: asked for once an interval, and compared with the time before.

#![expect(clippy::disallowed_methods, reason = "who looks lives in real time")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use passt_control::Protocol;
use passt_control::client::{Client, MAX_ELEMENTS};
use passt_control::reply::{Answer, Counters, Flow, Guest, Hello, RuleNow};
use passt_control::request::{Names, Request};
use passt_tools::connect::unexpected;
use passt_tools::visible::{TEXT, cut};
use serde::Serialize;

/// Rates that are remembered.
const HISTORY: usize = 120;
/// Flows that are described at most: those with the highest rates.
const DESCRIBED: usize = 256;
/// How much longer ago than the last sample a flow may have carried something that is new.
const MARGIN: Duration = Duration::from_secs(1);
/// How long is looked for flows to describe, where many have ended.
const SEARCH: Duration = Duration::from_secs(1);
/// Users of all ports that are named at most.
const NAMED: usize = 4096;

/// An instance that is watched.
#[derive(Debug)]
pub(crate) struct Monitor {
    client: Client,
    /// Bytes that each flow had carried, out and in.
    before: HashMap<(u32, u32), (u64, u64)>,
    counters: Option<(Instant, Counters)>,
    history: [VecDeque<u64>; 2],
}

/// What was seen at one time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) hello: Hello,
    /// Seconds since the time before.
    pub(crate) interval: f64,
    /// Bytes a second from the guest and to it.
    pub(crate) rate_out: u64,
    pub(crate) rate_in: u64,
    /// Frames a second.
    pub(crate) frames_out: u64,
    pub(crate) frames_in: u64,
    /// All flows that there are.
    pub(crate) flow_count: usize,
    /// The busiest of them.
    pub(crate) flows: Vec<FlowNow>,
    pub(crate) ports: Vec<PortNow>,
    pub(crate) counters: Counters,
    /// Reasons to drop, how often in all, and a second.
    pub(crate) drops: Vec<DropNow>,
    pub(crate) guest: Guest,
    /// Bytes a second from the guest and to it, the latest last.
    #[serde(skip)]
    pub(crate) history: [VecDeque<u64>; 2],
}

/// A flow, and its rates in bytes a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FlowNow {
    #[serde(flatten)]
    pub(crate) flow: Flow,
    pub(crate) rate_out: u64,
    pub(crate) rate_in: u64,
}

/// A rule, and how many flows use it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PortNow {
    #[serde(flatten)]
    pub(crate) rule: RuleNow,
    pub(crate) users: Vec<String>,
}

/// A reason to drop.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DropNow {
    pub(crate) reason: String,
    pub(crate) meaning: String,
    pub(crate) count: u64,
    pub(crate) rate: f64,
}

impl Monitor {
    /// Begins to watch.
    pub(crate) fn new(mut client: Client) -> anyhow::Result<Self> {
        let Answer::Hello(_) = client.ask(Request::Hello)? else { return Err(unexpected().into()) };
        let history = [VecDeque::new(), VecDeque::new()];
        Ok(Self { client, before: HashMap::new(), counters: None, history })
    }

    /// Looks again.
    pub(crate) fn look(&mut self) -> anyhow::Result<Sample> {
        let Answer::Hello(hello) = self.client.ask(Request::Hello)? else { return Err(unexpected().into()) };
        let Answer::Counters(mut counters) = self.client.ask(Request::Counters)? else {
            return Err(unexpected().into());
        };
        bound_counters(&mut counters);
        let now = Instant::now();
        let (passed, before) = match self.counters.take() {
            Some((at, before)) => (now.duration_since(at), before),
            None => (Duration::ZERO, (*counters).clone()),
        };
        let interval = passed.as_secs_f64();
        let flow_count = counters.levels.iter().find(|(name, _)| name == "flows");
        let flow_count = flow_count.map_or(0, |(_, level)| usize::try_from(level.used).unwrap_or(usize::MAX));
        // Names of flows that have ended do not come again.
        let is_all = self.before.is_empty() || self.before.len() > flow_count.min(MAX_ELEMENTS) + DESCRIBED;
        let carried = self.carried((!is_all).then_some(passed + MARGIN))?;
        let mut rates: Vec<_> = carried
            .iter()
            .map(|(name, (out, inward))| {
                let (out_before, in_before) = self.before.get(name).copied().unwrap_or((*out, *inward));
                (*name, rate(out_before, *out, interval), rate(in_before, *inward, interval))
            })
            .collect();
        // Others have carried as much as before.
        let silent = self.before.keys().filter(|name| !is_all && !carried.contains_key(name));
        rates.extend(silent.map(|name| (*name, 0, 0)));
        if is_all {
            self.before.clear();
        }
        self.before.extend(carried);
        rates.sort_by_key(|(name, out, inward)| (std::cmp::Reverse(out.saturating_add(*inward)), *name));
        let flows = self.describe_first(&rates)?;
        let ports = ports(self.client.rules()?, &flows);
        let Answer::Guest(guest) = self.client.ask(Request::Guest)? else { return Err(unexpected().into()) };
        let of = |before, now| rate(before, now, interval);
        let [rate_out, rate_in] = [
            of(before.from_guest_bytes, counters.from_guest_bytes),
            of(before.to_guest_bytes, counters.to_guest_bytes),
        ];
        for (history, rate) in self.history.iter_mut().zip([rate_out, rate_in]) {
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back(rate);
        }
        let sample = Sample {
            hello: bound_hello(hello),
            interval,
            rate_out,
            rate_in,
            frames_out: of(before.from_guest_frames, counters.from_guest_frames),
            frames_in: of(before.to_guest_frames, counters.to_guest_frames),
            flow_count,
            flows,
            ports,
            drops: drops(&before, &counters, interval),
            counters: (*counters).clone(),
            guest: bound_guest(*guest),
            history: self.history.clone(),
        };
        self.counters = Some((now, *counters));
        Ok(sample)
    }

    /// What each flow has carried so far, of all, or those that have carried something `within` some
    /// time.
    fn carried(&mut self, within: Option<Duration>) -> anyhow::Result<HashMap<(u32, u32), (u64, u64)>> {
        let within_ms = within.map(|within| u32::try_from(within.as_millis()).unwrap_or(u32::MAX));
        let flows = self.client.carried(within_ms)?.into_iter();
        Ok(flows.map(|(index, generation, out, inward)| ((index, generation), (out, inward))).collect())
    }

    /// The first of these flows, without those that have ended, which are forgotten.
    fn describe_first(&mut self, rates: &[((u32, u32), u64, u64)]) -> anyhow::Result<Vec<FlowNow>> {
        let (mut all, begun) = (Vec::new(), Instant::now());
        // Those that are left out are found at the next look.
        for part in rates.chunks(DESCRIBED).take_while(|_| begun.elapsed() < SEARCH) {
            let flows = self.describe(part)?;
            let there: HashSet<&str> = flows.iter().map(|flow| flow.flow.flow.as_str()).collect();
            for (name, ..) in part.iter().filter(|(name, ..)| !there.contains(name_of(*name).as_str())) {
                self.before.remove(name);
            }
            let is_complete = flows.len() == part.len();
            all.extend(flows);
            if is_complete || all.len() >= DESCRIBED {
                break;
            }
        }
        all.truncate(DESCRIBED);
        Ok(all)
    }

    fn describe(&mut self, rates: &[((u32, u32), u64, u64)]) -> anyhow::Result<Vec<FlowNow>> {
        let by_name: HashMap<String, (u64, u64)> =
            rates.iter().map(|(name, out, inward)| (name_of(*name), (*out, *inward))).collect();
        let flows = rates.iter().map(|(name, ..)| name_of(*name)).collect();
        let Answer::Flows(described) = self.client.ask(Request::Describe(Names { flows }))? else {
            return Err(unexpected().into());
        };
        let with_rates = |flow: Flow| {
            let (rate_out, rate_in) = by_name.get(&flow.flow).copied().unwrap_or_default();
            FlowNow { flow: bound_flow(flow), rate_out, rate_in }
        };
        Ok(described.flows.into_iter().map(with_rates).collect())
    }
}

/// How the protocol names a flow.
fn name_of((index, generation): (u32, u32)) -> String {
    format!("{index}.{generation}")
}

/// A rate a second between two counts.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rate to be looked at"
)]
fn rate(before: u64, now: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (now.saturating_sub(before) as f64 / seconds) as u64 } else { 0 }
}

#[expect(clippy::cast_precision_loss, reason = "a rate to be looked at")]
fn drops(before: &Counters, now: &Counters, seconds: f64) -> Vec<DropNow> {
    let before: HashMap<&str, u64> =
        before.drops.iter().map(|drop| (drop.reason.as_str(), drop.count)).collect();
    let old = |reason: &str| before.get(reason).copied().unwrap_or_default();
    let drop = |drop: &passt_control::reply::Drop| DropNow {
        reason: drop.reason.clone(),
        meaning: drop.meaning.clone(),
        count: drop.count,
        rate: if seconds > 0.0 { drop.count.saturating_sub(old(&drop.reason)) as f64 / seconds } else { 0.0 },
    };
    now.drops.iter().map(drop).collect()
}

/// Rules with who uses them now: remote addresses of flows through their ports.
fn ports(rules: Vec<RuleNow>, flows: &[FlowNow]) -> Vec<PortNow> {
    let mut by_port: BTreeMap<(Protocol, u16), Vec<usize>> = BTreeMap::new();
    for (place, flow) in flows.iter().enumerate() {
        if let Some(target) = target(&flow.flow) {
            by_port.entry(target).or_default().push(place);
        }
    }
    let mut left = NAMED;
    let port = |rule: RuleNow| {
        let of_rule = &rule.rule;
        let more = of_rule.last().saturating_sub(of_rule.first);
        let (first, last) = (of_rule.to(), of_rule.to().saturating_add(more));
        let mut places: Vec<usize> = Vec::new();
        if left > 0 {
            let ports = (of_rule.protocol, first)..=(of_rule.protocol, last);
            places.extend(by_port.range(ports).flat_map(|(_, places)| places));
            // As the flows are: the busiest first.
            places.sort_unstable();
            places.truncate(left);
            left -= places.len();
        }
        let users = places.iter().filter_map(|place| flows.get(*place)).map(|flow| flow.flow.remote.clone());
        PortNow { users: users.collect(), rule }
    };
    rules.into_iter().map(port).collect()
}

/// What a flow is for, and the port that it goes to, if it is one that a rule may be for.
fn target(flow: &Flow) -> Option<(Protocol, u16)> {
    let protocols = [Protocol::Tcp, Protocol::Udp];
    let protocol = protocols.into_iter().find(|of| flow.protocol.eq_ignore_ascii_case(&of.to_string()))?;
    // By the link the guest's end is the target; past it that is our peer's.
    let end = if flow.via == "link" { &flow.guest } else { flow.target.as_ref()? };
    let (_, port) = end.rsplit_once(':')?;
    Some((protocol, port.parse().ok()?))
}

/// Leaves of a text what there is room for.
fn bound(text: &mut String) {
    cut(text, TEXT);
}

fn bound_hello(mut hello: Hello) -> Hello {
    [&mut hello.program, &mut hello.version, &mut hello.link].into_iter().for_each(bound);
    hello
}

fn bound_flow(mut flow: Flow) -> Flow {
    let texts = [&mut flow.flow, &mut flow.protocol, &mut flow.via, &mut flow.guest, &mut flow.remote];
    texts.into_iter().chain([&mut flow.state]).for_each(bound);
    [&mut flow.target, &mut flow.local].into_iter().flatten().for_each(bound);
    flow
}

fn bound_counters(counters: &mut Counters) {
    counters.levels.iter_mut().for_each(|(name, _)| bound(name));
    counters.drops.iter_mut().flat_map(|drop| [&mut drop.reason, &mut drop.meaning]).for_each(bound);
}

fn bound_guest(mut guest: Guest) -> Guest {
    guest.addresses.iter_mut().chain(&mut guest.macs).for_each(bound);
    let told = [&mut guest.ipv4, &mut guest.gateway4, &mut guest.ipv6, &mut guest.gateway6];
    told.into_iter().flatten().chain([&mut guest.our_mac]).for_each(bound);
    guest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(number: u32) -> FlowNow {
        let text = format!(
            r#"{{"flow":"{number}.0","protocol":"tcp","via":"link","guest":"10.0.0.1:80",
            "remote":"192.0.2.9:{number}","state":"open","age_ms":0,"idle_ms":0,"out_bytes":0,
            "out_units":0,"in_bytes":0,"in_units":0,"retransmitted":0}}"#
        );
        FlowNow { flow: serde_json::from_str(&text).expect("a flow"), rate_out: 0, rate_in: 0 }
    }

    fn rule(text: &str) -> RuleNow {
        serde_json::from_str(&format!(r#"{{"rule":{text},"sockets":1}}"#)).expect("a rule")
    }

    /// A server may say what it likes: ranges that end before they begin, and many rules for a port.
    #[test]
    fn ports_of_a_hostile_server() {
        let flows: Vec<_> = (0..256).map(flow).collect();
        let odd = ports(vec![rule(r#"{"protocol":"tcp","first":80,"last":1}"#)], &flows);
        assert_eq!(odd[0].users.len(), 256);
        let many = vec![rule(r#"{"protocol":"tcp","first":80}"#); 1000];
        let named: usize = ports(many, &flows).iter().map(|port| port.users.len()).sum();
        assert_eq!(named, NAMED);
    }

    #[test]
    fn ports_and_their_users() {
        let mut flows: Vec<_> = (0..5).map(flow).collect();
        flows[1].flow.guest = "[fd00::1]:81".into();
        flows[2].flow.protocol = "udp".into();
        flows[3].flow.via = "host".into();
        flows[4].flow.target = Some("127.0.0.1:80".into());
        flows[4].flow.via = "namespace".into();
        let rules = [
            (r#"{"protocol":"tcp","first":80}"#, &["192.0.2.9:0", "192.0.2.9:4"][..]),
            (r#"{"protocol":"tcp","first":8080,"last":8081,"to":80}"#, &["0", "1", "4"]),
            (r#"{"protocol":"udp","first":80}"#, &["2"]),
            (r#"{"protocol":"tcp","first":82}"#, &[]),
        ];
        let told = ports(rules.iter().map(|(text, _)| rule(text)).collect(), &flows);
        for (port, (text, users)) in told.iter().zip(rules) {
            assert_eq!(port.users.len(), users.len(), "{text}: {:?}", port.users);
            assert!(port.users.iter().zip(users).all(|(user, end)| user.ends_with(end)), "{text}");
        }
    }

    /// What is taken from a server has a length, however often it is shown.
    #[test]
    fn texts_of_a_hostile_server() {
        let long = || "R".repeat(250_000);
        let mut one = flow(1).flow;
        (one.remote, one.target) = (long(), Some(long()));
        let one = bound_flow(one);
        assert_eq!(one.remote.chars().count(), TEXT);
        assert!(one.remote.ends_with('…') && one.target.is_some_and(|target| target == one.remote));
        let drop = passt_control::reply::Drop { reason: long(), meaning: long(), count: 1 };
        let levels = vec![(long(), passt_control::reply::Level::default())];
        let mut counters = Counters { drops: vec![drop], levels, ..Counters::default() };
        bound_counters(&mut counters);
        let hello = Hello { program: long(), version: long(), link: long(), uptime_ms: 1 };
        let guest =
            Guest { addresses: vec![long()], ipv4: Some(long()), our_mac: long(), ..Guest::default() };
        let told = [
            serde_json::to_string(&bound_hello(hello)),
            serde_json::to_string(&bound_guest(guest)),
            serde_json::to_string(&counters),
        ];
        assert!(told.iter().all(|text| text.as_ref().is_ok_and(|text| text.len() < 2000)), "{told:?}");
    }

    /// Very many rules and flows that don't meet are no more work than both.
    #[test]
    fn rules_of_other_ports() {
        let flows: Vec<_> = (0..256).map(flow).collect();
        let rules = vec![rule(r#"{"protocol":"udp","first":1}"#); 260_000];
        assert!(ports(rules, &flows).iter().all(|port| port.users.is_empty()));
    }

    #[test]
    fn rates_of_counts() {
        assert_eq!(rate(100, 300, 2.0), 100);
        assert_eq!((rate(100, 300, 0.0), rate(300, 100, 1.0)), (0, 0));
    }
}
