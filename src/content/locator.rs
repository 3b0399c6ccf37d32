//! Finds the file for a path on disk: the file itself, an index, a page that the application has written, a compressed
//! copy.
//!
//! [`Locator`] only looks at the file system, by way of [`Root`]; `files` caches the results.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use nix::errno::Errno;

use super::entity::FileIdentity;
use super::listing::ListedFile;
use super::root::{FileKind, Root, normal};
use super::scripts::{Script, asks_for_script, is_private, is_script};
use super::settings::FileSettings;
use crate::http::encoding::ContentCoding;

/// A directory, and the settings that decide which of its files are served.
#[derive(Debug)]
pub(super) struct Locator {
    pub(super) root: Root,
    pub(super) settings: FileSettings,
}

/// The result of a search.
pub(super) enum Located {
    /// An open file, with the name that determines its type.
    File(File, FileIdentity, Vec<u8>),
    Directory,
    /// A script, which is run.
    Script,
    Nothing,
}

impl Locator {
    /// Whether a relative name exists in the docroot, or in the directory of pages.
    pub(super) fn has(&self, name: &[u8], now: Instant) -> Result<bool, Errno> {
        let mut is_there = self.root.kind(name, now)?.is_some();
        if let Some(pages) = &self.settings.pages {
            let name = [pages.directory.as_bytes(), b"/", name].concat();
            is_there |= self.root.kind(&name, now)?.is_some();
        }
        Ok(is_there)
    }

    /// Finds the file for a relative path, in the docroot or among the pages of the application.
    pub(super) fn locate(&self, path: &[u8], now: Instant) -> Result<Located, Errno> {
        let FileSettings { pages, .. } = &self.settings;
        // Pages are served at other paths, with the rules for those.
        if pages.as_ref().is_some_and(|pages| pages.holds(path)) {
            return Ok(Located::Nothing);
        }
        let first = self.locate_at(path, now)?;
        if self.settings.clean && matches!(first, Located::Nothing) && asks_for_file(path) {
            let name = [path, b".html"].concat();
            if self.root.kind(&name, now)? == Some(FileKind::File)
                && let Some(found) = self.open(name, now)?
            {
                return Ok(found);
            }
        }
        let (Located::Nothing, Some(pages)) = (&first, pages) else {
            return Ok(first);
        };
        let below = [pages.directory.as_bytes(), b"/", path].concat();
        let second = self.locate_at(&below, now)?;
        if !matches!(second, Located::Nothing) || !asks_for_file(path) {
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

    /// Finds the script for a decoded path: one that the path names, perhaps with more behind it, or the index of a
    /// directory, or `front` for all paths that name no script. `None`: it does not exist.
    pub(super) fn script(
        &self,
        decoded: &[u8],
        front: Option<&str>,
        now: Instant,
    ) -> Result<Option<Script>, Errno> {
        let found = |name: &[u8], path_info: &[u8]| {
            Some(Script {
                root: self.root.real_path(now),
                name: name.to_vec(),
                path_info: path_info.to_vec(),
            })
        };
        let kind = |path: &[u8]| -> Result<_, Errno> {
            Ok(self.root.look(&path[1..], now)?.map(|(kind, _)| kind))
        };
        if let Some(path) = normal(decoded, self.settings.hidden) {
            let ends = memchr::memchr_iter(b'/', &path[1..]).map(|slash| slash + 1);
            for end in ends.chain([path.len()]) {
                let (name, rest) = path.split_at(end);
                if !is_script(name) {
                    continue;
                }
                match kind(name)? {
                    Some(FileKind::File) => return Ok(found(name, rest)),
                    Some(FileKind::Directory) => {}
                    None => return Ok(None),
                }
            }
            if path.ends_with(b"/") {
                for index in &self.settings.index {
                    let name = [&path, index.as_bytes()].concat();
                    if is_script(&name) && kind(&name)? == Some(FileKind::File) {
                        return Ok(found(&name, b""));
                    }
                }
            }
        }
        if asks_for_script(decoded) {
            return Ok(None);
        }
        match front.map(str::as_bytes).filter(|front| is_script(front)) {
            Some(front) if kind(front)? == Some(FileKind::File) => Ok(found(front, b"")),
            _ => Ok(None),
        }
    }

    /// Finds the file at a relative path, or the index of the directory there.
    fn locate_at(&self, path: &[u8], now: Instant) -> Result<Located, Errno> {
        if !asks_for_file(path) {
            for index in &self.settings.index {
                let name = [path, index.as_bytes()].concat();
                if self.root.kind(&name, now)? != Some(FileKind::File) {
                    continue;
                }
                if self.is_run(&name) {
                    return Ok(Located::Script);
                }
                if let Some(found) = self.open(name, now)? {
                    return Ok(found);
                }
            }
            return Ok(Located::Nothing);
        }
        match self.root.kind(path, now)? {
            Some(FileKind::File) if self.is_run(path) => Ok(Located::Script),
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

    pub(super) fn open(&self, name: Vec<u8>, now: Instant) -> Result<Option<Located>, Errno> {
        if self.is_masked(&name) {
            return Ok(None);
        }
        let found = self.root.open(&name, now)?;
        Ok(found.map(|(file, identity)| Located::File(file, identity, name)))
    }

    /// Whether the site runs the file with this name.
    fn is_run(&self, name: &[u8]) -> bool {
        self.settings.scripts && is_script(name)
    }

    /// Whether the site does not serve a file with this name (`staticmask`, or a script).
    fn is_masked(&self, name: &[u8]) -> bool {
        if self.settings.scripts && is_private(name) {
            return true;
        }
        self.settings.mask.as_ref().is_some_and(|mask| {
            let root = self.root.path().as_os_str().as_bytes();
            let whole = [root, b"/", name].concat();
            mask.is_match(&whole)
        })
    }

    /// Lists the directory at a relative path, which is empty or ends with a slash: what is served of it. `None`: there
    /// is none, or it must not be listed.
    pub(super) fn list(&self, path: &[u8], now: Instant) -> Result<Option<Vec<ListedFile>>, Errno> {
        let FileSettings { pages, hidden, .. } = &self.settings;
        let is_of_pages = |name: &[u8]| pages.as_ref().is_some_and(|pages| pages.holds(name));
        let Some(names) = self.root.list(path, now)? else {
            return Ok(None);
        };
        if is_of_pages(path) || self.is_masked(path) {
            return Ok(None);
        }
        let mut files = Vec::new();
        for name in names {
            let whole = [path, &name].concat();
            let is_hidden = name.starts_with(b".") && !hidden || name.contains(&b'\\');
            if is_hidden || is_of_pages(&whole) || self.is_masked(&whole) {
                continue;
            }
            let Some((kind, identity)) = self.root.look(&whole, now)? else {
                continue;
            };
            files.push(ListedFile {
                is_file: kind == FileKind::File,
                name,
                size: identity.size,
                modified: identity.modified.0,
            });
        }
        Ok(Some(files))
    }

    /// Opens the compressed copy beside the file with this name.
    pub(super) fn open_beside(
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
}

/// Whether a relative path is not that of a directory.
fn asks_for_file(path: &[u8]) -> bool {
    !path.is_empty() && !path.ends_with(b"/")
}
