//! Access control: paths that ask for a password (`basic_auth`).
//!
//! [`verdict`] decides about a request without waiting, from what is known already. A password that is not known has to
//! be checked when its turn comes ([`checks`](super::checks)).
//!
//! Called by workers, before anything of a request's body is read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::paths::{GuardedPath, best_fit, leads_up};
use crate::config::auth::{USERS_BYTES, users};
use crate::config::{self, BasicAuth};
use crate::content::watched::{FileError, Watched};
use crate::exchange::Request;
use crate::http::auth::{Credentials, challenge};
use crate::passwords::Users;

/// An entry of `basic_auth` as it runs.
#[derive(Debug)]
pub(crate) struct AuthRule {
    /// The value of WWW-Authenticate.
    pub(crate) challenge: String,
    forward: bool,
    paths: Vec<GuardedPath>,
    users: Arc<Watched<Users>>,
}

/// What happens to a request.
pub(crate) enum AuthVerdict<'g> {
    /// It may go on.
    Pass,
    /// Its client has to give a name and a password.
    Ask(&'g AuthRule),
    /// Its client's password has to be checked.
    Check(&'g AuthRule, Arc<Users>, Credentials),
    /// Its path has a `..`, so servers may read it differently.
    Unclear,
}

/// Files with users, by path.
pub(crate) type UsersFiles = HashMap<PathBuf, Arc<Watched<Users>>>;

impl AuthRule {
    /// The entries of a site. A file with users that is known already is reused, after a look whether it has changed;
    /// one that is not known is read and added.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn all(
        site: &config::SiteConfig,
        known: &mut UsersFiles,
    ) -> Result<Vec<Self>, FileError> {
        let guards = site.basic_auth.iter().map(|entry| {
            let users = match known.get(&entry.users_file) {
                Some(users) => {
                    users.check();
                    Arc::clone(users)
                }
                None => {
                    let file = Watched::open(&entry.users_file, USERS_BYTES, users)?;
                    let users = Arc::new(file);
                    known.insert(entry.users_file.clone(), Arc::clone(&users));
                    users
                }
            };
            Ok(Self::new(entry, site, users))
        });
        guards.collect()
    }

    /// The file with users, and its path.
    pub(crate) fn file(&self) -> (PathBuf, Arc<Watched<Users>>) {
        (self.users.path().to_owned(), Arc::clone(&self.users))
    }

    fn new(entry: &BasicAuth, site: &config::SiteConfig, users: Arc<Watched<Users>>) -> Self {
        let all = |path: &String| GuardedPath::all(path.as_bytes(), site);
        Self {
            challenge: challenge(&entry.realm),
            forward: entry.forward,
            paths: entry.paths.iter().flat_map(all).collect(),
            users,
        }
    }

    /// Notes the name of a client that has proved its identity. The application gets the password only with `forward`.
    pub(crate) fn identify(&self, credentials: &Credentials, request: &mut Request) {
        let name = String::from_utf8_lossy(credentials.name());
        request.user = Some(name.into());
        if !self.forward {
            request.head.headers.remove("Authorization");
        }
    }
}

/// Decides about a request of a site. If its client is known, prepares the request for the application.
pub(crate) fn verdict<'g>(
    guards: &'g [AuthRule],
    request: &mut Request,
    now: Instant,
) -> AuthVerdict<'g> {
    let path = request.head.target.decoded_path();
    // If the whole site asks for a password, no path can avoid that.
    let asks_everywhere = |guard: &AuthRule| guard.paths.iter().any(GuardedPath::is_everything);
    if leads_up(&path) && !guards.iter().all(asks_everywhere) {
        return AuthVerdict::Unclear;
    }
    let covering = guards
        .iter()
        .filter_map(|guard| Some((best_fit(&guard.paths, &path)?, guard)));
    // Of two entries the more specific one wins, as in nginx.
    let Some((_, guard)) = covering.max_by_key(|(fit, _)| *fit) else {
        return AuthVerdict::Pass;
    };
    drop(path);
    let Some(credentials) = Credentials::of(&request.head.headers) else {
        return AuthVerdict::Ask(guard);
    };
    let users = guard.users.get(now);
    if !users.remembers(credentials.bytes()) {
        return AuthVerdict::Check(guard, users, credentials);
    }
    guard.identify(&credentials, request);
    AuthVerdict::Pass
}
