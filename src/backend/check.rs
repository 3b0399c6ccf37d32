//! A health probe: one request to an ordinary HTTP server, on a connection of its own.
//!
//! Used by the threads that check servers ([`directory`](super::directory)), and by the access proxy for its
//! application. The whole probe has one deadline. Interim responses are skipped as in an exchange ([`ResponseHeads`]).

use std::io::{self, ErrorKind};
use std::time::Instant;

use crate::http::head::{HeadLimits, RequestHead, ResponseHeads};
use crate::net::buffer::Buffer;
use crate::net::conn::Conn;

/// The request of a probe.
#[derive(Clone, Copy, Debug)]
pub struct HealthProbe<'a> {
    /// The path, and the query if there is one.
    pub uri: &'a str,
    /// The Host field.
    pub host: &'a str,
    /// The User-Agent field.
    pub agent: &'a str,
}

impl HealthProbe<'_> {
    /// Sends the request and returns the status of the response. Up to ten interim responses are skipped.
    ///
    /// # Errors
    /// `TimedOut` if there is no response by `deadline`, `InvalidData` for a malformed or missing one, and those of the
    /// system.
    pub fn run(&self, conn: &mut Conn, deadline: Instant) -> io::Result<u16> {
        let Self { uri, host, agent } = self;
        let request = format!(
            "GET {uri} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n"
        );
        let limits = HeadLimits::default();
        let head = RequestHead::parse(request.as_bytes(), &limits);
        let head = head.map_err(|refusal| bad(refusal.why))?;
        let left = deadline.saturating_duration_since(Instant::now());
        conn.write_both(request.as_bytes(), &[], left)?;
        let mut heads = ResponseHeads::new();
        let mut reply = Buffer::new();
        loop {
            let next = match reply.is_empty() {
                true => None,
                false => heads
                    .next(reply.data(), &head, &limits)
                    .map_err(|error| bad(error.0))?,
            };
            if let Some((answer, length)) = next {
                if !answer.is_interim() {
                    return Ok(answer.status);
                }
                reply.consume(length);
                continue;
            }
            // A server that never stops sending would otherwise never time out.
            if Instant::now() >= deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            match reply.fill_now(conn)? {
                Some(1..) => {}
                Some(0) => return Err(bad("the connection was closed")),
                None => conn.stream().wait_for_input(deadline)?,
            }
        }
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::net::stream::Stream;

    /// The result if the server sends these pieces and then closes, or stays silent.
    fn ask(pieces: &'static [&str], closes: bool, patience: Duration) -> io::Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
            }
            (!closes).then_some(stream)
        });
        let mut conn = Conn::plain(Stream::connect_to(address, PATIENCE).unwrap());
        let probe = HealthProbe {
            uri: "/up",
            host: "test",
            agent: "test",
        };
        let status = probe.run(&mut conn, Instant::now() + patience);
        server.join().unwrap();
        status
    }

    #[test]
    fn returns_the_status_or_the_fault() {
        let check = |pieces: &'static [&str], expected: Result<u16, &str>| {
            let status = ask(pieces, true, PATIENCE).map_err(|error| error.to_string());
            assert_eq!(status, expected.map_err(str::to_owned), "{pieces:?}");
        };
        check(&["HTTP/1.1 200 OK\r\n\r\n"], Ok(200));
        check(
            &["HTTP/1.1 50", "3 Unavailable\r\nA: b\r", "\n\r\n"],
            Ok(503),
        );
        check(
            &[
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n",
                "HTTP/1.0 204 X\r\n\r\n",
            ],
            Ok(204),
        );
        check(
            &["HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"],
            Err("101 without a request for an upgrade"),
        );
        check(
            &["HTTP/1.1 100 Continue\r\n\r\n"; 11],
            Err("too many interim responses"),
        );
        check(&[], Err("the connection was closed"));
        check(&["HTTP/1.1 200"], Err("the connection was closed"));
        assert!(ask(&["rubbish\r\n\r\n"], true, PATIENCE).is_err());
    }

    #[test]
    fn respects_the_deadline() {
        for pieces in [&[][..], &["HTTP/1.1 100 Continue\r\n\r\nHTTP"]] {
            let error = ask(pieces, false, Duration::from_millis(20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
        }
    }

    /// Only a fault takes this long.
    const PATIENCE: Duration = Duration::from_secs(60);
}
