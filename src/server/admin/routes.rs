//! The paths of the status address, each with its methods and the function that answers.

use super::message::{AdminRequest, AdminResponse};
use super::{certificates, control, metrics, page, site_config, status};
use crate::http::head::Method;
use crate::http::target::decoded;

/// A method, a path, and the function that answers.
struct AdminRoute {
    method: &'static str,
    /// `*` stands for one part, which the function gets as an argument.
    path: &'static str,
    run: fn(&AdminRequest<'_>) -> AdminResponse,
}

const fn route(
    method: &'static str,
    path: &'static str,
    run: fn(&AdminRequest<'_>) -> AdminResponse,
) -> AdminRoute {
    AdminRoute { method, path, run }
}

/// All paths. GET is for HEAD too.
const ROUTES: &[AdminRoute] = &[
    route("GET", "/", page::page),
    route("GET", "/status", status::server),
    route("GET", "/status/*", status::site),
    route("GET", "/sites", status::sites),
    route("GET", "/backends", status::backends),
    route("GET", "/domains", status::domains),
    route("GET", "/metrics", metrics::metrics),
    route("GET", "/control/certificates", certificates::list),
    route("GET", "/control/certificates/*", certificates::list),
    route("POST", "/control/certificates", certificates::dry_run),
    route("POST", "/control/certificates/*", certificates::dry_run),
    route("POST", "/control/reload", control::reload),
    route("POST", "/control/check", control::check),
    route("POST", "/control/upgrade", control::upgrade),
    route("POST", "/control/stop", control::stop),
    route("POST", "/control/log/*", control::log_level),
    route("POST", "/control/pause/*", control::pause),
    route("POST", "/control/resume/*", control::resume),
    route("POST", "/control/maintenance/*/*", control::maintenance),
    route("POST", "/control/drain/*", control::drain),
    route("POST", "/control/undrain/*", control::undrain),
    route("GET", "/control/in-flight/*", control::in_flight),
    route("GET", "/config", site_config::show_all),
    route("GET", "/config/*", site_config::show_site),
    route("PUT", "/config/*", site_config::put),
    route("POST", "/config/*", site_config::merge),
    route("DELETE", "/config/*", site_config::remove),
];

/// Calls the function for a request, or responds with 404 or 405.
pub(super) fn dispatch(mut request: AdminRequest<'_>) -> AdminResponse {
    let path = request.head.target.path();
    let method = match &request.head.method {
        Method::Head => "GET",
        method => method.as_str(),
    };
    let mut allowed = Vec::new();
    for route in ROUTES {
        let Some(arguments) = arguments(route.path, path) else {
            continue;
        };
        if route.method == method {
            if route.method == "GET" && !request.body.is_empty() {
                return AdminResponse::error(400, "a body is not expected here");
            }
            request.arguments = arguments;
            return (route.run)(&request);
        }
        allowed.push(route.method);
        if route.method == "GET" {
            allowed.push("HEAD");
        }
    }
    match allowed.is_empty() {
        true => AdminResponse::error(404, "no such path"),
        false => {
            AdminResponse::error(405, "another method is needed").with("Allow", allowed.join(", "))
        }
    }
}

/// The parts of a path that stand for `*` in the pattern; `None` if the path does not match.
fn arguments(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut parts = path.split('/');
    let mut arguments = Vec::new();
    for wanted in pattern.split('/') {
        let part = parts.next()?;
        match wanted {
            "*" if !part.is_empty() => {
                let part = decoded(part.as_bytes());
                arguments.push(String::from_utf8(part.into_owned()).ok()?);
            }
            _ if wanted == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_part_by_part() {
        let check = |pattern: &str, path: &str, expected: Option<&[&str]>| {
            let found = arguments(pattern, path);
            let found = found
                .as_ref()
                .map(|found| found.iter().map(String::as_str).collect());
            assert_eq!(found, expected.map(<[_]>::to_vec), "{pattern} {path}");
        };
        check("/", "/", Some(&[]));
        check("/status", "/status", Some(&[]));
        check("/status", "/status/", None);
        check("/status", "/statu", None);
        check("/status/*", "/status/a.example", Some(&["a.example"]));
        check("/status/*", "/status/%5B%3A%3A1%5D", Some(&["[::1]"]));
        check("/status/*", "/status/", None);
        check("/status/*", "/status", None);
        check("/status/*", "/status/a/b", None);
        check("/status/*", "/status/%FF", None);
        check("/control/*/x", "/control/a/x", Some(&["a"]));
    }
}
