//! The first half of an exchange: a request on its way to a backend, up to the head of the response.
//!
//! While the request is written, the backend is listened to (RFC 9112 9.5). What it says before it has all of the request is
//! read when it takes no more just then: an interim response is passed on, and the writing goes on; a final one, or the end
//! of the connection, ends the writing.
//!
//! **Invariant**: a head that arrives in many pieces has one deadline for all of them.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::context::{Interests, RelayError, RelayRequest, Rules, Tools, Visitor, write_interim};
use super::download::Download;
use super::upload::{self, StreamingUpload};
use crate::backend::lease::Upstream;
use crate::exchange::RequestBody;
use crate::http::body::{Framing, LAST_CHUNK};
use crate::http::head::{AnswerHeads, Method, Persistence, RequestHead, ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;
use crate::net::poller::Interest;
use crate::net::stream::VANISHED;
use crate::stats::Close;

/// One request at one backend.
pub struct Call<U> {
    upstream: U,
    /// Where the body of the request stands.
    cursor: Cursor,
    /// What was rendered and could not be written when the exchange was last blocked.
    rest: Vec<u8>,
    /// Bytes of the head that was rendered; 0: it was not yet.
    head_length: usize,
    /// Some of the request was written, or tried.
    is_started: bool,
    /// Bytes of the request that were written.
    sent: usize,
    /// The exchange had to wait before the backend took all of the request: for the backend, for the visitor or for its turn.
    was_blocked: bool,
    /// It waited for the visitor, and the backend's time begins again.
    is_waiting_for_visitor: bool,
    /// Since when the backend has taken nothing of the request, and then since when it has all of it.
    since: Instant,
    /// The backend did not take all of the request: it responded, or broke off, before.
    is_part: bool,
    heads: AnswerHeads,
    /// It has sent something.
    begun: bool,
    /// Since when the rest of a head is waited for.
    head_since: Option<Instant>,
    /// The head of the response, if more has to happen before it is passed on.
    head: Option<ResponseHead>,
    /// Until when the body of a small response is waited for.
    gather_until: Option<Instant>,
}

/// Where the body of a request stands.
enum Cursor {
    /// So many bytes were written.
    At(u64),
    /// All was taken from it.
    End,
}

/// What came of sending.
pub enum Sending {
    /// Not all could be written.
    Blocked(Interests),
    /// Not all was written, but other work should have its turn.
    Turn,
    /// The backend has all of it, or needs no more.
    Sent,
}

/// What came of waiting for a response.
pub enum Awaiting {
    /// It is not there yet.
    Blocked(Interests),
    /// Its head is.
    Head(ResponseHead),
}

impl<U: Upstream> Call<U> {
    /// A call to a backend that was acquired now.
    pub fn new(upstream: U, now: Instant) -> Self {
        Self {
            upstream,
            cursor: Cursor::At(0),
            rest: Vec::new(),
            head_length: 0,
            is_started: false,
            sent: 0,
            was_blocked: false,
            is_waiting_for_visitor: false,
            since: now,
            is_part: false,
            heads: AnswerHeads::new(),
            begun: false,
            head_since: None,
            head: None,
            gather_until: None,
        }
    }

    /// Whether the head of the request was not rendered yet.
    pub const fn is_fresh(&self) -> bool {
        self.head_length == 0
    }

    /// The head was rendered into the buffer for what is written.
    pub const fn rendered(&mut self, length: usize) {
        self.head_length = length;
    }

    /// Bytes of the head of the request.
    pub const fn head_length(&self) -> usize {
        self.head_length
    }

    /// Whether the backend may have some of the request.
    pub const fn is_sent(&self) -> bool {
        self.sent > 0
    }

    /// Whether the connection had an exchange before.
    pub fn was_kept(&self) -> bool {
        self.upstream.was_kept()
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

    /// Closes the connection.
    pub fn close(self, reason: Close) {
        self.upstream.close(reason);
    }

    /// The connection, for another protocol.
    pub fn into_upstream(self) -> U {
        self.upstream
    }

    /// Writes as much of the request as the backend takes.
    ///
    /// # Errors
    /// Why the backend cannot have it.
    pub fn send(
        &mut self,
        request: RelayRequest<'_>,
        mut upload: Option<&mut StreamingUpload>,
        visitor: &mut Visitor<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Sending, RelayError> {
        let mut progress = false;
        let mut left = TURN;
        if std::mem::take(&mut self.is_waiting_for_visitor) {
            self.since = Instant::now();
        }
        if std::mem::replace(&mut self.is_started, true) {
            tools.out.clear();
            tools.out.append(&mut self.rest);
        } else if matches!(request.body, RequestBody::Memory(..)) {
            // A small body goes with the head in one write; some applications are slower with two.
            self.render_more(request, None, visitor, tools.out)?;
        }
        if self.sent == 0 {
            // As at the beginning, if the request before was a large one.
            self.upstream.as_mut().stream().give_up_after(VANISHED);
        }
        let mut written = 0;
        loop {
            if written == tools.out.len() {
                tools.out.clear();
                written = 0;
                match self.render_more(request, upload.as_deref_mut(), visitor, tools.out)? {
                    Rendered::Some => {}
                    Rendered::Wait(deadline) => {
                        return self.wait(request, visitor, tools, deadline);
                    }
                    Rendered::End => match self.upstream.as_mut().flush_now() {
                        Ok(true) => {
                            if self.was_blocked {
                                self.since = Instant::now();
                            }
                            return Ok(Sending::Sent);
                        }
                        Ok(false) => return self.stuck(request, visitor, tools, 0, progress),
                        Err(_) => return Ok(self.broken()),
                    },
                }
            }
            match self.upstream.as_mut().write_now(&tools.out[written..]) {
                Ok(0) => return self.stuck(request, visitor, tools, written, progress),
                Ok(count) => {
                    written += count;
                    progress = true;
                    let before = self.sent;
                    self.sent = before.saturating_add(count);
                    if before <= SMALL && self.sent > SMALL {
                        // It may fill the backend's buffers, and the backend may take its time.
                        let patience = request.rules.backend.max(VANISHED);
                        self.upstream.as_mut().stream().give_up_after(patience);
                    }
                    left = left.saturating_sub(count);
                }
                Err(_) => return Ok(self.broken()),
            }
            if left == 0 {
                self.was_blocked = true;
                self.rest.extend_from_slice(&tools.out[written..]);
                return Ok(Sending::Turn);
            }
        }
    }

    /// There is no more of the body now: the visitor may take its time, and the backend may respond before.
    fn wait(
        &mut self,
        request: RelayRequest<'_>,
        visitor: &mut Visitor<'_>,
        tools: &mut Tools<'_>,
        deadline: Instant,
    ) -> Result<Sending, RelayError> {
        self.was_blocked = true;
        self.is_waiting_for_visitor = true;
        if self.listen(request, visitor, tools)? {
            return Ok(Sending::Sent);
        }
        // What TLS has taken of the body is for the backend, whether more of it comes or not.
        let interest = match self.upstream.as_mut().flush_now() {
            Ok(true) => Interest::Read,
            Ok(false) => Interest::Both,
            Err(_) => return Ok(self.broken()),
        };
        Ok(Sending::Blocked(Interests {
            backend: Some(interest),
            uploads: true,
            ..Interests::time(deadline)
        }))
    }

    /// Appends the next part of the body to `out`.
    fn render_more(
        &mut self,
        request: RelayRequest<'_>,
        upload: Option<&mut StreamingUpload>,
        visitor: &mut Visitor<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Rendered, RelayError> {
        let Cursor::At(position) = self.cursor else {
            return Ok(Rendered::End);
        };
        let next = match (request.body, upload) {
            (RequestBody::Memory(bytes, _), _) => {
                let rest = usize::try_from(position).map_or(&[][..], |at| &bytes[at..]);
                let count = rest.len().min(BLOCK.saturating_sub(out.len()));
                out.extend_from_slice(&rest[..count]);
                self.cursor_after(position, count, bytes.len() as u64)
            }
            (RequestBody::File { file, length, .. }, _) if position < *length => {
                let left = usize::try_from(*length - position).unwrap_or(BLOCK);
                out.resize(left.min(BLOCK), 0);
                let count = loop {
                    match file.read_at(out, position) {
                        Ok(count @ 1..) => break count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Ok(0) | Err(_) => return Err(RelayError::LostBody),
                    }
                };
                out.truncate(count);
                self.cursor_after(position, count, *length)
            }
            (RequestBody::Stream { length }, Some(upload)) => {
                let chunked = length.is_none();
                match upload
                    .advance(visitor, chunked, out)
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
        Ok(match out.is_empty() {
            true => Rendered::End,
            false => Rendered::Some,
        })
    }

    const fn cursor_after(&self, position: u64, count: usize, length: u64) -> Cursor {
        match position + count as u64 {
            end if end >= length => Cursor::End,
            end => Cursor::At(end),
        }
    }

    /// The backend takes nothing now: it may have responded, or it is waited for.
    fn stuck(
        &mut self,
        request: RelayRequest<'_>,
        visitor: &mut Visitor<'_>,
        tools: &mut Tools<'_>,
        written: usize,
        progress: bool,
    ) -> Result<Sending, RelayError> {
        if self.listen(request, visitor, tools)? {
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

    /// What is broken may have been responded to before.
    const fn broken(&mut self) -> Sending {
        self.is_part = true;
        Sending::Sent
    }

    /// Reads what the backend says while the request is under way. Returns whether it needs no more of that.
    fn listen(
        &mut self,
        request: RelayRequest<'_>,
        visitor: &mut Visitor<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<bool, RelayError> {
        loop {
            match tools.reply.fill_now(self.upstream.as_mut()) {
                Ok(Some(1..)) => {}
                Ok(None) => return Ok(false),
                // The wait for the head sees the same again.
                Ok(Some(0)) | Err(_) => {
                    self.is_part = true;
                    return Ok(true);
                }
            }
            let taken = self.take_head(request.head, request.rules, Some(&mut *visitor), tools)?;
            self.head = taken;
            if self.head.is_some() {
                self.is_part = true;
                return Ok(true);
            }
        }
    }

    /// The request was sent. What the response is waited for, unless there is something to read already.
    pub fn expect_response(&self, rules: &Rules) -> Option<Interests> {
        if self.is_part || self.begun {
            return None;
        }
        Some(Interests::response(self.since + rules.first_byte))
    }

    /// Reads up to the head of the final response, or of the 101 after which there is none.
    ///
    /// # Errors
    /// Why there is no response.
    pub fn await_response(
        &mut self,
        request: &RequestHead,
        rules: &Rules,
        mut visitor: Option<&mut Visitor<'_>>,
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
                    let visitor = visitor.as_deref_mut();
                    self.head = self.take_head(request, rules, visitor, tools)?;
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
                Ok(Some(0)) | Err(_) if self.begun => {
                    return Err(RelayError::BadResponse("the head is cut short"));
                }
                Ok(Some(0)) | Err(_) => return Err(RelayError::ClosedEarly),
            }
        }
    }

    /// Takes heads out of what was read: interim ones are passed on; the final one is returned once all of it is there.
    fn take_head(
        &mut self,
        request: &RequestHead,
        rules: &Rules,
        mut visitor: Option<&mut Visitor<'_>>,
        tools: &mut Tools<'_>,
    ) -> Result<Option<ResponseHead>, RelayError> {
        self.begun = true;
        // What was read may hold several.
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
                return Ok(Some(head));
            }
            // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
            if head.status != 100
                && request.version == Version::Http11
                && let Some(visitor) = visitor.as_deref_mut()
            {
                let mut bytes = Vec::new();
                head.write(Framing::Empty, Persistence::Implied, None, &mut bytes);
                write_interim(visitor.conn, visitor.pending_output, &bytes);
            }
            self.head_since = None;
            // The next head has as much time as the first.
            self.since = Instant::now();
        }
        Ok(None)
    }

    /// Waits for a small body for a moment: many applications write head and body apart, and a response of which nothing
    /// was passed on can still be had from another process. `None`: there is nothing to wait for.
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

/// What there is of the rest of a request.
enum Rendered {
    Some,
    /// The visitor is waited for until then.
    Wait(Instant),
    End,
}

/// Every backend has room for a request of so many bytes: if its machine does not acknowledge them, it has vanished.
const SMALL: usize = 16 << 10;
/// Bytes of a body that are written at once.
const BLOCK: usize = Buffer::SIZE;
/// So many bytes of a request are written before others have their turn.
const TURN: usize = 1 << 20;
/// How long a small body is waited for.
const GATHERING: Duration = Duration::from_secs(1);
