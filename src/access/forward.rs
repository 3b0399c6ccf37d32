//! One exchange: a request of the server, forwarded to the application, and its answer.
//!
//! Runs on the thread of a dialled connection. The request's head is taken apart and written anew, as everywhere; a small
//! body is complete before the application hears of it, a larger one is passed on as it comes. The application's place
//! at the [`gate`](super::gate) is free again when the last byte of its answer was *read*.
//!
//! What the server learns of a failure:
//!
//! | what happened | what the server sees |
//! |---|---|
//! | the application closed before any byte of an answer, or within a small one, or cannot be reached and the request may be repeated | the connection closes: it asks another backend, or says 502 |
//! | it cannot be reached for a request that may not be repeated | it is waited for, [`HELD`] at most; then 502 |
//! | its answer breaks a rule, before the end of its head | 502 |
//! | no answer in time | 504 |
//! | no place in time | 503 |
//! | the answer breaks off | the connection is reset within the answer |
//!
//! **Invariants**: nothing of one exchange can show in another, neither here nor there: a connection is used again only
//! when its last message was read and written to its very end. A request is sent to the application a second time only
//! if its connection was a kept one, nothing of an answer was passed on, and its method is idempotent (RFC 9110 9.2.2).

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gate::{Missed, Place};
use super::{Settings, Shared};
use crate::client::Reply;
use crate::http::body::{Decoder, Framing, LAST_CHUNK, write_chunk};
use crate::http::head::{
    AnswerHeads, HeadLimits, HeadScanner, Method, Persistence, RequestHead, ResponseHead,
};
use crate::net::buffer::Buffer;
use crate::net::conn::{Conn, Written};
use crate::net::listener::{is_shortage, reason};
use crate::net::stream::{Pending, Stream};
use crate::net::tunnel::{Patience, Start};

/// What a dialled connection's thread owns, for one exchange after the other.
#[derive(Debug)]
pub(super) struct Desk {
    /// What was read from the server.
    pub(super) input: Buffer,
    /// What was read from the application.
    reply: Buffer,
    /// What will be written.
    out: Vec<u8>,
}

/// What becomes of the dialled connection after an exchange.
#[derive(Debug)]
pub(super) enum After {
    /// It can be used for the next one.
    Keep,
    Close,
    /// The application has switched to another protocol: the two connections are joined.
    Join(Box<Start<Conn>>),
}

/// A request on its way.
struct Errand<'a> {
    shared: &'a Shared,
    settings: Arc<Settings>,
    desk: &'a mut Desk,
    /// To the server.
    link: &'a mut Conn,
    head: RequestHead,
    /// Of the request's body; what of it is in `desk.input` may not have gone through.
    upload: Decoder,
    /// The length of the body if all of it is in `desk.input`: it can be sent again.
    whole: Option<usize>,
    said: Said,
}

/// What the application has said of an answer so far.
#[derive(Debug, Default)]
struct Said {
    heads: AnswerHeads,
    /// Anything at all.
    begun: bool,
    /// Since when the request waits for the rest of a head.
    since: Option<Instant>,
    /// The head of the answer, if it came before the end of the request.
    answer: Option<ResponseHead>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The application closed its connection without one.
    Died,
    /// It cannot be reached, and the request may not be repeated.
    Away,
    /// What it answered breaks a rule.
    Bad(&'static str),
    /// It did not answer in time.
    TooSlow,
    /// The server left, or did not send all of the request.
    Gone,
}

/// Whether all of the request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    Part,
}

impl Desk {
    pub(super) const fn new() -> Self {
        Self {
            input: Buffer::new(),
            reply: Buffer::new(),
            out: Vec::new(),
        }
    }

    /// Serves the request of which something is in `input`.
    pub(super) fn serve(&mut self, shared: &Shared, link: &mut Conn) -> After {
        let head = match self.read_head(link) {
            Ok(Some(head)) => head,
            Ok(None) => return After::Close,
            Err((status, why)) => {
                log::warn!("a request was refused: {why}");
                self.refuse(link, status, &Method::Get);
                return After::Close;
            }
        };
        let mut errand = Errand {
            shared,
            settings: shared.settings(),
            upload: Decoder::new(head.framing, &LIMITS),
            whole: None,
            said: Said::default(),
            desk: self,
            link,
            head,
        };
        errand.run()
    }

    /// The head, which a server sends at once. `None`: it did not come.
    fn read_head(&mut self, link: &mut Conn) -> Result<Option<RequestHead>, (u16, &'static str)> {
        let mut scanner = HeadScanner::default();
        let mut deadline = None;
        let end = loop {
            let scanned = scanner.scan(self.input.data(), &LIMITS);
            if let Some(end) = scanned.map_err(|refusal| (refusal.status, refusal.why))? {
                break end;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + PROMPT);
            if !more(&mut self.input, link, deadline) {
                return Ok(None);
            }
        };
        let head = RequestHead::parse(&self.input.data()[..end], &LIMITS)
            .map_err(|refusal| (refusal.status, refusal.why))?;
        self.input.consume(end);
        Ok(Some(head))
    }

    /// Answers with a status and its name. Returns whether the server has taken that.
    fn refuse(&mut self, link: &mut Conn, status: u16, method: &Method) -> bool {
        let reply = Reply::text(status, &format!("{}\n", ResponseHead::reason(status)));
        self.out.clear();
        let framing = Framing::Length(reply.body.len() as u64);
        let head = &reply.head;
        head.write(framing, Persistence::Implied, None, &mut self.out);
        let body: &[u8] = match method {
            Method::Head => &[],
            _ => &reply.body,
        };
        link.write_both(&self.out, body, PATIENCE).is_ok()
    }
}

impl Errand<'_> {
    /// The whole exchange.
    fn run(&mut self) -> After {
        if !self.gather() {
            return After::Close;
        }
        let deadline = Instant::now() + self.settings.config.timeouts.first_byte;
        let shared = self.shared;
        let place = match shared.gate.take(deadline, || is_gone(self.link)) {
            Ok(place) => place,
            Err(Missed::Gone) => return After::Close,
            Err(Missed::TimedOut) => return self.tell(503),
        };
        match self.forward(place, deadline) {
            Ok(after) => after,
            Err(Fault::Died | Fault::Gone) => After::Close,
            Err(Fault::TooSlow) => {
                log::warn!("{}: no answer in time", self.settings.config.to);
                self.tell(504)
            }
            Err(Fault::Away) => self.tell(502),
            Err(Fault::Bad(why)) => {
                log::warn!("{}: bad answer: {why}", self.settings.config.to);
                self.tell(502)
            }
        }
    }

    /// Waits for a small body, which is then sent with the head, and can be sent again. `false`: it does not come.
    fn gather(&mut self) -> bool {
        self.whole = match self.head.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) if length <= SMALL as u64 => usize::try_from(length).ok(),
            _ => None,
        };
        let Some(length) = self.whole else {
            return true;
        };
        let patience = self.settings.config.timeouts.backend;
        while self.desk.input.data().len() < length {
            let deadline = Instant::now() + patience;
            if !more(&mut self.desk.input, self.link, deadline) {
                return false;
            }
        }
        true
    }

    /// Sends the request to the application, and its answer to the server.
    fn forward(&mut self, mut place: Place<'_>, deadline: Instant) -> Result<After, Fault> {
        let kept = place.connection();
        // One that has closed, or says something that nobody asked for, is no good.
        let mut kept = kept.filter(|app| app.pending() == Pending::Nothing);
        loop {
            let reused = kept.is_some();
            let mut app = match kept.take() {
                Some(app) => app,
                None => self.connect(deadline)?,
            };
            match self.ask(&mut app, deadline) {
                Ok((answer, Sent::All)) if answer.status == 101 => {
                    return Ok(self.join(&answer, app));
                }
                Ok((answer, _)) if answer.status == 101 => {
                    return Err(Fault::Bad("101 before the end of the request"));
                }
                Ok((answer, sent)) => return self.relay(answer, sent, app, place),
                Err(Fault::Died)
                    if reused && self.whole.is_some() && self.head.method.is_idempotent() => {}
                Err(Fault::Died) => {
                    // If it is the whole application that died, no further request shall be sent here.
                    drop(app);
                    if let Err(error) = connect(&self.settings) {
                        self.shared.down(&error);
                    }
                    return Err(Fault::Died);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// A new connection to the application. If there is none, a request that may be repeated is for the server to repeat;
    /// another one waits until the application is back, since nothing of it was done yet.
    fn connect(&mut self, deadline: Instant) -> Result<Conn, Fault> {
        let deadline = deadline.min(Instant::now() + HELD);
        loop {
            let error = match connect(&self.settings) {
                Ok(app) => return Ok(app),
                Err(error) => error,
            };
            self.shared.down(&error);
            if self.head.method.is_idempotent() {
                return Err(Fault::Died);
            }
            let link = &*self.link;
            if !self.shared.wait_until_up(deadline, || is_gone(link)) {
                return Err(match is_gone(self.link) {
                    true => Fault::Gone,
                    false => Fault::Away,
                });
            }
            // It may have moved meanwhile.
            self.settings = self.shared.settings();
        }
    }

    /// Sends the request and reads up to the head of the final answer.
    fn ask(&mut self, app: &mut Conn, deadline: Instant) -> Result<(ResponseHead, Sent), Fault> {
        self.said = Said::default();
        let Self { desk, head, .. } = self;
        desk.reply.clear();
        desk.out.clear();
        head.write(|_| (), head.framing, |_| true, &mut desk.out);
        let sent = match self.whole {
            Some(length) => {
                let joined = length.min(Buffer::SIZE.saturating_sub(desk.out.len()));
                desk.out.extend_from_slice(&desk.input.data()[..joined]);
                match self.push(app, |desk| &desk.out)? {
                    Sent::All => self.push(app, |desk| &desk.input.data()[joined..length])?,
                    Sent::Part => Sent::Part,
                }
            }
            None => self.send_as_it_comes(app)?,
        };
        let answer = self.read_answer(app, deadline)?;
        self.gather_answer(app, &answer)?;
        if let Some(length) = self.whole.take() {
            // It will not be sent again.
            self.desk.input.consume(length);
            self.upload = Decoder::new(Framing::Empty, &LIMITS);
        }
        Ok((answer, sent))
    }

    /// Passes a body on as it comes, behind the head in `out`.
    fn send_as_it_comes(&mut self, app: &mut Conn) -> Result<Sent, Fault> {
        let chunked = self.head.framing == Framing::Chunked;
        let patience = self.settings.config.timeouts.backend;
        loop {
            let piece = self.upload.next(self.desk.input.data());
            // Nothing is wrong with what a server sends; if something is, it has lost its way.
            let piece = piece.map_err(|_| Fault::Gone)?;
            let data = &self.desk.input.data()[piece.data.clone()];
            match chunked {
                true => write_chunk(data, &mut self.desk.out),
                false => self.desk.out.extend_from_slice(data),
            }
            let nothing = piece.data.is_empty();
            self.desk.input.consume(piece.consumed);
            let done = self.upload.is_done();
            if done && chunked {
                self.desk.out.extend_from_slice(LAST_CHUNK);
            }
            if nothing && piece.consumed > 0 && !done {
                continue;
            }
            let sent = self.push(app, |desk| &desk.out)?;
            self.desk.out.clear();
            if done || sent == Sent::Part {
                return Ok(sent);
            }
            if nothing && self.wait_for_body(app, patience)? && self.hear(app)? {
                return Ok(Sent::Part);
            }
        }
    }

    /// Reads some more of the request's body. Returns whether the application has something to say before that.
    fn wait_for_body(&mut self, app: &Conn, patience: Duration) -> Result<bool, Fault> {
        let deadline = Instant::now() + patience;
        loop {
            match self.desk.input.fill_now(self.link) {
                Ok(Some(1..)) => return Ok(false),
                Ok(None) => {}
                Ok(Some(0)) | Err(_) => return Err(Fault::Gone),
            }
            match self.link.wait_for_bytes(app.as_fd(), deadline) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(_) => return Err(Fault::Gone),
            }
        }
    }

    /// Sends some of the request, listening to the application (RFC 9112 9.5), unless that has answered before.
    fn push(&mut self, app: &mut Conn, bytes: impl Fn(&Desk) -> &[u8]) -> Result<Sent, Fault> {
        let patience = self.settings.config.timeouts.backend;
        let mut sent = 0;
        loop {
            let mut rest = &bytes(self.desk)[sent..];
            let before = rest.len();
            let written = app.write_unless_answered(&mut rest, patience);
            sent += before - rest.len();
            match written {
                Ok(Written::All) => return Ok(Sent::All),
                Ok(Written::Answered) if !self.hear(app)? => {}
                // What is broken may have been answered before.
                Ok(Written::Answered | Written::Broken) => return Ok(Sent::Part),
                Err(_) => return Err(Fault::TooSlow),
            }
        }
    }

    /// Reads what the application says while the request is under way. Returns whether it need not get more of that.
    fn hear(&mut self, app: &mut Conn) -> Result<bool, Fault> {
        loop {
            match self.desk.reply.fill_now(app) {
                Ok(Some(1..)) => {}
                Ok(None) => return Ok(false),
                // Whoever waits for the head sees the same again.
                Ok(Some(0)) | Err(_) => return Ok(true),
            }
            self.said.answer = self.take_head()?;
            if self.said.answer.is_some() {
                return Ok(true);
            }
            // A head in many pieces must not hold the request up for ever.
            let since = self.said.since.take();
            if !self.desk.reply.is_empty() {
                let since = since.unwrap_or_else(Instant::now);
                if since.elapsed() >= self.settings.config.timeouts.backend {
                    return Err(Fault::TooSlow);
                }
                self.said.since = Some(since);
            }
        }
    }

    /// Reads up to the head of the final answer. One that comes in many pieces has no more time than any other.
    fn read_answer(&mut self, app: &mut Conn, deadline: Instant) -> Result<ResponseHead, Fault> {
        let mut answer = self.said.answer.take();
        loop {
            if let Some(head) = answer {
                self.shared.answered();
                return Ok(head);
            }
            if self.said.begun {
                self.look(deadline)?;
            }
            match self.desk.reply.fill(app) {
                Ok(1..) => answer = self.take_head()?,
                Err(error) if error.kind() == ErrorKind::TimedOut => self.look(deadline)?,
                Ok(0) | Err(_) if self.said.begun => {
                    return Err(Fault::Bad("the head is cut short"));
                }
                Ok(0) | Err(_) => return Err(Fault::Died),
            }
        }
    }

    /// Takes heads out of what was read: interim ones are passed on; the final one is returned once all of it is there.
    fn take_head(&mut self) -> Result<Option<ResponseHead>, Fault> {
        self.said.begun = true;
        while !self.desk.reply.is_empty() {
            let next = self
                .said
                .heads
                .next(self.desk.reply.data(), &self.head, &LIMITS);
            let Some((head, length)) = next.map_err(|bad| Fault::Bad(bad.0))? else {
                break;
            };
            self.desk.reply.consume(length);
            if !head.is_interim() {
                return Ok(Some(head));
            }
            if head.status != 100 && !self.interim(&head) {
                return Err(Fault::Gone);
            }
        }
        Ok(None)
    }

    /// Whether it is still worth waiting for the application.
    fn look(&self, deadline: Instant) -> Result<(), Fault> {
        if is_gone(self.link) {
            return Err(Fault::Gone);
        }
        match Instant::now() < deadline {
            true => Ok(()),
            false => Err(Fault::TooSlow),
        }
    }

    /// Waits for a small body, for a moment: many applications write head and body apart, and an answer of which nothing
    /// was passed on can still be had from somebody else.
    fn gather_answer(&mut self, app: &mut Conn, head: &ResponseHead) -> Result<(), Fault> {
        let Framing::Length(length) = head.framing(&self.head.method) else {
            return Ok(());
        };
        let reply = &mut self.desk.reply;
        if length > GATHERED || reply.data().len() as u64 >= length {
            return Ok(());
        }
        let deadline = Instant::now() + MOMENT;
        while (reply.data().len() as u64) < length && Instant::now() < deadline {
            match reply.fill_now(app) {
                Ok(Some(1..)) => {}
                Ok(None) if app.stream().wait_for_input(deadline).is_ok() => {}
                Ok(None) => break,
                Ok(Some(0)) | Err(_) => return Err(Fault::Died),
            }
        }
        Ok(())
    }

    /// Passes an interim answer on. Returns whether the server has taken it.
    fn interim(&mut self, head: &ResponseHead) -> bool {
        // In `out` the request may still be on its way.
        let mut out = Vec::new();
        head.write(Framing::Empty, Persistence::Implied, None, &mut out);
        self.link.write_both(&out, &[], PATIENCE).is_ok()
    }

    /// HTTP is over: what goes each way first, the head of the 101 among it. The exchange is, too, so the place at the
    /// application is free again.
    fn join(&mut self, answer: &ResponseHead, app: Conn) -> After {
        let Desk { input, reply, .. } = &mut *self.desk;
        let mut to_server = Vec::new();
        answer.write(Framing::Empty, Persistence::Upgrade, None, &mut to_server);
        to_server.extend_from_slice(reply.data());
        let to_app = input.data().to_vec();
        input.clear();
        let patience = self.settings.config.timeouts.backend;
        // A visitor may be slow, and the server with it.
        self.link.stream().give_up_after(patience);
        After::Join(Box::new(Start {
            backend: app,
            to_visitor: to_server,
            to_backend: to_app,
            patience: Patience {
                idle: SILENCE,
                write: patience,
                backend: patience,
                visitor: patience,
            },
        }))
    }

    /// Sends the answer to the server while it is read. From here on a failure can only be shown by a reset.
    fn relay(
        &mut self,
        head: ResponseHead,
        sent: Sent,
        app: Conn,
        place: Place<'_>,
    ) -> Result<After, Fault> {
        let framing = head.framing(&self.head.method);
        let told = match framing {
            Framing::UntilClose => Framing::Chunked,
            // A length that only says what GET would bring.
            Framing::Empty if head.status >= 200 && head.status != 204 => {
                head.length.map_or(Framing::Empty, Framing::Length)
            }
            framing => framing,
        };
        self.desk.out.clear();
        head.write(told, Persistence::Implied, None, &mut self.desk.out);
        let reusable = sent == Sent::All
            && head.persistent
            && !head.conflicting
            && framing != Framing::UntilClose;
        let mut download = Download {
            decoder: Decoder::new(framing, &LIMITS),
            app: Some((app, place)),
            reusable,
            ended: false,
        };
        if let Err(why) = self.pump(&mut download, framing, told) {
            if let Some(why) = why {
                log::warn!("{}: the answer is cut: {why}", self.settings.config.to);
            }
            self.link.reset_on_close();
            return Ok(After::Close);
        }
        Ok(self.finish_upload())
    }

    /// Passes the body of an answer on to its end. The error is what the application did wrong; `None`: the server takes no
    /// more.
    fn pump(
        &mut self,
        download: &mut Download<'_>,
        framing: Framing,
        told: Framing,
    ) -> Result<(), Option<&'static str>> {
        let chunked = told == Framing::Chunked;
        loop {
            let Desk { reply, out, .. } = &mut *self.desk;
            let Decoded {
                data,
                consumed,
                wrong,
            } = download.decode(reply.data(), chunked.then_some(&mut *out));
            if download.is_done() {
                // Before the last bytes are written: whoever waits for the place need not wait for the server.
                download.end(reply.data().len() > consumed);
                if chunked {
                    out.extend_from_slice(LAST_CHUNK);
                }
            }
            // With a length all that there is is one piece.
            let body = match chunked {
                true => &[][..],
                false => &reply.data()[data],
            };
            if !(out.is_empty() && body.is_empty()) {
                self.link
                    .write_both(out, body, PATIENCE)
                    .map_err(|_| None)?;
            }
            out.clear();
            reply.consume(consumed);
            // What was right went first: without it the server would think that there was no answer.
            if wrong.is_some() {
                return Err(wrong);
            }
            if download.is_done() {
                return Ok(());
            }
            self.more_of_the_answer(download, framing)?;
        }
    }

    /// Reads some more of the answer. Errors as for [`Errand::pump`].
    fn more_of_the_answer(
        &mut self,
        download: &mut Download<'_>,
        framing: Framing,
    ) -> Result<(), Option<&'static str>> {
        let Some((app, _)) = &mut download.app else {
            return Ok(());
        };
        let mut deadline = None;
        loop {
            match self.desk.reply.fill(app) {
                Ok(1..) => return Ok(()),
                Ok(0) if framing == Framing::UntilClose => {
                    download.ended = true;
                    return Ok(());
                }
                Ok(0) => return Err(Some("it ends before its end")),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    if is_gone(self.link) {
                        return Err(None);
                    }
                    let patience = self.settings.config.timeouts.backend;
                    let now = Instant::now();
                    if *deadline.get_or_insert(now + patience) <= now {
                        return Err(Some("it made no progress"));
                    }
                }
                Err(_) => return Err(Some("its connection broke")),
            }
        }
    }

    /// Answers by ourselves.
    fn tell(&mut self, status: u16) -> After {
        if let Some(length) = self.whole.take() {
            self.desk.input.consume(length);
            self.upload = Decoder::new(Framing::Empty, &LIMITS);
        }
        match self.desk.refuse(self.link, status, &self.head.method) {
            true => self.finish_upload(),
            false => After::Close,
        }
    }

    /// Reads what is left of the request's body, if that is little: the answer is not lost then, as it would be if the
    /// connection were closed with something unread.
    fn finish_upload(&mut self) -> After {
        let deadline = Instant::now() + MOMENT;
        let mut left = MOST_DISCARDED;
        while !self.upload.is_done() {
            let Ok(piece) = self.upload.next(self.desk.input.data()) else {
                return After::Close;
            };
            self.desk.input.consume(piece.consumed);
            left = left.saturating_sub(piece.consumed);
            if piece.consumed == 0
                && (left == 0 || !more(&mut self.desk.input, self.link, deadline))
            {
                return After::Close;
            }
        }
        After::Keep
    }
}

/// An answer that comes.
struct Download<'g> {
    decoder: Decoder,
    /// `None` when the end was read.
    app: Option<(Conn, Place<'g>)>,
    /// Whether the connection can be used again.
    reusable: bool,
    /// The application closed, which is the end where there is no other.
    ended: bool,
}

/// What was made of some of it.
struct Decoded {
    /// The last piece of the body; with a length there is no other.
    data: Range<usize>,
    consumed: usize,
    /// What the application did wrong behind that.
    wrong: Option<&'static str>,
}

impl Download<'_> {
    const fn is_done(&self) -> bool {
        self.decoder.is_done() || self.ended
    }

    /// Takes what was read apart; chunks go to `chunks`, anew.
    fn decode(&mut self, reply: &[u8], mut chunks: Option<&mut Vec<u8>>) -> Decoded {
        let mut decoded = Decoded {
            data: 0..0,
            consumed: 0,
            wrong: None,
        };
        while !self.is_done() && decoded.consumed < reply.len() {
            let start = decoded.consumed;
            let piece = match self.decoder.next(&reply[start..]) {
                Ok(piece) if piece.consumed > 0 => piece,
                Ok(_) => break,
                Err(bad) => {
                    decoded.wrong = Some(bad.0);
                    break;
                }
            };
            decoded.data = start + piece.data.start..start + piece.data.end;
            decoded.consumed += piece.consumed;
            if let Some(chunks) = &mut chunks {
                write_chunk(&reply[decoded.data.clone()], chunks);
            }
        }
        decoded
    }

    /// The last byte was read; `more`: and something behind it.
    fn end(&mut self, more: bool) {
        if let Some((app, place)) = self.app.take()
            && self.reusable
            && !more
        {
            place.keep(app);
        }
    }
}

/// Connects to the application.
pub(super) fn connect(settings: &Settings) -> io::Result<Conn> {
    let config = &settings.config;
    let stream = Stream::connect(&config.to, config.timeouts.connect)?;
    stream.send_at_once();
    let mut app = Conn::plain(stream);
    // Reads look up now and then whether the server is still there.
    app.set_read_timeout(LOOK)?;
    Ok(app)
}

/// What the application did wrong when it cannot be connected to; `None`: it is we who ran out of something.
pub(super) fn fault(error: &io::Error) -> Option<String> {
    (!is_shortage(error)).then(|| reason(error))
}

/// Reads some more, if it comes in time.
fn more(input: &mut Buffer, link: &mut Conn, deadline: Instant) -> bool {
    loop {
        match input.fill_now(link) {
            Ok(Some(count)) => return count > 0,
            Ok(None) => {}
            Err(_) => return false,
        }
        if link.stream().wait_for_input(deadline).is_err() {
            return false;
        }
    }
}

/// Whether the server has closed the connection, whatever it sent before. It never closes one side only.
fn is_gone(link: &Conn) -> bool {
    link.stream().is_ended()
}

/// More than any server lets through: it has its own limits, and adds fields.
const LIMITS: HeadLimits = HeadLimits {
    head: 2 << 20,
    fields: 256,
    target: 1 << 20,
};
/// How long nothing may go through an upgraded connection: the server knows better, and whether it is still there is seen
/// to by the system.
const SILENCE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A body of so many bytes is complete before the application hears of it.
const SMALL: usize = 64 * 1024;
/// The body of an answer of so many bytes is waited for before anything is passed on.
const GATHERED: u64 = Buffer::SIZE as u64;
/// How long a head may take that was begun.
const PROMPT: Duration = Duration::from_secs(10);
/// How long the server may take nothing of an answer. The system's patience with it is the same; see [`Greeting::send`].
///
/// [`Greeting::send`]: crate::client::Greeting::send
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a request that may not be repeated waits for the application to come back.
const HELD: Duration = Duration::from_secs(10);
/// How long a small body of an answer is waited for, and the rest of a request's body that nobody wants.
const MOMENT: Duration = Duration::from_secs(1);
/// How much of it is read.
const MOST_DISCARDED: usize = 1 << 20;
/// How often somebody who waits for the application looks whether the server is still there.
const LOOK: Duration = Duration::from_secs(1);
