//! Redirects of a site (`redirect_to_https`, `redirect`).
//!
//! Pure. A site without these keys pays for two branches per request.

use super::snapshot::Site;
use crate::config::{Address, Config};
use crate::exchange::{Request, Response};

/// The redirect for a request, if there is one. The challenges by which certificates are obtained have none.
pub(crate) fn respond(site: &Site, config: &Config, request: &Request) -> Option<Response> {
    let settings = &site.settings;
    if !settings.redirect_to_https && settings.redirect.is_empty() {
        return None;
    }
    let head = &request.head;
    let target = &head.target;
    if target.is_asterisk() || target.path().starts_with(CHALLENGE) {
        return None;
    }
    let host = head.host.as_ref().map(|host| host.name());
    let named = host.or_else(|| settings.host());
    if settings.redirect_to_https
        && !request.is_https()
        && let Some(name) = named
    {
        // Behind a proxy, its port counts, which is the usual one.
        let port = https_port(config).filter(|_| !request.client.trusted);
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        let location = format!("https://{name}{port}{}", target.as_str());
        return Some(page(308, &location, site, request));
    }
    settings.redirect.iter().find_map(|redirect| {
        let location = redirect.location(host, target.path(), target.query())?;
        Some(page(redirect.status, &location, site, request))
    })
}

fn page(status: u16, location: &str, site: &Site, request: &Request) -> Response {
    let detail = format!("This page is at {location}");
    let mut page = site.page(status, &detail, Some(&request.head));
    page.head.headers.push("Location", location.as_bytes());
    // Unlike an error it stays true; caches know for how long from its status.
    page.head.headers.remove("Cache-Control");
    page
}

/// The port for HTTPS; `None`: the usual one. A port that the system chooses is not known.
fn https_port(config: &Config) -> Option<u16> {
    let ports = || {
        config.secure.iter().filter_map(|at| match at {
            Address::Tcp { port, .. } => Some(*port),
            Address::Unix(_) => None,
        })
    };
    match ports().any(|port| port == 443) {
        true => None,
        false => ports().find(|port| *port != 0),
    }
}

/// Where challenges are (RFC 8555 8.3).
const CHALLENGE: &str = "/.well-known/acme-challenge/";
