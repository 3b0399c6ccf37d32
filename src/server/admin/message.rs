//! Requests and responses at the status address.

use std::time::SystemTime;

use serde::Serialize;

use super::context::AdminContext;
use crate::http::body::Framing;
use crate::http::date;
use crate::http::head::{Method, Persistence, RequestHead, ResponseHead};

/// A request that may be answered.
pub(super) struct AdminRequest<'a> {
    pub(super) context: &'a AdminContext,
    pub(super) head: &'a RequestHead,
    /// The decoded parts of the path that stand for `*` in the route.
    pub(super) arguments: Vec<String>,
    pub(super) body: &'a [u8],
}

/// A response.
#[derive(Debug)]
pub(super) struct AdminResponse {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// Fields besides the usual ones.
    pub(super) fields: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

#[derive(Serialize)]
struct ErrorReport<'a> {
    error: &'a str,
}

impl AdminResponse {
    /// A value as JSON.
    pub(super) fn json(status: u16, value: &impl Serialize) -> Self {
        let mut body = serde_json::to_vec(value).expect("text keys, and no failing type");
        body.push(b'\n');
        Self {
            status,
            content_type: "application/json",
            fields: Vec::new(),
            body,
        }
    }

    /// An error, as JSON: `{"error": "..."}`.
    pub(super) fn error(status: u16, error: &str) -> Self {
        Self::json(status, &ErrorReport { error })
    }

    /// Adds a field.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The bytes to send: the last ones of the connection. HEAD gets no body.
    pub(super) fn render(&self, method: Option<&Method>) -> Vec<u8> {
        let mut head = ResponseHead::new(self.status);
        let headers = &mut head.headers;
        headers.push("Content-Type", self.content_type.as_bytes());
        for (name, value) in USUAL_FIELDS {
            if !self.fields.iter().any(|(other, _)| *other == name) {
                headers.push(name, value.as_bytes());
            }
        }
        for (name, value) in &self.fields {
            headers.push(name, value.as_bytes());
        }
        let date = date::text(SystemTime::now());
        let mut out = Vec::with_capacity(self.body.len() + 512);
        let framing = Framing::Length(self.body.len() as u64);
        head.write(framing, Persistence::Close, Some(&date), &mut out);
        if method != Some(&Method::Head) {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

/// Fields of every response. Browsers store nothing, show it in no frame, and run nothing of it.
const USUAL_FIELDS: [(&str, &str); 5] = [
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
];
