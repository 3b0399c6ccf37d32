//! Names of machines, as they are sent in ids. Pure.
//!
//! A name of up to 11 bytes is the id, filled up with spaces. A longer one is abbreviated, with a tilde in the id; then the
//! server asks for the whole name ([`ServerLine::AskName`]), so a server that does not know about names needs no change.
//!
//! **Invariant**: an id that is a name has a space at the end or a tilde, as no id of another program has. So a server can
//! tell from it that the program understands a [`ServerLine`].
//!
//! [`ServerLine`]: super::line::ServerLine
//! [`ServerLine::AskName`]: super::line::ServerLine::AskName

use std::net::IpAddr;
use std::sync::Arc;
use std::{error, fmt};

/// The length of an id.
pub(super) const ID: usize = 12;

/// The name of a machine, or of a program on it, by which an operator recognises it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// What an id is that is a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameKind {
    Whole,
    Abbreviated,
}

/// A text that is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidName;

impl Name {
    /// A name of at most 253 bytes: letters, digits and `.-_:@`, the first one a letter or a digit.
    ///
    /// # Errors
    /// It is not one.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:@".contains(&byte);
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        match begins && text.len() <= LONGEST_NAME && text.bytes().all(is_allowed) {
            true => Ok(Self(text.into())),
            false => Err(InvalidName),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id to send: the name, or an abbreviation of it.
    pub fn id(&self) -> [u8; ID] {
        let mut id = [b' '; ID];
        let mut fill = |text: &str| id[..text.len()].copy_from_slice(text.as_bytes());
        match self.0.len() < ID {
            true => fill(&self.0),
            false => fill(&abbreviated(&self.0)),
        }
        id
    }
}

/// The first label of a host name with a tilde, or if that is too long, or an IP address, its beginning and its end:
/// machines with a common prefix differ in what follows it.
fn abbreviated(text: &str) -> String {
    let label = match text.parse::<IpAddr>() {
        Ok(_) => text,
        Err(_) => text.split('.').next().unwrap_or(text),
    };
    if label.len() < ID {
        return format!("{label}~");
    }
    let end = &label[label.len() - (ID - BEGINNING - 1)..];
    format!("{}~{end}", &label[..BEGINNING])
}

/// Whether an id is a name. If so: whether it abbreviates a longer one.
pub(super) fn kind_of(id: &[u8]) -> Option<NameKind> {
    let text = id.trim_ascii_end();
    let is_abbreviated = text.contains(&b'~');
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_:@~".contains(byte);
    let begins = text.first().is_some_and(u8::is_ascii_alphanumeric);
    if id.len() != ID || !begins || !text.iter().all(is_allowed) {
        return None;
    }
    match (is_abbreviated, text.len() < ID) {
        (true, _) => Some(NameKind::Abbreviated),
        (false, true) => Some(NameKind::Whole),
        (false, false) => None,
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(
            "not a name; write up to 253 letters, digits and .-_:@, a letter or digit first",
        )
    }
}

impl error::Error for InvalidName {}

/// The longest name, which is that of a host name.
pub(crate) const LONGEST_NAME: usize = 253;
/// Bytes of a long label in front of the tilde.
const BEGINNING: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_recognisable() {
        let check = |name: &str, expected: &str| {
            let id = Name::new(name).unwrap().id();
            assert_eq!(id.trim_ascii_end(), expected.as_bytes(), "{name}");
            let kind = match name == expected {
                true => NameKind::Whole,
                false => NameKind::Abbreviated,
            };
            assert_eq!(kind_of(&id), Some(kind), "{name}");
        };
        check("web3", "web3");
        check("abc", "abc");
        check("app-serv-01", "app-serv-01");
        check("app-server-1", "app-s~rver-1");
        check("10.0.0.3", "10.0.0.3");
        check("web3.example.com", "web3~");
        check("app-server-01", "app-s~ver-01");
        check("app-server-02.example.com", "app-s~ver-02");
        check("192.168.100.217", "192.1~00.217");
        check("2001:db8::17:5", "2001:~::17:5");
        check("app-6d4cf56db6-x7k2p", "app-6~-x7k2p");
        check("3f2a9c1b7d4e", "3f2a9~1b7d4e");
        check("3f2a9c1b7d4e.lan", "3f2a9~1b7d4e");
    }

    #[test]
    fn other_ids_are_no_names() {
        for id in [
            &b"7f0000011a2b"[..],
            b"7f00000112345",
            b"my-app-00001",
            b"web3\0\0\0\0\0\0\0\0",
            b" web3       ",
            b"web 3       ",
            b"            ",
        ] {
            assert_eq!(kind_of(id), None, "{id:?}");
        }
    }

    #[test]
    fn some_texts_are_no_names() {
        for text in [
            "",
            "-x",
            ".x",
            "a b",
            "a~b",
            "\u{fc}",
            "a\n",
            &"a".repeat(254),
        ] {
            assert_eq!(Name::new(text), Err(InvalidName), "{text:?}");
        }
        assert!(Name::new(&"a".repeat(253)).is_ok());
    }
}
