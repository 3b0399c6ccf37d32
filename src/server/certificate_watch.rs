//! The thread `certificates`: reads the files of certificates again when they change, and logs when they expire.
//!
//! It looks at the files once a second, and reads them when they have changed and then stayed the same for a second, since
//! a certificate and its key are two files. New connections use the new ones; all others continue.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::addresses::Running;
use super::certificates::CertificateFiles;
use super::shared::Shared;
use super::threads::PreparedThread;
use crate::config::{Config, ServerTlsConfig};
use crate::http::date;

/// The thread, and what ends it.
pub(super) struct CertificateWatch {
    /// Dropping it ends the thread.
    stop: Sender<()>,
    thread: PreparedThread,
}

/// What the thread has.
pub(super) struct CertificateWatcher {
    pub(super) shared: Arc<Shared>,
    pub(super) running: Arc<Mutex<Running>>,
    pub(super) reloading: Arc<Mutex<()>>,
}

/// Distinguishes contents of a file: its device and inode, its size, the times of changes.
type Stamp = Option<(u64, u64, u64, i64, i64, i64, i64)>;

/// What was logged of each certificate: the file, its end, and the days that were left.
type Reported = HashMap<(PathBuf, SystemTime), u64>;

impl CertificateWatch {
    /// Creates the thread, which does not begin yet. `None`: no certificate comes from a file.
    ///
    /// # Errors
    /// The system allows no more threads.
    pub(super) fn prepare(
        config: &Config,
        watcher: impl FnOnce() -> CertificateWatcher,
    ) -> io::Result<Option<Self>> {
        if files(config).next().is_none() {
            return Ok(None);
        }
        let watcher = watcher();
        let (stop, stopped) = mpsc::channel();
        let thread = PreparedThread::new("certificates", move || watcher.run(&stopped))?;
        Ok(Some(Self { stop, thread }))
    }

    pub(super) fn begin(self) -> Self {
        Self {
            thread: self.thread.begin(),
            ..self
        }
    }

    /// Ends the thread.
    pub(super) fn stop(self) {
        drop(self.stop);
        self.thread.join();
    }
}

impl CertificateWatcher {
    fn run(&self, stopped: &Receiver<()>) {
        let mut reported = Reported::new();
        let mut read = self.stamps();
        let mut before = read.clone();
        let mut next_report = 0;
        loop {
            if next_report == 0 {
                next_report = REPORT_EVERY;
                self.report(&mut reported);
                let certificates = self.running.lock().certificates.clone();
                if certificates.has_expired_ocsp(SystemTime::now()) {
                    self.read_all();
                }
            }
            next_report -= 1;
            if stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let now = self.stamps();
            if now != read && now == before {
                self.read_again(&read, &now);
                read.clone_from(&now);
                next_report = 0;
            }
            before = now;
        }
    }

    /// The files of the configuration as it is now.
    fn stamps(&self) -> HashMap<PathBuf, Stamp> {
        let snapshot = self.shared.snapshot();
        files(&snapshot.config)
            .map(|path| (path.to_owned(), stamp(path)))
            .collect()
    }

    fn read_again(&self, read: &HashMap<PathBuf, Stamp>, now: &HashMap<PathBuf, Stamp>) {
        // A reload has read those that are new, but they may have changed since.
        let is_unread = |(path, stamp): &(&PathBuf, &Stamp)| read.get(*path) != Some(*stamp);
        let unread: Vec<_> = now.iter().filter(is_unread).collect();
        if unread.is_empty() || !self.read_all() {
            return;
        }
        for (path, _) in unread {
            if read.contains_key(path) {
                log::info!("{}: read again", path.display());
            }
        }
    }

    /// Reads all files. Returns whether that is done.
    fn read_all(&self) -> bool {
        let _alone = self.reloading.lock();
        let (mut certificates, mut outgoing) = {
            let running = self.running.lock();
            (running.certificates.clone(), running.outgoing.clone())
        };
        let snapshot = self.shared.snapshot();
        let config = &snapshot.config;
        let loaded = certificates
            .load(&CertificateFiles::for_clients(config))
            .and_then(|()| outgoing.load(&CertificateFiles::for_backends(config)));
        if let Err(error) = loaded {
            // A file that was never read, so a reload must be under way.
            log::debug!("certificates: {error}");
            return false;
        }
        certificates.replace_those_of_sites();
        *self.shared.certificates.lock() = certificates.with_files(&outgoing);
        let mut running = self.running.lock();
        running.set_certificates(config, certificates, outgoing);
        drop(running);
        for servers in snapshot.servers() {
            servers.read_again();
        }
        true
    }

    /// Logs how long each certificate is valid: at the start, and when few days are left.
    fn report(&self, reported: &mut Reported) {
        let all: Vec<_> = {
            let running = self.running.lock();
            let all = running.certificates.loaded();
            let all = all.chain(running.outgoing.loaded());
            let all = all.map(|(path, certificate)| (path.to_owned(), certificate.clone()));
            let snapshot = self.shared.snapshot();
            let of_servers = snapshot
                .servers()
                .filter_map(|servers| servers.tls()?.own());
            let all = all.chain(of_servers);
            all.map(|(path, certificate)| (path, certificate.facts().not_after))
                .collect()
        };
        let now = SystemTime::now();
        reported.retain(|known, _| all.contains(known));
        for known in all {
            let (path, end) = &known;
            let left = days_left(*end, now);
            if reported.get(&known).is_some_and(|before| *before <= left) {
                continue;
            }
            let (path, date) = (path.display(), date::text(*end));
            match left {
                0 => log::error!("certificate {path}: it has expired, {date}"),
                ENOUGH => log::info!("certificate {path}: valid until {date}"),
                1 => log::warn!("certificate {path}: expires in less than a day, {date}"),
                days => log::warn!("certificate {path}: expires in less than {days} days, {date}"),
            }
            reported.insert(known, left);
        }
    }
}

/// The files of all certificates.
fn files(config: &Config) -> impl Iterator<Item = &Path> {
    let clients = CertificateFiles::for_clients(config).paths();
    let servers = config
        .sites
        .iter()
        .filter_map(|site| site.server_tls.as_ref());
    clients
        .chain(CertificateFiles::for_backends(config).paths())
        .chain(servers.flat_map(ServerTlsConfig::files))
}

fn stamp(path: &Path) -> Stamp {
    let data = path.metadata().ok()?;
    Some((
        data.dev(),
        data.ino(),
        data.size(),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
    ))
}

/// The least of the numbers of days after which a warning is due that covers the time left; [`ENOUGH`] if there is more,
/// 0 if there is none.
fn days_left(end: SystemTime, now: SystemTime) -> u64 {
    let Ok(left) = end.duration_since(now) else {
        return 0;
    };
    let is_left = |days: &u64| left <= Duration::from_secs(days * 24 * 3600);
    WARNINGS.into_iter().find(is_left).unwrap_or(ENOUGH)
}

/// Days before the end at which a warning is due.
const WARNINGS: [u64; 3] = [1, 7, 14];
/// More than that.
const ENOUGH: u64 = u64::MAX;
/// How often the files are looked at.
const PAUSE: Duration = Duration::from_secs(1);
/// After how many looks the expiry is checked again: ten minutes.
const REPORT_EVERY: u32 = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_due_before_the_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let check = |hours: u64, expected| {
            let end = now + Duration::from_secs(hours * 3600);
            assert_eq!(days_left(end, now), expected, "{hours} h");
        };
        check(15 * 24, ENOUGH);
        check(14 * 24, 14);
        check(8 * 24, 14);
        check(6 * 24, 7);
        check(24, 1);
        check(1, 1);
        assert_eq!(days_left(now - Duration::from_secs(1), now), 0);
    }
}
