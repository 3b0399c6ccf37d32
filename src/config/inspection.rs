//! How the files that a configuration names are looked into before a start.

use std::path::{Path, PathBuf};

/// A file, and what is wrong with it.
pub type FileFault = (PathBuf, String);

/// How to look into files of which this module knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Inspection {
    /// Reads a certificate and its key; an error has the file that is at fault, and why.
    pub certificate: fn(&Path, &Path) -> Result<(), FileFault>,
    /// Reads the certificates of authorities; an error says what is wrong.
    pub authorities: fn(&Path) -> Result<(), String>,
}
