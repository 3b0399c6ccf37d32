//! Reads the keys of a site about redirects (`redirect_to_https`, `redirect`, `hsts`), and looks for loops.

use super::address;
use super::auth;
use super::raw::{self, Node};
use super::section::Section;
use super::types::{Address, Config, Hsts, Redirect, SiteConfig};
use super::value::{self, ValueError};
use crate::http::target::Host;

/// Adds the redirects to a site.
pub(super) fn check(section: &Section, site: SiteConfig, server: &Config) -> SiteConfig {
    let to_https = section
        .take("redirect_to_https", value::truth)
        .unwrap_or(site.redirect_to_https);
    let is_secure = !server.secure.is_empty() || !server.trusted_proxies.is_empty();
    if to_https && !is_secure {
        let wrong = "there is no HTTPS; write ssl, or trusted_proxies if a proxy in front has it";
        section.wrong("redirect_to_https", None, &Node::Bool(true), wrong);
    }
    let hsts = hsts(section);
    if hsts.is_some() && !is_secure {
        section.note("hsts", ": has no effect without HTTPS");
    }
    SiteConfig {
        redirect_to_https: to_https,
        redirect: redirects(section, &site),
        hsts,
        ..site
    }
}

/// Whether a section has a redirect for all requests, so that it needs no backends.
pub(super) fn takes_all(site: &SiteConfig) -> bool {
    let is_for_all = |redirect: &Redirect| redirect.from.is_none() && redirect.host.is_empty();
    site.redirect.iter().any(is_for_all)
}

fn redirects(section: &Section, site: &SiteConfig) -> Vec<Redirect> {
    const KEY: &str = "redirect";
    let items = match raw::get(&section.map, KEY) {
        Some(node) if value::truth(node) == Ok(false) => Vec::new(),
        _ => section.many(KEY).unwrap_or_default(),
    };
    let read = |node: &Node| one(node, site);
    let items = items.into_iter();
    items
        .filter_map(|(item, node)| section.read(KEY, item, node, read))
        .collect()
}

/// Reads `{from, host, to, status}`, or `to` alone.
fn one(node: &Node, site: &SiteConfig) -> Result<Redirect, ValueError> {
    let Node::Map(map) = node else {
        return to(node).map(Redirect::new);
    };
    let wrong = "no to; write {from: /old, to: /new}";
    let within = |key: &str, read: fn(&Node) -> Result<String, ValueError>| {
        let node = raw::get(map, key);
        node.map(|node| auth::within(key, node, read)).transpose()
    };
    let hosts = match raw::get(map, "host") {
        None => &[],
        Some(Node::List(list)) => list.as_slice(),
        Some(node) => std::slice::from_ref(node),
    };
    let host = |node: &Node| {
        auth::within("host", node, |node| {
            let name = address::host_name(node)?;
            match site.default || site.has_name(&name) {
                true => Ok(name),
                false => Err("not a name of this site; add it to incoming".into()),
            }
        })
    };
    let status = raw::get(map, "status");
    let status = status.map(|node| auth::within("status", node, status_of));
    let redirect = Redirect::new(within("to", to)?.ok_or(wrong)?);
    Ok(Redirect {
        from: within("from", from)?,
        host: hosts.iter().map(host).collect::<Result<_, _>>()?,
        status: status.unwrap_or(Ok(redirect.status))?,
        ..redirect
    })
}

/// Parses the path that is redirected, with `*` at its end for all that begin with it.
fn from(node: &Node) -> Result<String, ValueError> {
    let text = value::prefix(node)?;
    let start = text.strip_suffix('*').unwrap_or(&text);
    if start.contains('*') {
        return Err("a * that is not at its end; write for example /old/*".into());
    }
    if start.contains(['?', '#']) {
        return Err("only the path counts; leave out what begins with ? or #".into());
    }
    let decoded = crate::http::target::decoded(start.as_bytes());
    match *decoded == *start.as_bytes() {
        true => Ok(text),
        false => Err(format!(
            "percent-encoded; write {}",
            String::from_utf8_lossy(&decoded)
        )),
    }
}

/// Parses where a redirect leads: a URL or a path, with `*` at its end for the rest of the path.
fn to(node: &Node) -> Result<String, ValueError> {
    let wrong = || "not a URL or path; write https://example.com or /new".to_owned();
    let text = value::text(node)?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a blank or another byte that a URL cannot have; percent-encode it".into());
    }
    let scheme = ["https://", "http://"].iter();
    let rest = scheme.filter_map(|scheme| text.strip_prefix(scheme)).next();
    match rest {
        Some(rest) => {
            let authority = rest.split(['/', '#']).next().unwrap_or_default();
            let host = Host::parse(authority.as_bytes());
            if host.is_none() || authority.contains('*') {
                return Err(wrong());
            }
        }
        None if !text.starts_with('/') || text[1..].starts_with(['/', '\\']) => {
            return Err(wrong());
        }
        None => {}
    }
    let start = text.strip_suffix("/*").map_or(text.as_str(), |start| start);
    match start.contains('*') {
        true => Err("a * that is not the last part of its path; write for example /new/*".into()),
        false => Ok(text),
    }
}

fn status_of(node: &Node) -> Result<u16, ValueError> {
    match value::text(node).as_deref() {
        Ok("301") => Ok(301),
        Ok("302") => Ok(302),
        Ok("307") => Ok(307),
        Ok("308") => Ok(308),
        _ => Err("write 301, 302, 307 or 308".into()),
    }
}

/// Reads `hsts`: true, false or `{max_age, subdomains, preload}`.
fn hsts(section: &Section) -> Option<Hsts> {
    const KEY: &str = "hsts";
    let node = raw::get(&section.map, KEY)?;
    let base = Hsts::new(YEAR);
    let Node::Map(_) = node else {
        let read = |node: &Node| {
            let wrong = || "write true, false or {max_age, subdomains, preload}".to_owned();
            value::truth(node).map_err(|_| wrong())
        };
        return (section.take(KEY, read) == Some(true)).then_some(base);
    };
    let section = section.section(KEY);
    let truth = |key: &str| section.take(key, value::truth).unwrap_or(false);
    let hsts = Hsts {
        max_age: section.take("max_age", age).unwrap_or(base.max_age),
        subdomains: truth("subdomains"),
        preload: truth("preload"),
    };
    if hsts.preload && !(hsts.subdomains && hsts.max_age >= YEAR) {
        let wrong = "browsers accept it only with subdomains: true and a max_age of a year or more";
        section.wrong("preload", None, &Node::Bool(true), wrong);
    }
    Some(hsts)
}

/// Parses a time in seconds, up to ten years.
fn age(node: &Node) -> Result<u64, ValueError> {
    match value::text(node).ok().and_then(|text| value::digits(&text)) {
        Some(seconds) if seconds <= 10 * YEAR => Ok(seconds),
        Some(_) => Err("longer than ten years".into()),
        None => value::time(node).map(|time| time.as_secs()),
    }
}

/// Reports redirects that lead back to themselves, also by way of other sites.
pub(super) fn loops(sections: &[Section], sites: &[SiteConfig], server: &Config) {
    let redirects = sites.iter().flat_map(|site| &site.redirect);
    let most = redirects.count() + sites.len() + 1;
    for (section, site) in sections.iter().zip(sites) {
        for (item, node) in section.many("redirect").unwrap_or_default() {
            let Ok(redirect) = one(node, site) else {
                continue;
            };
            let hosts = match redirect.host.is_empty() {
                true => &site.incoming,
                false => &redirect.host,
            };
            let unnamed = [String::from("unnamed.invalid")];
            let hosts = if hosts.is_empty() {
                &unnamed
            } else {
                hosts.as_slice()
            };
            let path = redirect.from.as_deref().unwrap_or("/*");
            let path = path.replace('*', "x");
            let loops = hosts.iter().any(|host| {
                let mut place = Place {
                    secure: !server.secure.is_empty(),
                    host: host.replace('*', "x"),
                    path: path.clone(),
                };
                let mut steps = 0;
                while let Some(next) = place.next(sites, server) {
                    place = next;
                    steps += 1;
                    if steps > most {
                        return true;
                    }
                }
                false
            });
            if loops {
                let path = redirect.from.as_deref().unwrap_or("/");
                let wrong = format!("a browser that asks for {path} is redirected without end");
                section.wrong("redirect", item, node, &wrong);
            }
        }
    }
}

/// What a browser asks for.
struct Place {
    secure: bool,
    host: String,
    path: String,
}

impl Place {
    /// Where it is redirected. `None`: it is not, or to another server.
    fn next(&self, sites: &[SiteConfig], server: &Config) -> Option<Self> {
        if server.health_check_uri.as_ref() == Some(&self.path) {
            return None;
        }
        let exact = |site: &&SiteConfig| site.incoming.contains(&self.host);
        let site = sites.iter().find(exact);
        let site = site.or_else(|| sites.iter().find(|site| site.has_name(&self.host)));
        let site = site.or_else(|| sites.iter().find(|site| site.default))?;
        if site.redirect_to_https && !self.secure {
            return Some(Self {
                secure: true,
                host: self.host.clone(),
                path: self.path.clone(),
            });
        }
        let mut rules = site.redirect.iter();
        let location = rules.find_map(|rule| rule.location(Some(&self.host), &self.path, None))?;
        let bare = location.split(['?', '#']).next().unwrap_or_default();
        let Some((scheme, rest)) = bare.split_once("://").filter(|_| !bare.starts_with('/')) else {
            return Some(Self {
                secure: self.secure,
                host: self.host.clone(),
                path: bare.into(),
            });
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let host = Host::parse(authority.as_bytes())?;
        let is_here = |port: u16| {
            let mut listen = server.listen.iter();
            listen.any(|address| matches!(address, Address::Tcp { port: own, .. } if *own == port))
        };
        if host.port().is_some_and(|port| !is_here(port)) {
            return None;
        }
        Some(Self {
            secure: scheme == "https",
            host: host.name().to_owned(),
            path: if path.is_empty() {
                "/".into()
            } else {
                path.into()
            },
        })
    }
}

/// In seconds.
const YEAR: u64 = 365 * 24 * 60 * 60;
