//! Bodies in chunks.

use swiftiply::internals::http::body::{BadBody, Decoder, Framing, LAST_CHUNK, write_chunk};

use super::heads::line;
use super::{LIMITS, ends};

/// Bodies in chunks: the cuts do not matter, nothing behind the end is touched, a simple reader gets the same, and what
/// is written of the body is read as the same.
pub(super) fn chunked(message: &[u8], cuts: &[usize]) {
    let whole = decode(Framing::Chunked, message, cuts);
    if !cuts.is_empty() {
        assert_eq!(whole, decode(Framing::Chunked, message, &[]));
        return;
    }
    let simple = dechunk(message);
    match (&whole.verdict, simple) {
        (Ok(Some(end)), simple) => {
            assert_eq!(simple, Some((whole.body.clone(), *end)));
            // No less is the message, and no more belongs to it.
            let alone = decode(Framing::Chunked, &message[..*end], &[]);
            assert_eq!(alone, whole);
            let shorter = decode(Framing::Chunked, &message[..*end - 1], &[]);
            assert_eq!(shorter.verdict, Ok(None));
            rewrite_chunks(&whole.body);
        }
        (Ok(None), simple) => assert_eq!(simple, None),
        // The simple reader knows no limits, and nothing of extensions and trailers.
        (Err(_), _) => {}
    }
    let length = message.len() / 2;
    let fixed = decode(Framing::Length(length as u64), message, &[1, length]);
    assert_eq!(fixed.body, &message[..length]);
    assert_eq!(fixed.verdict, Ok(Some(length)));
}

/// What a decoder made of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    body: Vec<u8>,
    /// The end of the message, if it was reached.
    pub(crate) verdict: Result<Option<usize>, BadBody>,
}

pub(crate) fn decode(framing: Framing, message: &[u8], cuts: &[usize]) -> Decoded {
    let mut decoder = Decoder::new(framing, &LIMITS);
    let mut body = Vec::new();
    let mut at = 0;
    for end in ends(cuts, message) {
        // A cut may lie before the one in front of it.
        let mut left = &message[at.min(end)..end];
        loop {
            let piece = match decoder.next(left) {
                Ok(piece) => piece,
                Err(bad) => {
                    let verdict = Err(bad);
                    return Decoded { body, verdict };
                }
            };
            assert!(
                piece.data.end <= piece.consumed && piece.consumed <= left.len(),
                "of {} bytes {} are used, and data is {:?}",
                left.len(),
                piece.consumed,
                piece.data
            );
            body.extend_from_slice(&left[piece.data]);
            at += piece.consumed;
            left = &left[piece.consumed..];
            if piece.consumed == 0 {
                break;
            }
        }
        assert!(left.is_empty() || decoder.is_done(), "bytes left over");
    }
    let verdict = Ok(decoder.is_done().then_some(at));
    Decoded { body, verdict }
}

/// Takes the body out of a whole message. `None`: it is not complete, or breaks a rule. Returns its end too.
fn dechunk(message: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut left = message;
    loop {
        let line = line(left)?;
        left = &left[line.len() + 2..];
        let digits = line.split(|byte| *byte == b';').next()?;
        let digits = str::from_utf8(digits).ok()?;
        // A sign would be read too.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 {
            break;
        }
        let (data, rest) = left.split_at_checked(size)?;
        body.extend_from_slice(data);
        left = rest.strip_prefix(b"\r\n")?;
    }
    loop {
        let line = line(left)?;
        left = &left[line.len() + 2..];
        if line.is_empty() {
            return Some((body, message.len() - left.len()));
        }
    }
}

fn rewrite_chunks(body: &[u8]) {
    for size in [1, 15, 16, 4096] {
        let mut out = Vec::new();
        for data in body.chunks(size) {
            write_chunk(data, &mut out);
        }
        out.extend_from_slice(LAST_CHUNK);
        let again = decode(Framing::Chunked, &out, &[]);
        assert_eq!(again.body, body);
        assert_eq!(again.verdict, Ok(Some(out.len())));
    }
}
