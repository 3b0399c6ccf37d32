//! What the command line says.

use std::path::PathBuf;
use std::time::Duration;

/// What the command line says. It goes above the file's top level, at every reload too.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--cluster-address`
    pub cluster_address: Option<String>,
    /// `--cluster-port`
    pub cluster_port: Option<u16>,
    /// `--backend-address`; 127.0.0.1 where only the port is given.
    pub backend_address: Option<String>,
    /// `--backend-port`: adds a default site without host names.
    pub backend_port: Option<u16>,
    /// `--daemonize`
    pub daemonize: Option<bool>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// `--pid`
    pub pidfile: Option<PathBuf>,
    /// Where relative paths begin, those of the file included. `None` is the working directory, which a
    /// daemon has left when it reloads.
    pub directory: Option<PathBuf>,
}
