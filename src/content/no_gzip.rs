//! Replaces `gzip` in a build without it: nothing is compressed.

use std::sync::Arc;

use crate::budget::Budget;

/// The compressors of a server; there are none.
#[derive(Debug)]
pub struct Compressors;

impl Compressors {
    /// No compressors.
    pub fn new(_: Arc<Budget>) -> Self {
        Self
    }

    /// Returns `None`: there is no compressor.
    pub const fn begin(self: &Arc<Self>, _: u32) -> Option<GzipBody> {
        None
    }

    /// Does nothing.
    pub const fn tick(&self) {}
}

/// A body that is being compressed; never exists.
#[derive(Debug)]
pub enum GzipBody {}

impl GzipBody {
    /// Compresses more bytes.
    pub const fn push(&mut self, _: &[u8]) {
        match *self {}
    }

    /// Outputs what the compressor holds back.
    pub const fn flush(&mut self) {
        match *self {}
    }

    /// Outputs the rest and the end of the body.
    pub const fn finish(&mut self) {
        match *self {}
    }

    /// The output so far.
    pub const fn bytes(&self) -> &[u8] {
        match *self {}
    }

    /// Whether the output is large enough to be sent on its own.
    pub const fn is_enough(&self) -> bool {
        match *self {}
    }

    /// Discards the output after it was sent.
    pub const fn clear(&mut self) {
        match *self {}
    }
}
