//! Finds the file for a path on disk: the file itself, an index, a page that the application has written, a compressed
//! copy.
//!
//! [`Locator`] only looks at the file system, by way of [`Root`]; `files` caches the results.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use nix::errno::Errno;

use super::entity::FileIdentity;
use super::root::{FileKind, Root};
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

    /// Finds the file at a relative path, or the index of the directory there.
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

    pub(super) fn open(&self, name: Vec<u8>, now: Instant) -> Result<Option<Located>, Errno> {
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
