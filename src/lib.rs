//! swiftiply is a clustering HTTP proxy whose backends dial in.
//!
//! An application process connects to the proxy over TCP or a Unix socket, sends 25 bytes and perhaps a key, and from then
//! on serves plain HTTP/1.1 requests on that connection, one at a time. Start a process and it takes requests; stop it and
//! no request is lost. Requests are routed by host name to the idle backends of a site. (The proxy can also connect to
//! ordinary servers, which do not dial in: [`backend::directory`].)
//!
//! The library is what the programs are made of, and others can be. Its interface is small:
//!
//! | | what it is for |
//! |---|---|
//! | [`Server`], [`server`] | a server inside a program: start it, change its configuration, observe and stop it |
//! | [`config`] | its configuration: read from a file or a text, or made in code |
//! | [`stats`] | its counters |
//! | [`client`] | an application that dials in and responds to requests |
//! | [`access`] | an access proxy: it dials in on behalf of an application that does not speak the protocol |
//!
//! Programs that use it are in `tests/examples`: `cargo run --example server`, `application`, `reload`.
//!
//! # Versions
//!
//! The library follows [semantic versioning](https://semver.org): what compiles with one release, and each configuration that it
//! accepts, goes on working with all later ones of the same major version; types that are `#[non_exhaustive]` may get fields and
//! variants. Not part of this interface are the texts of messages and pages, what `serde::Serialize` writes for a configuration,
//! and everything that this documentation does not show. It needs Rust 1.91; a new minor version may need a later one.
//!
//! # Features
//!
//! | feature | without it |
//! |---|---|
//! | `acme` | no certificates by ACME or of an authority of the server's own (`tls: auto`, `tls: on_demand`, `tls: internal`) |
//! | `gzip` | no compression of responses |
//! | `redis` | no list of servers in Redis (`directory: redis`) |
//! | `tls` | no TLS |
//! | `programs` | no programs, and none of the crates that only they use |
//!
//! All are on by default; `default-features = false` leaves a server for HTTP. A configuration that needs a feature which is
//! off is refused like any other mistake, with its file and line.
//!
//! # Effects on the process
//!
//! A [`Server`], a [`client::Client`] or an [`access::Access`] changes nothing that a process has only once: signals and how they
//! are handled, umask, working directory, environment, resource limits, user and group, priority, allocator, panic hook, and the
//! logger, to which it logs by the crate `log`. All that is for the program to do, and the programs of this package do it. (The
//! keys `daemonize`, `pidfile`, `user`, `group`, `descriptors` and `logger` therefore have no effect on a server in a program.)
//! Its threads and descriptors are gone when it is dropped, but see [`Server`].
//!
//! It expects that SIGPIPE is ignored, as Rust does for each program: sendfile(2) cannot suppress it. It asks the system for the
//! limit of descriptors and the size of memory, to bound itself, and reads the variables `TMPDIR` and `STATE_DIRECTORY` for
//! defaults. Only `Access` starts another process, if it has a command.
//!
//! # Words
//!
//! The words: a *client* sends requests, a *backend* is a connection to an application process that serves them, a *site* is
//! an entry of the configuration's map, a *session* is a client's connection with its state, an *exchange* is one request
//! with its response.
//!
//! # The idea: workers block for work, exchanges are parked
//!
//! This is a blocking, threaded server: no async runtime, an acceptor thread for each listener, a fixed pool of worker
//! threads. A few workers suffice for thousands of connections because a connection with nothing to do is *parked*: it costs
//! memory and no thread. That holds for both sides. A session is parked while its client is slow or idle, and while its
//! request waits for a backend: for a free one, for a connection to it, for room to write, for the response or more of it.
//! So backends, connections and memory limit the number of requests under way; the number of workers does not.
//!
//! ```text
//!  clients ----> acceptor -------> poller: parked sessions, an epoll set  ---> worker 1..N
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
//! Condvar of a slot in a queue. The rule ([`relay::worker`]): a session that has to wait for its backend is
//! parked at once if the server is busy, which it is if work was ready when the worker came for this session or is ready
//! now, or if this is the last worker that can take new work. Otherwise the worker blocks, and parks the session if that was
//! not long enough. So a quiet server needs one blocking read for each exchange, a busy one does not sleep while there is
//! work, and one worker always remains for the next event.
//!
//! # Life of a session
//!
//! This page follows one request through the code. A test (`tests/life.rs`) fails if a function that it names is gone.
//!
//! **Accepted.** `src/net/listener.rs: fn accept_loop` accepts the connection; `src/server/accept.rs: fn accepted` checks
//! `limits.connections` and `limits.connections_per_client` and whether the client may connect, and puts a new session into the poller
//! (`src/net/poller.rs: fn enter`). When bytes arrive, a worker takes the session out (`src/relay/worker.rs: fn work`) and
//! runs it (`src/server/session.rs: fn run`): the loop that goes from state to state until the session has to wait or is
//! closed. `src/server/session/state.rs: enum State` has all states.
//!
//! If a proxy has made the connection (`proxy_protocol`), `src/server/session/proxy_header.rs: fn read_proxy_header` first
//! reads who the client is.
//!
//! **The head.** `src/server/session/head.rs: fn read_head` reads until the head is complete and parses it strictly, or
//! refuses it (`src/server/session/refuse.rs: fn refuse_unreadable`). An incomplete head, or an incomplete TLS handshake, is
//! parked with the bytes that were read and an unchanged deadline.
//!
//! **Where it goes.** `src/server/session/request.rs: fn begin_request` takes the snapshot of the configuration that this
//! request uses to its end, chooses the site (`src/server/route.rs: fn route`), and charges the request to `limits.memory`.
//! If the site wants a password, `src/server/session/auth.rs: fn authorise` lets the check wait for its turn
//! (`src/server/checks.rs: fn enter`) and `src/server/session/auth.rs: fn check_password` checks it.
//! `src/server/session/request.rs: fn serve` answers a request for a file (`src/server/files.rs: fn respond`), mostly from
//! memory; any other request is for a backend.
//!
//! **The body.** `src/server/session/body.rs: fn read_body` reads it into memory or a temporary file. With
//! `request_buffering: false`, `src/relay/upload.rs: fn advance` passes it on as it arrives instead.
//!
//! **A backend.** `src/server/session/exchange.rs: fn begin_exchange` makes the request an exchange, a state machine that
//! never waits: `src/relay/mod.rs: fn advance` does what can be done now and returns what it is blocked on; then the worker
//! blocks for a moment or parks the session (`src/relay/worker.rs: fn wait_for`). What is particular to the server stands
//! in `src/server/pending.rs: struct PendingRequest`. `src/backend/lease.rs: fn acquire` takes an idle backend of a pool or
//! a connection to a server of a directory, or puts the request into the queue. The thread that frees a backend puts it into
//! the slot of the first request in the queue (`src/backend/queue.rs: fn fill`) and so wakes that session.
//!
//! **Sent.** `src/server/forwarding.rs: fn render` writes the head as the application gets it (for a FastCGI server,
//! `src/server/params.rs: fn render` makes it parameters of the script that `src/server/files.rs: fn script` has found), and
//! `src/relay/call.rs: fn send` sends it with the body. `src/relay/call.rs: fn await_response` reads the head of the
//! response. If the backend closes its connection before any byte of it, the request may go to another one
//! (`src/server/pending.rs: fn may_retry`). If the client disconnects, the access log gets 499; the response of a backend
//! that dialled in is read for up to a second (`src/relay/drain.rs: fn advance`), so that its connection can be kept.
//!
//! **The response.** `src/server/pending.rs: fn respond` decides what the client gets: the backend's response, compressed or
//! not, or a file that the backend names. `src/relay/pull.rs: fn pull` reads the body from the backend and
//! `src/relay/output.rs: fn write` writes it. The backend is free when its last byte was read, which is before that byte is
//! written. Bytes that the client does not take go to a spool (`src/relay/spool.rs: fn put`), in memory and then on disk; if
//! the spool is full, the backend waits, and the session is parked. After each mebibyte or two of a body, in either
//! direction, other sessions have their turn. `src/server/session/respond.rs: fn deliver` sends the server's own responses:
//! pages, files and refusals.
//!
//! **Another protocol.** If the response is a switch that the client asked for (a WebSocket),
//! `src/server/session/tunnel.rs: fn begin_tunnel` gives both connections to the thread of the tunnels
//! (`src/net/tunnel.rs: fn enter`), which carries the bytes until both sides have ended;
//! `src/server/session/tunnel.rs: fn end_tunnel` closes them.
//!
//! **The end.** `src/server/session/log_context.rs: fn log_response` writes the line in the access log. Then
//! `src/server/session/respond.rs: fn end_response` waits for the next request, closes the connection, or first reads what
//! the client still sends (`src/server/session/linger.rs: fn linger`), since the system would reset the connection otherwise
//! and the client might lose the response. Dropping the session closes and counts it
//! (`src/server/session/connection.rs: fn drop`), with a reason from one table (`src/stats.rs: fn word`).
//!
//! A session in one of these states is parked, and comes back when what it waits for has happened or its deadline is over.
//! The phases are those of an exchange (`src/relay/mod.rs: enum Phase`); the access proxy ([`access`]) drives the same
//! exchanges in the same way. A number is the status of the response, a word such as `idle` the
//! reason for which the client's connection is closed ([`stats::Close`]); after a status without a reason it is kept.
//!
//! | state or phase | waits for | then | deadline | deadline over | client closes |
//! |---|---|---|---|---|---|
//! | `State::ProxyHeader` | the header in which a proxy names the client | `State::Head`; `bad_proxy_header`, `denied`, `overload` | `timeouts.head` | `bad_proxy_header` | `peer_closed`, `bad_proxy_header` |
//! | `State::Head`, handshake | the end of the TLS handshake | idle | `timeouts.head` | `tls_timeout` | `peer_closed` |
//! | `State::Head`, certificate | the certificate for a name that no site has, which is being obtained | `State::Head`, handshake | 25 s | the handshake, with another certificate | `peer_closed` |
//! | `State::Head`, idle | the first byte of a request | `State::Head`, begun | `timeouts.idle`, that of the site after a response | `idle` | `peer_closed` |
//! | `State::Head`, begun | the rest of the head | `State::Auth`, `State::Authorised`; 400 `bad_request`, 414 or 431 `too_large`, 503 `overload` | `timeouts.head` | 408 `head_timeout` | `client_gone` |
//! | `State::Auth` | its turn to have a password checked | `State::Authorised`; 401 | `timeout` | 503 | 499 `client_gone` |
//! | `State::Authorised` | nothing | a file, `State::Body`, `State::Exchange` | | | |
//! | `State::Body` | more of the body | `State::Exchange`; 400 `bad_request`, 413 `too_large`, 503 `overload` | `timeouts.body` for each piece, and a least rate | 408 `body_timeout`, `body_slow` | 499 `client_gone` |
//! | `State::Exchange` | see the phases | `State::Head`, `State::Tunnel`, `State::Linger` | | | |
//! | `Phase::Acquiring` | nothing | `Phase::Queued`, `Phase::Connecting`, `Phase::Sending`; 503 if too many wait | | | |
//! | `Phase::Pausing` | time between two attempts | `Phase::Acquiring` | 10 ms | the next attempt | 499 `client_gone` |
//! | `Phase::Queued` | a backend; the end of a pause of its site | `Phase::Connecting`, `Phase::Sending`; `Phase::Acquiring` | `timeout`; the bound of the pause | the backup site if there is one, or 503; 503 | 499 `client_gone` |
//! | `Phase::Connecting` | the connection to a server, and the TLS handshake with it | `Phase::Sending`; 502 if TLS is at fault | `timeouts.connect` | another server, or `Phase::Queued` again | 499 `client_gone` |
//! | `Phase::Sending` | room at the backend; more of a body that is passed on | `Phase::Awaiting`; another backend, or 502 | `timeouts.backend`; `timeouts.body` | 504; 408 `body_timeout`, `body_slow` | 499 `client_gone` |
//! | `Phase::Awaiting` | the head of the response | `Phase::Relaying`; another backend, or 502 | `timeouts.first_byte`, then `timeouts.backend` | 504 | 499 `client_gone` |
//! | `Phase::Relaying` | more of the body; room at the client | `Phase::Flushing`; `backend_failed` | `timeouts.backend`, or `unframed_gap` for a response without a length; `timeouts.write` and a least rate | `backend_failed`, or the response is complete; `write_timeout`, `write_slow` | `client_gone` |
//! | `Phase::Flushing` | room at the client; the backend is free already | `State::Head`, `State::Linger` | `timeouts.write` and a least rate | `write_timeout`, `write_slow` | `client_gone` |
//! | `Phase::Over` | nothing | | | | |
//! | `State::Sending` | room at the client, for a response of the server's own | `State::Head`, `State::Linger` | `timeouts.write` and a least rate | `write_timeout`, `write_slow` | `write_failed` |
//! | `State::Tunnel` | bytes from either side | closed: `tunnel_done` | `timeouts.tunnel`; `timeouts.write`, `timeouts.backend` | `tunnel_idle`; `write_timeout`, `backend_failed` | its end is passed on; `client_gone` if it breaks off |
//! | `State::Linger` | what the client still sends | closed, with the reason for that | 1 s of silence, 5 s in all | closed, with the reason for that | closed, with the reason for that |
//! | `State::Running` | nothing: a worker has it | | | | |
//!
//! A full server closes idle connections with `overload`, a draining one with `draining`. A process that another one has
//! replaced gives them away instead, with `handed_over` (`src/server/idle.rs: fn give_idle`).
//!
//! # Threads
//!
//! | thread | how many | does | never does |
//! |---|---|---|---|
//! | `accept` | one for each address for clients | accepts, registers sessions in the poller; pauses when descriptors run out | read or write the socket |
//! | `dial-in` | one for all addresses for backends | accepts, reads preambles under a deadline, watches for hang-ups | wait for a single peer |
//! | `worker` | `workers` | runs sessions: their life, above | block for a backend for longer than 20 ms, or as the last one |
//! | `tick` | one | wakes or closes sessions whose deadline has passed; has the slowest readers cut where others need their backends or their room on disk; checks idle connections to servers; has access logs written once a second | serve requests, wait for a log |
//! | `tunnels` | one | carries the bytes of all upgraded connections, in turn | wait for a single one of them |
//! | `drain` | one | reads the rest of responses that no client gets: it has left, or gets a file instead | wait for a single backend, read one for longer than a second |
//! | `log`, `log-stdout`, `log-stderr` | one each | write log files, standard output and standard error | anything else |
//! | `succession` | one for each other process of the server, after an upgrade | reads what that process sends: idle clients, idle backends, and requests for backends | serve requests |
//! | `acme` | one, if a site has `tls: auto`, `tls: on_demand` or `tls: internal` | obtains and renews certificates; waits for the authority, and for `acme.ask` | serve requests |
//! | `acme-redis` | one, while challenges are shared through Redis | shows the challenges of other proxies | serve requests |
//! | `certificates` | one, if certificates come from files | reads them again when they change; logs their expiry | serve requests |
//! | `redis` | one for each site with `directory: redis` | takes servers from Redis for waiting requests, and returns them | serve requests |
//! | `redis-messages` | the same, while other proxies use the list | receives messages from Redis: that others wait, or that servers are free | anything else |
//! | `status` | one for the `status` address, and up to 8 short-lived ones | accepts there; reads one request and writes its response | serve requests to sites |
//! | `lookup`, `check` | at most one of each for a server, short-lived | looks up a host name; checks whether a server is healthy | anything else |
//!
//! The threads of the access proxy are described in [`access`].
//!
//! The dial-in thread reads preambles, so that a backend can join however busy the workers are. A worker also waits for the
//! disk (files, temporary files), and is busy while it checks a password.
//!
//! # Rules that hold everywhere
//!
//! - **A socket has one owner**: the poller, a worker, the pool or the tunnels. It moves by value. A
//!   [`Lease`](backend::lease::Lease) returns its backend when it is finished and closes it when it is dropped.
//! - **No wake-up is lost.** A backend's socket is armed, and a waker is left in the queue, while the session is *out* of
//!   the poller. An event that comes then leaves a mark, and parking returns the session ([`net::poller`]).
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
//! It also holds the list of public modules, and refuses import cycles between files, two types with the same name, and a file above 500 lines of code whose header
//! gives no reason in a line that begins with `Length:`.
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | 1 | [`amount`], [`http`], [`preamble`], [`passwords`], [`budget`], [`escape`], [`stats`], [`x509`] | bytes and numbers: no sockets, no files, no clock |
//! | 2 | [`process`] | the operating system, for the process as a whole |
//! | 3 | [`config`] | files, once, at the start and at reloads |
//! | 4 | [`net`] | sockets |
//! | 5 | [`logging`], [`exchange`] | one exchange |
//! | 6 | [`backend`], [`client`] | the dial-in protocol, from both sides |
//! | 6 | [`acme`] | certificates that the server obtains or makes |
//! | 6 | [`content`] | files: those that are served, and those that are read again when they change |
//! | 7 | [`relay`] | one exchange, from the lease of a backend to the last byte of the response, and the workers that run it |
//! | 8 | [`server`], [`access`] | everything |
//! | 9 | `internals` | what programs and tests use besides the interface |
//!
//! The same test reads this table too, and keeps each of these crates in the modules that wrap it:
//!
//! | crate | modules |
//! |---|---|
//! | `base64` | `http::auth`, `acme::jose` |
//! | `bcrypt` | `passwords` |
//! | `flate2` | `content::gzip` |
//! | `httparse` | `http::head` |
//! | `httpdate` | `http::date`, `http::conditional` |
//! | `mime_guess` | `content::entity` |
//! | `percent_encoding` | `http::target` |
//! | `rcgen` | `acme::keys` |
//! | `redis` | `net::redis`, `backend::directory`, `acme::sharing` |
//! | `regex` | `config::types`, `server::snapshot`, `server::sticky` |
//! | `ring` | `acme::jose`, `net::tls` |
//! | `rustls` | `net::tls` |
//! | `serde` | `config::raw`, `config::locate`, `config::types`, `config::written`, `config::print`, `logging`, `server::admin`, `acme::client`, `acme::order`, `acme::account`, `acme::authorization` |
//! | `serde_yaml` | `config::raw`, `config::locate`, `config::print` |
//! | `sha_crypt` | `passwords` |
//! | `simplelog` | `logging::program`, `logging::message` |
//! | `subtle` | `server::admin` |
//! | `syslog` | `logging` |
//! | `tempfile` | `server::body`, `relay::spool` |
//! | `threadpool` | `server` |
//! | `tikv_jemalloc_sys` | `process` |
//! | `ureq` | `acme::client`, `acme::ask` |
//! | `webpki` | `net::tls` |
//! | `webpki_roots` | `net::tls` |

pub mod access;
mod acme;
mod amount;
mod backend;
mod budget;
pub mod client;
pub mod config;
mod content;
mod escape;
mod exchange;
mod http;
#[doc(hidden)]
pub mod internals;
mod logging;
mod net;
mod passwords;
mod preamble;
mod process;
mod relay;
pub mod server;
pub mod stats;
mod x509;

pub use server::Server;
