//! Certificates that the server obtains by ACME (RFC 8555, `tls: auto`), or makes itself (`tls: internal`).
//!
//! Everything happens on the thread `acme`, which blocks; requests of clients only look up pending [`challenges`], and
//! handshakes the certificates in [`SiteCertificates`](crate::net::tls::SiteCertificates).
//!
//! In reading order: [`manager`] has the names and runs the thread; `managed` is the state of a name; `order` obtains a
//! certificate by requests of `client`, which are signed with `jose`, as an `account`; `authorization` proves that we
//! serve the name, `validation` shows that proof, and `sharing` has other proxies show it. `on_demand` adds names that
//! clients ask for, if the operator's program allows them when `ask` asks it. `keys` makes keys and certificates,
//! `store` has the files, and `schedule` says when to try again and when to renew. [`listing`] is what operators see,
//! `dry_run` tries for them whether names would get certificates.
//!
//! Without the cargo feature `acme`, `no_manager` replaces [`manager`], and the configuration refuses both values of `tls`.
//! Without the feature `redis`, `no_sharing` replaces `sharing`.

#[cfg(feature = "acme")]
mod account;
#[cfg(feature = "acme")]
mod ask;
#[cfg(feature = "acme")]
mod authorization;
pub mod challenges;
#[cfg(feature = "acme")]
mod client;
#[cfg(feature = "acme")]
mod dry_run;
#[cfg(feature = "acme")]
mod jose;
#[cfg(feature = "acme")]
mod keys;
pub mod listing;
#[cfg(feature = "acme")]
mod managed;
#[cfg(feature = "acme")]
pub mod manager;
#[cfg(not(feature = "acme"))]
#[path = "no_manager.rs"]
pub mod manager;
#[cfg(feature = "acme")]
mod on_demand;
#[cfg(feature = "acme")]
mod order;
#[cfg(feature = "acme")]
mod schedule;
#[cfg(all(feature = "acme", feature = "redis"))]
mod shared;
#[cfg(all(feature = "acme", feature = "redis"))]
mod sharing;
#[cfg(all(feature = "acme", not(feature = "redis")))]
#[path = "no_sharing.rs"]
mod sharing;
#[cfg(feature = "acme")]
mod store;
#[cfg(feature = "acme")]
mod validation;
