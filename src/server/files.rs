//! Answers from files: those of a site's docroot, and those that its backends name.
//!
//! Runs on a worker.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::snapshot::{Site, Snapshot};
use crate::config;
use crate::content::files::{Answer, Files};
use crate::exchange::{Request, Response};
use crate::http::head::{ACCEL_REDIRECT, Method, RequestHead, ResponseHead, SENDFILE};
use crate::http::target;
use crate::process;

/// The files of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteFiles {
    /// Below `docroot`.
    docroot: Option<Arc<Files>>,
    /// Below `sendfileroot`. They are files of their own: what a backend has once shown to one visitor is no one else's.
    sendfileroot: Option<Arc<Files>>,
}

impl SiteFiles {
    /// Those of a site as configured, with all that is known of them already.
    pub(crate) fn new(site: &config::SiteConfig, before: Option<&Snapshot>) -> Self {
        let carry = |new: Files, old: Option<&Arc<Files>>| match old {
            Some(old) if old.are_like(&new) => {
                old.distrust();
                Arc::clone(old)
            }
            _ => Arc::new(new),
        };
        let before = before.and_then(|before| before.files_of(&site.name));
        let docroot = Files::of_docroot(site);
        let sendfileroot = Files::of_backends(site);
        let old =
            |which: fn(&Self) -> &Option<Arc<Files>>| before.and_then(|old| which(old).as_ref());
        Self {
            docroot: docroot.map(|new| carry(new, old(|old| &old.docroot))),
            sendfileroot: sendfileroot.map(|new| carry(new, old(|old| &old.sendfileroot))),
        }
    }

    /// Lets go of those that have no place in a new configuration; `next` is what the site has there.
    pub(crate) fn retire(&self, next: Option<&Self>) {
        for (files, next) in [
            (&self.docroot, next.and_then(|next| next.docroot.as_ref())),
            (
                &self.sendfileroot,
                next.and_then(|next| next.sendfileroot.as_ref()),
            ),
        ] {
            if let Some(files) = files
                && !next.is_some_and(|next| Arc::ptr_eq(files, next))
            {
                files.retire();
            }
        }
    }

    /// Tells the log what keeps files from being served now. Called when the server has become the user that it is to be.
    pub(crate) fn check(&self, site: &config::SiteConfig) {
        for (key, files, path) in [
            ("docroot", &self.docroot, &site.docroot),
            ("sendfileroot", &self.sendfileroot, &site.sendfileroot),
        ] {
            let (Some(files), Some(path)) = (files, path) else {
                continue;
            };
            if let Err(error) = files.check() {
                log::warn!(
                    "site {}: {key} {}: {}",
                    site.name,
                    path.display(),
                    process::reason(&error)
                );
            }
        }
    }
}

/// The answer to a request that needs no backend: a file, or that there is none and nobody else to ask.
pub(crate) fn answer(site: &Site, head: &RequestHead, now: Instant) -> Option<Response> {
    let files = site.files.docroot.as_ref()?;
    let reads = is_read(&head.method);
    if reads && let Some(answer) = files.answer(head, now) {
        return Some(present(answer, head, site));
    }
    if !site.settings.outgoing.is_empty() || site.servers.is_some() {
        return None;
    }
    if reads {
        return Some(site.page(404, "There is no such file here.", Some(head)));
    }
    let mut page = site.page(405, "There are only files here.", Some(head));
    page.head.headers.set("Allow", b"GET, HEAD");
    Some(page)
}

/// The answer with the file that a backend names, for the place of the backend's own; `None`: that is passed on. The fields
/// that name a file are for us: they never reach a visitor, but for one that is a proxy itself where this one does not
/// send files.
pub(crate) fn named(request: &Request, site: &Site, head: &mut ResponseHead) -> Option<Response> {
    let files = site.files.sendfileroot.as_ref();
    if files.is_none() && request.client.trusted {
        return None;
    }
    let headers = &mut head.headers;
    let name = headers.get(SENDFILE).map(<[u8]>::to_vec).or_else(|| {
        let uri = headers.get(ACCEL_REDIRECT)?;
        let path = uri.split(|byte| *byte == b'?').next()?;
        Some(target::decoded(path).into_owned())
    })?;
    headers.remove(SENDFILE);
    headers.remove(ACCEL_REDIRECT);
    let files = files.filter(|_| is_read(&request.head.method))?;
    let asked = &request.head;
    Some(match files.answer_for(&name, asked, head, Instant::now()) {
        Some(answer) => present(answer, asked, site),
        None => {
            let name = String::from_utf8_lossy(&name);
            let root = site.settings.sendfileroot.as_deref();
            let root = root.map_or(Cow::Borrowed(""), |root| root.to_string_lossy());
            log::warn!(
                target: &site.log,
                "site {}: the application names {name:?}, which is no file below {root}",
                site.settings.name,
            );
            if !site.settings.enable_sendfile_404 {
                return None;
            }
            site.page(404, "There is no such file here.", Some(asked))
        }
    })
}

fn present(answer: Answer, head: &RequestHead, site: &Site) -> Response {
    match answer {
        Answer::File(response) => response,
        Answer::Moved(location) => {
            let mut page = site.page(301, "This is a directory.", Some(head));
            page.head.headers.push("Location", location.as_bytes());
            page
        }
        Answer::Failed => {
            let detail = "The file is not the one that the request is about.";
            site.page(412, detail, Some(head))
        }
        Answer::Unsatisfiable(length) => {
            let mut page = site.page(416, "The file has no such bytes.", Some(head));
            let range = format!("bytes */{length}");
            page.head.headers.push("Content-Range", range.as_bytes());
            page
        }
        Answer::Unreadable(error) => {
            log::error!(
                target: &site.log,
                "site {}: {}: {}",
                site.settings.name, head.target.as_str(), process::reason(&error)
            );
            site.page(503, "The file cannot be read now.", Some(head))
        }
    }
}

const fn is_read(method: &Method) -> bool {
    matches!(method, Method::Get | Method::Head)
}
