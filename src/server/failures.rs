//! Requests that no backend has served: what the log says, and what the client gets.

use std::fmt::Write;

use super::pending::{PendingRequest, path_for, selector};
use super::snapshot::Site;
use crate::backend::shortage::Shortage;
use crate::exchange::{Response, ResponseSource, Trace};
use crate::relay::RelayError;
use crate::stats::{Close, Party};

impl PendingRequest {
    /// Logs a request that no backend has served, and returns the response for it.
    pub(crate) fn failed(&self, error: RelayError, trace: Trace) -> Response {
        let site = self.site();
        let (status, mut detail) = page_for(error);
        let head = &self.request.head;
        if matches!(error, RelayError::NoBackend | RelayError::Full(_)) && self.is_held_back() {
            detail = "The site is paused. Please try again.";
        } else if error == RelayError::NoBackend
            && let Some(shortage) = self.shortage(self.site_or_route())
        {
            detail = shortage.page();
        }
        log::warn!(
            target: &site.log,
            request_id:% = self.request.id;
            "{status} {} {} from {}: site {}: backend {}: {}",
            head.method.as_str(),
            head.target.as_str(),
            self.request.client,
            self.site_or_route().settings.name,
            trace.origin(),
            self.reason(error),
        );
        let trace = Trace {
            source: ResponseSource::Proxy,
            failed_by: Some(failed_by(error)),
            ..trace
        };
        Response {
            trace,
            ..site.page(status, detail, Some(head))
        }
    }

    /// Why there was no response, for the log.
    fn reason(&self, error: RelayError) -> String {
        match error {
            RelayError::NoBackend => self.no_backend(),
            RelayError::Full(full) if self.is_held_back() => format!("paused, and {full}"),
            RelayError::Full(full) => match self.shortage(self.supplier()) {
                Some(shortage) => format!("{full}, {shortage}"),
                None => full.to_string(),
            },
            RelayError::NoTunnel => "max_tunnels reached".to_owned(),
            RelayError::NoAddress => "no outgoing address for this path".to_owned(),
            RelayError::BadResponse(what) => format!("bad response: {what}"),
            RelayError::Tls(why) => match &self.tls_fault {
                Some(fault) => fault.to_string(),
                None => format!("TLS: {why}"),
            },
            RelayError::ClosedEarly => "connection closed without a response".to_owned(),
            RelayError::TooSlow => format!("no response in {:?}", self.rules.first_byte),
            RelayError::Stalled => format!("no progress in {:?}", self.rules.backend),
            RelayError::Unreachable | RelayError::LostBody | RelayError::Upload(_) => {
                "the stored body is lost".to_owned()
            }
        }
    }

    /// Which backends were not free in time: those of the site, and those of the backups that were tried.
    fn no_backend(&self) -> String {
        if self.snapshot.shared.is_draining() && self.is_held_back() {
            return "paused, and the server is stopping".to_owned();
        }
        if let Some(hold) = &self.hold {
            return format!("paused for longer than {:?}", hold.longest);
        }
        let mut site = self.site_or_route();
        let mut text = format!("no backend in {:?}", site.settings.timeout);
        if site.switches.is_drained() {
            "drained".clone_into(&mut text);
        } else if let Some(shortage) = self.shortage(site) {
            let _ = write!(text, ": {shortage}");
        }
        while let Some(backup) = site.backup
            && !std::ptr::eq(site, self.supplier())
        {
            site = &self.snapshot.sites[backup];
            let name = &site.settings.name;
            let _ = write!(text, "; none of backup {name}");
            if let Some(shortage) = self.shortage(site) {
                let _ = write!(text, ": {shortage}");
            }
        }
        text
    }

    /// Why a site has no backend for this request now. `None`: it has no address for the path.
    fn shortage(&self, supplier: &Site) -> Option<Shortage> {
        let path = path_for(supplier, &self.request.head);
        selector(&self.snapshot, supplier, &self.request.head, &path)
            .map(|selector| selector.shortage())
    }
}

/// The status of the page for a failure, and its text.
const fn page_for(error: RelayError) -> (u16, &'static str) {
    match error {
        RelayError::NoBackend => (
            503,
            "No application process was free in time. Please try again.",
        ),
        RelayError::Full(_) => (
            503,
            "Too many requests are waiting already. Please try again.",
        ),
        RelayError::NoTunnel => (
            503,
            "Too many connections are open already. Please try again.",
        ),
        RelayError::NoAddress => (503, "No application takes requests for this path."),
        RelayError::TooSlow | RelayError::Stalled => {
            (504, "The application did not respond in time.")
        }
        RelayError::ClosedEarly => (
            502,
            "The application closed the connection without a response.",
        ),
        RelayError::Unreachable => (502, "The application cannot be reached."),
        RelayError::Tls(_) => (502, "The application cannot be reached over TLS."),
        RelayError::BadResponse(_) => (502, "The application's response was not valid HTTP."),
        RelayError::LostBody | RelayError::Upload(_) => {
            (500, "The request could not be passed on.")
        }
    }
}

/// Who is the cause of a failure.
const fn failed_by(error: RelayError) -> Party {
    match error {
        RelayError::TooSlow
        | RelayError::Stalled
        | RelayError::ClosedEarly
        | RelayError::Unreachable
        | RelayError::Tls(_)
        | RelayError::BadResponse(_) => Party::Backend,
        RelayError::NoBackend
        | RelayError::Full(_)
        | RelayError::NoTunnel
        | RelayError::NoAddress
        | RelayError::LostBody => Party::Proxy,
        RelayError::Upload(_) => Party::Client,
    }
}

/// The reason for which a connection is closed after one of the server's own pages with this status.
pub(crate) const fn reason_for(status: u16) -> Close {
    match status {
        408 => Close::HeadTimeout,
        413 | 414 | 431 => Close::TooLarge,
        503 => Close::Overload,
        500 => Close::Internal,
        _ => Close::BadRequest,
    }
}
