//! The list of drained backends: those that get no more requests until further notice.
//!
//! It names processes, not connections: a backend that dials in again is still drained. The list of a server is
//! replaced as a whole; pools and directories have a reference to the current one.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::config::ServerConfig;
use crate::net::stream::Peer;
use crate::preamble::{Id, Name};

/// The drained backends of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    names: BTreeSet<DrainedName>,
}

/// The name of a drained backend, or of several.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DrainedName {
    /// All backends that dialled in with this id.
    Id(Id),
    /// All backends that have given this name, of which their id is an abbreviation.
    Name(Name),
    /// All backends that dialled in from this IP address.
    Machine(IpAddr),
    /// The server at this address (`proxy: traditional`), as it is written in logs.
    Server(String),
}

impl Drained {
    /// Whether no backend is drained.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &DrainedName> {
        self.names.iter()
    }

    /// Adds a name. Returns whether it was not there.
    pub fn add(&mut self, name: DrainedName) -> bool {
        self.names.insert(name)
    }

    /// Removes a name. Returns whether it was there.
    pub fn remove(&mut self, name: &DrainedName) -> bool {
        self.names.remove(name)
    }

    /// Whether a backend that dialled in is drained.
    pub fn has_backend(&self, id: &Id, name: Option<&Name>, peer: &Peer) -> bool {
        self.names
            .iter()
            .any(|drained| drained.is_backend(id, name, peer))
    }

    /// Whether a server is drained.
    pub fn has_server(&self, server: &ServerConfig) -> bool {
        !self.is_empty()
            && self
                .names
                .contains(&DrainedName::Server(server.to_string()))
    }
}

impl DrainedName {
    /// Whether this is the name of a backend that dialled in.
    pub fn is_backend(&self, id: &Id, name: Option<&Name>, peer: &Peer) -> bool {
        match self {
            Self::Id(own) => own == id,
            Self::Name(own) => name == Some(own),
            Self::Machine(ip) => peer.ip() == Some(*ip),
            Self::Server(_) => false,
        }
    }
}

impl DrainedName {
    /// A text for another process, which [`DrainedName::from_text`] reads.
    pub fn to_text(&self) -> String {
        match self {
            // It may have any bytes.
            Self::Id(id) => {
                let bytes = id.as_bytes().iter();
                let digits: Vec<_> = bytes.map(|byte| format!("{byte:02x}")).collect();
                format!("id {}", digits.concat())
            }
            Self::Name(name) => format!("name {name}"),
            Self::Machine(ip) => format!("machine {ip}"),
            Self::Server(name) => format!("server {name}"),
        }
    }

    /// Reads a text of [`DrainedName::to_text`].
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(' ')?;
        match kind {
            "id" => {
                let starts = (0..name.len()).step_by(2);
                let byte = |at| u8::from_str_radix(name.get(at..at + 2)?, 16).ok();
                let bytes = starts.map(byte).collect::<Option<Vec<_>>>();
                Id::new(&bytes?).map(Self::Id)
            }
            "name" => Name::new(name).ok().map(Self::Name),
            "machine" => name.parse().ok().map(Self::Machine),
            "server" => Some(Self::Server(name.to_owned())),
            _ => None,
        }
    }
}

/// The name as a command gives it.
impl fmt::Display for DrainedName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(out),
            Self::Name(name) => name.fmt(out),
            Self::Machine(ip) => ip.fmt(out),
            Self::Server(name) => out.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_have_several_names() {
        let id = Id::new(b"web1\0abcdefg").unwrap();
        let peer = Peer::Tcp(([192, 0, 2, 7], 5000).into());
        let mut drained = Drained::default();
        let name = Name::new("web1.example.com").unwrap();
        let has = |drained: &Drained| drained.has_backend(&id, Some(&name), &peer);
        assert!(!has(&drained));
        let names = [
            DrainedName::Id(id),
            DrainedName::Name(name.clone()),
            DrainedName::Machine([192, 0, 2, 7].into()),
        ];
        for name in names {
            assert!(drained.add(name.clone()) && !drained.add(name.clone()));
            assert!(has(&drained), "{name}");
            assert!(drained.remove(&name) && !drained.remove(&name));
            assert_eq!(DrainedName::from_text(&name.to_text()), Some(name));
        }
        drained.add(DrainedName::Machine([192, 0, 2, 8].into()));
        assert!(!has(&drained) && !drained.has_backend(&id, None, &Peer::Unix));
        let address: ServerConfig = "192.0.2.9:80".parse().unwrap();
        drained.add(DrainedName::Server("192.0.2.9:80".into()));
        assert!(drained.has_server(&address) && drained.names().count() == 2);
        for name in drained.names() {
            assert_eq!(DrainedName::from_text(&name.to_text()).as_ref(), Some(name));
        }
        assert_eq!(DrainedName::from_text("id 7"), None);
    }
}
