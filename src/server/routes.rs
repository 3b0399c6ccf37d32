//! The routes of a site: which requests go to other backends than its own, by path, and with which target.
//!
//! Pure, and called for each request of a site that has routes. The path is read as sent, component by component, so
//! that what follows the prefix is forwarded as the client spelled it.

use super::paths::leads_up;
use crate::config::RouteConfig;
use crate::http::target::{Target, decodes_to, encoded};

/// The routes of a site, the longest first.
#[derive(Debug, Default)]
pub(crate) struct SiteRoutes {
    routes: Vec<SiteRoute>,
}

/// The requests for a path and all below it.
#[derive(Debug)]
struct SiteRoute {
    /// Index of the site that has its backends.
    site: usize,
    /// The components of its path.
    parts: Vec<Box<str>>,
    /// The path that takes the place of its own; `None`: the target stays as it is.
    rewrite: Option<Box<str>>,
    /// Its path as applications get it in a field; empty for `/`.
    prefix: Box<str>,
}

/// Where the request of a site goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RoutedTo {
    /// To the site itself.
    Site,
    /// To the backends of this site, with another target if the route has one.
    Route(usize, Option<Box<RoutedTarget>>),
    /// Nowhere: its path has a `..`, so servers may read it differently.
    Unclear,
}

/// What a backend gets in place of the target that the client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RoutedTarget {
    /// Path and query.
    pub(crate) target: Box<str>,
    /// The path that was removed; empty for `/`.
    pub(crate) prefix: Box<str>,
}

impl SiteRoutes {
    /// Adds a route to the backends of this site.
    pub(crate) fn add(&mut self, site: usize, settings: &RouteConfig) {
        let parts = settings.prefix.split('/').filter(|part| !part.is_empty());
        let prefix: String = parts
            .clone()
            .map(|part| format!("/{}", encoded(part.as_bytes())))
            .collect();
        self.routes.push(SiteRoute {
            site,
            parts: parts.map(Box::from).collect(),
            rewrite: settings.rewrite.as_deref().map(Box::from),
            prefix: prefix.into(),
        });
        let length = |route: &SiteRoute| std::cmp::Reverse(route.parts.len());
        self.routes.sort_by_key(length);
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Chooses the longest route whose path is that of the target or above it.
    pub(crate) fn choose(&self, target: &Target) -> RoutedTo {
        if target.is_asterisk() {
            return RoutedTo::Site;
        }
        if leads_up(&target.decoded_path()) {
            return RoutedTo::Unclear;
        }
        let path = target.path();
        let mut routes = self.routes.iter();
        let found = routes.find_map(|route| Some((route, route.rest(path)?)));
        match found {
            None => RoutedTo::Site,
            Some((route, rest)) => RoutedTo::Route(route.site, route.target(rest, target.query())),
        }
    }
}

impl SiteRoute {
    /// What follows its path in a path as sent; `None`: the path is another one.
    fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut rest = path;
        for own in &self.parts {
            loop {
                rest = without_slash(rest)?;
                let (part, behind) = rest.split_at(component(rest));
                rest = behind;
                if decodes_to(part, own) {
                    break;
                }
                // Doubled slashes and `.` are ignored.
                if !part.is_empty() && !decodes_to(part, ".") {
                    return None;
                }
            }
        }
        Some(rest)
    }

    /// The target with the rest of the path in another place. `None`: it stays as it is.
    fn target(&self, rest: &str, query: Option<&str>) -> Option<Box<RoutedTarget>> {
        let base = self.rewrite.as_deref()?;
        let mut behind = rest;
        while let Some(shorter) = without_slash(behind) {
            behind = shorter;
        }
        let mut target = base.to_owned();
        // A path that ends with the prefix has no slash behind it either.
        if !rest.is_empty() && !target.ends_with('/') {
            target.push('/');
        }
        target.push_str(behind);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        Some(Box::new(RoutedTarget {
            target: target.into(),
            prefix: self.prefix.clone(),
        }))
    }
}

/// What follows a slash, which may be encoded.
fn without_slash(path: &str) -> Option<&str> {
    let encoded = || {
        path.strip_prefix("%2F")
            .or_else(|| path.strip_prefix("%2f"))
    };
    path.strip_prefix('/').or_else(encoded)
}

/// The length of the component at the start of a path.
fn component(path: &str) -> usize {
    let starts = path.bytes().enumerate();
    let mut slashes = starts.filter(|(at, byte)| match byte {
        b'/' => true,
        b'%' => without_slash(&path[*at..]).is_some(),
        _ => false,
    });
    slashes.next().map_or(path.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Method;

    /// Routes with these paths; the number of a site is its place in the list.
    fn routes(prefixes: &[(&str, Option<&str>)]) -> SiteRoutes {
        let mut routes = SiteRoutes::default();
        for (site, (prefix, rewrite)) in prefixes.iter().enumerate() {
            let settings = RouteConfig {
                site: "a".into(),
                prefix: (*prefix).into(),
                rewrite: rewrite.map(Into::into),
            };
            routes.add(site, &settings);
        }
        routes
    }

    fn choose(routes: &SiteRoutes, target: &str) -> RoutedTo {
        let method = match target {
            "*" => Method::Options,
            _ => Method::Get,
        };
        routes.choose(&Target::parse(&method, target.as_bytes()).unwrap())
    }

    #[test]
    fn longest_path_gets_the_request() {
        let routes = routes(&[("/api", None), ("/api/v2", None), ("/ä", None)]);
        let check = |targets: &[&str], expected: &RoutedTo| {
            for target in targets {
                assert_eq!(choose(&routes, target), *expected, "{target}");
            }
        };
        check(
            &[
                "/api",
                "/api/",
                "/api?x=/..",
                "/api/x",
                "//api",
                "/./api/x",
                "/%61pi",
                "/%2e/api",
                "/%2Fapi%2fx",
                "/api/v22",
                "/api/V2",
                "/api%2Fv",
            ],
            &RoutedTo::Route(0, None),
        );
        check(
            &["/api/v2", "/api//v2/x", "/api/./v2?", "/api%2Fv2"],
            &RoutedTo::Route(1, None),
        );
        check(&["/%C3%A4/x"], &RoutedTo::Route(2, None));
        check(
            &[
                "/", "/apix", "/Api", "/x/api", "*", "/api;x", "/ap", "/%", "/api%2",
            ],
            &RoutedTo::Site,
        );
        check(
            &["/api/..", "/x/%2e%2E/api", "/api/..;/x"],
            &RoutedTo::Unclear,
        );
    }

    #[test]
    fn rest_of_the_path_is_forwarded_as_sent() {
        let routes = routes(&[("/api", Some("/")), ("/old", Some("/new/x")), ("/", None)]);
        let check = |target: &str, expected: &str| match choose(&routes, target) {
            RoutedTo::Route(_, Some(routed)) => assert_eq!(&*routed.target, expected, "{target}"),
            other => panic!("{target}: {other:?}"),
        };
        check("/api", "/");
        check("/api?a=/api", "/?a=/api");
        check("/api/", "/");
        check("/api/%61/b//c/?", "/%61/b//c/?");
        check("//api//x", "/x");
        check("/api%2F%2fx%2Fy", "/x%2Fy");
        check("/%61pi/é".replace('é', "%C3%A9").as_str(), "/%C3%A9");
        check("/old", "/new/x");
        check("/old/", "/new/x/");
        check("/old/y?z", "/new/x/y?z");
        assert_eq!(choose(&routes, "/x"), RoutedTo::Route(2, None));
        assert_eq!(choose(&routes, "*"), RoutedTo::Site);
    }
}
