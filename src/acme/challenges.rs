//! The responses to an authority that validates a name by HTTP-01 (RFC 8555 8.3).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

/// The challenges that are pending now, by their token.
#[derive(Debug, Default)]
pub struct Challenges {
    pending: RwLock<PendingResponses>,
    /// How many there are, so that requests need no lock when there is none.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct PendingResponses {
    own: HashMap<String, String>,
    /// Those of other proxies behind the same names.
    shared: HashMap<String, String>,
}

impl Challenges {
    /// Responds to a token with this text.
    pub fn begin(&self, token: &str, response: String) {
        self.change(|pending| drop(pending.own.insert(token.to_owned(), response)));
    }

    /// Responds to it no longer.
    pub fn end(&self, token: &str) {
        self.change(|pending| drop(pending.own.remove(token)));
    }

    /// Responds to these tokens of other proxies, and to no other ones of theirs.
    pub fn set_shared(&self, responses: HashMap<String, String>) {
        self.change(|pending| pending.shared = responses);
    }

    fn change(&self, change: impl FnOnce(&mut PendingResponses)) {
        let mut pending = self.pending.write();
        change(&mut pending);
        let count = pending.own.len() + pending.shared.len();
        self.count.store(count, Ordering::Release);
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
        let pending = self.pending.read();
        let own = pending.own.get(token);
        own.or_else(|| pending.shared.get(token)).cloned()
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

    #[test]
    fn shared_challenges_do_not_touch_own_ones() {
        let challenges = Challenges::default();
        let path = |token| format!("/.well-known/acme-challenge/{token}");
        challenges.begin("own", "own.thumb".into());
        let shared = |token: &str| HashMap::from([(token.to_owned(), "shared".to_owned())]);
        challenges.set_shared(shared("own"));
        assert_eq!(
            challenges.response(&path("own")).as_deref(),
            Some("own.thumb")
        );
        challenges.set_shared(shared("other"));
        assert_eq!(
            challenges.response(&path("other")).as_deref(),
            Some("shared")
        );
        challenges.end("other");
        challenges.end("own");
        assert!(challenges.is_pending());
        assert_eq!(
            challenges.response(&path("other")).as_deref(),
            Some("shared")
        );
        challenges.set_shared(HashMap::new());
        assert!(!challenges.is_pending());
    }
}
