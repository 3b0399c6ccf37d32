//! Reads the body of a request completely before a backend is taken.
//!
//! Up to `limits.body_memory` it is kept in memory and charged to `limits.memory`. Beyond that, or when the memory is
//! used up, the whole body goes to a temporary file, which has no name and so vanishes with the process, and is charged
//! to `limits.spool`, of which one client may use an eighth. A slow client holds no worker: the session is parked in
//! between.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use crate::budget::{Charge, Share, ShareRefusal};
use crate::exchange::RequestBody;
use crate::http::body::{Decoder, Framing};
use crate::http::head::HeadLimits;
use crate::net::buffer::Buffer;
use crate::relay::spool::Room;

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct BodyBuffer {
    decoder: Decoder,
    /// The bytes, until there is a file.
    memory: Vec<u8>,
    file: Option<File>,
    /// Its length, if that was announced.
    announced: Option<u64>,
    /// Length in bytes so far.
    length: u64,
    most: u64,
    room: Room,
    in_memory: Charge,
    on_disk: Share,
}

/// Why a body was refused or lost.
#[derive(Debug)]
pub(crate) enum CollectError {
    /// It is longer than `limits.body`.
    TooLarge,
    /// Its chunks violate HTTP.
    Bad(&'static str),
    /// It is longer than what one client may keep, in bytes.
    TooLargeToKeep(u64),
    /// There is no room in memory, and the client's share of the disk is used up.
    NoRoomForClient,
    /// There is no room in memory, and the disk space is used up.
    NoRoom,
    /// The temporary file could not be written.
    Disk(io::Error),
}

impl BodyBuffer {
    /// For a body with this framing, of at most `most` bytes.
    ///
    /// # Errors
    /// [`CollectError::TooLarge`] and [`CollectError::TooLargeToKeep`], if the announced length exceeds the limit.
    pub(crate) fn new(
        framing: Framing,
        limits: &HeadLimits,
        most: u64,
        room: Room,
    ) -> Result<Self, CollectError> {
        if matches!(framing, Framing::Length(length) if length > most) {
            return Err(CollectError::TooLarge);
        }
        let collector = Self {
            decoder: Decoder::new(framing, limits),
            memory: Vec::new(),
            file: None,
            announced: match framing {
                Framing::Length(length) => Some(length),
                _ => None,
            },
            length: 0,
            most,
            in_memory: Charge::new(Arc::clone(&room.memory)),
            on_disk: Share::new(&room.disk, room.client),
            room,
        };
        if let Framing::Length(length) = framing {
            collector.check(length)?;
        }
        Ok(collector)
    }

    /// Takes the bytes of the body from the buffer. Returns whether the body is complete.
    ///
    /// # Errors
    /// Any [`CollectError`]; the body is lost.
    pub(crate) fn take(&mut self, input: &mut Buffer) -> Result<bool, CollectError> {
        while !self.decoder.is_done() && !input.is_empty() {
            let piece = self
                .decoder
                .next(input.data())
                .map_err(|bad| CollectError::Bad(bad.0))?;
            if piece.consumed == 0 {
                break;
            }
            let consumed = piece.consumed;
            let data = piece.data.len() as u64;
            // Refuse an oversized chunk at once, by its announced size.
            self.check((self.length + data).saturating_add(self.decoder.announced()))?;
            self.store(&input.data()[piece.data])?;
            input.consume(consumed);
        }
        Ok(self.decoder.is_done())
    }

    /// Its length in bytes so far.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// The whole body, after [`BodyBuffer::take`] has returned that it is complete.
    pub(crate) fn finish(self) -> RequestBody {
        match self.file {
            None => RequestBody::Memory(self.memory, self.in_memory),
            Some(file) => RequestBody::File {
                file,
                length: self.length,
                charge: self.on_disk,
            },
        }
    }

    /// Whether a body may have this many bytes.
    fn check(&self, length: u64) -> Result<(), CollectError> {
        if length > self.most {
            return Err(CollectError::TooLarge);
        }
        let most = self.room.disk.part().max(self.most_in_memory() as u64);
        match length > most {
            true => Err(CollectError::TooLargeToKeep(most)),
            false => Ok(()),
        }
    }

    /// Less than a buffer is not worth a file.
    fn most_in_memory(&self) -> usize {
        self.room.most_in_memory.max(Buffer::SIZE)
    }

    fn store(&mut self, data: &[u8]) -> Result<(), CollectError> {
        self.length += data.len() as u64;
        if self.file.is_some() {
            return self.write(data);
        }
        let all = self.memory.len() + data.len();
        if all <= self.most_in_memory() && self.in_memory.set_optional(all as u64) {
            self.memory.extend_from_slice(data);
            return Ok(());
        }
        let memory = std::mem::take(&mut self.memory);
        self.write(&memory)?;
        self.in_memory.force(0);
        self.write(data)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), CollectError> {
        let refused = |refusal| match refusal {
            ShareRefusal::Client => CollectError::NoRoomForClient,
            // It would have fitted into memory.
            ShareRefusal::Part | ShareRefusal::All => CollectError::NoRoom,
        };
        if self.file.is_none()
            && let Some(length) = self.announced
        {
            self.on_disk.reserve(length).map_err(refused)?;
        }
        let grown = self.on_disk.set(self.on_disk.bytes() + data.len() as u64);
        grown.map_err(refused)?;
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file =
                    tempfile::tempfile_in(&self.room.directory).map_err(CollectError::Disk)?;
                self.file.insert(file)
            }
        };
        file.write_all(data).map_err(CollectError::Disk)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::budget::{Budget, PART, Shares};

    /// Limits: memory, and disk for one client.
    fn room(memory: u64, disk: u64) -> Room {
        Room {
            memory: Arc::new(Budget::new(memory)),
            disk: Arc::new(Shares::new(disk * PART)),
            client: None,
            directory: std::env::temp_dir(),
            most_in_memory: 20_000,
        }
    }

    fn collect_in(
        room: &Room,
        framing: Framing,
        input: &[u8],
        most: u64,
    ) -> Result<RequestBody, CollectError> {
        let mut collector = BodyBuffer::new(framing, &HeadLimits::default(), most, room.clone())?;
        let mut buffer = Buffer::new();
        for piece in input.chunks(1000) {
            buffer.append(piece);
            if collector.take(&mut buffer)? {
                return Ok(collector.finish());
            }
        }
        panic!("not complete");
    }

    fn collect(framing: Framing, input: &[u8], most: u64) -> Result<RequestBody, CollectError> {
        collect_in(&room(1 << 20, 1 << 20), framing, input, most)
    }

    #[test]
    fn small_bodies_stay_in_memory() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        match collect(Framing::Length(20_000), &bytes[..20_000], 100_000).unwrap() {
            RequestBody::Memory(body, _) => assert_eq!(body, &bytes[..20_000]),
            other => panic!("{other:?}"),
        }
        match collect(Framing::Length(100_000), &bytes, 100_000).unwrap() {
            RequestBody::File { file, length, .. } => {
                let mut body = vec![0; 100_000];
                file.read_exact_at(&mut body, 0).unwrap();
                assert_eq!((body, length), (bytes, 100_000));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn room_is_charged_and_released() {
        // Length of the body, memory and disk that are available, and how much of both it uses, or nothing if it is
        // refused.
        let check = |length: usize, memory, disk, expected: Option<(u64, u64)>| {
            let room = room(memory, disk);
            let used = || (room.memory.used(), room.disk.all().used());
            let bytes: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            let result = collect_in(&room, Framing::Length(length as u64), &bytes, 1 << 20);
            match (&result, expected) {
                (Ok(body), Some(expected)) => {
                    assert_eq!(used(), expected, "{length} {memory} {disk}");
                    let mut stored = vec![0; length];
                    match body {
                        RequestBody::File { file, .. } => {
                            file.read_exact_at(&mut stored, 0).unwrap();
                        }
                        RequestBody::Memory(body, _) => stored.clone_from(body),
                        other => panic!("{other:?}"),
                    }
                    assert_eq!(stored, bytes);
                }
                (Err(CollectError::NoRoom | CollectError::TooLargeToKeep(_)), None) => {}
                other => panic!("{length} {memory} {disk}: {other:?}"),
            }
            drop(result);
            assert_eq!(used(), (0, 0), "{length} {memory} {disk}");
        };
        check(20_000, 24_000, 0, Some((20_000, 0)));
        check(20_000, 20_000, 20_000, Some((0, 20_000)));
        check(20_000, 0, 20_000, Some((0, 20_000)));
        check(50_000, 5000, 50_000, Some((0, 50_000)));
        check(50_000, 1 << 20, 50_000, Some((0, 50_000)));
        check(20_000, 19_000, 19_000, None);
        check(50_000, 1 << 20, 49_999, None);
        check(1, 0, 0, None);
    }

    #[test]
    fn share_of_one_client() {
        let mut room = room(0, 50_000);
        room.client = Some([192, 0, 2, 1].into());
        let bytes = [7; 60_000];
        let keep = |room: &Room, length| {
            let framing = Framing::Length(length);
            collect_in(room, framing, &bytes[..length as usize], 1 << 20)
        };
        // More than the client could ever have: refused before any byte has arrived.
        assert!(matches!(
            BodyBuffer::new(
                Framing::Length(50_001),
                &HeadLimits::default(),
                1 << 20,
                room.clone()
            ),
            Err(CollectError::TooLargeToKeep(50_000))
        ));
        let chunk = [b"EA60\r\n", &bytes[..40_000]].concat();
        assert!(matches!(
            collect_in(&room, Framing::Chunked, &chunk, 1 << 20),
            Err(CollectError::TooLargeToKeep(50_000))
        ));
        let first = keep(&room, 30_000).unwrap();
        assert!(matches!(
            keep(&room, 30_000),
            Err(CollectError::NoRoomForClient)
        ));
        let second = keep(&room, 20_000).unwrap();
        // Others have room until all is used.
        let mut others = Vec::new();
        for last in 2..9 {
            room.client = Some([192, 0, 2, last].into());
            others.push(keep(&room, 50_000).unwrap());
        }
        room.client = Some([192, 0, 2, 9].into());
        assert!(matches!(keep(&room, 20_000), Err(CollectError::NoRoom)));
        drop((first, second, others));
        assert_eq!(room.disk.all().used(), 0);
        assert!(keep(&room, 20_000).is_ok());
    }

    #[test]
    fn limits_of_lengths_and_chunks() {
        let limit = |framing, input: &[u8]| collect(framing, input, 4);
        assert!(matches!(
            limit(Framing::Length(5), b"12345"),
            Err(CollectError::TooLarge)
        ));
        assert!(matches!(
            limit(Framing::Chunked, b"5\r\n12345\r\n0\r\n\r\n"),
            Err(CollectError::TooLarge)
        ));
        assert!(limit(Framing::Chunked, b"4\r\n1234\r\n0\r\n\r\n").is_ok());
        // The announced size is enough, also after other chunks.
        for announced in ["5\r\n", "FFFFFFFFFFFFFFFF\r\nA", "4\r\n1234\r\n1\r\n"] {
            assert!(
                matches!(
                    limit(Framing::Chunked, announced.as_bytes()),
                    Err(CollectError::TooLarge)
                ),
                "{announced}"
            );
        }
        assert!(matches!(
            limit(Framing::Chunked, b"4\r\n1234\n"),
            Err(CollectError::Bad(_))
        ));
    }
}
