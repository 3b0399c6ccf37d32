//! What a server says to a program that dials in, in place of a request: a line. Pure.
//!
//! Only a program whose id is a [`Name`](super::name::Name) is sent one, since others take it for a request. A line begins with
//! `swiftiply` in lower case, as no request does.

use std::fmt;

/// A line for a program that dials in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerLine {
    /// `swiftiply name`: the program is to send its whole name and a line feed. Its connection is not accepted yet.
    AskName,
    /// `swiftiply WORD why`: the server closes the connection now.
    Refused(ServerRefusal),
}

/// The meaning of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum LineReading {
    /// It may become a line.
    Partial,
    /// It is a line, of this length with its line feed.
    Complete(ServerLine, usize),
    /// It is none, and will not become one.
    Other,
}

/// Why a server closes a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRefusal {
    /// The kind of reason.
    pub kind: RefusalKind,
    /// The reason.
    pub why: String,
}

/// The kinds of reasons for which a server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The key is not one of the site.
    Key,
    /// There are too many connections.
    Full,
    /// The server is stopping, or no longer has the address.
    Gone,
    /// Something else.
    Other,
}

impl ServerLine {
    /// As it is sent.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::AskName => format!("{BEGINNING}{ASK_NAME}\n"),
            Self::Refused(ServerRefusal { kind, why }) => {
                format!("{BEGINNING}{} {why}\n", kind.word())
            }
        }
        .into_bytes()
    }

    /// The refusal for this reason.
    pub fn refused(kind: RefusalKind, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Refused(ServerRefusal { kind, why })
    }

    /// Whether bytes that were received are a line, or its beginning.
    pub fn begins(bytes: &[u8]) -> bool {
        let count = bytes.len().min(BEGINNING.len());
        count > 0 && bytes[..count] == BEGINNING.as_bytes()[..count]
    }

    /// Reads a line.
    pub fn read(bytes: &[u8]) -> LineReading {
        if !Self::begins(bytes) {
            return LineReading::Other;
        }
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            return match bytes.len() < LONGEST_LINE {
                true => LineReading::Partial,
                false => LineReading::Other,
            };
        };
        // It is for logs.
        let text = bytes[BEGINNING.len().min(end)..end]
            .escape_ascii()
            .to_string();
        let (word, why) = text.split_once(' ').unwrap_or((&text, ""));
        let line = match RefusalKind::ALL
            .into_iter()
            .find(|kind| kind.word() == word)
        {
            Some(kind) => Self::refused(kind, why),
            None if text == ASK_NAME => Self::AskName,
            // Of a later version.
            None => Self::refused(RefusalKind::Other, text),
        };
        LineReading::Complete(line, end + 1)
    }
}

impl RefusalKind {
    const ALL: [Self; 4] = [Self::Key, Self::Full, Self::Gone, Self::Other];

    const fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Full => "full",
            Self::Gone => "gone",
            Self::Other => "refused",
        }
    }
}

/// For the log of the program that dials in.
impl fmt::Display for ServerRefusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = &self.why;
        match self.kind {
            RefusalKind::Key => write!(out, "it refuses the connection: {why}; is the key right?"),
            RefusalKind::Full => write!(out, "it is full: {why}"),
            RefusalKind::Gone => write!(out, "it is leaving: {why}"),
            RefusalKind::Other => write!(out, "it refuses the connection: {why}"),
        }
    }
}

const BEGINNING: &str = "swiftiply ";
const ASK_NAME: &str = "name";
/// Longer ones are not read.
const LONGEST_LINE: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        for line in [
            ServerLine::AskName,
            ServerLine::refused(RefusalKind::Key, "wrong key"),
            ServerLine::refused(RefusalKind::Full, "2 backends connected already"),
            ServerLine::refused(RefusalKind::Gone, "the server is stopping"),
            ServerLine::refused(RefusalKind::Other, ""),
        ] {
            let bytes = line.write();
            for end in 1..bytes.len() {
                assert!(ServerLine::begins(&bytes[..end]));
                assert_eq!(
                    ServerLine::read(&bytes[..end]),
                    LineReading::Partial,
                    "{line:?} {end}"
                );
            }
            let more = [&bytes[..], b"GET"].concat();
            assert_eq!(
                ServerLine::read(&more),
                LineReading::Complete(line, bytes.len())
            );
        }
    }

    #[test]
    fn requests_and_nonsense_are_no_lines() {
        for bytes in [
            &b""[..],
            b"GET / HTTP/1.1\r\n",
            b"SWIFTIPLY / HTTP/1.1\r\n",
            b"swiftly",
        ] {
            assert!(!ServerLine::begins(bytes));
            assert_eq!(ServerLine::read(bytes), LineReading::Other);
        }
        let endless = [b"swiftiply ".to_vec(), vec![b'x'; LONGEST_LINE]].concat();
        assert_eq!(ServerLine::read(&endless), LineReading::Other);
        let later = ServerLine::refused(RefusalKind::Other, "later \\x1b[2J");
        assert_eq!(
            ServerLine::read(b"swiftiply later \x1b[2J\n"),
            LineReading::Complete(later, 21)
        );
    }

    #[test]
    fn the_key_is_asked_about_only_where_it_is_the_cause() {
        let text = |kind, why: &str| match ServerLine::refused(kind, why) {
            ServerLine::Refused(refusal) => refusal.to_string(),
            ServerLine::AskName => unreachable!(),
        };
        let key = text(RefusalKind::Key, "wrong key");
        assert_eq!(
            key,
            "it refuses the connection: wrong key; is the key right?"
        );
        assert_eq!(text(RefusalKind::Full, "2 of 2"), "it is full: 2 of 2");
        assert_eq!(
            text(RefusalKind::Gone, "stopping"),
            "it is leaving: stopping"
        );
    }
}
