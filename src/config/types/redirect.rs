//! Redirects of a site (`redirect`, `hsts`), and where each one leads.

use serde::Serialize;

/// A redirect (an entry of `redirect`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Redirect {
    /// The decoded path, or with `*` at its end the beginning of paths; `None`: all paths.
    pub from: Option<String>,
    /// Host names in lower case; empty: all of the site.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
    /// A URL, or a path that begins with a single `/`. With `*` at its end, the rest of the path follows there.
    pub to: String,
    /// 301, 302, 307 or 308.
    pub status: u16,
}

/// Strict-Transport-Security (`hsts`, RFC 6797).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Hsts {
    /// For how many seconds browsers use HTTPS only; 0: no longer.
    pub max_age: u64,
    /// Whether that includes all names below those of the site.
    pub subdomains: bool,
    /// Whether browsers may have it built in.
    pub preload: bool,
}

impl Redirect {
    /// Where a request for this host name goes. `path` and `query` are as sent. `None`: the redirect is not for it.
    pub(crate) fn location(
        &self,
        host: Option<&str>,
        path: &str,
        query: Option<&str>,
    ) -> Option<String> {
        let is_own = |host: &str| self.host.iter().any(|own| own == host);
        if !self.host.is_empty() && !host.is_some_and(is_own) {
            return None;
        }
        let rest = match self.from.as_deref() {
            // The target `*` is no path.
            None => path.strip_prefix('/')?,
            Some(from) => match from.strip_suffix('*') {
                Some(start) => rest_behind(path, start)?,
                None => rest_behind(path, from).filter(|rest| rest.is_empty())?,
            },
        };
        let (to, fragment) = match self.to.find('#') {
            Some(at) => self.to.split_at(at),
            None => (self.to.as_str(), ""),
        };
        let mut location = match (to.strip_suffix('*'), has_path(to)) {
            (_, false) => format!("{to}{path}"),
            (Some(start), true) => format!("{start}{rest}"),
            (None, true) => to.to_owned(),
        };
        if to.starts_with('/') {
            // Browsers take what follows two slashes, or a backslash, for a host name.
            let inner = location.trim_start_matches(['/', '\\']);
            location = format!("/{inner}");
        }
        if let Some(query) = query.filter(|_| !to.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location.push_str(fragment);
        Some(location)
    }
}

/// What follows a decoded start in a path as sent.
fn rest_behind<'p>(path: &'p str, start: &str) -> Option<&'p str> {
    let mut rest = path.as_bytes();
    for wanted in start.bytes() {
        let (byte, length) = match rest {
            [b'%', first, second, ..] => match (hex(*first), hex(*second)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            [byte, ..] => (*byte, 1),
            [] => return None,
        };
        if byte != wanted {
            return None;
        }
        rest = &rest[length..];
    }
    path.get(path.len() - rest.len()..)
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Whether a target, without its fragment, has a path.
fn has_path(to: &str) -> bool {
    let behind = to.split_once("://").map_or(to, |(_, rest)| rest);
    behind.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let check = |from: Option<&str>, to: &str, target: &str, expected: Option<&str>| {
            let redirect = Redirect {
                from: from.map(str::to_owned),
                host: Vec::new(),
                to: to.into(),
                status: 301,
            };
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (target, None),
            };
            let found = redirect.location(None, path, query);
            assert_eq!(found.as_deref(), expected, "{from:?} {to} {target}");
        };
        let root = "https://b.example";
        check(
            None,
            root,
            "/a%20b?c=d",
            Some("https://b.example/a%20b?c=d"),
        );
        check(None, root, "//c", Some("https://b.example//c"));
        check(None, root, "*", None);
        check(
            None,
            "https://b.example/x/*",
            "/a?q",
            Some("https://b.example/x/a?q"),
        );
        check(None, "https://b.example/", "/a", Some("https://b.example/"));
        check(Some("/old"), "/new", "/old?a=1", Some("/new?a=1"));
        check(Some("/old"), "/new?b=2", "/old?a=1", Some("/new?b=2"));
        check(Some("/old"), "/new#part", "/old?a=1", Some("/new?a=1#part"));
        check(Some("/old"), "/new", "/%6fld", Some("/new"));
        check(Some("/old"), "/new", "/old/", None);
        check(Some("/old"), "/new", "/OLD", None);
        check(Some("/ä b"), "/new", "/%C3%A4%20b", Some("/new"));
        check(
            Some("/blog/*"),
            "/news/*",
            "/blog/a%2Fb/",
            Some("/news/a%2Fb/"),
        );
        check(Some("/blog/*"), "/news/*", "/blog", None);
        check(Some("/blog*"), "/", "/blogs", Some("/"));
        check(
            Some("/blog/*"),
            root,
            "/blog/a",
            Some("https://b.example/blog/a"),
        );
        // No way to another host.
        check(
            Some("/blog/*"),
            "/*",
            "/blog//evil.example",
            Some("/evil.example"),
        );
        check(
            Some("/blog/*"),
            "/*",
            "/blog/\\evil.example",
            Some("/evil.example"),
        );
        check(Some("/blog/*"), "/*", "/blog/%2Fevil", Some("/%2Fevil"));
        check(Some("/%*"), "/x/*", "/%zz", Some("/x/zz"));
    }

    #[test]
    fn hosts() {
        let redirect = Redirect {
            from: None,
            host: vec!["www.a.example".into()],
            to: "https://a.example".into(),
            status: 301,
        };
        let of = |host| redirect.location(host, "/", None);
        assert_eq!(
            of(Some("www.a.example")).as_deref(),
            Some("https://a.example/")
        );
        assert_eq!(of(Some("a.example")), None);
        assert_eq!(of(None), None);
    }
}
