use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;

use super::health::{Change, Health, LONGEST_PAUSE, Outcome};
use super::*;
use crate::backend::lease::Missed;

fn directory(servers: &[Address], seats: usize) -> Arc<Directory> {
    let settings = Settings {
        servers: servers.to_vec(),
        seats,
        connect: Duration::from_secs(10),
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
    lease(&want, false, Instant::now() + patience, &mut || false)
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
    let lease = take(&directory, Duration::from_secs(10)).unwrap();
    let busy = take(&directory, Duration::from_secs(10)).unwrap();
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
    let lease = take(&directory, Duration::from_secs(10)).unwrap();
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
    assert!(matches!(server.judge(&unreachable(), true), Change::Aside));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pauses.extend(pause(&server));
        // Those that were under way before do not count again.
        assert!(matches!(server.judge(&unreachable(), true), Change::None));
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
    assert!(matches!(server.judge(&Outcome::Good, true), Change::Back));
    assert_eq!(server.health, Health::Up);
    // What may be the request's fault counts if it comes again and again, and others can do it.
    for enough in [false, false, true] {
        assert!(matches!(
            server.judge(&Outcome::Failed, false),
            Change::None
        ));
        assert!(matches!(
            server.judge(&Outcome::Failed, false),
            Change::None
        ));
        let third = server.judge(&Outcome::Failed, enough);
        assert_eq!(matches!(third, Change::Aside), enough);
    }
}
