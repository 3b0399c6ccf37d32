use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;
use std::thread;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;

use super::health::{Change, Health, HealthReport, LONGEST_PAUSE, ServerHealth};
use super::*;
use crate::backend::waiting::WaitingCount;
use crate::config::{Order, ServerConfig};

fn directory(servers: &[ServerConfig], slots: usize) -> Arc<Directory> {
    let settings = DirectorySettings {
        servers: servers.to_vec(),
        slots,
        order: Order::Least,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(10),
        lookup_interval: Duration::from_secs(30),
        check: None,
        send_proxy: None,
        tls: None,
        host: "test".into(),
    };
    let (stats, alarm) = (Arc::new(Stats::new()), Arc::default());
    Arc::new(Directory::new(
        "test",
        "site:test",
        settings,
        (&stats, &alarm),
    ))
}

fn acquire_at(directory: &Arc<Directory>, since: Instant) -> ServerAcquired {
    let waiting = Arc::new(WaitingCount::new(Arc::new(AtomicUsize::new(0))));
    waiting.limit(10, 10);
    let selector = ServerSelector {
        directory,
        waiting: &waiting,
    };
    acquire(&selector, &mut None, since, false).expect("the queue has room")
}

fn take(directory: &Arc<Directory>) -> ServerLease {
    ready(Some(acquire_at(directory, Instant::now()))).expect("a server")
}

fn queued(directory: &Arc<Directory>, since: Instant) -> ServerTicket {
    match acquire_at(directory, since) {
        ServerAcquired::Queued(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

/// The lease; waits for a connection that is being made.
fn ready(acquired: Option<ServerAcquired>) -> Option<ServerLease> {
    let mut connecting = match acquired? {
        ServerAcquired::Ready(lease) => return Some(lease),
        ServerAcquired::Connecting(connecting) => connecting,
        ServerAcquired::Queued(ticket) => panic!("{ticket:?}"),
    };
    loop {
        thread::sleep(Duration::from_millis(1));
        connecting = match connecting.advance() {
            ServerConnected::Ready(lease) => return Some(lease),
            ServerConnected::Pending(connecting) => connecting,
            ServerConnected::Failed(error) => panic!("{error}"),
        };
    }
}

/// A server that listens.
fn listening() -> (TcpListener, ServerConfig) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, address)
}

#[test]
fn changed_address_is_used() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [old, new] = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap());
    let directory = directory(&["moves.invalid:80".parse().unwrap()], 2);
    let mut ticket = queued(&directory, Instant::now());
    assert!(!ticket.wait(Instant::now()));
    let endpoint = Arc::clone(&directory.state.lock().servers[0].endpoint);
    directory.lookup_done(&endpoint, Ok(vec![old]));
    // A request that waits for the name gets a connection as soon as there is an address.
    let lease = ready(ticket.take()).expect("an address");
    let busy = take(&directory);
    let here = listeners[0].accept().unwrap();
    let also_here = listeners[0].accept().unwrap();
    lease.finish();
    assert_eq!(directory.idle(), 1);
    // A failed lookup changes nothing; neither does one that finds the same address.
    directory.lookup_done(&endpoint, Err(std::io::Error::other("no such name")));
    directory.lookup_done(&endpoint, Ok(vec![old]));
    assert_eq!(directory.idle(), 1);
    directory.lookup_done(&endpoint, Ok(vec![new]));
    assert_eq!(directory.idle(), 0);
    let lease = take(&directory);
    let there = listeners[1].accept().unwrap();
    drop((lease, busy, here, also_here, there));
    let state = directory.state.lock();
    assert_eq!(state.servers[0].busy, 0);
    assert!(state.waiting.is_empty());
}

#[test]
fn names_are_looked_up_at_the_interval() {
    let directory = directory(&["moves.invalid:80".parse().unwrap()], 2);
    let endpoint = Arc::clone(&directory.state.lock().servers[0].endpoint);
    let interval = Duration::from_secs(20);
    let set = |interval: Duration| {
        let mut settings = directory.state.lock().settings.clone();
        settings.lookup_interval = interval;
        directory.change(settings);
    };
    set(interval);
    // The time until the next lookup, as of the moment after the last one.
    let next = || directory.state.lock().servers[0].health.lookup.unwrap();
    let found = || Ok(vec!["127.0.0.1:80".parse().unwrap()]);
    let looked_up = |result| {
        let before = Instant::now();
        directory.lookup_done(&endpoint, result);
        (before, Instant::now())
    };
    let is_after = |time: Duration, (before, after): (Instant, Instant)| {
        (before + time..=after + time).contains(&next())
    };
    let soon = Duration::from_secs(1);
    let fails = || Err(std::io::Error::other("no such name"));
    assert!(is_after(soon, looked_up(fails())));
    assert!(is_after(interval, looked_up(found())));
    assert!(is_after(interval, looked_up(fails())));
    // A shorter one counts at once.
    let before = Instant::now();
    set(Duration::from_millis(500));
    assert!(is_after(
        Duration::from_millis(500),
        (before, Instant::now())
    ));
    assert!(is_after(Duration::from_millis(500), looked_up(found())));
}

#[test]
fn pauses_grow_and_end_with_success() {
    let mut health = ServerHealth::new(true, Instant::now());
    let pause = |health: &ServerHealth| match health.state {
        Health::Aside { pause, .. } => Some(pause.as_millis()),
        _ => None,
    };
    let unreachable = || HealthReport::Unreachable("no".to_owned());
    assert_eq!(health.judge(&unreachable(), true), Change::Aside);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.extend(pause(&health));
        // Failures of requests that were under way before do not count again.
        assert_eq!(health.judge(&unreachable(), true), Change::None);
        let Health::Aside { trial, .. } = &mut health.state else {
            panic!("{:?}", health.state);
        };
        *trial = true;
        assert!(!health.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
        health.judge(&unreachable(), true);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert!(!health.is_open(&mut None));
    assert!(health.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
    assert_eq!(health.judge(&HealthReport::Good, true), Change::Back);
    assert_eq!(health.state, Health::Up);
    // Failures that may be the request's fault count if they repeat and another server can serve.
    for may_set_aside in [false, false, true] {
        assert_eq!(health.judge(&HealthReport::Failed, false), Change::None);
        assert_eq!(health.judge(&HealthReport::Failed, false), Change::None);
        let third = health.judge(&HealthReport::Failed, may_set_aside);
        assert_eq!(third == Change::Aside, may_set_aside);
    }
}

#[test]
fn removed_checks_do_not_count() {
    let directory = directory(&["127.0.0.1:80".parse().unwrap()], 1);
    let set_check = |check: Option<config::CheckConfig>| {
        let mut settings = directory.state.lock().settings.clone();
        settings.check = check;
        directory.change(settings);
    };
    let endpoint = Arc::clone(&directory.state.lock().servers[0].endpoint);
    let bad = || directory.check_done(&endpoint, Err("not well".to_owned()));
    let is_up = || directory.state.lock().servers[0].health.state == Health::Up;
    let check = config::CheckConfig {
        uri: "/".to_owned(),
        interval: Duration::from_secs(10),
    };
    set_check(Some(check.clone()));
    bad();
    assert!(is_up());
    bad();
    assert!(!is_up());
    // Without checks it could never be found up again: neither an earlier result counts nor one that arrives now.
    set_check(None);
    assert!(is_up());
    bad();
    bad();
    assert!(is_up());
    set_check(Some(check));
    directory.check_done(&endpoint, Ok(()));
    assert!(is_up());
    assert!(directory.state.lock().servers[0].check.is_some());
}

#[test]
fn server_configured_again_stays() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, other] = [0, 1].map(|n: usize| {
        let address = listeners[n].local_addr().unwrap().to_string();
        address.parse::<ServerConfig>().unwrap()
    });
    let directory = directory(std::slice::from_ref(&one), 2);
    let lease = take(&directory);
    for server in [other, one.clone()] {
        let mut settings = directory.state.lock().settings.clone();
        settings.servers = vec![server];
        directory.change(settings);
    }
    lease.finish();
    assert_eq!(directory.idle(), 1);
    let state = directory.state.lock();
    assert_eq!(state.servers.len(), 1);
    assert_eq!(state.servers[0].endpoint.server, one);
}

#[test]
fn closes_what_returns_after_shutdown() {
    let (_listener, address) = listening();
    let directory = directory(&[address], 2);
    let leases = [(); 2].map(|()| take(&directory));
    let mut leases = leases.into_iter();
    leases.next().unwrap().finish();
    // The tick has taken the idle connections while the directory is shut.
    let due = directory.state.lock().due(Instant::now() + PATIENCE);
    directory.close_all(Close::Draining);
    for (endpoint, idle) in due.idle {
        directory.check_idle(&endpoint, idle, Instant::now(), PATIENCE);
    }
    leases.next().unwrap().finish();
    assert_eq!(directory.idle(), 0);
    assert_eq!(directory.stats.backends_closed(Close::Draining), 2);
}

#[test]
fn sets_a_timeout_for_dead_hosts() {
    let (_listener, address) = listening();
    let directory = directory(&[address], 1);
    let mut lease = take(&directory);
    let milliseconds = getsockopt(lease.conn(), TcpUserTimeout).unwrap();
    assert_eq!(milliseconds, 20_000);
}

#[test]
fn serves_in_order_of_arrival() {
    let (_listener, address) = listening();
    let directory = directory(&[address], 1);
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let lease = take(&directory);
    let mut second = queued(&directory, at(20));
    let mut first = queued(&directory, at(10));
    let third = queued(&directory, at(30));
    lease.finish();
    assert!(second.take().is_none());
    let lease = ready(first.take()).expect("its turn");
    assert!(lease.is_reused());
    drop(first);
    // A ticket that is dropped passes its slot on; a request that arrived earlier is not behind later ones.
    lease.finish();
    let mut late = queued(&directory, at(15));
    drop(second);
    assert!(!third.wait(Instant::now()));
    let lease = ready(late.take()).expect("its turn");
    drop(third);
    lease.finish();
    let state = directory.state.lock();
    assert_eq!((state.servers[0].busy, state.waiting.len()), (0, 0));
}

#[test]
fn unreachable_server_costs_no_position() {
    let (listener, gone) = listening();
    drop(listener);
    let (_listener, good) = listening();
    let directory = directory(&[gone, good], 1);
    let lease = take(&directory);
    assert_eq!(directory.state.lock().servers[1].busy, 1);
    assert!(matches!(
        directory.state.lock().servers[0].health.state,
        Health::Aside { .. }
    ));
    let start = Instant::now();
    let mut first = queued(&directory, start);
    let second = queued(&directory, start + Duration::from_millis(1));
    // The pause has ended; the trial fails, and the request has its old position.
    pause_until(&directory, Instant::now());
    assert_eq!(directory.tick(Instant::now()), None);
    assert!(first.wait(Instant::now()));
    assert!(first.take().is_none(), "it cannot be reached");
    assert_eq!(directory.state.lock().waiting.len(), 2);
    // The next pause has begun.
    assert!(directory.state.lock().next_pause().is_some());
    lease.finish();
    assert!(!second.wait(Instant::now()));
    assert!(ready(first.take()).is_some());
}

#[test]
fn alarm_rings_at_the_end_of_a_pause() {
    let (listener, address) = listening();
    drop(listener);
    let directory = directory(&[address], 1);
    let start = Instant::now();
    // The first request finds that the server is unreachable, and waits.
    let _ticket = queued(&directory, start);
    assert!(directory.alarm.wait(PATIENCE));
    let pause = Duration::from_millis(100);
    assert!(start.elapsed() >= pause && start.elapsed() < PATIENCE);
    // The same for a request that arrives during a pause.
    pause_until(&directory, Instant::now() + pause);
    let _other = queued(&directory, Instant::now());
    assert!(directory.alarm.wait(PATIENCE));
    assert!(start.elapsed() >= pause * 2 && start.elapsed() < PATIENCE);
}

#[test]
fn tick_returns_its_next_time() {
    let (_listener, address) = listening();
    let directory = directory(&[address, "name.invalid:80".parse().unwrap()], 1);
    let now = Instant::now();
    let due = || directory.state.lock().next_due(now);
    assert!(due().is_some_and(|due| due <= now), "a lookup");
    directory.state.lock().servers[1].health.lookup = None;
    assert_eq!(due(), None);
    take(&directory).finish();
    let since = directory.state.lock().servers[0].idle[0].since;
    assert_eq!(due(), Some(since + Duration::from_secs(1)));
    let mut settings = directory.state.lock().settings.clone();
    settings.check = Some(config::CheckConfig {
        uri: "/".to_owned(),
        interval: Duration::from_secs(10),
    });
    directory.change(settings);
    assert!(due().is_some_and(|due| due < since + Duration::from_secs(1)));
}

/// Ends the pause of the first server at this time.
fn pause_until(directory: &Arc<Directory>, end: Instant) {
    match &mut directory.state.lock().servers[0].health.state {
        Health::Aside { until, .. } => *until = end,
        other => panic!("{other:?}"),
    }
}

/// Only a fault takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
