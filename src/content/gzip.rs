//! Bodies that are compressed while they pass through (RFC 1952).
//!
//! The exchange pushes what has arrived into a [`Gzip`] and passes on what comes out. When nothing more has arrived for now,
//! it flushes what the compressor has kept back, so that a stream of few bytes now and then reaches its visitor as it would
//! without compression.
//!
//! Called by the worker that relays the response.
//!
//! **Invariant**: memory is that of the compressor, some 400 KiB with its buffers ([`COST`]), whatever the length of the body.
//! Each compressor holds a [`Charge`] for it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::budget::Charge;

/// A body that is compressed.
#[derive(Debug)]
pub struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
    /// The encoder may keep something back.
    holds: bool,
    _charge: Charge,
}

impl Gzip {
    /// Compresses with a level from 1 to 9.
    pub fn new(level: u32, charge: Charge) -> Self {
        Self {
            encoder: GzEncoder::new(Vec::with_capacity(2 * ENOUGH), Compression::new(level)),
            holds: false,
            _charge: charge,
        }
    }

    /// Compresses some more.
    pub fn push(&mut self, bytes: &[u8]) {
        // Writing to memory does not fail.
        let _ = self.encoder.write_all(bytes);
        self.holds = true;
    }

    /// Gets out what the encoder has kept back.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.holds) {
            let _ = self.encoder.flush();
        }
    }

    /// Gets out everything, with the end.
    pub fn finish(&mut self) {
        let _ = self.encoder.try_finish();
    }

    /// What has come out.
    pub fn bytes(&self) -> &[u8] {
        self.encoder.get_ref()
    }

    /// Whether that is worth a piece of its own.
    pub fn is_enough(&self) -> bool {
        self.bytes().len() >= ENOUGH
    }

    /// What has come out was passed on.
    pub fn clear(&mut self) {
        self.encoder.get_mut().clear();
    }
}

/// All of some bytes, compressed.
pub fn compressed(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Bytes of memory that a compressor takes, with its buffers.
pub const COST: u64 = 400 << 10;
/// Bytes that are worth a piece of their own.
const ENOUGH: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use flate2::read::MultiGzDecoder;

    use super::*;
    use crate::budget::Budget;

    fn gzip() -> Gzip {
        let budget = Arc::new(Budget::new(COST));
        Gzip::new(6, budget.charge(COST).expect("the budget allows one"))
    }

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        // What was flushed can be unpacked, with or without an end.
        let _ = MultiGzDecoder::new(bytes).read_to_end(&mut all);
        all
    }

    #[test]
    fn all_that_was_pushed_comes_out_in_order() {
        for size in [1, 1000, 100_000] {
            let mut gzip = gzip();
            let (mut pushed, mut out) = (Vec::new(), Vec::new());
            for number in 0..20_u8 {
                let piece = vec![number; size];
                gzip.push(&piece);
                pushed.extend_from_slice(&piece);
                if gzip.is_enough() {
                    out.extend_from_slice(gzip.bytes());
                    gzip.clear();
                }
            }
            gzip.finish();
            out.extend_from_slice(gzip.bytes());
            assert_eq!(unpacked(&out), pushed, "pieces of {size} bytes");
            assert_eq!(unpacked(&compressed(&pushed, 6)), pushed, "{size}");
        }
    }

    #[test]
    fn a_flush_gets_out_what_was_kept_back() {
        let mut gzip = gzip();
        gzip.push(b"an event");
        gzip.flush();
        let mut out = gzip.bytes().to_vec();
        assert_eq!(unpacked(&out), b"an event", "before the end");
        gzip.clear();
        gzip.flush();
        assert!(gzip.bytes().is_empty(), "there is nothing to flush");
        gzip.push(b" and another one");
        gzip.finish();
        out.extend_from_slice(gzip.bytes());
        assert_eq!(unpacked(&out), b"an event and another one", "at the end");
    }
}
