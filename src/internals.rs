//! What the programs, the tests and the fuzz targets of this package use besides the public interface.
//!
//! It is no part of the interface: its contents may change or go with every release. Use [`Server`](crate::Server),
//! [`client`](crate::client), [`access`](crate::access), [`config`](crate::config) and [`stats`](crate::stats).

/// Amounts in messages.
pub mod amount {
    pub use crate::amount::*;
}

/// What happens between the dial-in addresses and the exchanges.
pub mod backend {
    pub use crate::backend::*;
}

/// Limits that threads share.
pub mod budget {
    pub use crate::budget::*;
}

/// Configurations: how files are inspected before a start, and changed by commands.
pub mod config {
    pub use crate::config::edit::*;
    pub use crate::config::inspection::*;
    pub use crate::config::keys::*;
    pub use crate::config::live::*;
    pub use crate::config::value::time_of;
}

/// Files.
pub mod content {
    pub use crate::content::*;
}

/// The syntax of HTTP.
pub mod http {
    pub use crate::http::*;
}

/// The logger of the programs.
pub mod logging {
    pub use crate::logging::*;
}

/// Sockets.
pub mod net {
    pub use crate::net::*;
}

/// The preamble of the dial-in protocol.
pub mod preamble {
    pub use crate::preamble::*;
}

/// The operating system, for the process as a whole.
pub mod process {
    pub use crate::process::*;
}

/// Commands that only a program can carry out.
pub mod server {
    pub use crate::server::commands::*;
}

/// Certificates.
pub mod x509 {
    pub use crate::x509::*;
}

/// Certificates that the server obtains or makes.
pub mod acme {
    pub use crate::acme::*;
}

/// Foreign text in messages.
pub mod escape {
    pub use crate::escape::*;
}

/// One exchange.
pub mod exchange {
    pub use crate::exchange::*;
}

/// Files of passwords.
pub mod passwords {
    pub use crate::passwords::*;
}

/// One exchange, from the lease of a backend on.
pub mod relay {
    pub use crate::relay::*;
}
