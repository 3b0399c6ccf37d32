//! Checks the addresses for clients and the certificates.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::acme;
use super::address::{self, ClusterAddress};
use super::overrides::Overrides;
use super::problem::Location;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{Address, Tls};
use super::value::{self, ValueError};

/// Combines every `cluster_address` with every `cluster_port`.
pub(super) fn listen(top: &Section, overrides: &Overrides) -> Vec<Address> {
    let front = |node: &Node| match address::cluster_address(top.directory, &value::text(node)?)? {
        ClusterAddress::Unix(path) => top.to_be_written(path).map(ClusterAddress::Unix),
        front => Ok(front),
    };
    let typed = top.take_many("cluster_address", front);
    let fronts = match &overrides.cluster_address {
        None => typed.unwrap_or(vec![ClusterAddress::Any]),
        Some(text) => match address::cluster_address(top.directory, text) {
            Ok(front) => vec![front],
            Err(wrong) => {
                let shown = value::shown(&Node::Text(text.clone()));
                top.findings.problem(
                    Location::CommandLine,
                    format!("cluster address {shown}: {wrong}"),
                );
                return Vec::new();
            }
        },
    };
    let typed = top.take_many("cluster_port", value::port);
    let ports = overrides.cluster_port.map(|port| vec![port]).or(typed);
    let only_sockets = !fronts.is_empty()
        && fronts
            .iter()
            .all(|front| matches!(front, ClusterAddress::Unix(_)));
    let has_ssl = raw::get(&top.map, "ssl").is_some();
    let only_tls = ports.is_none() && has_ssl;
    // Certificates without a port: clients come to the usual ones.
    let ports = match ports {
        None if !has_ssl && acme::is_wanted(top) => Some(vec![HTTP]),
        ports => ports,
    };
    if !only_sockets
        && !only_tls
        && ports
            .as_ref()
            .is_none_or(|ports| ports.is_empty() && nothing(top, "cluster_port"))
    {
        top.problem("cluster_port: missing; write cluster_port: 80");
    }
    if fronts.is_empty() && nothing(top, "cluster_address") {
        top.problem("cluster_address: an empty list; leave it out for all addresses");
    }
    let mut listen: Vec<Address> = Vec::new();
    for front in fronts {
        let ports = ports.as_deref().unwrap_or_default();
        let addresses: Vec<Address> = match front {
            ClusterAddress::Unix(path) => vec![Address::Unix(path)],
            ClusterAddress::Host(host) => {
                ports.iter().map(|port| tcp(&host, *port, false)).collect()
            }
            ClusterAddress::Any => {
                let both = |port: &u16| [tcp("0.0.0.0", *port, false), tcp("::", *port, true)];
                ports.iter().flat_map(both).collect()
            }
        };
        for address in addresses {
            add(&mut listen, address);
        }
    }
    listen
}

/// Reads `ssl`: one `{at, certfile, keyfile}` or a list of them. Adds addresses that are not in `listen` yet. Returns
/// the addresses that speak TLS, and the certificates of those that have files.
pub(super) fn ssl(top: &Section, listen: &mut Vec<Address>) -> (Vec<Address>, Vec<Tls>) {
    let for_sites = acme::is_wanted(top);
    let Some(entries) = top.many("ssl") else {
        let secure = match for_sites {
            true => usual(top, listen),
            false => Vec::new(),
        };
        return (secure, Vec::new());
    };
    let mut secure: Vec<Address> = Vec::new();
    let mut result: Vec<Tls> = Vec::new();
    let mut taken = HashSet::new();
    for (item, node) in entries {
        let read = |node: &Node| match tls_entry(top, node)? {
            (_, None, _) if !for_sites => Err(NO_CERTFILE.to_owned()),
            entry => Ok(entry),
        };
        let Some((ats, files, ocsp)) = top.read("ssl", item, node, read) else {
            continue;
        };
        let has_tls = top.needs_tls("ssl", item, node);
        if let Some((certfile, keyfile)) = files.as_ref().filter(|_| has_tls) {
            inspect(top, "ssl", item, node, (certfile, keyfile));
        }
        for at in ats {
            let known = listen.iter().find(|address| same_address(address, &at));
            let at = known.cloned().unwrap_or(at);
            let known = known.is_some();
            let other = |address: &&Address| address::conflict(address, &at);
            if !known && let Some(address) = listen.iter().find(other) {
                let message =
                    format!("{at} would get the clients of {address}; write at: {address}");
                top.wrong("ssl", item, node, &message);
            } else if !known {
                listen.push(at.clone());
            }
            // A port without an address is on 0.0.0.0 and `::`: the certificate is for both.
            let implied = match &at {
                Address::Tcp { host, port, .. } if host == "0.0.0.0" => listen
                    .iter()
                    .find(|address| **address == tcp("::", *port, true)),
                _ => None,
            };
            for at in [&at].into_iter().chain(implied) {
                if !secure.contains(at) {
                    secure.push(at.clone());
                }
                let Some((certfile, keyfile)) = &files else {
                    continue;
                };
                let tls = Tls {
                    at: at.clone(),
                    certfile: certfile.clone(),
                    keyfile: keyfile.clone(),
                    ocsp: ocsp.clone(),
                    client_ca: None,
                    client_crl: None,
                };
                if taken.insert(tls.clone()) {
                    result.push(tls);
                }
            }
        }
    }
    (secure, result)
}

/// The addresses that speak TLS when the file names none: port 443 of each address. Adds them to `listen`.
fn usual(top: &Section, listen: &mut Vec<Address>) -> Vec<Address> {
    let mut secure: Vec<Address> = Vec::new();
    for address in &*listen {
        if let Address::Tcp { host, implied, .. } = address {
            add(&mut secure, tcp(host, HTTPS, *implied));
        }
    }
    if secure.is_empty() && !listen.is_empty() {
        top.problem(
            "ssl: no address speaks TLS, which the tls of a site needs; write ssl: {at: '*:443'}",
        );
    }
    for address in &secure {
        add(listen, address.clone());
    }
    secure
}

/// Reads `outgoing_ssl`: one `{at, certfile, keyfile, client_ca, client_crl}` or a list of them; returns each with its index in
/// the list.
pub(super) fn outgoing_ssl(top: &Section) -> Vec<(Option<usize>, Tls)> {
    let mut result: Vec<(Option<usize>, Tls)> = Vec::new();
    for (item, node) in top.many("outgoing_ssl").unwrap_or_default() {
        let read = |node: &Node| {
            let (ats, files, _) = tls_entry(top, node)?;
            let (certfile, keyfile) = files.ok_or(NO_CERTFILE)?;
            let path = |key: &str| {
                let node = match node {
                    Node::Map(map) => raw::get(map, key),
                    _ => None,
                };
                node.map(value::path(top.directory))
                    .transpose()
                    .map_err(|wrong| format!("{key}: {wrong}"))
            };
            let (client_ca, client_crl) = (path("client_ca")?, path("client_crl")?);
            if client_crl.is_some() && client_ca.is_none() {
                return Err("client_crl without client_ca; write both".into());
            }
            let [at] = ats.as_slice() else {
                return Err("at: write the outgoing address of a site, at: 0.0.0.0:30000".into());
            };
            Ok(Tls {
                at: at.clone(),
                certfile,
                keyfile,
                ocsp: None,
                client_ca,
                client_crl,
            })
        };
        let Some(tls) = top.read("outgoing_ssl", item, node, read) else {
            continue;
        };
        if top.needs_tls("outgoing_ssl", item, node) {
            let files = (&*tls.certfile, &*tls.keyfile);
            inspect(top, "outgoing_ssl", item, node, files);
            if let Some(authorities) = &tls.client_ca {
                inspect_authorities(top, item, node, authorities, tls.client_crl.as_deref());
            }
        }
        let differs = |(_, known): &(Option<usize>, Tls)| {
            known.at == tls.at
                && (&known.client_ca, &known.client_crl) != (&tls.client_ca, &tls.client_crl)
        };
        if result.iter().any(differs) {
            let wrong = "another client_ca or client_crl than the entry above has for this address";
            top.wrong("outgoing_ssl", item, node, wrong);
        }
        result.push((item, tls));
    }
    result
}

/// The addresses of an entry of `ssl` or `outgoing_ssl`, the files of its certificate and key if it has them, and that of
/// `ocsp`.
type TlsEntry = (Vec<Address>, Option<(PathBuf, PathBuf)>, Option<PathBuf>);

/// Reads an entry of `ssl` or `outgoing_ssl`.
fn tls_entry(top: &Section, node: &Node) -> Result<TlsEntry, ValueError> {
    let Node::Map(map) = node else {
        return Err("write {at: 0.0.0.0:443, certfile: cert.pem, keyfile: key.pem}".into());
    };
    let file = |key: &str| {
        raw::get(map, key)
            .map(|node| value::path(top.directory)(node).map_err(|wrong| format!("{key}: {wrong}")))
            .transpose()
    };
    let at = raw::get(map, "at").ok_or("no at; write the address and port, at: 0.0.0.0:443")?;
    let text = value::text(at).map_err(|wrong| format!("at: {wrong}"))?;
    let ats = at_addresses(top.directory, &text).map_err(|wrong| format!("at: {wrong}"))?;
    let (certfile, keyfile, ocsp) = (file("certfile")?, file("keyfile")?, file("ocsp")?);
    let Some(certfile) = certfile else {
        return match keyfile.or(ocsp) {
            None => Ok((ats, None, None)),
            Some(_) => Err(NO_CERTFILE.into()),
        };
    };
    let keyfile = keyfile.unwrap_or_else(|| certfile.clone());
    Ok((ats, Some((certfile, keyfile)), ocsp))
}

/// The addresses that `at` names: two for `*:443`.
pub(super) fn at_addresses(
    directory: Option<&Path>,
    text: &str,
) -> Result<Vec<Address>, ValueError> {
    let any = text.strip_prefix("*:");
    let literal = any.map_or(text.to_owned(), |port| format!("0.0.0.0:{port}"));
    let at = address::dial_in(directory, &literal)?;
    Ok(match (any, &at) {
        (Some(_), Address::Tcp { port, .. }) => vec![at.clone(), tcp("::", *port, true)],
        _ => vec![at],
    })
}

/// Inspects the certificate and the key of an entry of `ssl` or `outgoing_ssl` before a start.
fn inspect(
    top: &Section,
    key: &str,
    item: Option<usize>,
    node: &Node,
    (certfile, keyfile): (&Path, &Path),
) {
    let (Some(inspection), Node::Map(map)) = (top.findings.inspection, node) else {
        return;
    };
    let report = |inner: &str, why: &str| report(top, (key, inner), item, map, why);
    if let Err((file, why)) = (inspection.certificate)(certfile, keyfile) {
        let is_key = file == keyfile && raw::get(map, "keyfile").is_some();
        report(if is_key { "keyfile" } else { "certfile" }, &why);
    }
    // The inspection stops at a missing certificate, so check the key too.
    if keyfile != certfile
        && !certfile.is_file()
        && let Err(why) = value::read_file(keyfile, KEY_BYTES)
    {
        report("keyfile", &why);
    }
}

/// Inspects the authorities of an entry of `outgoing_ssl` before a start, and the certificates that they have revoked.
fn inspect_authorities(
    top: &Section,
    item: Option<usize>,
    node: &Node,
    authorities: &Path,
    revoked: Option<&Path>,
) {
    let (Some(inspection), Node::Map(map)) = (top.findings.inspection, node) else {
        return;
    };
    let report = |inner: &str, why: &str| report(top, ("outgoing_ssl", inner), item, map, why);
    if let Err(why) = (inspection.authorities)(authorities) {
        report("client_ca", &why);
    }
    if let Some(revoked) = revoked
        && let Err(why) = (inspection.revoked)(authorities, revoked)
    {
        report("client_crl", &why);
    }
}

/// Reports what is wrong with a file of an entry.
fn report(
    top: &Section,
    (key, inner): (&str, &str),
    item: Option<usize>,
    map: &raw::Map,
    why: &str,
) {
    let shown = raw::get(map, inner).map(value::shown).unwrap_or_default();
    let place = top.place_within(key, item, inner);
    let message = format!("{key}.{inner} {shown}: {why}");
    top.findings.problem(place, message);
}

/// Whether two addresses are equal, whether written or implied.
pub(super) fn same_address(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (
            Address::Tcp { host, port, .. },
            Address::Tcp {
                host: other,
                port: typed,
                ..
            },
        ) => host == other && port == typed,
        _ => one == other,
    }
}

/// Whether a list is empty as written, rather than because all its values are wrong.
fn nothing(top: &Section, key: &str) -> bool {
    top.many(key).is_none_or(|values| values.is_empty())
}

fn tcp(host: &str, port: u16, implied: bool) -> Address {
    Address::Tcp {
        host: host.into(),
        port,
        implied,
    }
}

/// Adds an address unless it is in the list. A written one replaces an implied one; port 0 counts once per host,
/// although it is a different port each time.
fn add(listen: &mut Vec<Address>, address: Address) {
    let same = |known: &&mut Address| same_address(known, &address);
    match (listen.iter_mut().find(same), &address) {
        (None, _) => listen.push(address),
        (Some(known), Address::Tcp { implied: false, .. }) => *known = address,
        _ => {}
    }
}

/// The usual ports.
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

const NO_CERTFILE: &str = "no certfile; write the file of the certificate, certfile: cert.pem";

/// Most bytes of a key file to read.
const KEY_BYTES: u64 = 4 << 20;
