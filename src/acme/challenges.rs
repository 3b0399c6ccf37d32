//! The responses to an authority that validates a name by HTTP-01 (RFC 8555 8.3).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

/// The challenges that are pending now, by their token.
#[derive(Debug, Default)]
pub struct Challenges {
    pending: RwLock<HashMap<String, String>>,
    /// How many there are, so that requests need no lock when there is none.
    count: AtomicUsize,
}

impl Challenges {
    /// Responds to a token with this text.
    pub fn begin(&self, token: &str, response: String) {
        let mut pending = self.pending.write();
        pending.insert(token.to_owned(), response);
        self.count.store(pending.len(), Ordering::Release);
    }

    /// Responds to it no longer.
    pub fn end(&self, token: &str) {
        let mut pending = self.pending.write();
        pending.remove(token);
        self.count.store(pending.len(), Ordering::Release);
    }

    /// Whether there is one.
    pub fn is_pending(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// The response for a path of a request, if it is that of a pending challenge.
    pub fn response(&self, path: &str) -> Option<String> {
        if !self.is_pending() {
            return None;
        }
        let token = path.strip_prefix(PATH)?;
        self.pending.read().get(token).cloned()
    }
}

/// Where an authority asks.
const PATH: &str = "/.well-known/acme-challenge/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pending_challenges_have_a_response() {
        let challenges = Challenges::default();
        let path = "/.well-known/acme-challenge/abc";
        assert_eq!(challenges.response(path), None);
        challenges.begin("abc", "abc.thumb".into());
        assert_eq!(challenges.response(path).as_deref(), Some("abc.thumb"));
        assert_eq!(challenges.response("/.well-known/acme-challenge/ab"), None);
        assert_eq!(challenges.response("/abc"), None);
        challenges.end("abc");
        assert_eq!(challenges.response(path), None);
    }
}
