//! A buffer of bytes that were read from a socket and not used yet.
//!
//! A worker owns its buffers and reuses them for each session; a parked session has no buffer, only the remaining
//! bytes, if any.

use std::io;

use super::conn::Conn;

/// A reusable buffer of at least [`Buffer::SIZE`] bytes: filled at the end, consumed from the front.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The fastest size for responses of a kilobyte and of a megabyte alike.
    pub const SIZE: usize = 16 * 1024;

    /// An empty buffer, without memory until the first use.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that are not used yet.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether all bytes are used.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the last read may have been limited by the size of the buffer.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len()
    }

    /// Removes `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Empties the buffer, and frees memory beyond the usual size, which a large head has needed.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
        if self.bytes.len() > Self::SIZE {
            self.bytes = Vec::new();
        }
    }

    /// Appends bytes that were read before.
    pub fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Reads once without waiting; see [`Conn::read_now`].
    ///
    /// # Errors
    /// Those of [`Conn::read_now`].
    pub fn fill_now(&mut self, conn: &mut Conn) -> io::Result<Option<usize>> {
        let read = conn.read_now(self.room(1))?;
        self.end += read.unwrap_or(0);
        Ok(read)
    }

    /// Reads once, waiting up to the connection's read timeout; see [`Conn::read`].
    ///
    /// # Errors
    /// Those of [`Conn::read`].
    pub fn fill(&mut self, conn: &mut Conn) -> io::Result<usize> {
        let read = conn.read(self.room(1))?;
        self.end += read;
        Ok(read)
    }

    /// The free part, of at least `least` bytes: moves the content to the front, or grows the buffer.
    fn room(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(Self::SIZE.max(least), 0);
        }
        if self.bytes.len() - self.end < least && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < least {
            let size = (self.bytes.len() * 2).max(self.end + least);
            self.bytes.resize(size, 0);
        }
        &mut self.bytes[self.end..]
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_in_front_what_was_appended_behind() {
        let mut buffer = Buffer::new();
        buffer.append(&[1; 10_000]);
        buffer.append(&[2; 6_000]);
        buffer.consume(9_999);
        buffer.append(&[3; 10_000]);
        assert_eq!(buffer.bytes.len(), Buffer::SIZE);
        assert_eq!(buffer.data().len(), 16_001);
        assert_eq!((buffer.data()[0], buffer.data()[1]), (1, 2));
        assert_eq!(buffer.data()[16_000], 3);
        buffer.append(&[4; 40_000]);
        assert_eq!(buffer.data().len(), 56_001);
        buffer.consume(56_001);
        assert!(buffer.is_empty());
        buffer.clear();
        assert!(buffer.bytes.is_empty());
    }
}
