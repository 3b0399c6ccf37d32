//! Session tickets, and the clock of the library.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring;
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

/// Keys of session tickets; kept across reloads, so that clients can resume sessions.
#[derive(Clone, Debug)]
pub struct Tickets(pub(super) Arc<dyn ProducesTickets>);

impl Tickets {
    /// New keys, which change every few hours.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new() -> io::Result<Self> {
        let clock = TlsClock(SystemTime::now);
        let tickets = match clock.is_after_1970() {
            true => OnceLock::from(ring::Ticketer::new().map_err(io::Error::other)?),
            false => OnceLock::new(),
        };
        Ok(Self(Arc::new(Rotating { clock, tickets })))
    }
}

/// A clock for the library, whose own panics if the time is before 1970, as after a start without a battery.
#[derive(Debug)]
pub(super) struct TlsClock(pub(super) fn() -> SystemTime);

impl TlsClock {
    fn is_after_1970(&self) -> bool {
        (self.0)() > UNIX_EPOCH
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = (self.0)().duration_since(UNIX_EPOCH);
        Some(UnixTime::since_unix_epoch(since.unwrap_or_default()))
    }
}

/// Tickets of the library, which use its own clock: before 1970 they are disabled rather than letting it panic.
#[derive(Debug)]
struct Rotating {
    clock: TlsClock,
    tickets: OnceLock<Arc<dyn ProducesTickets>>,
}

impl Rotating {
    fn tickets(&self) -> Option<&dyn ProducesTickets> {
        if !self.clock.is_after_1970() {
            return None;
        }
        if let Some(tickets) = self.tickets.get() {
            return Some(&**tickets);
        }
        let new = ring::Ticketer::new().ok()?;
        Some(&**self.tickets.get_or_init(|| new))
    }
}

impl ProducesTickets for Rotating {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.tickets.get().map_or(0, |tickets| tickets.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets()?.decrypt(cipher)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clock_before_1970_disables_tickets() {
        let wrong = || UNIX_EPOCH - Duration::from_secs(3600);
        let epoch = UnixTime::since_unix_epoch(Duration::ZERO);
        assert_eq!(TlsClock(wrong).current_time(), Some(epoch));
        let rotating = |now| Rotating {
            clock: TlsClock(now),
            tickets: OnceLock::new(),
        };
        let tickets = rotating(wrong);
        assert_eq!(tickets.encrypt(b"session"), None);
        assert_eq!(tickets.decrypt(b"session"), None);
        // And when it is right, there are some.
        let tickets = rotating(SystemTime::now);
        let ticket = tickets.encrypt(b"session").unwrap();
        assert_eq!(tickets.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert!(tickets.lifetime() > 0);
    }
}
