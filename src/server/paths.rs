//! The paths that a rule covers: those of `basic_auth`, `allow` and `deny`.
//!
//! Pure. A rule must not be avoided by another spelling of its path, so a path is read as the most lenient application
//! would read it, and every name under which the site's files serve the same content is covered.

use crate::config;
use crate::http::encoding::ContentCoding;

/// A path that a rule covers, with everything below it.
#[derive(Debug)]
pub(crate) struct GuardedPath {
    /// Its components; none: the whole site.
    parts: Vec<Box<[u8]>>,
    /// The number of components of the configured path.
    weight: usize,
    /// Whether it covers nothing below it: it is another name of one guarded file.
    exact: bool,
}

impl GuardedPath {
    /// A configured path, and the shorter names under which the site's files serve the same content: without the
    /// extension of a cached page or of a precompressed file, and the directory of an index.
    pub(crate) fn all(path: &[u8], site: &config::SiteConfig) -> Vec<Self> {
        let own: Vec<Box<[u8]>> = parts(path).map(Box::from).collect();
        let weight = own.len();
        let mut names = vec![own];
        let mut next = 0;
        while let Some(parts) = names.get(next) {
            for shorter in shorter_names(parts, site) {
                if !names.contains(&shorter) {
                    names.push(shorter);
                }
            }
            next += 1;
        }
        let names = names.into_iter().enumerate();
        names
            .map(|(number, parts)| Self {
                parts,
                weight,
                exact: number > 0,
            })
            .collect()
    }

    /// Whether a request's path is this one or below it, and how well they fit: by how many components, and whether the
    /// names are equal. `/admin` also covers `/admin.html` and `/admin.json`: the extension asks for a cached page, a
    /// precompressed file or another format of the same content.
    pub(crate) fn covers(&self, path: &[u8]) -> Option<(usize, bool)> {
        let mut sent = parts(path).peekable();
        let mut is_equal = true;
        for (index, own) in self.parts.iter().enumerate() {
            let part = sent.next()?;
            if is_same(own, part) {
                continue;
            }
            let is_last = index + 1 == self.parts.len() && sent.peek().is_none();
            if !is_last || !is_extended(own, part) {
                return None;
            }
            is_equal = false;
        }
        let fits = !self.exact || sent.next().is_none();
        fits.then_some((self.weight, is_equal))
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.parts.is_empty() && !self.exact
    }
}

/// How well the best of some paths that cover this one fits; see [`GuardedPath::covers`].
pub(crate) fn best_fit(paths: &[GuardedPath], path: &[u8]) -> Option<(usize, bool)> {
    paths.iter().filter_map(|own| own.covers(path)).max()
}

/// The names, one step shorter, under which a site's files serve the content of this one.
fn shorter_names(parts: &[Box<[u8]>], site: &config::SiteConfig) -> Vec<Vec<Box<[u8]>>> {
    let (Some((last, folder)), Some(_)) = (parts.split_last(), &site.docroot) else {
        return Vec::new();
    };
    let pages = site.page_cache.iter().flat_map(|pages| &pages.extensions);
    let pages: Vec<String> = pages.map(|extension| format!(".{extension}")).collect();
    let clean = [".html"].into_iter().filter(|_| site.clean_urls);
    let codings = ContentCoding::ALL.iter().filter(|_| site.precompressed);
    let endings = pages.iter().map(String::as_str).chain(clean);
    let endings = endings.chain(codings.map(|coding| coding.extension()));
    let mut names: Vec<Vec<Box<[u8]>>> = endings
        .filter_map(|ending| {
            let (start, end) = last.split_at_checked(last.len().checked_sub(ending.len())?)?;
            let ends = !start.is_empty() && end.eq_ignore_ascii_case(ending.as_bytes());
            ends.then(|| [folder, &[start.into()]].concat())
        })
        .collect();
    let is_index = |ending: &str| {
        let name = [last, ending.as_bytes()].concat();
        let mut index = site.index.iter();
        index.any(|index| index.as_bytes().eq_ignore_ascii_case(&name))
    };
    if is_index("") || pages.iter().any(|ending| is_index(ending)) {
        names.push(folder.to_vec());
    }
    names
}

/// The components of a decoded path as a lenient reader sees them: doubled slashes and `.` are ignored, and a backslash
/// is a slash, as in browsers and in software that reads URLs as they do (Node).
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .filter(|part| !matches!(bare(part), b"" | b"."))
}

/// Whether a path has a `..`, which servers may resolve differently.
pub(crate) fn leads_up(path: &[u8]) -> bool {
    parts(path).any(|part| bare(part) == b"..")
}

/// Whether two components are the same to a lenient reader. Some applications and file systems ignore upper and lower
/// case.
fn is_same(own: &[u8], sent: &[u8]) -> bool {
    own.eq_ignore_ascii_case(sent) || own.eq_ignore_ascii_case(bare(sent))
}

/// Whether a component is another one with an extension, or several.
fn is_extended(own: &[u8], sent: &[u8]) -> bool {
    sent.split_at_checked(own.len())
        .is_some_and(|(start, end)| own.eq_ignore_ascii_case(start) && end.starts_with(b"."))
}

/// A component without its parameters. Some application servers ignore what follows a semicolon (RFC 3986 3.3); it is
/// safer to guard one path too many.
fn bare(part: &[u8]) -> &[u8] {
    part.split(|byte| *byte == b';').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of a rule.
    struct Guard(Vec<GuardedPath>);

    impl Guard {
        fn covers(&self, path: &[u8]) -> Option<(usize, bool)> {
            best_fit(&self.0, path)
        }
    }

    fn guard(paths: &[&str]) -> Guard {
        guard_of(paths, &config::SiteConfig::default())
    }

    fn guard_of(paths: &[&str], site: &config::SiteConfig) -> Guard {
        let all = |path: &&str| GuardedPath::all(path.as_bytes(), site);
        Guard(paths.iter().flat_map(all).collect())
    }

    #[test]
    fn paths_match_by_component() {
        let check = |own: &[&str], path: &str, expected: Option<usize>| {
            let found = guard(own).covers(path.as_bytes());
            let found = found.map(|(length, _)| length);
            assert_eq!(found, expected, "{own:?} {path}");
        };
        for path in ["/", "*", "", "/admin"] {
            check(&["/"], path, Some(0));
        }
        for path in [
            "/admin",
            "/admin/",
            "//admin",
            "/./admin",
            "/admin/./x",
            "/admin//x",
            "/admin;x=1",
            "/admin;/x",
            "/;/admin",
            "/.;x/admin",
            "/\\admin\\x",
            "admin",
            "/Admin",
            "/ADMIN;x/y",
            "/admin.html",
            "/admin.json/",
            "/Admin.html.gz",
        ] {
            check(&["/admin"], path, Some(1));
        }
        for path in [
            "/",
            "/administration",
            "/x/admin",
            "/adm",
            "*",
            "/admin x",
            "/admin.1/x",
            "/.admin",
        ] {
            check(&["/admin"], path, None);
        }
        check(&["/a", "/a/b"], "/a/b/c", Some(2));
        check(&["/a", "/a/b"], "/a/c", Some(1));
        check(&["/a/b"], "/a", None);
        check(&["/v1/a"], "/v1.1/a", None);
        check(&["/a;b"], "/a;b", Some(1));
        check(&["/a;b"], "/a", None);
    }

    #[test]
    fn all_names_of_a_file_are_covered() {
        let site = config::SiteConfig {
            docroot: Some("/srv".into()),
            page_cache: Some(config::PageCache {
                directory: "public".into(),
                extensions: vec!["html".into(), "xml".into()],
            }),
            ..config::SiteConfig::default()
        };
        let check = |own: &str, names: &[&str], others: &[&str]| {
            let guard = guard_of(&[own], &site);
            for name in names {
                assert!(guard.covers(name.as_bytes()).is_some(), "{own} {name}");
            }
            for other in others {
                assert!(guard.covers(other.as_bytes()).is_none(), "{own} {other}");
            }
        };
        let index = ["/", "//", "/index", "/index.html", "/INDEX.html.br"];
        check("/index.html", &index, &["/a", "/index/a", "/indexes"]);
        check("/index", &index, &["/a"]);
        let below = ["/a", "/a/", "/a/index", "/a/index.html.gz"];
        check("/a/index.html", &below, &["/", "/a/b", "/a/index2"]);
        let pages = ["/a", "/A.html", "/a.xml.gz"];
        check("/a.html", &pages[..2], &["/", "/ab", "/a/b"]);
        check("/a.xml", &[pages[0], pages[2]], &["/b"]);
        check("/a", &["/a", "/a.html", "/a/b", "/a.json"], &["/", "/b"]);
        let text = ["/a.txt", "/a.txt.br", "/a.txt.zst", "/a.TXT.gz"];
        check("/a.txt.gz", &[text[0], text[3]], &["/a", "/a.txt2"]);
        check("/a.txt", &text, &["/a", "/b.txt"]);
        // Where no file is served, the application alone names its content.
        let plain = guard(&["/a/index.html"]);
        assert!(plain.covers(b"/a/index.html").is_some() && plain.covers(b"/a/").is_none());
    }

    #[test]
    fn most_specific_path_wins() {
        let fit = |own: &str, path: &str| guard(&[own]).covers(path.as_bytes());
        assert!(fit("/a/b", "/a/b.json") > fit("/a", "/a/b.json"));
        assert!(fit("/a.json", "/a.json") > fit("/a", "/a.json"));
    }

    #[test]
    fn parent_components_are_unclear() {
        for path in [
            "/..",
            "/x/../admin",
            "/x/..;/admin",
            "/..;a=b",
            "/x\\..\\admin",
            "..",
        ] {
            assert!(leads_up(path.as_bytes()), "{path}");
        }
        for path in ["/", "/...", "/..a", "/a..", "/;..", "/a;../b", "*"] {
            assert!(!leads_up(path.as_bytes()), "{path}");
        }
    }
}
