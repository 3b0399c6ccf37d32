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
//! - All entries belong to one directory: when another one stands at the root's path, which is looked at once a second,
//!   the cache is emptied.
//! - A file that was changed a moment ago may be about to be changed again: it is not kept, and its tag is weak.
//! - What goes out under a strong tag is one version of a file: a file in memory was read without a change in between,
//!   any other is the one that was opened.

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

use super::cache::{
    Cache, CacheEntry, CacheLimits, Encoding, FileIdentity, KnownDirs, Lookup, SeenPaths, Variant,
    Variants,
};
use super::root::{self, FileKind, Root, normal};
use crate::config::{self, Symlinks};
use crate::exchange::{Body, Entity, FileBody, FilePart, Response, StoredFile, Trace};
use crate::http::body::Framing;
use crate::http::conditional::{ConditionResult, Conditions, RangeSelection, Validators};
use crate::http::encoding::{self, Accepted, ContentCoding};
use crate::http::head::{Method, RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// The files below one directory.
#[derive(Debug)]
pub struct Files {
    root: Root,
    settings: FileSettings,
    cache: Mutex<Cache>,
    /// Of paths that are not those of files.
    marks: SeenPaths,
    folders: KnownDirs,
    /// Of directories in which a file was found: if they are gone, they are about to come back.
    served: SeenPaths,
}

/// What decides over the answers; files with the same settings are the same files.
#[derive(Clone, Debug)]
struct FileSettings {
    links: Symlinks,
    hidden: bool,
    mask: Option<Regex>,
    index: Vec<String>,
    pages: Option<config::PageCache>,
    precompressed: bool,
    gzip: Option<config::GzipConfig>,
    file_cache: config::FileCache,
    etag_cache: config::CacheConfig,
    dynamic_request_cache: config::CacheConfig,
}

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

/// What stands at a path.
enum PathKind {
    File(Source),
    /// A directory that is to be asked for with a slash.
    Directory,
    Nothing,
}

/// What there is of a file.
enum Source {
    Stored(Arc<StoredFile>),
    /// Only enough to say that it has not changed.
    Tag(Entity),
    Open(File, Entity),
}

/// What the file system has at a path.
enum Located {
    /// The file, and the name that says its type.
    File(File, FileIdentity, Vec<u8>),
    Directory,
    Nothing,
}

impl Files {
    /// The files of a site's `docroot`, if it has one.
    pub fn of_docroot(site: &config::SiteConfig) -> Option<Self> {
        let root = site.docroot.as_deref()?;
        let settings = FileSettings {
            index: site.index.clone(),
            pages: site.page_cache.clone(),
            precompressed: site.precompressed,
            gzip: site.gzip.clone().filter(|_| cfg!(feature = "gzip")),
            ..FileSettings::new(site)
        };
        Some(Self::new(root, settings))
    }

    /// The files that a site's backends may name, if they may.
    pub fn of_backends(site: &config::SiteConfig) -> Option<Self> {
        let root = site.sendfileroot.as_deref()?;
        Some(Self::new(root, FileSettings::new(site)))
    }

    fn new(root: &Path, settings: FileSettings) -> Self {
        let bounds = |cache: config::CacheConfig, memory| CacheLimits {
            size: cache.size,
            memory,
            window: cache.window,
        };
        let files = settings.file_cache;
        let now = Instant::now();
        let cache = Cache::new(
            bounds(files.cache, files.memory),
            bounds(settings.etag_cache, u64::MAX),
            bounds(settings.dynamic_request_cache, u64::MAX),
            now,
        );
        let size = settings.dynamic_request_cache.size;
        Self {
            root: Root::new(root, settings.links),
            settings,
            cache: Mutex::new(cache),
            marks: SeenPaths::new(size),
            folders: KnownDirs::new(now),
            served: SeenPaths::new(FOLDERS),
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

    /// Lets go of the directory and of all that is known: nobody asks here any more but requests that began before, which
    /// find it all again.
    pub fn retire(&self) {
        self.root.close();
        let known = self.cache.lock().clear();
        // Not under the lock.
        drop(known);
    }

    /// Has everything looked at again, with the next request for it: somebody has said that something has changed.
    pub fn distrust(&self) {
        self.cache.lock().distrust(Instant::now());
    }

    /// The answer to a GET or HEAD. `None`: what it asks for is no file.
    pub fn answer(&self, request: &RequestHead, now: Instant) -> Option<Answer> {
        let path = request.target.decoded_path();
        match self.find(&path, &request.headers, now) {
            Ok(PathKind::Nothing) => None,
            Ok(PathKind::Directory) => Some(Answer::Moved(with_slash(request))),
            Ok(PathKind::File(source)) => Some(serve(source, request, None)),
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
                Ok(PathKind::Nothing | PathKind::Directory) => {}
                Ok(PathKind::File(source)) => {
                    return Some(serve(source, request, Some(&backend.headers)));
                }
                Err(error) => return Some(Answer::Unreadable(error.into())),
            }
        }
        None
    }

    /// What stands at a decoded path, and in which encoding a visitor with these fields wants it.
    fn find(&self, decoded: &[u8], request: &Headers, now: Instant) -> Result<PathKind, Errno> {
        let generation = self.root.generation(now);
        let Some((key, look)) = self.look(decoded, generation, now) else {
            return Ok(PathKind::Nothing);
        };
        // What was a file is one that is just being replaced, rather than the application's.
        let was_file = matches!(
            look,
            Lookup::Fresh(CacheEntry::Tag(..), _)
                | Lookup::Stale(CacheEntry::File(..) | CacheEntry::Tag(..), _)
        );
        // What is known, of which file, and whether that need not be asked again.
        let known = match look {
            Lookup::Fresh(CacheEntry::Nothing, _) => return Ok(PathKind::Nothing),
            Lookup::Fresh(CacheEntry::File(stored, variants), _) => {
                let variant = self.chosen(&variants, request, now)?;
                return Ok(PathKind::File(variant.unwrap_or(Source::Stored(stored))));
            }
            Lookup::Fresh(CacheEntry::Tag(entity, variants), identity) => {
                if let Some(variant) = self.chosen(&variants, request, now)? {
                    return Ok(PathKind::File(variant));
                }
                if has_not_changed(&entity, request) {
                    return Ok(PathKind::File(Source::Tag((*entity).clone())));
                }
                Some((CacheEntry::Tag(entity, variants), identity, true))
            }
            Lookup::Stale(known, identity) => Some((known, identity, false)),
            Lookup::Unknown => None,
        };
        let located = self.locate(&key[1..], now).inspect_err(|_| {
            // It is not known any more, so that it is not taken for what it was when the trouble is over.
            self.cache.lock().forget(&key);
        })?;
        let (file, identity, name) = match located {
            Located::File(file, identity, name) => (file, identity, name),
            Located::Directory => {
                self.cache.lock().forget(&key);
                return Ok(PathKind::Directory);
            }
            Located::Nothing => {
                if !was_file {
                    self.miss(&key, generation, now)?;
                }
                return Ok(PathKind::Nothing);
            }
        };
        if let Some(folder) = folder(&key) {
            self.served.see(folder);
        }
        let (source, variants) = match known {
            Some((known, before, fresh))
                if before == identity && (fresh || self.is_current(&known, &name, now)?) =>
            {
                if !fresh {
                    self.confirm(&key, generation, now);
                }
                match known {
                    CacheEntry::File(stored, variants) => (Source::Stored(stored), variants),
                    CacheEntry::Tag(entity, variants) => {
                        (Source::Open(file, (*entity).clone()), variants)
                    }
                    // No file has the identity of nothing.
                    CacheEntry::Nothing => return Ok(PathKind::Nothing),
                }
            }
            _ => self.take_in(&key, file, identity, &name, generation, now)?,
        };
        let variant = self.chosen(&variants, request, now)?;
        Ok(PathKind::File(variant.unwrap_or(source)))
    }

    /// The path in the form under which it is remembered, and what is known of it. `None`: no file has it.
    fn look<'p>(
        &self,
        decoded: &'p [u8],
        generation: u64,
        now: Instant,
    ) -> Option<(Cow<'p, [u8]>, Lookup)> {
        let (old, look) = {
            let mut cache = self.cache.lock();
            (cache.advance(generation), cache.look(decoded, now))
        };
        // Not under the lock.
        drop(old);
        if !matches!(look, Lookup::Unknown) {
            return Some((Cow::Borrowed(decoded), look));
        }
        // Other spellings of a path would only take the place of others.
        let key = normal(decoded, self.settings.hidden)?;
        let look = match &key {
            Cow::Borrowed(_) => look,
            Cow::Owned(path) => self.cache.lock().look(path, now),
        };
        let is_there =
            folder(&key).and_then(|folder| self.folders.is_there(folder, generation, now));
        match look {
            Lookup::Unknown if is_there == Some(false) => None,
            look => Some((key, look)),
        }
    }

    /// Remembers what was found, if it was all found below the root of this generation.
    fn keep(
        &self,
        key: &[u8],
        known: CacheEntry,
        identity: FileIdentity,
        generation: u64,
        now: Instant,
    ) {
        let is_same = self.root.last_generation() == generation;
        let mut cache = self.cache.lock();
        if is_same && cache.is_of(generation) {
            cache.keep(key, known, identity, now);
        }
    }

    /// What is known of a path is still so, if that was found below the root of this generation.
    fn confirm(&self, key: &[u8], generation: u64, now: Instant) {
        let is_same = self.root.last_generation() == generation;
        let mut cache = self.cache.lock();
        if is_same && cache.is_of(generation) {
            cache.confirm(key, now);
        }
    }

    /// There is no file at a path. That is remembered if it was found before: so it was in the original.
    fn miss(&self, key: &[u8], generation: u64, now: Instant) -> Result<(), Errno> {
        if self.marks.see(key) {
            let identity = FileIdentity::default();
            self.keep(key, CacheEntry::Nothing, identity, generation, now);
        }
        self.look_for_folder(key, generation, now)
    }

    /// There is no file at a path. If that is not the first one below its first part, it may be for the lack of that one.
    fn look_for_folder(&self, path: &[u8], generation: u64, now: Instant) -> Result<(), Errno> {
        let Some(folder) = folder(path) else {
            return Ok(());
        };
        let known = self.folders.is_there(folder, generation, now).is_some();
        if known || self.served.has(folder) || !self.marks.see(folder) {
            return Ok(());
        }
        let name = &folder[1..folder.len() - 1];
        let mut is_there = self.root.kind(name, now)?.is_some();
        if let Some(pages) = &self.settings.pages {
            let name = [pages.directory.as_bytes(), b"/", name].concat();
            is_there |= self.root.kind(&name, now)?.is_some();
        }
        self.folders.learn(folder, generation, is_there, now);
        Ok(())
    }

    /// Looks for a file at a relative path, and at those where the application may have written one.
    fn locate(&self, path: &[u8], now: Instant) -> Result<Located, Errno> {
        let FileSettings { pages, .. } = &self.settings;
        // Its pages have the paths at which they are served, and what is said of those paths counts for them.
        if pages.as_ref().is_some_and(|pages| pages.holds(path)) {
            return Ok(Located::Nothing);
        }
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
            if self.root.kind(&name, now)? == Some(FileKind::File)
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
                if self.root.kind(&name, now)? == Some(FileKind::File)
                    && let Some(found) = self.open(name, now)?
                {
                    return Ok(found);
                }
            }
            return Ok(Located::Nothing);
        }
        match self.root.kind(path, now)? {
            Some(FileKind::File) => Ok(self.open(path.to_vec(), now)?.unwrap_or(Located::Nothing)),
            Some(FileKind::Directory) => {
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
        mut identity: FileIdentity,
        name: &[u8],
        generation: u64,
        now: Instant,
    ) -> Result<(Source, Variants), Errno> {
        let bytes = self.read(&file, &mut identity)?;
        let mut entity = Entity {
            validators: validators(&identity),
            content_type: content_type(name),
            coding: None,
            varies: false,
            divides: true,
        };
        let mut variants = self.beside(name, &identity, &entity, now)?;
        let settled = entity.validators.are_strong() && variants.iter().all(Variant::is_settled);
        let compresses = self.settings.compresses(&entity.content_type, &identity);
        entity.varies = compresses || !variants.is_empty();
        // What is not in memory is compressed while it is sent.
        if let (true, true, Some(bytes)) = (compresses, settled, &bytes) {
            variants.extend(self.make(bytes, &entity, &variants));
        }
        let variants: Variants = Some(variants.into()).filter(|all: &Arc<[_]>| !all.is_empty());
        let (known, source) = match bytes {
            Some(bytes) => {
                let stored = Arc::new(store(bytes, entity));
                let known = CacheEntry::File(Arc::clone(&stored), variants.clone());
                (known, Source::Stored(stored))
            }
            None => {
                let known = CacheEntry::Tag(Arc::new(entity.clone()), variants.clone());
                (known, Source::Open(file, entity))
            }
        };
        if settled {
            self.keep(key, known, identity, generation, now);
        }
        Ok((source, variants))
    }

    /// All of a small file, if it does not change all the time. `None`: it is to be sent from the disk.
    fn read(&self, file: &File, identity: &mut FileIdentity) -> Result<Option<Vec<u8>>, Errno> {
        let small = identity.size <= self.settings.file_cache.largest;
        if !small || !self.cache.lock().keeps_files() {
            return Ok(None);
        }
        for _ in 0..MOST_READS {
            let bytes = read(file, identity.size).map_err(errno)?;
            let after = root::identify(file)?;
            if after == *identity && bytes.len() as u64 == identity.size {
                return Ok(Some(bytes));
            }
            *identity = after;
        }
        Ok(None)
    }

    /// What is beside a file with the same content, encoded (`precompressed`). What is older than the file was made of
    /// another one.
    fn beside(
        &self,
        name: &[u8],
        original: &FileIdentity,
        entity: &Entity,
        now: Instant,
    ) -> Result<Vec<Variant>, Errno> {
        let mut variants = Vec::new();
        for coding in ContentCoding::ALL {
            let Some((file, mut identity, name)) = self.open_beside(name, coding, now)? else {
                continue;
            };
            let bytes = self.read(&file, &mut identity)?;
            if is_older(&identity, original) {
                continue;
            }
            let entity = Entity {
                validators: validators(&identity).in_coding(coding),
                coding: Some(coding),
                varies: true,
                ..entity.clone()
            };
            let stored = bytes.map(|bytes| Arc::new(store(bytes, entity.clone())));
            let form = Encoding::Beside {
                name,
                identity,
                entity,
                stored,
            };
            variants.push(Variant { coding, form });
        }
        Ok(variants)
    }

    /// The file in this coding beside the one with this name.
    fn open_beside(
        &self,
        name: &[u8],
        coding: ContentCoding,
        now: Instant,
    ) -> Result<Option<(File, FileIdentity, Vec<u8>)>, Errno> {
        let name = [name, coding.extension().as_bytes()].concat();
        if !self.settings.precompressed || self.root.kind(&name, now)? != Some(FileKind::File) {
            return Ok(None);
        }
        Ok(match self.open(name, now)? {
            Some(Located::File(file, identity, name)) => Some((file, identity, name)),
            _ => None,
        })
    }

    /// Whether beside a file, which has not changed, there is still what is known to be there.
    fn is_current(&self, known: &CacheEntry, name: &[u8], now: Instant) -> Result<bool, Errno> {
        let (CacheEntry::File(_, variants) | CacheEntry::Tag(_, variants)) = known else {
            return Ok(false);
        };
        for coding in ContentCoding::ALL {
            let there = self.open_beside(name, coding, now)?;
            let variants = variants.iter().flat_map(|variants| variants.iter());
            let mut variants = variants.filter(|variant| variant.coding == coding);
            let before = variants.find_map(|variant| match &variant.form {
                Encoding::Beside { identity, .. } => Some(*identity),
                Encoding::Made(_) => None,
            });
            if there.map(|(_, identity, _)| identity) != before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compresses a file (`gzip`), unless that is there already or is not worth it.
    #[cfg(feature = "gzip")]
    fn make(&self, bytes: &[u8], entity: &Entity, variants: &[Variant]) -> Option<Variant> {
        let gzip = self.settings.gzip.as_ref()?;
        let coding = ContentCoding::Gzip;
        if variants.iter().any(|variant| variant.coding == coding) {
            return None;
        }
        let made = super::gzip::compressed(bytes, gzip.level);
        let entity = Entity {
            validators: entity.validators.clone().made(made.len() as u64),
            coding: Some(coding),
            divides: false,
            ..entity.clone()
        };
        let form = Encoding::Made(Arc::new(store(made, entity)));
        Some(Variant { coding, form }).filter(|made| made.size() < bytes.len())
    }

    #[cfg(not(feature = "gzip"))]
    fn make(&self, _: &[u8], _: &Entity, _: &[Variant]) -> Option<Variant> {
        None
    }

    /// The content in the encoding that the visitor likes best. `None`: as it is.
    fn chosen(
        &self,
        variants: &Variants,
        request: &Headers,
        now: Instant,
    ) -> Result<Option<Source>, Errno> {
        let Some(variants) = variants else {
            return Ok(None);
        };
        let has = |coding| variants.iter().find(|variant| variant.coding == coding);
        let best = Accepted::of(request).best(|coding| has(coding).is_some());
        Ok(match best.and_then(has).map(|variant| &variant.form) {
            None => None,
            // There are no parts of this, and of the file there are.
            Some(Encoding::Made(_)) if Conditions::of(request).want_part() => None,
            Some(
                Encoding::Made(stored)
                | Encoding::Beside {
                    stored: Some(stored),
                    ..
                },
            ) => Some(Source::Stored(Arc::clone(stored))),
            Some(Encoding::Beside { entity, .. }) if has_not_changed(entity, request) => {
                Some(Source::Tag(entity.clone()))
            }
            Some(Encoding::Beside {
                name,
                identity,
                entity,
                ..
            }) => match self.open(name.clone(), now)? {
                // If it has changed meanwhile, the file itself is always right.
                Some(Located::File(file, there, _)) if there == *identity => {
                    Some(Source::Open(file, entity.clone()))
                }
                _ => None,
            },
        })
    }
}

impl Variant {
    /// Whether it may be kept.
    fn is_settled(&self) -> bool {
        match &self.form {
            Encoding::Made(_) => true,
            Encoding::Beside { entity, .. } => entity.validators.are_strong(),
        }
    }

    #[cfg(feature = "gzip")]
    fn size(&self) -> usize {
        match &self.form {
            Encoding::Made(stored) => stored.bytes.len(),
            Encoding::Beside { identity, .. } => {
                usize::try_from(identity.size).unwrap_or(usize::MAX)
            }
        }
    }
}

impl FileSettings {
    /// Those of a site, without what is for the paths of requests only.
    fn new(site: &config::SiteConfig) -> Self {
        Self {
            links: site.follow_symlinks,
            hidden: site.hidden_files,
            mask: site.staticmask.clone(),
            index: Vec::new(),
            pages: None,
            precompressed: false,
            gzip: None,
            file_cache: site.file_cache,
            etag_cache: site.etag_cache,
            dynamic_request_cache: site.dynamic_request_cache,
        }
    }

    /// Whether files of this type and size are compressed.
    fn compresses(&self, content_type: &str, identity: &FileIdentity) -> bool {
        self.gzip.as_ref().is_some_and(|gzip| {
            identity.size >= gzip.minimum
                && encoding::has_type(content_type.as_bytes(), &gzip.types)
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        let mask = |settings: &Self| settings.mask.as_ref().map(|mask| mask.as_str().to_owned());
        mask(self) == mask(other)
            && self.links == other.links
            && self.hidden == other.hidden
            && self.index == other.index
            && self.pages == other.pages
            && self.precompressed == other.precompressed
            && self.gzip == other.gzip
            && self.file_cache == other.file_cache
            && self.etag_cache == other.etag_cache
            && self.dynamic_request_cache == other.dynamic_request_cache
    }
}

/// Makes the answer of a file. `backend`: the fields of the answer whose place it takes.
fn serve(source: Source, request: &RequestHead, backend: Option<&Headers>) -> Answer {
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

fn store(bytes: Vec<u8>, entity: Entity) -> StoredFile {
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

/// Whether the visitor has this already.
fn has_not_changed(entity: &Entity, request: &Headers) -> bool {
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
fn with_slash(request: &RequestHead) -> String {
    // Two slashes in front would be the name of a host (RFC 3986 4.2).
    let path = request.target.path().trim_matches('/');
    match request.target.query() {
        Some(query) => format!("/{path}/?{query}"),
        None => format!("/{path}/"),
    }
}

/// The first part of a path with the slashes around it, if there is more behind.
fn folder(path: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'/', path.get(1..)?)? + 2;
    (end < path.len()).then(|| &path[..end])
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

fn validators(identity: &FileIdentity) -> Validators {
    let validators =
        Validators::new(identity.modified.0, identity.size, seconds()).marked(mark(identity));
    match is_recent(identity) {
        true => validators.weak(),
        false => validators,
    }
}

/// Tells versions of the same size and second apart: a hash (FNV-1a), the same after a restart, of the inode and the exact
/// times. A hash, since clients need not know inodes.
fn mark(identity: &FileIdentity) -> u64 {
    let numbers = [
        identity.file.1.to_le_bytes(),
        identity.modified.1.to_le_bytes(),
        identity.changed.0.to_le_bytes(),
        identity.changed.1.to_le_bytes(),
    ];
    let bytes = numbers.as_flattened().iter();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether a file was modified before the other one. Some programs that compress a file give the result its time in whole
/// seconds or microseconds, and such a time is compared as such.
fn is_older(file: &FileIdentity, other: &FileIdentity) -> bool {
    let unit = match file.modified.1 {
        0 => 1_000_000_000,
        nanoseconds if nanoseconds % 1000 == 0 => 1000,
        _ => 1,
    };
    let (seconds, nanoseconds) = other.modified;
    file.modified < (seconds, nanoseconds / unit * unit)
}

/// Whether a file was changed so lately that it may be about to change again without any of its times telling.
fn is_recent(identity: &FileIdentity) -> bool {
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
/// Directories that are told from others.
const FOLDERS: usize = 1000;
/// How long after its last change a file is taken to be at rest.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a file is read that is changed meanwhile; then it is sent as it comes.
const MOST_READS: u32 = 3;
