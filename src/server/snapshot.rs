//! The configuration as it runs: every request reads exactly one snapshot.
//!
//! A snapshot is immutable. A reload builds a new one and swaps it in; pools, queues, servers, files and logs that have
//! not changed are taken over from the one before. Requests that have begun keep the snapshot they began with.
//!
//! **Invariants**: building a snapshot changes nothing that it shares with the one before, so it may fail until it is
//! swapped in; [`Snapshot::set_limits`] and [`Snapshot::retire`] are called at that moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use regex::bytes::Regex;

use super::admission::Allowance;
use super::auth::{AuthRule, UsersFiles};
use super::error::StartError;
use super::fields::FieldRules;
use super::pages::{PageFiles, SitePages};
use super::permission::Permissions;
use super::rate_limit::RateScope;
use super::routes::SiteRoutes;
use super::site_files::SiteFiles;
use super::sticky::sticky;
use super::switches::SiteSwitches;
use crate::backend::directory::{ServerCondition, Servers};
use crate::backend::drained::Drained;
use crate::backend::pool::Pool;
use crate::backend::waiting::WaitingCount;
use crate::config::{self, Address, Config, Filter, RequestIds};
use crate::exchange::Response;
use crate::http::head::RequestHead;
use crate::http::request_id::RequestId;
use crate::logging::AccessLog;
use crate::net::alarm::Alarm;
use crate::net::stream::Peer;
use crate::stats::Stats;
use crate::stats::site::SiteStats;

/// One generation of the configuration.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Its limits are lowered to what the descriptors allow.
    pub(crate) config: Config,
    /// In the order of [`Config::sites`].
    pub(crate) sites: Vec<Site>,
    /// The site for host names that no site has.
    pub(crate) default: Option<usize>,
    /// The clients that may connect.
    pub(crate) permissions: Permissions,
    /// The log of exchanges that reach no site.
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) sticky: Regex,
    /// Whether some servers are told both ends of a client's connection (`send_proxy`).
    pub(crate) sends_proxy: bool,
    /// Looked up by every request. Clients cannot add names, so it needs no hash that withstands attacks.
    names: BTreeMap<String, usize>,
    /// Whether one of them begins with `*.`.
    has_patterns: bool,
    /// Sites by their name in logs.
    logged: HashMap<String, usize>,
}

/// What a snapshot is built from, besides its configuration.
pub(crate) struct SnapshotParts<'a> {
    /// Requests that wait for a backend, at all sites.
    pub(crate) waiting: &'a Arc<AtomicUsize>,
    pub(crate) stats: &'a Arc<Stats>,
    /// Wakes the tick for deadlines of servers.
    pub(crate) alarm: &'a Arc<Alarm>,
    /// The pools of all dial-in addresses.
    pub(crate) pools: &'a HashMap<Address, Arc<Pool>>,
    /// The snapshot from which everything is taken over that has not changed.
    pub(crate) before: Option<&'a Snapshot>,
}

/// Files that were read already, by path.
struct FilesRead {
    users: UsersFiles,
    pages: PageFiles,
}

/// A site as it runs.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) settings: config::SiteConfig,
    pub(crate) keys: Arc<[Box<[u8]>]>,
    pub(crate) waiting: Arc<WaitingCount>,
    /// What an operator has switched.
    pub(crate) switches: Arc<SiteSwitches>,
    pub(crate) tunnels: Arc<Allowance>,
    /// What is measured of its requests.
    pub(crate) stats: Arc<SiteStats>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    /// Which requests its `rate_limit` counts.
    pub(crate) rate_scope: RateScope,
    /// The clients that may send requests.
    pub(crate) permissions: Permissions,
    /// The paths that ask for a password.
    pub(crate) guards: Vec<AuthRule>,
    /// The pages that replace built-in ones.
    pub(crate) pages: SitePages,
    /// What it changes in the fields of its responses.
    pub(crate) fields: FieldRules,
    /// Those below its docroot, and those that its backends may name.
    pub(crate) files: SiteFiles,
    /// The target of its log lines, which selects the site's own logger.
    pub(crate) log: String,
    /// Whether the log has reported that responses of this site lack a length.
    pub(crate) unframed_reported: AtomicBool,
    /// Its servers, if it has no pools.
    pub(crate) servers: Option<Arc<Servers>>,
    /// The site whose backends are used when none of its own is free in time.
    pub(crate) backup: Option<usize>,
    /// Which of its requests go to the backends of other sites.
    pub(crate) routes: SiteRoutes,
    /// Pools for some paths only, in the order of the file.
    filtered: Vec<(Filter, [Arc<Pool>; 1])>,
    /// Pools for all other paths.
    plain: Vec<Arc<Pool>>,
}

impl Snapshot {
    /// The configuration as it is to run.
    ///
    /// # Errors
    /// A file that cannot be read, a log that cannot be opened, or what the system refuses.
    pub(crate) fn new(config: Config, parts: &SnapshotParts<'_>) -> Result<Self, StartError> {
        let mut logs: HashMap<config::AccessLogOutput, Arc<AccessLog>> = match parts.before {
            Some(before) => before.access_logs().into_iter().collect(),
            None => HashMap::new(),
        };
        let mut log = |wanted: &Option<config::AccessLogConfig>| -> Result<_, StartError> {
            let Some(config::AccessLogConfig { output: wanted, .. }) = wanted else {
                return Ok(None);
            };
            if let Some(open) = logs.get(wanted) {
                return Ok(Some(Arc::clone(open)));
            }
            let open = Arc::new(AccessLog::open(wanted)?);
            logs.insert(wanted.clone(), Arc::clone(&open));
            Ok(Some(open))
        };
        let mut logged = HashMap::new();
        for (index, site) in config.sites.iter().enumerate() {
            logged.entry(site.name.clone()).or_insert(index);
        }
        let old = || parts.before.iter().flat_map(|before| &before.sites);
        let mut read = FilesRead {
            users: old()
                .flat_map(|site| site.guards.iter().map(AuthRule::file))
                .collect(),
            pages: old().flat_map(|site| site.pages.files()).collect(),
        };
        let mut sites = Vec::new();
        for settings in &config.sites {
            let access_log = log(&settings.access_log)?;
            let mut site = Site::new(settings.clone(), access_log, parts, &mut read)?;
            let named = |name| logged.get(name).copied();
            site.backup = settings.backup.as_ref().and_then(named);
            sites.push(site);
        }
        for (index, settings) in config.sites.iter().enumerate() {
            if let Some(route) = &settings.route
                && let Some(site) = logged.get(&route.site)
            {
                sites[*site].routes.add(index, route);
            }
        }
        let names: BTreeMap<_, _> = config
            .sites
            .iter()
            .enumerate()
            .flat_map(|(index, site)| site.incoming.iter().map(move |name| (name.clone(), index)))
            .collect();
        Ok(Self {
            has_patterns: names.keys().any(|name| name.starts_with("*.")),
            names,
            logged,
            default: config.sites.iter().position(|site| site.default),
            sticky: sticky(),
            sends_proxy: config.sites.iter().any(|site| site.send_proxy.is_some()),
            access_log: log(&config.access_log)?,
            permissions: Permissions::of_all(&config.allow, &config.deny),
            sites,
            config,
        })
    }

    /// Applies the limits of what snapshots share. Called when this one becomes the current one.
    pub(crate) fn set_limits(&self) {
        for site in &self.sites {
            let limits = &site.settings.limits;
            site.waiting
                .limit(limits.waiting, self.config.limits.waiting_total);
            site.tunnels.limit(site.settings.max_tunnels);
        }
    }

    /// The site with this host name, in lower case and without port.
    pub(crate) fn site(&self, name: &str) -> Option<usize> {
        let exact = self.names.get(name).copied();
        match self.has_patterns {
            true => exact.or_else(|| self.pattern(name)),
            false => exact,
        }
    }

    /// The site with a name in which `*` stands for the first label of this one.
    fn pattern(&self, name: &str) -> Option<usize> {
        let at = name.find('.').filter(|at| *at > 0)?;
        let rest = &name[at..];
        self.names.get(&format!("*{rest}")).copied()
    }

    /// The numbers of sites that an operator has switched, for the health page; without zeros.
    pub(crate) fn switched(&self) -> Vec<(&'static str, usize)> {
        let count = |word, is_on: fn(&SiteSwitches) -> bool| {
            let on = self.sites.iter().filter(|site| is_on(&site.switches));
            (word, on.count())
        };
        let counts = [
            count("paused", |switches| switches.pause.is_on()),
            count("drained", SiteSwitches::is_drained),
            count("maintenance", SiteSwitches::is_in_maintenance),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Changes which backends get no requests.
    pub(crate) fn set_drained(&self, drained: &Arc<Drained>) {
        for site in &self.sites {
            for pool in site.all_pools() {
                pool.set_drained(drained);
            }
            if let Some(servers) = &site.servers {
                servers.set_drained(drained);
            }
        }
    }

    /// The servers of all sites.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Arc<Servers>> {
        self.sites.iter().filter_map(|site| site.servers.as_ref())
    }

    /// The site with this name in logs, or with this host name.
    pub(crate) fn called(&self, name: &str) -> Option<&Site> {
        let index = || self.site(&name.to_ascii_lowercase());
        let named = self.named(name);
        named.or_else(|| self.sites.get(index()?))
    }

    /// The site with this name in logs.
    fn named(&self, name: &str) -> Option<&Site> {
        self.sites.get(*self.logged.get(name)?)
    }

    /// Whether there is a site with this name in logs.
    pub(crate) fn has_named(&self, name: &str) -> bool {
        self.logged.contains_key(name)
    }

    /// The files of the site with this name in logs.
    pub(crate) fn files_of(&self, name: &str) -> Option<&SiteFiles> {
        self.named(name).map(|site| &site.files)
    }

    /// Releases what is large or open and has no place in the next snapshot. Idle workers hold this one until their
    /// next request, however late that comes.
    pub(crate) fn retire(&self, next: &Self) {
        for site in &self.sites {
            site.files.retire(next.files_of(&site.settings.name));
            if next.named(&site.settings.name).is_none() {
                // No command can end the pause any more.
                site.switches.pause.end();
            }
        }
        let logs = next.access_logs();
        let kept: HashSet<_> = logs.iter().map(|(_, log)| Arc::as_ptr(log)).collect();
        for (_, log) in self.access_logs() {
            if !kept.contains(&Arc::as_ptr(&log)) {
                log.retire();
            }
        }
    }

    /// The access logs, each once.
    pub(crate) fn access_logs(&self) -> Vec<(config::AccessLogOutput, Arc<AccessLog>)> {
        let server = (&self.config.access_log, &self.access_log);
        let sites = self.sites.iter();
        let sites = sites.map(|site| (&site.settings.access_log, &site.access_log));
        let mut logs: Vec<(config::AccessLogOutput, Arc<AccessLog>)> = Vec::new();
        let mut known = HashSet::new();
        for pair in sites.chain([server]) {
            if let (Some(settings), Some(log)) = pair
                && known.insert(&settings.output)
            {
                logs.push((settings.output.clone(), Arc::clone(log)));
            }
        }
        logs
    }

    /// Warns about files that cannot be served now.
    pub(crate) fn check_files(&self) {
        for site in &self.sites {
            site.files.check(&site.settings);
        }
    }

    /// Whether a connection that a peer makes at this address begins with a PROXY header.
    pub(crate) fn expects_header(&self, peer: &Peer, address: &Address) -> bool {
        let mut rules = self.config.proxy_protocol.iter();
        rules.any(|rule| {
            let ip = peer.ip();
            (rule.at.is_empty() || rule.at.contains(address))
                && rule.from.iter().any(|group| group.contains(ip))
        })
    }

    /// Whether a peer is a proxy whose forwarding fields are trusted.
    pub(crate) fn trusts(&self, peer: &Peer) -> bool {
        !self.config.trusted_proxies.is_empty()
            && peer.ip().is_some_and(|ip| self.trusts_address(ip))
    }

    /// Whether an address is that of a trusted proxy.
    pub(crate) fn trusts_address(&self, ip: IpAddr) -> bool {
        let mut networks = self.config.trusted_proxies.iter();
        networks.any(|network| network.contains(ip))
    }
}

impl Site {
    /// A site with these settings, without its backup. Files that were read already are not read again.
    ///
    /// # Errors
    /// A file that cannot be read, or what the system refuses.
    fn new(
        settings: config::SiteConfig,
        access_log: Option<Arc<AccessLog>>,
        parts: &SnapshotParts<'_>,
        read: &mut FilesRead,
    ) -> Result<Self, StartError> {
        let before = parts.before;
        let known = before.and_then(|before| before.named(&settings.name));
        let mut filtered = Vec::new();
        let mut plain = Vec::new();
        for outgoing in &settings.outgoing {
            let Some(pool) = parts.pools.get(&outgoing.to) else {
                continue;
            };
            let pool = Arc::clone(pool);
            match &outgoing.filter {
                Filter::Any => plain.push(pool),
                filter => filtered.push((filter.clone(), [pool])),
            }
        }
        let log = log_target(&settings.name);
        let servers = known.and_then(|site| site.servers.clone());
        let servers = match servers.filter(|servers| servers.fit(&settings)) {
            Some(servers) => Some(servers),
            None => Servers::new(&settings, &log, parts.stats, parts.alarm)
                .map_err(StartError::ServerTls)?
                .map(Arc::new),
        };
        let waiting = known.map(|site| Arc::clone(&site.waiting));
        let new_line = || Arc::new(WaitingCount::new(Arc::clone(parts.waiting)));
        let switches = known.map(|site| Arc::clone(&site.switches));
        let tunnels = known.map(|site| Arc::clone(&site.tunnels));
        let stats = known.map(|site| Arc::clone(&site.stats));
        Ok(Self {
            rate_scope: RateScope::site(&settings.name),
            permissions: Permissions::of_site(&settings),
            guards: AuthRule::all(&settings, &mut read.users)?,
            fields: FieldRules::new(&settings),
            pages: SitePages::new(&settings, &mut read.pages)?,
            files: SiteFiles::new(&settings, known.map(|site| &site.files)),
            keys: accepted_keys(&settings),
            waiting: waiting.unwrap_or_else(new_line),
            switches: switches.unwrap_or_default(),
            tunnels: tunnels.unwrap_or_default(),
            stats: stats.unwrap_or_default(),
            unframed_reported: AtomicBool::new(false),
            backup: None,
            routes: SiteRoutes::default(),
            settings,
            access_log,
            log,
            servers,
            filtered,
            plain,
        })
    }

    /// Lets its requests that wait for a backend ask again, after a switch was changed.
    pub(crate) fn recall(&self) {
        for pool in self.all_pools() {
            pool.recall(&self.waiting);
        }
        if let Some(servers) = &self.servers {
            servers.recall();
        }
    }

    pub(crate) fn all_pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        let filtered = self.filtered.iter().flat_map(|(_, pool)| pool);
        self.plain.iter().chain(filtered)
    }

    /// The id of a request of this site, if its client is to get it (`request_id: response`).
    pub(crate) fn shown_id<'r>(&self, id: &'r RequestId) -> Option<&'r RequestId> {
        Some(id).filter(|_| self.settings.request_id == RequestIds::Response)
    }

    /// A page with this status: the site's own if it has one, or the built-in one with `detail`.
    pub(crate) fn page(
        &self,
        status: u16,
        detail: &str,
        request: Option<&RequestHead>,
    ) -> Response {
        self.pages.page(status, detail, request)
    }

    /// Whether it has backends or servers, connected or not.
    pub(crate) const fn has_backends(&self) -> bool {
        self.servers.is_some() || !self.settings.outgoing.is_empty()
    }

    /// Whether a request may go to a backend or server, by its path.
    pub(crate) fn has_backends_for(&self, request: &RequestHead) -> bool {
        self.servers.is_some()
            || !self.plain.is_empty()
            || !self.pools(&request.target.decoded_path()).is_empty()
    }

    /// Whether a backend has dialled in, or a server can be reached as far as is known; also if it needs neither.
    pub(crate) fn is_connected(&self) -> bool {
        if let Some(servers) = &self.servers {
            return servers
                .list()
                .iter()
                .any(|server| server.condition == ServerCondition::Up);
        }
        let keys = accepted_keys(&self.settings);
        let mut pools = self.all_pools().peekable();
        pools.peek().is_none() || pools.any(|pool| pool.connected(&keys, None) > 0)
    }

    /// The addresses at which its backends dial in, each once.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        let filtered = self.filtered.iter().flat_map(|(_, pool)| pool);
        let names: BTreeSet<_> = filtered
            .chain(&self.plain)
            .map(|pool| pool.name())
            .collect();
        names.into_iter()
    }

    /// The pools for a decoded path: that of the first filter that matches, or those without filter.
    pub(crate) fn pools(&self, path: &[u8]) -> &[Arc<Pool>] {
        let matched = self.filtered.iter().find(|(filter, _)| match filter {
            Filter::Any => true,
            Filter::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Filter::Match(pattern) => pattern.is_match(path),
        });
        match matched {
            Some((_, pool)) => pool,
            None => &self.plain,
        }
    }
}

/// The target of the log lines of the site with this name, which selects its own logger.
pub(super) fn log_target(site: &str) -> String {
    format!("site:{site}")
}

/// The keys that a site's backends may send: its own, or the empty one.
pub(crate) fn accepted_keys(site: &config::SiteConfig) -> Arc<[Box<[u8]>]> {
    if site.keys.is_empty() {
        return Arc::new([Box::default()]);
    }
    site.keys.iter().map(|key| key.as_bytes().into()).collect()
}
