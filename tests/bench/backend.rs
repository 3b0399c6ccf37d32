//! The backend of the benchmark: one thread, one epoll set, answers that are ready.
//!
//! `bench-backend listen PORT` is an ordinary HTTP/1.1 server on 127.0.0.1; `bench-backend dial PORT COUNT` dials in at
//! that port with so many connections, and dials again what is closed. `GET /N` is answered with N bytes, `/1k` and
//! `/1m` with what they say, whatever follows behind another slash.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let numbers: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    match (words.first(), &*numbers) {
        (Some(&"listen"), [port]) => Backend::new(Source::Listen(listen(*port))).run(),
        (Some(&"dial"), [port, count]) => Backend::new(Source::Dial(*port, *count)).run(),
        _ => {
            eprintln!("usage: bench-backend listen PORT | dial PORT COUNT");
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
    connections: HashMap<u64, Connection>,
    answers: HashMap<usize, Vec<u8>>,
    next: u64,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of requests that are not complete.
    input: Vec<u8>,
    /// Bytes of a request's body that are to be skipped.
    skip: usize,
    /// Sizes of the answers that are to be written, and how much of the first was.
    output: Vec<usize>,
    written: usize,
}

impl Backend {
    fn new(source: Source) -> Self {
        Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set"),
            source,
            connections: HashMap::new(),
            answers: HashMap::new(),
            next: 1,
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
            let patience = EpollTimeout::from(100_u8);
            let count = self.epoll.wait(&mut events, patience).unwrap_or(0);
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    number => self.serve(number, &mut buffer),
                }
            }
            self.dial();
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
                output: Vec::new(),
                written: 0,
            },
        );
    }

    fn serve(&mut self, number: u64, buffer: &mut [u8]) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let was_waiting = !connection.output.is_empty();
        let alive = connection.read(buffer) && connection.write(&mut self.answers);
        if !alive {
            self.connections.remove(&number);
            return;
        }
        let waits = !connection.output.is_empty();
        if waits != was_waiting {
            let flags = match waits {
                true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
                false => EpollFlags::EPOLLIN,
            };
            let mut event = EpollEvent::new(flags, number);
            let _ = self.epoll.modify(connection.stream.as_fd(), &mut event);
        }
    }
}

impl Connection {
    /// Reads once; the set tells if there is more. `false`: the connection is over.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
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
            let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or("/");
            let size = path.trim_start_matches('/').split('/').next();
            self.output.push(match size.unwrap_or_default() {
                "1k" => 1024,
                "1m" => 1024 * 1024,
                number => number.parse().unwrap_or(0),
            });
            let lengths = head.lines().filter_map(|line| line.split_once(": "));
            let length = lengths
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .find_map(|(_, value)| value.parse().ok());
            self.skip = length.unwrap_or(0);
            self.input.drain(..end + 4);
        }
    }

    fn write(&mut self, answers: &mut HashMap<usize, Vec<u8>>) -> bool {
        while let Some(size) = self.output.first() {
            let answer = answers.entry(*size).or_insert_with(|| answer(*size));
            match self.stream.write(&answer[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
            if self.written == answer.len() {
                self.written = 0;
                self.output.remove(0);
            }
        }
        true
    }
}

fn listen(port: usize) -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", port as u16)).expect("the port");
    listener
        .set_nonblocking(true)
        .expect("a listener that does not block");
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
