//! Targets and paths.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::time::Instant;

use swiftiply::config::Symlinks;
use swiftiply::internals::content::root;
use swiftiply::internals::content::root::Root;
use swiftiply::internals::http::head::Method;
use swiftiply::internals::http::target::{Host, Target, decoded};

/// Paths of files: what is accepted is what a simple reader takes for harmless, in one spelling, and it leads to nothing
/// but files below the root.
pub(super) fn path(input: &[u8]) {
    let decoded = decoded(input);
    let parts = || decoded.split(|byte| *byte == b'/');
    for hidden in [false, true] {
        let harmless = decoded.starts_with(b"/")
            && !decoded.contains(&0)
            && !decoded.contains(&b'\\')
            && !parts().any(|part| part == b"." || part == b"..")
            && (hidden || !parts().any(|part| part.starts_with(b".")));
        let normal = root::normal(&decoded, hidden);
        assert_eq!(normal.is_some(), harmless, "{}", decoded.escape_ascii());
        let Some(normal) = normal else { continue };
        let mut expected = vec![b'/'];
        expected.extend(
            parts()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(&b'/'),
        );
        if decoded.ends_with(b"/") && expected.len() > 1 {
            expected.push(b'/');
        }
        assert_eq!(*normal, *expected);
        assert_eq!(root::normal(&normal, hidden).as_deref(), Some(&*normal));
        let inside = Path::new(env!("CARGO_MANIFEST_DIR"));
        let whole = inside.join(OsStr::from_bytes(&normal[1..]));
        let below = whole.strip_prefix(inside).expect("a path below the root");
        assert!(
            below
                .components()
                .all(|part| matches!(part, Component::Normal(_))),
            "{} leaves the directory",
            below.display()
        );
        let root = Root::new(inside, Symlinks::Inside);
        if let Ok(Some((file, _))) = root.open(&normal[1..], Instant::now()) {
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let place = std::fs::read_link(link).expect("where the file is");
            assert!(place.starts_with(inside), "{}", place.display());
        }
    }
}

/// Targets and hosts: what is accepted is what was sent, all of its parts are found in it, it is accepted again, and
/// the path is decoded once.
pub(super) fn target(input: &[u8]) {
    if let Some(host) = Host::parse(input) {
        judge_host(&host, input);
    }
    for method in [Method::Get, Method::Options] {
        let Ok(target) = Target::parse(&method, input) else {
            continue;
        };
        let (text, path) = (target.as_str(), target.path());
        assert!(
            text.starts_with('/') || text == "*" && method == Method::Options,
            "{method:?} has the target {text}"
        );
        assert_eq!(target.is_asterisk(), text == "*");
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        assert!(text.bytes().all(allowed), "{text}");
        match target.query() {
            Some(query) => assert_eq!(text, format!("{path}?{query}")),
            None => assert_eq!(text, path),
        }
        assert!(!path.contains('?'), "a path with a question mark: {path}");
        match target.authority() {
            None => assert_eq!(text.as_bytes(), input),
            Some(host) => {
                judge_host(host, host.as_str().as_bytes());
                let sent = String::from_utf8_lossy(input);
                let (scheme, rest) = sent.split_once("://").expect("a scheme");
                assert!(
                    ["http", "https"].contains(&&*scheme.to_ascii_lowercase()),
                    "accepted the scheme {scheme}"
                );
                let rest = rest.strip_prefix(host.as_str()).expect("the host");
                // An empty path is sent as a slash.
                assert!(
                    rest == text || !rest.starts_with('/') && text[1..] == *rest,
                    "{sent} became {text}"
                );
            }
        }
        let again = Target::parse(&method, text.as_bytes()).expect("accepted again");
        assert_eq!(
            (again.as_str(), again.path(), again.query()),
            (text, path, target.query())
        );
        assert!(again.authority().is_none(), "{text} has an authority");
        judge_decoded(&target, path.as_bytes());
    }
}

fn judge_decoded(target: &Target, path: &[u8]) {
    let decoded = target.decoded_path();
    let mut left = path;
    let mut expected = Vec::new();
    while let Some((first, rest)) = left.split_first() {
        let byte = (*first == b'%')
            .then(|| rest.get(..2))
            .flatten()
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        expected.push(byte.unwrap_or(*first));
        left = if byte.is_some() { &rest[2..] } else { rest };
    }
    assert_eq!(*decoded, *expected);
    // However a path is encoded, it is the same one.
    if !target.is_asterisk() {
        let encoded: String = decoded.iter().map(|byte| format!("%{byte:02X}")).collect();
        let slashed = format!("/{encoded}");
        let again = Target::parse(&Method::Get, slashed.as_bytes()).expect("a path");
        assert_eq!(again.decoded_path()[1..], *decoded);
    }
}

fn judge_host(host: &Host, sent: &[u8]) {
    assert_eq!(host.as_str().as_bytes(), sent);
    let name = host.name();
    assert!(!name.is_empty() && name.is_ascii(), "{name:?}");
    assert!(
        !name.bytes().any(|byte| byte.is_ascii_uppercase()),
        "{name} is not in lower case"
    );
    assert!(
        !name.contains(['/', '@', '?', '#', ' ', '%']),
        "{name} is no host name"
    );
    let text = match host.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let again = Host::parse(text.as_bytes());
    // A name that ends with two dots loses one.
    if !name.ends_with('.') {
        assert!(again.is_some_and(|again| again.is_same(host)), "{text}");
    }
}
