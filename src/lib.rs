//! swiftiply is a clustering HTTP proxy whose backends dial in.
//!
//! An application process connects to the proxy over TCP, sends 25 bytes and maybe a key, and from then on answers
//! plain HTTP/1.1 requests on that connection, one at a time. Start a process and it serves; stop it and nothing breaks.
//! Visitors are routed by host name to the idle backends of a site. (Ordinary servers, which do not dial in, are connected
//! to: [`backend::directory`].)
//!
//! This library is the whole of it: `swiftiply(8)` is a small program around [`Server`], and [`client`] is the other
//! side, for applications written in Rust. Start one of each with the examples there.
//!
//! # The idea: blocking is how a worker reads and writes, parking is how an exchange waits
//!
//! It is a blocking server: no async runtime, a small fixed pool of worker threads, blocking reads and writes. A worker that
//! has to wait for a backend blocks for 20 ms at most, and only in a quiet server; then it *parks* the exchange, as every
//! session is parked that waits for its visitor. A parked one costs memory and no thread. So the number of requests under way
//! is bounded by backends, connections and memory, not by workers.
//!
//! ```text
//!  visitors            accept ADDR        the poller: parked sessions      worker 1..N
//!  ---------->  accepts, hands over  -->  one epoll set on which the   --> runs a session until it has to
//!                                         workers themselves sleep; two    wait, and parks it again
//!                                         sockets per session                |            ^
//!                                                 ^                  acquires a backend   | gives it back,
//!                                                 | wakes                    v            | to the oldest waiter
//!  applications        dial-in ADDR       the pool: idle backends of an address and the queue of requests,
//!  ---------->  accepts, reads the   -->  behind a Mutex. A request waits at its slot: on a Condvar while
//!               preamble, watches         its worker blocks, with a waker once it is parked
//! ```
//!
//! # The life of a request
//!
//! 1. [`net::listener`]: an acceptor takes the connection and puts a session into [`net::poller`].
//! 2. A worker gets it when there are bytes, and runs it: `server::session`, the front door. Not a whole head yet, or
//!    not the end of a TLS handshake ([`net::conn`]): parked, with what was read so far and the same deadline.
//! 3. [`http::head`] takes the head apart, strictly, or refuses it with a status.
//! 4. `server::route` picks the site, in the one immutable snapshot of the configuration that this request will see.
//!    `server::guard` asks for a password where the site wants one. If it is a file that is asked for, [`content::files`]
//!    has the response, mostly out of memory, and `server::session` sends it.
//! 5. `server::collect` gathers the body, in memory or in a file, while the session may be parked again. (A site may have
//!    it passed on as it arrives instead.)
//! 6. [`relay`] is the exchange, a state machine: it acquires a backend ([`backend::lease`]) from a
//!    [`backend::pool`] or a [`backend::directory`], or waits in the [`backend::queue`]; sends the request, written from what
//!    was parsed (`server::forwarding`); and reads the head of the response. Where it cannot go on, it says what it waits
//!    for, and the worker decides how (`server::worker`).
//! 7. The exchange passes the response on while it is read. The backend goes back to its pool when the last byte was
//!    read, before that byte is written. What the visitor does not take goes to a [`relay::spool`], and the exchange is
//!    parked until there is room to write more. A file needs no spool: it stays where it is.
//!    If the response is a switch to another protocol that was asked for (a WebSocket), HTTP is over: both connections go to
//!    the [tunnels](net::tunnel), whose thread carries the bytes until both sides have ended.
//! 8. The access log gets its line; the session reads the next request, is parked, or is closed, with a reason from
//!    one table: [`stats::Close`].
//!
//! The phases of an exchange, with what each waits for and until when, are in a table in [`relay`]. The access proxy
//! ([`access`]) drives the same exchanges, from one thread per dialled connection.
//!
//! # Threads
//!
//! | thread | how many | does | never does |
//! |---|---|---|---|
//! | `accept` | one per visitors' address | accepts, registers in the poller; pauses when descriptors run out | read or write the socket |
//! | `dial-in` | one per backends' address | accepts, reads preambles under a deadline, watches for hang-ups | wait for any one peer |
//! | `worker` | `workers` | the life of a request, above | wait longer than 20 ms for a peer; touch configuration files |
//! | `tunnels` | one | carries the bytes of all upgraded connections, in turn | wait for any one of them |
//! | `redis` | one per site with `directory: redis` | takes servers from Redis for those that wait, and gives them back | serve |
//! | `lookup`, `check` | one per server at a time, for a moment | looks a name up, checks a server | anything else |
//! | `tick` | one | closes or wakes sessions whose deadline is over, closes idle connections to servers that are due, writes access logs | serve |
//!
//! What frees a waiting request never needs the worker that the request might hold: preambles are read by the dial-in
//! thread, and one worker always remains able to take new work.
//!
//! # Rules that hold everywhere
//!
//! - **Ownership is the protocol.** A socket has one owner, poller, worker, pool or tunnels, and moves by value. A
//!   [`Lease`](backend::lease::Lease) gives its backend back when it is finished and closes it when it is dropped.
//! - **Every close has a reason** and every wait a deadline.
//! - **Locks are leaves**: no system call but a wake-up, no logging and no second lock under one. The table of locks is in
//!   [`server`].
//! - **A panic loses one session**, not a worker.
//! - **`unsafe`** stands in [`process`] alone.
//!
//! # Layers
//!
//! A module imports only from rows above its own; a test reads the `use` lines and holds this.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | 1 | [`http`], [`backend::preamble`], [`content::passwords`], [`budget`], [`stats`] | bytes and numbers: no sockets, no files, no clock |
//! | 2 | [`process`] | the operating system, for the process as a whole |
//! | 3 | [`config`] | files, once, at the start and at reloads |
//! | 4 | [`net`] | sockets |
//! | 5 | [`logging`], [`exchange`] | one exchange |
//! | 6 | [`backend`], [`client`] | the dial-in protocol, from both sides |
//! | 6 | [`content`] | files: those that are served, and those that are read again when they change |
//! | 7 | [`relay`] | one exchange, from the lease of a backend to the last byte of the response |
//! | 8 | [`server`], [`access`] | everything |
//!
//! Names of `redis` stand only in `backend::directory`, of `httparse` only in `http::head`, of `bcrypt` and `sha_crypt` in `content::passwords`, of `mime_guess` in `content::files`, of `rustls` only in `net::tls`, of `threadpool` only in `server`, of `serde_yaml` only in `config`.

pub mod access;
pub mod backend;
pub mod budget;
pub mod client;
pub mod config;
pub mod content;
pub mod exchange;
pub mod http;
pub mod logging;
pub mod net;
pub mod process;
pub mod relay;
pub mod server;
pub mod stats;

pub use server::Server;
