//! The page with the files of a directory (`autoindex`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::exchange::{Body, Response, Trace};
use crate::http::date;
use crate::http::head::ResponseHead;
use crate::http::target::encoded;

/// A file or directory in a listing.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListedFile {
    /// Directories come first.
    pub(super) is_file: bool,
    pub(super) name: Vec<u8>,
    /// In bytes.
    pub(super) size: u64,
    /// In seconds since 1970.
    pub(super) modified: i64,
}

/// The page for a directory at a decoded path, which ends with a slash.
pub(super) fn page(path: &[u8], mut files: Vec<ListedFile>) -> Response {
    files.sort();
    let title = escape(path);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body {{font-family: sans-serif}} td {{padding-right: 2em}}</style></head>\n\
         <body><h1>{title}</h1>\n<table>\n"
    );
    if path != b"/" {
        html.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
    }
    let more = files.len().saturating_sub(MOST_LISTED);
    files.truncate(MOST_LISTED);
    for file in &files {
        let slash = if file.is_file { "" } else { "/" };
        let (link, name) = (encoded(&file.name), escape(&file.name));
        let size = match file.is_file {
            true => file.size.to_string(),
            false => String::new(),
        };
        let modified = u64::try_from(file.modified).unwrap_or(0);
        let modified: SystemTime = UNIX_EPOCH + Duration::from_secs(modified.min(MOST_SECONDS));
        let modified = date::text(modified);
        html.push_str(&format!(
            "<tr><td><a href=\"{link}{slash}\">{name}{slash}</a></td><td>{modified}</td><td>{size}</td></tr>\n"
        ));
    }
    html.push_str("</table>\n");
    if more > 0 {
        html.push_str(&format!("<p>and {more} more</p>\n"));
    }
    html.push_str("</body>\n</html>\n");
    let mut head = ResponseHead::new(200);
    let fields = &mut head.headers;
    fields.push("Content-Type", b"text/html; charset=utf-8");
    fields.push("Cache-Control", b"no-cache");
    // Names of files are not the site's own words.
    fields.push(
        "Content-Security-Policy",
        b"default-src 'none'; style-src 'unsafe-inline'",
    );
    Response {
        head,
        body: Body::Bytes(html.into_bytes()),
        trace: Trace::default(),
    }
}

/// A name as text of HTML, also within quotes.
fn escape(name: &[u8]) -> String {
    let mut result = String::with_capacity(name.len());
    for letter in String::from_utf8_lossy(name).chars() {
        match letter {
            '&' => result.push_str("&amp;"),
            '<' => result.push_str("&lt;"),
            '>' => result.push_str("&gt;"),
            '"' => result.push_str("&quot;"),
            '\'' => result.push_str("&#39;"),
            letter if crate::escape::is_unsafe(letter) => result.push(char::REPLACEMENT_CHARACTER),
            letter => result.push(letter),
        }
    }
    result
}

/// Most files on a page.
const MOST_LISTED: usize = 10_000;

/// The last second of the year 9999.
const MOST_SECONDS: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_sorted() {
        let file = |is_file, name: &str| ListedFile {
            is_file,
            name: name.into(),
            size: 7,
            modified: 60,
        };
        let response = page(
            b"/<x>/",
            vec![
                file(true, "b\"<script>.txt"),
                file(true, "a b?"),
                file(false, "z\u{202e}"),
                file(true, "javascript:x"),
            ],
        );
        let Body::Bytes(html) = response.body else {
            panic!("a page");
        };
        let html = String::from_utf8(html).unwrap();
        let rows: Vec<&str> = html.lines().filter(|line| line.contains("href")).collect();
        assert_eq!(rows.len(), 5, "{html}");
        assert!(
            rows[1].contains("<a href=\"z%E2%80%AE/\">z\u{fffd}/</a>"),
            "{html}"
        );
        assert!(
            rows[2].contains(
                "<a href=\"a%20b%3F\">a b?</a></td><td>Thu, 01 Jan 1970 00:01:00 GMT</td><td>7</td>"
            ),
            "{html}"
        );
        assert!(
            rows[3].contains("<a href=\"b%22%3Cscript%3E.txt\">b&quot;&lt;script&gt;.txt</a>"),
            "{html}"
        );
        assert!(rows[4].contains("<a href=\"javascript%3Ax\">"), "{html}");
        assert!(html.contains("<h1>/&lt;x&gt;/</h1>"), "{html}");
    }
}
