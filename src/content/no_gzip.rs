//! Stands in for `gzip` in a build without it: nothing is ever compressed.

use std::sync::Arc;

use crate::budget::Budget;

/// The compressors of a server; there are none.
#[derive(Debug)]
pub struct Compressors;

impl Compressors {
    /// None.
    pub fn new(_: Arc<Budget>) -> Self {
        Self
    }

    /// Never begins a body.
    pub const fn begin(self: &Arc<Self>, _: u32) -> Option<GzipBody> {
        None
    }

    /// There is nothing to give back.
    pub const fn tick(&self) {}
}

/// A body that is compressed; there is none.
#[derive(Debug)]
pub enum GzipBody {}

impl GzipBody {
    /// Compresses some more.
    pub const fn push(&mut self, _: &[u8]) {
        match *self {}
    }

    /// Gets out what the encoder has kept back.
    pub const fn flush(&mut self) {
        match *self {}
    }

    /// Gets out everything, with the end.
    pub const fn finish(&mut self) {
        match *self {}
    }

    /// What has come out.
    pub const fn bytes(&self) -> &[u8] {
        match *self {}
    }

    /// Whether that is worth a piece of its own.
    pub const fn is_enough(&self) -> bool {
        match *self {}
    }

    /// What has come out was passed on.
    pub const fn clear(&mut self) {
        match *self {}
    }
}
