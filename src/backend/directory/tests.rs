use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;

use super::health::{Change, Health, LONGEST_PAUSE, Outcome};
use super::*;
use crate::backend::lease::Missed;

fn directory(servers: &[Address], seats: usize) -> Arc<Directory> {
    let settings = Settings {
        servers: servers.to_vec(),
        seats,
        connect: Duration::from_secs(10),
        backend: Duration::from_secs(30),
        idle: Duration::from_secs(10),
        check: None,
        host: "test".into(),
    };
    let stats = Arc::new(Stats::new());
    Arc::new(Directory::new("test", "site:test", settings, &stats))
}

fn take(directory: &Arc<Directory>, patience: Duration) -> Result<Lease, Missed> {
    let waiting = Arc::new(Waiting::new(Arc::new(AtomicUsize::new(0))));
    waiting.limit(10, 10);
    let want = Want {
        directory,
        waiting: &waiting,
    };
    lease(&want, None, false, Instant::now() + patience, &mut || false)
}

#[test]
fn a_name_that_moves_takes_its_requests_along() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [old, new] = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap());
    let directory = directory(&["moves.invalid:80".parse().unwrap()], 2);
    let missed = take(&directory, Duration::from_millis(20)).unwrap_err();
    assert_eq!(missed, Missed::TimedOut);
    let place = Arc::clone(&directory.state.lock().servers[0].place);
    directory.looked_up(&place, Ok(vec![old]));
    // Who waits for the name gets a connection as soon as there is an address.
    let lease = take(&directory, PATIENCE).unwrap();
    let busy = take(&directory, PATIENCE).unwrap();
    let here = listeners[0].accept().unwrap();
    let also_here = listeners[0].accept().unwrap();
    lease.finish();
    assert_eq!(directory.idle(), 1);
    // A lookup that fails changes nothing, and one that finds the same neither.
    directory.looked_up(&place, Err(io::Error::other("no such name")));
    directory.looked_up(&place, Ok(vec![old]));
    assert_eq!(directory.idle(), 1);
    directory.looked_up(&place, Ok(vec![new]));
    assert_eq!(directory.idle(), 0);
    let lease = take(&directory, PATIENCE).unwrap();
    let there = listeners[1].accept().unwrap();
    drop((lease, busy, here, also_here, there));
    let state = directory.state.lock();
    assert_eq!(state.servers[0].taken, 0);
    assert!(state.waiting.is_empty());
}

#[test]
fn pauses_grow_and_end_with_success() {
    let mut server = Server::new(&"127.0.0.1:80".parse().unwrap(), 1, Instant::now());
    let pause = |server: &Server| match server.health {
        Health::Aside { pause, .. } => Some(pause.as_millis()),
        _ => None,
    };
    let unreachable = || Outcome::Unreachable(io::Error::other("no"));
    assert_eq!(server.judge(&unreachable(), true), Change::Aside);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.extend(pause(&server));
        // Those that were under way before do not count again.
        assert_eq!(server.judge(&unreachable(), true), Change::None);
        let Health::Aside { trial, .. } = &mut server.health else {
            panic!("{:?}", server.health);
        };
        *trial = true;
        assert!(!server.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
        server.judge(&unreachable(), true);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert!(!server.is_open(&mut None));
    assert!(server.is_open(&mut Some(Instant::now() + LONGEST_PAUSE * 2)));
    assert_eq!(server.judge(&Outcome::Good, true), Change::Back);
    assert_eq!(server.health, Health::Up);
    // What may be the request's fault counts if it comes again and again, and others can do it.
    for enough in [false, false, true] {
        assert_eq!(server.judge(&Outcome::Failed, false), Change::None);
        assert_eq!(server.judge(&Outcome::Failed, false), Change::None);
        let third = server.judge(&Outcome::Failed, enough);
        assert_eq!(third == Change::Aside, enough);
    }
}

#[test]
fn what_a_check_finds_counts_only_while_there_are_checks() {
    let directory = directory(&["127.0.0.1:80".parse().unwrap()], 1);
    let set_check = |check: Option<config::Check>| {
        let mut settings = directory.state.lock().settings.clone();
        settings.check = check;
        directory.change(settings);
    };
    let place = Arc::clone(&directory.state.lock().servers[0].place);
    let bad = || directory.checked(&place, Err("not well".to_owned()));
    let is_up = || directory.state.lock().servers[0].health == Health::Up;
    let check = config::Check {
        uri: "/".to_owned(),
        interval: Duration::from_secs(10),
    };
    set_check(Some(check.clone()));
    bad();
    assert!(is_up());
    bad();
    assert!(!is_up());
    // Without checks nobody would find it up again: neither what was found stays, nor what is just being found.
    set_check(None);
    assert!(is_up());
    bad();
    bad();
    assert!(is_up());
    set_check(Some(check));
    directory.checked(&place, Ok(()));
    assert!(is_up());
    assert!(directory.state.lock().servers[0].check.is_some());
}

#[test]
fn a_server_that_comes_back_while_it_is_on_its_way_out_stays() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, other] = [0, 1].map(|n: usize| {
        let address = listeners[n].local_addr().unwrap().to_string();
        address.parse::<Address>().unwrap()
    });
    let directory = directory(std::slice::from_ref(&one), 2);
    let lease = take(&directory, PATIENCE).unwrap();
    for server in [other, one.clone()] {
        let mut settings = directory.state.lock().settings.clone();
        settings.servers = vec![server];
        directory.change(settings);
    }
    lease.finish();
    assert_eq!(directory.idle(), 1);
    let state = directory.state.lock();
    assert_eq!(state.servers.len(), 1);
    assert_eq!(state.servers[0].place.address, one);
}

#[test]
fn what_comes_back_after_the_end_is_closed_with_its_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let directory = directory(&[address], 2);
    let leases = [(); 2].map(|()| take(&directory, PATIENCE).unwrap());
    let mut leases = leases.into_iter();
    leases.next().unwrap().finish();
    // The tick looks at what is idle while the directory is shut.
    let due = directory.state.lock().due(Instant::now() + PATIENCE);
    directory.shut(Close::Draining);
    for (place, kept) in due.rested {
        directory.look_after(&place, kept, Instant::now(), PATIENCE);
    }
    leases.next().unwrap().finish();
    assert_eq!(directory.idle(), 0);
    assert_eq!(directory.stats.backends_closed(Close::Draining), 2);
}

#[test]
fn a_server_may_take_its_time_to_read_a_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let directory = directory(&[address], 1);
    let mut lease = take(&directory, PATIENCE).unwrap();
    let milliseconds = getsockopt(lease.conn(), TcpUserTimeout).unwrap();
    assert_eq!(milliseconds, 30_000);
}

/// So long that only a fault reaches it.
const PATIENCE: Duration = Duration::from_secs(60);
