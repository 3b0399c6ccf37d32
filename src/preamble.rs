//! What a backend sends first: `swiftclient`, an id of 12 bytes, the length of a key, the key. Pure.
//!
//! The reference client makes its id of eight hexadecimal digits of its address and at least four of its
//! process id. A process id above 65535 needs more than four, which shifts all that follows. Such a preamble is
//! accepted if the keys that are known leave only one way to read it.
//!
//! **Invariants**: the result does not depend on how the bytes were cut while they came, as long as the
//! id has 12 bytes; how much of a wrong key was right cannot be learnt from the result or from its time.

use std::fmt;
use std::hint::black_box;

/// What has been received so far means this.
#[derive(Debug, PartialEq, Eq)]
pub enum PreambleReading {
    /// It may become a preamble.
    Partial,
    /// It is one.
    Complete(Preamble),
    /// It will never be one that is accepted.
    Refused(PreambleError),
}

/// A preamble whose key is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The id.
    pub id: Id,
    /// The key, empty for none.
    pub key: Box<[u8]>,
    /// Bytes that belong to the preamble. What is behind them was not asked for.
    pub length: usize,
}

/// The id of a backend: 12 bytes, or a few more. It is small, so that it can go along with each response.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    bytes: [u8; LONGEST_ID],
    length: u8,
}

impl Id {
    /// `None`: it is longer than any id can be.
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST_ID];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        let length = u8::try_from(id.len()).ok()?;
        Some(Self { bytes, length })
    }

    /// As it was sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// With what is not printable escaped, for logs.
impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().escape_ascii().fmt(out)
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
    /// The key is not one that is known.
    Key,
    /// An id of more than 12 bytes, and more than one way to read it.
    Ambiguous,
}

impl fmt::Display for PreambleError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Prefix => "it does not begin with \"swiftclient\"",
            Self::Length => "the length of the key is not two hexadecimal digits",
            Self::Key => "wrong key",
            Self::Ambiguous => "the id has more than 12 bytes and can be read in more than one way",
        })
    }
}

/// Whether what a server sends first, in place of a request, is a response: so it is where clients are served, rather than
/// backends.
pub fn is_misdialled(first: &[u8]) -> bool {
    // No request begins so: a slash is in no method.
    first.starts_with(b"HTTP/")
}

/// Reads what has been received so far, given the keys that are known (an empty one: no key is sent).
pub fn read(bytes: &[u8], keys: &[Box<[u8]>]) -> PreambleReading {
    let beginning = bytes.len().min(PREFIX.len());
    if bytes[..beginning] != PREFIX[..beginning] {
        return PreambleReading::Refused(PreambleError::Prefix);
    }
    let standard = try_id(bytes, ID, keys);
    // A longer id never leaves bytes over: it is only believed if it explains every one of them.
    let mut longer = (ID + 1..=LONGEST_ID).filter_map(|id| match try_id(bytes, id, keys) {
        PreambleAttempt::Fits(preamble) if preamble.length == bytes.len() => Some(preamble),
        _ => None,
    });
    match (standard, longer.next(), longer.next()) {
        // Whatever longer ids explain: the key that was announced may still come.
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
/// The key, if it has more than 255 bytes, which its length of two digits cannot tell.
pub fn write<'k>(id: &[u8; ID], key: &'k [u8]) -> Result<Vec<u8>, &'k [u8]> {
    let Ok(length) = u8::try_from(key.len()) else {
        return Err(key);
    };
    Ok([PREFIX, id, format!("{length:02x}").as_bytes(), key].concat())
}

/// What the bytes mean if the id has a certain length.
enum PreambleAttempt {
    /// More bytes are needed; it is impossible if no key has the length that was announced.
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
    // All keys are compared, whichever fits.
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
    // `from_str_radix` would take a sign.
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(digits[0])? * 16 + digit(digits[1])?) as usize)
}

/// How a preamble begins.
pub const PREFIX: &[u8] = b"swiftclient";
/// Bytes of an id.
pub const ID: usize = 12;
/// The longest id: eight digits of address, seven of process id.
const LONGEST_ID: usize = 15;
/// Bytes of the longest preamble that is read.
pub const LONGEST: usize = PREFIX.len() + LONGEST_ID + 2 + 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str]) -> Vec<Box<[u8]>> {
        keys.iter().map(|key| key.as_bytes().into()).collect()
    }

    /// The reading of the whole. No beginning is enough.
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
        // A key that begins as two others do behind longer ids.
        let short = "a".repeat(16);
        let (middle, long) = (format!("0{short}"), format!("10{short}{}", "b".repeat(15)));
        let known = keys(&[&short, &middle, &long]);
        let whole = write(b"7f0000011234", long.as_bytes()).unwrap();
        assert_eq!(grown(&whole, &known), complete("7f0000011234", &long));
    }

    #[test]
    fn a_wrong_key_is_not_refused_before_all_of_it_came() {
        let known = keys(&["secret"]);
        let wrong = write(b"7f0000011234", b"xecret").unwrap();
        assert_eq!(
            grown(&wrong, &known),
            PreambleReading::Refused(PreambleError::Key)
        );
    }

    #[test]
    fn the_longest_key_can_be_told_and_no_longer_one() {
        let key = [b'k'; 256];
        let bytes = write(b"7f0000011234", &key[..255]).unwrap();
        assert!(bytes.len() < LONGEST);
        let known = [key[..255].into()];
        assert!(matches!(read(&bytes, &known), PreambleReading::Complete(_)));
        assert!(write(b"7f0000011234", &key).is_err());
    }
}
