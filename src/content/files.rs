//! Files, served without asking anybody.
//!
//! [`Files`] are those below one directory: a site's `docroot`, or the `sendfileroot` from which its backends may name
//! one. [`Files::answer`] goes from a request to an [`Answer`]: one look into the [`cache`](super::cache), and where that does not know,
//! into the file system, by way of [`root`]. Conditions and ranges are those of
//! [`conditional`](crate::http::conditional).
//!
//! Called by workers. Nothing waits here but for the disk: files are opened without waiting, and only small ones are
//! read.
//!
//! **Invariants**
//! - An entry of the cache is what these files and these settings would give, found out no longer ago than its window.
//! - A file that was changed a moment ago may be about to be changed again, and is not kept.
//! - What goes out under a tag is one version of a file: a file in memory was read without a change in between, any
//!   other is the one that was opened.

use std::borrow::Cow;
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use regex::Regex;

use super::cache::{Bounds, Cache, Identity, Known, Look, Tag};
use super::root::{self, Kind, Root, normal};
use crate::config::{self, Symlinks};
use crate::exchange::{Body, FileBody, Piece, Response, Stored, Trace};
use crate::http::body::Framing;
use crate::http::conditional::{Conditions, Validators, Verdict, Wanted};
use crate::http::head::{Method, RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// The files below one directory.
#[derive(Debug)]
pub struct Files {
    root: Root,
    settings: Settings,
    cache: Mutex<Cache>,
}

/// What decides over the answers; files with the same settings are the same files.
#[derive(Clone, Debug)]
struct Settings {
    links: Symlinks,
    hidden: bool,
    mask: Option<Regex>,
    index: Vec<String>,
    pages: Option<config::PageCache>,
    file_cache: config::FileCache,
    etag_cache: config::Cache,
    dynamic_request_cache: config::Cache,
}

/// What there is to be said to a request.
pub enum Answer {
    /// The file, a part of it, or that it has not changed.
    File(Response<'static>),
    /// 301: it is a directory, and this is its path, with the slash.
    Moved(String),
    /// 412: a condition does not hold.
    Failed,
    /// 416: the file, which has so many bytes, lacks those.
    Unsatisfiable(u64),
    /// The file is there and cannot be had at this moment.
    Unreadable(io::Error),
}

/// What stands at a path.
enum Found {
    File(Source),
    /// A directory that is to be asked for with a slash.
    Directory,
    Nothing,
}

/// What there is of a file.
enum Source {
    Stored(Arc<Stored>),
    /// Only enough to say that it has not changed.
    Tag(Arc<Tag>),
    Open(File, Tag),
}

/// What the file system has at a path.
enum Located {
    /// The file, and the name that says its type.
    File(File, Identity, Vec<u8>),
    Directory,
    Nothing,
}

impl Files {
    /// The files of a site's `docroot`, if it has one.
    pub fn of_docroot(site: &config::Site) -> Option<Self> {
        let root = site.docroot.as_deref()?;
        let settings = Settings {
            index: site.index.clone(),
            pages: site.page_cache.clone(),
            ..Settings::new(site)
        };
        Some(Self::new(root, settings))
    }

    /// The files that a site's backends may name, if they may.
    pub fn of_backends(site: &config::Site) -> Option<Self> {
        let root = site.sendfileroot.as_deref()?;
        Some(Self::new(root, Settings::new(site)))
    }

    fn new(root: &Path, settings: Settings) -> Self {
        let bounds = |cache: config::Cache, memory| Bounds {
            size: cache.size,
            memory,
            window: cache.window,
        };
        let files = settings.file_cache;
        let cache = Cache::new(
            bounds(files.cache, files.memory),
            bounds(settings.etag_cache, u64::MAX),
            bounds(settings.dynamic_request_cache, u64::MAX),
            Instant::now(),
        );
        Self {
            root: Root::new(root, settings.links),
            settings,
            cache: Mutex::new(cache),
        }
    }

    /// Whether these would answer as the others do, so that they may take their place with all that they know.
    pub fn are_like(&self, others: &Self) -> bool {
        self.root.path() == others.root.path() && self.settings.is_like(&others.settings)
    }

    /// Says what keeps these files from being served, if anything does now.
    ///
    /// # Errors
    /// Whatever `open(2)` says of the directory.
    pub fn check(&self) -> io::Result<()> {
        Ok(self.root.reopen(Instant::now())?)
    }

    /// Lets go of the directory: it may be that nobody asks here any more.
    pub fn rest(&self) {
        self.root.close();
    }

    /// Has everything looked at again, with the next request for it: somebody has said that something has changed.
    pub fn distrust(&self) {
        self.cache.lock().distrust(Instant::now());
    }

    /// The answer to a GET or HEAD. `None`: what it asks for is no file.
    pub fn answer(&self, request: &RequestHead, now: Instant) -> Option<Answer> {
        let path = request.target.decoded_path();
        match self.find(&path, &request.headers, now) {
            Ok(Found::Nothing) => None,
            Ok(Found::Directory) => Some(Answer::Moved(with_slash(request))),
            Ok(Found::File(source)) => Some(serve(source, request, None)),
            Err(error) => Some(Answer::Unreadable(error.into())),
        }
    }

    /// The answer with the file that a backend names, in the place of the backend's. `None`: there is no such file.
    pub fn answer_for(
        &self,
        name: &[u8],
        request: &RequestHead,
        backend: &ResponseHead,
        now: Instant,
    ) -> Option<Answer> {
        let slash = [b"/", name];
        let name = match name.starts_with(b"/") {
            true => Cow::Borrowed(name),
            false => Cow::Owned(slash.concat()),
        };
        // The original's names begin at the root, those that others are made for may begin at the system's.
        let root = self.root.path().as_os_str().as_bytes();
        let inner = name
            .strip_prefix(root)
            .filter(|inner| inner.starts_with(b"/"));
        for path in [Some(&*name), inner].into_iter().flatten() {
            match self.find(path, &request.headers, now) {
                Ok(Found::Nothing | Found::Directory) => {}
                Ok(Found::File(source)) => {
                    return Some(serve(source, request, Some(&backend.headers)));
                }
                Err(error) => return Some(Answer::Unreadable(error.into())),
            }
        }
        None
    }

    fn find(&self, decoded: &[u8], request: &Headers, now: Instant) -> Result<Found, Errno> {
        let mut look = self.cache.lock().look(decoded, now);
        let mut key = Cow::Borrowed(decoded);
        if matches!(look, Look::Unknown) {
            // Other spellings of a path would only take the place of others.
            match normal(decoded, self.settings.hidden) {
                None => return Ok(Found::Nothing),
                Some(Cow::Borrowed(_)) => {}
                Some(Cow::Owned(path)) => {
                    look = self.cache.lock().look(&path, now);
                    key = Cow::Owned(path);
                }
            }
        }
        // What was a file is one that is just being replaced, rather than the application's.
        let was_file = matches!(
            look,
            Look::Fresh(Known::Tag(_)) | Look::Stale(Known::File(_) | Known::Tag(_), _)
        );
        let known = match look {
            Look::Fresh(Known::File(stored)) => return Ok(Found::File(Source::Stored(stored))),
            Look::Fresh(Known::Nothing) => return Ok(Found::Nothing),
            Look::Fresh(Known::Tag(tag)) => {
                let conditions = Conditions::of(request);
                if conditions.is_about_cache()
                    && conditions.check(&tag.validators) == Verdict::NotModified
                {
                    return Ok(Found::File(Source::Tag(tag)));
                }
                None
            }
            Look::Stale(Known::File(stored), identity) => Some((stored, identity)),
            Look::Stale(..) | Look::Unknown => None,
        };
        let located = self.locate(&key[1..], now).inspect_err(|_| {
            // It is not known any more, so that it is not taken for what it was when the trouble is over.
            self.cache.lock().forget(&key);
        })?;
        match located {
            Located::File(file, identity, name) => match known {
                Some((stored, known)) if known == identity => {
                    self.cache.lock().confirm(&key, now);
                    Ok(Found::File(Source::Stored(stored)))
                }
                _ => Ok(Found::File(self.take_in(&key, file, identity, &name, now)?)),
            },
            Located::Directory => {
                self.cache.lock().forget(&key);
                Ok(Found::Directory)
            }
            Located::Nothing if was_file => Ok(Found::Nothing),
            Located::Nothing => {
                let nothing = Known::Nothing;
                let identity = Identity::default();
                self.cache.lock().keep(&key, nothing, identity, now);
                Ok(Found::Nothing)
            }
        }
    }

    /// Looks for a file at a relative path, and at those where the application may have written one.
    fn locate(&self, path: &[u8], now: Instant) -> Result<Located, Errno> {
        let Settings { pages, .. } = &self.settings;
        let first = self.locate_at(path, now)?;
        let (Located::Nothing, Some(pages)) = (&first, pages) else {
            return Ok(first);
        };
        let below = [pages.directory.as_bytes(), b"/", path].concat();
        let second = self.locate_at(&below, now)?;
        if !matches!(second, Located::Nothing) || path.is_empty() || path.ends_with(b"/") {
            return Ok(second);
        }
        for extension in &pages.extensions {
            let name = [&below, b".".as_slice(), extension.as_bytes()].concat();
            if self.root.kind(&name, now)? == Some(Kind::File)
                && let Some(found) = self.open(name, now)?
            {
                return Ok(found);
            }
        }
        Ok(Located::Nothing)
    }

    /// Looks for a file at a relative path, or for one that stands for the directory there.
    fn locate_at(&self, path: &[u8], now: Instant) -> Result<Located, Errno> {
        let asks_for_index = path.is_empty() || path.ends_with(b"/");
        if asks_for_index {
            for index in &self.settings.index {
                let name = [path, index.as_bytes()].concat();
                if self.root.kind(&name, now)? == Some(Kind::File)
                    && let Some(found) = self.open(name, now)?
                {
                    return Ok(found);
                }
            }
            return Ok(Located::Nothing);
        }
        match self.root.kind(path, now)? {
            Some(Kind::File) => Ok(self.open(path.to_vec(), now)?.unwrap_or(Located::Nothing)),
            Some(Kind::Directory) => {
                let inside = self.locate_at(&[path, b"/"].concat(), now)?;
                Ok(match inside {
                    Located::Nothing => Located::Nothing,
                    _ => Located::Directory,
                })
            }
            None => Ok(Located::Nothing),
        }
    }

    fn open(&self, name: Vec<u8>, now: Instant) -> Result<Option<Located>, Errno> {
        if let Some(mask) = &self.settings.mask {
            let root = self.root.path().as_os_str().as_bytes();
            let whole = [root, b"/", &name].concat();
            if mask.is_match(&String::from_utf8_lossy(&whole)) {
                return Ok(None);
            }
        }
        let found = self.root.open(&name, now)?;
        Ok(found.map(|(file, identity)| Located::File(file, identity, name)))
    }

    /// Reads a small file, and remembers what was found.
    fn take_in(
        &self,
        key: &[u8],
        file: File,
        mut identity: Identity,
        name: &[u8],
        now: Instant,
    ) -> Result<Source, Errno> {
        let content_type = content_type(name);
        let small = identity.size <= self.settings.file_cache.largest;
        if small && self.cache.lock().keeps_files() {
            for _ in 0..MOST_READS {
                let bytes = read(&file, identity.size).map_err(errno)?;
                let after = root::identify(&file)?;
                if after == identity && bytes.len() as u64 == identity.size {
                    let stored = Arc::new(store(bytes, validators(&identity), content_type));
                    if !is_recent(&identity) {
                        let known = Known::File(Arc::clone(&stored));
                        self.cache.lock().keep(key, known, identity, now);
                    }
                    return Ok(Source::Stored(stored));
                }
                identity = after;
            }
        }
        let tag = Tag {
            validators: validators(&identity),
            content_type,
        };
        if !is_recent(&identity) {
            let known = Known::Tag(Arc::new(tag.clone()));
            self.cache.lock().keep(key, known, identity, now);
        }
        Ok(Source::Open(file, tag))
    }
}

impl Settings {
    /// Those of a site, without what is for the paths of requests only.
    fn new(site: &config::Site) -> Self {
        Self {
            links: site.follow_symlinks,
            hidden: site.hidden_files,
            mask: site.staticmask.clone(),
            index: Vec::new(),
            pages: None,
            file_cache: site.file_cache,
            etag_cache: site.etag_cache,
            dynamic_request_cache: site.dynamic_request_cache,
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let mask = |settings: &Self| settings.mask.as_ref().map(|mask| mask.as_str().to_owned());
        mask(self) == mask(other)
            && self.links == other.links
            && self.hidden == other.hidden
            && self.index == other.index
            && self.pages == other.pages
            && self.file_cache == other.file_cache
            && self.etag_cache == other.etag_cache
            && self.dynamic_request_cache == other.dynamic_request_cache
    }
}

/// Makes the answer of a file. `backend`: the fields of the answer whose place it takes.
fn serve(source: Source, request: &RequestHead, backend: Option<&Headers>) -> Answer {
    let conditions = Conditions::of(&request.headers);
    if let (Source::Stored(stored), true, None) = (&source, conditions.is_empty(), backend) {
        return whole(Arc::clone(stored));
    }
    let (validators, content_type) = match &source {
        Source::Stored(stored) => (stored.validators.clone(), stored.content_type.clone()),
        Source::Open(_, tag) => (tag.validators.clone(), tag.content_type.clone()),
        Source::Tag(tag) => (tag.validators.clone(), tag.content_type.clone()),
    };
    match conditions.check(&validators) {
        Verdict::Go => {}
        Verdict::Failed => return Answer::Failed,
        Verdict::NotModified => {
            let mut head = ResponseHead::new(304);
            push_validators(&mut head.headers, &validators);
            push_kept(&mut head.headers, backend);
            return file(head, Body::Empty);
        }
    }
    let own_type = backend.and_then(|fields| fields.get("Content-Type"));
    let content_type = own_type.unwrap_or(content_type.as_bytes());
    let refuses = |fields: &Headers| fields.get("Accept-Ranges") == Some(b"none");
    let accepts = !backend.is_some_and(refuses);
    let wanted = match request.method == Method::Get && accepts {
        true => conditions.ranges(&validators),
        false => Wanted::Whole,
    };
    let all = 0..validators.length;
    let (status, parts) = match wanted {
        Wanted::Whole => (200, Vec::from([all])),
        Wanted::Parts(parts) => (206, parts),
        Wanted::Unsatisfiable => return Answer::Unsatisfiable(validators.length),
    };
    let mut head = ResponseHead::new(status);
    push_validators(&mut head.headers, &validators);
    let accepts: &[u8] = if accepts { b"bytes" } else { b"none" };
    head.headers.push("Accept-Ranges", accepts);
    push_kept(&mut head.headers, backend);
    let length = validators.length;
    let pieces = if let [part] = &*parts {
        head.headers.push("Content-Type", content_type);
        if status == 206 {
            let text = content_range(part, length);
            head.headers.push("Content-Range", text.as_bytes());
        }
        vec![Piece::Range(part.clone())]
    } else {
        let boundary = boundary();
        let text = format!("multipart/byteranges; boundary={boundary}");
        head.headers.push("Content-Type", text.as_bytes());
        several(&parts, length, content_type, &boundary)
    };
    let body = match (source, &*pieces) {
        (Source::Open(open, _), _) => Body::File(FileBody {
            file: open,
            pieces: pieces.into(),
        }),
        (Source::Stored(stored), [Piece::Range(range)]) => Body::Stored {
            range: within(range, &stored),
            stored,
            ready: false,
        },
        (Source::Stored(stored), pieces) => Body::Bytes(join(pieces, &stored)),
        // Found only for what was answered above.
        (Source::Tag(_), _) => Body::Empty,
    };
    file(head, body)
}

/// A whole file in memory. Most answers are one of these, so its head is ready.
fn whole(stored: Arc<Stored>) -> Answer {
    let body = Body::Stored {
        range: 0..stored.bytes.len(),
        stored,
        ready: true,
    };
    file(ResponseHead::new(200), body)
}

fn file(head: ResponseHead, body: Body<'static>) -> Answer {
    Answer::File(Response {
        head,
        body,
        trace: Trace::default(),
    })
}

fn store(bytes: Vec<u8>, validators: Validators, content_type: Cow<'static, str>) -> Stored {
    let mut head = ResponseHead::new(200);
    push_validators(&mut head.headers, &validators);
    head.headers.push("Accept-Ranges", b"bytes");
    head.headers.push("Content-Type", content_type.as_bytes());
    let mut written = Vec::new();
    head.write_first(Framing::Length(bytes.len() as u64), &mut written);
    written.shrink_to_fit();
    Stored {
        head: written,
        bytes,
        validators,
        content_type,
    }
}

fn push_validators(headers: &mut Headers, validators: &Validators) {
    headers.push("ETag", validators.etag.as_bytes());
    if let Some(date) = validators.last_modified() {
        headers.push("Last-Modified", date.as_bytes());
    }
}

/// Passes on what an application says about a file that it only names.
fn push_kept(headers: &mut Headers, backend: Option<&Headers>) {
    for (name, value) in backend.into_iter().flat_map(Headers::iter) {
        if KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
            headers.push(name, value);
        }
    }
}

/// Several parts with what stands around them (RFC 9110 14.6).
fn several(parts: &[Range<u64>], length: u64, content_type: &[u8], boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
    let mut before = format!("--{boundary}\r\nContent-Type: ");
    for part in parts {
        let mut text =
            std::mem::replace(&mut before, format!("\r\n--{boundary}\r\nContent-Type: "))
                .into_bytes();
        text.extend_from_slice(content_type);
        let range = content_range(part, length);
        text.extend_from_slice(format!("\r\nContent-Range: {range}\r\n\r\n").as_bytes());
        pieces.push(Piece::Text(text));
        pieces.push(Piece::Range(part.clone()));
    }
    pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into_bytes()));
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

fn join(pieces: &[Piece], stored: &Stored) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(match piece {
            Piece::Text(text) => text,
            Piece::Range(range) => &stored.bytes[within(range, stored)],
        });
    }
    bytes
}

/// The same range, of bytes in memory. It is within the length, which is that of the bytes.
fn within(range: &Range<u64>, stored: &Stored) -> Range<usize> {
    let at = |place: u64| {
        usize::try_from(place).map_or(stored.bytes.len(), |at| at.min(stored.bytes.len()))
    };
    at(range.start)..at(range.end)
}

/// Where a directory is to be asked for: the path as it was sent and a slash, with the query.
fn with_slash(request: &RequestHead) -> String {
    // Two slashes in front would be the name of a host (RFC 3986 4.2).
    let path = request.target.path().trim_matches('/');
    match request.target.query() {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    }
}

fn content_type(name: &[u8]) -> Cow<'static, str> {
    let name = String::from_utf8_lossy(name);
    let guessed = mime_guess::from_path(&*name).first_raw();
    match guessed {
        None => Cow::Borrowed("application/octet-stream"),
        Some(text) if text.starts_with("text/") || text == "application/javascript" => {
            Cow::Owned(format!("{text}; charset=utf-8"))
        }
        Some(other) => Cow::Borrowed(other),
    }
}

fn validators(identity: &Identity) -> Validators {
    Validators::new(identity.modified.0, identity.size, seconds())
}

/// Whether a file was changed so lately that it may be about to change again without any of its times telling.
fn is_recent(identity: &Identity) -> bool {
    (identity.changed.0 - seconds()).abs() < SETTLED.as_secs() as i64
}

/// Now, in seconds since 1970.
fn seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(0, |time| time.tv_sec())
}

/// The first bytes of a file, fewer only if it has no more.
fn read(file: &File, length: u64) -> io::Result<Vec<u8>> {
    // Of a small file.
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

/// What an application says about a file goes with it; everything else of its answer was about another body.
const KEPT: [&str; 4] = [
    "Content-Disposition",
    "Set-Cookie",
    "Cache-Control",
    "Expires",
];
/// How long after its last change a file is taken to be at rest.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a file is read that is changed meanwhile; then it is sent as it comes.
const MOST_READS: u32 = 3;
