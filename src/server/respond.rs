//! From a request to a response: relays it, and answers itself where that fails.
//!
//! Runs on a worker.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::admission::Permit;
use super::collect;
use super::compress::compress;
use super::files;
use super::route;
use super::snapshot::{Held, Site};
use crate::backend::lease::Want;
use crate::backend::pool::Wait;
use crate::backend::relay::{self, Answer, Ask, Cause, Failure, Switched};
use crate::backend::{directory, pool};
use crate::budget::Charge;
use crate::config;
use crate::exchange::{Body, Origin, Request, Response, Trace, Upload, UploadError, Visitor};
use crate::http::body::{Decoder, Framing};
use crate::http::head::{HeadLimits, Persistence, ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::stream::Pending;
use crate::stats::{Close, Stats};

/// A request on its way to a backend.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) request: Request,
    pub(crate) snapshot: Held,
    /// Index of its site.
    pub(crate) site: usize,
    /// Index of the site whose backends are to answer: the same, or its backup.
    pub(crate) from: usize,
    /// Since when it waits for a backend of that.
    pub(crate) since: Instant,
    /// How long it had waited in vain before.
    pub(crate) queued: Duration,
    /// Whether the visitor is still there.
    pub(crate) watch: Watch,
    /// The body, where it is passed on as it comes.
    pub(crate) passage: Option<Box<Passage>>,
    /// To become an upgraded connection, where that is asked for.
    pub(crate) permit: Option<Permit>,
    /// It stands in line, or has had its turn there: it counts as one that waits for a backend.
    pub(crate) wait: Option<Wait>,
    /// What it takes of the memory, without its body.
    pub(crate) _memory: Charge,
}

/// Tells a visitor that left from one that has only closed its sending side.
///
/// One that does so right behind its request has said that it has nothing more to send and still wants the answer
/// (B24): a program. A browser that is stopped closes later; it is not worth a backend's time.
#[derive(Debug)]
pub(crate) struct Watch {
    received: Instant,
    pub(crate) half_closed: bool,
}

/// A body that is passed on as it comes (`request_buffering: false`).
#[derive(Debug)]
pub(crate) struct Passage {
    decoder: Decoder,
    /// Bytes of it so far, and at most.
    length: u64,
    most: u64,
    /// Bytes of the input that the last piece has used.
    taken: usize,
    /// The visitor waits for 100 (RFC 9110 10.1.1).
    expects: bool,
    /// When it was first asked for, and when some of it came last.
    began: Option<Instant>,
    progress: Instant,
    patience: Duration,
}

impl Passage {
    /// For a body with this framing. `None`: it is over the limit.
    pub(crate) fn new(request: &Request, limits: &HeadLimits, site: &config::Site) -> Option<Self> {
        let framing = request.head.framing;
        let most = site.limits.body;
        if matches!(framing, Framing::Length(length) if length > most) {
            return None;
        }
        Some(Self {
            decoder: Decoder::new(framing, limits),
            length: 0,
            most,
            taken: 0,
            expects: request.head.expect_continue,
            began: None,
            progress: request.received,
            patience: site.timeouts.body,
        })
    }

    /// Whether all of it was read, so that what comes next is another request.
    pub(crate) fn is_over(&self) -> bool {
        self.decoder.is_done() && self.taken == 0
    }

    fn is_too_slow(&self) -> bool {
        let elapsed = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        collect::is_too_slow(elapsed, self.length)
    }
}

/// A visitor whose request is at a backend.
struct Waiting<'a> {
    version: Version,
    conn: &'a mut Conn,
    watch: &'a mut Watch,
    /// What it has not taken of interim responses; goes in front of the final one.
    owed: &'a mut Vec<u8>,
    /// What was read from it and not used yet.
    input: &'a mut Buffer,
    passage: Option<&'a mut Passage>,
}

impl Visitor for Waiting<'_> {
    fn is_gone(&mut self) -> bool {
        self.watch.is_gone(self.conn)
    }

    fn interim(&mut self, head: &ResponseHead) {
        // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
        if self.version == Version::Http11 {
            let mut bytes = Vec::new();
            head.write(Framing::Empty, Persistence::Implied, None, &mut bytes);
            tell(self.conn, self.owed, &bytes);
        }
    }

    fn body(&mut self, backend: BorrowedFd<'_>) -> Result<Upload<'_>, UploadError> {
        let Some(passage) = &mut self.passage else {
            return Ok(Upload::End);
        };
        self.input.consume(std::mem::take(&mut passage.taken));
        if passage.began.is_none() {
            // The time in which the request stood in line is not the visitor's.
            passage.progress = Instant::now();
            passage.began = Some(passage.progress);
        }
        loop {
            let piece = match passage.decoder.is_done() {
                true => return Ok(Upload::End),
                false => passage.decoder.next(self.input.data()),
            };
            let piece = piece.map_err(|bad| UploadError::Bad(bad.0))?;
            passage.length += piece.data.len() as u64;
            if passage.length > passage.most {
                return Err(UploadError::TooLarge);
            }
            if !piece.data.is_empty() {
                passage.taken = piece.consumed;
                return Ok(Upload::Piece(&self.input.data()[piece.data]));
            }
            self.input.consume(piece.consumed);
            if piece.consumed > 0 || passage.decoder.is_done() {
                continue;
            }
            if std::mem::take(&mut passage.expects) && self.input.is_empty() {
                tell(self.conn, self.owed, CONTINUE);
            }
            match self.input.fill_now(self.conn) {
                Ok(Some(1..)) => passage.progress = Instant::now(),
                Ok(None) => {
                    let deadline = passage.progress + passage.patience;
                    match self.conn.wait_for_bytes(backend, deadline) {
                        Ok(true) => return Ok(Upload::Answered),
                        Ok(false) if passage.is_too_slow() => return Err(UploadError::TooSlow),
                        Ok(false) => {}
                        Err(error) if error.kind() == ErrorKind::TimedOut => {
                            return Err(UploadError::TimedOut);
                        }
                        Err(_) => return Err(UploadError::Gone),
                    }
                }
                Ok(Some(0)) | Err(_) => return Err(UploadError::Gone),
            }
        }
    }
}

/// Writes something before the final response; what the visitor does not take now is owed.
pub(crate) fn tell(conn: &mut Conn, owed: &mut Vec<u8>, bytes: &[u8]) {
    // An error shows again when the final response is written.
    let taken = match owed.is_empty() {
        true => conn.write_now(bytes).unwrap_or(0),
        false => 0,
    };
    owed.extend_from_slice(&bytes[taken..]);
}

/// What came of a request.
pub(crate) enum Outcome<'w> {
    /// It is answered.
    Answer(Response<'w>),
    /// The backend speaks the other protocol that was asked for from now on.
    Switched(Switched),
    /// There is nobody to answer any more, or its body, which is passed on as it comes, must be refused.
    Refuse(UploadError, Trace),
    /// There was no backend, but there is a backup; see [`Errand::fall_back`].
    Elsewhere,
}

impl Errand {
    /// Bytes of memory that a request is charged for, whose head has so many: for these, and for itself.
    pub(crate) const fn memory(head: usize) -> u64 {
        (size_of::<Self>() + head) as u64
    }

    /// Whether nothing of the request is left to be read.
    pub(crate) fn is_read(&self) -> bool {
        self.passage
            .as_ref()
            .is_none_or(|passage| passage.is_over())
    }

    pub(crate) fn site(&self) -> &Site {
        &self.snapshot.sites[self.site]
    }

    /// The site whose backends are to answer.
    pub(crate) fn supplier(&self) -> &Site {
        &self.snapshot.sites[self.from]
    }

    /// How long it has waited, and for nothing yet.
    pub(crate) fn waited(&self) -> Trace {
        Trace {
            queued: self.queued + self.since.elapsed(),
            ..Trace::default()
        }
    }

    /// Goes over to the backup, if there is one.
    pub(crate) fn fall_back(&mut self) -> bool {
        let Some(backup) = self.supplier().backup else {
            return false;
        };
        let now = Instant::now();
        self.queued += now.saturating_duration_since(self.since);
        self.since = now;
        self.from = backup;
        self.wait = None;
        true
    }
}

impl Watch {
    pub(crate) const fn new(received: Instant) -> Self {
        Self {
            received,
            half_closed: false,
        }
    }

    /// Whether the visitor has left.
    pub(crate) fn is_gone(&mut self, conn: &Conn) -> bool {
        match conn.pending() {
            Pending::Nothing | Pending::Bytes => false,
            Pending::Broken => true,
            Pending::End => {
                self.half_closed |= self.received.elapsed() < HALF_CLOSE;
                !self.half_closed
            }
        }
    }
}

/// Answers a request of a site.
pub(crate) fn respond<'w>(
    errand: &mut Errand,
    conn: &mut Conn,
    input: &mut Buffer,
    owed: &mut Vec<u8>,
    stats: &Stats,
    reply: &'w mut Buffer,
    out: &mut Vec<u8>,
) -> Outcome<'w> {
    let Errand {
        request,
        snapshot,
        site,
        from,
        since,
        queued,
        watch,
        passage,
        permit,
        wait,
        _memory,
    } = errand;
    let wait = wait.take();
    let site = &snapshot.sites[*site];
    let supplier = &snapshot.sites[*from];
    let path = request.head.target.decoded_path();
    let pools = supplier.pools(&path);
    let want = match &supplier.servers {
        Some(servers) => {
            let host = request.head.host.as_ref();
            Want::Server(directory::Want {
                directory: servers.of(host.map(|host| host.name())),
                waiting: &supplier.waiting,
            })
        }
        None if pools.is_empty() => {
            drop(path);
            return match supplier.backup {
                Some(_) => Outcome::Elsewhere,
                None => Outcome::Answer(unavailable(errand, Cause::NoAddress)),
            };
        }
        None => Want::Dialled(pool::Want {
            pools,
            keys: &supplier.keys,
            id: route::sticky_id(&snapshot.sticky, &path),
            order: supplier.settings.order,
            waiting: &supplier.waiting,
        }),
    };
    if request.head.upgrade.is_some() {
        match site.settings.max_tunnels {
            0 => request.head.upgrade = None,
            // It may have one already, from the site that had no backend.
            _ if permit.is_some() => {}
            _ => *permit = site.tunnels.enter(),
        }
        if request.head.upgrade.is_some() && permit.is_none() {
            // Without the upgrade the request would be another one, which the application has to refuse.
            drop(path);
            return Outcome::Answer(unavailable(errand, Cause::NoTunnel));
        }
    }
    let mut visitor = Waiting {
        version: request.head.version,
        conn,
        watch,
        owed,
        input,
        passage: passage.as_deref_mut(),
    };
    let result = relay::relay(
        Ask {
            request,
            site: &site.settings,
            want,
            wait,
            since: *since,
            timeout: supplier.settings.timeout,
            queued: *queued,
            visitor: &mut visitor,
            stats,
        },
        reply,
        out,
    );
    match result {
        Ok(Answer::Response(mut response)) => {
            *permit = None;
            tell_unframed(site, &response);
            let gzip = site.settings.gzip.as_ref();
            Outcome::Answer(match files::named(request, site, &mut response) {
                // It goes out as it is.
                Some(file) => file,
                None => compress(snapshot, gzip, &request.head, response),
            })
        }
        Ok(Answer::Switched(switched)) => Outcome::Switched(switched),
        Err(failure) => match failure.cause {
            Cause::ClientGone => Outcome::Refuse(UploadError::Gone, failure.trace),
            Cause::Upload(error) => Outcome::Refuse(error, failure.trace),
            Cause::NoBackend | Cause::Full if supplier.backup.is_some() => Outcome::Elsewhere,
            _ => Outcome::Answer(failed(request, site, failure)),
        },
    }
}

/// The answer to a request that found no backend in time.
pub(crate) fn unavailable(errand: &Errand, cause: Cause) -> Response<'static> {
    let trace = errand.waited();
    let failure = Failure { cause, trace };
    failed(&errand.request, errand.site(), failure)
}

/// The page for a failure, and the line in the log.
fn failed(request: &Request, site: &Site, failure: Failure) -> Response<'static> {
    let (status, detail) = match failure.cause {
        Cause::NoBackend => (
            503,
            "No application process was free in time. Please try again.",
        ),
        Cause::Full => (
            503,
            "Too many requests are waiting already. Please try again.",
        ),
        Cause::NoTunnel => (
            503,
            "Too many connections are open already. Please try again.",
        ),
        Cause::NoAddress => (503, "No application takes requests for this path."),
        Cause::TooSlow | Cause::Stuck => (504, "The application did not answer in time."),
        Cause::Died => (
            502,
            "The application closed the connection without an answer.",
        ),
        Cause::BadAnswer(_) => (502, "The application's answer was not valid HTTP."),
        Cause::LostBody | Cause::ClientGone | Cause::Upload(_) => {
            (500, "The request could not be passed on.")
        }
    };
    let why = match failure.cause {
        Cause::NoBackend => format!("no backend in {:?}", site.settings.timeout),
        Cause::Full => "limits.waiting reached".to_owned(),
        Cause::NoTunnel => "max_tunnels reached".to_owned(),
        Cause::NoAddress => "no outgoing address for this path".to_owned(),
        Cause::BadAnswer(what) => format!("bad answer: {what}"),
        Cause::Died => "no answer, connection closed".to_owned(),
        Cause::TooSlow => format!("no answer in {:?}", site.settings.timeouts.first_byte),
        Cause::Stuck => format!("no progress in {:?}", site.settings.timeouts.backend),
        Cause::LostBody | Cause::ClientGone | Cause::Upload(_) => {
            "the collected body is lost".to_owned()
        }
    };
    log::warn!(
        target: &site.log,
        "{status} {} {} from {}: site {}: backend {}: {why}",
        request.head.method.as_str(),
        request.head.target.as_str(),
        request.peer,
        site.settings.name,
        relay::escaped(&failure.trace),
    );
    Response {
        trace: failure.trace,
        ..site.page(status, detail, Some(&request.head))
    }
}

/// Says once per site that its answers lack a length, which costs time and connections.
fn tell_unframed(site: &Site, response: &Response<'_>) {
    let unframed = matches!(response.body, Body::Stream { length: None, .. })
        && matches!(response.trace.backend, Some(Origin::Dialled(_)));
    if unframed && !response.head.chunked && !site.unframed_told.swap(true, Ordering::Relaxed) {
        log::warn!(
            target: &site.log,
            "site {}: the application sends answers without Content-Length or chunks, whose end can only be guessed; \
             it should send a Content-Length",
            site.settings.name
        );
    }
}

pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// A visitor that closes its sending side within this time of its request still wants the answer.
const HALF_CLOSE: Duration = Duration::from_millis(400);

/// The reason for which a connection is closed after a page of our own with this status.
pub(crate) const fn reason_for(status: u16) -> Close {
    match status {
        408 => Close::HeadTimeout,
        413 | 414 | 431 => Close::TooLarge,
        500 => Close::Internal,
        503 => Close::Overload,
        _ => Close::BadRequest,
    }
}
