//! Who may see what: paths that ask for a password (`basic_auth`).
//!
//! [`look`] decides for a request, from what is known already, without waiting. What is not known has to be checked,
//! which takes tens of milliseconds of CPU, so that is rationed by [`Checks`]: few at once in all the server, the rest
//! in line without a worker, and only some of one address, so that a flood of wrong passwords neither holds the
//! workers nor keeps others from proving who they are.
//!
//! Called by workers, before anything of a request's body is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::admission::{Clients, Counted};
use super::snapshot::Snapshot;
use crate::backend::queue::ConcurrencyLimit;
use crate::config::auth::{USERS_BYTES, users};
use crate::config::{self, BasicAuth};
use crate::content::passwords::Users;
use crate::content::watched::{FileError, Watched};
use crate::exchange::Request;
use crate::http::auth::{Credentials, challenge};

/// An entry of `basic_auth` as it runs.
#[derive(Debug)]
pub(crate) struct AuthRule {
    /// The value of WWW-Authenticate.
    pub(crate) challenge: String,
    forward: bool,
    /// Paths in their parts; none: everything.
    paths: Vec<Vec<Box<[u8]>>>,
    users: Arc<Watched<Users>>,
}

/// What is to be done with a request.
pub(crate) enum Verdict<'g> {
    /// It goes on.
    Pass,
    /// Its visitor has to prove who it is.
    Ask(&'g AuthRule),
    /// Its visitor may be who it says it is.
    Check(&'g AuthRule, Arc<Users>, Credentials),
    /// Which paths it is below depends on who reads it.
    Unclear,
}

/// How many passwords are checked, and for whom.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) limit: Arc<ConcurrencyLimit>,
    waiting: AtomicUsize,
    clients: Clients,
}

/// A request whose password is to be checked is counted.
#[derive(Debug)]
pub(crate) struct AuthSlot {
    checks: Arc<Checks>,
    counted: Option<Counted>,
}

/// Why a password is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthOverload {
    /// The visitor's address has too many in line.
    Client,
    /// All have.
    All,
}

impl AuthRule {
    /// Those of a site. A file with users that was known before is the same one, and is looked at now.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn all(
        site: &config::Site,
        before: Option<&Snapshot>,
    ) -> Result<Vec<Self>, FileError> {
        let mut guards: Vec<Self> = Vec::new();
        for entry in &site.basic_auth {
            let sites = before.iter().flat_map(|before| &before.sites);
            let old = sites.flat_map(|site| &site.guards).chain(&guards);
            let known = old.map(|guard| &guard.users);
            let known = known
                .into_iter()
                .find(|file| file.path() == entry.users_file);
            let users = match known {
                Some(known) => {
                    known.look();
                    Arc::clone(known)
                }
                None => Arc::new(Watched::open(&entry.users_file, USERS_BYTES, users)?),
            };
            guards.push(Self::new(entry, users));
        }
        Ok(guards)
    }

    fn new(entry: &BasicAuth, users: Arc<Watched<Users>>) -> Self {
        let split = |path: &String| parts(path.as_bytes()).map(Box::from).collect();
        Self {
            challenge: challenge(&entry.realm),
            forward: entry.forward,
            paths: entry.paths.iter().map(split).collect(),
            users,
        }
    }

    /// The visitor has proved who it is.
    pub(crate) fn welcome(&self, credentials: &Credentials, request: &mut Request) {
        let name = String::from_utf8_lossy(credentials.name());
        request.user = Some(name.into());
        if !self.forward {
            request.head.headers.remove("Authorization");
        }
    }

    /// How many parts the longest of its paths has that this one is below.
    fn covers(&self, path: &[u8]) -> Option<usize> {
        let covers = |own: &&Vec<Box<[u8]>>| {
            let mut sent = parts(path);
            own.iter()
                .all(|part| sent.next().is_some_and(|sent| is_same(part, sent)))
        };
        self.paths.iter().filter(covers).map(Vec::len).max()
    }
}

/// Decides about a request of a site. If its visitor is known, the request is made ready for the application.
pub(crate) fn look<'g>(guards: &'g [AuthRule], request: &mut Request, now: Instant) -> Verdict<'g> {
    let path = request.head.target.decoded_path();
    // Where all of the site asks, nothing leads around it.
    let asks_everywhere = |guard: &AuthRule| guard.paths.iter().any(Vec::is_empty);
    if leads_up(&path) && !guards.iter().all(asks_everywhere) {
        return Verdict::Unclear;
    }
    let covering = guards
        .iter()
        .filter_map(|guard| Some((guard.covers(&path)?, guard)));
    // Of two the more special one, as in nginx.
    let Some((_, guard)) = covering.max_by_key(|(length, _)| *length) else {
        return Verdict::Pass;
    };
    drop(path);
    let Some(credentials) = Credentials::of(&request.head.headers) else {
        return Verdict::Ask(guard);
    };
    let users = guard.users.get(now);
    if !users.remembers(credentials.bytes()) {
        return Verdict::Check(guard, users, credentials);
    }
    guard.welcome(&credentials, request);
    Verdict::Pass
}

/// The parts of a decoded path, as whoever takes it apart leniently sees them: doubled slashes and `.` are nothing, and a
/// backslash is a slash, as for browsers and all that reads URLs as they do (Node).
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .filter(|part| !matches!(bare(part), b"" | b"."))
}

/// Whether a path has a `..`, so that nobody can say what it is below.
fn leads_up(path: &[u8]) -> bool {
    parts(path).any(|part| bare(part) == b"..")
}

fn is_same(own: &[u8], sent: &[u8]) -> bool {
    own == sent || own == bare(sent)
}

/// A part without its parameters. Some application servers do not count what stands behind a semicolon (RFC 3986 3.3):
/// better one path too many is guarded.
fn bare(part: &[u8]) -> &[u8] {
    part.split(|byte| *byte == b';').next().unwrap_or_default()
}

impl Checks {
    /// A server needs one.
    pub(crate) fn new() -> Self {
        // Half of the processors: the others go on with everything else.
        let most = thread::available_parallelism().map_or(1, |count| count.get().div_ceil(2));
        Self {
            limit: Arc::new(ConcurrencyLimit::new(most)),
            waiting: AtomicUsize::new(0),
            clients: Clients::default(),
        }
    }

    /// Counts a request whose password is to be checked, until the slot is dropped.
    ///
    /// # Errors
    /// Who has too many in line.
    pub(crate) fn enter(self: &Arc<Self>, request: &Request) -> Result<AuthSlot, AuthOverload> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Takes back what was added, whatever comes.
        let mut slot = AuthSlot {
            checks: Arc::clone(self),
            counted: None,
        };
        if self.waiting.load(Ordering::Relaxed) > MOST_IN_LINE {
            return Err(AuthOverload::All);
        }
        // Many visitors come from one proxy.
        if let Some(ip) = request.peer.ip().filter(|_| !request.trusted) {
            let counted = self.clients.enter(ip, MOST_OF_ONE);
            slot.counted = Some(counted.ok_or(AuthOverload::Client)?);
        }
        Ok(slot)
    }
}

impl Drop for AuthSlot {
    fn drop(&mut self) {
        self.checks.waiting.fetch_sub(1, Ordering::Relaxed);
        if let Some(counted) = self.counted {
            self.checks.clients.leave(counted);
        }
    }
}

/// Requests in line for a check of their password.
const MOST_IN_LINE: usize = 128;
/// The same of one address: a browser has six connections to a site.
const MOST_OF_ONE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(paths: &[&str]) -> AuthRule {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users");
        std::fs::write(&file, "").unwrap();
        let entry = BasicAuth {
            realm: "test".into(),
            users_file: file.clone(),
            paths: paths.iter().map(ToString::to_string).collect(),
            forward: false,
        };
        let users = Watched::open(&file, USERS_BYTES, users).unwrap();
        AuthRule::new(&entry, Arc::new(users))
    }

    #[test]
    fn paths_are_covered_component_by_component() {
        let check = |own: &[&str], path: &str, expected: Option<usize>| {
            assert_eq!(
                guard(own).covers(path.as_bytes()),
                expected,
                "{own:?} {path}"
            );
        };
        for path in ["/", "*", "", "/admin"] {
            check(&["/"], path, Some(0));
        }
        for path in [
            "/admin",
            "/admin/",
            "//admin",
            "/./admin",
            "/admin/./x",
            "/admin//x",
            "/admin;x=1",
            "/admin;/x",
            "/;/admin",
            "/.;x/admin",
            "/\\admin\\x",
            "admin",
        ] {
            check(&["/admin"], path, Some(1));
        }
        for path in [
            "/",
            "/administration",
            "/Admin",
            "/x/admin",
            "/adm",
            "*",
            "/admin x",
        ] {
            check(&["/admin"], path, None);
        }
        check(&["/a", "/a/b"], "/a/b/c", Some(2));
        check(&["/a", "/a/b"], "/a/c", Some(1));
        check(&["/a/b"], "/a", None);
        check(&["/a;b"], "/a;b", Some(1));
        check(&["/a;b"], "/a", None);
    }

    #[test]
    fn nobody_can_say_where_a_path_is_that_leads_up() {
        for path in [
            "/..",
            "/x/../admin",
            "/x/..;/admin",
            "/..;a=b",
            "/x\\..\\admin",
            "..",
        ] {
            assert!(leads_up(path.as_bytes()), "{path}");
        }
        for path in ["/", "/...", "/..a", "/a..", "/;..", "/a;../b", "*"] {
            assert!(!leads_up(path.as_bytes()), "{path}");
        }
    }
}
