//! The server's own responses: one small body each, HTML or text as the client prefers, or a page of the site.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{self, PAGE_BYTES};
use crate::content::watched::{FileError, Flag, Watched};
use crate::exchange::{Body, Response, Trace};
use crate::http::date;
use crate::http::head::{ALLOW, RequestHead, ResponseHead};
use crate::stats::Stats;

/// The pages of a site (`maintenance_page`, `error_pages`), and whether it is in maintenance (`maintenance_flag`).
#[derive(Debug)]
pub(crate) struct SitePages {
    flag: Option<Flag>,
    maintenance: Option<CustomPage>,
    by_status: Vec<(u16, CustomPage)>,
}

/// A file that replaces the built-in page.
#[derive(Debug)]
struct CustomPage {
    file: Arc<Watched<Vec<u8>>>,
    content_type: &'static str,
}

/// Files of pages, by path.
pub(crate) type PageFiles = HashMap<PathBuf, Arc<Watched<Vec<u8>>>>;

impl SitePages {
    /// The pages of a site. A file that is known already is reused, after a look whether it has changed; one that is
    /// not known is read and added.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn new(site: &config::SiteConfig, known: &mut PageFiles) -> Result<Self, FileError> {
        let mut open = |path: &Path| {
            let file = match known.get(path) {
                Some(file) => {
                    file.check();
                    Arc::clone(file)
                }
                None => {
                    let file = Watched::open(path, PAGE_BYTES, |bytes| Ok(bytes.to_vec()))?;
                    let file = Arc::new(file);
                    known.insert(path.to_owned(), Arc::clone(&file));
                    file
                }
            };
            Ok(CustomPage {
                file,
                content_type: content_type(path),
            })
        };
        let maintenance = site.maintenance_page.as_deref();
        let maintenance = maintenance.map(&mut open).transpose()?;
        let by_status = site.error_pages.iter();
        let by_status = by_status.map(|(status, path)| Ok((*status, open(path)?)));
        Ok(Self {
            flag: site.maintenance_flag.as_deref().map(Flag::new),
            maintenance,
            by_status: by_status.collect::<Result<_, _>>()?,
        })
    }

    /// The files, with their paths.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, Arc<Watched<Vec<u8>>>)> {
        let by_status = self.by_status.iter().map(|(_, page)| page);
        let all = by_status.chain(&self.maintenance);
        all.map(|page| (page.file.path().to_owned(), Arc::clone(&page.file)))
    }

    /// Whether the site is in maintenance.
    pub(crate) fn in_maintenance(&self, now: Instant) -> bool {
        self.flag.as_ref().is_some_and(|flag| flag.is_up(now))
    }

    /// A page with this status: the site's own if it has one, or one that says `detail`.
    pub(crate) fn page(
        &self,
        status: u16,
        detail: &str,
        request: Option<&RequestHead>,
    ) -> Response {
        let page = page(status, detail, request);
        match self.of(status) {
            Some(own) => own.in_place_of(page),
            None => page,
        }
    }

    /// The site's own page for a status, if it has one for this status (`error_pages`).
    pub(crate) fn error_page(&self, status: u16, request: &RequestHead) -> Option<Response> {
        let (_, own) = self.by_status.iter().find(|(own, _)| *own == status)?;
        let mut page = own.in_place_of(page(status, "", Some(request)));
        // Those of the backend count.
        for name in ["Retry-After", "Allow"] {
            page.head.headers.remove(name);
        }
        Some(page)
    }

    /// The page for every request while the site is in maintenance.
    pub(crate) fn maintenance_page(&self, request: &RequestHead) -> Response {
        let why = "The site is down for maintenance. Please come back later.";
        let mut page = page(503, why, Some(request));
        page.head
            .headers
            .set("Retry-After", RETRY_AFTER_MAINTENANCE);
        match self.maintenance.as_ref().or(self.of(503)) {
            Some(own) => own.in_place_of(page),
            None => page,
        }
    }

    /// The site's page for a status. The maintenance page also serves as the page for 503.
    fn of(&self, status: u16) -> Option<&CustomPage> {
        let own = self.by_status.iter().find(|(own, _)| *own == status);
        let own = own.map(|(_, page)| page);
        own.or(self.maintenance.as_ref().filter(|_| status == 503))
    }
}

/// A page for a client that should send its request again after this time (RFC 9110 10.2.3).
pub(crate) fn retry_later(mut page: Response, wait: Duration) -> Response {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let seconds = seconds.to_string();
    page.head.headers.set("Retry-After", seconds.as_bytes());
    page
}

impl CustomPage {
    /// The same response with this page as its body.
    fn in_place_of(&self, mut page: Response) -> Response {
        let fields = &mut page.head.headers;
        fields.set("Content-Type", self.content_type.as_bytes());
        page.body = Body::Bytes(self.file.get(Instant::now()).to_vec());
        page
    }
}

/// The content type of a page, by the extension of its file.
fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    match extension.to_str().unwrap_or_default() {
        "txt" => "text/plain; charset=utf-8",
        "json" => "application/json",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        _ => "text/html; charset=utf-8",
    }
}

/// A status page. `detail` says what the client should know or do.
pub(crate) fn page(status: u16, detail: &str, request: Option<&RequestHead>) -> Response {
    let mut head = ResponseHead::new(status);
    let title = ResponseHead::reason(status);
    let body = if request.is_some_and(wants_html) {
        head.headers
            .push("Content-Type", b"text/html; charset=utf-8");
        let detail = escape(detail);
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{status} {title}</title></head>\n\
             <body><h1>{title}</h1><p>{detail}</p></body>\n</html>\n"
        )
    } else {
        head.headers
            .push("Content-Type", b"text/plain; charset=utf-8");
        format!("{status} {title}\n{detail}\n")
    };
    // A page about the current state must not be shown later.
    head.headers.push("Cache-Control", b"no-store");
    match status {
        429 | 503 => head.headers.push("Retry-After", RETRY_AFTER),
        405 => head.headers.push("Allow", ALLOW.as_bytes()),
        _ => {}
    }
    Response {
        head,
        body: Body::Bytes(body.into_bytes()),
        trace: Trace::default(),
    }
}

/// The response to a health check, in the wording of the original, with the numbers of sites that an operator has
/// switched. (Not their names: anybody may ask.)
pub(crate) fn health(
    stats: &Stats,
    client: Option<IpAddr>,
    switched: &[(&str, usize)],
) -> Response {
    let client = client.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
    let time = date::text(SystemTime::now());
    let mut body = format!("Health request from {client} at {time}\n");
    for status in [400, 404, 503] {
        body.push_str(&format!("{status}: {}\n", stats.status(status)));
    }
    for (word, sites) in switched {
        body.push_str(&format!("{word}: {sites}\n"));
    }
    let mut head = ResponseHead::new(200);
    head.headers
        .push("Content-Type", b"text/plain; charset=utf-8");
    head.headers.push("Cache-Control", b"no-store");
    Response {
        head,
        body: Body::Bytes(body.into_bytes()),
        trace: Trace::default(),
    }
}

/// The response to an authority that validates a name (RFC 8555 8.3).
pub(crate) fn challenge(text: String) -> Response {
    let mut head = ResponseHead::new(200);
    let octets = b"application/octet-stream";
    head.headers.push("Content-Type", octets);
    head.headers.push("Cache-Control", b"no-store");
    Response {
        head,
        body: Body::Bytes(text.into_bytes()),
        trace: Trace::default(),
    }
}

/// The response to an OPTIONS request that may not be passed on.
pub(crate) fn options() -> Response {
    Response {
        head: ResponseHead::options(),
        // Not `Empty`: the response needs its Content-Length, 0.
        body: Body::Bytes(Vec::new()),
        trace: Trace::default(),
    }
}

/// Whether the client accepts HTML by name. A program that accepts anything gets text.
pub(crate) fn wants_html(request: &RequestHead) -> bool {
    request.headers.get_all("Accept").any(|list| {
        list.split(|byte| *byte == b',').any(|range| {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let html = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(b"text/html"));
            html && !parts.any(|part| matches!(part, b"q=0" | b"q=0.0" | b"q=0.00" | b"q=0.000"))
        })
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Seconds after which a client may try again: long enough to restart a process.
const RETRY_AFTER: &[u8] = b"5";
/// The same for a site that is in maintenance.
const RETRY_AFTER_MAINTENANCE: &[u8] = b"60";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::HeadLimits;

    fn body(accept: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let head = RequestHead::parse(request.as_bytes(), &HeadLimits::default()).unwrap();
        match page(404, "no <b> here", Some(&head)).body {
            Body::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            _ => panic!("a page is all there at once"),
        }
    }

    #[test]
    fn html_only_if_named() {
        for accept in [
            "text/html",
            "application/xml, text/HTML;q=0.9",
            "text/html;level=1",
        ] {
            assert!(body(accept).contains("no &lt;b&gt; here"), "{accept}");
        }
        for accept in ["*/*", "text/plain", "text/html;q=0", "application/json"] {
            assert_eq!(body(accept), "404 Not Found\nno <b> here\n", "{accept}");
        }
    }
}
