//! Options of the command line.

use std::path::PathBuf;
use std::time::Duration;

/// Options of the command line. They override the top level of the file, also on reload.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--cluster-address`
    pub cluster_address: Option<String>,
    /// `--cluster-port`
    pub cluster_port: Option<u16>,
    /// `--backend-address`; 127.0.0.1 if only the port is given.
    pub backend_address: Option<String>,
    /// `--backend-port`: adds a default site without host names.
    pub backend_port: Option<u16>,
    /// `--daemonize`
    pub daemonize: Option<bool>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// `--pid`
    pub pidfile: Option<PathBuf>,
    /// The base of relative paths, including those in the file; `None`: the working directory, which a daemon no
    /// longer has when it reloads.
    pub directory: Option<PathBuf>,
}
