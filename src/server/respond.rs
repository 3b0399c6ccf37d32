//! From a request to a response: relays it, and answers itself where that fails.
//!
//! Runs on a worker.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::pages;
use super::route;
use super::snapshot::{Held, Site};
use crate::backend::pool::Want;
use crate::backend::relay::{self, Ask, Cause, Failure};
use crate::exchange::{Body, Request, Response, Visitor};
use crate::http::body::Framing;
use crate::http::head::{Persistence, ResponseHead, Version};
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
    /// Since when it waits for a backend.
    pub(crate) since: Instant,
    /// Whether the visitor is still there.
    pub(crate) watch: Watch,
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

/// A visitor whose request is at a backend.
struct Waiting<'a> {
    version: Version,
    conn: &'a mut Conn,
    watch: &'a mut Watch,
    /// What it has not taken of interim responses; goes in front of the final one.
    owed: &'a mut Vec<u8>,
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
    /// The visitor left; there is nobody to answer.
    Gone,
}

impl Errand {
    pub(crate) fn site(&self) -> &Site {
        &self.snapshot.sites[self.site]
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
    owed: &mut Vec<u8>,
    stats: &Stats,
    reply: &'w mut Buffer,
    out: &mut Vec<u8>,
) -> Outcome<'w> {
    let Errand {
        request,
        snapshot,
        site,
        since,
        watch,
    } = errand;
    let site = &snapshot.sites[*site];
    let path = request.head.target.decoded_path();
    let pools = site.pools(&path);
    if pools.is_empty() {
        drop(path);
        return Outcome::Answer(unavailable(errand, Cause::NoAddress));
    }
    let mut visitor = Waiting {
        version: request.head.version,
        conn,
        watch,
        owed,
    };
    let result = relay::relay(
        Ask {
            request,
            site: &site.settings,
            want: Want {
                pools,
                keys: &site.keys,
                id: route::sticky_id(&snapshot.sticky, &path),
                order: site.settings.order,
                waiting: &site.waiting,
            },
            since: *since,
            visitor: &mut visitor,
            stats,
        },
        reply,
        out,
    );
    match result {
        Ok(response) => {
            tell_unframed(site, &response);
            Outcome::Answer(response)
        }
        Err(failure) if failure.cause == Cause::ClientGone => Outcome::Gone,
        Err(failure) => Outcome::Answer(failed(request, site, failure)),
    }
}

/// The answer to a request that found no backend in time.
pub(crate) fn unavailable(errand: &Errand, cause: Cause) -> Response<'static> {
    let failure = Failure {
        cause,
        trace: crate::exchange::Trace {
            queued: errand.since.elapsed(),
            ..Default::default()
        },
    };
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
        Cause::NoAddress => (503, "No application takes requests for this path."),
        Cause::TooSlow => (504, "The application did not answer in time."),
        Cause::Died => (
            502,
            "The application closed the connection without an answer.",
        ),
        Cause::BadAnswer(_) => (502, "The application's answer was not valid HTTP."),
        Cause::LostBody | Cause::ClientGone => (500, "The request could not be passed on."),
    };
    let why = match failure.cause {
        Cause::NoBackend => format!("no backend in {:?}", site.settings.timeout),
        Cause::Full => "limits.waiting reached".to_owned(),
        Cause::NoAddress => "no outgoing address for this path".to_owned(),
        Cause::BadAnswer(what) => format!("bad answer: {what}"),
        Cause::Died => "no answer, connection closed".to_owned(),
        Cause::TooSlow => format!("no answer in {:?}", site.settings.timeouts.first_byte),
        Cause::LostBody | Cause::ClientGone => "the collected body is lost".to_owned(),
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
        ..pages::page(status, detail, Some(&request.head))
    }
}

/// Says once per site that its answers lack a length, which costs time and connections.
fn tell_unframed(site: &Site, response: &Response<'_>) {
    let unframed = matches!(response.body, Body::Stream { length: None, .. });
    if unframed && !response.head.chunked && !site.unframed_told.swap(true, Ordering::Relaxed) {
        log::warn!(
            target: &site.log,
            "site {}: the application sends answers without Content-Length or chunks, whose end can only be guessed; \
             it should send a Content-Length",
            site.settings.name
        );
    }
}

/// A visitor that closes its sending side within this time of its request still wants the answer.
const HALF_CLOSE: Duration = Duration::from_millis(400);

/// The reason for which a connection is closed after a page of our own with this status.
pub(crate) const fn reason_for(status: u16) -> Close {
    match status {
        408 => Close::HeadTimeout,
        413 | 414 | 431 => Close::TooLarge,
        500 => Close::Internal,
        _ => Close::BadRequest,
    }
}
