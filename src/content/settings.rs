//! The settings that decide which files are served, and how.

use super::entity::FileIdentity;
use crate::config::{self, Pattern, Symlinks};
use crate::http::encoding;

/// The settings of [`Files`](super::files::Files); with the same root and settings, they respond the same.
#[derive(Clone, Debug)]
pub(super) struct FileSettings {
    pub(super) links: Symlinks,
    pub(super) hidden: bool,
    pub(super) mask: Option<Pattern>,
    pub(super) index: Vec<String>,
    pub(super) pages: Option<config::PageCache>,
    /// Whether `.html` may be left out.
    pub(super) clean: bool,
    /// Whether directories without an index are listed.
    pub(super) lists: bool,
    /// Whether scripts are run rather than served.
    pub(super) scripts: bool,
    pub(super) precompressed: bool,
    pub(super) gzip: Option<config::GzipConfig>,
    pub(super) file_cache: config::FileCache,
    pub(super) etag_cache: config::CacheConfig,
    pub(super) dynamic_request_cache: config::CacheConfig,
}

impl FileSettings {
    /// Those of a site, without the ones that only apply to request paths.
    pub(super) fn new(site: &config::SiteConfig) -> Self {
        Self {
            links: site.follow_symlinks,
            hidden: site.hidden_files,
            mask: site.staticmask.clone(),
            index: Vec::new(),
            pages: None,
            clean: false,
            lists: false,
            scripts: false,
            precompressed: false,
            gzip: None,
            file_cache: site.file_cache,
            etag_cache: site.etag_cache,
            dynamic_request_cache: site.dynamic_request_cache,
        }
    }

    /// Whether files of this type and size are compressed.
    pub(super) fn compresses(&self, content_type: &str, identity: &FileIdentity) -> bool {
        self.gzip.as_ref().is_some_and(|gzip| {
            identity.size >= gzip.minimum
                && encoding::has_type(content_type.as_bytes(), &gzip.types)
        })
    }

    pub(super) fn is_like(&self, other: &Self) -> bool {
        let mask = |settings: &Self| settings.mask.as_ref().map(|mask| mask.as_str().to_owned());
        mask(self) == mask(other)
            && self.links == other.links
            && self.hidden == other.hidden
            && self.index == other.index
            && self.pages == other.pages
            && self.clean == other.clean
            && self.lists == other.lists
            && self.scripts == other.scripts
            && self.precompressed == other.precompressed
            && self.gzip == other.gzip
            && self.file_cache == other.file_cache
            && self.etag_cache == other.etag_cache
            && self.dynamic_request_cache == other.dynamic_request_cache
    }
}
