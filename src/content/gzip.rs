//! Bodies that are compressed while they pass through (RFC 1952).
//!
//! [`Gzip`] is a [`Source`] around another one. What the inner one has at hand is compressed and handed on at once:
//! where that has nothing more for now, what the compressor has kept back is flushed, so that a stream of few bytes now
//! and then reaches its visitor as it did without.
//!
//! Called by the worker that delivers the answer, on whose time the work is done.
//!
//! **Invariants**: what was read before a fault goes out before the fault is told; memory is that of the compressor, some
//! 400 KiB with its buffers, whatever the length of the body, and is given back with the [`Charge`] that each one holds.

use std::io::Write;
use std::os::fd::BorrowedFd;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::budget::Charge;
use crate::exchange::{BodyError, Next, Source};

/// A source whose bytes are those of another one, compressed.
pub struct Gzip<S: ?Sized> {
    encoder: GzEncoder<Vec<u8>>,
    /// What is in the encoder's output was handed out.
    handed: bool,
    /// The encoder may keep something back.
    holds: bool,
    ended: Option<Result<(), BodyError>>,
    _charge: Charge,
    source: Box<S>,
}

impl<S: Source + ?Sized> Gzip<S> {
    /// Compresses a source, with a level from 1 to 9.
    pub fn new(source: Box<S>, level: u32, charge: Charge) -> Self {
        Self {
            encoder: GzEncoder::new(Vec::with_capacity(2 * ENOUGH), Compression::new(level)),
            handed: false,
            holds: false,
            ended: None,
            _charge: charge,
            source,
        }
    }

    /// Gets out what the encoder has kept back.
    fn flush(&mut self) {
        if std::mem::take(&mut self.holds) {
            // Writing to memory does not fail.
            let _ = self.encoder.flush();
        }
    }
}

impl<S: Source + ?Sized> Source for Gzip<S> {
    fn next(&mut self) -> Result<Next<'_>, BodyError> {
        if std::mem::take(&mut self.handed) {
            self.encoder.get_mut().clear();
        }
        while self.ended.is_none() && self.encoder.get_ref().len() < ENOUGH {
            match self.source.next() {
                Ok(Next::Piece(piece)) => {
                    let _ = self.encoder.write_all(piece);
                    self.holds = true;
                }
                Ok(Next::Wait) => {
                    self.flush();
                    if self.encoder.get_ref().is_empty() {
                        return Ok(Next::Wait);
                    }
                    break;
                }
                Ok(Next::End) => {
                    let _ = self.encoder.try_finish();
                    self.ended = Some(Ok(()));
                }
                Err(error) => {
                    self.flush();
                    self.ended = Some(Err(error));
                }
            }
        }
        match &self.ended {
            Some(end) if self.encoder.get_ref().is_empty() => end.clone().map(|()| Next::End),
            _ => {
                self.handed = true;
                Ok(Next::Piece(self.encoder.get_ref()))
            }
        }
    }

    fn wait(&mut self, visitor: Option<BorrowedFd<'_>>) -> Result<(), BodyError> {
        self.source.wait(visitor)
    }

    fn detach(self: Box<Self>) -> Box<dyn Source + Send> {
        let Self {
            encoder,
            handed,
            holds,
            ended,
            _charge,
            source,
        } = *self;
        Box::new(Gzip {
            encoder,
            handed,
            holds,
            ended,
            _charge,
            source: source.detach(),
        })
    }

    fn give_up(&mut self) {
        self.source.give_up();
    }
}

/// All of some bytes, compressed.
pub fn compressed(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Bytes that are worth a piece of their own.
const ENOUGH: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use flate2::read::MultiGzDecoder;

    use super::*;
    use crate::stats::Close;

    /// Hands out pieces, with a wait before each, and ends well or not.
    struct Script {
        pieces: Vec<Vec<u8>>,
        at: usize,
        waited: bool,
        fails: bool,
    }

    const FAULT: BodyError = BodyError {
        reason: Close::BackendFailed,
        what: "a fault",
    };

    impl Source for Script {
        fn next(&mut self) -> Result<Next<'_>, BodyError> {
            if !std::mem::replace(&mut self.waited, false) {
                return Ok(Next::Wait);
            }
            self.at += 1;
            match self.pieces.get(self.at - 1) {
                Some(piece) => Ok(Next::Piece(piece)),
                None if self.fails => Err(FAULT),
                None => Ok(Next::End),
            }
        }

        fn wait(&mut self, _visitor: Option<BorrowedFd<'_>>) -> Result<(), BodyError> {
            self.waited = true;
            Ok(())
        }

        fn detach(self: Box<Self>) -> Box<dyn Source + Send> {
            self
        }

        fn give_up(&mut self) {}
    }

    fn decoded(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        // A stream that has not come to its end yet is no fault of what came.
        let _ = MultiGzDecoder::new(bytes).read_to_end(&mut out);
        out
    }

    /// Pulls everything, and looks after each wait whether what went in has come out.
    fn through(pieces: Vec<Vec<u8>>, fails: bool, detaches: bool) -> (Vec<u8>, bool) {
        let script = Script {
            pieces: pieces.clone(),
            at: 0,
            waited: false,
            fails,
        };
        let charge = Charge::new(Arc::default());
        let mut source: Box<dyn Source> = Box::new(Gzip::new(Box::new(script), 6, charge));
        let (mut out, mut waits) = (Vec::new(), 0);
        loop {
            match source.next() {
                Ok(Next::Piece(piece)) => {
                    assert!(!piece.is_empty());
                    out.extend_from_slice(piece);
                }
                Ok(Next::Wait) => {
                    assert_eq!(decoded(&out), pieces[..waits].concat());
                    waits += 1;
                    if detaches {
                        source = source.detach();
                    }
                    source.wait(None).unwrap();
                }
                Ok(Next::End) => return (out, true),
                Err(error) => {
                    assert_eq!(error, FAULT);
                    return (out, false);
                }
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out_at_once() {
        let random: Vec<u8> = (0..200_000_u32)
            .map(|number| (number.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect();
        for detaches in [false, true] {
            for pieces in [
                vec![],
                vec![b"a".to_vec()],
                vec![b"hello ".to_vec(), b"hello ".to_vec(), b"hello".to_vec()],
                vec![random.clone(), b"and more".to_vec(), vec![b'x'; 1 << 20]],
            ] {
                let (out, complete) = through(pieces.clone(), false, detaches);
                assert!(complete);
                let mut body = Vec::new();
                MultiGzDecoder::new(&out[..])
                    .read_to_end(&mut body)
                    .unwrap();
                assert_eq!(body, pieces.concat());
                let (out, complete) = through(pieces.clone(), true, detaches);
                assert!(!complete);
                assert_eq!(decoded(&out), pieces.concat(), "what came before the fault");
                assert!(
                    MultiGzDecoder::new(&out[..])
                        .read_to_end(&mut body)
                        .is_err()
                );
            }
        }
    }
}
