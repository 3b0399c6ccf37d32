//! HTTP/1.1 without sockets: parsing and writing messages.
//!
//! Everything here is pure: no sockets, no files, no clock, no log. A message is parsed strictly into its parts, with
//! exactly one framing, and written again from them. Heads and chunk framing are never copied verbatim: most request
//! smuggling depends on two readers that understand the same bytes differently.
//!
//! [`head`] parses and writes heads, [`headers`] holds fields, [`target`] parses request targets and hosts, [`body`]
//! decodes and encodes bodies, [`conditional`] evaluates conditions and ranges, [`encoding`] negotiates compression,
//! [`fastcgi`] translates between FastCGI and HTTP, [`forwarding`] lists the fields that only a proxy may send,
//! [`auth`] is Basic authentication, [`request_id`] makes and reads ids of requests, [`date`] formats dates.

pub mod auth;
pub mod body;
pub mod conditional;
pub mod date;
pub mod encoding;
pub mod fastcgi;
pub mod forwarding;
pub mod head;
pub mod headers;
mod limits;
mod refusal;
pub mod request_id;
mod syntax;
pub mod target;
