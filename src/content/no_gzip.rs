//! Stands in for `gzip` in a build without it: nothing is ever compressed.

/// A body that is compressed; there is none.
#[derive(Debug)]
pub enum Gzip {}

impl Gzip {
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
