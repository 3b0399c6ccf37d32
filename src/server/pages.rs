//! Answers of our own: one small body each, HTML or text as the visitor likes.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::exchange::{Body, Response, Trace};
use crate::http::head::{RequestHead, ResponseHead};
use crate::stats::Stats;

/// A status page. `detail` says what the visitor could know or do about it.
pub(crate) fn page(status: u16, detail: &str, request: Option<&RequestHead>) -> Response<'static> {
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
    // A page about a moment must not be shown later.
    head.headers.push("Cache-Control", b"no-store");
    match status {
        429 | 503 => head.headers.push("Retry-After", RETRY_AFTER),
        405 => head
            .headers
            .push("Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        _ => {}
    }
    Response {
        head,
        body: Body::Bytes(body.into_bytes()),
        trace: Trace::default(),
    }
}

/// The answer to a health check, as the original words it.
pub(crate) fn health(stats: &Stats, client: Option<IpAddr>) -> Response<'static> {
    let client = client.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
    let time = httpdate::fmt_http_date(SystemTime::now());
    let mut body = format!("Health request from {client} at {time}\n");
    for status in [400, 404, 503] {
        body.push_str(&format!("{status}: {}\n", stats.status(status)));
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

/// Whether the visitor names HTML and does not refuse it; a program that takes anything gets text.
fn wants_html(request: &RequestHead) -> bool {
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

/// Seconds after which a visitor may try again: long enough for a process to be restarted.
const RETRY_AFTER: &[u8] = b"5";

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
    fn html_for_those_who_name_it_and_text_for_the_rest() {
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
