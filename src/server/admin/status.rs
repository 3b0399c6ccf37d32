//! The state of the server as JSON: all of it, and parts of it.

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use super::view::{BackendView, DrainedView, HistoryView, ServerView, SiteView, View};

/// `GET /status/SITE`: a site by itself.
#[derive(Serialize)]
struct SiteDetails<'v> {
    #[serde(flatten)]
    site: &'v SiteView,
    /// The server's uptime in seconds.
    uptime: u64,
    history: HistoryView,
    /// The backends that have dialled in.
    processes: Vec<BackendView>,
}

/// `GET /sites`
#[derive(Serialize)]
struct SiteList {
    sites: Vec<SiteView>,
}

/// `GET /backends`
#[derive(Serialize)]
struct BackendList<'v> {
    /// Those that have dialled in.
    backends: Vec<BackendView>,
    servers: Vec<SiteServer<'v>>,
    /// What is drained.
    drained: &'v [DrainedView],
}

/// A server with its site.
#[derive(Serialize)]
struct SiteServer<'v> {
    site: &'v str,
    #[serde(flatten)]
    server: &'v ServerView,
}

/// The host names of a site.
#[derive(Serialize)]
struct DomainReport<'v> {
    domain: &'v str,
    site: &'v str,
}

/// `GET /status`
pub(super) fn server(request: &AdminRequest<'_>) -> AdminResponse {
    AdminResponse::json(200, &View::new(request.context))
}

/// `GET /status/SITE`
pub(super) fn site(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let name = &request.arguments[0];
    let Some((site, running)) = view.site(name) else {
        return AdminResponse::error(404, "no such site");
    };
    let track = request
        .context
        .shared
        .history
        .lock()
        .site(&site.name)
        .cloned();
    let details = SiteDetails {
        site,
        uptime: view.uptime,
        history: HistoryView::new(track.as_ref(), (5, 300)),
        processes: view.connected(Some(running)),
    };
    AdminResponse::json(200, &details)
}

/// `GET /sites`
pub(super) fn sites(request: &AdminRequest<'_>) -> AdminResponse {
    let View { sites, .. } = View::new(request.context);
    AdminResponse::json(200, &SiteList { sites })
}

/// `GET /backends`
pub(super) fn backends(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let servers = view.sites.iter().flat_map(|site| {
        let servers = site.servers.iter().flatten();
        servers.map(|server| SiteServer {
            site: &site.name,
            server,
        })
    });
    let list = BackendList {
        backends: view.connected(None),
        servers: servers.collect(),
        drained: &view.drained,
    };
    AdminResponse::json(200, &list)
}

/// `GET /domains`
pub(super) fn domains(request: &AdminRequest<'_>) -> AdminResponse {
    let view = View::new(request.context);
    let names = view.sites.iter().flat_map(|site| {
        site.incoming.iter().map(|domain| DomainReport {
            domain,
            site: &site.name,
        })
    });
    AdminResponse::json(200, &names.collect::<Vec<_>>())
}
