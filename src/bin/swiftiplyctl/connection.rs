//! Finds the server, and sends it a request.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use serde_json::Value;
use swiftiply::config::{Address, Config, Overrides};
use swiftiply::internals::process::reason;

use crate::failure::Failure;
use crate::options::Invocation;
use crate::request::CommandRequest;

/// Where the server takes commands.
pub(crate) struct ControlAddress {
    at: Address,
    key: Option<String>,
}

/// A response to a command that was carried out.
pub(crate) struct CommandResponse {
    /// Its body.
    pub(crate) text: String,
    pub(crate) value: Value,
}

/// The connection, of either kind.
trait Duplex: Read + Write {}

impl Duplex for TcpStream {}
impl Duplex for UnixStream {}

impl ControlAddress {
    /// Finds the server as the options say.
    ///
    /// # Errors
    /// The configuration or the key cannot be read, or does not say where the server takes commands.
    pub(crate) fn find(invocation: &Invocation) -> Result<Self, Failure> {
        if let Some(text) = &invocation.socket {
            let at = text.parse().map_err(Failure::Usage)?;
            let key = match &invocation.key_file {
                Some(file) => Some(read_key(file)?),
                None => env::var("SWIFTIPLY_KEY").ok().filter(|key| !key.is_empty()),
            };
            return Ok(Self { at, key });
        }
        let file = invocation
            .config
            .as_deref()
            .unwrap_or(Path::new(DEFAULT_FILE));
        let mut overrides = Overrides::default();
        overrides.directory = env::current_dir().ok();
        let status = Config::load_status(file, &overrides);
        let status = status.map_err(|problems| Failure::Usage(problems.to_string()))?;
        let status = status.ok_or_else(|| {
            Failure::Usage(format!(
                "{}: has no status, where the server takes commands; write status: {{at: unix:/run/swiftiply/status}}, \
                 or name the address with -s",
                file.display()
            ))
        })?;
        Ok(Self {
            at: status.at,
            key: status.key,
        })
    }

    /// Sends a request. Returns the response to a command that was carried out.
    ///
    /// # Errors
    /// There is no server, or it has refused the command.
    pub(crate) fn ask(&self, request: &CommandRequest) -> Result<CommandResponse, Failure> {
        let failed =
            |error: io::Error| Failure::Connection(format!("{}: {}", self.at, explained(&error)));
        let mut stream = self.connect(request.patience).map_err(failed)?;
        let mut bytes = Vec::new();
        let sent = stream.write_all(self.render(request).as_bytes());
        match sent.and_then(|()| stream.read_to_end(&mut bytes)) {
            // It may have refused the request before it has read all of it.
            Err(_) if !bytes.is_empty() => {}
            result => drop(result.map_err(failed)?),
        }
        let other = || {
            let why = match bytes.is_empty() {
                true => "closed the connection without a response",
                false => "not a response to a command of swiftiply; is this its status address?",
            };
            Failure::Connection(format!("{}: {why}", self.at))
        };
        let (status, text) = split(&bytes).ok_or_else(other)?;
        let value: Value = serde_json::from_str(&text).map_err(|_| other())?;
        match (status, value["error"].as_str()) {
            (200..300, _) => Ok(CommandResponse { text, value }),
            (401, Some(why)) => Err(Failure::Refused(format!(
                "{}: {why}; see -c, -k and SWIFTIPLY_KEY",
                self.at
            ))),
            (_, Some(why)) => Err(Failure::Refused(why.to_owned())),
            (status, None) => Err(Failure::Refused(format!("{}: status {status}", self.at))),
        }
    }

    fn connect(&self, patience: Duration) -> io::Result<Box<dyn Duplex>> {
        match &self.at {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Ok(Box::new(stream))
            }
            Address::Tcp { host, port, .. } => {
                let mut last = ErrorKind::NotFound.into();
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => {
                            stream.set_read_timeout(Some(patience))?;
                            stream.set_write_timeout(Some(patience))?;
                            return Ok(Box::new(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn render(&self, request: &CommandRequest) -> String {
        let CommandRequest {
            method, path, body, ..
        } = request;
        let key = match &self.key {
            Some(key) => format!("Authorization: Bearer {key}\r\n"),
            None => String::new(),
        };
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}Content-Length: {length}\r\n\r\n{body}"
        )
    }
}

/// The status and the body of a response.
fn split(bytes: &[u8]) -> Option<(u16, String)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    let body = String::from_utf8(bytes[end + 4..].to_vec()).ok()?;
    Some((status.parse().ok()?, body))
}

fn read_key(file: &Path) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::Usage(format!("{}: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|error| wrong(&reason(&error)))?;
    let key = text.trim();
    match key.bytes().all(|byte| byte.is_ascii_graphic()) {
        true if key.is_empty() => Err(wrong("no key in it")),
        true => Ok(key.to_owned()),
        false => Err(wrong(
            "not a key; write one line of letters, digits and signs",
        )),
    }
}

/// Why there is no connection, and what that may mean.
fn explained(error: &io::Error) -> String {
    let reason = reason(error);
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            format!("{reason} (is swiftiply running, with this status address?)")
        }
        ErrorKind::PermissionDenied => {
            format!("{reason} (only the user of swiftiply and root may)")
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no response in time".to_owned(),
        _ => reason,
    }
}

/// The configuration that the unit for systemd uses.
const DEFAULT_FILE: &str = "/etc/swiftiply/swiftiply.yml";
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses() {
        let check = |text: &str, expected: Option<(u16, &str)>| {
            let found = split(text.as_bytes());
            assert_eq!(
                found,
                expected.map(|(status, body)| (status, body.to_owned())),
                "{text}"
            );
        };
        check("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}", Some((200, "{}")));
        check("HTTP/1.1 404 Not Found\r\n\r\n", Some((404, "")));
        check("HTTP/1.1 OK\r\n\r\n", None);
        check("SSH-2.0\r\n\r\n", None);
        check("HTTP/1.1 200 OK\r\n", None);
    }
}
