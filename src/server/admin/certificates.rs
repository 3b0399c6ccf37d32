//! The list of certificates, for commands and the status page.

use serde::Serialize;

use super::message::{AdminRequest, AdminResponse};
use super::view::unix_time;
use crate::config::{SiteConfig, SiteTls};
use crate::server::operations;
use crate::server::shared::Shared;
use crate::server::snapshot::Snapshot;
use crate::x509::name_text;

/// A certificate in a list.
#[derive(Debug, Serialize)]
pub(super) struct CertificateReport {
    /// The names that it is for; at least one if it comes from no file.
    pub(super) names: Vec<String>,
    /// `file`, `acme` or `internal`.
    pub(super) source: &'static str,
    /// The file from which it was read, with source `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    /// The name of its issuer.
    pub(super) issuer: String,
    /// When it expires, in seconds since 1970.
    pub(super) expires: u64,
    /// When the next one is ordered or made, in seconds since 1970; not with source `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) renewal: Option<u64>,
    /// Whether it is a self-signed one, since none was obtained yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) temporary: bool,
    /// Why the last order has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

#[derive(Serialize)]
struct CertificateList {
    certificates: Vec<CertificateReport>,
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

/// All certificates of a server: those that it obtains or makes, then those from files.
pub(super) fn reports(shared: &Shared) -> Vec<CertificateReport> {
    let managed = shared.manager.list();
    let managed = managed.into_iter().map(|one| CertificateReport {
        names: vec![one.name],
        source: match one.is_obtained {
            true => "acme",
            false => "internal",
        },
        file: None,
        issuer: name_text(&one.facts.issuer),
        expires: unix_time(one.facts.not_after),
        renewal: Some(unix_time(one.renewal)),
        temporary: one.is_temporary,
        error: one.error,
    });
    let files = shared.certificates.lock().clone();
    let files = files.into_iter().map(|one| {
        let facts = one.certificate.facts();
        CertificateReport {
            names: one.certificate.names().to_vec(),
            source: "file",
            file: Some(one.file.display().to_string()),
            issuer: name_text(&facts.issuer),
            expires: unix_time(facts.not_after),
            renewal: None,
            temporary: false,
            error: None,
        }
    });
    managed.chain(files).collect()
}

/// `GET /control/certificates`, `GET /control/certificates/SITE`
pub(super) fn list(request: &AdminRequest<'_>) -> AdminResponse {
    let mut certificates = reports(&request.context.shared);
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
            None => one.names.iter().any(|name| incoming.contains(name)),
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
    sites.retain(|site| site.tls == Some(SiteTls::Auto));
    let names = sites.into_iter().flat_map(|site| site.incoming.clone());
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
