//! swiftiply is a clustering HTTP proxy whose backends dial in.
//!
//! An application process connects to the proxy over TCP or a Unix socket, sends 25 bytes and perhaps a key, and from then
//! on answers plain HTTP/1.1 requests on that connection, one at a time. Start a process and it serves; stop it and nothing
//! breaks. Visitors are routed by host name to the idle backends of a site. (The proxy can also connect to ordinary servers,
//! which do not dial in: [`backend::directory`].)
//!
//! This library is the whole program: `swiftiply(8)` is a small program around [`Server`], `swiftiply-access(8)` one around
//! [`access::Access`], and [`client`] is the other side of the protocol, for applications written in Rust. The examples there
//! start one of each.
//!
//! # The idea: workers block for work, exchanges are parked
//!
//! This is a blocking, threaded server: no async runtime, an acceptor thread for each listener, a fixed pool of worker
//! threads. What keeps a few workers free for thousands of connections is that a connection with nothing to do is *parked*:
//! it costs memory and no thread. That holds for both sides. A session is parked while its visitor is slow or idle, and while
//! its request waits for a backend: for a free one, for a connection to it, for room to write, for the response or more of
//! it. So the number of requests under way is bounded by backends, connections and memory, and not by the number of workers.
//!
//! ```text
//!  visitors ---> acceptor -------> poller: parked sessions, an epoll set  ---> worker 1..N
//!                registers the     with the sockets of both sides         <--- runs a session until it
//!                session                  ^                                    has to wait, parks it again
//!                                         | wakes the session that               |           ^
//!                                         | was given a backend           leases |           | returns
//!                                         |                                      v           |
//!  backends ---> dial-in thread -> pool of an address: idle backends, and the queue of requests that
//!                reads preambles,  wait for one, first come, first served. A backend that becomes free
//!                watches hang-ups  goes to the first of them directly. (Or servers that are connected to.)
//! ```
//!
//! A worker blocks in three places: in `epoll_wait(2)` for work, and for at most 20 ms in the read of a response or on the
//! Condvar of a place in a queue. The rule (module `worker` of [`server`]): a session that has to wait for its backend is
//! parked at once if the server is busy, which is if work was ready when the worker came for this session or is ready now,
//! or if this is the last worker that can take new work. Otherwise the worker blocks, and parks the session if that was not
//! long enough. So a quiet server needs one blocking read for each exchange, a busy one does not sleep while there is work,
//! and one worker always remains for the next event.
//!
//! # The life of a request
//!
//! 1. [`net::listener`]: an acceptor takes the connection and puts a session into [`net::poller`].
//! 2. When bytes arrive, a worker takes the session out and runs it. `server::session` is the front door: it goes from state
//!    to state until it has to wait. An incomplete head, or an incomplete TLS handshake ([`net::conn`]), is parked with the
//!    bytes that were read and an unchanged deadline.
//! 3. [`http::head`] parses the head strictly, or refuses it with a status.
//! 4. `server::route` chooses the site, in the immutable snapshot of the configuration that this request will use to its
//!    end. The request is charged to `limits.memory`, or refused with 503. `server::auth` asks for a password where the
//!    site wants one; the check waits for its turn in a [`ConcurrencyLimit`](backend::limit::ConcurrencyLimit). A request
//!    for a file is answered by [`content::files`], mostly from memory: continue at 9.
//! 5. `server::body` collects the body, in memory or in a temporary file. With `request_buffering: false` the body is
//!    passed on as it arrives instead ([`relay::upload`]).
//! 6. The request becomes an [`Exchange`](relay::Exchange), a state machine that never waits: it does what can be done now
//!    and returns what it is blocked on; then the worker decides how to wait. `server::pending` is the server's side of it
//!    ([`ExchangeHandler`](relay::ExchangeHandler)).
//! 7. The exchange leases a backend ([`backend::lease`]): an idle one of a [`backend::pool`], or a connection to a server of
//!    a [`backend::directory`]. If there is none, the request enters a [`backend::queue`], in order of arrival. Whichever
//!    thread frees a backend puts it into the slot of the first request in the queue and wakes that session.
//! 8. [`relay::call`] sends the request and reads the head of the response. If the backend closes its connection before
//!    any byte of it, the request goes to another one if it may. A visitor that disconnects wakes the session: the access
//!    log gets 499, a connection to a server is closed, and the response of a backend that dialled in is read for up to a
//!    second ([`relay::drain`]), so that its connection can be kept.
//! 9. [`relay::delivery`] writes the response while [`relay::download`] reads it. The backend is free when the last byte was
//!    read, which is before that byte is written. Bytes that the visitor does not take go to a [`relay::spool`], in memory
//!    and then on disk; if that is full, the backend waits, and the session is parked. A file needs no spool, and what it
//!    replaces is read apart from it. After each
//!    mebibyte or two of a body, in either direction, other sessions have their turn.
//!    If the response is a switch to another protocol that the visitor asked for (a WebSocket), HTTP is over: both
//!    connections go to the [tunnels](net::tunnel), whose one thread carries the bytes until both sides have ended.
//! 10. The access log gets its line. The session reads the next request, is parked, or is closed, with a reason from one
//!     table: [`stats::Close`].
//!
//! The phases of an exchange, with what each waits for and until when, are in a table in [`relay`]. The access proxy
//! ([`access`]) drives the same exchanges, from one thread for each dialled connection.
//!
//! # Threads
//!
//! | thread | how many | does | never does |
//! |---|---|---|---|
//! | `accept` | one for each address for visitors | accepts, registers sessions in the poller; pauses when descriptors run out | read or write the socket |
//! | `dial-in` | one for all addresses for backends | accepts, reads preambles under a deadline, watches for hang-ups | wait for a single peer |
//! | `worker` | `workers` | runs sessions: the life of a request, above | block for a backend for longer than 20 ms, or as the last one |
//! | `tick` | one | wakes or closes sessions whose deadline has passed; has the slowest readers cut where others need their backends or their room on disk; looks after idle connections to servers; has access logs written once a second | serve requests, wait for a log |
//! | `tunnels` | one | carries the bytes of all upgraded connections, in turn | wait for a single one of them |
//! | `drain` | one | reads the rest of responses that no client gets: it has left, or gets a file instead | wait for a single backend, read one for longer than a second |
//! | `log`, `log-stdout`, `log-stderr` | one each | write log files, standard output and standard error | anything else |
//! | `redis` | one for each site with `directory: redis` | takes servers from Redis for waiting requests, and returns them | serve requests |
//! | `lookup`, `check` | at most one of each for a server, short-lived | looks up a host name; checks whether a server is well | anything else |
//!
//! Those of the access proxy are in [`access`].
//!
//! Preambles are read by the dial-in thread, so that a backend can join however busy the workers are. A worker also waits for
//! the disk (files, temporary files), and is busy while it checks a password.
//!
//! # Rules that hold everywhere
//!
//! - **Ownership is the protocol.** A socket has one owner, the poller, a worker, the pool or the tunnels, and moves by
//!   value. A [`Lease`](backend::lease::Lease) returns its backend when it is finished and closes it when it is dropped.
//! - **No wake-up is lost.** A backend's socket is armed, and a waker is left in the queue, while the session is *out* of
//!   the poller. What happens then leaves a mark, and parking returns the session ([`net::poller`]).
//! - **Every close has a reason** and every wait a deadline. Bytes that have arrived count even if the workers are late:
//!   read first, then look at the clock.
//! - **Locks are leaves**: no system call but a wake-up, no logging and no second lock while one is held. The table of locks
//!   is in [`server`].
//! - **A panic costs one session**, not a worker.
//! - **`unsafe`** appears in [`process`] only (and the programs have an attribute that exports a symbol).
//!
//! # Layers
//!
//! A module imports only from rows above its own; `tests/layers.rs` reads this table and checks every path.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | 1 | [`http`], [`preamble`], [`passwords`], [`budget`], [`escape`], [`stats`] | bytes and numbers: no sockets, no files, no clock |
//! | 2 | [`process`] | the operating system, for the process as a whole |
//! | 3 | [`config`] | files, once, at the start and at reloads |
//! | 4 | [`net`] | sockets |
//! | 5 | [`logging`], [`exchange`] | one exchange |
//! | 6 | [`backend`], [`client`] | the dial-in protocol, from both sides |
//! | 6 | [`content`] | files: those that are served, and those that are read again when they change |
//! | 7 | [`relay`] | one exchange, from the lease of a backend to the last byte of the response |
//! | 8 | [`server`], [`access`] | everything |
//!
//! The same test reads this table too, and keeps each of these crates in the modules that wrap it:
//!
//! | crate | modules |
//! |---|---|
//! | `base64` | `http::auth` |
//! | `bcrypt` | `passwords` |
//! | `flate2` | `content::gzip` |
//! | `httparse` | `http::head` |
//! | `httpdate` | `http::date`, `http::conditional` |
//! | `mime_guess` | `content::entity` |
//! | `percent_encoding` | `http::target` |
//! | `redis` | `backend::directory` |
//! | `rustls` | `net::tls` |
//! | `serde` | `config::raw`, `config::locate`, `config::print`, `logging` |
//! | `serde_yaml` | `config::raw`, `config::locate`, `config::print` |
//! | `sha_crypt` | `passwords` |
//! | `tempfile` | `server::body`, `relay::spool` |
//! | `threadpool` | `server` |
//! | `tikv_jemalloc_sys` | `process` |
//! | `webpki` | `net::tls` |

pub mod access;
pub mod backend;
pub mod budget;
pub mod client;
pub mod config;
pub mod content;
pub mod escape;
pub mod exchange;
pub mod http;
pub mod logging;
pub mod net;
pub mod passwords;
pub mod preamble;
pub mod process;
pub mod relay;
pub mod server;
pub mod stats;

pub use server::Server;
