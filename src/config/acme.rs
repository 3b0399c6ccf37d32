//! Reads `acme` and the `tls` of a site: where certificates come from.

use std::net::IpAddr;
use std::path::PathBuf;

use super::raw::{self, Map, Node, PathStep};
use super::section::Section;
use super::servers;
use super::types::{
    AcmeConfig, ChallengeKind, ChallengeSharing, ClientCertificate, Config, ExternalAccount,
    SiteTls,
};
use super::value::{self, ValueError};

/// Reads `acme`.
pub(super) fn acme(top: &Section) -> AcmeConfig {
    let base = AcmeConfig::default();
    let Some(node) = raw::get(&top.map, "acme") else {
        return base;
    };
    if !matches!(node, Node::Map(_)) {
        top.wrong("acme", None, node, "write {email: me@example.com}");
        return base;
    }
    if !cfg!(feature = "acme") {
        top.wrong("acme", None, node, WITHOUT);
    }
    let section = top.section("acme");
    let challenges = section.take_many("challenges", challenge);
    if challenges.as_ref().is_some_and(Vec::is_empty) && no_items(&section, "challenges") {
        let wrong = "an empty list; write http-01, tls-alpn-01 or both";
        section.wrong("challenges", None, &Node::List(Vec::new()), wrong);
    }
    let ca = section.take("ca", |node| {
        let file = value::path(section.directory)(node)?;
        if let Some(inspection) = section.findings.inspection {
            (inspection.authorities)(&file)?;
        }
        Ok(file)
    });
    AcmeConfig {
        email: section.take("email", email),
        directory: section.take("directory", url).unwrap_or(base.directory),
        ca,
        eab: external_account(&section),
        keyfile: section.take("keyfile", |node| {
            let file = value::path(section.directory)(node)?;
            match section.findings.inspection {
                Some(_) => value::read_file(&file, KEY_BYTES).map(|_| file),
                None => Ok(file),
            }
        }),
        profile: section.take("profile", value::text),
        // A wrong one is reported once, and not as missing for each site as well.
        ask: raw::get(&section.map, "ask")
            .map(|_| section.take("ask", question).unwrap_or_default()),
        challenges: challenges.map_or(base.challenges, without_duplicates),
        redis: sharing(&section),
    }
}

/// Reads `redis`: `{host}`, or false.
fn sharing(acme: &Section) -> ChallengeSharing {
    const KEY: &str = "redis";
    match raw::get(&acme.map, KEY) {
        None => ChallengeSharing::Directory,
        Some(node) if value::truth(node) == Ok(false) => ChallengeSharing::Off,
        Some(node @ Node::Map(_)) => {
            if !cfg!(feature = "redis") {
                let wrong = "this program was built without it (feature redis)";
                acme.wrong(KEY, None, node, wrong);
            }
            ChallengeSharing::At(servers::redis(&acme.section(KEY)))
        }
        Some(node) => {
            let wrong = "write {host: 127.0.0.1, port: 6379}, or false";
            acme.wrong(KEY, None, node, wrong);
            ChallengeSharing::Off
        }
    }
}

fn no_items(section: &Section, key: &str) -> bool {
    section.many(key).is_none_or(|values| values.is_empty())
}

fn without_duplicates(kinds: Vec<ChallengeKind>) -> Vec<ChallengeKind> {
    let mut result = Vec::new();
    for kind in kinds {
        if !result.contains(&kind) {
            result.push(kind);
        }
    }
    result
}

fn challenge(node: &Node) -> Result<ChallengeKind, ValueError> {
    match value::text(node).as_deref() {
        Ok("http-01") => Ok(ChallengeKind::Http01),
        Ok("tls-alpn-01") => Ok(ChallengeKind::TlsAlpn01),
        _ => Err("write http-01 or tls-alpn-01".into()),
    }
}

fn email(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b',');
    let parts = text.split_once('@');
    let is_address = parts
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'));
    match is_plain && is_address {
        true => Ok(text),
        false => Err("not an address; write me@example.com".into()),
    }
}

/// The URL of a directory. It names the authority, so it must be authentic.
fn url(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    let host = text
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').next());
    match is_plain && host.is_some_and(|host| !host.is_empty()) {
        true => Ok(text),
        false => Err("not a URL of a directory; write https://HOST/PATH".into()),
    }
}

/// The URL that is asked about names.
fn question(node: &Node) -> Result<String, ValueError> {
    let text = value::text(node)?;
    let is_plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.split(['/', '?']).next());
    match is_plain && host.is_some_and(|host| !host.is_empty()) {
        true => Ok(text),
        false => Err("not a URL; write http://127.0.0.1:3000/allowed".into()),
    }
}

fn external_account(acme: &Section) -> Option<ExternalAccount> {
    let node = raw::get(&acme.map, "eab")?;
    if !matches!(node, Node::Map(_)) {
        acme.wrong("eab", None, node, "write {kid: ID, key: KEY}");
        return None;
    }
    let section = acme.section("eab");
    for key in ["kid", "key"] {
        if raw::get(&section.map, key).is_none() {
            let wrong = format!("no {key}; write what the authority gave you");
            acme.wrong("eab", None, node, &wrong);
        }
    }
    let key = |node: &Node| {
        let text = value::text(node)?;
        let text = text.trim_end_matches('=').to_owned();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        // A single digit of the last group has fewer than eight bits.
        match text.bytes().all(fits) && text.len() % 4 != 1 {
            true => Ok(text),
            false => Err("not base64url; write it as the authority gave it".to_owned()),
        }
    };
    let (kid, key) = (section.take("kid", value::text), section.take("key", key));
    Some(ExternalAccount {
        kid: kid?,
        key: key?,
    })
}

/// Notes an `ask` that nothing needs.
pub(super) fn check_ask(top: &Section, config: &Config) {
    let mut sites = config.sites.iter();
    if config.acme.ask.is_some() && !sites.any(|site| site.tls == Some(SiteTls::OnDemand)) {
        let section = top.section("acme");
        section.note("ask", ": has no effect without a site with tls: on_demand");
    }
}

/// Reads the `tls` of a site with these names.
pub(super) fn tls(
    section: &Section,
    incoming: &[String],
    is_default: bool,
    acme: &AcmeConfig,
) -> Option<SiteTls> {
    const KEY: &str = "tls";
    let node = raw::get(&section.map, KEY)?;
    let tls = match node {
        Node::Map(map) => files(section, map)?,
        Node::Text(text) if text == "auto" => SiteTls::Auto,
        Node::Text(text) if text == "on_demand" => SiteTls::OnDemand,
        Node::Text(text) if text == "internal" => SiteTls::Internal,
        node if value::truth(node) == Ok(false) => return None,
        node => {
            let wrong =
                "write auto, on_demand, internal, {certfile: cert.pem, keyfile: key.pem} or false";
            section.wrong(KEY, None, node, wrong);
            return None;
        }
    };
    if matches!(tls, SiteTls::Files { .. }) {
        return Some(tls);
    }
    if !cfg!(feature = "acme") {
        section.wrong(KEY, None, node, WITHOUT);
    }
    let own = [section.steps.as_slice(), &[PathStep::Key(KEY.into())]].concat();
    // A site that has it from `defaults` may have no names, or only those that are known.
    let is_own = section.findings.has(&own);
    if tls == SiteTls::OnDemand {
        let has_pattern = incoming.iter().any(|name| name.starts_with("*."));
        if acme.ask.is_none() {
            section.wrong(KEY, None, node, WITHOUT_ASK);
        }
        if is_own && !is_default && !has_pattern && !no_items(section, "incoming") {
            let note = ": all names of the site are known, so on_demand does the same as auto";
            section.note(KEY, note);
        }
    } else if no_items(section, "incoming") && is_own {
        let wrong = "the site has no names to get certificates for; write incoming";
        section.wrong(KEY, None, node, wrong);
    }
    if tls.is_obtained() {
        let is_public = acme.is_public();
        for name in incoming {
            if name.starts_with("*.") {
                if tls == SiteTls::Auto {
                    let wrong = format!(
                        "{name} needs a validation by DNS, which is not supported; write on_demand, or certfile and keyfile"
                    );
                    section.wrong(KEY, None, node, &wrong);
                }
            } else if is_public && !is_public_name(name) {
                let wrong = format!(
                    "no public authority issues a certificate for {name}; write tls: internal"
                );
                section.wrong(KEY, None, node, &wrong);
            }
        }
    }
    Some(tls)
}

/// Reads `client_ca`, `client_crl` and `client_certificate` of a site.
pub(super) fn clients(
    section: &Section,
    server: &Config,
) -> (Option<PathBuf>, Option<PathBuf>, ClientCertificate) {
    const KEY: &str = "client_ca";
    let is_off = |node: &Node| value::truth(node) == Ok(false);
    let node = raw::get(&section.map, KEY).filter(|node| !is_off(node));
    let has_tls = node.is_none_or(|node| section.needs_tls(KEY, None, node));
    let file = node.and_then(|_| {
        section.take(KEY, |node| {
            let file = value::path(section.directory)(node)?;
            match section.findings.inspection.filter(|_| has_tls) {
                Some(inspection) => (inspection.authorities)(&file).map(|()| file),
                None => Ok(file),
            }
        })
    });
    if let Some(node) = node.filter(|_| has_tls)
        && server.secure.is_empty()
    {
        let wrong = "no address speaks TLS; write ssl, or a tls for the site";
        section.wrong(KEY, None, node, wrong);
    }
    let revoked = section.take("client_crl", |node| {
        let revoked = value::path(section.directory)(node)?;
        if let Some((inspection, file)) = section.findings.inspection.zip(file.as_ref()) {
            (inspection.revoked)(file, &revoked)?;
        }
        Ok(revoked)
    });
    if revoked.is_some() && node.is_none() {
        section.note("client_crl", ": has no effect without client_ca");
    }
    let wanted = section.take("client_certificate", |node| {
        match value::text(node).as_deref() {
            Ok("require") => Ok(ClientCertificate::Require),
            Ok("optional") => Ok(ClientCertificate::Optional),
            _ => Err("write require or optional".into()),
        }
    });
    if wanted.is_some() && node.is_none() {
        section.note("client_certificate", ": has no effect without client_ca");
    }
    let revoked = revoked.filter(|_| file.is_some());
    (file, revoked, wanted.unwrap_or_default())
}

/// Reads `{certfile, keyfile}`.
fn files(section: &Section, map: &Map) -> Option<SiteTls> {
    let inner = section.section("tls");
    let file = |key| inner.take(key, value::path(section.directory));
    let ocsp = file("ocsp");
    if raw::get(map, "certfile").is_none() {
        let wrong = "no certfile; write the file of the certificate, certfile: cert.pem";
        section.wrong("tls", None, &Node::Map(map.clone()), wrong);
        return None;
    }
    let certfile = file("certfile")?;
    let keyfile = match raw::get(map, "keyfile") {
        None => certfile.clone(),
        Some(_) => file("keyfile")?,
    };
    let has_tls = section.needs_tls("tls", None, &Node::Map(map.clone()));
    if let Some(inspection) = section.findings.inspection.filter(|_| has_tls)
        && let Err((file, why)) = (inspection.certificate)(&certfile, &keyfile)
    {
        let key = match file == keyfile && keyfile != certfile {
            true => "keyfile",
            false => "certfile",
        };
        let node = raw::get(map, key).unwrap_or(&Node::Null);
        inner.wrong(key, None, node, &why);
    }
    Some(SiteTls::Files {
        certfile,
        keyfile,
        ocsp,
    })
}

/// Whether a public authority may issue a certificate for a name: it belongs to the domain name system, or is an address
/// of the open Internet.
pub(crate) fn is_public_name(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified())
        }
        Ok(IpAddr::V6(ip)) => {
            !(ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local())
        }
        Err(_) => match name.rsplit_once('.') {
            None => false,
            Some((_, last)) => !PRIVATE.contains(&last),
        },
    }
}

/// Whether a site gets certificates of its own, by its entry or by `defaults`; the values are checked later.
pub(super) fn is_wanted(top: &Section) -> bool {
    let of = |node: &'_ Node| match node {
        Node::Map(map) => raw::get(map, "tls").map(|node| value::truth(node) != Ok(false)),
        _ => None,
    };
    let usual = raw::get(&top.map, "defaults").and_then(of);
    match raw::get(&top.map, "map") {
        Some(Node::List(sites)) => sites.iter().any(|site| of(site).or(usual) == Some(true)),
        _ => false,
    }
}

/// Most bytes of a key.
const KEY_BYTES: u64 = 1 << 16;
/// What a site needs whose names are not known.
const WITHOUT_ASK: &str = "without acme.ask anyone could have certificates ordered for any name; write acme: {ask: http://127.0.0.1:3000/allowed}";
/// What a build without the feature says.
const WITHOUT: &str = "this program was built without it (feature acme)";

/// Top-level domains that are no part of the public domain name system (RFC 6761, RFC 6762, RFC 8375, ICANN).
const PRIVATE: [&str; 8] = [
    "localhost",
    "local",
    "internal",
    "test",
    "invalid",
    "onion",
    "lan",
    "arpa",
];
