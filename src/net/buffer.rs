//! Bytes read from a socket and not used yet.
//!
//! A worker owns its buffers and uses them for one session after the other; a parked session owns none,
//! only the bytes that were left over, if any.

use std::io;

use super::conn::Conn;

/// A reusable buffer of at least [`Buffer::SIZE`] bytes: filled behind, taken from in front.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What was fastest for one-kilobyte and for one-megabyte answers alike.
    pub const SIZE: usize = 16 * 1024;

    /// Empty, and without memory until the first use.
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    /// The bytes that wait to be used.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Whether no bytes wait.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether the last read may have been cut short by a lack of room.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len()
    }

    /// Takes `count` bytes away from the front.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Forgets everything. Memory beyond the usual size, which a large head has needed, is given back.
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

    /// The free part, of at least `least` bytes: moves what waits to the front or grows where it must.
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
