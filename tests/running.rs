//! Operation: options, reloads, signals, logs.

mod access_logs;
mod connections;
mod draining;
mod reloading;
mod starting;

/// A site for each of so many addresses, which are Unix sockets.
fn many_addresses(count: usize) -> String {
    let site = |n| format!("- {{incoming: s{n}.test, outgoing: 'unix:sockets/{n}'}}\n");
    format!("map:\n{}", (0..count).map(site).collect::<String>())
}
