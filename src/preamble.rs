//! The preamble that a backend sends first: `swiftclient`, an id of 12 bytes, the length of a key, the key. Pure.
//!
//! The reference client makes its id of eight hexadecimal digits of its address and at least four of its process id. A
//! process id above 65535 needs more than four digits, which shifts what follows. Such a preamble is accepted if the
//! known keys leave only one way to read it.
//!
//! The id may be a [`Name`] instead, by which an operator recognises the machine; then the server may send a [`ServerLine`]
//! in place of a request.
//!
//! **Invariants**: for an id of 12 bytes, the result does not depend on how the bytes were split on arrival. Neither the
//! result nor its timing reveals how much of a wrong key was right.

mod line;
mod name;

use std::fmt;
use std::hint::black_box;

pub use line::{LineReading, RefusalKind, ServerLine, ServerRefusal};
pub(crate) use name::LONGEST_NAME;
pub use name::{InvalidName, Name};
use name::{NameKind, kind_of};

/// The meaning of the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub enum PreambleReading {
    /// It may become a preamble.
    Partial,
    /// It is a complete preamble.
    Complete(Preamble),
    /// It will never be accepted.
    Refused(PreambleError),
}

/// A preamble with a known key.
#[derive(Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The id.
    pub id: Id,
    /// The key; empty for none.
    pub key: Box<[u8]>,
    /// The length of the preamble. Bytes after it are unexpected.
    pub length: usize,
}

/// The id of a backend: 12 bytes, or a few more. Small enough to be copied with each response.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    bytes: [u8; LONGEST_ID],
    length: u8,
}

impl Id {
    /// `None`: longer than any id.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST_ID];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let length = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, length })
    }

    /// Whether it is that of a [`Name`].
    pub fn is_name(&self) -> bool {
        kind_of(self.as_bytes()).is_some()
    }

    /// Whether it abbreviates a longer name.
    pub fn is_abbreviated(&self) -> bool {
        kind_of(self.as_bytes()) == Some(NameKind::Abbreviated)
    }

    /// As it was sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Unprintable bytes are escaped, for logs, and the spaces behind a name are left out.
impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self.is_name() {
            true => self.as_bytes().trim_ascii_end(),
            false => self.as_bytes(),
        };
        bytes.escape_ascii().fmt(out)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

/// What is wrong with a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreambleError {
    /// It does not begin with `swiftclient`.
    Prefix,
    /// The length of the key is not two hexadecimal digits.
    Length,
    /// The key is unknown.
    Key,
    /// The id has more than 12 bytes, and there is more than one way to read it.
    Ambiguous,
}

impl fmt::Display for PreambleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Prefix => "it does not begin with \"swiftclient\"",
            Self::Length => "the length of the key is not two hexadecimal digits",
            Self::Key => WRONG_KEY,
            Self::Ambiguous => "the id has more than 12 bytes and can be read in more than one way",
        })
    }
}

/// Whether the program that has sent these bytes understands a [`ServerLine`]: its id is a [`Name`].
pub fn understands_lines(bytes: &[u8]) -> bool {
    let id = bytes.get(PREFIX.len()..PREFIX.len() + ID);
    bytes.starts_with(PREFIX) && id.and_then(kind_of).is_some()
}

/// Whether a server's first bytes are a response instead of a request: then the port is one for clients, not for
/// backends.
pub fn is_misdialled(first: &[u8]) -> bool {
    // No request begins so: a method contains no slash.
    first.starts_with(b"HTTP/")
}

/// Reads the bytes received so far, given the known keys (an empty one: no key is sent).
pub fn read(bytes: &[u8], keys: &[Box<[u8]>]) -> PreambleReading {
    let beginning = bytes.len().min(PREFIX.len());
    if bytes[..beginning] != PREFIX[..beginning] {
        return PreambleReading::Refused(PreambleError::Prefix);
    }
    let standard = try_id(bytes, ID, keys);
    // A longer id is only accepted if it explains every byte.
    let mut longer = (ID + 1..=LONGEST_ID).filter_map(|id| match try_id(bytes, id, keys) {
        PreambleAttempt::Fits(preamble) if preamble.length == bytes.len() => Some(preamble),
        _ => None,
    });
    match (standard, longer.next(), longer.next()) {
        // Whatever longer ids explain: the announced key may still arrive.
        (PreambleAttempt::Partial { possible: true }, ..)
        | (PreambleAttempt::Partial { .. }, None, _) => PreambleReading::Partial,
        (PreambleAttempt::Fits(preamble), None, _) => PreambleReading::Complete(preamble),
        (PreambleAttempt::Fits(_), Some(_), _) | (_, Some(_), Some(_)) => {
            PreambleReading::Refused(PreambleError::Ambiguous)
        }
        (_, Some(preamble), None) => PreambleReading::Complete(preamble),
        (PreambleAttempt::Refused(fault), None, _) => PreambleReading::Refused(fault),
    }
}

/// Renders a preamble for a client that dials in.
///
/// # Errors
/// The key, if it has more than 255 bytes; its length is sent in two digits.
pub fn write<'k>(id: &[u8; ID], key: &'k [u8]) -> Result<Vec<u8>, &'k [u8]> {
    let Ok(length) = u8::try_from(key.len()) else {
        return Err(key);
    };
    Ok([PREFIX, id, format!("{length:02x}").as_bytes(), key].concat())
}

/// The meaning of the bytes for an id of a certain length.
enum PreambleAttempt {
    /// More bytes are needed; impossible if no key has the announced length.
    Partial {
        possible: bool,
    },
    Fits(Preamble),
    Refused(PreambleError),
}

fn try_id(bytes: &[u8], id: usize, keys: &[Box<[u8]>]) -> PreambleAttempt {
    let start = PREFIX.len() + id;
    let Some(digits) = bytes.get(start..start + 2) else {
        return PreambleAttempt::Partial { possible: true };
    };
    let Some(length) = two_digits(digits) else {
        return PreambleAttempt::Refused(PreambleError::Length);
    };
    let end = start + 2 + length;
    let Some(key) = bytes.get(start + 2..end) else {
        let possible = keys.iter().any(|known| known.len() == length);
        return PreambleAttempt::Partial { possible };
    };
    // Compare with all keys, even after a match.
    let known = keys
        .iter()
        .fold(false, |found, known| found | equal(known, key));
    if !known {
        return PreambleAttempt::Refused(PreambleError::Key);
    }
    match Id::new(&bytes[PREFIX.len()..start]) {
        Some(id) => PreambleAttempt::Fits(Preamble {
            id,
            key: key.into(),
            length: end,
        }),
        None => PreambleAttempt::Refused(PreambleError::Length),
    }
}

/// Compares without stopping at the first difference.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
    one.len() == other.len() && difference == 0
}

fn two_digits(digits: &[u8]) -> Option<usize> {
    // `from_str_radix` would accept a sign.
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as usize)
}

/// What is wrong with a key that is unknown.
pub(crate) const WRONG_KEY: &str = "wrong key";
/// The first bytes of a preamble.
pub const PREFIX: &[u8] = b"swiftclient";
/// The usual length of an id.
pub const ID: usize = name::ID;
/// The longest id: eight digits of the address, seven of the process id.
const LONGEST_ID: usize = 15;
/// The length of the longest preamble.
pub const LONGEST: usize = PREFIX.len() + LONGEST_ID + 2 + 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<Box<[u8]>> {
        keys.iter().map(|key| key.as_bytes().into()).collect()
    }

    /// The result for all bytes. No shorter prefix is enough.
    fn grown(whole: &[u8], keys: &[Box<[u8]>]) -> PreambleReading {
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], keys), PreambleReading::Partial, "{end}");
        }
        read(whole, keys)
    }

    fn complete(id: &str, key: &str) -> PreambleReading {
        PreambleReading::Complete(Preamble {
            id: Id::new(id.as_bytes()).unwrap(),
            key: key.as_bytes().into(),
            length: PREFIX.len() + id.len() + 2 + key.len(),
        })
    }

    #[test]
    fn reads() {
        let check = |bytes: &str, known: &[&str], expected: PreambleReading| {
            assert_eq!(read(bytes.as_bytes(), &keys(known)), expected, "{bytes}");
        };
        let refused = PreambleReading::Refused;
        check(
            "swiftclient7f000001ab1200",
            &[""],
            complete("7f000001ab12", ""),
        );
        check(
            "swiftclient7f000001ab1203key",
            &["key"],
            complete("7f000001ab12", "key"),
        );
        check(
            "swiftclient7f000001ab1203key",
            &["old", "key"],
            complete("7f000001ab12", "key"),
        );
        check(
            "swiftclient7f000001ab120Akeykeykeyk",
            &["keykeykeyk"],
            complete("7f000001ab12", "keykeykeyk"),
        );
        check(
            "swiftclient7f000001ab1200GET",
            &[""],
            complete("7f000001ab12", ""),
        );
        check(
            "swiftclient7f000001ab1203kez",
            &["key"],
            refused(PreambleError::Key),
        );
        check(
            "swiftclient7f000001ab1203key",
            &[""],
            refused(PreambleError::Key),
        );
        check(
            "swiftclient7f000001ab1200",
            &["key"],
            refused(PreambleError::Key),
        );
        check(
            "swiftclient7f000001ab12+1k",
            &["k"],
            refused(PreambleError::Length),
        );
        check("swiftClient", &[""], refused(PreambleError::Prefix));
        check("GET / HTTP/1.1", &[""], refused(PreambleError::Prefix));
        check("", &[""], PreambleReading::Partial);
        check("swift", &[""], PreambleReading::Partial);
        // A process id above 65535.
        check(
            "swiftclient7f0000011234503key",
            &["key"],
            complete("7f00000112345", "key"),
        );
        check(
            "swiftclient7f00000112345603key",
            &["key"],
            complete("7f000001123456", "key"),
        );
        check(
            "swiftclient7f0000011000000",
            &[""],
            refused(PreambleError::Ambiguous),
        );
    }

    #[test]
    fn cuts_do_not_matter() {
        let known = keys(&["secret"]);
        let whole = write(b"7f0000011234", b"secret").unwrap();
        assert_eq!(grown(&whole, &known), complete("7f0000011234", "secret"));
        // A key that begins like two others do after longer ids.
        let short = "a".repeat(16);
        let (middle, long) = (format!("0{short}"), format!("10{short}{}", "b".repeat(15)));
        let known = keys(&[&short, &middle, &long]);
        let whole = write(b"7f0000011234", long.as_bytes()).unwrap();
        assert_eq!(grown(&whole, &known), complete("7f0000011234", &long));
    }

    #[test]
    fn wrong_key_is_read_completely() {
        let known = keys(&["secret"]);
        let wrong = write(b"7f0000011234", b"xecret").unwrap();
        assert_eq!(
            grown(&wrong, &known),
            PreambleReading::Refused(PreambleError::Key)
        );
    }

    #[test]
    fn key_has_at_most_255_bytes() {
        let key = [b'k'; 256];
        let bytes = write(b"7f0000011234", &key[..255]).unwrap();
        assert!(bytes.len() < LONGEST);
        let known = [key[..255].into()];
        assert!(matches!(read(&bytes, &known), PreambleReading::Complete(_)));
        assert!(write(b"7f0000011234", &key).is_err());
    }
}
