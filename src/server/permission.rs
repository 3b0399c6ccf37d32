//! Which clients may send requests (`allow`, `deny`), by network and path.
//!
//! Of the networks in which a client is, the smallest one counts, and of two equal ones that of `deny`. A client in none
//! is refused if there is an `allow`. Of the rules of a site those of the longest path count, alone. Pure, and called for
//! each request where there are such rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::paths::{GuardedPath, best_fit, leads_up};
use crate::config::{ClientGroup, ClientRule, SiteConfig};
use crate::http::target::Target;

/// The rules of a site, or those of the top level, by path.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    /// Those of the longest paths come first.
    rules: Vec<PathRule>,
    /// Whether there are rules for some paths only.
    has_paths: bool,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permission {
    /// Its client may send it.
    Granted,
    /// Its client may not.
    Denied,
    /// Its path has a `..`, so servers may read it differently.
    Unclear,
}

/// The rules of one path.
#[derive(Debug)]
struct PathRule {
    /// The path as configured.
    path: Box<[u8]>,
    /// It and its other names.
    names: Vec<GuardedPath>,
    clients: NetworkTable,
}

/// Networks, and whether their clients are allowed.
#[derive(Debug, Default)]
struct NetworkTable {
    /// IPv4 networks by the number of their leading bits, the longest first. Those of one length are sorted.
    v4: Vec<(u8, Vec<NetworkEntry>)>,
    /// The same for IPv6.
    v6: Vec<(u8, Vec<NetworkEntry>)>,
    /// Whether clients on a Unix socket are allowed; `None`: like all others.
    unix: Option<bool>,
    /// Whether clients in no network are allowed.
    others: bool,
}

/// The leading bits of a network, as a number, and whether its clients are allowed.
type NetworkEntry = (u128, bool);

impl Permissions {
    /// The rules of a site.
    pub(crate) fn of_site(site: &SiteConfig) -> Self {
        Self::new(&site.allow, &site.deny, site)
    }

    /// The rules of the top level, for every request.
    pub(crate) fn of_all(allow: &[ClientRule], deny: &[ClientRule]) -> Self {
        Self::new(allow, deny, &SiteConfig::default())
    }

    fn new(allow: &[ClientRule], deny: &[ClientRule], site: &SiteConfig) -> Self {
        let mut by_path: BTreeMap<&str, Vec<(ClientGroup, bool)>> = BTreeMap::new();
        let rules = allow.iter().map(|rule| (rule, true));
        for (rule, allowed) in rules.chain(deny.iter().map(|rule| (rule, false))) {
            for path in &rule.paths {
                let networks = rule.networks.iter();
                let networks = networks.map(|network| (*network, allowed));
                by_path.entry(path).or_default().extend(networks);
            }
        }
        let rules = by_path.into_iter().map(|(path, networks)| PathRule {
            path: path.trim_end_matches('/').as_bytes().into(),
            names: GuardedPath::all(path.as_bytes(), site),
            clients: NetworkTable::new(&networks),
        });
        let mut rules: Vec<_> = rules.collect();
        let depth = |path: &[u8]| path.iter().filter(|byte| **byte == b'/').count();
        rules.sort_by_key(|rule| std::cmp::Reverse(depth(&rule.path)));
        Self {
            has_paths: rules.iter().any(|rule| !rule.path.is_empty()),
            rules,
        }
    }

    /// Whether there are no rules.
    pub(crate) const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Decides about a connection, by the rules of the top level. `None`: the client has no address, as on a Unix socket.
    pub(crate) fn admits(&self, client: Option<IpAddr>) -> bool {
        let mut rules = self.rules.iter();
        rules.all(|rule| rule.clients.allows(client))
    }

    /// Decides about a request. The path may be spelled in another way than the application reads it. So a rule applies
    /// to all spellings of its path, but only one for the path as it is written makes those for shorter paths ineffective.
    pub(crate) fn decide(&self, client: Option<IpAddr>, target: &Target) -> Permission {
        if !self.has_paths {
            return match self.admits(client) {
                true => Permission::Granted,
                false => Permission::Denied,
            };
        }
        let path = target.decoded_path();
        if leads_up(&path) {
            return Permission::Unclear;
        }
        for rule in &self.rules {
            if best_fit(&rule.names, &path).is_none() {
                continue;
            }
            if !rule.clients.allows(client) {
                return Permission::Denied;
            }
            if rule.is_for(&path) {
                break;
            }
        }
        Permission::Granted
    }
}

impl PathRule {
    /// Whether a decoded path is this one as it is written, or below it.
    fn is_for(&self, path: &[u8]) -> bool {
        let rest = path.strip_prefix(&*self.path);
        rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

impl NetworkTable {
    fn new(networks: &[(ClientGroup, bool)]) -> Self {
        let mut v4: BTreeMap<u8, BTreeMap<u128, bool>> = BTreeMap::new();
        let mut v6 = v4.clone();
        let (mut unix, mut all) = (None, None);
        // Of an allow and a deny for the same clients the deny counts.
        let both = |known: Option<bool>, allowed| Some(known.unwrap_or(true) && allowed);
        for (network, allowed) in networks {
            match network {
                ClientGroup::All => all = both(all, *allowed),
                ClientGroup::Unix => unix = both(unix, *allowed),
                ClientGroup::Network(network) => {
                    let family = match network.address {
                        IpAddr::V4(_) => &mut v4,
                        IpAddr::V6(_) => &mut v6,
                    };
                    let entries = family.entry(network.prefix).or_default();
                    let bits = leading_bits(network.address, network.prefix);
                    *entries.entry(bits).or_insert(true) &= *allowed;
                }
            }
        }
        let longest_first = |family: BTreeMap<u8, BTreeMap<u128, bool>>| {
            let family = family.into_iter().rev();
            family
                .map(|(prefix, entries)| (prefix, entries.into_iter().collect()))
                .collect()
        };
        let is_restricted_to = networks.iter().any(|(_, allowed)| *allowed);
        Self {
            v4: longest_first(v4),
            v6: longest_first(v6),
            unix,
            others: all.unwrap_or(!is_restricted_to),
        }
    }

    fn allows(&self, client: Option<IpAddr>) -> bool {
        let Some(ip) = client else {
            return self.unix.unwrap_or(self.others);
        };
        let family = match ip {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let found = family.iter().find_map(|(prefix, entries)| {
            let bits = leading_bits(ip, *prefix);
            let found = entries.binary_search_by_key(&bits, |(bits, _)| *bits);
            found.ok().map(|index| entries[index].1)
        });
        found.unwrap_or(self.others)
    }
}

/// The first bits of an address, as a number.
fn leading_bits(ip: IpAddr, count: u8) -> u128 {
    let (bits, length) = match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let behind = length - u32::from(count).min(length);
    bits.checked_shr(behind).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Overrides};
    use crate::http::head::Method;

    /// The rules of a site with these keys.
    fn rules(keys: &str) -> Permissions {
        let yaml = format!("cluster_port: 80\nmap: [{{incoming: a, outgoing: 'a:1', {keys}}}]\n");
        let read = Config::from_yaml(&yaml, Path::new("s.yml"), &Overrides::default());
        let (config, _) = read.unwrap_or_else(|problems| panic!("{problems}"));
        Permissions::of_site(&config.sites[0])
    }

    fn decide(rules: &Permissions, client: &str, path: &str) -> Permission {
        let target = Target::parse(&Method::Get, path.as_bytes()).unwrap();
        rules.decide(client.parse().ok(), &target)
    }

    #[test]
    fn smallest_network_counts() {
        let check = |keys: &str, allowed: &[&str], denied: &[&str]| {
            let rules = rules(keys);
            for client in allowed {
                assert_eq!(
                    decide(&rules, client, "/"),
                    Permission::Granted,
                    "{keys} {client}"
                );
            }
            for client in denied {
                assert_eq!(
                    decide(&rules, client, "/"),
                    Permission::Denied,
                    "{keys} {client}"
                );
            }
        };
        check(
            "allow: false, deny: false",
            &["1.2.3.4", "::1", "unix"],
            &[],
        );
        check(
            "allow: 10.0.0.0/8",
            &["10.1.2.3"],
            &["11.1.2.3", "::1", "unix"],
        );
        check(
            "deny: 10.0.0.0/8",
            &["11.1.2.3", "::1", "unix"],
            &["10.1.2.3"],
        );
        let nested = "allow: [10.0.0.0/8, 10.9.9.9], deny: 10.9.0.0/16";
        check(nested, &["10.1.2.3", "10.9.9.9"], &["10.9.9.8", "1.1.1.1"]);
        check(
            "allow: all, deny: 10.0.0.0/8",
            &["11.1.2.3", "unix", "::1"],
            &["10.1.2.3"],
        );
        check(
            "deny: all, allow: '::1'",
            &["::1"],
            &["1.2.3.4", "::2", "unix"],
        );
        check("allow: 'unix:'", &["unix"], &["1.2.3.4"]);
        check("allow: all, deny: 'unix:'", &["1.2.3.4"], &["unix"]);
        check(
            "allow: '2001:db8::/32'",
            &["2001:db8:1::1"],
            &["2001:db9::"],
        );
        check("allow: 0.0.0.0/0", &["1.2.3.4"], &["::1"]);
        check("allow: '::/0'", &["::1"], &["1.2.3.4"]);
        // Clients with mapped addresses have IPv4 addresses by then.
        check("allow: '::ffff:10.0.0.0/104'", &["10.1.2.3"], &["11.1.2.3"]);
        check("allow: '::ffff:10.1.2.3'", &["10.1.2.3"], &["10.1.2.4"]);
    }

    #[test]
    fn longest_path_counts() {
        let rules = rules(
            "docroot: /srv, allow: [10.0.0.0/8, {networks: all, paths: [/open, /notes/index.html]}, \
             {networks: 10.1.0.0/16, paths: [/open/staff, /Admin]}]",
        );
        let check = |client: &str, path: &str, expected| {
            assert_eq!(decide(&rules, client, path), expected, "{client} {path}");
        };
        use Permission::{Denied, Granted, Unclear};
        check("10.2.0.1", "/", Granted);
        check("1.2.3.4", "/", Denied);
        check("1.2.3.4", "/open", Granted);
        check("1.2.3.4", "/open/", Granted);
        check("1.2.3.4", "/o%70en/x", Granted);
        check("1.2.3.4", "/opened", Denied);
        check("1.2.3.4", "/open/staff", Denied);
        check("10.2.0.1", "/open/staff/x", Denied);
        check("10.1.0.1", "/open/staff/x", Granted);
        // Other spellings are not opened, since another application may take them for other paths...
        for path in [
            "/Open",
            "/open.json",
            "/open;x/y",
            "//open",
            "/./open",
            "/open\\x",
            "/notes/",
        ] {
            check("1.2.3.4", path, Denied);
            check("10.2.0.1", path, Granted);
        }
        // ... but they are closed, since it may not.
        for path in [
            "/admin",
            "/Admin",
            "/admin.json",
            "/ADMIN;x/y",
            "//admin",
            "/open/./staff",
            "/%61dmin",
        ] {
            check("10.2.0.1", path, Denied);
            check("10.1.0.1", path, Granted);
        }
        check("10.1.0.1", "/x/../y", Unclear);
    }
}
