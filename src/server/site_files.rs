//! The files of a site: those below its docroot, and those that its backends may name.

use std::sync::Arc;

use crate::config;
use crate::content::files::Files;
use crate::process;

/// The files of a site.
#[derive(Debug, Default)]
pub(crate) struct SiteFiles {
    /// Below `docroot`.
    docroot: Option<Arc<Files>>,
    /// Below `sendfileroot`. Their cache is separate: a file that a backend has named for one client is not for others.
    sendfileroot: Option<Arc<Files>>,
}

impl SiteFiles {
    /// The files of a site as configured. What was known of them before the reload is kept.
    pub(crate) fn new(site: &config::SiteConfig, before: Option<&Self>) -> Self {
        let carry = |new: Files, old: Option<&Arc<Files>>| match old {
            Some(old) if old.are_like(&new) => {
                old.distrust();
                Arc::clone(old)
            }
            _ => Arc::new(new),
        };
        let docroot = Files::of_docroot(site);
        let sendfileroot = Files::of_backends(site);
        let old =
            |which: fn(&Self) -> &Option<Arc<Files>>| before.and_then(|old| which(old).as_ref());
        Self {
            docroot: docroot.map(|new| carry(new, old(|old| &old.docroot))),
            sendfileroot: sendfileroot.map(|new| carry(new, old(|old| &old.sendfileroot))),
        }
    }

    /// Those below `docroot`.
    pub(super) const fn docroot(&self) -> Option<&Arc<Files>> {
        self.docroot.as_ref()
    }

    /// Those below `sendfileroot`.
    pub(super) const fn sendfileroot(&self) -> Option<&Arc<Files>> {
        self.sendfileroot.as_ref()
    }

    /// Releases files that a new configuration no longer has; `next` is what the site has there.
    pub(crate) fn retire(&self, next: Option<&Self>) {
        for (files, next) in [
            (&self.docroot, next.and_then(|next| next.docroot.as_ref())),
            (
                &self.sendfileroot,
                next.and_then(|next| next.sendfileroot.as_ref()),
            ),
        ] {
            if let Some(files) = files
                && !next.is_some_and(|next| Arc::ptr_eq(files, next))
            {
                files.retire();
            }
        }
    }

    /// Warns about what keeps files from being served. Called after the server has switched to its user.
    pub(crate) fn check(&self, site: &config::SiteConfig) {
        for (key, files, path) in [
            ("docroot", &self.docroot, &site.docroot),
            ("sendfileroot", &self.sendfileroot, &site.sendfileroot),
        ] {
            let (Some(files), Some(path)) = (files, path) else {
                continue;
            };
            if let Err(error) = files.check() {
                log::warn!(
                    "site {}: {key} {}: {}",
                    site.name,
                    path.display(),
                    process::reason(&error)
                );
            }
        }
    }
}
