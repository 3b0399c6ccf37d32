//! Many bytes, and many tunnels.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{ASK, BLOCK, SWITCH, assert_open, noise, tunnel};
use crate::common::{Backend, Echo, PATIENCE, Proxy, crowd, needs, wait_until};

/// Sends so many blocks of noise.
fn send_noise(mut stream: &TcpStream, seed: u64, blocks: usize) {
    let mut block = vec![0; BLOCK];
    for number in 0..blocks {
        noise(seed, (number * BLOCK / 8) as u64, &mut block);
        stream.write_all(&block).unwrap();
    }
}

/// Reads so many blocks of noise and compares them.
fn read_noise(mut stream: &TcpStream, seed: u64, blocks: usize) {
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    for number in 0..blocks {
        noise(seed, (number * BLOCK / 8) as u64, &mut expected);
        stream.read_exact(&mut block).unwrap();
        assert!(block == expected, "block {number}");
    }
}

/// A client that has been switched, as a socket, and its backend.
fn sockets(proxy: &Proxy) -> (TcpStream, Backend) {
    let mut visitor = TcpStream::connect(proxy.address()).unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut backend = Backend::dial(proxy.dial_in());
    visitor.write_all(ASK.as_bytes()).unwrap();
    backend.request();
    backend.send(SWITCH);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        visitor.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    (visitor, backend)
}

#[test]
fn backpressure() {
    let proxy = Proxy::simple();
    let before = proxy.resident();
    // 64 MB, more than the system's buffers take by far.
    let blocks = 1024;
    for to_visitor in [true, false] {
        let (visitor, backend) = sockets(&proxy);
        let (reader, writer) = match to_visitor {
            true => (&visitor, backend.socket()),
            false => (backend.socket(), &visitor),
        };
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut block = vec![0; BLOCK];
                for number in 0..blocks {
                    noise(7, (number * BLOCK / 8) as u64, &mut block);
                    let mut writer = writer;
                    writer.write_all(&block).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            // The sender stalls, so the proxy has not buffered everything.
            let mut last = usize::MAX;
            wait_until("a stalled tunnel", || {
                thread::sleep(Duration::from_millis(100));
                let now = sent.load(Ordering::SeqCst);
                std::mem::replace(&mut last, now) == now
            });
            assert!(last < blocks, "nothing held it up");
            let grown = proxy.resident().saturating_sub(before);
            assert!(grown < 16 << 20, "{grown} bytes more");
            read_noise(reader, 7, blocks);
            let mut reader = reader;
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        });
    }
    proxy.finish();
}

#[test]
fn fairness() {
    needs!("openssl");
    let proxy = Proxy::both();
    let mut others: Vec<_> = (0..20)
        .map(|number| {
            let mut visitor = proxy.visit_as(number % 2 == 0);
            let backend = tunnel(&proxy, &mut visitor);
            (visitor, backend)
        })
        .collect();
    // Both ways without an end, until the others have had their turns.
    let (visitor, backend) = sockets(&proxy);
    let enough = AtomicBool::new(false);
    let carried = thread::scope(|scope| {
        let run = |seed: u64, from, to| {
            let enough = &enough;
            scope.spawn(move || {
                let mut from: &TcpStream = from;
                let mut block = vec![0; BLOCK];
                for number in 0u64.. {
                    // One block at least, however quick the others were.
                    if number > 0 && enough.load(Ordering::SeqCst) {
                        from.shutdown(Shutdown::Write).unwrap();
                        return;
                    }
                    noise(seed, number * (BLOCK / 8) as u64, &mut block);
                    from.write_all(&block).unwrap();
                }
            });
            scope.spawn(move || {
                let mut to: &TcpStream = to;
                let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
                for number in 0u64.. {
                    match to.read(&mut block[..1]).unwrap() {
                        0 => return number as usize * BLOCK,
                        _ => to.read_exact(&mut block[1..]).unwrap(),
                    }
                    noise(seed, number * (BLOCK / 8) as u64, &mut expected);
                    assert!(block == expected, "block {number}");
                }
                0
            })
        };
        let back = run(1, backend.socket(), &visitor);
        let there = run(2, &visitor, backend.socket());
        for _ in 0..20 {
            for (visitor, backend) in &mut others {
                assert_open(visitor, backend);
            }
        }
        enough.store(true, Ordering::SeqCst);
        (there.join().unwrap(), back.join().unwrap())
    });
    eprintln!("beside 400 round trips: {carried:?} bytes");
    assert!(
        carried.0 > 0 && carried.1 > 0,
        "nothing was carried in one direction: {carried:?}"
    );
    drop(others);
    proxy.finish();
}

#[test]
fn intact() {
    needs!("openssl");
    let proxy = Proxy::both();
    let blocks = 512;
    let (visitor, backend) = sockets(&proxy);
    thread::scope(|scope| {
        scope.spawn(|| send_noise(&visitor, 1, blocks));
        scope.spawn(|| read_noise(&visitor, 2, blocks));
        scope.spawn(|| send_noise(backend.socket(), 2, blocks));
        read_noise(backend.socket(), 1, blocks);
    });
    drop((visitor, backend));
    let mut visitor = proxy.visit_secure();
    let backend = tunnel(&proxy, &mut visitor);
    let mut block = vec![0; BLOCK];
    thread::scope(|scope| {
        scope.spawn(|| read_noise(backend.socket(), 1, blocks));
        for number in 0..blocks {
            noise(1, (number * BLOCK / 8) as u64, &mut block);
            visitor.try_send(&block).unwrap();
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            send_noise(backend.socket(), 2, blocks);
            backend.finish();
        });
        for number in 0..blocks {
            noise(2, (number * BLOCK / 8) as u64, &mut block);
            assert!(visitor.take(BLOCK) == block, "block {number}");
        }
        visitor.assert_closed();
    });
    drop((visitor, backend));
    proxy.finish();
}

#[test]
fn idle_tunnels_hold_no_worker() {
    needs!("openssl");
    let proxy = Proxy::both_with("workers: 4");
    let mut tunnels: Vec<_> = (0..200)
        .map(|number| {
            let mut visitor = proxy.visit_as(number % 4 == 0);
            let backend = tunnel(&proxy, &mut visitor);
            (visitor, backend)
        })
        .collect();
    let echo = Echo::dial(proxy.dial_in(), "00000000000e", "");
    crowd(proxy.address(), 4, 250);
    assert_eq!(echo.answered(), 1000);
    for (visitor, backend) in &mut tunnels {
        assert_open(visitor, backend);
    }
    drop((tunnels, echo));
    proxy.finish();
}
