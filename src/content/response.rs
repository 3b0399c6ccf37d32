//! From a file to the response with it: conditions, ranges, fields.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::exchange::{Body, Entity, FileBody, FilePart, Response, StoredFile, Trace};
use crate::http::body::Framing;
use crate::http::conditional::{ConditionResult, Conditions, RangeSelection};
use crate::http::encoding;
use crate::http::head::{Method, RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// What there is to be said to a request.
pub enum Answer {
    /// The file, a part of it, or that it has not changed.
    File(Response),
    /// 301: it is a directory, and this is its path, with the slash.
    Moved(String),
    /// 412: a condition does not hold.
    Failed,
    /// 416: the file, which has so many bytes, lacks those.
    Unsatisfiable(u64),
    /// The file is there and cannot be had at this moment.
    Unreadable(io::Error),
}

/// What there is of a file.
pub(super) enum Source {
    Stored(Arc<StoredFile>),
    /// Only enough to say that it has not changed.
    Tag(Entity),
    Open(File, Entity),
}

/// Makes the response of a file. `backend`: the fields of the response whose place it takes.
pub(super) fn serve(source: Source, request: &RequestHead, backend: Option<&Headers>) -> Answer {
    let conditions = Conditions::of(&request.headers);
    if let (Source::Stored(stored), true, None) = (&source, conditions.is_empty(), backend) {
        return ready(Arc::clone(stored));
    }
    let entity = match &source {
        Source::Stored(stored) => stored.entity.clone(),
        Source::Open(_, entity) | Source::Tag(entity) => entity.clone(),
    };
    let validators = &entity.validators;
    match conditions.check(validators) {
        ConditionResult::Go => {}
        ConditionResult::Failed => return Answer::Failed,
        ConditionResult::NotModified => {
            let mut head = ResponseHead::new(304);
            push_entity(&mut head.headers, &entity);
            push_kept(&mut head.headers, backend, &OF_CONTENT);
            return file(head, Body::Empty);
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
        RangeSelection::Unsatisfiable => return Answer::Unsatisfiable(validators.length),
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
    file(head, body(source, pieces))
}

/// The pieces of the body that has these parts of a file with this length; says in the head what they are.
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
        // Found only for what has not changed.
        (Source::Tag(_), _) => Body::Empty,
    }
}

/// A whole file in memory. Most answers are one of these, so its head is ready.
fn ready(stored: Arc<StoredFile>) -> Answer {
    let body = Body::Stored {
        range: 0..stored.bytes.len(),
        stored,
        ready: true,
    };
    file(ResponseHead::new(200), body)
}

fn file(head: ResponseHead, body: Body) -> Answer {
    Answer::File(Response {
        head,
        body,
        trace: Trace::default(),
    })
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

/// Whether the client has this already.
pub(super) fn has_not_changed(entity: &Entity, request: &Headers) -> bool {
    let conditions = Conditions::of(request);
    conditions.is_about_cache()
        && conditions.check(&entity.validators) == ConditionResult::NotModified
}

/// What a 304 says too.
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

/// Passes on what an application says about a file that it only names, but for these fields.
fn push_kept(headers: &mut Headers, backend: Option<&Headers>, without: &[&str]) {
    for (name, value) in backend.into_iter().flat_map(Headers::iter) {
        let mut left_out = REPLACED.iter().chain(without);
        if !left_out.any(|left_out| name.eq_ignore_ascii_case(left_out)) {
            headers.push(name, value);
        }
    }
}

/// Several parts with what stands around them (RFC 9110 14.6).
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

/// A text that stands in no file, but for an accident that does not happen.
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

/// The same range, of bytes in memory. It is within the length, which is that of the bytes.
fn within(range: &Range<u64>, stored: &StoredFile) -> Range<usize> {
    let at = |place: u64| {
        usize::try_from(place).map_or(stored.bytes.len(), |at| at.min(stored.bytes.len()))
    };
    at(range.start)..at(range.end)
}

/// Where a directory is to be asked for: the path as it was sent and a slash, with the query.
pub(super) fn with_slash(request: &RequestHead) -> String {
    // Two slashes in front would be the name of a host (RFC 3986 4.2).
    let path = request.target.path().trim_matches('/');
    match request.target.query() {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    }
}

/// What an application says about a file that it only names goes with it, and so does what is about the response: to whom
/// else it may be shown (Vary, RFC 9111 4.1), how a browser is to treat it, cookies. These fields do not, for they are about
/// the body or the status in whose place the file goes out, or are the file's own. Those of the IANA's registry were gone
/// through.
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
/// What else a 304 does not say (RFC 9110 15.4.5).
const OF_CONTENT: [&str; 3] = [
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
];
