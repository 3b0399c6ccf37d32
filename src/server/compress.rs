//! Which responses are compressed on their way (`gzip`).
//!
//! Runs on a worker, between the head of a backend's response and its delivery. Each compressor takes some 400 KiB of the
//! memory budget for as long as its response lasts; a response for which there is no memory goes out as it is.

use super::pending::PendingRequest;
use crate::backend::lease::Lease;
use crate::content::gzip::Gzip;
use crate::http::encoding::{self, Accepted, Coding};
use crate::http::head::{Method, ResponseHead, Version};
use crate::relay::download::Download;

/// Makes a head that of a compressed response, and the compressor, if the site wants that, the visitor takes it and the
/// response allows it.
pub(crate) fn compress(
    pending: &PendingRequest,
    head: &mut ResponseHead,
    download: &Download<Lease>,
) -> Option<Gzip> {
    let gzip = pending.site().settings.gzip.as_ref();
    let gzip = gzip.filter(|_| cfg!(feature = "gzip"))?;
    let request = &pending.request.head;
    if head.status == 304 {
        encoding::varies(&mut head.headers);
        encoding::matches(head, &request.headers);
        return None;
    }
    let length = match (download.is_empty(), &request.method) {
        (false, _) => download.length(),
        // What GET would bring.
        (true, Method::Head) => head.length,
        (true, _) => return None,
    };
    let small = length.is_some_and(|length| length < gzip.minimum);
    if small || !encoding::may_be_encoded(head, &gzip.types) {
        return None;
    }
    encoding::varies(&mut head.headers);
    // HTTP/1.0 knows no chunks: its connection would have to be closed at the end of the response.
    let takes = request.version == Version::Http11
        && Accepted::of(&request.headers).takes(Coding::Gzip)
        && !encoding::forbids_change(&request.headers);
    if !takes {
        return None;
    }
    if download.is_empty() {
        encoding::encoded(head, Coding::Gzip);
        return None;
    }
    let gzip = pending.snapshot.shared.compressors.begin(gzip.level)?;
    encoding::encoded(head, Coding::Gzip);
    Some(gzip)
}
