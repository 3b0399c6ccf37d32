//! Compresses responses on their way (`gzip`): those of backends, and files that are not in memory in compressed form.
//!
//! Runs on a worker, between the head of a response and its delivery. Each compressor uses some 400 KiB of the memory
//! budget for as long as its response lasts; when there is no memory left, the response goes out uncompressed.

use std::sync::Arc;

use super::snapshot::Site;
use crate::backend::lease::Lease;
use crate::config;
use crate::content::gzip::{Compressors, GzipBody};
use crate::exchange::Body;
use crate::http::encoding::{self, Accepted, ContentCoding};
use crate::http::head::{Method, RequestHead, ResponseHead, Version};
use crate::relay::delivery::Payload;
use crate::relay::download::Download;

/// Turns a head into that of a compressed response and returns the compressor, if the site wants that, the client
/// accepts it and the response allows it.
pub(crate) fn compress_backend(
    compressors: &Arc<Compressors>,
    site: &Site,
    request: &RequestHead,
    head: &mut ResponseHead,
    download: &Download<Lease>,
) -> Option<GzipBody> {
    let gzip = settings(site)?;
    if head.status == 304 {
        encoding::varies(&mut head.headers);
        encoding::matches(head, &request.headers);
        return None;
    }
    let length = match (download.is_empty(), &request.method) {
        (false, _) => download.length(),
        // The length that GET would bring.
        (true, Method::Head) => head.length,
        (true, _) => return None,
    };
    if !compresses(gzip, request, head, length) {
        return None;
    }
    if download.is_empty() {
        encoding::encoded(head, ContentCoding::Gzip);
        return None;
    }
    let gzip = compressors.begin(gzip.level)?;
    encoding::encoded(head, ContentCoding::Gzip);
    Some(gzip)
}

/// The payload of one of the server's own responses: as it is, or a file that is compressed while it is sent, in which
/// case the head is changed. Files in memory are compressed already where that is wanted.
pub(crate) fn compress_own(
    compressors: &Arc<Compressors>,
    site: &Site,
    request: &RequestHead,
    head: &mut ResponseHead,
    body: Body,
) -> Payload<Lease> {
    let Some(gzip) = settings(site) else {
        return Payload::Body(body);
    };
    match body {
        Body::File(file) if compresses(gzip, request, head, Some(file.length())) => {
            if request.method == Method::Head {
                encoding::encoded(head, ContentCoding::Gzip);
                return Payload::Body(Body::Empty);
            }
            match compressors.begin(gzip.level) {
                Some(gzip) => {
                    encoding::encoded(head, ContentCoding::Gzip);
                    Payload::Compressed(file, gzip)
                }
                None => Payload::Body(Body::File(file)),
            }
        }
        body => {
            if head.status == 304 && head.headers.contains("Vary") {
                encoding::matches(head, &request.headers);
            }
            Payload::Body(body)
        }
    }
}

fn settings(site: &Site) -> Option<&config::GzipConfig> {
    site.settings
        .gzip
        .as_ref()
        .filter(|_| cfg!(feature = "gzip"))
}

/// Whether a response is to be compressed. Adds Vary to its head if that depends on the request.
fn compresses(
    gzip: &config::GzipConfig,
    request: &RequestHead,
    head: &mut ResponseHead,
    length: Option<u64>,
) -> bool {
    let small = length.is_some_and(|length| length < gzip.minimum);
    if small || !encoding::may_be_encoded(head, &gzip.types) {
        return false;
    }
    encoding::varies(&mut head.headers);
    // HTTP/1.0 has no chunks: its connection would have to be closed at the end of the response.
    request.version == Version::Http11
        && Accepted::of(&request.headers).takes(ContentCoding::Gzip)
        && !encoding::forbids_change(&request.headers)
}
