//! Serves files without a backend.
//!
//! [`Files`] are the files below one directory: a site's `docroot`, or the `sendfileroot` from which its backends may
//! name a file. [`Files::respond`] finds the file for a request and turns it into a response: one look-up in the
//! [`cache`](super::cache), and if that is not enough, in the file system by way of [`root`]. `response` applies
//! conditions and ranges ([`conditional`](crate::http::conditional)).
//!
//! Called by workers. Only the disk can block here: files are opened without waiting, and only small ones are read.
//!
//! **Invariants**
//! - A cache entry is what these files and settings would result in, found no longer ago than its window.
//! - All entries belong to one directory: when another directory is found at the root's path, which is checked once a
//!   second, the cache is emptied.
//! - A file that changed a moment ago may be about to change again: it is not cached, and its tag is weak.
//! - A response with a strong tag is one version of a file: a file in memory was read without a change in between, any
//!   other one is the file that was opened.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::cache::{Cache, CacheEntry, CacheLimits, Encoding, Lookup, Variant, Variants};
use super::entity::{FileIdentity, content_type, is_older, validators};
use super::listing;
use super::locator::{Located, Locator};
pub use super::response::FileResponse;
use super::response::{Source, has_not_changed, serve, store, with_slash};
use super::root::{self, Root, errno, normal, read};
use super::scripts::Script;
use super::seen::{KnownDirs, SeenPaths};
use super::settings::FileSettings;
use crate::config;
use crate::exchange::Entity;
use crate::http::conditional::Conditions;
use crate::http::encoding::{Accepted, ContentCoding};
use crate::http::head::{RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// The files below one directory.
#[derive(Debug)]
pub struct Files {
    locator: Locator,
    cache: Mutex<Cache>,
    /// Paths that are not files.
    seen_paths: SeenPaths,
    known_dirs: KnownDirs,
    /// Directories in which a file was found: if one is missing, it is probably being replaced.
    served: SeenPaths,
}

/// The result of a search.
enum PathKind {
    File(Source),
    /// A directory that was requested without its final slash.
    Directory,
    /// A script, which is not served.
    Script,
    Nothing,
}

impl Files {
    /// The files of a site's `docroot`, if it has one.
    pub fn of_docroot(site: &config::SiteConfig) -> Option<Self> {
        let root = site.docroot.as_deref()?;
        let settings = FileSettings {
            index: site.index.clone(),
            pages: site.page_cache.clone(),
            clean: site.clean_urls,
            lists: site.autoindex,
            scripts: site.fastcgi.is_some(),
            precompressed: site.precompressed,
            gzip: site.gzip.clone().filter(|_| cfg!(feature = "gzip")),
            ..FileSettings::new(site)
        };
        Some(Self::new(root, settings))
    }

    /// The files of a site's `sendfileroot`, if it has one.
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
            locator: Locator {
                root: Root::new(root, settings.links),
                settings,
            },
            cache: Mutex::new(cache),
            seen_paths: SeenPaths::new(size),
            known_dirs: KnownDirs::new(now),
            served: SeenPaths::new(FOLDERS),
        }
    }

    /// Whether these would respond as the others do, so that a new configuration can keep the others with their cache.
    pub fn are_like(&self, others: &Self) -> bool {
        self.locator.root.path() == others.locator.root.path()
            && self.locator.settings.is_like(&others.locator.settings)
    }

    /// Checks whether the directory can be opened now.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn check(&self) -> io::Result<()> {
        Ok(self.locator.root.reopen(Instant::now())?)
    }

    /// Closes the directory and empties the cache. Only requests that started before still ask, and find everything
    /// again.
    pub fn retire(&self) {
        self.locator.root.close();
        let known = self.cache.lock().clear();
        // Drop it outside the lock.
        drop(known);
    }

    /// Makes all entries stale, so that the next request for each file checks it: the administrator has signalled a
    /// change.
    pub fn distrust(&self) {
        self.cache.lock().invalidate(Instant::now());
    }

    /// The response to a GET or HEAD. `None`: the request is not for a file.
    pub fn respond(&self, request: &RequestHead, now: Instant) -> Option<FileResponse> {
        let path = request.target.decoded_path();
        match self.find(&path, &request.headers, now) {
            Ok(PathKind::Nothing) if self.locator.settings.lists => self.list(&path, request, now),
            Ok(PathKind::Nothing | PathKind::Script) => None,
            Ok(PathKind::Directory) => Some(FileResponse::Moved(with_slash(request))),
            Ok(PathKind::File(source)) => Some(serve(source, request, None)),
            Err(error) => Some(FileResponse::Unreadable(error.into())),
        }
    }

    /// The script for a decoded path, which is not served: one that the path names, perhaps with more behind it, or the
    /// index of a directory, or `front` for all paths that name no script. `None`: it does not exist.
    ///
    /// # Errors
    /// Those of `openat2(2)`, unless they mean that a file does not exist.
    pub fn script(
        &self,
        decoded: &[u8],
        front: Option<&str>,
        now: Instant,
    ) -> io::Result<Option<Script>> {
        Ok(self.locator.script(decoded, front, now)?)
    }

    /// The response with the file at this path, whatever the path of the request. `None`: there is none.
    pub fn respond_with(
        &self,
        path: &[u8],
        request: &RequestHead,
        now: Instant,
    ) -> Option<FileResponse> {
        match self.find(path, &request.headers, now) {
            Ok(PathKind::Nothing | PathKind::Directory | PathKind::Script) => None,
            Ok(PathKind::File(source)) => Some(serve(source, request, None)),
            Err(error) => Some(FileResponse::Unreadable(error.into())),
        }
    }

    /// The list of the files in a directory.
    fn list(&self, decoded: &[u8], request: &RequestHead, now: Instant) -> Option<FileResponse> {
        let key = normal(decoded, self.locator.settings.hidden)?;
        let has_slash = key.ends_with(b"/");
        let path = match has_slash {
            true => key,
            false => Cow::Owned([&key, &b"/"[..]].concat()),
        };
        match self.locator.list(&path[1..], now) {
            Ok(None) => None,
            Ok(Some(_)) if !has_slash => Some(FileResponse::Moved(with_slash(request))),
            Ok(Some(files)) => Some(FileResponse::File(listing::page(&path, files))),
            Err(error) => Some(FileResponse::Unreadable(error.into())),
        }
    }

    /// The response with the file that a backend names, in place of the backend's response. `None`: the file does not
    /// exist.
    pub fn respond_for(
        &self,
        name: &[u8],
        request: &RequestHead,
        backend: &ResponseHead,
        now: Instant,
    ) -> Option<FileResponse> {
        let slash = [b"/", name];
        let name = match name.starts_with(b"/") {
            true => Cow::Borrowed(name),
            false => Cow::Owned(slash.concat()),
        };
        // In the original, names are relative to the root; in nginx and others they may be absolute.
        let root = self.locator.root.path().as_os_str().as_bytes();
        let inner = name
            .strip_prefix(root)
            .filter(|inner| inner.starts_with(b"/"));
        for path in [Some(&*name), inner].into_iter().flatten() {
            match self.find(path, &request.headers, now) {
                Ok(PathKind::Nothing | PathKind::Directory | PathKind::Script) => {}
                Ok(PathKind::File(source)) => {
                    return Some(serve(source, request, Some(&backend.headers)));
                }
                Err(error) => return Some(FileResponse::Unreadable(error.into())),
            }
        }
        None
    }

    /// Finds the file at a decoded path, in the encoding that a client with these fields prefers.
    fn find(&self, decoded: &[u8], request: &Headers, now: Instant) -> Result<PathKind, Errno> {
        let generation = self.locator.root.generation(now);
        let Some((key, look)) = self.look_up(decoded, generation, now) else {
            return Ok(PathKind::Nothing);
        };
        // A file that has disappeared is probably being replaced; the path is not the application's.
        let was_file = matches!(
            look,
            Lookup::Fresh(CacheEntry::Tag(..), _)
                | Lookup::Stale(CacheEntry::File(..) | CacheEntry::Tag(..), _)
        );
        // What is known, of which version, and whether that is still valid.
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
        let located = self.locator.locate(&key[1..], now).inspect_err(|_| {
            // Forget it, so that it is not used again after the error.
            self.cache.lock().forget(&key);
        })?;
        let (file, identity, name) = match located {
            Located::File(file, identity, name) => (file, identity, name),
            Located::Directory => {
                self.cache.lock().forget(&key);
                return Ok(PathKind::Directory);
            }
            Located::Script => {
                self.cache.lock().forget(&key);
                return Ok(PathKind::Script);
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
                    // No file has the identity of `Nothing`.
                    CacheEntry::Nothing => return Ok(PathKind::Nothing),
                }
            }
            _ => self.take_in(&key, file, identity, &name, generation, now)?,
        };
        let variant = self.chosen(&variants, request, now)?;
        Ok(PathKind::File(variant.unwrap_or(source)))
    }

    /// Normalises a path and looks it up. `None`: no file can have this path.
    fn look_up<'p>(
        &self,
        decoded: &'p [u8],
        generation: u64,
        now: Instant,
    ) -> Option<(Cow<'p, [u8]>, Lookup)> {
        let (old, look) = {
            let mut cache = self.cache.lock();
            (cache.advance(generation), cache.look_up(decoded, now))
        };
        // Drop it outside the lock.
        drop(old);
        if !matches!(look, Lookup::Unknown) {
            return Some((Cow::Borrowed(decoded), look));
        }
        // Cache a path under its normal form only, so that other spellings take no room.
        let key = normal(decoded, self.locator.settings.hidden)?;
        let look = match &key {
            Cow::Borrowed(_) => look,
            Cow::Owned(path) => self.cache.lock().look_up(path, now),
        };
        let is_there =
            folder(&key).and_then(|folder| self.known_dirs.exists(folder, generation, now));
        match look {
            Lookup::Unknown if is_there == Some(false) => None,
            look => Some((key, look)),
        }
    }

    /// Caches what was found, if the root has not changed since.
    fn keep(
        &self,
        key: &[u8],
        known: CacheEntry,
        identity: FileIdentity,
        generation: u64,
        now: Instant,
    ) {
        let is_same = self.locator.root.last_generation() == generation;
        let mut cache = self.cache.lock();
        if is_same && cache.is_of(generation) {
            cache.keep(key, known, identity, now);
        }
    }

    /// Marks an entry as checked, if the root has not changed since.
    fn confirm(&self, key: &[u8], generation: u64, now: Instant) {
        let is_same = self.locator.root.last_generation() == generation;
        let mut cache = self.cache.lock();
        if is_same && cache.is_of(generation) {
            cache.confirm(key, now);
        }
    }

    /// Handles a path that is not a file. Like the original, caches that on the second request only.
    fn miss(&self, key: &[u8], generation: u64, now: Instant) -> Result<(), Errno> {
        if self.seen_paths.see(key) {
            let identity = FileIdentity::default();
            self.keep(key, CacheEntry::Nothing, identity, generation, now);
        }
        self.learn_directory(key, generation, now)
    }

    /// Finds out whether the first directory of a path is missing, once several of its paths are not files.
    fn learn_directory(&self, path: &[u8], generation: u64, now: Instant) -> Result<(), Errno> {
        let Some(folder) = folder(path) else {
            return Ok(());
        };
        let known = self.known_dirs.exists(folder, generation, now).is_some();
        if known || self.served.has(folder) || !self.seen_paths.see(folder) {
            return Ok(());
        }
        let name = &folder[1..folder.len() - 1];
        let is_there = self.locator.has(name, now)?;
        self.known_dirs.learn(folder, generation, is_there, now);
        Ok(())
    }

    /// Reads a small file and caches it.
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
        let compresses = self
            .locator
            .settings
            .compresses(&entity.content_type, &identity);
        entity.varies = compresses || !variants.is_empty();
        // Files that are not in memory are compressed while they are sent.
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

    /// Reads a small file, unless it keeps changing. `None`: send it from the disk.
    fn read(&self, file: &File, identity: &mut FileIdentity) -> Result<Option<Vec<u8>>, Errno> {
        let small = identity.size <= self.locator.settings.file_cache.largest;
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

    /// Finds compressed copies beside a file (`precompressed`). A copy that is older than the file is of an earlier
    /// version.
    fn beside(
        &self,
        name: &[u8],
        original: &FileIdentity,
        entity: &Entity,
        now: Instant,
    ) -> Result<Vec<Variant>, Errno> {
        let mut variants = Vec::new();
        for coding in ContentCoding::ALL {
            let Some((file, mut identity, name)) = self.locator.open_beside(name, coding, now)?
            else {
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

    /// Whether the compressed copies beside an unchanged file are unchanged too.
    fn is_current(&self, known: &CacheEntry, name: &[u8], now: Instant) -> Result<bool, Errno> {
        let (CacheEntry::File(_, variants) | CacheEntry::Tag(_, variants)) = known else {
            return Ok(false);
        };
        for coding in ContentCoding::ALL {
            let there = self.locator.open_beside(name, coding, now)?;
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

    /// Compresses a file (`gzip`), unless a copy exists already or it does not pay.
    #[cfg(feature = "gzip")]
    fn make(&self, bytes: &[u8], entity: &Entity, variants: &[Variant]) -> Option<Variant> {
        let gzip = self.locator.settings.gzip.as_ref()?;
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

    /// The content in the encoding that the client prefers. `None`: unencoded.
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
            // Ranges apply to the file itself only.
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
            }) => match self.locator.open(name.clone(), now)? {
                // If it has changed since, fall back to the file itself.
                Some(Located::File(file, there, _)) if there == *identity => {
                    Some(Source::Open(file, entity.clone()))
                }
                _ => None,
            },
        })
    }
}

/// The first directory of a path, with both slashes, if the path continues after it.
fn folder(path: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'/', path.get(1..)?)? + 2;
    (end < path.len()).then(|| &path[..end])
}

/// Size of the table of directories in which files were found.
const FOLDERS: usize = 1000;
/// How often to read a file that changes meanwhile, before sending it from the disk.
const MOST_READS: u32 = 3;
