//! The load of those rows of the benchmark that wrk cannot make.
//!
//! `bench-load ask SCHEME PORT VISITORS SECONDS PATH...`: each client sends the next request when it has the response to
//! the one before, for one of the paths, drawn at random: the same sequence for every proxy.
//!
//! `bench-load streams SCHEME PORT STREAMS SECONDS PATH`: opens so many event streams (`/events`). Meanwhile 16 clients send
//! ordinary requests for the path, with a pause of 20 ms after each response; half of them to the site of the streams,
//! the others to another one.
//!
//! `bench-load order SCHEME PORT VISITORS PATH`: so many clients connect, then all of them send one request each, one
//! right after the other.
//!
//! SCHEME is http or https. Prints `begin` and `end`, between which CPU and memory are to be measured, and then the result
//! as JSON; keeps its connections until standard input ends.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};

const SITE: &str = "bench.test";
const OTHER_SITE: &str = "other.test";
/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The first part of a run makes connections and fills caches.
const WARM_UP: Duration = Duration::from_secs(1);
/// Streams that are opened at the same time.
const OPENING: usize = 200;
/// How long opening all streams may take.
const MOST_OPENING: Duration = Duration::from_secs(60);
/// An event that comes so late is an error.
const LATE: Duration = Duration::from_secs(2);
/// Ordinary clients beside the streams, and how long they pause.
const ORDINARY: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |word: &&str| word.parse::<usize>().ok();
    let result = match &*words {
        ["ask", scheme, port, visitors, seconds, paths @ ..] if !paths.is_empty() => {
            Target::new(scheme, port)
                .zip(number(visitors).zip(number(seconds)))
                .map(|(target, (visitors, seconds))| ask(&target, visitors, seconds, paths))
        }
        ["streams", scheme, port, count, seconds, path] => Target::new(scheme, port)
            .zip(number(count).zip(number(seconds)))
            .map(|(target, (count, seconds))| streams(&target, count, seconds, path)),
        ["order", scheme, port, visitors, path] => Target::new(scheme, port)
            .zip(number(visitors))
            .map(|(target, visitors)| order(&target, visitors, path)),
        _ => None,
    };
    let Some(result) = result else {
        eprintln!(
            "usage: bench-load ask SCHEME PORT VISITORS SECONDS PATH... | streams SCHEME PORT STREAMS SECONDS PATH | \
             order SCHEME PORT VISITORS PATH"
        );
        return ExitCode::from(2);
    };
    println!("{result}");
    // What still waits for a response would wait for long.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0)
}

// Clients that send one request after the other

fn ask(target: &Target, visitors: usize, seconds: usize, paths: &[&str]) -> Value {
    let phase = Arc::new(AtomicU8::new(WARMING));
    let threads: Vec<_> = (0..visitors)
        .map(|number| visit(target.clone(), SITE, number, paths, Duration::ZERO, &phase))
        .collect();
    thread::sleep(WARM_UP);
    let span = Span::begin(&phase);
    thread::sleep(Duration::from_secs(seconds as u64));
    let (elapsed, load) = span.end(&phase);
    let (times, errors) = gather(threads);
    json!({
        "rate": times.len() as f64 / elapsed,
        "p50": percentile(&times, 0.5),
        "p99": percentile(&times, 0.99),
        "load": load,
        "errors": errors.values().sum::<usize>(),
        "remarks": reasons(&errors),
    })
}

type Times = Vec<Duration>;
type Errors = HashMap<String, usize>;

/// One client in a thread of its own. Counts what ends while the phase is `MEASURING`.
fn visit(
    target: Target,
    host: &str,
    number: usize,
    paths: &[&str],
    pause: Duration,
    phase: &Arc<AtomicU8>,
) -> JoinHandle<(Times, Errors)> {
    let requests: Vec<Vec<u8>> = paths.iter().map(|path| request(host, path)).collect();
    let phase = Arc::clone(phase);
    let mut visitor = Visitor { target, link: None };
    // xorshift
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(number as u64 + 1);
    thread::spawn(move || {
        let (mut times, mut errors) = (Times::new(), Errors::new());
        while phase.load(Ordering::Relaxed) != OVER {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let begun = Instant::now();
            let response = visitor.ask(&requests[(random >> 32) as usize % requests.len()]);
            let measuring = phase.load(Ordering::Relaxed) == MEASURING;
            match response {
                Ok(200) if measuring => times.push(begun.elapsed()),
                Ok(200) => {}
                Ok(status) if measuring => *errors.entry(status.to_string()).or_default() += 1,
                Ok(_) => {}
                Err(error) => {
                    visitor.link = None;
                    if measuring {
                        *errors.entry(error.kind().to_string()).or_default() += 1;
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        (times, errors)
    })
}

/// All times in order, and all errors.
fn gather(threads: Vec<JoinHandle<(Times, Errors)>>) -> (Times, Errors) {
    let (mut times, mut errors) = (Times::new(), Errors::new());
    for thread in threads {
        let (more, failed) = thread.join().expect("a visitor");
        times.extend(more);
        for (reason, count) in failed {
            *errors.entry(reason).or_default() += count;
        }
    }
    times.sort_unstable();
    (times, errors)
}

struct Visitor {
    target: Target,
    link: Option<Link>,
}

impl Visitor {
    /// Sends a request and reads the response; its status.
    fn ask(&mut self, request: &[u8]) -> io::Result<u16> {
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(self.target.connect()?),
        };
        link.output.extend_from_slice(request);
        let mut input = Vec::new();
        let head = loop {
            link.flush()?;
            let open = link.read(&mut input)?;
            if let Some(head) = Head::of(&input) {
                break head;
            }
            if !open {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        while input.len() < head.length + head.body {
            if !link.read(&mut input)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        if head.close {
            self.link = None;
        }
        Ok(head.status)
    }
}

// Event streams

/// One event stream.
struct Stream {
    link: Link,
    input: Vec<u8>,
    /// Whether the head of a good response has come.
    open: bool,
    /// The number of the next event.
    next: u64,
    last: Instant,
    /// The longest time between two events.
    gap: Duration,
}

/// All of them, in one epoll set; `None` for one that has failed.
struct Streams {
    epoll: Epoll,
    all: Vec<Option<Stream>>,
    opening: usize,
    events: u64,
    errors: Errors,
}

fn streams(target: &Target, count: usize, seconds: usize, path: &str) -> Value {
    let mut streams = Streams {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set"),
        all: Vec::with_capacity(count),
        opening: 0,
        events: 0,
        errors: Errors::new(),
    };
    let begun = Instant::now();
    while (streams.all.len() < count || streams.opening > 0) && begun.elapsed() < MOST_OPENING {
        if streams.all.len() < count && streams.opening < OPENING {
            streams.open(target);
        } else {
            streams.turn();
        }
    }
    let opened = begun.elapsed().as_secs_f64();
    // What came while others were being opened is not measured.
    streams.events = 0;
    for stream in streams.all.iter_mut().flatten() {
        stream.gap = Duration::ZERO;
    }
    let phase = Arc::new(AtomicU8::new(WARMING));
    let threads: Vec<_> = (0..ORDINARY)
        .map(|number| {
            let host = [SITE, OTHER_SITE][number % 2];
            visit(target.clone(), host, number, &[path], PAUSE, &phase)
        })
        .collect();
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        streams.turn();
    }
    let (span, end) = (
        Span::begin(&phase),
        Instant::now() + Duration::from_secs(seconds as u64),
    );
    while Instant::now() < end {
        streams.turn();
    }
    let (elapsed, load) = span.end(&phase);
    let now = Instant::now();
    let mut sites = [Vec::new(), Vec::new()];
    for (number, thread) in threads.into_iter().enumerate() {
        sites[number % 2].push(thread);
    }
    let [(mut times, mut errors), (others, failed)] = sites.map(gather);
    let p99 = |times: &Times| match times.len() {
        0 => "no response".to_owned(),
        _ => format!("{:.2} ms", percentile(times, 0.99)),
    };
    let (at_site, elsewhere) = (p99(&times), p99(&others));
    times.extend(others);
    times.sort_unstable();
    for (reason, count) in failed {
        *errors.entry(format!("other site: {reason}")).or_default() += count;
    }
    let ordinary = errors.values().sum::<usize>();
    let mut gap = Duration::ZERO;
    let mut served = 0;
    for stream in streams.all.iter().flatten() {
        let longest = stream.gap.max(now - stream.last);
        gap = gap.max(longest);
        let kind = match (stream.open, longest < LATE) {
            (true, true) => {
                served += 1;
                continue;
            }
            (true, false) => "stream with a late event",
            (false, _) => "stream not opened in time",
        };
        *errors.entry(kind.into()).or_default() += 1;
    }
    for (reason, count) in streams.errors {
        *errors.entry(format!("stream: {reason}")).or_default() += count;
    }
    // Those that the time for opening did not suffice for.
    let failed = count - served;
    json!({
        "rate": times.len() as f64 / elapsed,
        "p50": percentile(&times, 0.5),
        "p99": percentile(&times, 0.99),
        "load": load,
        "errors": ordinary + failed,
        "remarks": format!(
            "{served} of {count} streams got every event, {} events, longest time between two {:.2} s, opened in \
             {opened:.1} s; p99 at their site {at_site}, at the other {elsewhere}{}{}",
            streams.events,
            gap.as_secs_f64(),
            if errors.is_empty() { "" } else { "; " },
            reasons(&errors),
        ),
    })
}

impl Streams {
    fn open(&mut self, target: &Target) {
        let number = self.all.len();
        let link = target.connect().and_then(|mut link| {
            link.socket.set_nonblocking(true)?;
            self.epoll.add(
                &link.socket,
                EpollEvent::new(EpollFlags::EPOLLIN, number as u64),
            )?;
            link.output.extend_from_slice(&request(SITE, "/events"));
            link.flush()?;
            Ok(link)
        });
        match link {
            Ok(link) => {
                self.opening += 1;
                let now = Instant::now();
                self.all.push(Some(Stream {
                    link,
                    input: Vec::new(),
                    open: false,
                    next: 0,
                    last: now,
                    gap: Duration::ZERO,
                }));
            }
            Err(error) => {
                self.all.push(None);
                *self.errors.entry(error.kind().to_string()).or_default() += 1;
            }
        }
    }

    /// Waits for a moment and takes what has come.
    fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); 256];
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::from(10_u8))
            .unwrap_or(0);
        for event in &events[..count] {
            let place = &mut self.all[event.data() as usize];
            let Some(stream) = place else {
                continue;
            };
            let was_open = stream.open;
            let result = stream.take(&mut self.events);
            if !was_open && (stream.open || result.is_err()) {
                self.opening -= 1;
            }
            if let Err(reason) = result {
                *self.errors.entry(reason).or_default() += 1;
                *place = None;
            }
        }
    }
}

impl Stream {
    /// Reads what has come and counts its events; otherwise the reason for which the stream is over.
    fn take(&mut self, events: &mut u64) -> Result<(), String> {
        let kind = |error: io::Error| error.kind().to_string();
        let open = match self.link.read(&mut self.input) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            other => other.map_err(kind)?,
        };
        self.link.flush().map_err(kind)?;
        if !self.open
            && let Some(head) = Head::of(&self.input)
        {
            if head.status != 200 {
                return Err(head.status.to_string());
            }
            self.input.drain(..head.length);
            self.open = true;
            self.last = Instant::now();
        }
        while let Some(at) = find(&self.input, b"data: ").filter(|_| self.open) {
            let Some(length) = find(&self.input[at..], b"\n") else {
                break;
            };
            let text = String::from_utf8_lossy(&self.input[at + 6..at + length]).into_owned();
            if text != self.next.to_string() {
                return Err(format!("event {text} in place of {}", self.next));
            }
            self.input.drain(..at + length);
            self.next += 1;
            *events += 1;
            self.gap = self.gap.max(self.last.elapsed());
            self.last = Instant::now();
        }
        if open { Ok(()) } else { Err("closed".into()) }
    }
}

// Many clients at once and their order

fn order(target: &Target, visitors: usize, path: &str) -> Value {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll set");
    let mut errors = Errors::new();
    let mut links: Vec<Option<(Link, Vec<u8>)>> = Vec::with_capacity(visitors);
    for number in 0..visitors {
        let link = target.connect().and_then(|link| {
            link.socket.set_nonblocking(true)?;
            epoll.add(
                &link.socket,
                EpollEvent::new(EpollFlags::EPOLLIN, number as u64),
            )?;
            Ok((link, Vec::new()))
        });
        match link {
            Ok(link) => links.push(Some(link)),
            Err(error) => {
                links.push(None);
                *errors.entry(error.kind().to_string()).or_default() += 1;
            }
        }
    }
    let phase = AtomicU8::new(WARMING);
    let span = Span::begin(&phase);
    let mut sent = Vec::with_capacity(visitors);
    let request = request(SITE, path);
    for place in &mut links {
        sent.push(Instant::now());
        if let Some((link, _)) = place {
            link.output.extend_from_slice(&request);
            if let Err(error) = link.flush() {
                *errors.entry(error.kind().to_string()).or_default() += 1;
                *place = None;
            }
        }
    }
    let sending = sent[0].elapsed().as_secs_f64();
    let mut missing = links.iter().flatten().count();
    // The clients in the order in which they were served.
    let (mut served, mut times) = (Vec::new(), Times::new());
    let mut events = [EpollEvent::empty(); 256];
    let deadline = Instant::now() + PATIENCE;
    while missing > 0 && Instant::now() < deadline {
        let count = epoll
            .wait(&mut events, EpollTimeout::from(100_u8))
            .unwrap_or(0);
        for event in &events[..count] {
            let number = event.data() as usize;
            let Some((link, input)) = &mut links[number] else {
                continue;
            };
            let result = match link.read(input) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
                result => result.map_err(|error| error.kind().to_string()),
            };
            let complete = Head::of(input).filter(|head| input.len() >= head.length + head.body);
            let fault = match (complete, result) {
                (Some(head), _) if head.status == 200 => {
                    served.push(number);
                    times.push(sent[number].elapsed());
                    None
                }
                (Some(head), _) => Some(head.status.to_string()),
                (None, Ok(true)) => continue,
                (None, Ok(false)) => Some("closed".into()),
                (None, Err(reason)) => Some(reason),
            };
            if let Some(reason) = fault {
                *errors.entry(reason).or_default() += 1;
            }
            missing -= 1;
            // The connection is closed; the others are still there.
            links[number] = None;
        }
    }
    let (elapsed, load) = span.end(&phase);
    if missing > 0 {
        errors.insert("no response in time".into(), missing);
    }
    let mut sorted = served.clone();
    sorted.sort_unstable();
    let rank: HashMap<usize, usize> = sorted
        .iter()
        .enumerate()
        .map(|(rank, number)| (*number, rank))
        .collect();
    let shifts = served
        .iter()
        .enumerate()
        .map(|(place, number)| place.abs_diff(rank[number]));
    let most = shifts.max().unwrap_or(0);
    times.sort_unstable();
    json!({
        "rate": served.len() as f64 / elapsed,
        "p50": percentile(&times, 0.5),
        "p99": percentile(&times, 0.99),
        "load": load,
        "errors": errors.values().sum::<usize>(),
        "remarks": format!(
            "{} of {visitors} served, requests sent within {sending:.2} s, no response more than {most} places from its turn{}{}",
            served.len(),
            if errors.is_empty() { "" } else { "; " },
            reasons(&errors),
        ),
    })
}

// What is measured

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// The time that is measured.
struct Span {
    begun: Instant,
    used: f64,
}

impl Span {
    fn begin(phase: &AtomicU8) -> Self {
        println!("begin");
        phase.store(MEASURING, Ordering::Relaxed);
        Self {
            begun: Instant::now(),
            used: used(),
        }
    }

    /// Seconds, and which part of a core the load took.
    fn end(self, phase: &AtomicU8) -> (f64, f64) {
        phase.store(OVER, Ordering::Relaxed);
        let elapsed = self.begun.elapsed().as_secs_f64();
        let load = (used() - self.used) / elapsed;
        println!("end");
        (elapsed, load)
    }
}

/// Seconds of CPU time.
fn used() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the usage");
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 * 1e-6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Milliseconds, of times in order.
fn percentile(times: &[Duration], part: f64) -> f64 {
    let place = (times.len() as f64 * part) as usize;
    let time = times.get(place.min(times.len().saturating_sub(1)));
    time.map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

/// For example `503: 172000, connection refused: 2`.
fn reasons(errors: &Errors) -> String {
    let mut all: Vec<_> = errors
        .iter()
        .map(|(reason, count)| format!("{reason}: {count}"))
        .collect();
    all.sort();
    all.join(", ")
}

// Connections

/// Where the proxy is, and how to speak to it.
#[derive(Clone)]
struct Target {
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Target {
    fn new(scheme: &str, port: &str) -> Option<Self> {
        let tls = match scheme {
            "http" => None,
            "https" => Some(Arc::new(trusting())),
            _ => return None,
        };
        Some(Self {
            port: port.parse().ok()?,
            tls,
        })
    }

    fn connect(&self) -> io::Result<Link> {
        let socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(SITE).expect("a name");
        let tls = self
            .tls
            .as_ref()
            .map(|config| ClientConnection::new(Arc::clone(config), name));
        let tls = tls.transpose().map_err(io::Error::other)?.map(Box::new);
        Ok(Link {
            socket,
            tls,
            output: Vec::new(),
        })
    }
}

/// A connection to the proxy; a socket that does not block ends a call with `WouldBlock`.
struct Link {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Bytes that are to be sent: with TLS, before they are encrypted.
    output: Vec<u8>,
}

impl Link {
    /// Sends what it can; requests are so short that there always is room for them.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.write_all(&self.output)?,
            Some(tls) => {
                tls.writer().write_all(&self.output)?;
                while tls.wants_write() {
                    tls.write_tls(&mut self.socket)?;
                }
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Reads once. `false`: the other side has ended the connection.
    fn read(&mut self, input: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let Some(tls) = &mut self.tls else {
            let count = self.socket.read(&mut buffer)?;
            input.extend_from_slice(&buffer[..count]);
            return Ok(count > 0);
        };
        let ended = tls.read_tls(&mut self.socket)? == 0;
        tls.process_new_packets().map_err(io::Error::other)?;
        // A handshake has something to answer.
        while tls.wants_write() {
            tls.write_tls(&mut self.socket)?;
        }
        loop {
            match tls.reader().read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(!ended),
                Err(error) => return Err(error),
            }
        }
    }
}

fn request(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// What matters of the head of a response.
struct Head {
    status: u16,
    /// Bytes of the head, and of the body.
    length: usize,
    body: usize,
    close: bool,
}

impl Head {
    fn of(input: &[u8]) -> Option<Self> {
        let length = find(input, b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&input[..length]).to_ascii_lowercase();
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(": "));
            fields
                .find(|(other, _)| *other == name)
                .map(|(_, value)| value.trim())
        };
        Some(Self {
            status: text
                .get(9..12)
                .and_then(|status| status.parse().ok())
                .unwrap_or(0),
            length,
            body: field("content-length")
                .and_then(|value| value.parse().ok())
                .unwrap_or(0),
            close: field("connection") == Some("close"),
        })
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len())
        .position(|window| window == wanted)
}

/// TLS without a look at the certificate.
fn trusting() -> ClientConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth()
}

#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
