//! How scripts are run by FastCGI servers.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The settings of a site whose servers speak FastCGI, such as php-fpm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FastCgiConfig {
    /// The docroot as the servers see it, absolute (`fastcgi_root`); `None`: at the same path as here.
    pub root: Option<PathBuf>,
    /// Further parameters of each request (`fastcgi_params`).
    pub params: BTreeMap<String, String>,
}
