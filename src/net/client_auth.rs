//! How clients of sites identify themselves with certificates: plain data, also in a build without TLS.

use std::collections::HashMap;
use std::path::PathBuf;

/// How clients of a site identify themselves (`client_ca`, `client_certificate`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// The file of the authorities.
    pub file: PathBuf,
    /// The file of lists of revoked certificates (`client_crl`).
    pub revoked: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub is_required: bool,
}

/// The client certificates of sites, by the name that a client asks for. `A`: the authorities of a file.
#[derive(Clone, Debug)]
pub struct ClientAuthNames<A> {
    /// Each way of identification with its authorities.
    pub ways: Vec<(ClientAuth, A)>,
    /// All names of sites, `*.example.com` for one label, with the index of the way.
    pub names: HashMap<String, Option<usize>>,
    /// That of all other names, and of clients that send none.
    pub default: Option<usize>,
    /// That of clients that send no name since they have connected to a literal address.
    pub address: Option<usize>,
}

/// No site asks for certificates.
impl<A> Default for ClientAuthNames<A> {
    fn default() -> Self {
        Self {
            ways: Vec::new(),
            names: HashMap::new(),
            default: None,
            address: None,
        }
    }
}
