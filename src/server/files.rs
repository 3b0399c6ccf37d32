//! Responses from files: those below a site's docroot, and those that its backends name.
//!
//! Runs on a worker.

use std::borrow::Cow;
use std::time::Instant;

use super::snapshot::Site;
use crate::content::files::FileResponse;
use crate::content::scripts::Script;
use crate::exchange::{Request, Response};
use crate::http::head::{ACCEL_REDIRECT, Method, ResponseHead, SENDFILE};
use crate::http::target;
use crate::process;
use crate::server::pages;

/// The response to a request that needs no backend: a file, or 404 or 405 if the site has nothing but files.
pub(crate) fn respond(site: &Site, request: &Request, now: Instant) -> Option<Response> {
    let head = &request.head;
    let files = site.files.docroot()?;
    let reads = is_read(&head.method);
    if reads && let Some(found) = files.respond(head, now) {
        return Some(response_of(found, request, site));
    }
    if reads
        && site.settings.fallback.is_some()
        && !site.has_backends_for(head)
        && let Some(page) = fallback(site, request, now)
    {
        return Some(page);
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

/// The script that a FastCGI server of the site is to run. The error is the response if there is none.
pub(crate) fn script(
    site: &Site,
    request: &Request,
    now: Instant,
) -> Result<Script, Box<Response>> {
    let head = &request.head;
    let path = head.target.decoded_path();
    let front = site.settings.fallback.as_deref();
    let found = site
        .files
        .docroot()
        .map(|files| files.script(&path, front, now));
    let response = match found {
        Some(Ok(Some(script))) => return Ok(script),
        Some(Err(error)) => response_of(FileResponse::Unreadable(error), request, site),
        Some(Ok(None)) | None => {
            let page = match is_read(&head.method) {
                true => fallback(site, request, now),
                false => None,
            };
            page.unwrap_or_else(|| site.page(404, "There is no such file here.", Some(head)))
        }
    };
    Err(Box::new(response))
}

/// The response with the file that a backend names, which replaces the backend's own; `None`: that is passed on. The
/// fields that name a file are removed: no client gets them, except a trusted proxy if this one does not send files.
fn named_by_backend(request: &Request, site: &Site, head: &mut ResponseHead) -> Option<Response> {
    let files = site.files.sendfileroot();
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
    Some(
        match files.respond_for(&name, asked, head, Instant::now()) {
            Some(found) => response_of(found, request, site),
            None => {
                let name = String::from_utf8_lossy(&name);
                let root = site.settings.sendfileroot.as_deref();
                let root = root.map_or(Cow::Borrowed(""), |root| root.to_string_lossy());
                log::warn!(
                    target: &site.log,
                    request_id:% = request.id;
                    "site {}: the application names {name:?}, which is not a file below {root}",
                    site.settings.name,
                );
                if !site.settings.enable_sendfile_404 {
                    return None;
                }
                site.page(404, "There is no such file here.", Some(asked))
            }
        },
    )
}

/// The response that replaces that of a backend: a file that it names, the page of a single-page application for 404,
/// or the site's own page for an error.
pub(crate) fn in_place_of_backend(
    request: &Request,
    site: &Site,
    head: &mut ResponseHead,
) -> Option<Response> {
    if let Some(named) = named_by_backend(request, site, head) {
        return Some(named);
    }
    let settings = &site.settings;
    if head.status == 404 && settings.fallback.is_some() && is_read(&request.head.method) {
        let page = fallback(site, request, Instant::now());
        if page.is_some() {
            return page;
        }
    }
    if !settings.intercept_errors {
        return None;
    }
    let mut page = site.pages.error_page(head.status, &request.head)?;
    for (name, value) in head.headers.iter() {
        if KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
            page.head.headers.push(name, value);
        }
    }
    Some(page)
}

/// The page of a single-page application, for a request that nothing else serves.
fn fallback(site: &Site, request: &Request, now: Instant) -> Option<Response> {
    let (path, files) = (site.settings.fallback.as_ref()?, site.files.docroot()?);
    let head = &request.head;
    let name = head.target.path().rsplit('/').next().unwrap_or_default();
    // A missing script should not be a page.
    if name.contains('.') && !pages::wants_html(head) {
        return None;
    }
    let found = files.respond_with(path.as_bytes(), head, now)?;
    Some(response_of(found, request, site))
}

fn response_of(found: FileResponse, request: &Request, site: &Site) -> Response {
    let head = &request.head;
    match found {
        FileResponse::File(response) => response,
        FileResponse::Moved(location) => {
            let mut page = site.page(301, "This is a directory.", Some(head));
            page.head.headers.push("Location", location.as_bytes());
            page
        }
        FileResponse::Failed => {
            let detail = "The file does not meet the conditions of the request.";
            site.page(412, detail, Some(head))
        }
        FileResponse::Unsatisfiable(length) => {
            let mut page = site.page(416, "The file does not have these bytes.", Some(head));
            let range = format!("bytes */{length}");
            page.head.headers.push("Content-Range", range.as_bytes());
            page
        }
        FileResponse::Unreadable(error) => {
            log::error!(
                target: &site.log,
                request_id:% = request.id;
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

/// Fields of a backend that its client gets with the site's own page as well: they say what to do next.
const KEPT: [&str; 6] = [
    "Allow",
    "Proxy-Authenticate",
    "Retry-After",
    "Set-Cookie",
    "Vary",
    "WWW-Authenticate",
];
