//! Chooses the site of a request. Pure.

use crate::http::head::{Method, RequestHead};
use crate::server::snapshot::Snapshot;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// To the site with this index.
    Site(usize),
    /// To the health page of the proxy itself.
    Health,
    /// Nowhere: no site has this name, and there is no default site.
    NotFound,
}

/// Chooses the site by the name of the host, ignoring case and port.
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
