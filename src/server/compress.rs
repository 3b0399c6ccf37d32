//! Which answers are compressed on their way (`gzip`).
//!
//! Runs on a worker, between the head of a backend's answer and its delivery. A compressor is charged to `limits.memory`
//! for as long as it lives; where that is used up, answers go out as they are.

use super::snapshot::Snapshot;
use crate::budget::Charge;
use crate::config::Gzip;
use crate::exchange::{Body, Response, Source};
use crate::http::encoding::{self, Accepted, Coding};
use crate::http::head::{Method, RequestHead, Version};

/// The answer as its visitor gets it: compressed, if the site wants that, the visitor takes it and the answer allows it.
pub(crate) fn compress<'w>(
    snapshot: &Snapshot,
    gzip: Option<&Gzip>,
    request: &RequestHead,
    mut response: Response<'w>,
) -> Response<'w> {
    let Some(gzip) = gzip.filter(|_| cfg!(feature = "gzip")) else {
        return response;
    };
    let head = &mut response.head;
    if head.status == 304 {
        encoding::varies(&mut head.headers);
        encoding::matches(head, &request.headers);
        return response;
    }
    let length = match (&response.body, &request.method) {
        (Body::Stream { length, .. }, _) => *length,
        // What GET would bring.
        (Body::Empty, Method::Head) => head.length,
        _ => return response,
    };
    let small = length.is_some_and(|length| length < gzip.minimum);
    if small || !encoding::may_be_encoded(head, &gzip.types) {
        return response;
    }
    encoding::varies(&mut head.headers);
    // HTTP/1.0 knows no chunks: its connection would have to be closed for the end of the answer to be told.
    let takes = request.version == Version::Http11
        && Accepted::of(&request.headers).takes(Coding::Gzip)
        && !encoding::forbids_change(&request.headers);
    let charge = match takes {
        true => snapshot.memory.charge_optional(COMPRESSOR),
        false => None,
    };
    let Some(charge) = charge else {
        return response;
    };
    encoding::encoded(head, Coding::Gzip);
    if let Body::Stream { source, .. } = response.body {
        response.body = Body::Stream {
            length: None,
            source: wrap(source, gzip.level, charge),
        };
    }
    response
}

#[cfg(feature = "gzip")]
fn wrap<'w>(source: Box<dyn Source + 'w>, level: u32, charge: Charge) -> Box<dyn Source + 'w> {
    Box::new(crate::content::gzip::Gzip::new(source, level, charge))
}

/// Never called.
#[cfg(not(feature = "gzip"))]
fn wrap<'w>(source: Box<dyn Source + 'w>, _: u32, _: Charge) -> Box<dyn Source + 'w> {
    source
}

/// Bytes of a compressor with its buffers, whatever it compresses.
const COMPRESSOR: u64 = 400 << 10;
