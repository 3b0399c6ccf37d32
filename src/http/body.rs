//! Message bodies: where they end, and how chunks are encoded and decoded (RFC 9112 6 and 7).

use std::ops::Range;

use super::limits::HeadLimits;
use super::syntax::is_token;

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// The body has this many bytes.
    Length(u64),
    /// The body is sent in chunks (RFC 9112 7.1).
    Chunked,
    /// The body ends when the connection is closed.
    UntilClose,
}

/// Decodes a body: removes the framing from a stream of bytes. Never reads past the end of the message.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: DecoderState,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    /// Bytes and fields of trailers so far.
    trailer_bytes: usize,
    trailer_fields: usize,
    limits: HeadLimits,
}

/// A piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// The part of them that is data of the body; may be empty.
    pub data: Range<usize>,
}

/// Chunks that break a rule: which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBody(pub &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    Length(u64),
    UntilClose,
    /// Within the digits of a chunk size.
    Size {
        digits: u8,
        size: u64,
    },
    /// Within the extension after the digits.
    Extension {
        size: u64,
        length: usize,
    },
    /// After the CR of that line.
    SizeEnd {
        size: u64,
    },
    Data(u64),
    /// After the data: CR, then LF.
    DataEnd {
        carriage_return: bool,
    },
    /// Within a line of the trailers, or in the empty line after them.
    Trailer {
        length: usize,
        colon: bool,
    },
    /// After the CR of that line.
    TrailerEnd {
        length: usize,
        colon: bool,
    },
    Done,
}

impl Decoder {
    /// Decodes a body with this framing. Trailers are held to the limits of a head.
    pub const fn new(framing: Framing, limits: &HeadLimits) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => DecoderState::Done,
            Framing::Length(length) => DecoderState::Length(length),
            Framing::Chunked => START,
            Framing::UntilClose => DecoderState::UntilClose,
        };
        Self {
            state,
            extensions: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
            limits: *limits,
        }
    }

    /// Whether the end of the body was reached. One that ends with the connection never is.
    pub const fn is_done(&self) -> bool {
        matches!(self.state, DecoderState::Done)
    }

    /// Bytes still to come, if the length is known.
    pub const fn remaining(&self) -> Option<u64> {
        match self.state {
            DecoderState::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Bytes still to come of the current chunk.
    pub const fn announced(&self) -> u64 {
        match self.state {
            DecoderState::Data(left) => left,
            _ => 0,
        }
    }

    /// Decodes the next piece at the front of the input. If it consumes nothing, it needs more input, or the body has
    /// ended.
    ///
    /// # Errors
    /// The rule that the chunks break.
    pub fn next(&mut self, input: &[u8]) -> Result<Decoded, BadBody> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                DecoderState::Length(left) => {
                    let end = at + take(left, input.len() - at);
                    self.state = match left - (end - at) as u64 {
                        0 => DecoderState::Done,
                        left => DecoderState::Length(left),
                    };
                    return Ok(piece(at, end));
                }
                DecoderState::Data(left) => {
                    let end = at + take(left, input.len() - at);
                    self.state = match left - (end - at) as u64 {
                        0 => DecoderState::DataEnd {
                            carriage_return: false,
                        },
                        left => DecoderState::Data(left),
                    };
                    return Ok(piece(at, end));
                }
                DecoderState::UntilClose => return Ok(piece(at, input.len())),
                DecoderState::Done => break,
                state => {
                    self.state = self.framing_byte(state, input[at])?;
                    at += 1;
                }
            }
        }
        Ok(piece(at, at))
    }

    /// Handles one byte of chunk framing. It is strict: no bare LF, no spaces, nothing omitted.
    fn framing_byte(&mut self, state: DecoderState, byte: u8) -> Result<DecoderState, BadBody> {
        Ok(match (state, byte) {
            (DecoderState::Size { digits, size }, byte) => size_byte(digits, size, byte)?,
            (DecoderState::Extension { size, .. }, b'\r') => DecoderState::SizeEnd { size },
            (DecoderState::Extension { size, length }, byte) => {
                self.extension_byte(byte, length)?;
                DecoderState::Extension {
                    size,
                    length: length + 1,
                }
            }
            (DecoderState::SizeEnd { size: 0 }, b'\n') => TRAILER,
            (DecoderState::SizeEnd { size }, b'\n') => DecoderState::Data(size),
            (DecoderState::DataEnd { carriage_return }, byte) => match (carriage_return, byte) {
                (false, b'\r') => DecoderState::DataEnd {
                    carriage_return: true,
                },
                (true, b'\n') => START,
                _ => return Err(BadBody("a chunk longer than its size")),
            },
            (DecoderState::Trailer { length, colon }, b'\r') => {
                DecoderState::TrailerEnd { length, colon }
            }
            (DecoderState::Trailer { length, colon }, byte) => {
                self.trailer_byte(length, colon, byte)?
            }
            (DecoderState::TrailerEnd { length: 0, .. }, b'\n') => DecoderState::Done,
            (DecoderState::TrailerEnd { colon: true, .. }, b'\n') => {
                self.trailer_fields += 1;
                if self.trailer_fields > self.limits.fields {
                    return Err(BadBody("more trailers than limits.fields allows"));
                }
                TRAILER
            }
            (DecoderState::TrailerEnd { .. }, b'\n') => {
                return Err(BadBody("a trailer without a colon"));
            }
            (DecoderState::SizeEnd { .. } | DecoderState::TrailerEnd { .. }, _) => {
                return Err(BadBody("a carriage return without a line feed"));
            }
            (
                DecoderState::Length(_)
                | DecoderState::UntilClose
                | DecoderState::Data(_)
                | DecoderState::Done,
                _,
            ) => state,
        })
    }

    /// Handles a byte of a chunk extension; the line has `length` bytes of it already.
    fn extension_byte(&mut self, byte: u8, length: usize) -> Result<(), BadBody> {
        self.extensions += 1;
        if byte < b' ' && byte != b'\t' || byte == 0x7f {
            return Err(BadBody("a control byte in a chunk extension"));
        }
        match length >= MOST_EXTENSION || self.extensions >= MOST_EXTENSIONS {
            true => Err(BadBody("chunk extensions over the limit")),
            false => Ok(()),
        }
    }

    fn trailer_byte(
        &mut self,
        length: usize,
        colon: bool,
        byte: u8,
    ) -> Result<DecoderState, BadBody> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.limits.head {
            return Err(BadBody("trailers larger than limits.head allows"));
        }
        let valid = match (colon, byte) {
            (true, byte) => byte == b'\t' || byte >= b' ' && byte != 0x7f,
            (false, b':') => length > 0,
            (false, byte) => is_token(byte),
        };
        if !valid {
            return Err(BadBody("an invalid byte in a trailer"));
        }
        Ok(DecoderState::Trailer {
            length: length + 1,
            colon: colon || byte == b':',
        })
    }
}

/// Handles a byte of a chunk size, after this many digits.
fn size_byte(digits: u8, size: u64, byte: u8) -> Result<DecoderState, BadBody> {
    let digit = char::from(byte).to_digit(16);
    Ok(match (digits, digit, byte) {
        (16, Some(_), _) => return Err(BadBody("a chunk size of more than 16 digits")),
        (_, Some(digit), _) => DecoderState::Size {
            digits: digits + 1,
            size: size << 4 | u64::from(digit),
        },
        (0, None, _) => return Err(BadBody("a chunk without a size")),
        (_, None, b';') => DecoderState::Extension { size, length: 1 },
        (_, None, b'\r') => DecoderState::SizeEnd { size },
        _ => return Err(BadBody("a chunk size with other bytes than digits")),
    })
}

const fn piece(start: usize, end: usize) -> Decoded {
    Decoded {
        consumed: end,
        data: start..end,
    }
}

/// The number of bytes to take: what is left of the body, or the available bytes if they are fewer.
fn take(left: u64, at_hand: usize) -> usize {
    usize::try_from(left).map_or(at_hand, |left| left.min(at_hand))
}

/// Writes data as one chunk. Writes nothing for empty data, since an empty chunk would end the body.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let digits = (usize::BITS - data.len().leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        let digit = data.len() >> (4 * place) & 0xf;
        out.push(b"0123456789abcdef"[digit]);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// The chunk that ends a body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

const START: DecoderState = DecoderState::Size { digits: 0, size: 0 };
const TRAILER: DecoderState = DecoderState::Trailer {
    length: 0,
    colon: false,
};
/// Most bytes of chunk extensions, on one line and in the whole body.
const MOST_EXTENSION: usize = 256;
const MOST_EXTENSIONS: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes input that comes in two parts; returns the body and the bytes behind it.
    fn decode(framing: Framing, parts: [&[u8]; 2]) -> Result<(Vec<u8>, usize, bool), BadBody> {
        let mut decoder = Decoder::new(framing, &HeadLimits::default());
        let mut body = Vec::new();
        let mut pending = Vec::new();
        for part in parts {
            pending.extend_from_slice(part);
            loop {
                let piece = decoder.next(&pending)?;
                body.extend_from_slice(&pending[piece.data]);
                pending.drain(..piece.consumed);
                if piece.consumed == 0 {
                    break;
                }
            }
        }
        Ok((body, pending.len(), decoder.is_done()))
    }

    fn check(framing: Framing, input: &str, expected: Result<(&str, usize, bool), &'static str>) {
        let expected = expected
            .map(|(body, left, done)| (body.as_bytes().to_vec(), left, done))
            .map_err(BadBody);
        for cut in 0..=input.len() {
            let (one, other) = input.as_bytes().split_at(cut);
            assert_eq!(
                decode(framing, [one, other]),
                expected,
                "{input:?} cut at {cut}"
            );
        }
    }

    #[test]
    fn a_chunk_announces_its_size() {
        let mut decoder = Decoder::new(Framing::Chunked, &HeadLimits::default());
        for (input, announced) in [
            ("FFFFFFFFFFFFFFFF", 0),
            ("\r\n", u64::MAX),
            ("abc", u64::MAX - 3),
        ] {
            decoder.next(input.as_bytes()).unwrap();
            assert_eq!(decoder.announced(), announced, "{input:?}");
        }
    }

    #[test]
    fn lengths() {
        check(Framing::Empty, "next", Ok(("", 4, true)));
        check(Framing::Length(0), "next", Ok(("", 4, true)));
        check(Framing::Length(5), "abc", Ok(("abc", 0, false)));
        check(Framing::Length(3), "abcnext", Ok(("abc", 4, true)));
        check(Framing::UntilClose, "abc", Ok(("abc", 0, false)));
    }

    #[test]
    fn chunks() {
        let good = |input, body, left| check(Framing::Chunked, input, Ok((body, left, true)));
        good("0\r\n\r\n", "", 0);
        good("3\r\nabc\r\n0\r\n\r\nGET /", "abc", 5);
        good(
            "3\r\nabc\r\n0A\r\n0123456789\r\n000\r\n\r\n",
            "abc0123456789",
            0,
        );
        good("3;name=value;x=\"y z\"\r\nabc\r\n0;last\r\n\r\n", "abc", 0);
        good("1\r\na\r\n0\r\nTrailer: x\r\nEmpty:\r\n\r\nX", "a", 1);
        check(Framing::Chunked, "3\r\nab", Ok(("ab", 0, false)));
        let bad = |input, why| check(Framing::Chunked, input, Err(why));
        bad("\r\n", "a chunk without a size");
        bad(" 3\r\nabc\r\n", "a chunk without a size");
        bad("-3\r\nabc\r\n", "a chunk without a size");
        bad(";x\r\n", "a chunk without a size");
        bad(
            "0x3\r\nabc\r\n",
            "a chunk size with other bytes than digits",
        );
        bad("3 \r\nabc\r\n", "a chunk size with other bytes than digits");
        bad(
            "3 ;x\r\nabc\r\n",
            "a chunk size with other bytes than digits",
        );
        bad("3\nabc\r\n", "a chunk size with other bytes than digits");
        bad("3\r\rabc", "a carriage return without a line feed");
        bad(
            "00000000000000003\r\nabc\r\n",
            "a chunk size of more than 16 digits",
        );
        bad("3;a\nb\r\nabc\r\n", "a control byte in a chunk extension");
        bad("3\r\nabcd\r\n", "a chunk longer than its size");
        bad("3\r\nabc\n0\r\n\r\n", "a chunk longer than its size");
        bad("3\r\nabc\r\r\n", "a chunk longer than its size");
        bad("0\r\n\n", "an invalid byte in a trailer");
        bad("0\r\nA: b\n\r\n", "an invalid byte in a trailer");
        bad("0\r\nno colon\r\n\r\n", "an invalid byte in a trailer");
        bad("0\r\nnocolon\r\n\r\n", "a trailer without a colon");
        bad("0\r\n: x\r\n\r\n", "an invalid byte in a trailer");
        bad("0\r\n folded\r\n\r\n", "an invalid byte in a trailer");
        bad("0\r\nA: b\r\nc\rx", "a carriage return without a line feed");
    }

    #[test]
    fn limits_of_framing() {
        let extension = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length));
        assert!(decode(Framing::Chunked, [extension(255).as_bytes(), b""]).is_ok());
        assert!(decode(Framing::Chunked, [extension(256).as_bytes(), b""]).is_err());
        let many = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100);
        assert!(decode(Framing::Chunked, [many.as_bytes(), b""]).is_err());
        let trailers = |count: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(decode(Framing::Chunked, [trailers(100).as_bytes(), b""]).is_ok());
        assert!(decode(Framing::Chunked, [trailers(101).as_bytes(), b""]).is_err());
        let long = format!("0\r\nA: {}\r\n\r\n", "x".repeat(65536));
        assert!(decode(Framing::Chunked, [long.as_bytes(), b""]).is_err());
        let huge = "ffffffffffffffff\r\nabc";
        assert_eq!(
            decode(Framing::Chunked, [huge.as_bytes(), b""]),
            Ok((b"abc".to_vec(), 0, false))
        );
    }

    #[test]
    fn what_is_written_is_read() {
        for length in [1, 9, 15, 16, 255, 256, 4095, 4096, 16384, 70_000] {
            let data = vec![b'x'; length];
            let mut out = Vec::new();
            write_chunk(&data, &mut out);
            write_chunk(&[], &mut out);
            out.extend_from_slice(LAST_CHUNK);
            assert_eq!(decode(Framing::Chunked, [&out, b""]), Ok((data, 0, true)));
        }
    }
}
