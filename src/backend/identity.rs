//! What a backend has said about itself when it dialled in, and where from.

use std::net::IpAddr;

use crate::net::stream::Peer;
use crate::preamble::{Id, Name};

/// The identity of a backend.
#[derive(Clone, Debug)]
pub struct BackendIdentity {
    /// The id that it sent; not unique.
    pub id: Id,
    /// Its whole name, if the id is an abbreviation of it.
    pub name: Option<Name>,
    /// The key that it sent; empty for none.
    pub key: Box<[u8]>,
    /// Where it dialled in from.
    pub peer: Peer,
}

/// A machine: the host of a backend by its address, and the name that it has given, since several may have one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct MachineHost {
    ip: Option<IpAddr>,
    name: Option<Id>,
}

impl BackendIdentity {
    /// The machine. An id that is not a name may be that of one process, so it does not count.
    pub(super) fn host(&self) -> MachineHost {
        MachineHost {
            ip: self.peer.ip(),
            name: self.id.is_name().then_some(self.id),
        }
    }

    /// The backend, as in logs.
    pub(super) fn label(&self) -> String {
        let Self { id, peer, .. } = self;
        match &self.name {
            None => format!("backend {id} from {peer}"),
            Some(name) => format!("backend {id} ({name}) from {peer}"),
        }
    }

    /// The machine, as in logs.
    pub(super) fn machine(&self) -> String {
        let ip = self.peer.ip();
        let address = ip.map_or_else(|| "unix:".to_owned(), |ip| ip.to_string());
        let id = self.id.to_string();
        let name = self.name.as_ref().map_or(&*id, Name::as_str);
        match self.id.is_name() && name != address {
            true => format!("{name} ({address})"),
            false => address,
        }
    }
}

#[cfg(test)]
impl BackendIdentity {
    pub(super) fn test(id: &[u8], key: &[u8], peer: Peer) -> Self {
        Self {
            id: Id::new(id).expect("the length of an id"),
            name: None,
            key: key.into(),
            peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_an_address_and_perhaps_a_name() {
        let check = |name: &str, from: &str, expected: &str| {
            let name = Name::new(name).unwrap();
            let peer = Peer::Tcp(from.parse().unwrap());
            let mut identity = BackendIdentity::test(&name.id(), b"", peer);
            identity.name = identity.id.is_abbreviated().then_some(name);
            assert_eq!(identity.machine(), expected);
        };
        check("web3", "10.0.0.3:1", "web3 (10.0.0.3)");
        check(
            "web3.example.com",
            "10.0.0.3:1",
            "web3.example.com (10.0.0.3)",
        );
        check("10.0.0.3", "10.0.0.3:1", "10.0.0.3");
        check("192.168.100.217", "192.168.100.217:1", "192.168.100.217");
        let unnamed = BackendIdentity::test(b"7f0000011a2b", b"", Peer::Unix);
        assert_eq!(unnamed.machine(), "unix:");
        assert_eq!(
            unnamed.host(),
            BackendIdentity::test(b"7f0000011a2c", b"", Peer::Unix).host()
        );
    }
}
