//! Requests that are refused, and those that end without an answer.

use std::borrow::Cow;
use std::time::Instant;

use super::about::{About, Subject};
use super::{Session, State, Step, Then};
use crate::exchange::{Response, Trace, UploadError};
use crate::http::head::RequestHead;
use crate::net::listener;
use crate::server::collect::Fault;
use crate::server::deliver::Delivered;
use crate::server::pages;
use crate::server::respond::{Errand, reason_for};
use crate::server::snapshot::Held;
use crate::server::worker::Worker;
use crate::stats::Close;

impl Session {
    /// Refuses what could not be read as a request. `begun`: since when it was on its way.
    pub(super) fn refuse(
        &mut self,
        status: u16,
        why: &str,
        begun: Option<Instant>,
        snapshot: &Held,
        worker: &mut Worker,
    ) -> Step {
        log::info!("{status} for {}: {why}", self.peer);
        let reason = reason_for(status);
        let about = About::unreadable(snapshot, begun, reason);
        let detail = format!("The request was refused: {why}.");
        let page = pages::page(status, &detail, None);
        let sent = self.deliver(&about, page, false, &mut worker.pen());
        self.after(sent, &about, Then::close(reason), worker)
    }

    /// Refuses a request because `limits.memory` is used up, and closes, which gives some of it back.
    pub(super) fn refuse_overload(
        &mut self,
        head: &RequestHead,
        received: Instant,
        site: usize,
        snapshot: &Held,
        worker: &mut Worker,
    ) -> Step {
        log::warn!(
            target: &snapshot.sites[site].log,
            "503 {} {} from {}: limits.memory reached",
            head.method.as_str(), head.target.as_str(), self.peer
        );
        let reason = Close::Overload;
        let why = "Too many requests are being served already. Please try again.";
        let page = snapshot.sites[site].page(503, why, Some(head));
        let about = About {
            ended: Some(reason),
            ..About::request(head, received, Some(site), snapshot)
        };
        let sent = self.deliver(&about, page, false, &mut worker.pen());
        let then = Then {
            unread: head.has_body(),
            ..Then::close(reason)
        };
        self.after(sent, &about, then, worker)
    }

    /// Refuses a request for the sake of its body.
    pub(super) fn refuse_body(
        &mut self,
        errand: &Errand,
        fault: &Fault,
        trace: Trace,
        worker: &mut Worker,
    ) -> Step {
        let head = &errand.request.head;
        let most = errand.site().settings.limits.body;
        let (status, why) = match fault {
            Fault::TooLarge => (
                413,
                Cow::Owned(format!("the body has more than {most} bytes")),
            ),
            Fault::Bad(what) => (400, Cow::Borrowed(*what)),
            Fault::NoRoom => {
                log::warn!(target: &errand.site().log, "limits.spool reached: a body is refused");
                (503, Cow::Borrowed("there is no room for its body now"))
            }
            Fault::Disk(error) => {
                let directory = errand.snapshot.config.temporary_directory.display();
                log::error!(
                    target: &errand.site().log,
                    "temporary_directory {directory}: {}", listener::reason(error)
                );
                (500, Cow::Borrowed("the body could not be stored"))
            }
        };
        log::info!(
            target: &errand.site().log,
            "{status} for {}: {} {}: {why}", self.peer, head.method.as_str(), head.target.as_str()
        );
        let detail = format!("The request was refused: {why}.");
        let page = Response {
            trace,
            ..errand.site().page(status, &detail, Some(head))
        };
        self.refuse_with(errand, page, reason_for(status), worker)
    }

    /// Refuses a request in the middle of a body that is passed on as it comes, or gives one up that nobody waits for.
    pub(super) fn refuse_upload(
        &mut self,
        errand: &Errand,
        error: UploadError,
        trace: Trace,
        worker: &mut Worker,
    ) -> Step {
        match error {
            UploadError::TooLarge => self.refuse_body(errand, &Fault::TooLarge, trace, worker),
            UploadError::Bad(what) => self.refuse_body(errand, &Fault::Bad(what), trace, worker),
            UploadError::TimedOut => self.refuse_slow(errand, Close::BodyTimeout, trace, worker),
            UploadError::TooSlow => self.refuse_slow(errand, Close::BodySlow, trace, worker),
            UploadError::Gone => self.gone(errand, &trace),
        }
    }

    pub(super) fn refuse_slow(
        &mut self,
        errand: &Errand,
        reason: Close,
        trace: Trace,
        worker: &mut Worker,
    ) -> Step {
        let why = "The body of the request did not arrive in time.";
        let page = Response {
            trace,
            ..errand.site().page(408, why, Some(&errand.request.head))
        };
        self.refuse_with(errand, page, reason, worker)
    }

    /// Answers a request of which not everything was read, and closes.
    pub(super) fn refuse_with(
        &mut self,
        errand: &Errand,
        page: Response<'_>,
        reason: Close,
        worker: &mut Worker,
    ) -> Step {
        let about = About {
            ended: Some(reason),
            ..About::errand(errand)
        };
        let sent = self.deliver(&about, page, false, &mut worker.pen());
        self.after(sent, &about, Then::close(reason), worker)
    }

    /// The session ends while a request is under way, which only the end of the server does: no step has taken the state
    /// out of it.
    pub(super) fn log_under_way(&mut self) {
        let errand = match std::mem::replace(&mut self.state, State::Running) {
            State::Running | State::Head(_) | State::Linger { .. } => return,
            State::Door(door) => door.errand,
            State::Body(collecting) => collecting.errand,
            State::Open(errand) | State::Turn(errand) => *errand,
            State::Stalled(answering) => {
                let delivered = answering.stalled.cut(&mut self.conn, self.reason);
                return self.log_subject(&answering.subject, &delivered);
            }
            State::Tunnel(carried) => {
                let delivered = Delivered::failed(0, self.reason);
                return self.log_subject(&carried.subject, &delivered);
            }
        };
        let about = About::errand(&errand);
        if let Some(log) = about.log() {
            about.write(log, &self.peer, 503, 0, &Trace::default(), self.reason);
        }
    }

    /// Writes the line of an answer that is over.
    pub(super) fn log_subject(&self, subject: &Subject, delivered: &Delivered) {
        About::of(subject).log_end(&self.peer, subject.status, delivered, &subject.trace);
    }

    /// The visitor left before its answer.
    pub(super) fn gone(&self, errand: &Errand, trace: &Trace) -> Step {
        let about = About::errand(errand);
        if let Some(log) = about.log() {
            about.write(log, &self.peer, CLIENT_GONE, 0, trace, Close::ClientGone);
        }
        Step::Close(Close::ClientGone)
    }
}

/// What nginx logs for an answer that nobody waited for.
const CLIENT_GONE: u16 = 499;
