//! Changes between a directory and its list in Redis: what requests need, what was taken, what is returned.
//!
//! Called by the thread in [`redis`](super::redis). Nothing here talks to Redis.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::dispatch::Directory;
use super::list::{Elements, LeasedElement, POLL, POLL_BESIDE_MESSAGES, ReturnedElement, Taken};
use super::server::ServerEntry;
use super::state::DirectoryState;
use crate::config::Address;
use crate::stats::Close;

impl Directory {
    /// Takes the thread's next work: the elements to be returned, and how many elements are needed. `Some(0)`: none any
    /// more, although Redis knows that this proxy waits.
    pub(super) fn take_work(&self, now: Instant) -> (Vec<ReturnedElement>, Option<usize>) {
        let mut state = self.state.lock();
        let waiting = state.waiting.len();
        let Some(list) = &mut state.list else {
            return (Vec::new(), None);
        };
        let wanted = match waiting {
            0 => list.queued.then_some(0),
            _ if list.next_take().is_some_and(|after| after > now) => None,
            _ => Some(waiting.min(MOST_AT_ONCE)),
        };
        (mem::take(&mut list.returning), wanted)
    }

    /// When Redis has to be asked for elements, if requests wait for them.
    pub(super) fn ask_due(&self) -> Option<Instant> {
        let state = self.state.lock();
        let list = state.list.as_ref()?;
        match state.waiting.is_empty() {
            true => None,
            false => Some(list.next_take().unwrap_or_else(Instant::now)),
        }
    }

    /// Redis has sent a message: elements may be there, or are wanted elsewhere.
    pub(super) fn ask_again(&self) {
        if let Some(list) = &mut self.state.lock().list {
            list.take_after = None;
        }
    }

    pub(super) fn return_again(&self, mut returning: Vec<ReturnedElement>) {
        if let Some(list) = &mut self.state.lock().list {
            list.returning.append(&mut returning);
        }
    }

    /// Elements were taken for waiting requests.
    pub(super) fn elements_taken(self: &Arc<Self>, taken: Taken, now: Instant) {
        {
            let mut state = self.state.lock();
            let mut unusable = 0;
            for (number, element) in (taken.first..).zip(taken.elements) {
                let index = state.index_of(&element, now);
                let DirectoryState { servers, list, .. } = &mut *state;
                let Some(list) = list else { return };
                let usable = index
                    .map(|index| &mut servers[index])
                    .filter(|server| server.is_open(&mut Some(now)));
                match usable {
                    Some(server) => {
                        server
                            .elements
                            .leased
                            .push_back(LeasedElement { number, since: now });
                        server.slots = server.elements.leased.len();
                    }
                    None => {
                        unusable += 1;
                        let text = element.into();
                        list.returning.push(ReturnedElement { text, number });
                    }
                }
            }
            let listed: usize = state
                .servers
                .iter()
                .map(|server| server.elements.listed)
                .sum();
            let Some(list) = &mut state.list else {
                return;
            };
            list.unusable = match unusable {
                0 => 0,
                unusable => list.unusable + unusable,
            };
            list.queued = taken.queued;
            list.others_waiting = taken.others;
            let poll = match taken.messages && !list.with_original {
                true => POLL_BESIDE_MESSAGES,
                false => POLL,
            };
            list.take_after = taken.queued.then(|| now + poll);
            // Every element was tried and is unusable.
            if list.unusable > listed {
                list.unusable = 0;
                list.pause_until = Some(now + POLL);
            }
        }
        self.serve_waiting();
        self.return_surplus();
    }

    /// The leased elements, to be renewed.
    pub(super) fn leased_elements(&self) -> Vec<ReturnedElement> {
        let state = self.state.lock();
        let all = state.servers.iter().flat_map(|server| {
            server.elements.leased.iter().map(|leased| ReturnedElement {
                text: server.elements.text.clone(),
                number: leased.number,
            })
        });
        all.collect()
    }

    /// The lists were read.
    pub(super) fn lists_read(
        self: &Arc<Self>,
        free: &[Vec<u8>],
        used: &[Vec<u8>],
        with_original: bool,
        now: Instant,
    ) {
        let mut gone = Vec::new();
        let mut bad = Vec::new();
        {
            let mut state = self.state.lock();
            for server in &mut state.servers {
                server.elements.listed = 0;
            }
            for element in free.iter().chain(used) {
                match state.index_of(element, now) {
                    Some(index) => state.servers[index].elements.listed += 1,
                    None => bad.push(String::from_utf8_lossy(element).into_owned()),
                }
            }
            let is_gone = |server: &mut ServerEntry| {
                server.elements.listed == 0 && server.elements.leased.is_empty() && server.busy == 0
            };
            for mut server in state.servers.extract_if(.., is_gone) {
                gone.extend(mem::take(&mut server.idle));
            }
            if let Some(list) = &mut state.list {
                list.with_original = with_original;
            }
        }
        for idle in gone {
            self.close(idle.conn, Close::Removed);
        }
        bad.dedup();
        for element in bad {
            log::debug!(
                target: &self.log,
                "site {}: {element:?} in Redis is not a server; expected HOST:PORT", self.site
            );
        }
        // New names have to be looked up.
        if let Some(due) = self.tick(now) {
            self.alarm.set(due);
        }
    }

    /// Redis stopped or started to respond.
    pub(super) fn set_unreachable(self: &Arc<Self>, unreachable: bool) {
        {
            let mut state = self.state.lock();
            let DirectoryState { servers, list, .. } = &mut *state;
            let Some(list) = list else { return };
            list.unreachable = unreachable;
            list.take_after = None;
            list.pause_until = None;
            list.queued = false;
            list.others_waiting = 0;
            for server in servers {
                let Elements { leased, listed, .. } = &server.elements;
                server.slots = match unreachable {
                    true => leased.len().max(*listed),
                    false => leased.len(),
                };
            }
        }
        self.serve_waiting();
        self.return_surplus();
    }
}

impl DirectoryState {
    /// The index of the server that an element names; it is added if it is new. `None`: the element is not an address.
    fn index_of(&mut self, element: &[u8], now: Instant) -> Option<usize> {
        let known = |server: &ServerEntry| *server.elements.text == *element;
        if let Some(index) = self.servers.iter().position(known) {
            return Some(index);
        }
        let at: Address = str::from_utf8(element).ok()?.parse().ok()?;
        let named = at.into();
        let mut server = ServerEntry::new(&named, None, 0, now);
        server.elements.text = element.into();
        server.drained = self.drained.has_server(&named);
        self.servers.push(server);
        Some(self.servers.len() - 1)
    }
}

/// The most elements taken at once.
const MOST_AT_ONCE: usize = 64;
