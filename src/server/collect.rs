//! Collecting the body of a request before a backend is taken.
//!
//! Up to `limits.body_memory` it is kept in memory, beyond that in a temporary file that has no name and so
//! vanishes with the process. The visitor may take its time: in between the session is parked.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::exchange::RequestBody;
use crate::http::body::{Decoder, Framing};
use crate::http::head::HeadLimits;
use crate::net::buffer::Buffer;

/// A body on its way in.
#[derive(Debug)]
pub(crate) struct Collector {
    decoder: Decoder,
    /// What is in memory and not in the file.
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes so far.
    length: u64,
    most: u64,
    most_in_memory: usize,
}

/// Why a body could not be collected.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is longer than `limits.body`.
    TooLarge,
    /// Its chunks break a rule.
    Bad(&'static str),
    /// The temporary file could not be written.
    Disk(io::Error),
}

impl Collector {
    /// For a body with this framing; `most` and `most_in_memory` are bytes.
    ///
    /// # Errors
    /// [`Fault::TooLarge`], where the length says so already.
    pub(crate) fn new(
        framing: Framing,
        limits: &HeadLimits,
        most: u64,
        most_in_memory: usize,
    ) -> Result<Self, Fault> {
        if matches!(framing, Framing::Length(length) if length > most) {
            return Err(Fault::TooLarge);
        }
        Ok(Self {
            decoder: Decoder::new(framing, limits),
            memory: Vec::new(),
            file: None,
            length: 0,
            most,
            most_in_memory,
        })
    }

    /// Bytes of the body so far.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Takes from the buffer what belongs to the body. Returns whether it is complete.
    ///
    /// # Errors
    /// Any [`Fault`]; the body is lost.
    pub(crate) fn take(&mut self, input: &mut Buffer, directory: &Path) -> Result<bool, Fault> {
        while !self.decoder.is_done() && !input.is_empty() {
            let piece = self
                .decoder
                .next(input.data())
                .map_err(|bad| Fault::Bad(bad.0))?;
            if piece.consumed == 0 {
                break;
            }
            let consumed = piece.consumed;
            self.store(&input.data()[piece.data], directory)?;
            input.consume(consumed);
        }
        Ok(self.decoder.is_done())
    }

    /// The whole body, after [`Collector::take`] has said that it is complete.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub(crate) fn finish(mut self) -> Result<RequestBody, Fault> {
        let Some(mut file) = self.file.take() else {
            return Ok(RequestBody::Memory(self.memory));
        };
        file.write_all(&self.memory).map_err(Fault::Disk)?;
        Ok(RequestBody::File {
            file,
            length: self.length,
        })
    }

    fn store(&mut self, data: &[u8], directory: &Path) -> Result<(), Fault> {
        self.length += data.len() as u64;
        if self.length > self.most {
            return Err(Fault::TooLarge);
        }
        if self.memory.len() + data.len() > self.most_in_memory.max(Buffer::SIZE) {
            let file = match &mut self.file {
                Some(file) => file,
                None => self
                    .file
                    .insert(tempfile::tempfile_in(directory).map_err(Fault::Disk)?),
            };
            file.write_all(&self.memory).map_err(Fault::Disk)?;
            self.memory.clear();
        }
        self.memory.extend_from_slice(data);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn collect(framing: Framing, input: &[u8], most: u64) -> Result<RequestBody, Fault> {
        let mut collector = Collector::new(framing, &HeadLimits::default(), most, 20_000)?;
        let mut buffer = Buffer::new();
        let directory = std::env::temp_dir();
        for piece in input.chunks(1000) {
            buffer.append(piece);
            if collector.take(&mut buffer, &directory)? {
                return collector.finish();
            }
        }
        panic!("not complete");
    }

    #[test]
    fn small_ones_stay_in_memory_and_large_ones_do_not() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        match collect(Framing::Length(20_000), &bytes[..20_000], 100_000).unwrap() {
            RequestBody::Memory(body) => assert_eq!(body, &bytes[..20_000]),
            other => panic!("{other:?}"),
        }
        match collect(Framing::Length(100_000), &bytes, 100_000).unwrap() {
            RequestBody::File { file, length } => {
                let mut body = vec![0; 100_000];
                file.read_exact_at(&mut body, 0).unwrap();
                assert_eq!((body, length), (bytes, 100_000));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limits_hold_for_lengths_and_for_chunks() {
        let limit = |framing, input: &[u8]| collect(framing, input, 4);
        assert!(matches!(
            limit(Framing::Length(5), b"12345"),
            Err(Fault::TooLarge)
        ));
        assert!(matches!(
            limit(Framing::Chunked, b"5\r\n12345\r\n0\r\n\r\n"),
            Err(Fault::TooLarge)
        ));
        assert!(limit(Framing::Chunked, b"4\r\n1234\r\n0\r\n\r\n").is_ok());
        assert!(matches!(
            limit(Framing::Chunked, b"4\r\n1234\n"),
            Err(Fault::Bad(_))
        ));
    }
}
