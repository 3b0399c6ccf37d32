//! The changes between a directory and its list in Redis: what is wanted, what was taken, what goes back.
//!
//! Called by the thread of [`redis`](super::redis), and by those that free a server or wait for one. Nothing here speaks with
//! Redis.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::dispatch::Directory;
use super::list::{Elements, LeasedElement, POLL, ReturnedElement};
use super::server::ServerEntry;
use super::state::DirectoryState;
use crate::stats::Close;

impl Directory {
    /// What the thread has to do: what goes back, and how many are wanted.
    pub(super) fn orders(&self, now: Instant) -> (Vec<ReturnedElement>, usize) {
        let mut state = self.state.lock();
        let waiting = state.waiting.len();
        let Some(shelf) = &mut state.shelf else {
            return (Vec::new(), 0);
        };
        let giving = mem::take(&mut shelf.giving);
        let rests = shelf.rest.is_some_and(|rest| rest > now);
        (giving, if rests { 0 } else { waiting.min(MOST_AT_ONCE) })
    }

    pub(super) fn give_again(&self, mut giving: Vec<ReturnedElement>) {
        if let Some(shelf) = &mut self.state.lock().shelf {
            shelf.giving.append(&mut giving);
        }
    }

    /// Elements were taken for those that wait.
    pub(super) fn stock_up(
        self: &Arc<Self>,
        elements: Vec<Vec<u8>>,
        first: u64,
        wanted: usize,
        now: Instant,
    ) {
        {
            let mut state = self.state.lock();
            let fewer = elements.len() < wanted;
            let mut missed = 0;
            for (number, element) in (first..).zip(elements) {
                let index = state.index_of(&element, now);
                let DirectoryState { servers, shelf, .. } = &mut *state;
                let Some(shelf) = shelf else { return };
                let usable = index
                    .map(|index| &mut servers[index])
                    .filter(|server| server.health.is_open(&mut Some(now)));
                match usable {
                    Some(server) => {
                        server
                            .stock
                            .held
                            .push_back(LeasedElement { number, since: now });
                        server.seats = server.stock.held.len();
                    }
                    None => {
                        missed += 1;
                        let element = element.into();
                        shelf.giving.push(ReturnedElement { element, number });
                    }
                }
            }
            let known: usize = state.servers.iter().map(|server| server.stock.known).sum();
            let Some(shelf) = &mut state.shelf else {
                return;
            };
            shelf.misses = match missed {
                0 => 0,
                missed => shelf.misses + missed,
            };
            // Nothing to be had, or all of it was seen and is of no use: not again at once.
            if fewer || shelf.misses > known {
                shelf.misses = 0;
                shelf.rest = Some(now + POLL);
            }
        }
        self.deal();
        self.settle();
    }

    /// What is held, to be renewed.
    pub(super) fn members(&self) -> Vec<ReturnedElement> {
        let state = self.state.lock();
        let all = state.servers.iter().flat_map(|server| {
            server.stock.held.iter().map(|held| ReturnedElement {
                element: server.stock.element.clone(),
                number: held.number,
            })
        });
        all.collect()
    }

    /// The lists were read.
    pub(super) fn learn(
        self: &Arc<Self>,
        free: &[Vec<u8>],
        used: &[Vec<u8>],
        others: bool,
        now: Instant,
    ) {
        let mut gone = Vec::new();
        let mut bad = Vec::new();
        {
            let mut state = self.state.lock();
            for server in &mut state.servers {
                server.stock.known = 0;
            }
            for element in free.iter().chain(used) {
                match state.index_of(element, now) {
                    Some(index) => state.servers[index].stock.known += 1,
                    None => bad.push(String::from_utf8_lossy(element).into_owned()),
                }
            }
            let is_gone = |server: &mut ServerEntry| {
                server.stock.known == 0 && server.stock.held.is_empty() && server.taken == 0
            };
            for mut server in state.servers.extract_if(.., is_gone) {
                gone.extend(mem::take(&mut server.kept));
            }
            if let Some(shelf) = &mut state.shelf {
                shelf.others = others;
            }
        }
        for kept in gone {
            self.close(kept.conn, Close::Removed);
        }
        bad.dedup();
        for element in bad {
            log::debug!(
                target: &self.log,
                "site {}: {element:?} in Redis is no server; write HOST:PORT", self.site
            );
        }
        // Names that are new have to be looked up.
        if let Some(due) = self.tick(now) {
            self.alarm.set(due);
        }
    }

    /// Redis is gone, or back.
    pub(super) fn set_away(self: &Arc<Self>, away: bool) {
        {
            let mut state = self.state.lock();
            let DirectoryState { servers, shelf, .. } = &mut *state;
            let Some(shelf) = shelf else { return };
            shelf.away = away;
            shelf.rest = None;
            for server in servers {
                let Elements { held, known, .. } = &server.stock;
                server.seats = match away {
                    true => held.len().max(*known),
                    false => held.len(),
                };
            }
        }
        self.deal();
        self.settle();
    }
}

impl DirectoryState {
    /// The server of an element, a new one if need be. `None`: it does not name one.
    fn index_of(&mut self, element: &[u8], now: Instant) -> Option<usize> {
        let known = |server: &ServerEntry| *server.stock.element == *element;
        if let Some(index) = self.servers.iter().position(known) {
            return Some(index);
        }
        let address = str::from_utf8(element).ok()?.parse().ok()?;
        let mut server = ServerEntry::new(&address, 0, now);
        server.stock.element = element.into();
        self.servers.push(server);
        Some(self.servers.len() - 1)
    }
}

/// Elements that are taken in one go.
const MOST_AT_ONCE: usize = 64;
