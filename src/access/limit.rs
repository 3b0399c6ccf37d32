//! The limit of requests at the application.
//!
//! N connections are dialled to *each* server, so that each server can use the whole application. The
//! [`ApplicationLimit`] ensures that no more than N requests are at the application in total. A request takes an
//! [`ApplicationPermit`], and passes it on as soon as the last byte of the response was read. The permit carries the
//! most recently used connection to the application, so there are never more than N of those.
//!
//! **Fair**: permits are given in order of arrival, whichever server a request comes from. Each server has at most N
//! requests in the queue, so a request waits for no more than N others of each server.
//!
//! **No deadlock**: a permit is the first thing that a request takes. Its holder waits only for the application or the
//! server, each under a deadline, and never for another permit.
//!
//! Called by the workers, and by the thread that checks the application.
//!
//! **Invariants**: those of [`ConcurrencyLimit`]. A connection to an earlier application is never used for a later one;
//! see [`ConcurrencyLimit::drop_carried`].

use crate::backend::limit;
use crate::backend::limit::ConcurrencyLimit;
use crate::net::conn::Conn;

/// Limits the requests at the application.
pub(super) type ApplicationLimit = ConcurrencyLimit<Conn>;

/// The right to have a request there; carries an idle connection.
pub(super) type ApplicationPermit = limit::Permit<Conn>;

/// The result of an attempt to get a permit.
pub(super) type ApplicationEntry = limit::LimitEntry<Conn>;

/// A request in the queue.
pub(super) type ApplicationTicket = limit::LimitTicket<Conn>;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::net::stream::{Pending, Stream};

    /// A connection to the application, and the application's side of it.
    fn connection() -> (Conn, Stream) {
        let kind = (AddressFamily::Unix, SockType::Stream);
        let (own, other) = socketpair(kind.0, kind.1, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Conn::plain(Stream::from(own)), Stream::from(other))
    }

    fn queued(limit: &Arc<ApplicationLimit>) -> ApplicationTicket {
        match limit.enter(Instant::now()) {
            ApplicationEntry::Permit(_) => panic!("a permit was free"),
            ApplicationEntry::Queued(ticket) => ticket,
        }
    }

    #[test]
    fn permit_carries_the_last_connection() {
        let limit = Arc::new(ApplicationLimit::new(1));
        let mut permit = limit.try_enter().unwrap();
        assert!(permit.take_carried().is_none());
        let (conn, app) = connection();
        let (mut first, mut second) = (queued(&limit), queued(&limit));
        permit.keep(conn);
        assert!(second.take().is_none());
        let permit: ApplicationPermit = first.take().expect("its turn");
        // It does not use the connection, which goes to the next holder.
        drop(permit);
        let mut permit = second.take().expect("its turn");
        let conn = permit.take_carried().expect("the connection");
        assert_eq!(app.pending(), Pending::Nothing);
        // It is not put back.
        drop((conn, permit));
        assert_eq!(app.pending(), Pending::End);
        assert!(limit.try_enter().is_some());
    }

    #[test]
    fn drops_connections_to_an_earlier_application() {
        let limit = Arc::new(ApplicationLimit::new(2));
        let ((idle, idle_end), (busy, busy_end)) = (connection(), connection());
        let permit = limit.try_enter().unwrap();
        limit.try_enter().unwrap().keep(idle);
        limit.drop_carried();
        assert_eq!(idle_end.pending(), Pending::End);
        permit.keep(busy);
        assert_eq!(busy_end.pending(), Pending::End);
        assert!(limit.try_enter().unwrap().take_carried().is_none());
    }
}
