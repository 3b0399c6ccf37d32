//! The application's response.

use std::io::{self, Write};
use std::{error, fmt};

use crate::http::body::Framing;
use crate::http::head::{ResponseHead, check_field};

/// The application's response: a status, fields and a body. Length and framing are added when it is sent.
pub struct Reply {
    head: ResponseHead,
    body: ReplyBody,
}

/// The body of a [`Reply`].
enum ReplyBody {
    Bytes(Vec<u8>),
    Stream(Box<WriteBody>),
}

/// Writes a body, and is called once.
type WriteBody = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// A response that HTTP does not allow, or that would become two.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidReply {
    /// The status is not one of 200 to 599.
    Status(u16),
    /// A response with this status has no body (RFC 9110 15.3.5, 15.3.6, 15.4.5).
    Body(u16),
    /// A field whose name is not a token, whose value has control characters (RFC 9110 5.5), or which concerns the
    /// connection or the length and is therefore written by the library.
    Field {
        /// The name.
        name: String,
        /// The rule.
        why: &'static str,
    },
}

impl Reply {
    /// A response with plain text.
    ///
    /// # Errors
    /// As for [`Reply::new`].
    pub fn text(status: u16, text: &str) -> Result<Self, InvalidReply> {
        let body = text.as_bytes().to_owned();
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// A response with a body of this media type.
    ///
    /// # Errors
    /// The status is not one of 200 to 599, or allows no body; the media type has control characters.
    pub fn new(status: u16, media_type: &str, body: Vec<u8>) -> Result<Self, InvalidReply> {
        let head = head(status, !body.is_empty())?;
        let reply = Self {
            head,
            body: ReplyBody::Bytes(body),
        };
        reply.field("Content-Type", media_type)
    }

    /// A response whose body is written piece by piece while it is sent: a file, an event stream. `body` runs on the
    /// thread of the connection once the handler has returned. What it writes is collected up to 16 KiB;
    /// [`Write::flush`] sends it at once. If it fails or panics, the connection is closed, so that the client sees that
    /// the response is incomplete. It does not run for HEAD.
    ///
    /// # Errors
    /// As for [`Reply::new`].
    pub fn stream(
        status: u16,
        media_type: &str,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, InvalidReply> {
        let reply = Self {
            head: head(status, true)?,
            body: ReplyBody::Stream(Box::new(body)),
        };
        reply.field("Content-Type", media_type)
    }

    /// A response without a body: 204, 304, a redirect.
    ///
    /// # Errors
    /// The status is not one of 200 to 599.
    pub fn empty(status: u16) -> Result<Self, InvalidReply> {
        let head = head(status, false)?;
        Ok(Self {
            head,
            body: ReplyBody::Bytes(Vec::new()),
        })
    }

    /// Adds a field. One with the same name stays; only Content-Type is replaced.
    ///
    /// # Errors
    /// The name is not a token, the value has control characters, or the field concerns the connection or the length.
    pub fn field(mut self, name: &str, value: &str) -> Result<Self, InvalidReply> {
        check_field(name, value.as_bytes()).map_err(|why| InvalidReply::Field {
            name: name.to_owned(),
            why,
        })?;
        match name.eq_ignore_ascii_case("Content-Type") {
            true => self.head.headers.set("Content-Type", value.as_bytes()),
            false => self.head.headers.push(name, value.as_bytes()),
        }
        Ok(self)
    }

    /// The status.
    pub const fn status(&self) -> u16 {
        self.head.status
    }

    /// The head, how the end of the body is marked for a server that understands chunks, and the body.
    pub(super) fn into_parts(self) -> (ResponseHead, Framing, Vec<u8>, Option<Box<WriteBody>>) {
        let framing = match (&self.body, self.head.status) {
            (_, 204 | 304) => Framing::Empty,
            (ReplyBody::Bytes(body), _) => Framing::Length(body.len() as u64),
            (ReplyBody::Stream(_), _) => Framing::Chunked,
        };
        match self.body {
            ReplyBody::Bytes(body) => (self.head, framing, body, None),
            ReplyBody::Stream(write) => (self.head, framing, Vec::new(), Some(write)),
        }
    }
}

/// The head of a response with this status.
fn head(status: u16, has_body: bool) -> Result<ResponseHead, InvalidReply> {
    match status {
        204 | 205 | 304 if has_body => Err(InvalidReply::Body(status)),
        200..=599 => Ok(ResponseHead::new(status)),
        _ => Err(InvalidReply::Status(status)),
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = out.debug_struct("Reply");
        shown.field("head", &self.head);
        match &self.body {
            ReplyBody::Bytes(body) => shown.field("body", &body.len()).finish(),
            ReplyBody::Stream(_) => shown.finish_non_exhaustive(),
        }
    }
}

impl fmt::Display for InvalidReply {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(out, "{status}: not a status from 200 to 599"),
            Self::Body(status) => write!(out, "a response with status {status} has no body"),
            Self::Field { name, why } => write!(out, "field {name:?}: {why}"),
        }
    }
}

impl error::Error for InvalidReply {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_replies() {
        for status in [0, 100, 101, 199, 600, u16::MAX] {
            let wrong = Reply::text(status, "x").unwrap_err();
            assert_eq!(wrong, InvalidReply::Status(status));
        }
        for status in [204, 205, 304] {
            assert_eq!(
                Reply::text(status, "x").unwrap_err(),
                InvalidReply::Body(status)
            );
            assert_eq!(Reply::empty(status).unwrap().status(), status);
        }
        let check = |name: &str, value: &str, message: &str| {
            let reply = Reply::text(200, "x").unwrap();
            assert_eq!(reply.field(name, value).unwrap_err().to_string(), message);
        };
        let control = "the value has a control character";
        check("X-A", "a\r\nX-B: c", &format!("field \"X-A\": {control}"));
        check("X-A", "a\nb", &format!("field \"X-A\": {control}"));
        check("X-A", "a\0", &format!("field \"X-A\": {control}"));
        check("X A", "a", "field \"X A\": the name is not a token");
        check("", "a", "field \"\": the name is not a token");
        let connection = "it concerns the connection or the length of the body";
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Connection",
            "Upgrade",
        ] {
            check(name, "a", &format!("field {name:?}: {connection}"));
        }
        assert!(Reply::new(200, "text/html\r\nX: y", Vec::new()).is_err());
    }
}
