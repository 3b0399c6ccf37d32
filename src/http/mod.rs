//! HTTP/1.1 without sockets: bytes in, messages out, and back.
//!
//! Everything here is pure: no sockets, no files, no clock, no log. A message is parsed strictly into its parts, with
//! exactly one framing, and written anew from them; head bytes and chunk framing are never copied through, for
//! nearly every way to smuggle a request begins where two readers understand the same bytes differently.
//!
//! [`headers`] holds fields, [`target`] is what a request asks for, [`head`] reads and writes both kinds of head,
//! [`body`] the three kinds of framing, [`conditional`] when an answer needs no body, or a part of it, [`encoding`] which
//! answers are compressed for whom, [`forwarding`] which fields only a proxy may send, [`auth`] how a visitor says who it
//! is, [`date`] how dates are written.

pub mod auth;
pub mod body;
pub mod conditional;
pub mod date;
pub mod encoding;
pub mod forwarding;
pub mod head;
pub mod headers;
mod limits;
mod refusal;
mod syntax;
pub mod target;
