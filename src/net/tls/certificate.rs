//! A certificate with its chain and its key, from files or texts in PEM, and what is wrong with them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedCipherSuite};

use crate::config;
use crate::process::reason;
use crate::x509::CertificateFacts;

/// A certificate with its key, loaded from files and checked against each other.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub(super) key: Arc<CertifiedKey>,
    /// Its DNS names in lower case, such as `*.example.com`.
    pub(super) names: Vec<String>,
    facts: CertificateFacts,
}

/// Authorities that are trusted to identify the peer.
#[derive(Clone, Debug)]
pub struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    /// Lists of the certificates that they have revoked.
    pub(super) revoked: Arc<[CertificateRevocationListDer<'static>]>,
    /// The SHA-256 of the files.
    pub(super) digest: [u8; 32],
}

impl Authorities {
    /// Loads the certificates of authorities, in PEM.
    ///
    /// # Errors
    /// The file, and the reason.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        let fault = |why: String| LoadError {
            file: file.to_path_buf(),
            why,
        };
        let text = config::read_text(file, PEM_BYTES).map_err(fault)?;
        let read = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>();
        let certificates: Vec<_> = read.map_err(|error| fault(pem_reason(error)))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| fault(format!("not a certificate: {error}")))?;
        }
        match roots.is_empty() {
            true => Err(fault("no certificate in it".to_owned())),
            false => Ok(Self {
                digest: sha256(&text),
                ..Self::of(roots)
            }),
        }
    }

    /// These, which come from no file.
    pub(super) fn of(roots: RootCertStore) -> Self {
        Self {
            roots: Arc::new(roots),
            revoked: Arc::from([]),
            digest: [0; 32],
        }
    }

    /// Adds the lists of revoked certificates of a file, in PEM.
    ///
    /// # Errors
    /// The file, and the reason.
    pub fn with_revoked(mut self, file: &Path) -> Result<Self, LoadError> {
        let fault = |why: String| LoadError {
            file: file.to_path_buf(),
            why,
        };
        let text = config::read_text(file, REVOKED_BYTES).map_err(fault)?;
        let read = CertificateRevocationListDer::pem_slice_iter(&text).collect::<Result<_, _>>();
        let lists: Vec<CertificateRevocationListDer<'_>> =
            read.map_err(|error| fault(pem_reason(error)))?;
        if lists.is_empty() {
            return Err(fault("no list of revoked certificates in it".to_owned()));
        }
        let provider = Arc::new(ring::default_provider());
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
            .with_crls(lists.iter().cloned())
            .build()
            .map_err(|error| fault(format!("not a list of revoked certificates: {error}")))?;
        self.revoked = lists.into();
        self.digest = sha256(&[self.digest, sha256(&text)].concat());
        Ok(self)
    }
}

/// Why a certificate and its key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemFault {
    /// The certificate, or its chain.
    Certificate(String),
    /// The key.
    Key(String),
    /// The key is that of another certificate.
    OtherKey,
}

/// Why a certificate cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadError {
    /// The file.
    pub file: PathBuf,
    /// The reason.
    pub why: String,
}

impl Certificate {
    /// Loads a certificate with its chain, and its key, in PEM. Both may be in one file.
    ///
    /// # Errors
    /// The wrong file, and the reason.
    pub fn load(certfile: &Path, keyfile: &Path) -> Result<Self, LoadError> {
        let fault = |file: &Path, why: String| LoadError {
            file: file.to_path_buf(),
            why,
        };
        let read = |file: &Path| config::read_text(file, PEM_BYTES).map_err(|why| fault(file, why));
        Self::from_pem(&read(certfile)?, &read(keyfile)?).map_err(|fault| match fault {
            PemFault::Certificate(why) => LoadError {
                file: certfile.to_path_buf(),
                why,
            },
            PemFault::Key(why) => LoadError {
                file: keyfile.to_path_buf(),
                why,
            },
            PemFault::OtherKey => LoadError {
                file: keyfile.to_path_buf(),
                why: format!("not the key of the certificate in {}", certfile.display()),
            },
        })
    }

    /// A certificate with its chain, and its key, from texts in PEM.
    ///
    /// # Errors
    /// Which of them is wrong, and the reason.
    pub fn from_pem(certificates: &[u8], key_text: &[u8]) -> Result<Self, PemFault> {
        let fault = PemFault::Certificate;
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| fault(pem_reason(error)))?;
        let Some(own) = chain.first() else {
            return Err(fault("no certificate in it".to_owned()));
        };
        let names = webpki::EndEntityCert::try_from(own)
            .map_err(|error| fault(format!("not a certificate: {error}")))?
            .valid_dns_names()
            .map(str::to_ascii_lowercase)
            .collect();
        let facts = |der: &CertificateDer<'_>| {
            let facts = CertificateFacts::read(der);
            facts.ok_or_else(|| fault("not a certificate".to_owned()))
        };
        let all = chain.iter().map(facts).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key_text).map_err(|error| {
            PemFault::Key(match error {
                _ if is_encrypted(key_text) => {
                    "the private key is encrypted; decrypt it, openssl pkey -in FILE -out FILE"
                        .to_owned()
                }
                pem::Error::NoItemsFound => "no private key in it".to_owned(),
                other => pem_reason(other),
            })
        })?;
        let provider = ring::default_provider();
        let fits = |chain: Vec<_>| CertifiedKey::from_der(chain, key.clone_key(), &provider);
        let key = fits(chain.clone()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let own = chain.iter().position(|one| fits(vec![one.clone()]).is_ok());
                own.map_or(PemFault::OtherKey, |index| {
                    let number = index + 1;
                    fault(format!(
                        "the key belongs to certificate {number} in it; write that one first, then those of its issuers"
                    ))
                })
            }
            other => PemFault::Key(other.to_string()),
        })?;
        check_order(&all).map_err(fault)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            facts: all.into_iter().next().expect("there is a first one"),
        })
    }

    /// A certificate with its key that only an authority sees, which validates a name (RFC 8737 3). Its critical extension
    /// is nothing that the library knows, so it is not checked here.
    ///
    /// # Errors
    /// The reason why it is not one.
    pub fn for_validation(text: &[u8]) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(text).map_err(pem_reason)?;
        let key = PrivateKeyDer::from_pem_slice(text).map_err(pem_reason)?;
        let facts = CertificateFacts::read(&certificate).ok_or("not a certificate")?;
        let provider = ring::default_provider();
        let key = provider.key_provider.load_private_key(key);
        let key = key.map_err(|error| error.to_string())?;
        Ok(Self {
            key: Arc::new(CertifiedKey::new(vec![certificate], key)),
            names: Vec::new(),
            facts,
        })
    }

    /// The same certificate, which is presented with this response of its authority (OCSP, RFC 6066 8), in DER.
    #[must_use]
    pub fn with_ocsp(&self, response: Vec<u8>) -> Self {
        let mut key = CertifiedKey::clone(&self.key);
        key.ocsp = Some(response);
        Self {
            key: Arc::new(key),
            ..self.clone()
        }
    }

    /// Its DNS names in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it is for this DNS name in lower case.
    pub fn covers(&self, name: &str) -> bool {
        let is_same = |own: &String| match own.strip_prefix("*.") {
            Some(parent) => {
                own == name || name.split_once('.').is_some_and(|(_, rest)| rest == parent)
            }
            None => own == name,
        };
        self.names.iter().any(is_same)
    }

    /// What it says about itself.
    pub const fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

/// Each certificate after the first one must have issued one before it; clients may not look further.
fn check_order(chain: &[CertificateFacts]) -> Result<(), String> {
    for (index, issuer) in chain.iter().enumerate().skip(1) {
        let issued = |one: &CertificateFacts| one.issuer == issuer.subject;
        if !chain[..index].iter().any(issued) {
            let number = index + 1;
            return Err(format!(
                "certificate {number} in it has issued none of those before it; \
                 write the site's own one first, then that of its issuer, and so on"
            ));
        }
    }
    Ok(())
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for LoadError {}

/// Whether a private key in PEM needs a passphrase: PKCS #8, or the older format of OpenSSL.
fn is_encrypted(text: &[u8]) -> bool {
    let has = |needle: &str| memchr::memmem::find(text, needle.as_bytes()).is_some();
    has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED")
}

fn pem_reason(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => reason(&error),
        pem::Error::NoItemsFound => "no certificate in it".to_owned(),
        other => format!("not PEM: {other}"),
    }
}

/// Most bytes of a file of revoked certificates.
const REVOKED_BYTES: u64 = 16 << 20;
/// Most bytes of a file of certificates; the authorities of a whole system have a quarter of a megabyte.
const PEM_BYTES: u64 = 4 << 20;

/// The SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let SupportedCipherSuite::Tls13(suite) = ring::cipher_suite::TLS13_AES_128_GCM_SHA256 else {
        unreachable!("a suite of TLS 1.3");
    };
    let hash = suite.common.hash_provider.hash(bytes);
    hash.as_ref().try_into().expect("32 bytes")
}
