//! The service manager, systemd(1): what it is told, and what it expects.

use std::ffi::OsStr;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
#[cfg(target_os = "linux")]
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::{env, process};

use nix::time::{ClockId, clock_gettime};

/// Notifies the service manager, if there is one: sd_notify(3).
///
/// # Errors
/// The service manager cannot be reached.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(path) = env::var_os(NOTIFY_SOCKET) else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    match path.as_bytes().strip_prefix(b"@") {
        #[cfg(target_os = "linux")]
        Some(name) => {
            let address = SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state.as_bytes(), &address)?;
        }
        _ => {
            socket.send_to(state.as_bytes(), Path::new(&path))?;
        }
    }
    Ok(())
}

/// Reports the beginning of a reload, whose end is reported by `READY=1` (`Type=notify-reload` of systemd.service(5)).
///
/// # Errors
/// Those of [`notify`].
pub fn notify_reloading() -> io::Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let microseconds = i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"))
}

/// How often the service manager expects `WATCHDOG=1` of this process at least (`WatchdogSec`); `None`: not at all.
pub fn watchdog() -> Option<Duration> {
    let (pid, interval) = (env::var_os(WATCHDOG_PID), env::var_os(WATCHDOG_USEC)?);
    interval_of(pid.as_deref(), &interval)
}

fn interval_of(pid: Option<&OsStr>, interval: &OsStr) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.to_str() != Some(&process::id().to_string())) {
        return None;
    }
    let interval = interval.to_str()?.parse().ok()?;
    Some(Duration::from_micros(interval)).filter(|interval| !interval.is_zero())
}

/// Prepares the environment of a process that takes the place of this one: it is the one that the service manager watches
/// then.
pub fn prepare_successor(command: &mut Command) {
    if watchdog().is_some() {
        command.env_remove(WATCHDOG_PID);
    }
}

/// Takes out of the environment of another program what concerns this one only.
pub fn hide(command: &mut Command) {
    for name in [NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC] {
        command.env_remove(name);
    }
}

const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchdog_is_for_this_process() {
        let own = process::id().to_string();
        let check = |pid: Option<&str>, interval: &str, expected| {
            let found = interval_of(pid.map(OsStr::new), OsStr::new(interval));
            assert_eq!(found, expected, "{pid:?} {interval}");
        };
        let second = Some(Duration::from_secs(1));
        check(None, "1000000", second);
        check(Some(&own), "1000000", second);
        check(Some("1"), "1000000", None);
        check(Some(""), "1000000", None);
        check(None, "0", None);
        check(None, "soon", None);
    }
}
