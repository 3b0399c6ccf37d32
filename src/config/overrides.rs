//! Options of the command line.

use std::path::PathBuf;
use std::time::Duration;

use super::raw::Node;

/// Options of the command line. They override the top level of the file, also on reload.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
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
    /// `--site`, `--to` and `--files`: the only site of a server without a file.
    pub site: Option<CommandLineSite>,
    /// `--timeout`
    pub timeout: Option<Duration>,
    /// `--pid`
    pub pidfile: Option<PathBuf>,
    /// The base of relative paths, including those in the file; `None`: the working directory, which a daemon no
    /// longer has when it reloads.
    pub directory: Option<PathBuf>,
}

/// A site of the command line. At least one of `servers` and `files` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandLineSite {
    /// Host names (`incoming`); none: all requests.
    pub names: Vec<String>,
    /// Addresses of servers (`servers`).
    pub servers: Vec<String>,
    /// The directory of files (`docroot`).
    pub files: Option<String>,
}

impl CommandLineSite {
    /// The port for clients if `--cluster-port` is not given: a site with a name is for the web, one without a name is
    /// for trying something out.
    pub(super) const fn port(&self) -> u16 {
        if self.names.is_empty() { 8080 } else { 80 }
    }

    /// The entry of `map`.
    pub(super) fn entry(&self) -> Node {
        let text = |text: &String| Node::Text(text.clone());
        let list = |texts: &[String]| Node::List(texts.iter().map(text).collect());
        let mut entry = vec![match self.names.as_slice() {
            [] => ("default".into(), Node::Bool(true)),
            names => ("incoming".into(), list(names)),
        }];
        if !self.servers.is_empty() {
            entry.push(("proxy".into(), Node::Text("traditional".into())));
            entry.push(("servers".into(), list(&self.servers)));
        }
        let files = self.files.iter();
        entry.extend(files.map(|directory| ("docroot".into(), text(directory))));
        Node::Map(entry)
    }
}
