//! The first half of an exchange: sends the request to a backend and reads the head of the response.
//!
//! The backend may respond before it has all of the request (RFC 9112 9.5). When it takes no more for now, its bytes
//! are read: an interim response is passed on, and the writing continues; a final response, or the end of the
//! connection, ends the writing.
//!
//! **Invariant**: a head that arrives in many pieces has one deadline for all of them.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::context::{
    ClientSide, Interests, RelayError, RelayRequest, Rules, Tools, write_interim,
};
use super::download::Download;
use super::upload::{self, StreamingUpload};
use crate::backend::lease::Upstream;
use crate::exchange::RequestBody;
use crate::http::body::{Framing, LAST_CHUNK};
use crate::http::fastcgi;
use crate::http::head::{Method, Persistence, RequestHead, ResponseHead, ResponseHeads, Version};
use crate::http::request_id::RequestId;
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
use crate::net::stream::VANISHED;
use crate::net::tls;
use crate::stats::Close;

/// One request at one backend.
pub struct Call<U> {
    upstream: U,
    /// How far the body of the request was rendered.
    cursor: Cursor,
    /// What was rendered but not written when the exchange was last blocked.
    rest: Vec<u8>,
    /// Length of the rendered head in bytes; 0 before it was rendered.
    head_length: usize,
    /// Whether writing of the request has begun, successful or not.
    is_started: bool,
    /// Bytes of the request that were written.
    sent: usize,
    /// Whether the exchange had to wait before the backend took all of the request: for the backend, for the client, or
    /// to let others run.
    was_blocked: bool,
    /// Whether it waits for the client; the backend's time starts over afterwards.
    is_waiting_for_client: bool,
    /// Since when the backend has taken nothing of the request; once it has all of it, since when that is so.
    since: Instant,
    /// Whether the backend did not take all of the request, because it responded or closed the connection early.
    is_part: bool,
    heads: ResponseHeads,
    /// Whether the backend has sent anything.
    begun: bool,
    /// Since when the rest of a head is waited for.
    head_since: Option<Instant>,
    /// The head of the response, while it is held back.
    head: Option<ResponseHead>,
    /// When the head of the response was complete.
    responded: Option<Instant>,
    /// Until when the body of a small response is waited for.
    gather_until: Option<Instant>,
}

/// How far the body of a request was rendered.
enum Cursor {
    /// Offset of the next byte.
    At(u64),
    /// Everything was rendered.
    End,
}

/// The result of [`Call::send`].
pub enum Sending {
    /// Not everything could be written.
    Blocked(Interests),
    /// Not everything was written, but other work should run first.
    Turn,
    /// The backend has the whole request, or needs no more of it.
    Sent,
}

/// The result of [`Call::await_response`].
pub enum Awaiting {
    /// The head is not complete yet.
    Blocked(Interests),
    /// The head of the final response.
    Head(ResponseHead),
}

impl<U: Upstream> Call<U> {
    /// A call to a backend that was acquired at `now`.
    pub fn new(upstream: U, now: Instant) -> Self {
        Self {
            upstream,
            cursor: Cursor::At(0),
            rest: Vec::new(),
            head_length: 0,
            is_started: false,
            sent: 0,
            was_blocked: false,
            is_waiting_for_client: false,
            since: now,
            is_part: false,
            heads: ResponseHeads::new(),
            begun: false,
            head_since: None,
            head: None,
            responded: None,
            gather_until: None,
        }
    }

    /// Whether the head of the request has yet to be rendered.
    pub const fn is_fresh(&self) -> bool {
        self.head_length == 0
    }

    /// Notes that the head of this request was rendered into the output buffer, with this length in bytes, and announces
    /// the request to the connection.
    pub fn rendered(&mut self, length: usize, request: &RequestHead, id: &RequestId) {
        self.head_length = length;
        let is_head = request.method == Method::Head;
        self.upstream.as_mut().begin_request(is_head, id);
    }

    /// Length of the request's head in bytes.
    pub const fn head_length(&self) -> usize {
        self.head_length
    }

    /// Whether the backend may have received part of the request.
    pub const fn is_sent(&self) -> bool {
        self.sent > 0
    }

    /// Whether the connection has carried an exchange before.
    pub fn is_reused(&self) -> bool {
        self.upstream.is_reused()
    }

    /// Whether the backend dialled in.
    pub fn is_dialled(&self) -> bool {
        self.upstream.is_dialled()
    }

    /// The backend's socket.
    pub fn fd(&mut self) -> BorrowedFd<'_> {
        let conn: &Conn = self.upstream.as_mut();
        conn.as_fd()
    }

    /// Closes the connection because of this error.
    pub fn fail(mut self, error: RelayError) {
        if matches!(error, RelayError::TooSlow | RelayError::Stalled) {
            self.upstream.late();
        }
        let is_reused = self.is_reused();
        self.close(match error {
            RelayError::Upload(_) => Close::ClientGone,
            // Most likely the server had closed an idle connection.
            RelayError::ClosedEarly if is_reused => Close::PeerClosed,
            _ => Close::BackendFailed,
        });
    }

    /// Closes the connection.
    pub fn close(self, reason: Close) {
        self.upstream.close(reason);
    }

    /// Returns the connection, for another protocol.
    pub fn into_upstream(self) -> U {
        self.upstream
    }

    /// Writes as much of the request as the backend takes.
    ///
    /// # Errors
    /// Why the backend cannot get the request.
    pub fn send(
        &mut self,
        request: RelayRequest<'_>,
        mut upload: Option<&mut StreamingUpload>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Sending, RelayError> {
        let mut progress = false;
        let mut left = TURN;
        if std::mem::take(&mut self.is_waiting_for_client) {
            self.since = Instant::now();
        }
        if std::mem::replace(&mut self.is_started, true) {
            tools.out.clear();
            tools.out.append(&mut self.rest);
        } else if matches!(request.body, RequestBody::Memory(..) | RequestBody::Empty) {
            // A small body goes with the head in one write; some applications are slower with two.
            self.render_more(request, None, client, tools.out)?;
        }
        if self.sent == 0 {
            // Restores the default, which a large request before may have changed.
            self.upstream.as_mut().stream().give_up_after(VANISHED);
        }
        let mut written = 0;
        loop {
            if written == tools.out.len() {
                tools.out.clear();
                written = 0;
                match self.render_more(request, upload.as_deref_mut(), client, tools.out)? {
                    Rendered::Some => {}
                    Rendered::Wait(deadline) => {
                        return self.wait_for_client(request, client, tools, deadline);
                    }
                    Rendered::End => match self.upstream.as_mut().flush_now() {
                        Ok(true) => {
                            if self.was_blocked {
                                self.since = Instant::now();
                            }
                            return Ok(Sending::Sent);
                        }
                        Ok(false) => {
                            return self.wait_for_backend(request, client, tools, 0, progress);
                        }
                        Err(_) => return Ok(self.after_broken_write()),
                    },
                }
            }
            match self.upstream.as_mut().write_now(&tools.out[written..]) {
                Ok(0) => return self.wait_for_backend(request, client, tools, written, progress),
                Ok(count) => {
                    written += count;
                    progress = true;
                    let before = self.sent;
                    self.sent = before.saturating_add(count);
                    if before <= SMALL && self.sent > SMALL {
                        // A large request may fill the backend's buffers, and the backend may take its time to empty
                        // them.
                        let patience = request.rules.backend.max(VANISHED);
                        self.upstream.as_mut().stream().give_up_after(patience);
                    }
                    left = left.saturating_sub(count);
                }
                Err(_) => return Ok(self.after_broken_write()),
            }
            if left == 0 {
                self.was_blocked = true;
                self.rest.extend_from_slice(&tools.out[written..]);
                return Ok(Sending::Turn);
            }
        }
    }

    /// Waits for more of the body from the client; the backend may respond before.
    fn wait_for_client(
        &mut self,
        request: RelayRequest<'_>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
        deadline: Instant,
    ) -> Result<Sending, RelayError> {
        self.was_blocked = true;
        self.is_waiting_for_client = true;
        if self.read_early_response(request, client, tools)? {
            return Ok(Sending::Sent);
        }
        // Flush what TLS has buffered of the body: the backend needs it, whether more arrives or not.
        let interest = match self.upstream.as_mut().flush_now() {
            Ok(true) => Interest::Read,
            Ok(false) => Interest::Both,
            Err(_) => return Ok(self.after_broken_write()),
        };
        Ok(Sending::Blocked(Interests {
            backend: Some(interest),
            uploads: true,
            ..Interests::time(deadline)
        }))
    }

    /// Appends the next part of the body to `out`, in a record if the backend speaks FastCGI.
    fn render_more(
        &mut self,
        request: RelayRequest<'_>,
        upload: Option<&mut StreamingUpload>,
        client: &mut ClientSide<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Rendered, RelayError> {
        let Cursor::At(position) = self.cursor else {
            return Ok(Rendered::End);
        };
        if !self.upstream.as_mut().is_fastcgi() {
            return self.render_body(position, request, upload, client, out);
        }
        let record = fastcgi::open_body(out);
        let rendered = self.render_body(position, request, upload, client, out)?;
        fastcgi::close_body(record, matches!(self.cursor, Cursor::End), out);
        Ok(match rendered {
            Rendered::Wait(until) => Rendered::Wait(until),
            _ => rendered_if_any(out),
        })
    }

    /// Appends the body from `position` on to `out`, up to a block.
    fn render_body(
        &mut self,
        position: u64,
        request: RelayRequest<'_>,
        upload: Option<&mut StreamingUpload>,
        client: &mut ClientSide<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Rendered, RelayError> {
        let next = match (request.body, upload) {
            (RequestBody::Memory(bytes, _), _) => {
                let rest = usize::try_from(position).map_or(&[][..], |at| &bytes[at..]);
                let count = rest.len().min(BLOCK.saturating_sub(out.len()));
                out.extend_from_slice(&rest[..count]);
                self.cursor_after(position, count, bytes.len() as u64)
            }
            (RequestBody::File { file, length, .. }, _) if position < *length => {
                let left = usize::try_from(*length - position).unwrap_or(BLOCK);
                let start = out.len();
                out.resize(start + left.min(BLOCK), 0);
                let count = loop {
                    match file.read_at(&mut out[start..], position) {
                        Ok(count @ 1..) => break count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Ok(0) | Err(_) => return Err(RelayError::LostBody),
                    }
                };
                out.truncate(start + count);
                self.cursor_after(position, count, *length)
            }
            (RequestBody::Stream { length }, Some(upload)) => {
                let chunked = length.is_none();
                match upload
                    .advance(client, chunked, out)
                    .map_err(RelayError::Upload)?
                {
                    upload::UploadStep::Some => Cursor::At(1),
                    upload::UploadStep::Wait(deadline) => {
                        self.cursor = Cursor::At(1);
                        return Ok(Rendered::Wait(deadline));
                    }
                    upload::UploadStep::End => {
                        if chunked {
                            out.extend_from_slice(LAST_CHUNK);
                        }
                        Cursor::End
                    }
                }
            }
            _ => Cursor::End,
        };
        self.cursor = next;
        Ok(rendered_if_any(out))
    }

    const fn cursor_after(&self, position: u64, count: usize, length: u64) -> Cursor {
        match position + count as u64 {
            end if end >= length => Cursor::End,
            end => Cursor::At(end),
        }
    }

    /// Waits for a backend that takes nothing for now, unless it has responded already.
    fn wait_for_backend(
        &mut self,
        request: RelayRequest<'_>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
        written: usize,
        progress: bool,
    ) -> Result<Sending, RelayError> {
        if self.read_early_response(request, client, tools)? {
            return Ok(Sending::Sent);
        }
        let now = Instant::now();
        if progress || !self.was_blocked {
            self.since = now;
        }
        self.was_blocked = true;
        let until = self.since + request.rules.backend;
        if now >= until {
            return Err(RelayError::Stalled);
        }
        self.rest.extend_from_slice(&tools.out[written..]);
        Ok(Sending::Blocked(Interests {
            backend: Some(Interest::Both),
            ..Interests::time(until)
        }))
    }

    /// Handles a broken connection: the backend may have responded before it broke.
    const fn after_broken_write(&mut self) -> Sending {
        self.is_part = true;
        Sending::Sent
    }

    /// Reads what the backend sends while the request is being written. Returns whether it needs no more of the
    /// request.
    fn read_early_response(
        &mut self,
        request: RelayRequest<'_>,
        client: &mut ClientSide<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<bool, RelayError> {
        loop {
            match tools.reply.fill_now(self.upstream.as_mut()) {
                Ok(Some(1..)) => {}
                Ok(None) => return Ok(false),
                // The wait for the head of the response meets the same error again.
                Ok(Some(0)) | Err(_) => {
                    self.is_part = true;
                    return Ok(true);
                }
            }
            let taken = self.take_head(request.head, request.rules, Some(&mut *client), tools)?;
            self.head = taken;
            if self.head.is_some() {
                self.is_part = true;
                return Ok(true);
            }
        }
    }

    /// Notes that the request was sent. Returns what to wait for, unless there is something to read already.
    pub fn expect_response(&self, rules: &Rules) -> Option<Interests> {
        if self.is_part || self.begun {
            return None;
        }
        Some(Interests::response(self.since + rules.first_byte))
    }

    /// Reads up to the head of the final response, or of a 101, after which there is none.
    ///
    /// # Errors
    /// Why there is no response.
    pub fn await_response(
        &mut self,
        request: &RequestHead,
        rules: &Rules,
        mut client: Option<&mut ClientSide<'_>>,
        tools: &mut Tools<'_>,
    ) -> Result<Awaiting, RelayError> {
        loop {
            if let Some(head) = self.head.take() {
                if head.status == 101 && self.is_part {
                    return Err(RelayError::BadResponse("101 before the end of the request"));
                }
                let gathering = self.gather(&head, &request.method, rules, tools)?;
                return Ok(match gathering {
                    None => Awaiting::Head(head),
                    Some(interests) => {
                        self.head = Some(head);
                        Awaiting::Blocked(interests)
                    }
                });
            }
            let is_begun = !tools.reply.is_empty();
            match tools.read(self.upstream.as_mut()) {
                Ok(Some(1..)) => {
                    let client = client.as_deref_mut();
                    self.head = self.take_head(request, rules, client, tools)?;
                }
                Ok(None) => {
                    let (until, late) = match (is_begun, self.head_since) {
                        (true, Some(since)) => (since + rules.backend, RelayError::Stalled),
                        _ => (self.since + rules.first_byte, RelayError::TooSlow),
                    };
                    return match Instant::now() < until {
                        true => Ok(Awaiting::Blocked(Interests::response(until))),
                        false => Err(late),
                    };
                }
                end => {
                    let known = end.err().and_then(|error| {
                        let fault = self.upstream.as_mut().fault();
                        let fault = fault.map(RelayError::BadResponse);
                        fault.or_else(|| tls::rejection(&error).map(RelayError::Tls))
                    });
                    return Err(match known {
                        Some(error) => error,
                        None if self.begun => RelayError::BadResponse("the head is cut short"),
                        None => RelayError::ClosedEarly,
                    });
                }
            }
        }
    }

    /// Takes heads out of what was read. Passes interim ones on; returns the final one once it is complete.
    fn take_head(
        &mut self,
        request: &RequestHead,
        rules: &Rules,
        mut client: Option<&mut ClientSide<'_>>,
        tools: &mut Tools<'_>,
    ) -> Result<Option<ResponseHead>, RelayError> {
        self.begun = true;
        // One read may have brought several heads.
        while !tools.reply.is_empty() {
            let next = self.heads.next(tools.reply.data(), request, &rules.limits);
            let Some((head, length)) = next.map_err(|bad| RelayError::BadResponse(bad.0))? else {
                // Most heads arrive in one read; skip the clock then.
                let since = *self.head_since.get_or_insert_with(Instant::now);
                return match since.elapsed() < rules.backend {
                    true => Ok(None),
                    false => Err(RelayError::Stalled),
                };
            };
            tools.reply.consume(length);
            if !head.is_interim() {
                self.responded = Some(Instant::now());
                return Ok(Some(head));
            }
            // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
            if head.status != 100
                && request.version == Version::Http11
                && let Some(client) = client.as_deref_mut()
            {
                let mut bytes = Vec::new();
                head.write(Framing::Empty, Persistence::Implied, None, &mut bytes);
                write_interim(client.conn, client.pending_output, &bytes);
            }
            self.head_since = None;
            // The next head gets as much time as the first.
            self.since = Instant::now();
        }
        Ok(None)
    }

    /// Waits a moment for a small body: many applications write head and body separately, and as long as nothing was
    /// passed on, another backend can still take the request. `None`: there is nothing to wait for.
    fn gather(
        &mut self,
        head: &ResponseHead,
        method: &Method,
        rules: &Rules,
        tools: &mut Tools<'_>,
    ) -> Result<Option<Interests>, RelayError> {
        let Framing::Length(length) = head.framing(method) else {
            return Ok(None);
        };
        if length > rules.gathered {
            return Ok(None);
        }
        let is_whole = tools.reply.data().len() as u64 >= length;
        if !is_whole && head.names_file() {
            return Ok(None);
        }
        while (tools.reply.data().len() as u64) < length {
            match tools.read(self.upstream.as_mut()) {
                Ok(Some(1..)) => {}
                Ok(None) => {
                    let now = Instant::now();
                    let until = *self.gather_until.get_or_insert(now + GATHERING);
                    return Ok((now < until).then(|| Interests::response(until)));
                }
                Ok(Some(0)) | Err(_) => return Err(RelayError::ClosedEarly),
            }
        }
        Ok(None)
    }

    /// How long after `acquired` the head of the response was complete.
    pub fn responded_after(&self, acquired: Instant) -> Duration {
        let responded = self.responded.unwrap_or(acquired);
        responded.saturating_duration_since(acquired)
    }

    /// The body of the response with this head.
    pub fn into_download(
        self,
        head: &ResponseHead,
        method: &Method,
        rules: &Rules,
        reply: &mut Buffer,
    ) -> Download<U> {
        Download::new(self.upstream, head, method, rules, self.is_part, reply)
    }
}

/// Whether there is something to write, or the request has ended.
const fn rendered_if_any(out: &[u8]) -> Rendered {
    match out.is_empty() {
        true => Rendered::End,
        false => Rendered::Some,
    }
}

/// The result of rendering more of a request.
enum Rendered {
    Some,
    /// Waits for the client until then.
    Wait(Instant),
    End,
}

/// Bytes of a request for which every backend has room: if its machine does not acknowledge them, it has vanished.
const SMALL: usize = 16 << 10;
/// Bytes of a body that are written at once.
const BLOCK: usize = Buffer::SIZE;
/// Bytes of a request that are written before others run.
const TURN: usize = 1 << 20;
/// How long a small body is waited for.
const GATHERING: Duration = Duration::from_secs(1);
