//! The files of `tests/corpus` against the laws: whole, and cut at every offset.
//!
//! A folder has the name of its law. Its files are the seeds of the fuzzer too: what the tables of requests and responses
//! accept and refuse, and what was found. The name of a file begins with what becomes of it, but for `found`.

use std::fs;
use std::path::Path;

use swiftiply::config::{Config, Overrides};
use swiftiply::internals::content::root;
use swiftiply::internals::http::body::Framing;
use swiftiply::internals::http::head::Method;
use swiftiply::internals::http::target::{Host, Target, decoded};
use swiftiply::internals::preamble::{self, PreambleReading};

use crate::laws::{self, LIMITS, Law};

fn replay(name: &str) {
    let law = laws::named(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let mut count = 0;
    for file in fs::read_dir(folder).expect("a folder of inputs") {
        let path = file.expect("a name").path();
        // A law that does not hold panics with its own message; this one adds the input.
        println!("{}", path.display());
        let input = fs::read(&path).expect("an input");
        law.hold(&input);
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        if !file.starts_with("found-") {
            let verdict = verdict(name, &input);
            assert!(file.starts_with(&format!("{verdict}-")), "{verdict} {file}");
        }
        match law {
            Law::Whole(law) => (0..input.len()).for_each(|cut| law(&input[..cut])),
            Law::Pieces(law) => {
                let (message, _) = laws::split(&input);
                (0..=message.len()).for_each(|cut| law(message, &[cut]));
            }
        }
        count += 1;
    }
    assert!(count >= 20, "{name}: {count} files");
}

/// What becomes of an input: `ok`, `incomplete`, `refused` or the status of the refusal.
fn verdict(name: &str, input: &[u8]) -> String {
    let verdict_of = |verdict: Result<bool, ()>| match verdict {
        Ok(true) => "ok".to_owned(),
        Ok(false) => "incomplete".to_owned(),
        Err(()) => "refused".to_owned(),
    };
    match name {
        "request_head" => match laws::heads::read_request(input, &[], &LIMITS) {
            Err(refusal) => refusal.status.to_string(),
            Ok(head) => verdict_of(Ok(head.is_some())),
        },
        "response_head" => {
            let read = laws::heads::read_response(input, &[], &LIMITS);
            verdict_of(read.map(|head| head.is_some()).map_err(drop))
        }
        "chunked" => {
            let decoded = laws::chunks::decode(Framing::Chunked, input, &[]);
            verdict_of(decoded.verdict.map(|end| end.is_some()).map_err(drop))
        }
        "preamble" => {
            let keys = [
                "",
                "key",
                "secret",
                "keykeykeyk",
                "0123456789abcdef",
                &"0".repeat(17),
                &"k".repeat(255),
            ];
            let keys = keys.map(|key| key.as_bytes().into());
            verdict_of(match preamble::read(input, &keys) {
                PreambleReading::Complete(_) => Ok(true),
                PreambleReading::Partial => Ok(false),
                PreambleReading::Refused(_) => Err(()),
            })
        }
        "target" => {
            let target = Target::parse(&Method::Options, input).is_ok();
            verdict_of(if target || Host::parse(input).is_some() {
                Ok(true)
            } else {
                Err(())
            })
        }
        "path" => {
            let path = root::normal(&decoded(input), false).is_some();
            verdict_of(if path { Ok(true) } else { Err(()) })
        }
        "config" => {
            let text = String::from_utf8_lossy(input);
            let read = Config::from_yaml(&text, Path::new("s.yml"), &Overrides::default());
            verdict_of(read.map(|_| true).map_err(drop))
        }
        _ => panic!("no verdict on {name}"),
    }
}

#[test]
fn request_heads() {
    replay("request_head");
}

#[test]
fn response_heads() {
    replay("response_head");
}

#[test]
fn chunked_bodies() {
    replay("chunked");
}

#[test]
fn preambles() {
    replay("preamble");
}

#[test]
fn targets() {
    replay("target");
}

#[test]
fn paths() {
    replay("path");
}

#[test]
fn configurations() {
    replay("config");
}
