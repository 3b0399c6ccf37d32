//! The configuration of single sites: shown, changed, removed.

use serde::Serialize;

use super::control::{done, query, with_process};
use super::message::{AdminRequest, AdminResponse};
use crate::config::edit::SiteEdit;
use crate::config::live::{EditOptions, LiveError};

#[derive(Serialize)]
struct Shown {
    /// YAML.
    config: String,
}

/// `GET /config`
pub(super) fn show_all(request: &AdminRequest<'_>) -> AdminResponse {
    show(request, None)
}

/// `GET /config/SITE`
pub(super) fn show_site(request: &AdminRequest<'_>) -> AdminResponse {
    show(request, Some(&request.arguments[0]))
}

/// `PUT /config/SITE`
pub(super) fn put(request: &AdminRequest<'_>) -> AdminResponse {
    change(request, |body| SiteEdit::Put(body))
}

/// `POST /config/SITE`
pub(super) fn merge(request: &AdminRequest<'_>) -> AdminResponse {
    change(request, |body| SiteEdit::Merge(body))
}

/// `DELETE /config/SITE`
pub(super) fn remove(request: &AdminRequest<'_>) -> AdminResponse {
    change(request, |_| SiteEdit::Remove)
}

fn show(request: &AdminRequest<'_>, site: Option<&str>) -> AdminResponse {
    with_process(request, |process| match process.show(site) {
        Ok(config) => AdminResponse::json(200, &Shown { config }),
        Err(error) => refused(&error),
    })
}

fn change(request: &AdminRequest<'_>, of: impl FnOnce(&str) -> SiteEdit<'_>) -> AdminResponse {
    let Ok(body) = str::from_utf8(request.body) else {
        return AdminResponse::error(400, "the body is not UTF-8");
    };
    let options = match options(request) {
        Ok(options) => options,
        Err(why) => return AdminResponse::error(400, &why),
    };
    with_process(request, |process| {
        match process.change(&request.arguments[0], of(body), options) {
            Ok(message) => done(&message),
            Err(error) => refused(&error),
        }
    })
}

fn options(request: &AdminRequest<'_>) -> Result<EditOptions, String> {
    let persist = match query(request, "persist").as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(other) => return Err(format!("persist {other:?}: write true or false")),
    };
    let drop_comments = match query(request, "comments").as_deref() {
        None | Some("keep") => false,
        Some("drop") => true,
        Some(other) => return Err(format!("comments {other:?}: write keep or drop")),
    };
    Ok(EditOptions {
        persist,
        drop_comments,
    })
}

fn refused(error: &LiveError) -> AdminResponse {
    let status = match error {
        LiveError::NoSite(_) => 404,
        LiveError::Invalid(_) => 422,
        LiveError::File(_) => 409,
    };
    AdminResponse::error(status, &error.to_string())
}
