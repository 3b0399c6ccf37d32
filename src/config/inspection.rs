//! How to inspect certificates and keys that a configuration names, before a start.

use std::path::{Path, PathBuf};

/// A file, and what is wrong with it.
pub type FileFault = (PathBuf, String);

/// Functions that inspect files of which this module knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Inspection {
    /// Loads a certificate and its key; an error names the wrong file and the reason.
    pub certificate: fn(&Path, &Path) -> Result<(), FileFault>,
    /// Loads the certificates of authorities; an error gives the reason.
    pub authorities: fn(&Path) -> Result<(), String>,
    /// Loads the lists of certificates that authorities, the first file, have revoked; an error gives the reason.
    pub revoked: fn(&Path, &Path) -> Result<(), String>,
}
