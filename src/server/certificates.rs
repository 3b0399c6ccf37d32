//! The certificates of the addresses that speak TLS, and how they are reloaded.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::shared::CertificateExpiry;
use crate::config::{Address, Tls};
use crate::net::tls::{Acceptor, Authorities, Certificate, LoadError, Tickets};

/// What an acceptor thread uses for each connection; `None`: no TLS.
pub(crate) type AcceptorSlot = Arc<RwLock<Option<Acceptor>>>;

/// The certificates of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    /// Created with the first certificate, and kept from then on.
    tickets: Option<Tickets>,
    /// By certificate file and key file.
    loaded: HashMap<(PathBuf, PathBuf), Certificate>,
    /// By file.
    authorities: HashMap<PathBuf, Authorities>,
    acceptors: HashMap<Address, Acceptor>,
}

impl Certificates {
    /// Reads all certificates of the key `ssl` or `outgoing_ssl`, also those that were read before. One that can no
    /// longer be read keeps its last good version, which is logged: a site must not vanish because its renewal failed,
    /// or because the server has dropped the privilege to read the file.
    ///
    /// # Errors
    /// The first new certificate that could not be loaded; nothing has changed then.
    pub(crate) fn load(&mut self, key: &str, entries: &[Tls]) -> Result<(), LoadError> {
        let mut loaded = HashMap::new();
        let mut authorities = HashMap::new();
        let mut by_client: HashMap<Address, Authorities> = HashMap::new();
        let mut by_address: HashMap<Address, Vec<Certificate>> = HashMap::new();
        for tls in entries {
            let files = (tls.certfile.clone(), tls.keyfile.clone());
            let known = loaded.get(&files).cloned();
            let certificate = match known.map_or_else(|| Certificate::load(&files.0, &files.1), Ok)
            {
                Ok(certificate) => certificate,
                Err(error) => {
                    let before = self.loaded.get(&files).ok_or_else(|| error.clone())?;
                    log::error!("{key}: {error}; keeping the certificate that was read before");
                    before.clone()
                }
            };
            by_address
                .entry(tls.at.clone())
                .or_default()
                .push(certificate.clone());
            loaded.insert(files, certificate);
            if let Some(file) = &tls.client_ca {
                let read = Authorities::load(file).or_else(|error| {
                    let before = self.authorities.get(file).ok_or_else(|| error.clone())?;
                    log::error!("{key}: {error}; keeping the authorities that were read before");
                    Ok(before.clone())
                })?;
                by_client.insert(tls.at.clone(), read.clone());
                authorities.insert(file.clone(), read);
            }
        }
        if self.tickets.is_none() && !loaded.is_empty() {
            self.tickets = Some(Tickets::new().map_err(|error| LoadError {
                file: entries[0].certfile.clone(),
                why: format!("tickets: {error}"),
            })?);
        }
        self.loaded = loaded;
        self.authorities = authorities;
        self.acceptors = match &self.tickets {
            None => HashMap::new(),
            Some(tickets) => by_address
                .into_iter()
                .map(|(at, certificates)| {
                    let acceptor = Acceptor::new(&certificates, tickets, by_client.get(&at));
                    (at, acceptor)
                })
                .collect(),
        };
        Ok(())
    }

    /// When these certificates and those of dial-in addresses expire.
    pub(crate) fn expiries(&self, outgoing: &Self) -> Vec<CertificateExpiry> {
        let all = self.loaded.iter().chain(&outgoing.loaded);
        let mut all: Vec<_> = all
            .map(|((file, _), certificate)| CertificateExpiry {
                file: file.display().to_string(),
                expires: certificate.expires(),
            })
            .collect();
        all.sort_by(|one, other| one.file.cmp(&other.file));
        all.dedup_by(|one, other| one.file == other.file);
        all
    }

    /// The TLS acceptor of an address, if it speaks TLS.
    pub(crate) fn acceptor(&self, address: &Address) -> Option<Acceptor> {
        self.acceptors.get(address).cloned()
    }
}
