//! Flows: listed a page at a time, and ended one by one.

use passt_proto::time::Duration;

use super::Control;
use crate::dispatch::Description;
use crate::flow::Handle;
use crate::link::Link;

/// Flows of a page at most: what is asked of the kernel for them keeps traffic waiting.
pub const MAX_PAGE: usize = 256;
/// The same of a page that tells only what they have carried.
pub const MAX_CARRIED: usize = 4096;
/// Slots of the table looked at for a page at most.
const MAX_SLOTS: u32 = 1 << 14;

/// A place between two flows of the list. It stays valid whatever flows begin and end: those that
/// live all the time are listed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u32);

/// A part of the list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Some flows, perhaps none.
    pub flows: Vec<Description>,
    /// Where the next page begins; `None` behind the last.
    pub next: Option<Cursor>,
}

/// A flow that has ended, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("There is no such flow")]
pub struct NoFlow;

impl Cursor {
    /// The place before all flows.
    pub const START: Self = Self(0);

    /// As a number, to be kept elsewhere.
    pub fn to_number(self) -> u32 {
        self.0
    }

    /// The place that this number stands for; any number is one.
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }
}

impl<L: Link> Control<'_, L> {
    /// At most `most` flows from a place in the list on, and no more than [`MAX_PAGE`].
    pub fn flows(&self, from: Cursor, most: usize) -> Page {
        // A flow keeps its slot for as long as it lives.
        let slots = self.engine.flows.slots();
        let end = from.0.saturating_add(MAX_SLOTS).min(slots);
        let most = most.clamp(1, MAX_PAGE);
        let mut page = Page { flows: Vec::with_capacity(most), next: None };
        let mut slot = from.0;
        while slot < end && page.flows.len() < most {
            page.flows.extend(self.engine.flows.at(slot).and_then(|handle| self.engine.describe(handle)));
            slot += 1;
        }
        page.next = (slot < slots).then_some(Cursor(slot));
        page
    }

    /// The same with what each has carried from the guest and to it in bytes, or past the link from
    /// the client and to it. The kernel is asked for nothing, so that a page may be far longer. If
    /// only flows are wanted that have carried something `within` some time, others are left out.
    pub fn carried(
        &self,
        from: Cursor,
        most: usize,
        within: Option<Duration>,
    ) -> (Vec<(Handle, [u64; 2])>, Option<Cursor>) {
        let slots = self.engine.flows.slots();
        let end = from.0.saturating_add(MAX_SLOTS).min(slots);
        let most = most.clamp(1, MAX_CARRIED);
        let mut page = Vec::with_capacity(most);
        let mut slot = from.0;
        while slot < end && page.len() < most {
            let handle = self.engine.flows.at(slot);
            let carried = handle.and_then(|handle| Some((handle, self.engine.carried(handle)?)));
            let is_wanted = |idle| within.is_none_or(|within| idle <= within);
            page.extend(
                carried.filter(|(_, (_, idle))| is_wanted(*idle)).map(|(handle, (bytes, _))| (handle, bytes)),
            );
            slot += 1;
        }
        (page, (slot < slots).then_some(Cursor(slot)))
    }

    /// One flow.
    pub fn flow(&self, handle: Handle) -> Result<Description, NoFlow> {
        self.engine.describe(handle).ok_or(NoFlow)
    }

    /// Ends a flow. Both sides of a connection are reset; datagrams are just not expected any more.
    pub fn end(&mut self, handle: Handle) -> Result<(), NoFlow> {
        self.engine.flows.get(handle).ok_or(NoFlow)?;
        log::debug!("flow {}.{}: to be ended", handle.index, handle.generation);
        self.engine.give_up(handle);
        Ok(())
    }
}
