//! Turns a file into a response: conditions, ranges, fields.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::exchange::{
    Body, Entity, FileBody, FilePart, Response, ResponseSource, StoredFile, Trace,
};
use crate::http::body::Framing;
use crate::http::conditional::{ConditionResult, Conditions, RangeSelection};
use crate::http::encoding;
use crate::http::head::{Method, RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// The result for a request that concerns a file.
#[expect(clippy::large_enum_variant, reason = "almost every one is a file")]
pub enum FileResponse {
    /// A response with the file or a part of it, or a 304.
    File(Response),
    /// 301: a directory; this is its path with the final slash.
    Moved(String),
    /// 412: a condition does not hold.
    Failed,
    /// 416: no requested range overlaps the file, which has this many bytes.
    Unsatisfiable(u64),
    /// The file exists but cannot be opened or read now.
    Unreadable(io::Error),
}

/// What is available of a file.
pub(super) enum Source {
    Stored(Arc<StoredFile>),
    /// Only its validators, which is enough for a 304.
    Tag(Entity),
    Open(File, Entity),
}

/// Makes the response with a file. `backend`: the fields of the backend's response that it replaces.
pub(super) fn serve(
    source: Source,
    request: &RequestHead,
    backend: Option<&Headers>,
) -> FileResponse {
    let conditions = Conditions::of(&request.headers);
    if let (Source::Stored(stored), true, None) = (&source, conditions.is_empty(), backend) {
        return ready(Arc::clone(stored));
    }
    let entity = match &source {
        Source::Stored(stored) => stored.entity.clone(),
        Source::Open(_, entity) | Source::Tag(entity) => entity.clone(),
    };
    let kept = match &source {
        Source::Stored(_) | Source::Tag(_) => ResponseSource::Cache,
        Source::Open(..) => ResponseSource::File,
    };
    let validators = &entity.validators;
    match conditions.check(validators) {
        ConditionResult::Go => {}
        ConditionResult::Failed => return FileResponse::Failed,
        ConditionResult::NotModified => {
            let mut head = ResponseHead::new(304);
            push_entity(&mut head.headers, &entity);
            push_kept(&mut head.headers, backend, &OF_CONTENT);
            return file(head, Body::Empty, kept);
        }
    }
    let refuses = |fields: &Headers| fields.get("Accept-Ranges") == Some(b"none");
    let accepts = entity.divides && !backend.is_some_and(refuses);
    let wanted = match request.method == Method::Get && accepts {
        true => conditions.ranges(validators),
        false => RangeSelection::Whole,
    };
    let whole = 0..validators.length;
    let (status, parts) = match wanted {
        RangeSelection::Whole => (200, Vec::from([whole])),
        RangeSelection::Parts(parts) => (206, parts),
        RangeSelection::Unsatisfiable => return FileResponse::Unsatisfiable(validators.length),
    };
    let mut head = ResponseHead::new(status);
    push_entity(&mut head.headers, &entity);
    push_coding(&mut head.headers, &entity);
    let accepts: &[u8] = if accepts { b"bytes" } else { b"none" };
    head.headers.push("Accept-Ranges", accepts);
    push_kept(&mut head.headers, backend, &[]);
    let own_type = backend.and_then(|fields| fields.get("Content-Type"));
    let content_type = own_type.unwrap_or(entity.content_type.as_bytes());
    let pieces = divide(parts, validators.length, content_type, &mut head);
    file(head, body(source, pieces), kept)
}

/// The pieces of a body with these parts of a file; adds Content-Type and Content-Range to the head.
fn divide(
    parts: Vec<Range<u64>>,
    length: u64,
    content_type: &[u8],
    head: &mut ResponseHead,
) -> Vec<FilePart> {
    let headers = &mut head.headers;
    if let [part] = &*parts {
        headers.push("Content-Type", content_type);
        if head.status == 206 {
            headers.push("Content-Range", content_range(part, length).as_bytes());
        }
        return parts.into_iter().map(FilePart::Range).collect();
    }
    let boundary = boundary();
    let text = format!("multipart/byteranges; boundary={boundary}");
    headers.push("Content-Type", text.as_bytes());
    several(&parts, length, content_type, &boundary)
}

fn body(source: Source, pieces: Vec<FilePart>) -> Body {
    match (source, &*pieces) {
        (Source::Open(file, _), _) => Body::File(FileBody {
            file,
            pieces: pieces.into(),
        }),
        (Source::Stored(stored), [FilePart::Range(range)]) => Body::Stored {
            range: within(range, &stored),
            stored,
            ready: false,
        },
        (Source::Stored(stored), pieces) => Body::Bytes(join(pieces, &stored)),
        // Only selected if the response is a 304.
        (Source::Tag(_), _) => Body::Empty,
    }
}

/// A complete file in memory: the most frequent case, so its head is prepared.
fn ready(stored: Arc<StoredFile>) -> FileResponse {
    let body = Body::Stored {
        range: 0..stored.bytes.len(),
        stored,
        ready: true,
    };
    file(ResponseHead::new(200), body, ResponseSource::Cache)
}

fn file(head: ResponseHead, body: Body, source: ResponseSource) -> FileResponse {
    let trace = Trace {
        source,
        ..Trace::default()
    };
    FileResponse::File(Response { head, body, trace })
}

pub(super) fn store(bytes: Vec<u8>, entity: Entity) -> StoredFile {
    let mut head = ResponseHead::new(200);
    push_entity(&mut head.headers, &entity);
    push_coding(&mut head.headers, &entity);
    let accepts: &[u8] = if entity.divides { b"bytes" } else { b"none" };
    head.headers.push("Accept-Ranges", accepts);
    head.headers
        .push("Content-Type", entity.content_type.as_bytes());
    let mut written = Vec::new();
    head.write_first(Framing::Length(bytes.len() as u64), &mut written);
    written.shrink_to_fit();
    StoredFile {
        head: written,
        bytes,
        entity,
    }
}

/// Whether the response is a 304.
pub(super) fn has_not_changed(entity: &Entity, request: &Headers) -> bool {
    let conditions = Conditions::of(request);
    conditions.is_about_cache()
        && conditions.check(&entity.validators) == ConditionResult::NotModified
}

/// Adds the fields that a 304 has too.
fn push_entity(headers: &mut Headers, entity: &Entity) {
    let validators = &entity.validators;
    headers.push("ETag", validators.etag.as_bytes());
    if let Some(date) = validators.last_modified() {
        headers.push("Last-Modified", date.as_bytes());
    }
    if entity.varies {
        encoding::varies(headers);
    }
}

fn push_coding(headers: &mut Headers, entity: &Entity) {
    if let Some(coding) = entity.coding {
        headers.push("Content-Encoding", coding.name().as_bytes());
    }
}

/// Adds the fields of a backend that names a file, except [`REPLACED`] and these.
fn push_kept(headers: &mut Headers, backend: Option<&Headers>, without: &[&str]) {
    for (name, value) in backend.into_iter().flat_map(Headers::iter) {
        let mut left_out = REPLACED.iter().chain(without);
        if !left_out.any(|left_out| name.eq_ignore_ascii_case(left_out)) {
            headers.push(name, value);
        }
    }
}

/// The pieces of a multipart body (RFC 9110 14.6).
fn several(
    parts: &[Range<u64>],
    length: u64,
    content_type: &[u8],
    boundary: &str,
) -> Vec<FilePart> {
    let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
    let mut before = format!("--{boundary}\r\nContent-Type: ");
    for part in parts {
        let mut text =
            std::mem::replace(&mut before, format!("\r\n--{boundary}\r\nContent-Type: "))
                .into_bytes();
        text.extend_from_slice(content_type);
        let range = content_range(part, length);
        text.extend_from_slice(format!("\r\nContent-Range: {range}\r\n\r\n").as_bytes());
        pieces.push(FilePart::Text(text));
        pieces.push(FilePart::Range(part.clone()));
    }
    pieces.push(FilePart::Text(
        format!("\r\n--{boundary}--\r\n").into_bytes(),
    ));
    pieces
}

fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end - 1)
}

/// A random boundary, which does not occur in any file.
fn boundary() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn join(pieces: &[FilePart], stored: &StoredFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(match piece {
            FilePart::Text(text) => text,
            FilePart::Range(range) => &stored.bytes[within(range, stored)],
        });
    }
    bytes
}

/// The same range as indexes into the bytes, which have this length.
fn within(range: &Range<u64>, stored: &StoredFile) -> Range<usize> {
    let at = |place: u64| {
        usize::try_from(place).map_or(stored.bytes.len(), |at| at.min(stored.bytes.len()))
    };
    at(range.start)..at(range.end)
}

/// The path of a directory with its final slash, and the query.
pub(super) fn with_slash(request: &RequestHead) -> String {
    // Two leading slashes would mean a host name (RFC 3986 4.2).
    let path = request.target.path().trim_matches('/');
    match request.target.query() {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    }
}

/// A backend that names a file also sends fields with it. Those about the response as a whole are kept: who else may
/// see it (Vary, RFC 9111 4.1), how a browser treats it, cookies. These are replaced, since they are about the body or
/// the status that the file replaces, or the file has its own. The list is based on IANA's registry of field names.
const REPLACED: [&str; 16] = [
    "Accept-Ranges",
    "Content-Digest",
    "Content-MD5",
    "Content-Range",
    "Content-Type",
    "Digest",
    "ETag",
    "Last-Modified",
    "Location",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Repr-Digest",
    "Retry-After",
    "Trailer",
    "Unencoded-Digest",
    "WWW-Authenticate",
];
/// Fields that a 304 does not have, besides these (RFC 9110 15.4.5).
const OF_CONTENT: [&str; 3] = [
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
];
