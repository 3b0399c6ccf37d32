//! The page for people, which shows the JSON of [`status`](super::status) and asks for it again every 2 seconds.

use super::message::{AdminRequest, AdminResponse};

/// `GET /`
pub(super) fn page(_: &AdminRequest<'_>) -> AdminResponse {
    AdminResponse {
        status: 200,
        content_type: "text/html; charset=utf-8",
        fields: vec![("Content-Security-Policy", POLICY.to_owned())],
        body: PAGE.as_bytes().to_vec(),
    }
}

const PAGE: &str = include_str!("page.html");
/// Style and script are part of the page, which loads nothing from elsewhere. The script writes no HTML, only text.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
