//! The messages between the processes of a server, once the new one serves. Pure.
//!
//! A message is a line of words, perhaps with a descriptor:
//!
//! | message | descriptor | means |
//! |---|---|---|
//! | `client IDLE RESPONSES PEER LOCAL` | its connection | an idle client, with the milliseconds for which it may stay so, and the address to which it has connected, or `-` |
//! | `backend ID KEY RESPONSES PEER ADDRESS` | its connection | an idle backend, with the address at which it dialled in |
//! | `ask ID KEYS ADDRESS` | | a request waits for a backend with this id and one of these keys |
//! | `all` | | all idle connections were sent |
//! | `switched TEXT` | | something that an operator has switched ([`operations`](crate::server::operations)) |
//! | `all-switched` | | these are all, whatever was switched before |
//! | `older` | a channel | a process that was replaced before |
//! | `stop` | | end as after TERM |
//! | `leave` | | the old process ends and wants no more backends; the new one answers the same, when it has sent the last one |
//!
//! Ids and keys are in hexadecimal digits, with a `-` in front. `-` alone is no key, or any id. After the id of a backend
//! comes `+` with its whole name, if the id is an abbreviation of it.

use std::fmt::Write;
use std::net::{AddrParseError, SocketAddr};
use std::time::Duration;

use crate::net::stream::Peer;
use crate::preamble::{Id, Name};
use crate::process::channel;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProcessMessage {
    Client(GivenClient),
    Backend {
        id: Id,
        name: Option<Name>,
        key: Box<[u8]>,
        responses: u64,
        peer: Peer,
        address: String,
    },
    Ask {
        id: Option<Id>,
        keys: Vec<Box<[u8]>>,
        address: String,
    },
    All,
    Switched(String),
    AllSwitched,
    Older,
    Stop,
    Leave,
}

/// An idle client of another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GivenClient {
    pub(crate) peer: Peer,
    /// How long it may still be idle.
    pub(crate) idle: Duration,
    /// Responses that it has had.
    pub(crate) responses: u32,
    /// The address to which it has connected, if it is needed and known.
    pub(crate) local: Option<SocketAddr>,
}

impl ProcessMessage {
    /// As it is sent. Keys of a long list that do not fit into a message are left out.
    pub(crate) fn encode(&self) -> String {
        match self {
            Self::Client(GivenClient {
                peer,
                idle,
                responses,
                local,
            }) => {
                let local = local.map_or_else(|| "-".to_owned(), |local| local.to_string());
                format!("client {} {responses} {peer} {local}", idle.as_millis())
            }
            Self::Backend {
                id,
                name,
                key,
                responses,
                peer,
                address,
            } => {
                let name = name
                    .as_ref()
                    .map_or_else(String::new, |name| format!("+{name}"));
                let (id, key) = (hexadecimal(id.as_bytes()), hexadecimal(key));
                format!("backend {id}{name} {key} {responses} {peer} {address}")
            }
            Self::Ask { id, keys, address } => {
                let id = id.map_or_else(|| "-".to_owned(), |id| hexadecimal(id.as_bytes()));
                let mut list = String::new();
                for key in keys {
                    let key = hexadecimal(key);
                    if list.len() + key.len() > LONGEST_KEYS {
                        break;
                    }
                    if !list.is_empty() {
                        list.push(',');
                    }
                    list.push_str(&key);
                }
                format!("ask {id} {list} {address}")
            }
            Self::All => "all".to_owned(),
            Self::Switched(text) => format!("switched {text}"),
            Self::AllSwitched => "all-switched".to_owned(),
            Self::Older => "older".to_owned(),
            Self::Stop => "stop".to_owned(),
            Self::Leave => "leave".to_owned(),
        }
    }

    /// `None`: not a message of this version.
    pub(crate) fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match kind {
            "client" => {
                let mut words = rest.split(' ');
                let mut next = || words.next();
                Self::Client(GivenClient {
                    idle: Duration::from_millis(next()?.parse().ok()?),
                    responses: next()?.parse().ok()?,
                    peer: peer(next()?).ok()?,
                    local: match next()? {
                        "-" => None,
                        local => Some(local.parse().ok()?),
                    },
                })
            }
            "backend" => {
                let mut words = rest.splitn(5, ' ');
                let mut next = || words.next();
                let id = next()?;
                let (id, name) = match id.split_once('+') {
                    None => (id, None),
                    Some((id, name)) => (id, Some(Name::new(name).ok()?)),
                };
                Self::Backend {
                    id: Id::new(&bytes(id)?)?,
                    name,
                    key: bytes(next()?)?,
                    responses: next()?.parse().ok()?,
                    peer: peer(next()?).ok()?,
                    address: next()?.to_owned(),
                }
            }
            "ask" => {
                let mut words = rest.splitn(3, ' ');
                let mut next = || words.next();
                Self::Ask {
                    id: match next()? {
                        "-" => None,
                        id => Some(Id::new(&bytes(id)?)?),
                    },
                    keys: next()?.split(',').map(bytes).collect::<Option<_>>()?,
                    address: next()?.to_owned(),
                }
            }
            "all" => Self::All,
            "switched" => Self::Switched(rest.to_owned()),
            "all-switched" => Self::AllSwitched,
            "older" => Self::Older,
            "stop" => Self::Stop,
            "leave" => Self::Leave,
            _ => return None,
        })
    }
}

fn peer(text: &str) -> Result<Peer, AddrParseError> {
    match text {
        "unix:" => Ok(Peer::Unix),
        address => address.parse::<SocketAddr>().map(Peer::Tcp),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = "-".to_owned();
    for byte in bytes {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn bytes(text: &str) -> Option<Box<[u8]>> {
    let digits = text.strip_prefix('-')?.as_bytes();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| {
            let pair = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

/// Bytes for a list of keys, which leaves room for the other words.
const LONGEST_KEYS: usize = channel::LONGEST - 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_comes_through() {
        let tcp = |text: &str| Peer::Tcp(text.parse().unwrap());
        let id = Id::new(b"127001017771").unwrap();
        let client = |peer| {
            ProcessMessage::Client(GivenClient {
                peer,
                idle: Duration::from_millis(1500),
                responses: 7,
                local: matches!(peer, Peer::Tcp(_)).then(|| "[::1]:80".parse().unwrap()),
            })
        };
        let backend = |key: &[u8], address: &str| ProcessMessage::Backend {
            id,
            name: (!key.is_empty()).then(|| Name::new("web3.example.com").unwrap()),
            key: key.into(),
            responses: u64::MAX,
            peer: tcp("[2001:db8::1]:5"),
            address: address.to_owned(),
        };
        let ask = |id, keys: &[&[u8]]| ProcessMessage::Ask {
            id,
            keys: keys.iter().map(|key| (*key).into()).collect(),
            address: "unix:/a path/with spaces".to_owned(),
        };
        for message in [
            client(Peer::Unix),
            client(tcp("192.0.2.1:80")),
            backend(b"", "127.0.0.1:1"),
            backend(b"k\xff -,", "unix:/a path"),
            backend(&[255; 255], "localhost:1"),
            ask(None, &[b""]),
            ask(Some(id), &[b"", b"one", b"\0"]),
            ProcessMessage::All,
            ProcessMessage::Switched("paused 300000 a.example".to_owned()),
            ProcessMessage::AllSwitched,
            ProcessMessage::Older,
            ProcessMessage::Stop,
            ProcessMessage::Leave,
        ] {
            let text = message.encode();
            assert!(text.len() <= channel::LONGEST, "{text}");
            assert_eq!(ProcessMessage::decode(&text), Some(message), "{text}");
        }
    }

    #[test]
    fn a_long_list_of_keys_fits() {
        let message = ProcessMessage::Ask {
            id: None,
            keys: vec![[1; 255].into(); 100],
            address: "unix:/long".repeat(10),
        };
        let text = message.encode();
        assert!(text.len() <= channel::LONGEST);
        assert!(matches!(
            ProcessMessage::decode(&text),
            Some(ProcessMessage::Ask { .. })
        ));
    }

    #[test]
    fn nonsense_is_no_message() {
        for text in [
            "",
            "client",
            "client 1 2",
            "client -1 2 unix:",
            "client 1 2 nowhere -",
            "client 1 2 unix:",
            "client 1 2 unix: there",
            "backend - - 1 unix:",
            "backend 00 - 1 unix: a",
            "backend -0 - 1 unix: a",
            "backend -zz - 1 unix: a",
            "backend -00+ - 1 unix: a",
            "backend -\u{e9}0 - 1 unix: a",
            "ask - -",
            "ask x - a",
            "later",
        ] {
            assert_eq!(ProcessMessage::decode(text), None, "{text}");
        }
    }
}
