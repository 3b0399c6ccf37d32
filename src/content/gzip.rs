//! Compresses bodies while they pass through (RFC 1952).
//!
//! The exchange pushes arriving bytes into a [`GzipBody`] and passes on the output. When no more bytes are available
//! for now, it flushes the compressor, so that a slow stream of few bytes reaches its client as it would without
//! compression.
//!
//! A compressor has some 330 KiB of tables. To allocate and free them for each response costs more than to compress a
//! page, and fragments memory. So [`Compressors`] reuses them.
//!
//! Called by the worker that relays the response; [`Compressors::tick`] by the tick thread.
//!
//! **Invariant**: a body takes the memory of its compressor, some 400 KiB with buffers ([`COST`]), whatever its
//! length. Each compressor holds a [`Charge`] for it, in use or not.

use std::io::Write;
use std::sync::Arc;

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use parking_lot::Mutex;

use crate::budget::{Budget, Charge};

/// The compressors of a server.
#[derive(Debug)]
pub struct Compressors {
    memory: Arc<Budget>,
    idle: Mutex<IdleCompressors>,
}

/// Compressors that are not in use; the last one was used last.
#[derive(Debug, Default)]
struct IdleCompressors {
    #[expect(clippy::vec_box, reason = "a response takes the box as it is")]
    all: Vec<Box<Compressor>>,
    /// The smallest number of them since the last tick: these were not needed.
    least: usize,
}

/// A body that is being compressed.
#[derive(Debug)]
pub struct GzipBody {
    /// `None` only while it is dropped.
    compressor: Option<Box<Compressor>>,
    home: Arc<Compressors>,
}

#[derive(Debug)]
struct Compressor {
    level: u32,
    tables: Compress,
    /// The output.
    out: Vec<u8>,
    /// Whether the compressor may hold bytes back.
    holds: bool,
    _charge: Charge,
}

impl Compressors {
    /// No compressors yet; each one is charged to this budget.
    pub fn new(memory: Arc<Budget>) -> Self {
        Self {
            memory,
            idle: Mutex::default(),
        }
    }

    /// Starts a body, with a level from 1 to 9. `None`: there is no memory for it.
    pub fn begin(self: &Arc<Self>, level: u32) -> Option<GzipBody> {
        let found = self.idle.lock().take(level);
        let compressor = match found {
            Some(mut compressor) => {
                compressor.tables.reset();
                compressor
            }
            None => {
                let charge = self.memory.charge_optional(COST)?;
                Box::new(Compressor::new(level, charge))
            }
        };
        Some(GzipBody {
            compressor: Some(compressor),
            home: Arc::clone(self),
        })
    }

    /// Frees compressors that were not needed since the last call.
    pub fn tick(&self) {
        let unused = self.idle.lock().unused();
        // Drop them outside the lock.
        drop(unused);
    }
}

impl IdleCompressors {
    fn take(&mut self, level: u32) -> Option<Box<Compressor>> {
        let found = self.all.iter().rposition(|one| one.level == level)?;
        let one = self.all.remove(found);
        self.least = self.least.min(self.all.len());
        Some(one)
    }

    #[expect(clippy::vec_box, reason = "a response takes the box as it is")]
    fn unused(&mut self) -> Vec<Box<Compressor>> {
        let unused = self.all.drain(..self.least).collect();
        self.least = self.all.len();
        unused
    }
}

impl GzipBody {
    /// Compresses more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.run(bytes, FlushCompress::None);
    }

    /// Outputs what the compressor holds back.
    pub fn flush(&mut self) {
        if self.compressor.as_ref().is_some_and(|one| one.holds) {
            self.run(&[], FlushCompress::Sync);
        }
    }

    /// Outputs the rest and the end of the body.
    pub fn finish(&mut self) {
        self.run(&[], FlushCompress::Finish);
    }

    /// The output so far.
    pub fn bytes(&self) -> &[u8] {
        self.compressor.as_ref().map_or(&[], |one| &one.out)
    }

    /// Whether the output is large enough to be sent on its own.
    pub fn is_enough(&self) -> bool {
        self.bytes().len() >= ENOUGH
    }

    /// Discards the output after it was sent.
    pub fn clear(&mut self) {
        if let Some(one) = &mut self.compressor {
            one.out.clear();
        }
    }

    fn run(&mut self, bytes: &[u8], flush: FlushCompress) {
        if let Some(one) = &mut self.compressor {
            one.run(bytes, flush);
        }
    }
}

impl Drop for GzipBody {
    fn drop(&mut self) {
        if let Some(mut compressor) = self.compressor.take() {
            compressor.out.clear();
            compressor.out.shrink_to(2 * ENOUGH);
            self.home.idle.lock().all.push(compressor);
        }
    }
}

impl Compressor {
    fn new(level: u32, charge: Charge) -> Self {
        Self {
            level,
            tables: Compress::new_gzip(Compression::new(level), WINDOW_BITS),
            out: Vec::with_capacity(2 * ENOUGH),
            holds: false,
            _charge: charge,
        }
    }

    fn run(&mut self, mut bytes: &[u8], flush: FlushCompress) {
        loop {
            // With less room than a flush needs for its marker, there would be a second one.
            self.out.reserve(ENOUGH / 2);
            let before = self.tables.total_in();
            let status = self.tables.compress_vec(bytes, &mut self.out, flush);
            // At most as many as were given.
            let taken = (self.tables.total_in() - before) as usize;
            bytes = bytes.get(taken..).unwrap_or_default();
            let has_room = self.out.len() < self.out.capacity();
            if !matches!(status, Ok(Status::Ok)) || bytes.is_empty() && has_room {
                break;
            }
        }
        self.holds = matches!(flush, FlushCompress::None);
    }
}

/// Compresses all of some bytes.
pub fn compressed(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Bytes of memory of a compressor with its buffers.
pub const COST: u64 = 400 << 10;
/// Bytes that are worth sending on their own.
const ENOUGH: usize = 8 << 10;
/// The window for matches: 32 KiB, the largest.
const WINDOW_BITS: u8 = 15;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    /// Room for so many compressors.
    fn compressors(count: u64) -> (Arc<Budget>, Arc<Compressors>) {
        // An eighth is for what cannot do without.
        let budget = Arc::new(Budget::new(count * COST * 8 / 7 + 8));
        let compressors = Compressors::new(Arc::clone(&budget));
        (budget, Arc::new(compressors))
    }

    fn unpacked(bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        // What was flushed can be unpacked, with or without an end.
        let _ = MultiGzDecoder::new(bytes).read_to_end(&mut all);
        all
    }

    #[test]
    fn all_that_was_pushed_comes_out_in_order() {
        let (_, compressors) = compressors(1);
        for size in [1, 1000, 100_000] {
            let mut gzip = compressors.begin(6).unwrap();
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
        let (_, compressors) = compressors(1);
        let mut gzip = compressors.begin(6).unwrap();
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

    #[test]
    fn cut_body_leaves_nothing() {
        let (budget, compressors) = compressors(1);
        for (number, level) in [9, 9, 1, 9].into_iter().enumerate() {
            // The tables of another level cannot be used: they are given back first.
            if number > 1 {
                compressors.tick();
                compressors.tick();
            }
            let mut gzip = compressors.begin(level).unwrap();
            assert!(compressors.begin(level).is_none(), "there is no room");
            gzip.push(&vec![b'a'; 50_000]);
            gzip.flush();
            gzip.push(b"and what is kept back");
            assert_eq!(budget.used(), COST);
            drop(gzip);
            let mut gzip = compressors.begin(level).unwrap();
            assert!(gzip.bytes().is_empty());
            gzip.push(b"the next body");
            gzip.finish();
            assert_eq!(unpacked(gzip.bytes()), b"the next body");
        }
    }

    #[test]
    fn flush_loses_no_byte() {
        let (_, compressors) = compressors(1);
        let noise = |count: usize| -> Vec<u8> {
            let words = (0..count as u64).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            words.map(|word| (word >> 40) as u8).collect()
        };
        for size in (ENOUGH - 40..ENOUGH + 40).chain(2 * ENOUGH - 40..2 * ENOUGH + 40) {
            let mut gzip = compressors.begin(1).unwrap();
            let body = noise(size);
            gzip.push(&body);
            gzip.flush();
            let flushed = gzip.bytes().len();
            assert_eq!(unpacked(gzip.bytes()), body, "{size} bytes");
            gzip.flush();
            assert_eq!(gzip.bytes().len(), flushed, "a second mark");
            gzip.finish();
            let mut all = Vec::new();
            let whole = MultiGzDecoder::new(gzip.bytes()).read_to_end(&mut all);
            assert!(whole.is_ok() && all == body, "{size} bytes");
        }
    }

    #[test]
    fn compressors_are_released() {
        let (budget, compressors) = compressors(10);
        let crowd: Vec<_> = (0..10).map(|_| compressors.begin(5).unwrap()).collect();
        assert!(compressors.begin(5).is_none(), "there is no room");
        drop(crowd);
        compressors.tick();
        assert_eq!(budget.used(), 10 * COST, "they were needed until now");
        for _ in 0..3 {
            // Three at a time.
            drop([(); 3].map(|()| compressors.begin(5).unwrap()));
            compressors.tick();
            assert_eq!(budget.used(), 3 * COST);
        }
        compressors.tick();
        assert_eq!(budget.used(), 0, "nothing needed them");
    }
}
