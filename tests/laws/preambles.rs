//! Preambles of backends.

use swiftiply::internals::preamble;
use swiftiply::internals::preamble::{Preamble, PreambleError, PreambleReading};

/// Preambles: what is complete stays so and has a key that is known, what is refused or not complete does not depend on
/// where the bytes were cut, and what is written is read.
pub(super) fn preamble(input: &[u8]) {
    let bytes = &input[..input.len().min(preamble::LONGEST)];
    for keys in [
        &[""][..],
        &["key"],
        &["", "0", "secret"],
        // Lengths whose digits are taken for others: 2110 is 21, 11 and 10.
        &[
            "aaaaaaaaaaaaaaaa",
            "0aaaaaaaaaaaaaaaa",
            "10aaaaaaaaaaaaaaaabbbbbbbbbbbbbbb",
        ],
    ] {
        let keys: Vec<Box<[u8]>> = keys.iter().map(|key| key.as_bytes().into()).collect();
        judge_preamble(bytes, &keys);
    }
    if let Some((id, key)) = bytes.split_at_checked(preamble::ID) {
        let id: &[u8; preamble::ID] = id.try_into().expect("as many bytes as an id has");
        let Ok(written) = preamble::write(id, key) else {
            assert!(key.len() > 255, "a key of {} bytes was refused", key.len());
            return;
        };
        let keys = [key.into()];
        for end in 0..written.len() {
            let reading = preamble::read(&written[..end], &keys);
            assert_eq!(reading, PreambleReading::Partial, "{end} bytes");
        }
        match preamble::read(&written, &keys) {
            PreambleReading::Complete(preamble) => {
                assert_eq!(preamble.id.as_bytes(), id);
                assert_eq!((&*preamble.key, preamble.length), (key, written.len()));
            }
            reading => panic!("{reading:?}"),
        }
    }
}

fn judge_preamble(bytes: &[u8], keys: &[Box<[u8]>]) {
    const START: usize = preamble::PREFIX.len() + preamble::ID;
    let mut complete: Option<Preamble> = None;
    // After how many bytes there was a first result.
    let mut told_at = None;
    for end in 0..=bytes.len() {
        let seen = &bytes[..end];
        let reading = preamble::read(seen, keys);
        let begins = preamble::PREFIX.starts_with(&seen[..end.min(preamble::PREFIX.len())]);
        assert_eq!(
            reading == PreambleReading::Refused(PreambleError::Prefix),
            !begins
        );
        if reading != PreambleReading::Partial {
            told_at = told_at.or(Some(end));
        }
        match reading {
            PreambleReading::Partial => assert!(complete.is_none(), "complete, and then not"),
            PreambleReading::Complete(found) => {
                let id = found.id.as_bytes();
                assert!(
                    found.length <= end && keys.contains(&found.key),
                    "accepted {} bytes of {end}, with key {:?}",
                    found.length,
                    found.key
                );
                let told = seen[preamble::PREFIX.len() + id.len()..found.length].to_vec();
                let digits = format!("{:02x}", found.key.len()).into_bytes();
                let again = [&digits, &*found.key].concat();
                assert!(
                    told.eq_ignore_ascii_case(&again) && told.ends_with(&found.key),
                    "{told:?} was read as length and key {again:?}"
                );
                assert!(
                    seen[preamble::PREFIX.len()..].starts_with(id),
                    "{id:?} is not the id in {seen:?}"
                );
                if id.len() > preamble::ID {
                    // A longer id explains all there is.
                    assert_eq!(found.length, end);
                } else {
                    if let Some(first) = &complete {
                        assert_eq!(found, *first);
                    }
                    assert!(
                        told_at.is_some_and(|at| at >= found.length),
                        "refused before all bytes of the key had arrived"
                    );
                    complete = Some(found);
                }
            }
            // A key is not refused before all of its bytes have arrived.
            PreambleReading::Refused(PreambleError::Key) => {
                assert!(complete.is_none(), "complete, and then refused");
                let digits = str::from_utf8(&seen[START..START + 2]).expect("two digits");
                let length = usize::from_str_radix(digits, 16).expect("two digits");
                assert!(
                    end >= START + 2 + length,
                    "a key of {length} bytes was refused after {end} bytes"
                );
            }
            PreambleReading::Refused(PreambleError::Length) => {
                assert!(complete.is_none(), "complete, and then refused");
                let digits = &seen[START..START + 2];
                assert!(
                    !digits.iter().all(u8::is_ascii_hexdigit),
                    "the length {digits:?} was refused"
                );
            }
            // What came behind a preamble may make it ambiguous.
            PreambleReading::Refused(PreambleError::Prefix | PreambleError::Ambiguous) => {}
        }
    }
}
