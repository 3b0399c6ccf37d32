//! Reports to the service manager.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use swiftiply::internals::process;
use swiftiply::internals::process::reason;
use swiftiply::internals::process::service;

/// Logs a report that has failed.
pub(crate) fn reported(result: io::Result<()>) {
    if let Err(error) = result {
        log::warn!("NOTIFY_SOCKET: {}", reason(&error));
    }
}

/// Reports a reload, from its beginning to its end, whether it succeeds or not.
pub(crate) fn reloading<T>(reload: impl FnOnce() -> T) -> T {
    reported(service::notify_reloading());
    let result = reload();
    reported(service::notify("READY=1"));
    result
}

/// If the service manager wants that, reports from now on that the program works, as long as `works` says so. Its argument is
/// how old the last sign may be.
///
/// # Errors
/// The thread could not be started.
pub(crate) fn keep_watchdog<T: Send + Sync + 'static>(
    it: &Arc<T>,
    works: impl Fn(&T, Duration) -> bool + Send + 'static,
) -> Result<(), String> {
    let Some(interval) = service::watchdog() else {
        return Ok(());
    };
    let it: Weak<T> = Arc::downgrade(it);
    let run = move || {
        while let Some(it) = it.upgrade() {
            if works(&it, interval.max(LEAST_INTERVAL)) {
                // One report that is lost is not missed.
                let _ = service::notify("WATCHDOG=1");
            }
            drop(it);
            thread::sleep(interval / 2);
        }
    };
    process::thread("watchdog", run).map_err(|error| error.to_string())?;
    Ok(())
}

/// Signs of life come once a second.
const LEAST_INTERVAL: Duration = Duration::from_secs(3);
