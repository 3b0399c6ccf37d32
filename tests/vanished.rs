//! A machine that vanishes: it sends neither an end nor a reset, and refuses nothing that is sent to it. Simulated with
//! two network namespaces and a link between them, which needs root.

use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use swiftiply::config::{Address, Order};
use swiftiply::internals::backend::dial_in::{DialIn, DialInControl, DialInSettings, DialInTerms};
use swiftiply::internals::backend::pool::{self, Pool, PoolAcquired, PoolLease};
use swiftiply::internals::backend::waiting::WaitingCount;
use swiftiply::internals::budget::Budget;
use swiftiply::internals::net::conn::Conn;
use swiftiply::internals::net::listener::{Listener, LocalAddress};
use swiftiply::stats::{Close, Stats};

use crate::common::{Backend, PATIENCE, needs, wait_until};

/// A dial-in address of the library.
struct DialledIn {
    address: SocketAddr,
    pool: Arc<Pool>,
    stats: Arc<Stats>,
    control: Arc<DialInControl>,
    thread: JoinHandle<()>,
}

impl DialledIn {
    /// Listens on any port of an address.
    fn start(ip: &str) -> Self {
        let address: Address = format!("{ip}:0").parse().unwrap();
        let listener = Arc::new(Listener::bind(&address).unwrap().remove(0));
        let LocalAddress::Tcp(local) = *listener.local() else {
            panic!("not a TCP address");
        };
        let stats = Arc::new(Stats::new());
        let pool = Arc::new(Pool::new(
            address.to_string(),
            Arc::clone(&stats),
            &Arc::default(),
        ));
        pool.set_keys(keys());
        let terms = DialInTerms {
            preamble: PATIENCE,
            tls: None,
        };
        let settings = DialInSettings::new(100, terms, &Arc::new(Budget::new(100)));
        let dial_in = DialIn::new(Arc::clone(&stats)).unwrap();
        let control = dial_in.control();
        control.limit_newcomers(100);
        let prepared = control.prepare(listener, Arc::clone(&pool), Arc::new(settings));
        control.begin(prepared.unwrap());
        Self {
            address: local,
            pool,
            stats,
            control,
            thread: thread::spawn(move || dial_in.run()),
        }
    }

    /// The backend that is idle, or will be.
    fn lease(&self) -> PoolLease {
        let waiting = Arc::new(WaitingCount::new(Arc::new(AtomicUsize::new(0))));
        let selector = pool::PoolSelector {
            pools: &[Arc::clone(&self.pool)],
            keys: &keys(),
            id: None,
            order: Order::Newest,
            waiting: &waiting,
        };
        let mut lease = None;
        wait_until("an idle backend", || {
            // The limit is zero, so the request is not queued.
            let acquired = pool::acquire(&selector, &mut None, Instant::now());
            lease = match acquired {
                Ok(PoolAcquired::Ready(lease)) => Some(lease),
                _ => None,
            };
            lease.is_some()
        });
        lease.unwrap()
    }

    fn finish(self) {
        self.control.stop();
        self.thread.join().unwrap();
    }
}

fn keys() -> Arc<[Box<[u8]>]> {
    Arc::new([Box::default()])
}

/// A network of its own, as long as this lives.
struct Network(File);

impl Network {
    fn new() -> Self {
        // A network belongs to a thread.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
            Self(File::open("/proc/thread-self/ns/net").unwrap())
        });
        made.join().unwrap()
    }

    /// Does something there.
    fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let there = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        };
        thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    /// Runs `ip(8)` there.
    fn ip(&self, words: &str) {
        let run = || Command::new("ip").args(words.split(' ')).output();
        let run = self.enter(run).expect("ip");
        assert!(run.status.success(), "ip {words}: {run:?}");
    }

    /// Its name for `ip(8)`.
    fn name(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Has the system find out in seconds what it would find out in a minute.
fn hurry(conn: &Conn) {
    setsockopt(conn, sockopt::TcpKeepIdle, &1).unwrap();
    setsockopt(conn, sockopt::TcpKeepInterval, &1).unwrap();
    conn.stream().give_up_after(Duration::from_secs(1));
}

#[test]
fn machine_vanishes() {
    needs!(needs::ROOT, "ip");
    let [here, there] = [(); 2].map(|()| Network::new());
    let name = there.name();
    here.ip(&format!(
        "link add wire type veth peer name wire netns {name}"
    ));
    here.ip("address add 192.0.2.1/24 dev wire");
    there.ip("address add 192.0.2.2/24 dev wire");
    here.ip("link set wire up");
    there.ip("link set wire up");
    let dialled_in = here.enter(|| DialledIn::start("192.0.2.1"));
    let dial = || there.enter(|| Backend::dial(dialled_in.address));
    // One that is idle, and one with a request.
    let backends = [dial(), dial()];
    let mut idle = dialled_in.lease();
    let mut asked = dialled_in.lease();
    hurry(idle.conn());
    hurry(asked.conn());
    idle.finish();
    there.ip("address flush dev wire");
    let conn = asked.conn();
    let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    conn.write_both(request, &[], PATIENCE).unwrap();
    conn.set_read_timeout(PATIENCE).unwrap();
    // No deadline of ours is over: the connection is broken, so that the request may go to another backend.
    let error = conn.read(&mut [0; 100]).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
    wait_until("the end of the idle backend", || {
        dialled_in.pool.idle() == 0
    });
    wait_until("the count of the closed backend", || {
        dialled_in.stats.backends_closed(Close::PeerClosed) == 1
    });
    drop((asked, backends));
    dialled_in.finish();
}
