//! One exchange with a backend.
//!
//! [`relay`] leases a backend, writes the request anew (head bytes of the visitor are never copied), reads the
//! head of the answer, and returns a [`Response`] whose body is pulled from the backend by whoever sends it. If the answer
//! is the 101 that was asked for, it returns the connection, [`Switched`]: HTTP is over there.
//! The backend goes back to its pool as soon as the last byte of the body has been *read*, which is before it
//! is written to the visitor.
//!
//! Runs on a worker. Waits are bounded: by `timeout` for a backend, by `timeouts.first_byte` for the first byte of the
//! answer, by `timeouts.backend` for the rest of its head and for each further read or write, and by `unframed_gap` within
//! an answer without length. How the request is sent and the head read is in `talk`.
//!
//! **Invariants**
//! - A backend goes back to its pool only when the request was written and the answer read to their
//!   very ends and nothing came behind; in every other case its connection is closed. So nothing of one
//!   exchange can show in another.
//! - *The retry rule* stands in [`Ask::may_retry`] and nowhere else.

mod talk;

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use talk::{Sent, Talk};

use super::lease::{self, Lease, Missed, Want};
use super::pool::Wait;
use crate::config;
use crate::exchange::{
    Body, BodyError, Next, Request, RequestBody, Response, Source, Trace, UploadError, Visitor,
};
use crate::http::body::{Decoder, Framing};
use crate::http::head::{
    HeadLimits, Method, ResponseHead, Version, write_field, write_number_field,
};
use crate::net::buffer::Buffer;
use crate::net::stream::Peer;
use crate::stats::{self, Close, Stats};

/// A request and what must be known to relay it.
pub struct Ask<'a> {
    /// The request.
    pub request: &'a Request,
    /// The settings of its site.
    pub site: &'a config::Site,
    /// Which backends will do.
    pub want: Want<'a>,
    /// It counts as one that waits already, and need not be let in to them.
    pub wait: Option<Wait>,
    /// Since when it waits for a backend, and how long it may.
    pub since: Instant,
    /// See [`Ask::since`].
    pub timeout: Duration,
    /// How long it had waited elsewhere before that.
    pub queued: Duration,
    /// Who sent it.
    pub visitor: &'a mut dyn Visitor,
    /// Counters.
    pub stats: &'a Stats,
}

/// What a backend said.
pub enum Answer<'w> {
    /// This.
    Response(Response<'w>),
    /// That it speaks another protocol from now on.
    Switched(Switched),
}

/// A backend's connection that was switched to another protocol (RFC 9110 7.8).
pub struct Switched {
    /// The head of its 101.
    pub head: ResponseHead,
    /// The connection.
    pub lease: Lease,
    /// What it sent behind the head.
    pub behind: Vec<u8>,
    /// Where the time went.
    pub trace: Trace,
}

/// Why there is no response.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub cause: Cause,
    /// Who failed last, and where the time went.
    pub trace: Trace,
}

/// What can go wrong before the head of a response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No backend was free in time.
    NoBackend,
    /// The site has no dial-in address for such requests.
    NoAddress,
    /// No backend was free, and as many requests as may wait did so already.
    Full,
    /// As many upgraded connections as may be are open already.
    NoTunnel,
    /// The visitor left while the request waited.
    ClientGone,
    /// The backend closed its connection without an answer.
    Died,
    /// The backend's answer broke a rule.
    BadAnswer(&'static str),
    /// The backend did not begin to answer in time.
    TooSlow,
    /// The backend did not go on in time: with the head of its answer, or with taking the request.
    Stuck,
    /// The collected body could not be read back.
    LostBody,
    /// A body that was passed on as it came did not come.
    Upload(UploadError),
}

impl Ask<'_> {
    /// Whether a request whose backend closed its connection before any byte of an answer may go to another
    /// one: if its method is idempotent (RFC 9110 9.2.2), or if the site says `redeployable` and head and body
    /// are within `redeployment_sizelimit`. And not for ever: a request that kills what it reaches stops
    /// after [`MOST_BACKENDS`].
    fn may_retry(&self, head: usize, backends: u32) -> bool {
        let size = head as u64 + self.request.body.length();
        // What was passed on as it came is gone.
        !matches!(self.request.body, RequestBody::Stream { .. })
            && backends < MOST_BACKENDS
            && (self.request.head.method.is_idempotent()
                || self.site.redeployable && size <= self.site.redeployment_sizelimit)
    }
}

/// Relays a request. `reply` holds what is read from the backend for as long as the response lives; `out` is
/// used to render the request.
///
/// # Errors
/// Why there is no response. Nothing was sent to the visitor then, interim responses excepted.
pub fn relay<'w>(
    mut ask: Ask<'_>,
    reply: &'w mut Buffer,
    out: &mut Vec<u8>,
) -> Result<Answer<'w>, Failure> {
    let mut trace = Trace {
        queued: ask.queued,
        ..Trace::default()
    };
    let mut since = ask.since;
    let limits = HeadLimits {
        head: ask.site.limits.head,
        fields: ask.site.limits.fields,
        target: ask.site.limits.target,
    };
    let mut backends = 0;
    loop {
        let once = !ask.may_retry(0, 0);
        let deadline = since + ask.timeout;
        let wait = ask.wait.take();
        let mut gone = || ask.visitor.is_gone();
        let leased = lease::lease(&ask.want, wait, once, deadline, &mut gone);
        // Also where there was a backend at once, the request may have stood in line before.
        let got = Instant::now();
        trace.queued += got.saturating_duration_since(since);
        let mut lease = match leased {
            Ok(lease) => lease,
            Err(missed) => {
                let cause = match missed {
                    Missed::TimedOut => Cause::NoBackend,
                    Missed::ClientGone => Cause::ClientGone,
                    Missed::Full => Cause::Full,
                };
                return Err(Failure { cause, trace });
            }
        };
        trace.backend = Some(lease.origin());
        backends += 1;
        let queue = Queue {
            at: got,
            waited: trace.queued,
        };
        let head_length = render(ask.request, ask.site, &queue, out);
        let result = exchange_heads(&mut ask, &limits, &mut lease, out, reply);
        trace.answering = got.elapsed();
        let cause = match result {
            Ok((head, sent)) => {
                let method = &ask.request.head.method;
                return Ok(match head.status {
                    101 => Answer::Switched(Switched {
                        head,
                        lease,
                        behind: reply.data().to_vec(),
                        trace,
                    }),
                    _ => Answer::Response(response(
                        head, sent, method, &limits, ask.site, lease, reply, trace,
                    )),
                });
            }
            Err(cause) => cause,
        };
        log::debug!(
            "site {}: backend {}: {cause:?}",
            ask.site.name,
            escaped(&trace)
        );
        let reason = match cause {
            Cause::Upload(_) => Close::ClientGone,
            Cause::Died => lease.death(),
            _ => Close::BackendFailed,
        };
        lease.close(reason);
        if cause != Cause::Died || !ask.may_retry(head_length, backends) {
            return Err(Failure { cause, trace });
        }
        stats::add(&ask.stats.retries);
        if backends > 1 {
            // A process that dies closes its connections one after the other; the next one may be another of them.
            thread::sleep(LAST_BREATH);
        }
        since = Instant::now();
    }
}

/// What is told of the time in the queue.
struct Queue {
    /// When a backend was there.
    at: Instant,
    /// How long it was waited for.
    waited: Duration,
}

/// Renders the head. Returns its length.
fn render(request: &Request, site: &config::Site, queue: &Queue, out: &mut Vec<u8>) -> usize {
    let framing = match &request.body {
        RequestBody::Empty | RequestBody::Stream { .. } => request.head.framing,
        body => Framing::Length(body.length()),
    };
    // A visitor must not be able to speak for a proxy, nor anybody say the same twice.
    let keep = |name: &[u8]| {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        let among = |names: &[&str]| names.iter().any(|known| is(known));
        !(site.xforwardedfor && among(&FORWARDED)
            || site.via && is("Via")
            || site.queue_time && among(&QUEUE)
            || !request.trusted && among(&FORWARDING))
    };
    out.clear();
    let first = |out: &mut Vec<u8>| {
        write_forwarding(request, site, out);
        if site.queue_time {
            write_queue_time(request, queue, out);
        }
    };
    request.head.write(first, framing, keep, out);
    out.len()
}

/// Writes the fields that tell the application about the visitor. They stand in front of the visitor's own fields.
fn write_forwarding(request: &Request, site: &config::Site, out: &mut Vec<u8>) {
    if request.head.host.is_none() {
        // HTTP/1.0 may leave it out, HTTP/1.1, in which this is sent on, may not (RFC 9112 3.2).
        let name = site.incoming.first().map_or("", String::as_str);
        write_field("Host", name.as_bytes(), out);
    }
    // What a trusted proxy says about the visitor is passed on; the address it connected from is added.
    let sent = request.trusted.then_some(&request.head.headers);
    let told = |name| sent.into_iter().flat_map(move |sent| sent.get_all(name));
    // A proxy may add a field behind the one that its visitor has sent: then only the last one is its own.
    let last = |name| told(name).last();
    if site.xforwardedfor {
        let [forwarded_for, proto, host, real_ip] = FORWARDED;
        let address = Address::of(&request.peer);
        write_list(forwarded_for, told(forwarded_for), address.bytes(), out);
        let scheme: &[u8] = if request.secure { b"https" } else { b"http" };
        write_field(proto, last(proto).unwrap_or(scheme), out);
        let own = request.head.host.as_ref();
        if let Some(name) = last(host).or(own.map(|host| host.as_str().as_bytes())) {
            write_field(host, name, out);
        }
        write_field(real_ip, last(real_ip).unwrap_or(address.bytes()), out);
    }
    if site.via {
        let received: &[u8] = match request.head.version {
            Version::Http10 => b"1.0 swiftiply",
            Version::Http11 => b"1.1 swiftiply",
        };
        // RFC 9110 7.6.3: each hop adds itself behind the earlier ones.
        write_list("Via", request.head.headers.get_all("Via"), received, out);
    }
}

/// Writes the fields from which the application can tell how long its visitors waited: when the request was complete, in
/// microseconds as most monitors want it, and how many milliseconds no backend was free.
fn write_queue_time(request: &Request, queue: &Queue, out: &mut Vec<u8>) {
    let [start, waited] = QUEUE;
    // A proxy in front of us has seen it before.
    let sent = request.trusted.then_some(&request.head.headers);
    let told = sent.and_then(|sent| sent.get_all(start).last());
    if let Some(told) = told {
        write_field(start, told, out);
    } else {
        let ago = queue.at.saturating_duration_since(request.received);
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = epoch.unwrap_or_default().saturating_sub(ago);
        // There is time until the year 586 000.
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        write_number_field(start, "t=", micros, out);
    }
    let millis = u64::try_from(queue.waited.as_millis()).unwrap_or(u64::MAX);
    write_number_field(waited, "", millis, out);
}

/// Writes a list as one field: what came in, and one more element.
fn write_list<'v>(
    name: &str,
    earlier: impl IntoIterator<Item = &'v [u8]>,
    last: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for value in earlier {
        out.extend_from_slice(value);
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(last);
    out.extend_from_slice(b"\r\n");
}

/// A visitor's address as text, on the stack.
struct Address {
    text: [u8; Self::LONGEST],
    length: usize,
}

impl Address {
    /// The longest form of an IPv6 address.
    const LONGEST: usize = 45;

    fn of(peer: &Peer) -> Self {
        let mut text = [0; Self::LONGEST];
        let mut rest = &mut text[..];
        // No address is longer than that.
        let _ = match peer.ip() {
            Some(IpAddr::V4(ip)) => return Self::dotted(ip.octets()),
            Some(ip) => write!(rest, "{ip}"),
            None => write!(rest, "unix:"),
        };
        let length = Self::LONGEST - rest.len();
        Self { text, length }
    }

    /// The same as the formatter of the library, in a tenth of the time; every request asks for it.
    fn dotted(octets: [u8; 4]) -> Self {
        let mut address = Self {
            text: [0; Self::LONGEST],
            length: 0,
        };
        let mut push = |byte| {
            address.text[address.length] = byte;
            address.length += 1;
        };
        for (place, octet) in octets.into_iter().enumerate() {
            if place > 0 {
                push(b'.');
            }
            if octet >= 100 {
                push(b'0' + octet / 100);
            }
            if octet >= 10 {
                push(b'0' + octet / 10 % 10);
            }
            push(b'0' + octet % 10);
        }
        address
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// Sends the request, whose head is in `out`, and reads the head of the answer.
fn exchange_heads(
    ask: &mut Ask<'_>,
    limits: &HeadLimits,
    lease: &mut Lease,
    out: &mut Vec<u8>,
    reply: &mut Buffer,
) -> Result<(ResponseHead, Sent), Cause> {
    let mut talk = Talk::new(ask, limits, lease.conn(), reply);
    let sent = talk.send(out)?;
    let head = talk.answer()?;
    match (head.status, sent) {
        (101, Sent::Part) => Err(Cause::BadAnswer("101 before the end of the request")),
        _ => Ok((head, sent)),
    }
}

/// Makes the response, or gives the backend back at once if the answer has no body.
#[expect(
    clippy::too_many_arguments,
    reason = "it only puts together what relay has at hand"
)]
fn response<'w>(
    head: ResponseHead,
    sent: Sent,
    method: &Method,
    limits: &HeadLimits,
    site: &config::Site,
    lease: Lease,
    reply: &'w mut Buffer,
    trace: Trace,
) -> Response<'w> {
    let framing = head.framing(method);
    let guessed = framing == Framing::UntilClose && lease.is_dialled();
    let mut stream = BackendBody {
        decoder: Decoder::new(framing, limits),
        reusable: !head.conflicting,
        closes: framing == Framing::UntilClose
            || sent == Sent::Part
            || !lease.is_dialled() && !head.persistent,
        lease: Some(lease),
        reply: Reply::Lent(reply),
        taken: 0,
        quiet: None,
        patience: match guessed {
            true => site.unframed_gap,
            false => site.timeouts.backend,
        },
        guessed,
        framing,
        fault: Close::BackendFailed,
    };
    let body = if stream.decoder.is_done() {
        stream.end();
        Body::Empty
    } else {
        Body::Stream {
            length: stream.decoder.remaining(),
            source: Box::new(stream),
        }
    };
    Response { head, body, trace }
}

/// The body of a backend's answer, as it comes.
struct BackendBody<'w> {
    decoder: Decoder,
    /// The answer breaks no rule that would forbid to use the connection again.
    reusable: bool,
    /// The connection ends behind this answer: the backend says so, or has not taken all of the request.
    closes: bool,
    /// A silence is taken for the end.
    guessed: bool,
    /// `None` when the end was read, or when something went wrong.
    lease: Option<Lease>,
    reply: Reply<'w>,
    /// Bytes of `reply` that the last piece has used.
    taken: usize,
    /// Since when the backend has sent nothing, where others were waited for beside it.
    quiet: Option<Instant>,
    patience: Duration,
    framing: Framing,
    /// Why the backend is closed if nothing more can be had of it.
    fault: Close,
}

/// What was read from the backend and not used yet.
enum Reply<'w> {
    /// In the worker's buffer.
    Lent(&'w mut Buffer),
    /// In one of its own.
    Own(Buffer),
}

impl Deref for Reply<'_> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        match self {
            Self::Lent(buffer) => buffer,
            Self::Own(buffer) => buffer,
        }
    }
}

impl DerefMut for Reply<'_> {
    fn deref_mut(&mut self) -> &mut Buffer {
        match self {
            Self::Lent(buffer) => buffer,
            Self::Own(buffer) => buffer,
        }
    }
}

impl BackendBody<'_> {
    /// The last byte of the body was read.
    fn end(&mut self) {
        let Some(mut lease) = self.lease.take() else {
            return;
        };
        if self.reply.data().len() > self.taken || lease.conn().has_unread() {
            lease.close(Close::Junk);
        } else if self.reusable && !self.closes {
            lease.finish();
        } else {
            lease.close(match (self.guessed, self.reusable) {
                (true, _) => Close::Unframed,
                (false, true) => Close::Complete,
                (false, false) => Close::BackendFailed,
            });
        }
    }

    fn fail(&mut self, what: &'static str) -> BodyError {
        if let Some(lease) = self.lease.take() {
            lease.close(self.fault);
        }
        BodyError {
            reason: self.fault,
            what,
        }
    }
}

impl Source for BackendBody<'_> {
    fn next(&mut self) -> Result<Next<'_>, BodyError> {
        self.reply.consume(self.taken);
        self.taken = 0;
        while self.lease.is_some() && !self.reply.is_empty() {
            let piece = match self.decoder.next(self.reply.data()) {
                Ok(piece) => piece,
                Err(bad) => return Err(self.fail(bad.0)),
            };
            let done = self.decoder.is_done();
            if piece.data.is_empty() {
                self.reply.consume(piece.consumed);
                if done {
                    self.end();
                } else if piece.consumed == 0 {
                    break;
                }
                continue;
            }
            self.taken = piece.consumed;
            if done {
                self.end();
            }
            return Ok(Next::Piece(&self.reply.data()[piece.data]));
        }
        Ok(if self.lease.is_some() {
            Next::Wait
        } else {
            Next::End
        })
    }

    fn wait(&mut self, visitor: Option<BorrowedFd<'_>>) -> Result<(), BodyError> {
        let Some(lease) = &mut self.lease else {
            return Ok(());
        };
        let conn = lease.conn();
        let unframed = self.framing == Framing::UntilClose;
        let readable = match visitor {
            None => Ok(true),
            Some(visitor) => {
                // However often the visitor takes something: the backend's time goes on.
                let quiet = *self.quiet.get_or_insert_with(Instant::now);
                conn.wait_beside(visitor, quiet + self.patience)
            }
        };
        let read = match readable {
            Ok(false) => return Ok(()),
            Ok(true) => conn
                .set_read_timeout(self.patience)
                .and_then(|()| self.reply.fill(conn)),
            Err(error) => Err(error),
        };
        self.quiet = None;
        match read {
            Ok(1..) => Ok(()),
            Ok(0) if unframed => {
                self.end();
                Ok(())
            }
            Err(error) if self.guessed && error.kind() == ErrorKind::TimedOut => {
                self.end();
                Ok(())
            }
            Ok(0) => Err(self.fail("the body is cut short")),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Err(self.fail("the body made no progress"))
            }
            Err(_) => Err(self.fail("the connection broke within the body")),
        }
    }

    fn detach(mut self: Box<Self>) -> Box<dyn Source + Send> {
        let mut reply = Buffer::new();
        reply.append(&self.reply.data()[self.taken..]);
        Box::new(BackendBody {
            decoder: self.decoder.clone(),
            lease: self.lease.take(),
            reusable: self.reusable,
            closes: self.closes,
            guessed: self.guessed,
            reply: Reply::Own(reply),
            taken: 0,
            quiet: self.quiet,
            patience: self.patience,
            framing: self.framing,
            fault: self.fault,
        })
    }

    fn give_up(&mut self) {
        // One clock for all of it: a backend that sends a byte now and then must not hold a worker.
        let deadline = Instant::now() + LONGEST_DISCARD;
        self.fault = Close::ClientGone;
        let mut left = MOST_DISCARDED;
        while left > 0 {
            match self.next() {
                Ok(Next::Piece(piece)) => left = left.saturating_sub(piece.len()),
                Ok(Next::Wait) => {
                    self.patience = deadline.saturating_duration_since(Instant::now());
                    if self.patience.is_zero() || self.wait(None).is_err() {
                        break;
                    }
                }
                Ok(Next::End) | Err(_) => break,
            }
        }
        if let Some(lease) = self.lease.take() {
            lease.close(self.fault);
        }
    }
}

impl Drop for BackendBody<'_> {
    fn drop(&mut self) {
        // Whoever drops it before its end has given the visitor up; or this is a panic, which the lease tells.
        if let Some(lease) = self.lease.take_if(|_| !thread::panicking()) {
            lease.close(Close::ClientGone);
        }
    }
}

/// A backend's id for a log line.
pub fn escaped(trace: &Trace) -> String {
    match &trace.backend {
        Some(origin) => origin.to_string(),
        None => "-".to_owned(),
    }
}

/// Fields that we write ourselves.
const FORWARDED: [&str; 4] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Real-IP",
];
/// The same, of the time in the queue.
const QUEUE: [&str; 2] = ["X-Request-Start", "X-Queue-Time"];
/// Fields by which one proxy speaks to the next, or an application to its proxy.
const FORWARDING: [&str; 12] = [
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "Forwarded",
    "X-Real-IP",
    "X-Request-Start",
    "X-Queue-Time",
    "X-Sendfile",
    "X-Sendfile-Type",
    "X-Accel-Mapping",
    "X-Accel-Redirect",
];
/// Bytes of an answer that are read to keep a connection whose visitor has left, and for how long.
const MOST_DISCARDED: usize = 1 << 20;
const LONGEST_DISCARD: Duration = Duration::from_secs(1);
/// A request is sent to so many backends at the most.
const MOST_BACKENDS: u32 = 4;
/// How long a process may take to die.
const LAST_BREATH: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn addresses_as_text() {
        let check = |ip: &str| {
            let peer = Peer::Tcp(SocketAddr::new(ip.parse().unwrap(), 1));
            assert_eq!(str::from_utf8(Address::of(&peer).bytes()), Ok(ip));
        };
        for ip in ["0.0.0.0", "1.20.100.209", "255.255.255.255", "10.99.9.90"] {
            check(ip);
        }
        check("2001:db8::1");
        assert_eq!(Address::of(&Peer::Unix).bytes(), b"unix:");
    }
}
