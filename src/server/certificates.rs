//! The certificates of the addresses that speak TLS: those of files, and how they are reloaded.
//!
//! Certificates that the server obtains or makes itself are those of [`acme`](crate::acme).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::RwLock;

use crate::config::{self, Address, ClientCertificate, Config, SiteConfig, SiteTls, Tls};
use crate::net::client_auth::{ClientAuth, ClientAuthNames};
use crate::net::tls::{
    Acceptor, Authorities, Certificate, LoadError, SiteCertificates, Tickets, is_address,
};
use crate::x509::check_ocsp;

/// What an acceptor thread uses for each connection; `None`: no TLS.
pub(crate) type AcceptorSlot = Arc<RwLock<Option<Acceptor>>>;

/// The certificates of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    /// Created with the first certificate, and kept from then on.
    tickets: Option<Tickets>,
    /// By certificate file and key file.
    loaded: HashMap<(PathBuf, PathBuf), LoadedCertificate>,
    /// By file, and that of revoked certificates.
    authorities: AuthoritiesByFile,
    acceptors: HashMap<Address, Acceptor>,
    /// When the first response that certificates are presented with ceases to count (`ocsp`).
    stapled_until: Option<SystemTime>,
    /// Those of sites, which are common to all addresses; `None` at dial-in addresses.
    sites: Option<Arc<SiteCertificates>>,
    /// The names of sites with certificates from files.
    of_sites: Vec<(String, Certificate)>,
}

/// Authorities by their file, and that of the certificates that they have revoked.
type AuthoritiesByFile = HashMap<(PathBuf, Option<PathBuf>), Authorities>;

/// A certificate from a file.
#[derive(Clone, Debug)]
pub(crate) struct FileCertificate {
    pub(crate) file: PathBuf,
    pub(crate) certificate: Certificate,
    /// Why the files could not be read the last time; then it is the last good version.
    pub(crate) error: Option<String>,
}

/// The same, by its files.
#[derive(Clone, Debug)]
struct LoadedCertificate {
    certificate: Certificate,
    error: Option<String>,
}

/// The configuration of certificates from files.
#[derive(Clone, Copy)]
pub(crate) struct CertificateFiles<'c> {
    /// The key of the addresses: `ssl` or `outgoing_ssl`.
    key: &'static str,
    entries: &'c [Tls],
    /// Addresses that speak TLS, with an entry or without.
    secure: &'c [Address],
    sites: &'c [SiteConfig],
}

impl<'c> CertificateFiles<'c> {
    /// Those for clients.
    pub(crate) fn for_clients(config: &'c Config) -> Self {
        Self {
            key: "ssl",
            entries: &config.ssl,
            secure: &config.secure,
            sites: &config.sites,
        }
    }

    /// Those for backends that dial in.
    pub(crate) fn for_backends(config: &'c Config) -> Self {
        Self {
            key: "outgoing_ssl",
            entries: &config.outgoing_ssl,
            secure: &[],
            sites: &[],
        }
    }

    /// All files, some several times.
    pub(crate) fn paths(self) -> impl Iterator<Item = &'c Path> {
        let entries = self.entries.iter().flat_map(|tls| {
            let ca = tls.client_ca.as_deref();
            let ocsp = tls.ocsp.as_deref();
            let crl = tls.client_crl.as_deref();
            [Some(&*tls.certfile), Some(&*tls.keyfile), ca, crl, ocsp]
        });
        let sites = self.sites.iter().flat_map(|site| match &site.tls {
            Some(SiteTls::Files {
                certfile,
                keyfile,
                ocsp,
            }) => [Some(&**certfile), Some(&**keyfile), ocsp.as_deref()],
            _ => [None, None, None],
        });
        let clients = self
            .sites
            .iter()
            .flat_map(|site| [site.client_ca.as_deref(), site.client_crl.as_deref()])
            .flatten();
        entries.flatten().chain(sites.flatten()).chain(clients)
    }
}

impl Certificates {
    /// None yet, and where those of sites are.
    pub(crate) fn for_clients(sites: Arc<SiteCertificates>) -> Self {
        Self {
            sites: Some(sites),
            ..Self::default()
        }
    }

    /// Reads all certificates, also those that were read before. One that can no longer be read keeps its last good
    /// version, which is logged: a site must not vanish because its renewal failed, or because the server has dropped the
    /// privilege to read the file.
    ///
    /// # Errors
    /// The first new certificate that could not be loaded; nothing has changed then.
    pub(crate) fn load(&mut self, files: &CertificateFiles<'_>) -> Result<(), LoadError> {
        let key = files.key;
        let mut loaded = HashMap::new();
        let mut stapled_until = None;
        let mut authorities = AuthoritiesByFile::new();
        let mut by_client: HashMap<Address, Authorities> = HashMap::new();
        let mut by_address: HashMap<Address, Vec<Certificate>> = HashMap::new();
        for at in files.secure {
            by_address.insert(at.clone(), Vec::new());
        }
        for tls in files.entries {
            let certificate = self.read(key, &tls.certfile, &tls.keyfile, &mut loaded)?;
            let certificate = stapled(certificate, tls.ocsp.as_deref(), &mut stapled_until);
            by_address
                .entry(tls.at.clone())
                .or_default()
                .push(certificate);
            if let Some(file) = &tls.client_ca {
                let files = (&**file, tls.client_crl.as_deref());
                let read = self.read_authorities(key, files, &mut authorities)?;
                by_client.insert(tls.at.clone(), read);
            }
        }
        let clients = self.clients(files.sites, &mut authorities)?;
        let mut of_sites = Vec::new();
        for site in files.sites {
            let Some(SiteTls::Files {
                certfile,
                keyfile,
                ocsp,
            }) = &site.tls
            else {
                continue;
            };
            let certificate = self.read("tls", certfile, keyfile, &mut loaded)?;
            let certificate = stapled(certificate, ocsp.as_deref(), &mut stapled_until);
            let named = site.incoming.iter();
            of_sites.extend(named.map(|name| (name.clone(), certificate.clone())));
            if site.incoming.is_empty() {
                of_sites.push((site.name.clone(), certificate));
            }
        }
        let first = files.paths().next().unwrap_or(Path::new(""));
        let no_tickets = |error: io::Error| LoadError {
            file: first.to_owned(),
            why: format!("tickets: {error}"),
        };
        if self.tickets.is_none() && !by_address.is_empty() {
            self.tickets = Some(Tickets::new().map_err(no_tickets)?);
        }
        let acceptors = match &self.tickets {
            None => HashMap::new(),
            Some(tickets) => by_address
                .into_iter()
                .map(|(at, certificates)| {
                    let authorities = by_client.get(&at);
                    let sites = self.sites.as_ref();
                    let acceptor =
                        Acceptor::new(&certificates, sites, tickets, authorities, &clients);
                    Ok((at, acceptor.map_err(no_tickets)?))
                })
                .collect::<Result<_, LoadError>>()?,
        };
        self.loaded = loaded;
        self.stapled_until = stapled_until;
        self.authorities = authorities;
        self.of_sites = of_sites;
        self.acceptors = acceptors;
        Ok(())
    }

    /// These certificates and those of dial-in addresses, each file once.
    pub(crate) fn with_files(&self, outgoing: &Self) -> Vec<FileCertificate> {
        let all = self.loaded.iter().chain(&outgoing.loaded);
        let mut all: Vec<_> = all
            .map(|((file, _), loaded)| FileCertificate {
                file: file.clone(),
                certificate: loaded.certificate.clone(),
                error: loaded.error.clone(),
            })
            .collect();
        all.sort_by(|one, other| one.file.cmp(&other.file));
        all.dedup_by(|one, other| one.file == other.file);
        all
    }

    /// The client certificates of sites.
    fn clients(
        &self,
        sites: &[SiteConfig],
        authorities: &mut AuthoritiesByFile,
    ) -> Result<ClientAuthNames<Authorities>, LoadError> {
        let mut clients = ClientAuthNames::default();
        if sites.iter().all(|site| site.client_ca.is_none()) {
            return Ok(clients);
        }
        let mut addresses = Vec::new();
        for site in sites {
            let way = match &site.client_ca {
                None => None,
                Some(file) => {
                    let files = (&**file, site.client_crl.as_deref());
                    let read = self.read_authorities("client_ca", files, authorities)?;
                    let auth = ClientAuth {
                        file: file.clone(),
                        revoked: site.client_crl.clone(),
                        is_required: site.client_certificate == ClientCertificate::Require,
                    };
                    let known = clients.ways.iter().position(|(known, _)| *known == auth);
                    Some(known.unwrap_or_else(|| {
                        clients.ways.push((auth, read));
                        clients.ways.len() - 1
                    }))
                }
            };
            for name in &site.incoming {
                clients.names.insert(name.clone(), way);
                if is_address(name) {
                    addresses.push((name, way));
                }
            }
            if site.default {
                clients.default = way;
            }
        }
        // The certificate for these clients is that of the first address, too.
        clients.address = addresses.into_iter().min().and_then(|(_, way)| way);
        Ok(clients)
    }

    /// Reads authorities, unless they are among those `loaded` already.
    fn read_authorities(
        &self,
        key: &str,
        (file, revoked): (&Path, Option<&Path>),
        loaded: &mut AuthoritiesByFile,
    ) -> Result<Authorities, LoadError> {
        let files = (file.to_owned(), revoked.map(Path::to_owned));
        if let Some(known) = loaded.get(&files) {
            return Ok(known.clone());
        }
        let read = Authorities::load(file).and_then(|read| match revoked {
            None => Ok(read),
            Some(revoked) => read.with_revoked(revoked),
        });
        let read = read.or_else(|error| {
            let before = self.authorities.get(&files).ok_or_else(|| error.clone())?;
            log::error!("{key}: {error}; keeping the authorities that were read before");
            Ok(before.clone())
        })?;
        loaded.insert(files, read.clone());
        Ok(read)
    }

    /// Reads a certificate, unless it is among those `loaded` already.
    fn read(
        &self,
        key: &str,
        certfile: &Path,
        keyfile: &Path,
        loaded: &mut HashMap<(PathBuf, PathBuf), LoadedCertificate>,
    ) -> Result<Certificate, LoadError> {
        let files = (certfile.to_owned(), keyfile.to_owned());
        if let Some(known) = loaded.get(&files) {
            return Ok(known.certificate.clone());
        }
        let (certificate, error) = match Certificate::load(certfile, keyfile) {
            Ok(certificate) => (certificate, None),
            Err(error) => {
                let before = self.loaded.get(&files).ok_or_else(|| error.clone())?;
                log::error!("{key}: {error}; keeping the certificate that was read before");
                (before.certificate.clone(), Some(error.to_string()))
            }
        };
        let known = certificate.clone();
        loaded.insert(files, LoadedCertificate { certificate, error });
        Ok(known)
    }

    /// Whether a response that a certificate is presented with does not count any more, so that all are to be read again.
    pub(crate) fn has_expired_ocsp(&self, now: SystemTime) -> bool {
        self.stapled_until.is_some_and(|until| until <= now)
    }

    /// The TLS acceptor of an address, if it speaks TLS.
    pub(crate) fn acceptor(&self, address: &Address) -> Option<Acceptor> {
        self.acceptors.get(address).cloned()
    }

    /// Each certificate with its file.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = (&Path, &Certificate)> {
        let files = self.loaded.iter();
        files.map(|((certfile, _), loaded)| (certfile.as_path(), &loaded.certificate))
    }

    /// Puts the certificates of sites into use that have files, if their names are in use.
    pub(crate) fn replace_those_of_sites(&self) {
        for (name, certificate) in &self.of_sites {
            self.sites
                .as_ref()
                .inspect(|sites| sites.replace(name, certificate));
        }
    }

    /// The certificates of sites that have files: each with a name of the site.
    pub(crate) fn of_sites(&self) -> Vec<(String, Certificate)> {
        self.of_sites.clone()
    }
}

/// The certificate with the response of its authority that is in a file, if that is of any use; `until` becomes the time
/// at which it ceases to be, if that is earlier.
fn stapled(
    certificate: Certificate,
    file: Option<&Path>,
    until: &mut Option<SystemTime>,
) -> Certificate {
    let Some(file) = file else {
        return certificate;
    };
    let read = config::read_file(file, OCSP_BYTES).and_then(|response| {
        let serial = &certificate.facts().serial;
        let next = check_ocsp(&response, serial, SystemTime::now())?;
        Ok((response, next))
    });
    match read {
        Ok((response, next)) => {
            let earlier = next.filter(|next| until.is_none_or(|until| *next < until));
            *until = earlier.or(*until);
            certificate.with_ocsp(response)
        }
        Err(why) => {
            log::warn!(
                "ocsp {}: {why}; it is not presented to clients",
                file.display()
            );
            certificate
        }
    }
}

/// Most bytes of a response of OCSP.
const OCSP_BYTES: u64 = 1 << 16;

/// The name whose certificate is for clients that send no name, or an unknown one: one of the default site, otherwise of
/// the first site that has certificates.
pub(crate) fn first_name(sites: &[SiteConfig]) -> String {
    let has_own = |site: &&SiteConfig| site.tls.is_some();
    let default = sites.iter().filter(has_own).find(|site| site.default);
    let first = default.or_else(|| sites.iter().find(has_own));
    let name = |site: &SiteConfig| match site.tls {
        // Names with a star have no certificate then.
        Some(SiteTls::OnDemand) => {
            let mut names = site.incoming.iter();
            names.find(|name| !name.starts_with("*.")).cloned()
        }
        _ => Some(site.name.clone()),
    };
    first.and_then(name).unwrap_or_default()
}
