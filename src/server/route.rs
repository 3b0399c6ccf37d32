//! Which site a request is for. Pure.

use regex::bytes::Regex;

use crate::http::head::{Method, RequestHead};
use crate::server::snapshot::Snapshot;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the site with this index.
    Site(usize),
    /// To the proxy itself, which says that it is well.
    Health,
    /// Nowhere: no site has this name, and none is the default.
    NotFound,
}

/// Picks the site by the host's name, without regard to case and port.
pub(crate) fn route(snapshot: &Snapshot, head: &RequestHead) -> Route {
    let asks_for_health = snapshot
        .config
        .health_check_uri
        .as_deref()
        .is_some_and(|uri| head.target.path() == uri);
    if asks_for_health && matches!(head.method, Method::Get | Method::Head) {
        return Route::Health;
    }
    let named = head
        .host
        .as_ref()
        .and_then(|host| snapshot.site(host.name()));
    match named.or(snapshot.default) {
        Some(site) => Route::Site(site),
        None => Route::NotFound,
    }
}

/// Finds the ids in paths of the original's IOWA framework, whose sessions live in one process: a request whose
/// path ends like this is only for the backend with this id.
pub(crate) fn sticky() -> Regex {
    Regex::new(r"(?-u)\w-\w+-\w+\.\w+\.[\w.]+-(\w+)$").expect("a constant pattern")
}

/// The id in a decoded path, if it has one; see [`sticky`].
pub(crate) fn sticky_id<'p>(pattern: &Regex, path: &'p [u8]) -> Option<&'p [u8]> {
    // Nearly no path has one, and looking for a dash costs next to nothing.
    memchr::memchr(b'-', path)?;
    Some(pattern.captures(path)?.get(1)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_paths() {
        let pattern = sticky();
        let check = |path: &str, expected: Option<&str>| {
            let found = sticky_id(&pattern, path.as_bytes());
            assert_eq!(found, expected.map(str::as_bytes), "{path}");
        };
        check("/app/1-2-3.4.5-7f0000010016", Some("7f0000010016"));
        check("/a-b-c.d.e.f-id_1", Some("id_1"));
        check("/x/a-b-c.d.e-", None);
        check("/x/a-b-c.d.e-i.d", None);
        check("/x/a-b-c.d-id", None);
        check("/x/b-c.d.e-id", None);
        check("/x/a-b-c.d.e-id/more", None);
        check("/a--c.d.e-id", None);
        check("/", None);
        check("", None);
    }
}
