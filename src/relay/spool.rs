//! Keeps what a client has not taken of its response yet.
//!
//! First in memory, then in an unnamed temporary file, so that the backend and the worker are free while a slow client
//! reads. Bytes in memory are charged to `limits.memory`; when that is used up, they go to disk at once. All spools and
//! request bodies together use at most `limits.spool` on disk, and those of one client at most its share of it. A spool
//! that may grow neither in memory nor on disk is full ([`Spool::is_full`]) and has to be emptied before more is put
//! in.
//!
//! **Invariants**: bytes come out in the order in which they went in: `memory`, then the file, then `tail`. The charges
//! are what is in `memory` and `tail`, and what was written to the file; they are released when the bytes are gone, the
//! file is emptied, or the spool is dropped.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::budget::{Budget, Charge, Share, Shares, WaitForRoom};
use crate::net::buffer::Buffer;

/// Where a spool, or the body of a request, may keep its bytes; nowhere by default.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Bytes in memory, for the whole server.
    pub memory: Arc<Budget>,
    /// Bytes on disk, for the whole server.
    pub disk: Arc<Shares>,
    /// The client whose share is charged, if its address is known.
    pub client: Option<IpAddr>,
    /// Directory of the temporary file.
    pub directory: PathBuf,
    /// Bytes in memory before the file is used.
    pub most_in_memory: usize,
}

/// A queue of bytes.
#[derive(Debug)]
pub struct Spool {
    room: Room,
    memory: Vec<u8>,
    /// Bytes of `memory` that were taken.
    taken: usize,
    file: Option<OnDisk>,
    /// What the file could not take.
    tail: Vec<u8>,
    in_memory: Charge,
    on_disk: Share,
    /// Whether there is something in the tail.
    waits: Option<WaitForRoom>,
}

#[derive(Debug)]
struct OnDisk {
    file: File,
    read: u64,
    written: u64,
}

impl Spool {
    /// An empty one.
    pub fn new(room: Room) -> Self {
        Self {
            in_memory: Charge::new(Arc::clone(&room.memory)),
            on_disk: Share::new(&room.disk, room.client),
            waits: None,
            room,
            memory: Vec::new(),
            taken: 0,
            file: None,
            tail: Vec::new(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.taken == self.memory.len() && self.file.is_none() && self.tail.is_empty()
    }

    /// Bytes in it.
    pub fn length(&self) -> u64 {
        let in_memory = self.memory.len() - self.taken + self.tail.len();
        let on_disk = self.file.as_ref();
        in_memory as u64 + on_disk.map_or(0, |on_disk| on_disk.written - on_disk.read)
    }

    /// Bytes that it uses on disk.
    pub const fn on_disk(&self) -> u64 {
        self.on_disk.bytes()
    }

    /// Whether it has to be emptied before more is put in.
    pub fn is_full(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Appends bytes. They are kept even if there is no room for them: the caller cannot keep them.
    pub fn put(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || !self.is_full() && self.put_in_memory(bytes) {
            return;
        }
        if !self.is_full() {
            match self.put_on_disk(bytes) {
                Ok(()) => return,
                Err(None) => {}
                Err(Some(error)) => {
                    let directory = self.room.directory.display();
                    log::error!(
                        "temporary_directory {directory}: {error}; responses wait in memory"
                    );
                }
            }
        }
        self.tail.extend_from_slice(bytes);
        self.waits.get_or_insert_with(|| self.on_disk.wait());
        self.recount();
    }

    /// The next bytes; empty only if the spool is empty.
    ///
    /// # Errors
    /// The file could not be read back; the rest is lost.
    pub fn front(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.memory.len() {
            self.taken = 0;
            self.memory.clear();
            let refilled = self.refill();
            self.recount();
            refilled?;
        }
        Ok(&self.memory[self.taken..])
    }

    /// Removes `count` bytes of [`Spool::front`].
    pub fn took(&mut self, count: usize) {
        self.taken += count;
        debug_assert!(self.taken <= self.memory.len());
        if self.taken == self.memory.len() && self.file.is_none() {
            // It may stay empty for a long time.
            self.memory = std::mem::take(&mut self.tail);
            self.taken = 0;
            self.recount();
        }
    }

    /// `false`: they have to go to the file, or the budget does not allow it.
    fn put_in_memory(&mut self, bytes: &[u8]) -> bool {
        // Less than a buffer is not worth a file.
        let most = self.room.most_in_memory.max(Buffer::SIZE);
        let all = self.memory.len() - self.taken + bytes.len();
        if self.file.is_some() || all > most || !self.in_memory.set_optional(all as u64) {
            return false;
        }
        self.memory.drain(..self.taken);
        self.taken = 0;
        self.memory.extend_from_slice(bytes);
        true
    }

    /// Charges what is in memory now, which has to be kept.
    fn recount(&mut self) {
        if self.tail.is_empty() {
            self.waits = None;
        }
        let held = self.memory.len() + self.tail.len();
        self.in_memory.force(held as u64);
    }

    /// `None`: the budget does not allow it.
    fn put_on_disk(&mut self, bytes: &[u8]) -> Result<(), Option<io::Error>> {
        let count = bytes.len() as u64;
        let own = self.on_disk.bytes();
        self.on_disk.set(own + count).map_err(|_| None)?;
        let written = self.file().and_then(|on_disk| {
            on_disk.file.write_all_at(bytes, on_disk.written)?;
            on_disk.written += count;
            Ok(())
        });
        written.map_err(|error| {
            self.shrink(own);
            if own == 0 {
                self.file = None;
            }
            Some(error)
        })
    }

    fn file(&mut self) -> io::Result<&mut OnDisk> {
        if self.file.is_none() {
            self.file = Some(OnDisk {
                file: tempfile::tempfile_in(&self.room.directory)?,
                read: 0,
                written: 0,
            });
        }
        self.file.as_mut().ok_or(io::ErrorKind::NotFound.into())
    }

    /// Reads the next bytes into memory.
    fn refill(&mut self) -> io::Result<()> {
        let Some(on_disk) = &mut self.file else {
            self.memory = std::mem::take(&mut self.tail);
            return Ok(());
        };
        let left = usize::try_from(on_disk.written - on_disk.read).unwrap_or(usize::MAX);
        self.memory.resize(left.min(2 * Buffer::SIZE), 0);
        let read = on_disk.file.read_exact_at(&mut self.memory, on_disk.read);
        if let Err(error) = read {
            // Unread bytes must not be taken for the next ones.
            self.memory.clear();
            return Err(error);
        }
        on_disk.read += self.memory.len() as u64;
        if on_disk.read == on_disk.written {
            self.file = None;
            self.shrink(0);
        }
        Ok(())
    }

    /// Releases all but `count` bytes on disk.
    fn shrink(&mut self, bytes: u64) {
        let shrunk = self.on_disk.set(bytes);
        debug_assert_eq!(shrunk, Ok(()), "a share can always shrink");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::PART;

    /// Limits: one spool in memory, all in memory, and one client on disk.
    fn room(most_in_memory: usize, memory: u64, disk: u64) -> Room {
        Room {
            memory: Arc::new(Budget::new(memory)),
            disk: Arc::new(Shares::new(disk * PART)),
            client: Some([192, 0, 2, 1].into()),
            directory: std::env::temp_dir(),
            most_in_memory,
        }
    }

    fn used(room: &Room) -> (u64, u64) {
        (room.memory.used(), room.disk.all().used())
    }

    /// Puts in pieces and takes out others, and checks that the order stays.
    fn through(room: &Room, put: usize, take: usize) -> bool {
        let mut spool = Spool::new(room.clone());
        let byte = |number: usize| (number % 251) as u8;
        let (mut total, mut out, mut was_full) = (0, 0, false);
        for _ in 0..40 {
            while !spool.is_full() && total < out + 500_000 {
                let bytes: Vec<u8> = (total..total + put).map(byte).collect();
                spool.put(&bytes);
                total += put;
            }
            was_full |= spool.is_full();
            while !spool.is_empty() && (spool.is_full() || out + 100_000 < total) {
                let bytes = spool.front().unwrap();
                let count = bytes.len().min(take);
                assert!(count > 0);
                assert!((0..count).all(|at| bytes[at] == byte(out + at)), "{out}");
                out += count;
                spool.took(count);
                assert_eq!(spool.length(), (total - out) as u64);
            }
        }
        while !spool.is_empty() {
            let count = spool.front().unwrap().len();
            out += count;
            spool.took(count);
        }
        assert_eq!(out, total);
        assert_eq!(used(room), (0, 0));
        was_full
    }

    #[test]
    fn bytes_keep_their_order() {
        for (put, take) in [(1000, 999), (16_384, 100_000), (70_000, 777)] {
            for memory in [0, 10_000, 1 << 30] {
                assert!(!through(&room(20_000, memory, 1 << 30), put, take));
                assert!(through(&room(20_000, memory, 400_000), put, take));
                assert!(through(&room(0, memory, 0), put, take));
            }
            assert!(!through(&room(1 << 20, 1 << 30, 0), put, take));
            assert!(through(&room(1 << 20, 10_000, 0), put, take));
        }
    }

    #[test]
    fn budget_is_shared_and_released() {
        let room = room(0, 1 << 30, 400_000);
        let mut spools: Vec<_> = (0..5).map(|_| Spool::new(room.clone())).collect();
        for spool in &mut spools {
            spool.put(&[7; 100_000]);
        }
        assert_eq!(used(&room), (100_000, 400_000));
        let full: Vec<_> = spools.iter().map(Spool::is_full).collect();
        assert_eq!(full, [false, false, false, false, true]);
        assert_eq!(room.disk.waiting(), 1);
        // Another client has a share of its own.
        let mut other = Spool::new(Room {
            client: Some([192, 0, 2, 2].into()),
            ..room.clone()
        });
        other.put(&[8; 400_000]);
        assert!(!other.is_full());
        other.put(&[8; 1]);
        assert!(other.is_full() && room.disk.waiting() == 2);
        while !other.is_empty() {
            let count = other.front().unwrap().len();
            other.took(count);
        }
        assert_eq!(room.disk.waiting(), 1);
        spools.truncate(1);
        assert_eq!(used(&room), (0, 100_000));
        assert_eq!(room.disk.waiting(), 0);
        drop((spools, other));
        assert_eq!(used(&room), (0, 0));
    }

    #[test]
    fn full_memory_spills_to_disk() {
        let room = room(10_000, 16_000, 1 << 20);
        let mut spools = [(); 3].map(|()| Spool::new(room.clone()));
        for spool in &mut spools {
            spool.put(&[7; 8000]);
        }
        assert_eq!(used(&room), (8000, 16_000));
        spools[0].took(8000);
        assert_eq!(used(&room), (0, 16_000));
        // What comes out of the file is in memory for a moment, and is charged there.
        assert_eq!(spools[1].front().unwrap(), [7; 8000]);
        assert_eq!(used(&room), (8000, 8000));
        spools[1].took(8000);
        spools[1].put(&[8; 8000]);
        assert_eq!(used(&room), (8000, 8000));
        room.disk.all().limit(0);
        spools[2].put(&[9; 5000]);
        assert!(spools[2].is_full(), "neither in memory nor on disk");
        assert_eq!(used(&room), (13_000, 8000));
        drop(spools);
        assert_eq!(used(&room), (0, 0));
    }

    #[test]
    fn failing_disk_loses_nothing() {
        let mut room = room(0, 1 << 30, 1 << 30);
        room.directory = "/nonexistent".into();
        let mut spool = Spool::new(room.clone());
        spool.put(&[1; 20_000]);
        spool.put(&[2; 10]);
        assert!(spool.is_full());
        assert_eq!(used(&room), (20_010, 0));
        assert_eq!(spool.front().unwrap().len(), 20_010);
        spool.took(20_010);
        assert!(spool.is_empty() && !spool.is_full());
    }
}
