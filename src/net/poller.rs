//! The set of parked sessions, and the place where workers wait for work.
//!
//! Workers are leader and followers in one: each blocks in `epoll_wait(2)` on one shared set and takes one
//! event, so that there is no dispatcher and, under load, no sleep between two sessions. Sockets are
//! registered edge-triggered and stay so, which saves the system call that would arm them again: whoever parks an
//! item to be read has to have read all there is, see [`Poller::park`].
//!
//! An item (a session) belongs to whoever holds its box: a worker while it runs, the poller while it is
//! parked. Its [`Token`] stays the same from accept to close.
//!
//! Called by: acceptors ([`Poller::enter`]), workers ([`Poller::wait`], [`Poller::park`],
//! [`Poller::leave`]), whoever frees what a parked session waits for ([`Poller::wake`]), the tick
//! ([`Poller::expire`], [`Poller::hand_over`]) and the lookout ([`Poller::look_out`]). How many of the workers come here
//! at a time is seen to by [`super::crew`].
//!
//! **Invariants**
//! - *Nothing is lost while an item is out.* An event, or a wake-up, finds the slot empty then and leaves a mark
//!   there, and `park` gives the item back as ready.
//! - A socket is registered, or registered anew, while its item is out, so that it is surely the item's.
//! - The lock is a leaf: no system call is made under it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::crew::Crew;

/// Parked items of one server.
#[derive(Debug)]
pub struct Poller<T> {
    epoll: Epoll,
    /// Rings when something was put into `handed_over`, or when the workers are to stop.
    bell: EventFd,
    stopping: AtomicBool,
    slots: Mutex<Slots<T>>,
    crew: Crew,
}

/// Where an item is kept while it is parked; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    index: u32,
    generation: u32,
}

/// What a parked item waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, or the end, from the peer.
    Read,
    /// Room for more bytes to the peer.
    Write,
}

/// What a worker gets.
#[derive(Debug)]
pub enum Work<T> {
    /// An item that may have something to do. It belongs to the caller now.
    Item(Box<T>, Cause),
    /// The poller was stopped.
    Stop,
}

/// Why an item came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// What it waited for has happened.
    Ready,
    /// The same, and the peer has ended its sending side: behind what can be read there is the end.
    Ended,
    /// Somebody has woken it or handed it over; nothing is known of its socket.
    Woken,
}

#[derive(Debug)]
struct Slots<T> {
    entries: Vec<Slot<T>>,
    free: Vec<u32>,
    handed_over: VecDeque<Box<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Something happened while the item was out.
    marked: bool,
    /// What the socket is registered for.
    armed: Interest,
    parked: Option<(Box<T>, Instant)>,
}

impl<T: AsFd> Poller<T> {
    /// An empty set, for so many workers.
    ///
    /// # Errors
    /// Whatever `epoll_create1(2)` and `eventfd(2)` say.
    pub fn new(workers: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Edge-triggered: each ring wakes one worker, and nobody has to read the counter back.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&bell, EpollEvent::new(flags, BELL))?;
        Ok(Self {
            epoll,
            bell,
            stopping: AtomicBool::new(false),
            slots: Mutex::new(Slots {
                entries: Vec::new(),
                free: Vec::new(),
                handed_over: VecDeque::new(),
            }),
            crew: Crew::new(workers),
        })
    }

    /// Takes a new item in and parks it until it can be read or `deadline` is over.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` says; the item is dropped then.
    pub fn enter(
        &self,
        make: impl FnOnce(Token) -> Box<T>,
        deadline: Instant,
    ) -> io::Result<Token> {
        let token = self.slots.lock().reserve();
        let item = make(token);
        let event = EpollEvent::new(flags(Interest::Read), token.number());
        self.epoll.add(item.as_fd(), event)?;
        if let Some(item) = self.park(token, item, Interest::Read, deadline)? {
            self.hand_over(item);
        }
        Ok(token)
    }

    /// Parks an item until what it waits for happens or `deadline` is over; it may come back without either. Gives
    /// the item back if something has happened in the meantime.
    ///
    /// Only what happens after the item came out of the poller brings it back: whoever parks it for reading has read
    /// until nothing was left.
    ///
    /// # Errors
    /// Whatever `epoll_ctl(2)` says; the item is dropped then.
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
            // Registering anew also tells what is ready already.
            let mut event = EpollEvent::new(flags(interest), token.number());
            self.epoll.modify(item.as_fd(), &mut event)?;
            slots = self.slots.lock();
            slots.entries[token.index as usize].armed = interest;
        }
        let slot = &mut slots.entries[token.index as usize];
        if std::mem::take(&mut slot.marked) {
            return Ok(Some(item));
        }
        slot.parked = Some((item, deadline));
        Ok(None)
    }

    /// Takes out a parked item, for the caller to run. `None`: it is out, and will come back as soon as it is parked.
    pub fn take(&self, token: Token) -> Option<Box<T>> {
        self.slots.lock().take(token)
    }

    /// Gives a token back. Whoever drops an item does this; best the item itself.
    pub fn leave(&self, token: Token) {
        self.slots.lock().release(token);
    }

    /// Stops watching the socket of an item that is out and will not be parked again. Its token stays its own.
    pub fn let_go(&self, item: &T) {
        // What may fail is only that it is not watched.
        let _ = self.epoll.delete(item.as_fd());
    }

    /// Blocks until an item has something to do. Called by workers only.
    pub fn wait(&self) -> Work<T> {
        loop {
            let mut events = [EpollEvent::new(EpollFlags::empty(), NOTHING)];
            self.crew.come(&self.stopping);
            let result = self.epoll.wait(&mut events, EpollTimeout::NONE);
            self.crew.go();
            match result {
                Ok(_) | Err(Errno::EINTR) => {}
                // Nothing else can be wrong but the descriptor, without which there is no server.
                Err(error) => panic!("epoll_wait: {error}"),
            }
            let cause = match events[0].events().contains(EpollFlags::EPOLLRDHUP) {
                true => Cause::Ended,
                false => Cause::Ready,
            };
            if events[0].data() == BELL {
                if let Some(work) = self.answer_bell() {
                    return work;
                }
            } else if let Some(item) = self.take(Token::from(events[0].data())) {
                return Work::Item(item, cause);
            }
        }
    }

    /// Sees to it that enough workers are up, until the poller is stopped. Needs a thread of its own.
    pub fn look_out(&self) {
        self.crew.look_out(&self.stopping);
    }

    /// Has a worker run the item with this token, whatever its socket does. An item that is out already
    /// will not be parked but run again.
    pub fn wake(&self, token: Token) {
        let mut slots = self.slots.lock();
        let Some(item) = slots.take(token) else {
            return;
        };
        slots.handed_over.push_back(item);
        drop(slots);
        self.ring();
    }

    /// Has a worker run an item that the caller owns.
    pub fn hand_over(&self, item: Box<T>) {
        self.slots.lock().handed_over.push_back(item);
        self.ring();
    }

    /// Takes out all parked items whose deadlines are over; also returns the earliest one of the others.
    pub fn expire(&self, now: Instant) -> (Vec<Box<T>>, Option<Instant>) {
        let expired = self.take_all(|_, deadline| deadline <= now);
        let slots = self.slots.lock();
        let parked = slots.entries.iter().filter_map(|slot| slot.parked.as_ref());
        (expired, parked.map(|(_, deadline)| *deadline).min())
    }

    /// Takes out all parked items that the caller wants.
    pub fn take_all(&self, wanted: impl Fn(&T, Instant) -> bool) -> Vec<Box<T>> {
        let mut slots = self.slots.lock();
        let mut taken = Vec::new();
        for slot in &mut slots.entries {
            if slot
                .parked
                .as_ref()
                .is_some_and(|(item, deadline)| wanted(item, *deadline))
                && let Some((item, _)) = slot.parked.take()
            {
                taken.push(item);
            }
        }
        taken
    }

    /// Takes out those of the parked items that the caller wants whose deadlines come first, at most so many.
    pub fn take_earliest(&self, count: usize, wanted: impl Fn(&T) -> bool) -> Vec<Box<T>> {
        let mut slots = self.slots.lock();
        let mut found: Vec<(Instant, usize)> = Vec::new();
        for (index, slot) in slots.entries.iter().enumerate() {
            if let Some((item, deadline)) = &slot.parked
                && wanted(item)
            {
                found.push((*deadline, index));
            }
        }
        found.sort_unstable();
        let first = found.into_iter().take(count);
        first
            .filter_map(|(_, index)| slots.entries[index].parked.take())
            .map(|(item, _)| item)
            .collect()
    }

    /// How many items are parked now.
    pub fn parked(&self) -> usize {
        let slots = self.slots.lock();
        slots.entries.iter().filter(|s| s.parked.is_some()).count()
    }

    /// Has every call of [`Poller::wait`] return [`Work::Stop`], now and from now on.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.crew.dismiss();
        self.ring();
    }

    /// What the bell was for, if nobody else has seen to it.
    fn answer_bell(&self) -> Option<Work<T>> {
        let (item, more) = {
            let mut slots = self.slots.lock();
            let item = slots.handed_over.pop_front();
            (item, !slots.handed_over.is_empty())
        };
        // Rings that come close together may arrive as one, so each answer passes on what is left.
        let stopping = self.stopping.load(Ordering::SeqCst);
        if more || stopping {
            self.ring();
        }
        match item {
            Some(item) => Some(Work::Item(item, Cause::Woken)),
            None if stopping => Some(Work::Stop),
            None => None,
        }
    }

    fn ring(&self) {
        // Fails only when the counter is full, after 2^64 rings.
        let _ = self.bell.write(1);
    }
}

impl<T> Slots<T> {
    fn reserve(&mut self) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot {
                generation: 0,
                marked: false,
                armed: Interest::Read,
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
        // Late events and wake-ups for the old token find another generation and are ignored.
        slot.generation = slot.generation.wrapping_add(1) & GENERATIONS;
        slot.marked = false;
        slot.armed = Interest::Read;
        slot.parked = None;
        self.free.push(token.index);
    }

    /// The parked item of a token; leaves a mark where it is out.
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
}

impl Token {
    fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        // Each half has 32 bits, so nothing is cut off.
        Self {
            index: (number & 0xffff_ffff) as u32,
            generation: (number >> 32) as u32,
        }
    }
}

fn flags(interest: Interest) -> EpollFlags {
    EpollFlags::EPOLLET
        | match interest {
            Interest::Read => EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP,
            Interest::Write => EpollFlags::EPOLLOUT,
        }
}

/// Generations have 31 bits, so that no token is taken for [`BELL`] or [`NOTHING`].
const GENERATIONS: u32 = 0x7fff_ffff;
const BELL: u64 = u64::MAX;
const NOTHING: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn item(poller: &Poller<UnixStream>) -> Box<UnixStream> {
        match poller.wait() {
            Work::Item(item, _) => item,
            Work::Stop => panic!("stopped"),
        }
    }

    #[test]
    fn an_item_comes_back_when_it_can_be_read() {
        let poller = Poller::new(8).unwrap();
        let (one, mut other) = UnixStream::pair().unwrap();
        let token = poller.enter(|_| Box::new(one), far()).unwrap();
        assert_eq!(poller.parked(), 1);
        other.write_all(b"x").unwrap();
        let back = item(&poller);
        assert_eq!(poller.parked(), 0);
        // Only what comes from now on brings it back.
        assert!(
            poller
                .park(token, back, Interest::Read, far())
                .unwrap()
                .is_none()
        );
        other.write_all(b"y").unwrap();
        drop(item(&poller));
        poller.leave(token);
    }

    #[test]
    fn what_happens_while_an_item_is_out_brings_it_back() {
        let poller = Poller::new(8).unwrap();
        let (one, mut other) = UnixStream::pair().unwrap();
        let token = poller.enter(|_| Box::new(one), far()).unwrap();
        other.write_all(b"x").unwrap();
        let out = item(&poller);
        other.write_all(b"y").unwrap();
        std::thread::scope(|scope| {
            let other_worker = scope.spawn(|| poller.wait());
            // The other worker gets the event, finds the item out, and leaves a mark.
            while !poller.slots.lock().entries[0].marked {
                std::thread::yield_now();
            }
            let back = poller.park(token, out, Interest::Read, far()).unwrap();
            assert!(back.is_some());
            poller.stop();
            assert!(matches!(other_worker.join().unwrap(), Work::Stop));
        });
    }

    #[test]
    fn room_to_write_is_told_when_it_is_there_already() {
        let poller = Poller::new(8).unwrap();
        let (one, mut other) = UnixStream::pair().unwrap();
        let token = poller.enter(|_| Box::new(one), far()).unwrap();
        poller.wake(token);
        let out = item(&poller);
        assert!(
            poller
                .park(token, out, Interest::Write, far())
                .unwrap()
                .is_none()
        );
        let out = item(&poller);
        // And what came meanwhile, when it is to be read again.
        other.write_all(b"x").unwrap();
        assert!(
            poller
                .park(token, out, Interest::Read, far())
                .unwrap()
                .is_none()
        );
        drop(item(&poller));
    }

    #[test]
    fn a_wake_is_not_lost_whether_the_item_is_parked_or_out() {
        let poller = Poller::new(8).unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let token = poller.enter(|_| Box::new(one), far()).unwrap();
        poller.wake(token);
        let back = item(&poller);
        poller.wake(token);
        let back = poller.park(token, back, Interest::Read, far()).unwrap();
        let back = back.expect("the item was woken while it was out");
        assert!(
            poller
                .park(token, back, Interest::Read, far())
                .unwrap()
                .is_none(),
            "a wake counts once"
        );
    }

    #[test]
    fn events_of_an_earlier_item_do_not_reach_its_successor() {
        let poller = Poller::new(8).unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let old = poller.enter(|_| Box::new(one), far()).unwrap();
        assert_eq!(poller.take_all(|_, _| true).len(), 1);
        poller.leave(old);
        let (two, _other) = UnixStream::pair().unwrap();
        let new = poller.enter(|_| Box::new(two), far()).unwrap();
        assert_eq!(old.index, new.index);
        poller.wake(old);
        assert_eq!(poller.parked(), 1);
    }

    #[test]
    fn deadlines_take_out_only_what_is_over() {
        let poller = Poller::new(8).unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        let now = Instant::now();
        poller.enter(|_| Box::new(one), now).unwrap();
        poller.enter(|_| Box::new(two), far()).unwrap();
        assert_eq!(poller.expire(now).0.len(), 1);
        assert_eq!(poller.parked(), 1);
    }

    #[test]
    fn stopping_reaches_every_worker_after_what_was_handed_over() {
        let poller: Poller<UnixStream> = Poller::new(8).unwrap();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while let Work::Item(..) = poller.wait() {
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
    }
}
