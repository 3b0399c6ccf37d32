//! The other processes of this server: those that were replaced by this one, and the one that has replaced it.
//!
//! After an upgrade the old process finishes what it has begun, for hours if a client keeps its WebSocket open. Meanwhile the
//! channel between the two stays open, and a thread in each ([`Succession::run`]) reads what the other one sends
//! ([`message`]):
//!
//! - The old process gives its idle clients and idle backends to the new one, with their descriptors, at once or when they
//!   become idle. Connections with TLS stay, since their keys cannot leave the process.
//! - A request that waits for a backend in the old process asks the new one, where it gets a place in the queue ([`loans`]) and
//!   is lent a backend, which goes back when it is idle.
//! - The new process has the old one stop when it stops itself, and sends it what an operator switches ([`switching`]), so
//!   that requests that wait in the old one for the end of a pause go on when the new one is asked to resume the site.
//!
//! When the new process is replaced in turn, it hands on its channels to older ones. So each old process is connected to the one
//! that accepts, however many have been in between.
//!
//! **Invariants**: a connection is in one process at a time; it is closed in the one that has sent it. Each channel is read by
//! one thread.

pub(crate) mod link;
mod loans;
pub(crate) mod message;
pub(crate) mod switching;

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::Mutex;

use self::link::ProcessLink;
use self::loans::Loans;
use self::message::ProcessMessage;
use super::session::Session;
use super::sessions::Sessions;
use crate::amount::counted;
use crate::backend::dial_in::DialInControl;
use crate::backend::dial_in::adoption::GivenBackend;
use crate::backend::identity::BackendIdentity;
use crate::net::listener::Stop;
use crate::net::stream::Stream;
use crate::process::channel::Channel;
use crate::process::{self, reason};
use crate::server::operations;
use crate::stats;

/// The other processes of this server.
pub(crate) struct Succession {
    sessions: Arc<Sessions<Session>>,
    control: Arc<DialInControl>,
    others: Mutex<Others>,
    /// How often the process that has replaced this one has asked it to stop.
    stops: AtomicUsize,
    leaving: Mutex<Leaving>,
}

/// The end of a process that was replaced.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    NotYet,
    /// This was sent to the other process at this time. It may have sent a backend before it has read that.
    Begun(Instant),
    /// The other process sends nothing any more.
    Over,
}

#[derive(Default)]
struct Others {
    predecessors: Vec<LinkThread>,
    successor: Option<LinkThread>,
}

/// A link and the thread that reads it.
struct LinkThread {
    link: Arc<ProcessLink>,
    stop: Stop,
    thread: JoinHandle<()>,
}

/// Which process is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Predecessor,
    Successor,
}

/// What has come from another process.
#[derive(Default)]
struct TakenOver {
    backends: usize,
    clients: usize,
    is_reported: bool,
    /// Of a list of what is switched that has not ended yet.
    switched: Vec<String>,
}

impl Succession {
    pub(super) fn new(sessions: Arc<Sessions<Session>>, control: Arc<DialInControl>) -> Self {
        Self {
            sessions,
            control,
            others: Mutex::default(),
            stops: AtomicUsize::new(0),
            leaving: Mutex::new(Leaving::NotYet),
        }
    }

    /// Takes over what a process sends that this one has replaced.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn add_predecessor(
        self: &Arc<Self>,
        channel: Channel,
    ) -> io::Result<Arc<ProcessLink>> {
        let reader = self.read(channel, Role::Predecessor)?;
        let link = Arc::clone(&reader.link);
        self.sessions.shared.switching.add(&link);
        let mut others = self.others.lock();
        others
            .predecessors
            .retain(|reader| !reader.thread.is_finished());
        others.predecessors.push(reader);
        Ok(link)
    }

    /// Another process has replaced this one. Returns the link to it.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn set_successor(
        self: &Arc<Self>,
        channel: Channel,
    ) -> io::Result<Arc<ProcessLink>> {
        let reader = self.read(channel, Role::Successor)?;
        let link = Arc::clone(&reader.link);
        self.others.lock().successor = Some(reader);
        Ok(link)
    }

    /// Hands on the channels to older processes.
    pub(super) fn hand_on_predecessors(&self, link: &ProcessLink) {
        let predecessors = std::mem::take(&mut self.others.lock().predecessors);
        for reader in predecessors {
            let older = Arc::clone(&reader.link);
            // First, since only one process may read it.
            reader.end();
            if older.is_open() {
                link.send(&ProcessMessage::Older, Some(older.channel.as_fd()));
            }
        }
    }

    /// All idle connections were given to the process that has replaced this one.
    pub(super) fn report(&self, link: &ProcessLink) {
        link.send(&ProcessMessage::All, None);
        let backends = counted(stats::get(&link.backends), "idle backend");
        let clients = counted(stats::get(&link.clients), "idle client");
        log::info!("upgrade: handed over {backends} and {clients}");
    }

    /// The number of processes that were replaced by this one and have not ended.
    pub(super) fn predecessors(&self) -> usize {
        let others = self.others.lock();
        let readers = others.predecessors.iter();
        readers
            .filter(|reader| !reader.thread.is_finished())
            .count()
    }

    /// Has them stop: the first time as after TERM, the second time at once.
    pub(super) fn stop_predecessors(&self) {
        let links: Vec<_> = {
            let others = self.others.lock();
            let readers = others.predecessors.iter();
            readers.map(|reader| Arc::clone(&reader.link)).collect()
        };
        for link in links {
            link.send(&ProcessMessage::Stop, None);
        }
    }

    /// How often the process that has replaced this one has asked it to stop.
    pub(super) fn stops(&self) -> usize {
        self.stops.load(Ordering::Relaxed)
    }

    /// Reports to the process that has replaced this one that this one ends. Returns whether that sends nothing any more. To
    /// be called again until then.
    pub(super) fn leave(&self, link: &ProcessLink) -> bool {
        let mut leaving = self.leaving.lock();
        match *leaving {
            Leaving::NotYet => {
                *leaving = Leaving::Begun(Instant::now());
                drop(leaving);
                !link.send(&ProcessMessage::Leave, None)
            }
            Leaving::Begun(since) => since.elapsed() >= LONGEST_LEAVE,
            Leaving::Over => true,
        }
    }

    /// Ends the threads. The other processes see the end of their channels.
    pub(super) fn end(&self) {
        let Others {
            predecessors,
            successor,
        } = std::mem::take(&mut *self.others.lock());
        predecessors
            .into_iter()
            .chain(successor)
            .for_each(LinkThread::end);
    }

    fn read(self: &Arc<Self>, channel: Channel, role: Role) -> io::Result<LinkThread> {
        let link = Arc::new(ProcessLink::new(channel, Arc::clone(&self.control))?);
        let stop = Stop::new()?;
        let loans = Loans::new()?;
        let run = {
            let (own, link, stop) = (Arc::clone(self), Arc::clone(&link), stop.clone());
            move || own.run(&link, role, &stop, loans)
        };
        let thread = process::thread("succession", run)?;
        Ok(LinkThread { link, stop, thread })
    }

    /// Reads a channel until it ends or is stopped.
    fn run(self: &Arc<Self>, link: &Arc<ProcessLink>, role: Role, stop: &Stop, mut loans: Loans) {
        let mut taken = TakenOver::default();
        loop {
            let mut polled = [
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(loans.fd(), PollFlags::POLLIN),
                PollFd::new(link.channel.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    log::error!("poll: {error}");
                    return link.end();
                }
            }
            // Flags that the library does not know give `None`, and mean an event.
            if polled[0].any().unwrap_or(true) {
                return;
            }
            loans.advance(link);
            for _ in 0..MOST_AT_ONCE {
                match link.channel.receive_now() {
                    Ok(Some((text, descriptor))) => match ProcessMessage::decode(&text) {
                        Some(message) => {
                            self.obey(message, descriptor, role, link, &mut loans, &mut taken);
                        }
                        None => log::debug!("unknown message of another process: {text:?}"),
                    },
                    Err(error) if error.kind() == ErrorKind::TimedOut => break,
                    ended => {
                        link.end();
                        if let Err(error) = ended {
                            log::debug!("another process: {}", reason(&error));
                        }
                        taken.report();
                        return;
                    }
                }
            }
        }
    }

    fn obey(
        self: &Arc<Self>,
        message: ProcessMessage,
        descriptor: Option<OwnedFd>,
        role: Role,
        link: &Arc<ProcessLink>,
        loans: &mut Loans,
        taken: &mut TakenOver,
    ) {
        let shared = &self.sessions.shared;
        let list = || operations::switched(shared);
        match (message, descriptor) {
            (ProcessMessage::Client(client), Some(socket)) => {
                taken.clients += 1;
                self.sessions.adopt(Stream::from(socket), client);
            }
            (
                ProcessMessage::Backend {
                    id,
                    name,
                    key,
                    responses,
                    peer,
                    address,
                },
                Some(socket),
            ) => {
                taken.backends += 1;
                let given = GivenBackend {
                    socket,
                    address,
                    identity: BackendIdentity {
                        id,
                        name,
                        key,
                        peer,
                    },
                    responses,
                };
                if let Err(why) = self.control.adopt(given) {
                    log::debug!("backend {id} from {peer} is not taken over: {why}");
                }
            }
            (ProcessMessage::Ask { id, keys, address }, _) => {
                if let Some(pool) = self.control.pool(&address) {
                    let order = loans::order(&shared.snapshot(), &pool, &keys);
                    loans.add(pool, keys, id, order, link);
                }
            }
            (ProcessMessage::Older, Some(end)) if role == Role::Predecessor => {
                match self.add_predecessor(Channel::from(end)) {
                    Ok(older) => shared.switching.update(list, &older),
                    Err(error) => {
                        log::debug!("an older process is on its own: {}", reason(&error));
                    }
                }
            }
            (ProcessMessage::All, _) if role == Role::Predecessor => {
                taken.report();
                shared.switching.update(list, link);
            }
            (ProcessMessage::Switched(text), _) => taken.switched.push(text),
            (ProcessMessage::AllSwitched, _) => {
                operations::restore(shared, &std::mem::take(&mut taken.switched));
            }
            (ProcessMessage::Stop, _) if role == Role::Successor => {
                self.stops.fetch_add(1, Ordering::Relaxed);
            }
            (ProcessMessage::Leave, _) if role == Role::Predecessor => {
                loans.clear();
                link.send(&ProcessMessage::Leave, None);
            }
            (ProcessMessage::Leave, _) => *self.leaving.lock() = Leaving::Over,
            // The descriptor could not be received: too many open files.
            (
                ProcessMessage::Client(_) | ProcessMessage::Backend { .. } | ProcessMessage::Older,
                None,
            ) => {
                log::warn!("upgrade: a connection is lost: too many open files");
            }
            (message, _) => log::debug!("unexpected message of another process: {message:?}"),
        }
    }
}

impl LinkThread {
    fn end(self) {
        self.stop.stop();
        let _ = self.thread.join();
    }
}

impl TakenOver {
    fn report(&mut self) {
        let Self {
            backends, clients, ..
        } = *self;
        if !std::mem::replace(&mut self.is_reported, true) {
            let backends = counted(backends, "idle backend");
            let clients = counted(clients, "idle client");
            log::info!("upgrade: took over {backends} and {clients}");
        }
    }
}

/// How long a process waits for the answer when it ends.
const LONGEST_LEAVE: Duration = Duration::from_secs(1);
/// Most messages that are read before the thread looks whether it has to stop.
const MOST_AT_ONCE: usize = 64;
