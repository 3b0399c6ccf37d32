//! Divides the file descriptors of the process.
//!
//! Each connection takes one: of a client, of a backend that dials in, or to a server. If there are fewer than the
//! configured limits need, backends that dial in, at all addresses together, get half of them at most. Clients get what
//! backends do not use; an eighth stays free for backends that come later. Connections that have not sent their
//! preamble have a small share of their own.
//!
//! Called on the main thread, at the start and at each reload.
//!
//! **Invariants**: the limits only become lower. Connections to servers are not limited here: they carry the requests
//! of clients, which are.

use super::addresses::BackendAddress;
use crate::config::{Config, DirectoryConfig, Limits, SiteConfig};

/// How many descriptors each kind of connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DescriptorShares {
    /// For backends at all dial-in addresses together.
    pub(super) backends: u64,
    /// For these and for clients.
    pub(super) both: u64,
    /// For connections at all dial-in addresses that have not sent their preamble.
    pub(super) newcomers: usize,
}

/// Lowers `limits.connections` and `limits.backends` to what this many descriptors allow.
pub(super) fn divide(mut config: Config, descriptors: u64) -> (Config, DescriptorShares) {
    let half = descriptors / 2;
    let limits = &config.limits;
    let addresses = BackendAddress::all(&config).len() as u64;
    let newcomers = match addresses {
        0 => 0,
        _ => (descriptors / NEWCOMERS_PART).clamp(1, MOST_NEWCOMERS),
    };
    // A host name may resolve to several addresses, for which there is some room.
    let spare = SPARE + addresses + newcomers;
    let servers: Vec<u64> = config
        .sites
        .iter()
        .filter_map(|site| connections_to_servers(site, limits.backends as u64))
        .collect();
    let wanted = limits.backends as u64;
    // A site with few servers leaves the rest of its share to the others.
    let rest = half.saturating_sub(spare);
    let share = rest / (addresses + servers.len() as u64).max(1);
    let taken: u64 = servers.iter().map(|wanted| share.min(*wanted)).sum();
    let for_backends = (rest - taken).max(1);
    let backends = match addresses {
        0 => wanted,
        _ => wanted.min(for_backends),
    };
    let all = for_backends.min(addresses.saturating_mul(wanted));
    // Connections to servers that were not made yet leave half to clients and backends.
    let others = servers
        .iter()
        .fold(spare, |sum, wanted| sum.saturating_add(*wanted));
    let both = descriptors - others.min(half);
    let reserve = all.min(both / RESERVE);
    let connections = (limits.connections as u64).min(both - reserve);
    if all < addresses.saturating_mul(wanted) {
        // Most machines allow fewer than the default; that is not worth a line in the log.
        let level = match wanted == Limits::default().backends as u64 {
            true => log::Level::Debug,
            false => log::Level::Info,
        };
        log::log!(
            level,
            "limits.backends {wanted}: the {descriptors} descriptors allow {all} in total"
        );
    }
    // The values fit: they were of these types before, and have not grown.
    config.limits.backends = backends as usize;
    config.limits.connections = connections as usize;
    let division = DescriptorShares {
        backends: all,
        both,
        newcomers: newcomers as usize,
    };
    (config, division)
}

/// How many connections to its servers a site may have; `None`: its backends dial in. A list in Redis may be of any
/// length, so it counts as an address with as many backends as are allowed.
fn connections_to_servers(site: &SiteConfig, backends: u64) -> Option<u64> {
    let requests = match site.directory.as_ref()? {
        DirectoryConfig::Static(servers) => servers.len() as u64 * site.server_connections as u64,
        DirectoryConfig::Redis(_) => backends,
    };
    Some(requests + site.max_tunnels as u64)
}

/// The divisor for the share that stays free for backends that come later.
const RESERVE: u64 = 8;
/// Descriptors for clients' listeners, logs, served and temporary files.
const SPARE: u64 = 100;
/// Connections without a preamble get at most this part of all descriptors, and at most this many.
const NEWCOMERS_PART: u64 = 16;
const MOST_NEWCOMERS: u64 = 256;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    #[test]
    fn backends_get_half_of_the_descriptors() {
        // Descriptors; connections of clients, backends at one dial-in address, backends at all of them, and the sum;
        // then connections without a preamble.
        let check = |map: &str, descriptors: u64, expected: ((usize, usize, u64, u64), usize)| {
            let yaml = format!("cluster_port: 80\nmap: [{map}]\n");
            let read = Config::from_yaml(&yaml, Path::new("s.yml"), &Overrides::default());
            let (config, _) = read.unwrap_or_else(|problems| panic!("{problems}"));
            let (Config { limits, .. }, all) = divide(config, descriptors);
            let divided = (limits.connections, limits.backends, all.backends, all.both);
            let divided = (divided, all.newcomers);
            assert_eq!(divided, expected, "{map} {descriptors}");
        };
        let one = "{incoming: a, outgoing: '127.0.0.1:1'}";
        check(one, 1 << 20, ((100_000, 10_000, 10_000, 1_048_219), 256));
        check(one, 30_000, ((25_938, 10_000, 10_000, 29_643), 256));
        check(one, 20_300, ((17_451, 9793, 9793, 19_943), 256));
        check(one, 4096, ((3272, 1691, 1691, 3739), 256));
        check(one, 1024, ((752, 347, 347, 859), 64));
        check(one, 64, ((31, 1, 1, 32), 4));
        check(one, 0, ((0, 1, 1, 0), 1));
        let two = "{incoming: a, outgoing: ['127.0.0.1:1', '127.0.0.1:2']}, \
                   {incoming: b, outgoing: '127.0.0.1:1'}";
        check(two, 1024, ((751, 346, 346, 858), 64));
        check(two, 50_000, ((43_437, 10_000, 20_000, 49_642), 256));
        let server = "{incoming: c, proxy: traditional, servers: ['127.0.0.1:3', '127.0.0.1:4'], \
                      server_connections: 10, max_tunnels: 30}";
        check(server, 1024, ((874, 10_000, 0, 874), 0));
        check(
            &format!("{one}, {server}"),
            1024,
            ((708, 297, 297, 809), 64),
        );
        check(
            &format!("{one}, {server}"),
            1 << 20,
            ((100_000, 10_000, 10_000, 1_048_169), 256),
        );
        let many = server.replace("10,", "100000,");
        check(&format!("{one}, {many}"), 1024, ((448, 174, 174, 512), 64));
        check("", 1024, ((924, 10_000, 0, 924), 0));
    }
}
