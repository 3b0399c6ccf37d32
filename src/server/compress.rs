//! Which answers are compressed on their way (`gzip`).
//!
//! Runs on a worker, between the head of a backend's answer and its delivery. No more answers are compressed at a time
//! than there are workers, which bounds the memory for it; one above that goes out as it is.

use std::sync::Arc;

use super::snapshot::Snapshot;
use crate::config::Gzip;
use crate::content::Permit;
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
    let permit = Arc::clone(&snapshot.permit);
    if !takes || Arc::strong_count(&permit) > snapshot.config.workers + 1 {
        return response;
    }
    encoding::encoded(head, Coding::Gzip);
    if let Body::Stream { source, .. } = response.body {
        response.body = Body::Stream {
            length: None,
            source: wrap(source, gzip.level, permit),
        };
    }
    response
}

#[cfg(feature = "gzip")]
fn wrap<'w>(source: Box<dyn Source + 'w>, level: u32, permit: Arc<Permit>) -> Box<dyn Source + 'w> {
    Box::new(crate::content::gzip::Gzip::new(source, level, permit))
}

/// Never called.
#[cfg(not(feature = "gzip"))]
fn wrap<'w>(source: Box<dyn Source + 'w>, _: u32, _: Arc<Permit>) -> Box<dyn Source + 'w> {
    source
}
