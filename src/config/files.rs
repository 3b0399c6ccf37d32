//! Reads the keys of a site about files.

use std::path::{Component, Path, PathBuf};

use super::raw::{self, Node};
use super::section::Section;
use super::types::{CacheConfig, Config, FileCache, PageCache, SiteConfig, Symlinks};
use super::value::{self, ValueError};

/// Adds the settings about files to a site.
pub(super) fn check(section: &Section, site: SiteConfig, server: &Config) -> SiteConfig {
    let truth = |key: &str, default| section.take(key, value::truth).unwrap_or(default);
    let docroot = root(section, "docroot");
    if docroot.is_none() {
        for key in [
            "cache_directory",
            "cache_extensions",
            "fallback",
            "clean_urls",
            "autoindex",
        ] {
            if raw::get(&section.map, key).is_some() {
                section.note(key, ": has no effect without docroot");
            }
        }
    }
    let fallback = fallback(section, &site, docroot.as_deref());
    let intercept_errors = intercepts(section, &site);
    SiteConfig {
        index: index(section).unwrap_or(site.index),
        staticmask: section.take("staticmask", value::expression),
        follow_symlinks: section
            .take("follow_symlinks", symlinks)
            .unwrap_or(site.follow_symlinks),
        hidden_files: truth("hidden_files", site.hidden_files),
        page_cache: page_cache(section),
        precompressed: truth("precompressed", site.precompressed),
        fallback,
        clean_urls: truth("clean_urls", site.clean_urls),
        autoindex: truth("autoindex", site.autoindex),
        intercept_errors,
        sendfileroot: root(section, "sendfileroot"),
        enable_sendfile_404: truth("enable_sendfile_404", site.enable_sendfile_404),
        file_cache: FileCache {
            cache: cache(section, "file_cache", site.file_cache.cache),
            memory: section.section("file_cache").bytes(
                "memory",
                0..=1 << 40,
                site.file_cache.memory,
            ),
            largest: server.cache_threshold,
        },
        etag_cache: cache(section, "etag_cache", site.etag_cache),
        docroot,
        dynamic_request_cache: cache(section, "dynamic_request_cache", site.dynamic_request_cache),
        ..site
    }
}

/// Reads `fallback`: the path of a file below the docroot, which no rule guards, since it is sent at every path.
fn fallback(section: &Section, site: &SiteConfig, docroot: Option<&Path>) -> Option<String> {
    const KEY: &str = "fallback";
    let Some(node) = raw::get(&section.map, KEY) else {
        return site.fastcgi.as_ref().map(|_| SiteConfig::FRONT.into());
    };
    if value::truth(node) == Ok(false) {
        return None;
    }
    let path = section.take(KEY, |node| {
        let path = value::prefix(node)?;
        let parts = path[1..].split('/');
        let is_plain =
            |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
        match parts.clone().all(is_plain) {
            true => Ok(path),
            false => Err("not the path of a file; write for example /index.html".into()),
        }
    })?;
    let guarded = site.basic_auth.iter().flat_map(|rule| &rule.paths);
    let clients = site.allow.iter().chain(&site.deny);
    let mut guarded = guarded.chain(clients.flat_map(|rule| &rule.paths));
    let is_above = |rule: &&String| {
        let start = rule.trim_end_matches('/');
        let split = path.split_at_checked(start.len());
        split.is_some_and(|(own, rest)| {
            !start.is_empty() && own.eq_ignore_ascii_case(start) && rest.starts_with(['/', '.'])
                || own.eq_ignore_ascii_case(start) && rest.is_empty()
        })
    };
    if let Some(rule) = guarded.find(is_above) {
        let wrong =
            format!("the rule for {rule} would not guard it, since it is sent at every path");
        section.wrong(KEY, None, node, &wrong);
    }
    if let Some(docroot) = docroot.filter(|docroot| docroot.is_dir())
        && !docroot.join(&path[1..]).is_file()
    {
        let shown = value::shown(node);
        section.note(KEY, &format!(" {shown}: no such file below docroot now"));
    }
    Some(path)
}

/// Reads `intercept_errors`.
fn intercepts(section: &Section, site: &SiteConfig) -> bool {
    let intercepts = section.take("intercept_errors", value::truth) == Some(true);
    if intercepts && site.error_pages.is_empty() {
        section.note("intercept_errors", ": has no effect without error_pages");
    }
    intercepts
}

/// Reads a directory that need not exist yet: a deployment may create it, or a disk be mounted there.
fn root(section: &Section, key: &str) -> Option<PathBuf> {
    let path = section.take(key, value::path(section.directory))?;
    if let (Some(node), false) = (raw::get(&section.map, key), path.is_dir()) {
        if path.exists() {
            section.wrong(key, None, node, "not a directory");
            return None;
        }
        let shown = value::shown(node);
        section.note(key, &format!(" {shown}: no such directory now"));
    }
    Some(path)
}

/// Reads `index`: names of files, or none.
fn index(section: &Section) -> Option<Vec<String>> {
    if let Some(Ok(false)) = raw::get(&section.map, "index").map(value::truth) {
        return Some(Vec::new());
    }
    section.take_many("index", name)
}

/// Reads `follow_symlinks`.
fn symlinks(node: &Node) -> Result<Symlinks, ValueError> {
    match value::truth(node) {
        Ok(true) => return Ok(Symlinks::All),
        Ok(false) => return Ok(Symlinks::None),
        Err(_) => {}
    }
    match value::text(node).as_deref() {
        Ok("inside") => Ok(Symlinks::Inside),
        _ => Err("write inside, true or false".into()),
    }
}

/// Reads `cache_directory` and `cache_extensions`; either one enables both.
fn page_cache(section: &Section) -> Option<PageCache> {
    let directory = section.take("cache_directory", below);
    let extensions = section.take_many("cache_extensions", |node| {
        let name = name(node)?;
        let bare = name.strip_prefix('.').unwrap_or(&name);
        match bare.is_empty() {
            true => Err("write an extension, html".into()),
            false => Ok(bare.to_owned()),
        }
    });
    let given = |key| raw::get(&section.map, key).is_some();
    let any = given("cache_directory") || given("cache_extensions");
    any.then(|| PageCache {
        directory: directory.unwrap_or_else(|| "public".into()),
        extensions: extensions.unwrap_or_else(|| vec!["html".into()]),
    })
}

/// Parses a relative path that stays below its base.
fn below(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    let plain = |part: Component| match part {
        Component::Normal(part) => part.to_str().map(str::to_owned),
        _ => None,
    };
    let parts = Path::new(&text).components();
    let parts = parts.filter(|part| *part != Component::CurDir);
    let parts: Option<Vec<_>> = parts.map(plain).collect();
    match parts {
        Some(parts) if !parts.is_empty() && !text.contains('\0') => Ok(parts.join("/")),
        _ => Err("not the name of a directory below docroot; write for example public".into()),
    }
}

/// Parses the name of a file without a directory.
fn name(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    match text.contains(['/', '\0']) || matches!(text.as_str(), "." | "..") {
        true => Err("not the name of a file; write it without a directory".into()),
        false => Ok(text),
    }
}

/// Reads `file_cache`, `etag_cache` or `dynamic_request_cache`.
fn cache(section: &Section, key: &str, default: CacheConfig) -> CacheConfig {
    let section = section.section(key);
    CacheConfig {
        size: section.count("size", 0..=MOST_ENTRIES, default.size),
        window: section
            .take("window", value::time)
            .unwrap_or(default.window),
    }
}

/// Most entries of a cache; far more than a server has files.
const MOST_ENTRIES: u64 = 10_000_000;
