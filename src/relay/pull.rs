//! Carries the body of a response from its source, the backend or a file to be compressed, to the client's [`Output`].

use std::io;

use super::context::{Interests, Tools};
use super::download::{BodyPart, Download, Filled};
use super::file::{self, Flushed};
use super::output::Output;
use crate::backend::lease::Upstream;
use crate::content::gzip::GzipBody;
use crate::exchange::FileBody;
use crate::http::body::{Framing, LAST_CHUNK};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::stats::Close;

/// How pulling from the backend ended.
pub(super) enum PullResult {
    /// The body is complete, or broke off.
    All,
    Blocked(Interests),
    Turn,
}

/// Passes on pieces of a body until it ends, or until the backend or the client has to be waited for. The error is the
/// reason for which the client's connection is cut.
pub(super) fn pull<U: Upstream>(
    output: &mut Output,
    download: &mut Download<U>,
    mut gzip: Option<&mut GzipBody>,
    conn: &mut Conn,
    tools: &mut Tools<'_>,
) -> Result<PullResult, Close> {
    let gone = |_: io::Error| Close::WriteFailed;
    let end = output.bytes + TURN;
    if !output.flush(conn).map_err(gone)? && output.is_full() {
        return output.wait_for_room(tools).map(PullResult::Blocked);
    }
    loop {
        match download.next(tools.reply) {
            Ok(BodyPart::Bytes(piece)) => {
                let emitted = match &mut gzip {
                    None => output.emit(conn, piece, tools.out, tools.room),
                    Some(gzip) => {
                        gzip.push(piece);
                        match gzip.is_enough() {
                            true => output.emit_all(conn, gzip, tools.out, tools.room),
                            false => Ok(()),
                        }
                    }
                };
                emitted.map_err(gone)?;
            }
            Ok(BodyPart::Wait) => {
                if let Some(gzip) = &mut gzip {
                    gzip.flush();
                    output
                        .emit_all(conn, gzip, tools.out, tools.room)
                        .map_err(gone)?;
                }
                output
                    .write(conn, &[], tools.out, tools.room)
                    .map_err(gone)?;
                if output.is_full() || output.is_in_grace() {
                    return output.wait_for_room(tools).map(PullResult::Blocked);
                }
                if output.bytes >= end {
                    return Ok(PullResult::Turn);
                }
                match download.fill(tools) {
                    Ok(Filled::Some) => {}
                    Ok(Filled::Wait(interests)) => {
                        return output.wait_beside(interests).map(PullResult::Blocked);
                    }
                    Err(error) => {
                        output.ended = error.reason;
                        return Ok(PullResult::All);
                    }
                }
            }
            end => {
                // The client gets what came before the fault.
                let fault = end.err();
                if let Some(gzip) = &mut gzip {
                    match fault {
                        None => gzip.finish(),
                        Some(_) => gzip.flush(),
                    }
                    output
                        .emit_all(conn, gzip, tools.out, tools.room)
                        .map_err(gone)?;
                }
                match fault {
                    None if output.framing == Framing::Chunked => {
                        tools.out.extend_from_slice(LAST_CHUNK);
                    }
                    None => {}
                    Some(error) => output.ended = error.reason,
                }
                output
                    .write(conn, &[], tools.out, tools.room)
                    .map_err(gone)?;
                return Ok(PullResult::All);
            }
        }
        if output.is_full() {
            return output.wait_for_room(tools).map(PullResult::Blocked);
        }
    }
}

/// Compresses a file for as long as the client takes the output. [`Flushed::All`]: the whole file was compressed; the
/// rest of the output is in the backlog. The error is the reason for which the client's connection is cut.
pub(super) fn compress(
    output: &mut Output,
    file: &mut FileBody,
    gzip: &mut GzipBody,
    conn: &mut Conn,
    tools: &mut Tools<'_>,
) -> Result<Flushed, Close> {
    let gone = |_: io::Error| Close::WriteFailed;
    let mut block = [0; Buffer::SIZE];
    let mut compressed = 0;
    if !output.flush(conn).map_err(gone)? {
        return Ok(Flushed::Full);
    }
    loop {
        let count = file::take(file, &mut block)?;
        gzip.push(&block[..count]);
        if count == 0 {
            gzip.finish();
        }
        if count == 0 || gzip.is_enough() {
            output
                .emit_all(conn, gzip, tools.out, tools.room)
                .map_err(gone)?;
        }
        compressed += count;
        let is_over = count == 0;
        if is_over {
            tools.out.extend_from_slice(LAST_CHUNK);
        }
        let is_due = compressed >= COMPRESSED;
        if is_over || is_due {
            output
                .write(conn, &[], tools.out, tools.room)
                .map_err(gone)?;
        }
        match (is_over, output.backlog.is_some()) {
            (true, _) => return Ok(Flushed::All),
            // The compressor has to wait here, so the backlog holds no more than one write.
            (false, true) => return Ok(Flushed::Full),
            (false, false) if is_due => return Ok(Flushed::Turn),
            (false, false) => {}
        }
    }
}

/// Bytes that are relayed before others run.
const TURN: u64 = 1 << 20;
/// Bytes of a file that are compressed before others run: a few milliseconds of work.
const COMPRESSED: usize = 256 << 10;
