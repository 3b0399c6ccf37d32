//! Requests that applications read slowly.

use super::*;
use crate::common::{Way, bytes};

/// More than the buffers between the proxy and an application that does not read.
const SIZE: usize = 8 << 20;

/// The body of one client.
fn body(number: u8) -> Vec<u8> {
    let mut body = bytes(SIZE);
    body[0] = number;
    body[SIZE - 1] = number;
    body
}

fn stopped(way: Way, buffering: bool) {
    let keys = format!(", request_buffering: {buffering}");
    let mut setup = Setup::start_with(way, 10, &keys, "workers: 2");
    let address = setup.proxy.address();
    let visitors: Vec<_> = (0..10)
        .map(|n| {
            let upload = move || {
                let mut visitor = visit(address);
                visitor.send_post(&format!("/{n}"), body(n)).answer()
            };
            thread::spawn(upload)
        })
        .collect();
    let stuck = setup.asked(10);
    expect_others(&setup);
    let readers: Vec<_> = stuck
        .into_iter()
        .map(|mut backend| {
            thread::spawn(move || {
                let seen = backend.request();
                let number: u8 = seen.target()[1..].parse().unwrap();
                let whole = seen.body == body(number);
                backend.reply(format!("{number} {whole}"));
                backend
            })
        })
        .collect();
    for (n, visitor) in visitors.into_iter().enumerate() {
        let answer = visitor.join().unwrap();
        let text = answer.text();
        assert_eq!(
            text,
            format!("{n} true"),
            "{way:?}, {buffering}: {answer:?}"
        );
    }
    let backends = readers.into_iter().map(|reader| reader.join().unwrap());
    drop(backends.collect::<Vec<_>>());
    setup.finish();
}

#[test]
fn dial_in_buffered() {
    stopped(Way::DialIn, true);
}

#[test]
fn dial_in_unbuffered() {
    stopped(Way::DialIn, false);
}

#[test]
fn traditional_buffered() {
    stopped(Way::Traditional, true);
}

#[test]
fn traditional_unbuffered() {
    stopped(Way::Traditional, false);
}
