//! The backend of the benchmark: one thread, one epoll set.
//!
//! `bench-backend listen PORT` is an ordinary HTTP/1.1 server on all addresses; `bench-backend dial PORT COUNT` dials in at
//! that port with COUNT connections and dials again when one is closed. With `single` in front it is a single-threaded
//! application: while it works on a request, it does nothing else. It prints `ready` when it can take requests.
//!
//! | path | response |
//! |---|---|
//! | `/N` | N bytes |
//! | `/1k`, `/1m` | 1 KiB, 1 MiB |
//! | `/sleep/MS` | 1 KiB after MS milliseconds |
//! | `/events` | an event stream: `data: 0` at once, then the next number every second |
//!
//! Further segments of a path are ignored.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{self, Backlog};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let single = words.first() == Some(&"single");
    if single {
        words.remove(0);
    }
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    match (words.first(), &*numbers) {
        (Some(&"listen"), [port]) => Backend::new(Source::Listen(listen(*port)), single).run(),
        (Some(&"dial"), [port, count]) => Backend::new(Source::Dial(*port, *count), single).run(),
        _ => {
            eprintln!("usage: bench-backend [single] listen PORT | [single] dial PORT COUNT");
            ExitCode::from(2)
        }
    }
}

/// Where connections come from.
enum Source {
    Listen(TcpListener),
    Dial(usize, usize),
}

struct Backend {
    epoll: Epoll,
    source: Source,
    /// Sleep in place instead of setting a timer.
    single: bool,
    connections: HashMap<u64, Connection>,
    answers: HashMap<usize, Vec<u8>>,
    /// Connections with something to write at that time.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    next: u64,
    /// No dialling before this time: connections that are refused must not be dialled in a tight loop.
    pause: Instant,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of requests that are not complete.
    input: Vec<u8>,
    /// Bytes of a request's body that are to be skipped.
    skip: usize,
    /// What is to be written, in order, and how much of the first piece was.
    output: VecDeque<Piece>,
    written: usize,
    /// Whether the set reports room to write.
    armed: bool,
    /// Whether a request has come.
    used: bool,
    /// The number of the next event and its time, in an event stream.
    events: Option<(u64, Instant)>,
}

enum Piece {
    /// A response of so many bytes, which is kept.
    Answer(usize),
    /// A response of 1 KiB that takes so long; the time at which it is due.
    Sleep(Duration, Instant),
    Bytes(Vec<u8>),
}

impl Backend {
    fn new(source: Source, single: bool) -> Self {
        Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set"),
            source,
            single,
            connections: HashMap::new(),
            answers: HashMap::new(),
            timers: BinaryHeap::new(),
            next: 1,
            pause: Instant::now(),
        }
    }

    fn run(mut self) -> ExitCode {
        if let Source::Listen(listener) = &self.source {
            self.epoll
                .add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))
                .expect("a listener in the set");
        }
        self.dial();
        println!("ready");
        let mut events = [EpollEvent::empty(); 256];
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = self.epoll.wait(&mut events, self.patience()).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    number => self.serve(number, Some(&mut buffer)),
                }
            }
            self.expire();
            self.dial();
        }
    }

    /// How long to wait for events: until the next timer, 100 ms at most.
    fn patience(&self) -> EpollTimeout {
        let Some(Reverse((time, _))) = self.timers.peek() else {
            return EpollTimeout::from(100_u8);
        };
        let wait = time.saturating_duration_since(Instant::now());
        EpollTimeout::from(wait.as_micros().div_ceil(1000).min(100) as u8)
    }

    fn expire(&mut self) {
        while let Some(Reverse((time, number))) = self.timers.peek().copied() {
            let now = Instant::now();
            if time > now {
                return;
            }
            self.timers.pop();
            let Some(connection) = self.connections.get_mut(&number) else {
                continue;
            };
            if let Some((event, at)) = connection.events.filter(|(_, at)| *at <= now) {
                let data = format!("data: {event}\n\n");
                let chunk = format!("{:x}\r\n{data}\r\n", data.len());
                connection
                    .output
                    .push_back(Piece::Bytes(chunk.into_bytes()));
                let following = at + Duration::from_secs(1);
                connection.events = Some((event + 1, following));
                self.timers.push(Reverse((following, number)));
            }
            self.serve(number, None);
        }
    }

    fn accept(&mut self) {
        let Source::Listen(listener) = &self.source else {
            return;
        };
        let mut accepted = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            accepted.push(stream);
        }
        accepted.into_iter().for_each(|stream| self.enter(stream));
    }

    /// Dials as many connections as are missing.
    fn dial(&mut self) {
        let Source::Dial(port, count) = self.source else {
            return;
        };
        if self.connections.len() >= count || Instant::now() < self.pause {
            return;
        }
        while self.connections.len() < count {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port as u16)) else {
                thread::sleep(Duration::from_millis(50));
                return;
            };
            if stream.write_all(b"swiftclient7f000001ffff00").is_ok() {
                self.enter(stream);
            }
        }
    }

    fn enter(&mut self, stream: TcpStream) {
        stream
            .set_nonblocking(true)
            .expect("a socket that does not block");
        stream
            .set_nodelay(true)
            .expect("a socket that does not delay");
        let number = self.next;
        self.next += 1;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        self.epoll
            .add(&stream, event)
            .expect("a connection in the set");
        self.connections.insert(
            number,
            Connection {
                stream,
                input: Vec::new(),
                skip: 0,
                output: VecDeque::new(),
                written: 0,
                armed: false,
                used: false,
                events: None,
            },
        );
    }

    /// Reads, if there is a buffer to read into, and writes what is due.
    fn serve(&mut self, number: u64, buffer: Option<&mut Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let mut timer = None;
        let alive = buffer.is_none_or(|buffer| connection.read(buffer, &mut timer));
        let full = match alive {
            true => connection.write(&mut self.answers, self.single),
            false => None,
        };
        let Some(full) = full else {
            if !connection.used {
                self.pause = Instant::now() + Duration::from_millis(50);
            }
            self.connections.remove(&number);
            return;
        };
        if let Some(time) = timer
            && (connection.events.is_some() || !connection.output.is_empty())
        {
            self.timers.push(Reverse((time, number)));
        }
        if full != connection.armed {
            let flags = match full {
                true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
                false => EpollFlags::EPOLLIN,
            };
            connection.armed = full;
            let mut event = EpollEvent::new(flags, number);
            let _ = self.epoll.modify(connection.stream.as_fd(), &mut event);
        }
    }
}

impl Connection {
    /// Reads once; the set tells if there is more. `false`: the connection is over.
    fn read(&mut self, buffer: &mut [u8], timer: &mut Option<Instant>) -> bool {
        match self.stream.read(buffer) {
            Ok(0) => return false,
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
        loop {
            let skipped = self.skip.min(self.input.len());
            self.input.drain(..skipped);
            self.skip -= skipped;
            let end = self
                .input
                .windows(4)
                .position(|window| window == b"\r\n\r\n");
            let Some(end) = end.filter(|_| self.skip == 0) else {
                return true;
            };
            self.used = true;
            let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("/");
            let piece = self.piece(path, timer);
            self.output.push_back(piece);
            let lengths = head.lines().filter_map(|line| line.split_once(": "));
            let length = lengths
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .find_map(|(_, value)| value.parse().ok());
            self.skip = length.unwrap_or(0);
            self.input.drain(..end + 4);
        }
    }

    fn piece(&mut self, path: &str, timer: &mut Option<Instant>) -> Piece {
        let mut segments = path.trim_start_matches('/').split('/');
        match segments.next().unwrap_or_default() {
            "1k" => Piece::Answer(1024),
            "1m" => Piece::Answer(1024 * 1024),
            "sleep" => {
                let millis = segments.next().and_then(|word| word.parse().ok());
                let pause = Duration::from_millis(millis.unwrap_or(0));
                let due = Instant::now() + pause;
                *timer = Some(due);
                Piece::Sleep(pause, due)
            }
            "events" => {
                let due = Instant::now() + Duration::from_secs(1);
                *timer = Some(due);
                self.events = Some((1, due));
                Piece::Bytes(EVENTS.to_vec())
            }
            number => Piece::Answer(number.parse().unwrap_or(0)),
        }
    }

    /// Writes what is due. `Some(true)`: there was no room for all of it; `None`: the connection is over.
    fn write(&mut self, answers: &mut HashMap<usize, Vec<u8>>, single: bool) -> Option<bool> {
        while let Some(piece) = self.output.front() {
            let size = match piece {
                Piece::Answer(size) => *size,
                Piece::Bytes(_) => 0,
                Piece::Sleep(pause, _) if single => {
                    if self.written == 0 {
                        thread::sleep(*pause);
                    }
                    1024
                }
                Piece::Sleep(_, due) if Instant::now() < *due => return Some(false),
                Piece::Sleep(..) => 1024,
            };
            let bytes = match piece {
                Piece::Bytes(bytes) => bytes,
                _ => answers.entry(size).or_insert_with(|| answer(size)),
            };
            match self.stream.write(&bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(true),
                Err(_) => return None,
            }
            if self.written == bytes.len() {
                self.written = 0;
                self.output.pop_front();
            }
        }
        Some(false)
    }
}

fn listen(port: usize) -> TcpListener {
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).expect("the port");
    listener
        .set_nonblocking(true)
        .expect("a listener that does not block");
    // The standard library's backlog of 128 is too small for proxies that connect hundreds of times at once.
    let backlog = Backlog::new(4096).expect("a backlog");
    socket::listen(&listener, backlog).expect("a longer backlog");
    listener
}

fn answer(size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\
         Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
    );
    [head.as_bytes(), &vec![b'x'; size]].concat()
}

const LISTENER: u64 = 0;

/// nginx would hold events back without the last field.
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
    Transfer-Encoding: chunked\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Accel-Buffering: no\r\n\r\n\
    9\r\ndata: 0\n\n\r\n";
