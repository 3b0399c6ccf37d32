//! Commands about certificates: their list, and whether names would get some.

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use super::view::CertificateView;
use crate::config::{SiteConfig, SiteTls};
use crate::server::operations;
use crate::server::snapshot::Snapshot;

#[derive(Serialize)]
struct CertificateList {
    certificates: Vec<CertificateView>,
}

/// Whether names would get certificates.
#[derive(Serialize)]
struct DryRunReport {
    /// The authority that was asked.
    directory: String,
    failed: usize,
    results: Vec<TrialReport>,
}

/// Whether a name would get a certificate.
#[derive(Serialize)]
struct TrialReport {
    name: String,
    /// The kind of challenge that has validated it, if one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<&'static str>,
    /// Why others have not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /control/certificates`, `GET /control/certificates/SITE`
pub(super) fn list(request: &AdminRequest<'_>) -> AdminResponse {
    let mut certificates = CertificateView::all(&request.context.shared);
    if let Some(name) = request.arguments.first() {
        let snapshot = request.context.shared.snapshot();
        let Some(site) = snapshot.called(name) else {
            return no_site(name, &snapshot);
        };
        let SiteConfig { incoming, tls, .. } = &site.settings;
        let own_file = match tls {
            Some(SiteTls::Files { certfile, .. }) => Some(certfile.display().to_string()),
            _ => None,
        };
        certificates.retain(|one| match &one.file {
            Some(file) => own_file.as_ref() == Some(file),
            None => one.names.iter().any(|name| {
                incoming.contains(name)
                    || *tls == Some(SiteTls::OnDemand)
                        && (snapshot.site(name).or(snapshot.default))
                            .is_some_and(|index| std::ptr::eq(&snapshot.sites[index], site))
            }),
        });
    }
    AdminResponse::json(200, &CertificateList { certificates })
}

/// `POST /control/certificates`, `POST /control/certificates/SITE`: tries whether names would get certificates.
pub(super) fn dry_run(request: &AdminRequest<'_>) -> AdminResponse {
    let shared = &request.context.shared;
    let snapshot = shared.snapshot();
    let wanted = request.arguments.first();
    let mut sites: Vec<_> = snapshot.sites.iter().map(|site| &site.settings).collect();
    if let Some(name) = wanted {
        let Some(site) = snapshot.called(name) else {
            return no_site(name, &snapshot);
        };
        sites = vec![&site.settings];
    }
    sites.retain(|site| site.tls.as_ref().is_some_and(SiteTls::is_obtained));
    let names = sites.into_iter().flat_map(|site| site.incoming.clone());
    let names = names.filter(|name| !name.starts_with("*."));
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        let which = wanted.map_or_else(|| "no site".to_owned(), |name| format!("not site {name}"));
        let why = format!("{which} has tls: auto, so nothing is to be obtained");
        return AdminResponse::error(409, &why);
    }
    let (directory, trials) = shared.manager.dry_run(&names);
    let results: Vec<_> = trials
        .into_iter()
        .map(|trial| TrialReport {
            name: trial.name,
            challenge: trial.challenge,
            error: trial.error,
        })
        .collect();
    let failed = results.iter().filter(|one| one.challenge.is_none());
    AdminResponse::json(
        200,
        &DryRunReport {
            directory,
            failed: failed.count(),
            results,
        },
    )
}

fn no_site(name: &str, snapshot: &Snapshot) -> AdminResponse {
    AdminResponse::error(404, &operations::no_site(name, snapshot).to_string())
}
