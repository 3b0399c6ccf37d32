//! The set of parked items, for which workers wait.
//!
//! Each worker blocks in `epoll_wait(2)` on one shared set and takes the next event itself, so there is no dispatcher
//! and, under load, no sleep between two items. An item (a session) has up to two sockets in the set:
//!
//! - The *client's* is registered from [`Poller::enter`] to the end, edge-triggered. That saves the system call that
//!   would arm it again, but an item may only be parked for reading after all available bytes were read.
//! - The *backend's* is armed for one event, and only when an exchange parks ([`Poller::arm`]). If it stayed
//!   registered, it would wake a second worker for each response that the first one reads while it blocks.
//!
//! Items that have work to do without an event (they were woken, their deadline has passed, or they yield to others)
//! go through a queue of *handed-over* items.
//!
//! Called by: acceptors ([`Poller::enter`]); workers ([`Poller::wait`], [`Poller::try_wait`], [`Poller::arm`],
//! [`Poller::park`], [`Poller::try_block`], [`Poller::leave`]); any thread that frees what a parked item waits for
//! ([`Poller::wake`]); the tick thread ([`Poller::expire`], [`Poller::hand_over`]).
//!
//! **Invariants**
//! - An item has one owner: a worker while it runs, the poller while it is parked or handed over. Its [`Token`] stays
//!   the same from accept to close.
//! - *Nothing is lost while an item is out.* An event or a wake-up finds the slot empty then and marks it, and `park`
//!   returns the item.
//! - A socket is registered, or its registration changed, while its item is out, so the registration certainly belongs
//!   to this item.
//! - *No handed-over item is forgotten.* While items are handed over and workers sleep, a ring of the bell is pending;
//!   [`Slots::must_ring`] has the proof.
//! - A parked item has an entry among the deadlines, no later than its own; the alarm is set for the earliest one.
//! - The lock is a leaf: no system call is made, no item dropped and no other lock taken while it is held.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::alarm::Alarm;

/// The parked items of a server.
#[derive(Debug)]
pub struct Poller<T> {
    epoll: Epoll,
    /// Rings when an item was handed over while workers sleep, or when the workers must stop.
    bell: EventFd,
    slots: Mutex<Slots<T>>,
    alarm: Arc<Alarm>,
    /// How often a worker has got an item.
    taken: AtomicU64,
    /// The number of workers, and how many of them are blocked for a backend.
    workers: usize,
    blocked: AtomicUsize,
}

/// The slot of an item; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// What a parked item waits for at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// Bytes, or the end, from the peer.
    Read,
    /// Room for more bytes to the peer.
    Write,
    /// Either of both.
    Both,
}

/// The result of waiting for work.
#[derive(Debug)]
pub enum Work<T> {
    /// An item that may have something to do; the caller owns it now.
    Item(Box<T>, Cause),
    /// The poller was stopped.
    Stop,
}

/// Whether work was ready when a worker asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// No: the worker had to sleep.
    Quiet,
    /// Yes: there may be more.
    Busy,
}

/// Why an item was returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client's socket is readable or writable, without an end.
    Ready,
    /// The client has ended its sending side, or the connection is broken. There may still be bytes to read.
    Ended,
    /// The backend's socket is ready as armed, or has ended. The state of the client's socket is unknown.
    Backend,
    /// The item was woken or handed over. The state of its sockets is unknown.
    Woken,
}

/// Permission for one worker to block for a backend, until it is dropped; see [`Poller::try_block`].
#[derive(Debug)]
#[must_use = "the worker counts as blocked until this is dropped"]
pub struct Blocking<'p> {
    blocked: &'p AtomicUsize,
}

/// A returned item, and why it was returned.
type TakenItem<T> = (Box<T>, Cause);

/// The state under the lock. It makes no system calls, so a test can try all orders of its operations.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Slots<T> {
    entries: Vec<PollerSlot<T>>,
    free: Vec<u32>,
    handed_over: VecDeque<TakenItem<T>>,
    /// How many items of `handed_over` precede the next check for events: those that were queued at the last check.
    round: usize,
    /// Workers that sleep in `epoll_wait(2)`, or are entering or leaving it.
    sleeping: usize,
    /// The bell was rung, or is about to be, and no worker has received its event yet.
    bell_pending: bool,
    stopping: bool,
    /// The times at which slots must be checked: their `scheduled`.
    deadlines: BTreeSet<(Instant, u32)>,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct PollerSlot<T> {
    generation: u32,
    /// An event occurred while the item was out.
    marked: bool,
    /// The current registration of the client's socket.
    armed: Interest,
    /// The slot's entry among the deadlines. It outlives the item, so that short-lived items leave only one entry.
    scheduled: Option<Instant>,
    parked: Option<(Box<T>, Instant)>,
}

/// The next step of a worker.
#[derive(Debug)]
enum NextWork<T> {
    Run(Work<T>),
    /// Check for events without sleeping, since items are handed over.
    Look,
    /// Sleep until an event arrives. The worker is counted as sleeping.
    Sleep,
}

impl<T: AsFd> Poller<T> {
    /// An empty set for this number of workers.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new(workers: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: each ring wakes one worker, and the counter need not be read.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&bell, EpollEvent::new(flags, BELL))?;
        Ok(Self {
            epoll,
            bell,
            slots: Mutex::new(Slots::new()),
            alarm: Arc::default(),
            taken: AtomicU64::new(0),
            workers,
            blocked: AtomicUsize::new(0),
        })
    }

    /// The alarm that rings when [`Poller::expire`] has something to do. The poller sets it and never stops it.
    pub const fn alarm(&self) -> &Arc<Alarm> {
        &self.alarm
    }

    /// Adds an item and parks it until its client's socket is readable or `deadline` has passed.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`; the item is dropped then.
    pub fn enter(
        &self,
        make: impl FnOnce(Token) -> Box<T>,
        deadline: Instant,
    ) -> io::Result<Token> {
        let token = self.slots.lock().reserve();
        let item = make(token);
        let event = EpollEvent::new(client_flags(Interest::Read), token.number());
        self.epoll.add(item.as_fd(), event)?;
        if let Some(item) = self.park(token, item, Interest::Read, deadline)? {
            self.hand_over(item);
        }
        Ok(token)
    }

    /// Parks an item until an event at the client's socket (`interest`, or its end), an event at the backend's socket
    /// if that was armed, a wake-up, or `deadline`; it may also be returned for no reason. Returns the item
    /// immediately if an event has occurred since it was taken out.
    ///
    /// At the client's socket only events after the item was taken out count, so read until nothing is left before
    /// parking for reading. A change of `interest` costs a system call and reports what is ready already.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`; the item is dropped then.
    pub fn park(
        &self,
        token: Token,
        item: Box<T>,
        interest: Interest,
        deadline: Instant,
    ) -> io::Result<Option<Box<T>>> {
        let mut slots = self.slots.lock();
        if slots.entries[token.index as usize].armed != interest {
            drop(slots);
            let mut event = EpollEvent::new(client_flags(interest), token.number());
            self.epoll.modify(item.as_fd(), &mut event)?;
            slots = self.slots.lock();
            slots.entries[token.index as usize].armed = interest;
        }
        let is_earliest = match slots.park(token, item, deadline) {
            Ok(is_earliest) => is_earliest,
            Err(item) => return Ok(Some(item)),
        };
        drop(slots);
        if is_earliest {
            self.alarm.set(deadline);
        }
        Ok(None)
    }

    /// Makes the next event at the backend's socket return the item, once; what is ready already counts. Call it while
    /// the item is out, after the socket had nothing to read or no room, and before each [`Poller::park`] that waits
    /// for it: whatever the reason for which the item was returned, the next wait needs another call.
    ///
    /// The socket may be armed already, for this item or for an earlier one; this call replaces that. A hang-up or an
    /// error counts as well, the end of the backend's sending side only for [`Interest::Read`] and [`Interest::Both`].
    /// As long as the end, or bytes that the caller does not want yet, can be read, these return the item immediately
    /// each time: use [`Interest::Write`] alone then.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`; the socket is not armed then.
    pub fn arm(&self, token: Token, backend: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        let mut event = EpollEvent::new(backend_flags(interest), token.number() | BACKEND);
        match self.epoll.modify(backend, &mut event) {
            // It is not registered yet.
            Err(Errno::ENOENT) => Ok(self.epoll.add(backend, event)?),
            result => Ok(result?),
        }
    }

    /// Ends the effect of [`Poller::arm`], for an item that was returned for another reason. Required before the
    /// backend's connection serves another item, and useful before a worker blocks on it.
    ///
    /// A socket whose event is spent reports nothing more, not even a hang-up, and may stay registered. One that is
    /// disarmed by this call does not return an item either, but its hang-up wakes a worker once: `epoll_ctl(2)`
    /// always adds that event. An event that another worker has taken already cannot be revoked: the next
    /// [`Poller::park`] may return the item for no reason.
    pub fn disarm(&self, backend: BorrowedFd<'_>) {
        let mut event = EpollEvent::new(EpollFlags::EPOLLONESHOT, NOTHING);
        // Fails only if it was never registered.
        let _ = self.epoll.modify(backend, &mut event);
    }

    /// Takes out a parked item, for the caller to run. `None`: it is out, and will be returned as soon as it is
    /// parked.
    pub fn take(&self, token: Token) -> Option<Box<T>> {
        self.slots.lock().take(token)
    }

    /// Frees the token of an item that is out and is being dropped; best called by the item's `Drop`.
    pub fn leave(&self, token: Token) {
        self.slots.lock().release(token);
    }

    /// Stops watching the client's socket of an item that is out and will not be parked again. The item keeps its
    /// token.
    pub fn let_go(&self, item: &T) {
        // Fails only if it is not watched.
        let _ = self.epoll.delete(item.as_fd());
    }

    /// Blocks until an item has something to do. Called by workers only. Events and handed-over items take turns.
    pub fn wait(&self) -> (Work<T>, Load) {
        let mut load = Load::Busy;
        loop {
            let next = self.slots.lock().next();
            let (_, found) = match next {
                NextWork::Run(work) => {
                    self.taken.fetch_add(1, Ordering::Relaxed);
                    return (work, load);
                }
                NextWork::Look => self.poll(EpollTimeout::ZERO),
                NextWork::Sleep => {
                    load = Load::Quiet;
                    self.poll(EpollTimeout::NONE)
                }
            };
            if let Some((item, cause)) = found {
                self.taken.fetch_add(1, Ordering::Relaxed);
                return (Work::Item(item, cause), load);
            }
        }
    }

    /// Returns an item that has something to do now, if there is one. Never blocks. Called by workers before they
    /// block for a backend.
    pub fn try_wait(&self) -> Option<(Box<T>, Cause)> {
        for _ in 0..MOST_LOOKS {
            let (mut found, is_over) = self.slots.lock().try_next();
            let mut count = 0;
            if found.is_none() {
                (count, found) = self.poll(EpollTimeout::ZERO);
            }
            if found.is_some() {
                self.taken.fetch_add(1, Ordering::Relaxed);
                return found;
            }
            if count == 0 && is_over {
                return None;
            }
        }
        None
    }

    /// Asks for permission to block for a backend. `None`: all other workers are blocked, and this one must remain
    /// able to take new work.
    pub fn try_block(&self) -> Option<Blocking<'_>> {
        // The count orders nothing else, so its own atomicity is enough.
        self.blocked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |blocked| {
                (blocked + 1 < self.workers).then_some(blocked + 1)
            })
            .ok()?;
        Some(Blocking {
            blocked: &self.blocked,
        })
    }

    /// Makes a worker run the item with this token, whatever its sockets do. An item that is out already is not parked
    /// but run again.
    pub fn wake(&self, token: Token) {
        let must_ring = self.slots.lock().wake(token);
        self.ring_if(must_ring);
    }

    /// Makes a worker run an item that the caller owns.
    pub fn hand_over(&self, item: Box<T>) {
        let must_ring = self.slots.lock().hand_over(item);
        self.ring_if(must_ring);
    }

    /// Takes out all parked items whose deadlines have passed, and sets the alarm for the earliest of the others.
    /// Called when the alarm rings.
    pub fn expire(&self, now: Instant) -> Vec<Box<T>> {
        let (expired, earliest) = self.slots.lock().expire(now);
        if let Some(earliest) = earliest {
            self.alarm.set(earliest);
        }
        expired
    }

    /// Takes out all parked items that `wanted` accepts.
    pub fn take_all(&self, wanted: impl Fn(&T, Instant) -> bool) -> Vec<Box<T>> {
        let mut slots = self.slots.lock();
        let mut taken = Vec::new();
        for slot in &mut slots.entries {
            let found = slot
                .parked
                .take_if(|(item, deadline)| wanted(item, *deadline));
            taken.extend(found.map(|(item, _)| item));
        }
        taken
    }

    /// Takes out the parked items that `wanted` accepts and whose deadlines are earliest, at most `count`.
    pub fn take_earliest(&self, count: usize, wanted: impl Fn(&T) -> bool) -> Vec<Box<T>> {
        self.take_lowest(count, |item, deadline| wanted(item).then_some(deadline))
    }

    /// Takes out the parked items with the lowest keys, at most `count`, in order. Items without a key stay. The key
    /// may depend on the deadline.
    pub fn take_lowest<K: Ord>(
        &self,
        count: usize,
        key: impl Fn(&T, Instant) -> Option<K>,
    ) -> Vec<Box<T>> {
        let mut slots = self.slots.lock();
        let mut found: Vec<(K, usize)> = Vec::new();
        for (index, slot) in slots.entries.iter().enumerate() {
            if let Some((item, deadline)) = &slot.parked
                && let Some(key) = key(item, *deadline)
            {
                found.push((key, index));
            }
        }
        found.sort_unstable();
        let first = found.into_iter().take(count);
        first
            .filter_map(|(_, index)| slots.entries[index].parked.take())
            .map(|(item, _)| item)
            .collect()
    }

    /// Whether the poller was stopped. Items that are parked later are not returned by themselves.
    pub fn is_stopped(&self) -> bool {
        self.slots.lock().stopping
    }

    /// How often a worker has got an item.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether a worker waits for an item.
    pub fn has_sleepers(&self) -> bool {
        self.slots.lock().sleeping > 0
    }

    /// The number of parked items.
    pub fn parked(&self) -> usize {
        let slots = self.slots.lock();
        slots.entries.iter().filter(|s| s.parked.is_some()).count()
    }

    /// Makes every current and future [`Poller::wait`] return [`Work::Stop`] once no item is handed over.
    pub fn stop(&self) {
        let must_ring = self.slots.lock().stop();
        self.ring_if(must_ring);
    }

    /// Gets events from the system: returns their number, and the item for the caller to run. A worker that is counted
    /// as sleeping passes no timeout.
    fn poll(&self, timeout: EpollTimeout) -> (usize, Option<TakenItem<T>>) {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            // Only the descriptor can be invalid, and without it there is no server.
            Err(error) => panic!("epoll_wait: {error}"),
        };
        let slept = timeout == EpollTimeout::NONE;
        let (found, must_ring) = self.slots.lock().receive(slept, &events[..count]);
        self.ring_if(must_ring);
        (count, found)
    }

    fn ring_if(&self, must_ring: bool) {
        if must_ring {
            // Fails only when the counter is full, after 2^64 rings.
            let _ = self.bell.write(1);
        }
    }
}

impl<T> Slots<T> {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            handed_over: VecDeque::new(),
            round: 0,
            sleeping: 0,
            bell_pending: false,
            stopping: false,
            deadlines: BTreeSet::new(),
        }
    }

    fn reserve(&mut self) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(PollerSlot {
                generation: 0,
                marked: false,
                armed: Interest::Read,
                scheduled: None,
                parked: None,
            });
            u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
        });
        Token {
            index,
            generation: self.entries[index as usize].generation,
        }
    }

    fn release(&mut self, token: Token) {
        let slot = &mut self.entries[token.index as usize];
        debug_assert!(slot.parked.is_none(), "the item is out when it is dropped");
        // Late events and wake-ups for the old token have another generation and are ignored.
        slot.generation = slot.generation.wrapping_add(1) & GENERATIONS;
        slot.marked = false;
        slot.armed = Interest::Read;
        self.free.push(token.index);
    }

    /// Parks an item; returns whether its deadline is the earliest of all now, or the item if the slot is marked.
    fn park(&mut self, token: Token, item: Box<T>, deadline: Instant) -> Result<bool, Box<T>> {
        let slot = &mut self.entries[token.index as usize];
        if mem::take(&mut slot.marked) {
            return Err(item);
        }
        slot.parked = Some((item, deadline));
        Ok(self.schedule(token.index, deadline))
    }

    /// Takes out the parked item of a token; marks the slot if the item is out.
    fn take(&mut self, token: Token) -> Option<Box<T>> {
        let slot = self.entries.get_mut(token.index as usize)?;
        if slot.generation != token.generation {
            return None;
        }
        match slot.parked.take() {
            Some((item, _)) => Some(item),
            None => {
                slot.marked = true;
                None
            }
        }
    }

    /// Hands over the item of a token; marks the slot if the item is out. Returns whether to ring.
    fn wake(&mut self, token: Token) -> bool {
        match self.take(token) {
            Some(item) => self.hand_over(item),
            None => false,
        }
    }

    /// Hands over an item. Returns whether to ring.
    fn hand_over(&mut self, item: Box<T>) -> bool {
        self.handed_over.push_back((item, Cause::Woken));
        self.must_ring()
    }

    /// Stops the poller. Returns whether to ring.
    fn stop(&mut self) -> bool {
        self.stopping = true;
        self.must_ring()
    }

    /// Whether the caller must ring the bell after it has released the lock. Called after each change that may require
    /// it.
    ///
    /// A ring is a system call, so it is omitted while no worker sleeps. That loses no handed-over item. Let *work* be
    /// a handed-over item, or the stop. At each release of the lock this holds: if there is work and a worker sleeps,
    /// then `rung`.
    /// - Work appears only in `hand_over`, `stop` and `receive`, which all end here, and here `rung` is set.
    /// - `sleeping` grows only in `next`, and only if there is no work.
    /// - `rung` is cleared only in `receive`, which ends here.
    ///
    /// And `rung` means that the bell's event is pending: the caller is about to ring, or the set holds the event, or
    /// a worker has taken it and is about to call `receive`. `rung` prevents a second ring until then, so two rings
    /// never become one event. As long as a worker is in `epoll_wait(2)`, the system gives it the event; a worker that
    /// is counted and returning with another event calls `next` before it sleeps again, and so does every worker that
    /// does not sleep.
    fn must_ring(&mut self) -> bool {
        let has_work = self.stopping || !self.handed_over.is_empty();
        let must_ring = has_work && self.sleeping > 0 && !self.bell_pending;
        self.bell_pending |= must_ring;
        must_ring
    }

    /// The next step of a worker that has nothing to do.
    fn next(&mut self) -> NextWork<T> {
        match self.try_next() {
            (Some((item, cause)), _) => NextWork::Run(Work::Item(item, cause)),
            (None, false) => NextWork::Look,
            (None, true) if self.stopping => NextWork::Run(Work::Stop),
            (None, true) => {
                self.sleeping += 1;
                NextWork::Sleep
            }
        }
    }

    /// A handed-over item, unless it is the events' turn; and whether it was the last one.
    fn try_next(&mut self) -> (Option<TakenItem<T>>, bool) {
        if self.round == 0 && !self.handed_over.is_empty() {
            return (None, false);
        }
        (self.pop(), self.handed_over.is_empty())
    }

    fn pop(&mut self) -> Option<TakenItem<T>> {
        self.round = self.round.saturating_sub(1);
        self.handed_over.pop_front()
    }

    /// Handles the events of a worker: returns the item for it to run, and whether to ring. The other items are handed
    /// over, since the first one may take time.
    fn receive(&mut self, slept: bool, events: &[EpollEvent]) -> (Option<TakenItem<T>>, bool) {
        self.sleeping -= usize::from(slept);
        let mut first = None;
        for event in events {
            let (token, cause) = match (event.data(), event.events()) {
                (BELL, _) => {
                    self.bell_pending = false;
                    continue;
                }
                (NOTHING, _) => continue,
                (data, _) if data & BACKEND != 0 => (Token::from(data), Cause::Backend),
                (data, flags) if flags.intersects(ENDED) => (Token::from(data), Cause::Ended),
                (data, _) => (Token::from(data), Cause::Ready),
            };
            let Some(item) = self.take(token) else {
                continue;
            };
            match first {
                None => first = Some((item, cause)),
                Some(_) => self.handed_over.push_back((item, cause)),
            }
        }
        self.round = self.handed_over.len();
        let found = first.or_else(|| self.pop());
        (found, self.must_ring())
    }

    /// Ensures that the slot is checked no later than at `deadline`. Returns whether that is the earliest of all now.
    ///
    /// An entry that is too early stays: parking repeatedly for about the same time costs no more than a comparison.
    /// An entry that is no longer needed stays too, for the slot's next item.
    fn schedule(&mut self, index: u32, deadline: Instant) -> bool {
        let slot = &mut self.entries[index as usize];
        if slot.scheduled.is_some_and(|earlier| earlier <= deadline) {
            return false;
        }
        if let Some(later) = slot.scheduled.replace(deadline) {
            self.deadlines.remove(&(later, index));
        }
        self.deadlines.insert((deadline, index));
        self.deadlines.first() == Some(&(deadline, index))
    }

    /// Takes out the items whose deadlines have passed; returns also the earliest of the other deadlines.
    fn expire(&mut self, now: Instant) -> (Vec<Box<T>>, Option<Instant>) {
        let mut expired = Vec::new();
        loop {
            let Some(&(scheduled, index)) = self.deadlines.first() else {
                return (expired, None);
            };
            if scheduled > now {
                return (expired, Some(scheduled));
            }
            self.deadlines.pop_first();
            let slot = &mut self.entries[index as usize];
            slot.scheduled = None;
            let over = slot.parked.take_if(|(_, deadline)| *deadline <= now);
            let later = slot.parked.as_ref().map(|(_, deadline)| *deadline);
            expired.extend(over.map(|(item, _)| item));
            if let Some(later) = later {
                self.schedule(index, later);
            }
        }
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.blocked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Token {
    /// The data of events at the client's socket.
    fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Self {
        // Each half has 32 bits, so the conversions lose nothing.
        Self {
            index: (data & 0xffff_ffff) as u32,
            generation: (data >> 32) as u32 & GENERATIONS,
        }
    }
}

fn client_flags(interest: Interest) -> EpollFlags {
    // A disconnect is always of interest. Edge-triggered, it is reported once.
    direction_flags(interest) | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

fn backend_flags(interest: Interest) -> EpollFlags {
    // Without EPOLLRDHUP: it would be reported as long as it lasts, so that each wait for room would spin.
    direction_flags(interest) | EpollFlags::EPOLLONESHOT
}

fn direction_flags(interest: Interest) -> EpollFlags {
    match interest {
        Interest::Read => EpollFlags::EPOLLIN,
        Interest::Write => EpollFlags::EPOLLOUT,
        Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
    }
}

/// Most events per call of `epoll_wait(2)`.
const BATCH: usize = 64;
/// After this many stale events [`Poller::try_wait`] gives up.
const MOST_LOOKS: usize = 8;
/// The flags of an event that mean [`Cause::Ended`].
const ENDED: EpollFlags = EpollFlags::EPOLLRDHUP
    .union(EpollFlags::EPOLLHUP)
    .union(EpollFlags::EPOLLERR);
/// Marks the data of events at the backend's socket.
const BACKEND: u64 = 1 << 62;
/// Generations have 30 bits: the bits above are [`BACKEND`], and one that only [`BELL`] and [`NOTHING`] have.
const GENERATIONS: u32 = 0x3fff_ffff;
const BELL: u64 = u64::MAX;
const NOTHING: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// An item, its token, and the other end of its client's socket.
    struct Parked {
        poller: Poller<UnixStream>,
        token: Token,
        client: UnixStream,
    }

    impl Parked {
        fn new() -> Self {
            let poller = Poller::new(8).unwrap();
            let (one, client) = UnixStream::pair().unwrap();
            let token = poller.enter(|_| Box::new(one), far()).unwrap();
            Self {
                poller,
                token,
                client,
            }
        }

        fn out() -> (Self, Box<UnixStream>) {
            let this = Self::new();
            let item = this.poller.take(this.token).expect("it is parked");
            (this, item)
        }

        fn park(&self, item: Box<UnixStream>, interest: Interest) -> Option<Box<UnixStream>> {
            let token = self.token;
            self.poller.park(token, item, interest, far()).unwrap()
        }

        fn arm(&self, backend: &UnixStream, interest: Interest) {
            self.poller
                .arm(self.token, backend.as_fd(), interest)
                .unwrap();
        }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn item<T: AsFd>(poller: &Poller<T>, cause: Cause) -> Box<T> {
        let (item, actual) = poller.try_wait().expect("an item comes out");
        assert_eq!(actual, cause);
        item
    }

    #[test]
    fn an_item_comes_back_when_it_can_be_read() {
        let mut it = Parked::new();
        assert_eq!(it.poller.parked(), 1);
        it.client.write_all(b"x").unwrap();
        let Work::Item(back, Cause::Ready) = it.poller.wait().0 else {
            panic!("no item");
        };
        assert_eq!(it.poller.parked(), 0);
        // Only what comes from now on brings it back.
        assert!(it.park(back, Interest::Read).is_none());
        assert!(it.poller.try_wait().is_none());
        it.client.write_all(b"y").unwrap();
        drop(item(&it.poller, Cause::Ready));
        it.poller.leave(it.token);
    }

    #[test]
    fn events_while_out_are_kept() {
        let (mut it, out) = Parked::out();
        it.client.write_all(b"y").unwrap();
        // Another worker takes the event, finds the item out, and leaves a mark.
        assert!(it.poller.try_wait().is_none());
        let back = it.park(out, Interest::Read).expect("it is marked");
        assert!(it.park(back, Interest::Read).is_none());
    }

    #[test]
    fn new_interest_reports_readiness() {
        let (mut it, out) = Parked::out();
        assert!(it.park(out, Interest::Write).is_none());
        let out = item(&it.poller, Cause::Ready);
        // And what came meanwhile, when it is to be read again.
        it.client.write_all(b"x").unwrap();
        assert!(it.park(out, Interest::Read).is_none());
        let out = item(&it.poller, Cause::Ready);
        assert!(it.park(out, Interest::Both).is_none());
        drop(item(&it.poller, Cause::Ready));
    }

    #[test]
    fn client_end_is_always_reported() {
        for interest in [Interest::Read, Interest::Write, Interest::Both] {
            let (it, mut out) = Parked::out();
            out.set_nonblocking(true).unwrap();
            // No room, so that the end is all there is to report.
            while out.write(&[0; 65536]).is_ok() {}
            assert!(it.park(out, interest).is_none());
            assert!(it.poller.try_wait().is_none());
            it.client.shutdown(std::net::Shutdown::Write).unwrap();
            let out = item(&it.poller, Cause::Ended);
            // And once: a client that has only ended its sending side still reads.
            assert!(it.park(out, interest).is_none());
            assert!(it.poller.try_wait().is_none());
        }
    }

    #[test]
    fn a_reset_is_an_end() {
        for interest in [Interest::Read, Interest::Write] {
            let poller = Poller::new(2).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut ours, _) = listener.accept().unwrap();
            ours.write_all(b"something to leave unread").unwrap();
            client.peek(&mut [0]).unwrap();
            let token = poller.enter(|_| Box::new(ours), far()).unwrap();
            let mut out = poller.take(token).unwrap();
            assert!(poller.park(token, out, interest, far()).unwrap().is_none());
            if interest == Interest::Write {
                out = item(&poller, Cause::Ready);
                assert!(poller.park(token, out, interest, far()).unwrap().is_none());
            }
            // A socket that is closed with something unread in it is reset.
            drop(client);
            let Work::Item(_, cause) = poller.wait().0 else {
                panic!("no item");
            };
            assert_eq!(cause, Cause::Ended);
        }
    }

    #[test]
    fn cause_names_the_side() {
        let (mut it, mut out) = Parked::out();
        let (backend, mut application) = UnixStream::pair().unwrap();
        for _ in 0..3 {
            it.arm(&backend, Interest::Read);
            assert!(it.park(out, Interest::Read).is_none());
            assert!(it.poller.try_wait().is_none());
            application.write_all(b"x").unwrap();
            out = item(&it.poller, Cause::Backend);
            // One event, and no other until it is armed again, though nothing was read.
            application.write_all(b"y").unwrap();
            assert!(it.poller.try_wait().is_none());
            it.client.write_all(b"z").unwrap();
            assert!(it.park(out, Interest::Read).is_none());
            out = item(&it.poller, Cause::Ready);
            assert_eq!((&backend).read(&mut [0; 8]).unwrap(), 2);
        }
        // Room to write, and the end.
        it.arm(&backend, Interest::Write);
        assert!(it.park(out, Interest::Read).is_none());
        out = item(&it.poller, Cause::Backend);
        it.arm(&backend, Interest::Read);
        assert!(it.park(out, Interest::Read).is_none());
        drop(application);
        out = item(&it.poller, Cause::Backend);
        // Not even a hang-up is reported of a socket whose event is spent.
        assert!(it.park(out, Interest::Read).is_none());
        assert!(it.poller.try_wait().is_none());
    }

    #[test]
    fn ready_backend_wakes_when_armed() {
        let (it, out) = Parked::out();
        let (backend, mut application) = UnixStream::pair().unwrap();
        application.write_all(b"x").unwrap();
        it.arm(&backend, Interest::Both);
        // Another worker takes the event.
        assert!(it.poller.try_wait().is_none());
        let back = it.park(out, Interest::Read).expect("it is marked");
        assert!(it.park(back, Interest::Read).is_none());
    }

    #[test]
    fn a_disarmed_backend_wakes_no_item() {
        let (it, out) = Parked::out();
        let (backend, mut application) = UnixStream::pair().unwrap();
        // Also one that was never armed.
        it.poller.disarm(backend.as_fd());
        it.arm(&backend, Interest::Both);
        assert!(it.poller.try_wait().is_none(), "there is room: a mark");
        let out = it.park(out, Interest::Read).expect("it is marked");
        it.arm(&backend, Interest::Read);
        it.poller.disarm(backend.as_fd());
        assert!(it.park(out, Interest::Read).is_none());
        application.write_all(b"x").unwrap();
        drop(application);
        assert!(it.poller.try_wait().is_none());
        assert_eq!(it.poller.parked(), 1);
    }

    #[test]
    fn armed_backend_wakes_only_its_item() {
        // Neither the next item in the same slot ...
        let (it, out) = Parked::out();
        let (backend, mut application) = UnixStream::pair().unwrap();
        it.arm(&backend, Interest::Read);
        drop(out);
        it.poller.leave(it.token);
        let (one, _client) = UnixStream::pair().unwrap();
        let next = it.poller.enter(|_| Box::new(one), far()).unwrap();
        assert_eq!(next.index, it.token.index);
        application.write_all(b"x").unwrap();
        assert!(it.poller.try_wait().is_none());
        assert_eq!(it.poller.parked(), 1);
        // ... nor its first item, once it is armed for another one.
        let (two, _client) = UnixStream::pair().unwrap();
        let other = it.poller.enter(|_| Box::new(two), far()).unwrap();
        for token in [next, other] {
            it.poller
                .arm(token, backend.as_fd(), Interest::Write)
                .unwrap();
        }
        item(&it.poller, Cause::Backend);
        assert!(it.poller.take(next).is_some() && it.poller.take(other).is_none());
    }

    #[test]
    fn no_wake_is_lost() {
        let it = Parked::new();
        it.poller.wake(it.token);
        let out = item(&it.poller, Cause::Woken);
        it.poller.wake(it.token);
        let back = it.park(out, Interest::Read);
        let back = back.expect("the item was woken while it was out");
        assert!(
            it.park(back, Interest::Read).is_none(),
            "a wake counts once"
        );
    }

    #[test]
    fn stale_events_are_ignored() {
        let (it, _out) = Parked::out();
        it.poller.leave(it.token);
        let (two, _client) = UnixStream::pair().unwrap();
        let new = it.poller.enter(|_| Box::new(two), far()).unwrap();
        assert_eq!(it.token.index, new.index);
        it.poller.wake(it.token);
        assert_eq!(it.poller.parked(), 1);
    }

    #[test]
    fn event_data_round_trip() {
        for token in [(0, 0), (u32::MAX, GENERATIONS), (7, 1)] {
            let (index, generation) = token;
            let token = Token { index, generation };
            let data = [token.number(), token.number() | BACKEND];
            assert_eq!(data.map(Token::from), [token; 2]);
            assert_eq!(data.map(|data| data & BACKEND != 0), [false, true]);
            assert!(!data.contains(&BELL) && !data.contains(&NOTHING));
        }
    }

    #[test]
    fn one_worker_stays_able_to_take_new_work() {
        let poller: Poller<UnixStream> = Poller::new(1).unwrap();
        assert!(poller.try_block().is_none());
        let poller: Poller<UnixStream> = Poller::new(3).unwrap();
        let one = poller.try_block().unwrap();
        let _two = poller.try_block().unwrap();
        assert!(poller.try_block().is_none());
        drop(one);
        let _three = poller.try_block().unwrap();
        assert!(poller.try_block().is_none());
    }

    #[test]
    fn handed_over_items_and_events_take_turns() {
        let mut it = Parked::new();
        for _ in 0..3 {
            let item = UnixStream::pair().unwrap().0;
            it.poller.hand_over(Box::new(item));
        }
        it.client.write_all(b"x").unwrap();
        // Items that are handed over again each time keep no event waiting.
        let mut seen = Vec::new();
        while !seen.contains(&Cause::Ready) && seen.len() < 10 {
            let (item, cause) = it.poller.try_wait().expect("there is work");
            seen.push(cause);
            if cause == Cause::Woken {
                it.poller.hand_over(item);
            }
        }
        assert!(seen.len() <= 4, "{seen:?}");
        // And events keep no item waiting.
        let rest = std::iter::from_fn(|| it.poller.try_wait()).count();
        assert_eq!(rest, 3, "the items that were handed over");
    }

    #[test]
    fn batches_are_handed_over() {
        let mut slots = Slots::new();
        let tokens: Vec<_> = (0..3).map(|_| slots.reserve()).collect();
        for (number, token) in tokens.iter().enumerate() {
            slots.park(*token, Box::new(number), far()).unwrap();
        }
        slots.sleeping = 2;
        let event = |data, flags| EpollEvent::new(EpollFlags::EPOLLIN | flags, data);
        let none = EpollFlags::empty();
        let events = [
            event(NOTHING, none),
            event(tokens[0].number(), none),
            event(tokens[1].number(), EpollFlags::EPOLLHUP),
            event(tokens[1].number() | BACKEND, none),
            event(tokens[2].number() | BACKEND, EpollFlags::EPOLLHUP),
        ];
        let (first, must_ring) = slots.receive(true, &events);
        assert_eq!(first, Some((Box::new(0), Cause::Ready)));
        assert!(must_ring, "another worker sleeps");
        assert!(slots.entries[1].marked, "its other side had news as well");
        let others: Vec<_> = slots.handed_over.drain(..).collect();
        let expected = [(Box::new(1), Cause::Ended), (Box::new(2), Cause::Backend)];
        assert_eq!(others, expected);
    }

    #[test]
    fn stop_follows_queued_work() {
        let poller: Poller<UnixStream> = Poller::new(8).unwrap();
        thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while let Work::Item(..) = poller.wait().0 {
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            for _ in 0..100 {
                poller.hand_over(Box::new(UnixStream::pair().unwrap().0));
            }
            poller.stop();
            let served: i32 = workers.into_iter().map(|w| w.join().unwrap()).sum();
            assert_eq!(served, 100);
        });
        assert!(matches!(poller.wait().0, Work::Stop));
    }

    #[test]
    fn handover_without_ring_is_kept() {
        const ROUNDS: usize = 20_000;
        let poller: Poller<UnixStream> = Poller::new(2).unwrap();
        let (back, served) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (poller, back) = (&poller, back.clone());
                scope.spawn(move || {
                    while let Work::Item(item, _) = poller.wait().0 {
                        back.send(item).unwrap();
                    }
                });
            }
            // One item as often as not finds both workers asleep, two or three keep them busy.
            for count in 1..=3 {
                for _ in 0..count {
                    poller.hand_over(Box::new(UnixStream::pair().unwrap().0));
                }
                for round in 0..ROUNDS {
                    let Ok(item) = served.recv_timeout(Duration::from_secs(10)) else {
                        poller.stop();
                        panic!("lost with {count} items in round {round}");
                    };
                    poller.hand_over(item);
                }
                for _ in 0..count {
                    served.recv_timeout(Duration::from_secs(10)).unwrap();
                }
            }
            poller.stop();
        });
    }

    /// What is read of the backend while it is parked for its client.
    struct ParkedExchange {
        client: UnixStream,
        backend: UnixStream,
    }

    impl AsFd for ParkedExchange {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.client.as_fd()
        }
    }

    #[test]
    fn response_while_arming_is_seen() {
        const ANSWERS: usize = 100_000;
        let poller: Poller<ParkedExchange> = Poller::new(2).unwrap();
        let (client, _other) = UnixStream::pair().unwrap();
        let (backend, mut application) = UnixStream::pair().unwrap();
        backend.set_nonblocking(true).unwrap();
        let exchange = ParkedExchange { client, backend };
        let token = poller.enter(|_| Box::new(exchange), far()).unwrap();
        poller.wake(token);
        let answers = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Work::Item(item, _) = poller.wait().0 {
                        let mut running = Some(item);
                        while let Some(mut item) = running {
                            while item.backend.read(&mut [0]).is_ok() {
                                answers.fetch_add(1, Ordering::SeqCst);
                            }
                            let backend = item.backend.as_fd();
                            poller.arm(token, backend, Interest::Read).unwrap();
                            running = poller.park(token, item, Interest::Read, far()).unwrap();
                        }
                    }
                });
            }
            let begun = Instant::now();
            for sent in 0..ANSWERS {
                // The last response has just been read, so the worker is about to arm.
                while answers.load(Ordering::SeqCst) < sent {
                    if begun.elapsed() > Duration::from_secs(60) {
                        poller.stop();
                        panic!("answer {sent} was missed");
                    }
                    thread::yield_now();
                }
                application.write_all(b"x").unwrap();
            }
            poller.stop();
        });
    }

    /// Slots with one item in each, parked until so many seconds after the start.
    fn slots(start: Instant, seconds: &[u64]) -> (Slots<u64>, Vec<Token>) {
        let mut slots = Slots::new();
        let park = |seconds: &u64| {
            let token = slots.reserve();
            let deadline = start + Duration::from_secs(*seconds);
            slots.park(token, Box::new(*seconds), deadline).unwrap();
            token
        };
        let tokens = seconds.iter().map(park).collect();
        (slots, tokens)
    }

    #[test]
    fn deadlines_expire_in_order() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut slots, tokens) = slots(start, &[5, 1, 4, 2, 3]);
        let expire = |slots: &mut Slots<u64>, seconds| {
            let (expired, earliest) = slots.expire(at(seconds));
            let expired: Vec<_> = expired.into_iter().map(|item| *item).collect();
            (expired, earliest)
        };
        assert_eq!(expire(&mut slots, 0), (vec![], Some(at(1))));
        assert_eq!(expire(&mut slots, 2), (vec![1, 2], Some(at(3))));
        // Out, out and gone, parked for longer, parked for shorter.
        let item = slots.take(tokens[4]).unwrap();
        assert_eq!(expire(&mut slots, 3), (vec![], Some(at(4))));
        assert_eq!(slots.park(tokens[4], item, at(30)), Ok(false));
        slots.take(tokens[2]).unwrap();
        slots.release(tokens[2]);
        let item = slots.take(tokens[0]).unwrap();
        assert_eq!(slots.park(tokens[0], item, at(10)), Ok(false));
        assert_eq!(slots.park(tokens[1], Box::new(6), at(6)), Ok(false));
        assert_eq!(slots.park(tokens[3], Box::new(3), at(3)), Ok(true));
        assert_eq!(expire(&mut slots, 5), (vec![3], Some(at(6))));
        assert_eq!(expire(&mut slots, 9), (vec![6], Some(at(10))));
        assert_eq!(expire(&mut slots, 29), (vec![5], Some(at(30))));
        assert_eq!(expire(&mut slots, 30), (vec![3], None));
        // A slot that was given back keeps its entry for its next item, however long that stays.
        assert_eq!(slots.deadlines.len(), 0);
    }

    #[test]
    fn deadlines_do_not_pile_up() {
        let start = Instant::now();
        let (mut slots, tokens) = slots(start, &[60; 8]);
        for round in 0..100_000_u64 {
            let now = start + Duration::from_millis(round);
            // By turns an idle connection, a short wait, and a new item in the slot.
            let slot = round as usize % 8;
            let (far, near) = (Duration::from_secs(75), Duration::from_millis(100));
            let mut token = tokens[slot];
            token.generation = slots.entries[slot].generation;
            slots.take(token);
            let deadline = now + if round % 3 == 0 { near } else { far };
            let _ = slots.park(token, Box::new(0), deadline);
            if round % 5 == 0 {
                slots.take(token);
                slots.release(token);
                slots.reserve();
            }
            slots.expire(now);
            assert!(slots.deadlines.len() <= 8);
        }
        let parked = slots.entries.iter().filter(|slot| slot.parked.is_some());
        for slot in parked {
            let (_, deadline) = slot.parked.as_ref().unwrap();
            assert!(slot.scheduled.unwrap() <= *deadline);
        }
    }

    #[test]
    fn the_alarm_goes_off_for_the_earliest_deadline() {
        let poller = Poller::new(2).unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        poller.enter(|_| Box::new(one), far()).unwrap();
        poller.enter(|_| Box::new(two), after(10)).unwrap();
        assert!(poller.alarm().wait(Duration::from_secs(60)));
        assert_eq!(poller.expire(Instant::now()).len(), 1);
        assert_eq!(poller.parked(), 1);
        assert!(start.elapsed() < Duration::from_secs(60));
        // And for one that comes after that.
        let (three, _client) = UnixStream::pair().unwrap();
        let token = poller.enter(|_| Box::new(three), after(20)).unwrap();
        poller.alarm().wait(Duration::from_secs(60));
        let expired = poller.expire(Instant::now());
        assert_eq!(expired.len(), 1);
        poller.leave(token);
    }
}

/// All orders of a few steps of workers, backend, client, waker and tick, over the real slots.
#[cfg(test)]
mod model {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    /// Three workers, the item that they run, and one more that is handed over and runs once. A step is what happens
    /// under the lock at once, or one system call.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Model {
        slots: Slots<ModelItem>,
        token: Token,
        workers: Vec<ModelWorker>,
        now: Instant,
        alarm: Option<Instant>,
        /// Events that no worker has taken yet, by their data.
        events: Vec<u64>,
        /// The backend's socket waits for its event.
        armed: bool,
        /// Rings that are due, but not done.
        rings: usize,
        /// What has happened and was not seen by the item yet: bytes of the backend, bytes of the client, news of a
        /// waker. And wakes that are due, but not done.
        answered: bool,
        sent: bool,
        news: bool,
        wakes: usize,
        script: ModelScript,
    }

    /// How often it happens that ...
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    struct ModelScript {
        /// the backend sends something,
        answers: usize,
        /// the client does,
        sends: usize,
        /// something frees what the item waits for,
        news: usize,
        /// another item is handed over,
        others: usize,
        /// a deadline is over,
        expiries: usize,
        /// the poller is stopped.
        stops: usize,
        /// Events that a worker takes at once.
        batch: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum ModelItem {
        Session { deadline: Instant },
        Other,
    }

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    enum ModelWorker {
        Free,
        Sleeping,
        Looking,
        Returning { slept: bool, events: Vec<u64> },
        Reading(Box<ModelItem>),
        Arming(Box<ModelItem>),
        Parking(Box<ModelItem>),
        Stopped,
    }

    const LONG: Duration = Duration::from_secs(10);

    impl Model {
        fn new(script: ModelScript) -> Self {
            let mut slots = Slots::new();
            let token = slots.reserve();
            let now = Instant::now();
            let deadline = now + LONG;
            let item = Box::new(ModelItem::Session { deadline });
            Self {
                slots,
                token,
                workers: vec![
                    ModelWorker::Reading(item),
                    ModelWorker::Free,
                    ModelWorker::Free,
                ],
                now,
                alarm: None,
                events: Vec::new(),
                armed: false,
                rings: 0,
                answered: false,
                sent: false,
                news: false,
                wakes: 0,
                script,
            }
        }

        /// Every state that one step leads to.
        fn steps(&self) -> Vec<Self> {
            let mut steps = Vec::new();
            for index in 0..self.workers.len() {
                let mut next = self.clone();
                if next.work(index) {
                    steps.push(next);
                }
            }
            for step in [
                Self::ring,
                Self::wake,
                Self::tick,
                Self::answer,
                Self::send,
                Self::have_news,
                Self::hand_over,
                Self::let_time_pass,
                Self::stop,
            ] {
                let mut next = self.clone();
                if step(&mut next) {
                    steps.push(next);
                }
            }
            steps
        }

        fn work(&mut self, index: usize) -> bool {
            let worker = mem::replace(&mut self.workers[index], ModelWorker::Free);
            self.workers[index] = match worker {
                ModelWorker::Free => match self.slots.next() {
                    NextWork::Run(Work::Item(item, _)) => ModelWorker::Reading(item),
                    NextWork::Run(Work::Stop) => ModelWorker::Stopped,
                    NextWork::Look => ModelWorker::Looking,
                    NextWork::Sleep => ModelWorker::Sleeping,
                },
                ModelWorker::Sleeping if self.events.is_empty() => return false,
                ModelWorker::Sleeping => ModelWorker::Returning {
                    slept: true,
                    events: self.take_events(),
                },
                ModelWorker::Looking if self.events.is_empty() => ModelWorker::Free,
                ModelWorker::Looking => ModelWorker::Returning {
                    slept: false,
                    events: self.take_events(),
                },
                ModelWorker::Returning { slept, events } => {
                    let event = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
                    let events: Vec<_> = events.into_iter().map(event).collect();
                    let (found, must_ring) = self.slots.receive(slept, &events);
                    self.rings += usize::from(must_ring);
                    found.map_or(ModelWorker::Free, |(item, _)| ModelWorker::Reading(item))
                }
                ModelWorker::Reading(item) if *item == ModelItem::Other => ModelWorker::Free,
                ModelWorker::Reading(mut item) => {
                    (self.answered, self.sent, self.news) = (false, false, false);
                    if let ModelItem::Session { deadline } = &mut *item
                        && *deadline <= self.now
                    {
                        *deadline = self.now + LONG;
                    }
                    ModelWorker::Arming(item)
                }
                ModelWorker::Arming(item) => {
                    self.armed = true;
                    self.report_answer();
                    ModelWorker::Parking(item)
                }
                ModelWorker::Parking(item) => {
                    let ModelItem::Session { deadline } = *item else {
                        panic!("the other item is never parked");
                    };
                    match self.slots.park(self.token, item, deadline) {
                        Ok(false) => ModelWorker::Free,
                        Ok(true) => {
                            self.set_alarm(deadline);
                            ModelWorker::Free
                        }
                        Err(item) => ModelWorker::Reading(item),
                    }
                }
                ModelWorker::Stopped => {
                    self.workers[index] = ModelWorker::Stopped;
                    return false;
                }
            };
            true
        }

        fn take_events(&mut self) -> Vec<u64> {
            let count = self.script.batch.min(self.events.len());
            self.events.drain(..count).collect()
        }

        fn add_event(&mut self, data: u64) {
            if !self.events.contains(&data) {
                self.events.push(data);
            }
        }

        fn report_answer(&mut self) {
            if self.armed && self.answered {
                self.armed = false;
                self.add_event(self.token.number() | BACKEND);
            }
        }

        fn set_alarm(&mut self, deadline: Instant) {
            self.alarm = Some(self.alarm.map_or(deadline, |alarm| alarm.min(deadline)));
        }

        fn ring(&mut self) -> bool {
            let happens = once(&mut self.rings);
            if happens {
                self.add_event(BELL);
            }
            happens
        }

        fn wake(&mut self) -> bool {
            let happens = once(&mut self.wakes);
            if happens {
                self.rings += usize::from(self.slots.wake(self.token));
            }
            happens
        }

        fn tick(&mut self) -> bool {
            if self.alarm.is_none_or(|alarm| alarm > self.now) {
                return false;
            }
            let (expired, earliest) = self.slots.expire(self.now);
            self.alarm = earliest;
            for item in expired {
                self.rings += usize::from(self.slots.hand_over(item));
            }
            true
        }

        fn answer(&mut self) -> bool {
            let happens = once(&mut self.script.answers);
            if happens {
                self.answered = true;
                self.report_answer();
            }
            happens
        }

        fn send(&mut self) -> bool {
            let happens = once(&mut self.script.sends);
            if happens {
                self.sent = true;
                self.add_event(self.token.number());
            }
            happens
        }

        fn have_news(&mut self) -> bool {
            let happens = once(&mut self.script.news);
            if happens {
                self.news = true;
                self.wakes += 1;
            }
            happens
        }

        fn hand_over(&mut self) -> bool {
            // Once the workers have ended, no one is left to run it.
            let happens = !self.slots.stopping && once(&mut self.script.others);
            if happens {
                let item = Box::new(ModelItem::Other);
                self.rings += usize::from(self.slots.hand_over(item));
            }
            happens
        }

        fn let_time_pass(&mut self) -> bool {
            let happens = once(&mut self.script.expiries);
            if happens {
                self.now += LONG;
            }
            happens
        }

        fn stop(&mut self) -> bool {
            let happens = once(&mut self.script.stops);
            if happens {
                self.rings += usize::from(self.slots.stop());
            }
            happens
        }

        /// What holds after each step.
        fn check(&self) {
            let slot = &self.slots.entries[self.token.index as usize];
            let held = self.workers.iter().filter_map(ModelWorker::item);
            let handed_over = self.slots.handed_over.iter().map(|(item, _)| &**item);
            let parked = slot.parked.iter().map(|(item, _)| &**item);
            let all = held.chain(handed_over).chain(parked);
            let sessions = all.filter(|item| **item != ModelItem::Other).count();
            assert_eq!(sessions, 1, "{self:#?}");
            let sleeping = self.workers.iter().filter(|worker| {
                matches!(
                    worker,
                    ModelWorker::Sleeping | ModelWorker::Returning { slept: true, .. }
                )
            });
            assert_eq!(self.slots.sleeping, sleeping.count(), "{self:#?}");
            // What the proof at `must_ring` says.
            let has_work = self.slots.stopping || !self.slots.handed_over.is_empty();
            let may_wait = has_work && self.slots.sleeping > 0;
            assert!(
                !may_wait || self.slots.bell_pending,
                "no ring is due: {self:#?}"
            );
            let taken = self.workers.iter().filter_map(ModelWorker::events);
            let all = taken.chain([&self.events[..]]).flatten();
            let bells = all.filter(|data| **data == BELL).count();
            assert_eq!(
                usize::from(self.slots.bell_pending),
                self.rings + bells,
                "{self:#?}"
            );
            if let Some((_, deadline)) = slot.parked {
                assert!(slot.scheduled.unwrap() <= deadline, "{self:#?}");
            }
            assert_eq!(
                self.slots.deadlines.len(),
                usize::from(slot.scheduled.is_some())
            );
        }

        /// What holds when nothing can happen any more.
        fn check_end(&self) {
            let slot = &self.slots.entries[self.token.index as usize];
            assert!(self.slots.handed_over.is_empty(), "forgotten: {self:#?}");
            if self.slots.stopping {
                assert!(
                    self.workers
                        .iter()
                        .all(|worker| *worker == ModelWorker::Stopped),
                    "{self:#?}"
                );
                return;
            }
            assert!(
                !self.answered && !self.sent && !self.news,
                "a wake-up is lost: {self:#?}"
            );
            let (_, deadline) = slot.parked.as_ref().expect("the item is parked");
            assert!(*deadline > self.now, "a deadline is lost: {self:#?}");
        }
    }

    impl ModelWorker {
        fn item(&self) -> Option<&ModelItem> {
            match self {
                Self::Reading(item) | Self::Arming(item) | Self::Parking(item) => Some(item),
                _ => None,
            }
        }

        fn events(&self) -> Option<&[u64]> {
            match self {
                Self::Returning { events, .. } => Some(events),
                _ => None,
            }
        }
    }

    fn once(left: &mut usize) -> bool {
        let happens = *left > 0;
        *left -= usize::from(happens);
        happens
    }

    /// Goes through all states; how many there are.
    fn explore(script: ModelScript) -> usize {
        let first = Model::new(script);
        let mut seen = HashSet::from([first.clone()]);
        let mut open = vec![first];
        while let Some(world) = open.pop() {
            let steps = world.steps();
            if steps.is_empty() {
                world.check_end();
            }
            for mut step in steps {
                step.check();
                // Workers are alike, so states that differ in which is which count as one.
                step.workers.sort();
                if seen.insert(step.clone()) {
                    open.push(step);
                }
            }
        }
        seen.len()
    }

    #[test]
    fn no_order_of_steps_loses_a_wake_up_or_an_item() {
        let base = ModelScript::default();
        #[rustfmt::skip]
        let scripts = [
            ModelScript { answers: 2, sends: 2, ..base },
            ModelScript { answers: 1, news: 2, ..base },
            ModelScript { answers: 1, sends: 1, expiries: 1, ..base },
            ModelScript { expiries: 2, ..base },
            ModelScript { sends: 1, news: 1, ..base },
            ModelScript { answers: 1, others: 2, ..base },
            ModelScript { sends: 1, news: 1, others: 1, ..base },
            ModelScript { others: 3, ..base },
            ModelScript { answers: 1, others: 1, stops: 1, ..base },
        ];
        for script in scripts {
            for batch in [1, 2] {
                let states = explore(ModelScript { batch, ..script });
                assert!(states > 100, "{script:?} has only {states} states");
            }
        }
    }
}
