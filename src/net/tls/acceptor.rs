//! What is presented to a client, and asked of it, by its first message: certificates by name, client certificates for
//! some names.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite as suites};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{self, Accepted, ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, SupportedCipherSuite};

use super::certificate::{Authorities, Certificate};
use super::on_demand::AwaitedName;
use super::sites::SiteCertificates;
use super::tickets::{Tickets, TlsClock};
use crate::net::client_auth::{ClientAuth, ClientAuthNames};

/// The configuration for accepting TLS at an address.
#[derive(Clone, Debug)]
pub struct Acceptor(Arc<Configurations>);

#[derive(Debug)]
struct Configurations {
    usual: Arc<ServerConfig>,
    /// What verifies clients with the usual configuration, and what distinguishes it.
    verifier: Option<(Arc<dyn ClientCertVerifier>, [u8; 32])>,
    names: Arc<ByName>,
    /// The same with client certificates.
    ways: Vec<(Arc<ClientAuth>, Arc<ServerConfig>)>,
    by_name: HashMap<String, Option<usize>>,
    default: Option<usize>,
    address: Option<usize>,
}

/// Reads the first message of a client.
pub(super) struct Choosing {
    hello: server::Acceptor,
    /// The message, while the certificate for its name is being obtained.
    waiting: Option<(Accepted, AwaitedName)>,
    acceptor: Acceptor,
    /// Only an authority that validates a name is answered.
    pub(super) only_validations: bool,
}

impl fmt::Debug for Choosing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Choosing")
    }
}

/// What was chosen.
pub(super) struct Chosen {
    pub(super) connection: ServerConnection,
    pub(super) auth: Option<Arc<ClientAuth>>,
}

/// Chooses a certificate by the name that the client asks for (SNI, RFC 6066 3): that of a site, that of the address
/// with this name in it, or the first one.
#[derive(Debug)]
struct ByName {
    sites: Option<Arc<SiteCertificates>>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Keyed by the text after the star.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    /// The first one of the address, for clients that send no name, or an unknown one.
    first: Option<Arc<CertifiedKey>>,
}

impl Acceptor {
    /// For an address with these certificates, besides those of sites; the first one is for clients that send no host
    /// name, or an unknown one. With authorities, clients must present a certificate of theirs; with `clients`, those
    /// that ask for these names.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new(
        certificates: &[Certificate],
        sites: Option<&Arc<SiteCertificates>>,
        tickets: &Tickets,
        authorities: Option<&Authorities>,
        clients: &ClientAuthNames<Authorities>,
    ) -> io::Result<Self> {
        let names = Arc::new(ByName::new(certificates, sites));
        let verified = |authorities, is_required| -> io::Result<_> {
            // Resumed sessions do not present their certificates again, so tickets from before a change are refused.
            let own = Tickets::new()?;
            Ok(configuration(
                &names,
                &own,
                Some((authorities, is_required)),
            ))
        };
        let usual = match authorities {
            None => configuration(&names, tickets, None),
            Some(authorities) => verified(authorities, true)?,
        };
        let verifier = authorities.map(|authorities| {
            let verifier = verifier(Some((authorities, true)), &provider());
            (verifier, authorities.digest)
        });
        let ways = clients.ways.iter().map(|(auth, authorities)| {
            let config = verified(authorities, auth.is_required)?;
            Ok((Arc::new(auth.clone()), config))
        });
        Ok(Self(Arc::new(Configurations {
            usual,
            verifier,
            ways: ways.collect::<io::Result<_>>()?,
            names: Arc::clone(&names),
            by_name: clients.names.clone(),
            default: clients.default,
            address: clients.address,
        })))
    }
}

impl Acceptor {
    /// What distinguishes the authorities of clients, and the lists of revoked certificates; `None`: clients need no
    /// certificate.
    pub fn authorities(&self) -> Option<[u8; 32]> {
        self.0.verifier.as_ref().map(|(_, digest)| *digest)
    }

    /// Verifies the certificate of a client, with its chain, by the usual configuration.
    ///
    /// # Errors
    /// Why it is not valid.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), String> {
        let Some((verifier, _)) = &self.0.verifier else {
            return Ok(());
        };
        let Some((own, issuers)) = chain.split_first() else {
            return Err("there is none".to_owned());
        };
        let verified = verifier.verify_client_cert(own, issuers, UnixTime::now());
        verified.map(drop).map_err(|error| error.to_string())
    }

    /// The usual configuration, and whether the first message of a client may choose another one.
    pub(super) fn usual(&self) -> (&Arc<ServerConfig>, bool) {
        let sites = self.0.names.sites.as_ref();
        let is_on_demand = sites.is_some_and(|sites| sites.on_demand().is_used());
        (&self.0.usual, is_on_demand || !self.0.ways.is_empty())
    }
}

impl Configurations {
    /// The way in which a client has to identify itself.
    fn way(&self, name: Option<&str>) -> Option<usize> {
        let Some(name) = name.map(str::to_ascii_lowercase) else {
            return self.address.or(self.default);
        };
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        let found = self.by_name.get(&name).or_else(wildcard);
        found.copied().unwrap_or(self.default)
    }
}

impl Choosing {
    /// For a connection that begins now.
    pub(super) fn new(acceptor: &Acceptor) -> Self {
        Self {
            hello: server::Acceptor::default(),
            waiting: None,
            acceptor: acceptor.clone(),
            only_validations: false,
        }
    }

    /// Whether the message has arrived, and the certificate for its name is being obtained.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Receives bytes.
    pub(super) fn read(&mut self, from: &mut dyn Read) -> io::Result<usize> {
        self.hello.read_tls(from)
    }

    /// Chooses, once the message is complete, and a certificate that is being obtained for its name is there. An alert is
    /// written to the client if the message is invalid.
    ///
    /// # Errors
    /// `InvalidData` if it is, and `PermissionDenied` if the client is no authority but has to be one.
    pub(super) fn choose(&mut self, to: &mut dyn Write) -> io::Result<Option<Chosen>> {
        let mut refuse = |(error, mut alert): (rustls::Error, server::AcceptedAlert)| {
            // A client that does not take it loses nothing.
            let _ = match self.only_validations {
                true => Ok(()),
                false => alert.write_all(to),
            };
            Error::new(ErrorKind::InvalidData, error)
        };
        let now = Instant::now();
        if let Some((_, awaited)) = &self.waiting
            && !awaited.is_over(now)
        {
            return Ok(None);
        }
        let (accepted, has_waited) = match self.waiting.take() {
            Some((accepted, _)) => (accepted, true),
            None => match self.hello.accept().map_err(&mut refuse)? {
                Some(accepted) => (accepted, false),
                None => return Ok(None),
            },
        };
        let protocols = accepted.client_hello().alpn();
        let is_validation = protocols
            .into_iter()
            .flatten()
            .any(|protocol| protocol == VALIDATION);
        if self.only_validations && !is_validation {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let all = &*self.acceptor.0;
        if !is_validation
            && !has_waited
            && let Some(awaited) = all
                .names
                .wait_for(accepted.client_hello().server_name(), now)
        {
            self.waiting = Some((accepted, awaited));
            return Ok(None);
        }
        // Authorities have no certificate as clients.
        let way = match is_validation {
            true => None,
            false => all.way(accepted.client_hello().server_name()),
        };
        let (auth, config) = match way {
            None => (None, &all.usual),
            Some(way) => {
                let (auth, config) = &all.ways[way];
                (Some(Arc::clone(auth)), config)
            }
        };
        let connection = accepted.into_connection(Arc::clone(config));
        let connection = connection.map_err(&mut refuse)?;
        Ok(Some(Chosen { connection, auth }))
    }
}

/// A configuration that presents the certificates of `names`. With authorities, clients present one of theirs, if it is
/// required.
fn configuration(
    names: &Arc<ByName>,
    tickets: &Tickets,
    clients: Option<(&Authorities, bool)>,
) -> Arc<ServerConfig> {
    let provider = provider();
    let verifier = verifier(clients, &provider);
    let mut config =
        ServerConfig::builder_with_details(provider, Arc::new(TlsClock(SystemTime::now)))
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(names) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    if names.sites.is_some() {
        config.alpn_protocols.push(VALIDATION.to_vec());
    }
    config.ticketer = Arc::clone(&tickets.0);
    config.ignore_client_order = true;
    // One ticket is enough for clients that open connections one after another; each costs a write and a key.
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        ..ring::default_provider()
    })
}

/// Verifies the certificates of clients. Each certificate of a chain must be covered by a list of revoked ones, if there
/// are such lists.
fn verifier(
    clients: Option<(&Authorities, bool)>,
    provider: &Arc<CryptoProvider>,
) -> Arc<dyn ClientCertVerifier> {
    let Some((authorities, is_required)) = clients else {
        return WebPkiClientVerifier::no_client_auth();
    };
    let (roots, provider) = (Arc::clone(&authorities.roots), Arc::clone(provider));
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
        .with_crls(authorities.revoked.iter().cloned());
    let verifier = match is_required {
        true => verifier,
        false => verifier.allow_unauthenticated(),
    };
    verifier
        .build()
        .expect("authorities and lists that were checked")
}

impl ByName {
    fn new(certificates: &[Certificate], sites: Option<&Arc<SiteCertificates>>) -> Self {
        let mut names = Self {
            sites: sites.cloned(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            first: certificates.first().map(|one| Arc::clone(&one.key)),
        };
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut names.wildcard, parent),
                    None => (&mut names.exact, name.as_str()),
                };
                // The first one in the file takes precedence.
                map.entry(name.to_owned())
                    .or_insert_with(|| Arc::clone(&certificate.key));
            }
        }
        names
    }

    /// The certificate of a name in lower case: that of a site, or one of the address.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let own = || {
            let parent = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(parent).cloned()
        };
        let of_site = self.sites.as_ref().and_then(|sites| sites.find(name));
        of_site.or_else(own)
    }

    /// Begins to wait for the certificate of a name that a client asks for. `None`: there is one, or none will come.
    fn wait_for(&self, name: Option<&str>, now: Instant) -> Option<AwaitedName> {
        let queue = self.sites.as_ref()?.on_demand();
        if !queue.is_used() {
            return None;
        }
        let name = name?.to_ascii_lowercase();
        match self.find(&name) {
            Some(_) => None,
            None => queue.wait_for(&name, now),
        }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if let Some(sites) = &self.sites
            && let Some(mut protocols) = hello.alpn()
            && protocols.any(|protocol| protocol == VALIDATION)
        {
            return sites.validation(&name?);
        }
        let found = match name.as_deref() {
            Some(name) => self.find(name),
            None => self.sites.as_ref().and_then(|sites| sites.of_address()),
        };
        let first = || self.first.clone();
        let other = || self.sites.as_ref()?.first();
        found.or_else(first).or_else(other)
    }
}

/// The cipher suites that clients are offered. AES with 128 bits is the fastest, and enough.
const SUITES: &[SupportedCipherSuite] = &[
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The protocol by which an authority validates a name (RFC 8737 6.2).
pub(super) const VALIDATION: &[u8] = b"acme-tls/1";
