//! The service manager, systemd(1): what it is told, and what it expects.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
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

use super::{inherited_descriptor, reason};

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
    if pid.is_some_and(|pid| pid.to_str() != Some(&own_id())) {
        return None;
    }
    let interval = interval.to_str()?.parse().ok()?;
    Some(Duration::from_micros(interval)).filter(|interval| !interval.is_zero())
}

/// The listening sockets that the service manager has opened for this process, with their names: sd_listen_fds(3). To be
/// called once, before this process opens anything.
///
/// # Errors
/// A descriptor that was announced is not open.
pub fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let is_own = env::var_os(LISTEN_PID).is_some_and(|pid| pid.to_str() == Some(&own_id()));
    let count = env::var(LISTEN_FDS).ok();
    let count: RawFd = count
        .and_then(|count| count.parse().ok())
        .filter(|count| is_own && (0..=MOST_SOCKETS).contains(count))
        .unwrap_or(0);
    let names = env::var(LISTEN_FDNAMES).unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = Vec::new();
    for number in FIRST_SOCKET..FIRST_SOCKET + count {
        let name = names.next().filter(|name| !name.is_empty());
        let name = name.map_or_else(|| format!("descriptor {number}"), str::to_owned);
        let socket = inherited_descriptor(number)
            .map_err(|error| io::Error::other(format!("LISTEN_FDS: {name}: {}", reason(&error))))?;
        sockets.push((name, socket));
    }
    Ok(sockets)
}

/// Prepares the environment of a process that takes the place of this one: it is the one that the service manager watches
/// then, and gets sockets in another way.
pub fn prepare_successor(command: &mut Command) {
    if watchdog().is_some() {
        command.env_remove(WATCHDOG_PID);
    }
    for name in [LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES] {
        command.env_remove(name);
    }
}

/// Takes out of the environment of another program what concerns this one only.
pub fn hide(command: &mut Command) {
    prepare_successor(command);
    for name in [NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC] {
        command.env_remove(name);
    }
}

fn own_id() -> String {
    process::id().to_string()
}

/// The descriptor of the first socket, and more sockets than a unit has.
const FIRST_SOCKET: RawFd = 3;
const MOST_SOCKETS: RawFd = 10_000;
const LISTEN_PID: &str = "LISTEN_PID";
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
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
