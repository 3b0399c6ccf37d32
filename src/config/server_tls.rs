//! Reads how servers that speak TLS are verified (`server_tls`).

use super::address;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{DirectoryConfig, ServerProtocol, ServerTlsConfig};
use super::value;

/// Reads `server_tls` of a site with these servers. `None`: none of them speaks TLS.
pub(super) fn server_tls(
    section: &Section,
    directory: Option<&DirectoryConfig>,
) -> Option<ServerTlsConfig> {
    let config = values(section);
    let speaks_tls = match directory {
        Some(DirectoryConfig::Static(servers)) => servers
            .iter()
            .any(|server| server.protocol == ServerProtocol::Https),
        _ => false,
    };
    if !speaks_tls {
        if raw::get(&section.map, KEY).is_some() {
            section.note(KEY, ": has no effect without a server of https://");
        }
        return None;
    }
    if let Some(node) = raw::get(&section.map, SEND_PROXY)
        && value::truth(node) != Ok(false)
    {
        let wrong = "not to a server of https://, which would take it for broken TLS; leave it out";
        section.wrong(SEND_PROXY, None, node, wrong);
    }
    Some(config)
}

fn values(section: &Section) -> ServerTlsConfig {
    let section = section.section(KEY);
    let node = |key: &str| raw::get(&section.map, key);
    let path = |key: &str| section.take(key, value::path(section.directory));
    let (ca, certfile, keyfile) = (path("ca"), path("certfile"), path("keyfile"));
    let keyfile = keyfile.or_else(|| certfile.clone());
    let insecure = section.take(INSECURE, value::truth).unwrap_or(false);
    for key in ["ca", "fingerprint"] {
        if insecure && let Some(node) = node(key) {
            let wrong =
                "no certificate is verified with insecure_skip_verify; leave one of them out";
            section.wrong(key, None, node, wrong);
        }
    }
    if let (Some(_), Some(node)) = (node("ca"), node("fingerprint")) {
        section.wrong("fingerprint", None, node, "not with ca; write one of them");
    }
    if insecure {
        section.note(
            INSECURE,
            ": WARNING: the server's certificate is not verified, so anyone in between can read and change everything; \
             write ca instead, or fingerprint for a certificate that is signed by itself",
        );
    }
    if let Some(node) = node("keyfile").filter(|_| node("certfile").is_none()) {
        section.wrong("keyfile", None, node, "no certfile; write both");
    }
    if let Some(inspection) = section.findings.inspection {
        let report = |key: &str, why: &str| {
            section.wrong(key, None, node(key).unwrap_or(&Node::Null), why);
        };
        if let Some(file) = &ca
            && let Err(why) = (inspection.authorities)(file)
        {
            report("ca", &why);
        }
        if let (Some(certfile), Some(keyfile)) = (&certfile, &keyfile)
            && let Err((file, why)) = (inspection.certificate)(certfile, keyfile)
        {
            let is_key = file == *keyfile && keyfile != certfile;
            report(if is_key { "keyfile" } else { "certfile" }, &why);
        }
    }
    ServerTlsConfig {
        ca,
        fingerprint: section.take("fingerprint", value::fingerprint),
        server_name: section.take("server_name", address::host),
        keyfile: keyfile.filter(|_| certfile.is_some()),
        certfile,
        insecure_skip_verify: insecure,
    }
}

const KEY: &str = "server_tls";
const INSECURE: &str = "insecure_skip_verify";
const SEND_PROXY: &str = "send_proxy";
